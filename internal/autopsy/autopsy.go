// Package autopsy looks at an image before a container of it starts, and says what will go wrong: no such program, a
// program for another processor, a script with Windows line ends. The kernel reports most of these alike; only the bytes
// tell them apart.
//
// An image is hostile input. Everything that is read is bounded, symbolic links are followed within the root only, and
// nothing but regular files and directories is ever opened.
package autopsy

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trysail/trysail"
)

// Root is the file system of an image: Layers, an os.Root's FS, or a fstest.MapFS. Names are without leading slash and
// contain no symbolic link but as last element, which Lstat and ReadLink do not follow.
type Root = fs.ReadLinkFS

// Container is what is to be started: the image's configuration with what the deployment says put over it.
type Container struct {
	Entrypoint []string
	Command    []string // the deployment's, or else the image's
	Path       string   // the variable PATH; empty if it is not set
	User       string   // user[:group] of the image; empty for root
	WorkingDir string   // empty for /
	Exposed    []string // "80/tcp"
	Ports      []int    // that the deployment opens
}

// ContainerOf is what would be started: the image's configuration with what the deployment says put over it, as CRI does it.
func ContainerOf(config ocispec.Image, spec trysail.ContainerSpec, ports []int) Container {
	c := Container{
		Entrypoint: config.Config.Entrypoint, Command: config.Config.Cmd, User: config.Config.User, WorkingDir: config.Config.WorkingDir, Ports: ports,
	}
	if len(spec.Command) > 0 {
		c.Command = spec.Command
	}
	for port := range config.Config.ExposedPorts {
		c.Exposed = append(c.Exposed, port)
	}
	for _, v := range config.Config.Env {
		if path, ok := strings.CutPrefix(v, "PATH="); ok {
			c.Path = path
		}
	}
	if path, ok := spec.Environment["PATH"]; ok {
		c.Path = path
	}
	return c
}

// Machine is what the container is to run on.
type Machine struct {
	Architecture string // GOARCH
	// Emulated are further architectures (GOARCH) that it runs, by emulators: see Emulated.
	Emulated []string
	// OtherFormats is true if the kernel was told about further formats of programs (Java archives, Windows programs);
	// then a file that is none of Linux's is no certain failure.
	OtherFormats bool
	// FirstUserPort is the lowest port that a user other than root may open in a pod; 0 if any.
	FirstUserPort int
}

// defaultPath is the PATH of a container that sets none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Examine looks at a container. It takes milliseconds and does not fail: what could not be seen is named in
// Autopsy.Incomplete. Findings that are Certain mean that no start of the container can work.
func Examine(root Root, c Container, m Machine) (a trysail.Autopsy) {
	began := time.Now()
	x := &examiner{tree: tree{fs: root}, c: c, m: m, a: &a}
	a.User, a.WorkingDir, a.Exposed = clean(c.User), clean(c.WorkingDir), cleanAll(c.Exposed)
	x.workingDir()
	x.account()
	x.command()
	x.lowPort()
	if x.err != nil {
		a.Incomplete = clean(x.err.Error())
	}
	a.Took = time.Since(began)
	return a
}

// examiner goes through one container.
type examiner struct {
	tree
	c  Container
	m  Machine
	a  *trysail.Autopsy
	id identity // who runs it
}

// found adds a finding.
func (x *examiner) found(code trysail.DiagnosisCode, how trysail.Confidence, summary, fix string, evidence ...string) {
	f := trysail.Finding{Code: code, Confidence: how, Summary: summary, Fix: fix}
	for _, text := range evidence {
		f.Evidence = append(f.Evidence, trysail.Evidence{Kind: "image", Text: text})
	}
	x.a.Findings = append(x.a.Findings, f)
}

// workingDir checks that the container can begin in its directory. One that is absent is made by the runtime.
func (x *examiner) workingDir() {
	dir := x.c.WorkingDir
	if dir == "" || dir == "/" {
		return
	}
	info, at, err := x.stat(dir)
	switch {
	case errors.Is(err, errNotDirectory), err == nil && !info.IsDir():
		x.found("RUN-WORKDIR", trysail.Certain, fmt.Sprintf("WORKDIR %s is not a directory.", mark(dir)),
			"Set WORKDIR in the Dockerfile to a directory.", fmt.Sprintf("%s is a file", mark(cmpOr(at, dir))))
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		x.note(err)
	}
}

// command finds the program that the container starts with.
func (x *examiner) command() {
	args := slices.Concat(x.c.Entrypoint, x.c.Command)
	if len(args) == 0 {
		x.found("RUN-NOCMD", trysail.Certain, "The image has no default command, and the deployment gives none.",
			`Set "command" of the container, such as ["/app"].`, "the image's ENTRYPOINT and CMD are empty")
		return
	}
	x.a.Shell = isShellLine(args)
	file, ok := x.lookUp(args[0])
	if !ok {
		return
	}
	x.a.Program = clean(file)
	x.systemd(file)
	x.program(file, args)
}

// lookUp finds the file of the first word as the runtime does.
func (x *examiner) lookUp(word string) (file string, ok bool) {
	if strings.Contains(word, "/") {
		file = word
		if !path.IsAbs(file) {
			file = path.Join("/", x.c.WorkingDir, file)
		}
		if isRuntimes(file) {
			x.note(fmt.Errorf("%s is not part of the image", file))
			return "", false
		}
		return file, x.canRun(file, word)
	}
	plain := "" // a file of that name that is not executable
	for dir := range strings.SplitSeq(cmpOr(x.c.Path, defaultPath), ":") {
		if !path.IsAbs(dir) {
			dir = path.Join("/", x.c.WorkingDir, dir)
		}
		file := path.Join(dir, word)
		info, _, err := x.stat(file)
		switch {
		case err != nil || info.IsDir() || word == "":
			x.note(err)
		case info.Mode()&0o111 != 0:
			return file, x.canRun(file, word)
		case plain == "":
			plain = file
		}
	}
	if x.err != nil {
		return "", false // not everything could be seen, so nothing is certain
	}
	if plain != "" {
		x.notExecutable(plain)
		return "", false
	}
	x.absent(word, word)
	return "", false
}

// canRun checks that the file is there and may be run.
func (x *examiner) canRun(file, word string) bool {
	info, _, err := x.stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDirectory):
		x.absent(file, word)
		return false
	case err != nil:
		x.note(err)
		return false
	case info.IsDir():
		x.directory(file)
		return false
	case !info.Mode().IsRegular():
		x.found("RUN-PERM", trysail.Certain, fmt.Sprintf("%s is not a file.", mark(file)), "Give the path of a program.", "it is a "+kindOf(info))
		return false
	case info.Mode()&0o111 == 0:
		x.notExecutable(file)
		return false
	}
	x.mayRun(file, info)
	return true
}

// absent is about a command that is not in the image.
func (x *examiner) absent(file, word string) {
	if strings.ContainsAny(word, " \t\n") {
		x.found("RUN-ONEWORD", trysail.Certain, fmt.Sprintf("The command is a list of words, and %s was given as one word.", mark(word)),
			"Write it as a list: "+asList(word), mark(word)+" is not in the image")
		return
	}
	if word == "" {
		x.found("RUN-NOFILE", trysail.Certain, "The first word of the command is empty.", `Correct "command", or ENTRYPOINT and CMD in the Dockerfile.`)
		return
	}
	similar := x.similar(file)
	fix := `Correct "command", or ENTRYPOINT and CMD in the Dockerfile.`
	evidence := []string{mark(file) + " is not in the image"}
	if len(similar) > 0 {
		fix = fmt.Sprintf("Did you mean %s? Correct \"command\", or ENTRYPOINT and CMD in the Dockerfile.", mark(similar[0]))
		evidence = append(evidence, "similar: "+strings.Join(similar, ", "))
	}
	x.found("RUN-NOFILE", trysail.Certain, mark(file)+" is not in the image.", fix, evidence...)
}

func (x *examiner) directory(dir string) {
	fix := `Name a program in "command", ENTRYPOINT or CMD.`
	if inside := x.programsIn(dir, 5); len(inside) > 0 {
		fix = "Name a program in it: " + strings.Join(inside, ", ") + "."
	}
	x.found("RUN-NOFILE", trysail.Certain, fmt.Sprintf("%s is a directory, not a program.", mark(dir)), fix, mark(dir)+" is a directory")
}

func (x *examiner) notExecutable(file string) {
	info, _, err := x.stat(file)
	mode := fs.FileMode(0)
	if err == nil {
		mode = info.Mode().Perm()
	}
	x.found("RUN-PERM", trysail.Certain, mark(file)+" is not executable.", fmt.Sprintf("Add to the Dockerfile: RUN chmod +x %s", clean(file)),
		fmt.Sprintf("its mode is %04o", mode))
}

// lowPort is about ports that only root may open.
func (x *examiner) lowPort() {
	if x.id.uid == 0 || !x.id.known {
		return
	}
	for _, port := range x.c.Ports {
		if port < x.m.FirstUserPort {
			x.found("NET-LOWPORT", trysail.Likely, fmt.Sprintf("The image runs as user %s, who may not open port %d.", mark(x.c.User), port),
				"Listen on a port above 1023, such as 8080, and open that in `ports` and `publicEndpoint`.",
				fmt.Sprintf("ports below %d need root", x.m.FirstUserPort))
			return
		}
	}
}

// systemd recognizes images that expect to be a whole machine.
func (x *examiner) systemd(file string) {
	_, at, err := x.stat(file)
	if err != nil {
		return
	}
	if base := path.Base(at); base == "systemd" || base == "upstart" {
		x.found("RUN-SYSTEMD", trysail.Likely, "The image expects to be a whole machine: it starts "+mark(base)+".",
			`Run the program itself: set "command" to what the service unit's ExecStart says.`, mark(file)+" is "+mark(at))
	}
}

// isRuntimes reports whether a path is the runtime's and not the image's.
func isRuntimes(file string) bool {
	file = path.Clean(file)
	for _, dir := range []string{"/proc", "/dev", "/sys"} {
		if file == dir || strings.HasPrefix(file, dir+"/") {
			return true
		}
	}
	return false
}

// isShellLine reports whether the first process will be a shell that stays between the runtime and the program.
func isShellLine(args []string) bool {
	if len(args) < 3 || args[1] != "-c" {
		return false
	}
	switch path.Base(args[0]) {
	case "sh", "bash", "ash", "dash":
	default:
		return false
	}
	line := strings.TrimSpace(args[2])
	// A shell that is given one command becomes it; with more it waits, and passes no signal on.
	return strings.ContainsAny(line, ";&|\n") && !strings.Contains(line, "exec ")
}

func asList(word string) string {
	return fmt.Sprintf(`["%s"], or ["sh", "-c", %q].`, strings.Join(strings.Fields(clean(word)), `", "`), clean(word))
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
