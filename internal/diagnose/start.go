package diagnose

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/trysail/trysail"
)

// startErrors are the runtime's refusals to start a container's first process.
var startErrors = []struct {
	text string // in the runtime's message
	code trysail.DiagnosisCode
}{
	{"unable to find user", "RUN-USER"},
	{"unable to find group", "RUN-USER"},
	{"no matching entries in passwd", "RUN-USER"},
	{"lstat etc: file does not exist", "RUN-USER"},
	{"no users found", "RUN-USER"},
	{"mkdir ", "RUN-WORKDIR"},
	{"chdir to cwd", "RUN-WORKDIR"},
	{"is a directory", "RUN-NOFILE"},
	{"permission denied", "RUN-PERM"},
	{"executable file not found in $PATH", "RUN-NOFILE"},
	{"no such file or directory", "RUN-NOFILE"},
	{"no command specified", "RUN-NOCMD"},
	{"exec format error", "IMG-BIN-ARCH"},
}

// execName finds what the runtime tried to run: exec: "/nope": stat /nope: …
var execName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`exec: "((?:[^"\\]|\\.)*)"`) })

// startFailure explains why the runtime could not start a container.
func (p podCase) startFailure(s trysail.ContainerStatus) finding {
	f := p.startCause(s)
	// What an image says of itself counts if the runtime's words are about starting the program at all.
	if !p.Version.Autopsies[s.Name].Presumed || f.code != "RUN-RUNTIME" {
		if seen, ok := p.autopsyOf(s.Name, func(x trysail.Finding) bool { return x.Confidence == trysail.Certain }); ok {
			f = seen
		}
	}
	f.container, f.rank = s.Name, rankRuntime
	f.prove("runtime", "%s", p.show(s.StartError))
	return f
}

func (p podCase) startCause(s trysail.ContainerStatus) finding {
	f := finding{confidence: trysail.Certain}
	named := execName().FindStringSubmatch(s.StartError)
	command := s.Name
	if named != nil {
		command = named[1]
	}
	for _, e := range startErrors {
		if !strings.Contains(s.StartError, e.text) || e.code == "RUN-WORKDIR" && (!strings.Contains(s.StartError, "not a directory") && !strings.Contains(s.StartError, "chdir")) {
			continue
		}
		if named == nil && (e.code == "RUN-NOFILE" || e.code == "RUN-PERM") {
			continue // some file of the runtime's own
		}
		f.code = e.code
		break
	}
	at := p.mark(command)
	switch f.code {
	case "RUN-USER":
		f.summary, f.fix = "The image's USER is not in its /etc/passwd.", "Create the user in the Dockerfile, or use a numeric USER."
	case "RUN-WORKDIR":
		f.summary, f.fix = "The image's WORKDIR is not a directory, or its user may not enter it.", "Correct WORKDIR in the Dockerfile."
	case "RUN-PERM":
		f.summary, f.fix = at+" is not executable.", "RUN chmod +x "+p.show(command)+" in the Dockerfile."
	case "RUN-NOFILE":
		if strings.ContainsAny(command, " \t") {
			f.code = "RUN-ONEWORD"
			word := p.show(command)
			f.summary = fmt.Sprintf("`command` is a list of words, and %q was given as one word.", word)
			f.fix = fmt.Sprintf("Write it as a list: [\"%s\"], or [\"sh\", \"-c\", %q].", strings.Join(strings.Fields(word), `", "`), word)
			break
		}
		f.summary, f.fix = at+" is not in the image.", "Correct `command`, or the image's ENTRYPOINT."
		if strings.Contains(s.StartError, "is a directory") {
			f.summary = at + " is a directory, not a program."
		}
	case "RUN-NOCMD":
		f.summary, f.fix = "The image has no default command, and the deployment gives none.", "Set `command` of the container."
	case "IMG-BIN-ARCH":
		f.summary = at + " is not a program for this machine's processor, or a script without a `#!` line."
		f.fix = "Build the image for this machine: docker buildx build --platform linux/amd64 (or linux/arm64)."
	default:
		f.code = "RUN-RUNTIME"
		f.summary, f.fix = "The container runtime could not start the container.", "Its message is below; run `trysail doctor` on the machine."
	}
	return f
}

// runtimeFailure is about a pod that the engine could not start at all.
func (p podCase) runtimeFailure() finding {
	f := finding{
		code: "RUN-RUNTIME", confidence: trysail.Certain, rank: rankRuntime,
		summary: "Not your app: this machine's container runtime refused to start it.", fix: "Run `trysail doctor` on the machine.",
	}
	text := p.e.StartError
	switch {
	case strings.HasPrefix(text, trysail.StartNoRoom):
		f.code, f.summary = "CAP-NOFIT", fmt.Sprintf("No node of the cluster has room for a pod of power %s.", p.Power)
		f.fix = "Choose a smaller power or scale, stop other services, or add a node."
		if strings.Contains(text, "exceeded quota") {
			f.summary, f.fix = "The quota of the cluster's namespace leaves no room for another pod.", "Choose a smaller power or scale, stop other services, or raise the ResourceQuota."
		}
		if p.Previous != nil {
			f.summary += fmt.Sprintf(" Version %d keeps serving.", p.Previous.Version)
		}
		f.prove("record", "%s", p.show(text))
		return f
	case strings.HasPrefix(text, trysail.StartNoImage):
		f.code, f.confidence = nodePull(text), trysail.Likely
		f.summary, f.fix = "A node of the cluster could not get the image from Trysail.", "Let the nodes reach and trust the address of --kube-registry."
		if f.code == "IMG-CORRUPT" {
			f.summary, f.fix = "A node of the cluster could not unpack the image.", "Build the image again and push it."
		}
	case strings.Contains(text, "no space left on device"):
		f.code, f.summary, f.fix = "FS-FULL", "Not your app: the disk of this machine is full.", "Remove files and unused images (`trysail images` shows them), or use a larger disk."
	case strings.Contains(text, "unable to set memory limit"):
		f.summary = "Not your app: the memory limit is too small for the container runtime itself."
		f.fix = memoryFix(p.Power)
	case strings.Contains(text, "can't get final child's PID"):
		f.summary = "Not your app: the container runtime may not set oom_score_adj (this machine lacks CAP_SYS_RESOURCE)."
	}
	f.prove("runtime", "%s", p.show(text))
	return f
}

// nodePulls tell by a node's words why it could not get an image.
var nodePulls = []struct {
	text string
	code trysail.DiagnosisCode
}{
	{"x509:", "IMG-TLS"},
	{"no such host", "IMG-DNS"},
	{"no space left on device", "IMG-DISK"},
	{"401 Unauthorized", "IMG-AUTH"},
	{"403 Forbidden", "IMG-AUTH"},
	{"429 Too Many Requests", "IMG-RATE"},
	{"failed to extract layer", "IMG-CORRUPT"},
	{"wrong diff id", "IMG-CORRUPT"},
	{"unexpected commit digest", "IMG-CORRUPT"},
	{"failed size validation", "IMG-CORRUPT"},
	{"not found", "IMG-TAG"},
}

func nodePull(text string) trysail.DiagnosisCode {
	for _, p := range nodePulls {
		if strings.Contains(text, p.text) {
			return p.code
		}
	}
	return "IMG-NET"
}

// isExecCode reports whether a finding of an autopsy explains a container that ended as soon as it was started.
func isExecCode(code trysail.DiagnosisCode) bool {
	return slices.Contains([]trysail.DiagnosisCode{"IMG-BIN-ARCH", "RUN-CRLF", "RUN-NOSHEBANG", "RUN-LOADER"}, code)
}

// neverRan is how long a container lives at most that the kernel could not execute, on a slow machine.
const neverRan = 10 * time.Second

// execFailure explains an exit by the bytes of the program, if it never came to run.
func (p podCase) execFailure(s trysail.ContainerStatus) (finding, bool) {
	if s.ExitCode == 0 || s.FinishedAt.Sub(s.StartedAt) > neverRan {
		return finding{}, false
	}
	told := false
	for _, line := range p.e.LogTail[s.Name] {
		if !isExecError(line) {
			return finding{}, false // it ran: it wrote something of its own
		}
		told = told || strings.TrimSpace(line) != ""
	}
	f, ok := p.autopsyOf(s.Name, func(x trysail.Finding) bool { return isExecCode(x.Code) })
	if !told {
		p.presume(&f)
	}
	return f, ok
}

// isExecError recognizes the runtime's words (and those of env and the shell) for a program that cannot be run.
func isExecError(line string) bool {
	line = strings.TrimSpace(strings.ToLower(line))
	return line == "" || strings.HasPrefix(line, "exec ") || strings.Contains(line, "exec format error") || strings.Contains(line, "env:") ||
		strings.Contains(line, "standard_init_linux") || strings.Contains(line, `\r`) || strings.Contains(line, "bad interpreter") || strings.Contains(line, "illegal option")
}

// autopsyOf returns the first finding of a container's autopsy that fits.
func (c *caseFile) autopsyOf(container string, fits func(trysail.Finding) bool) (finding, bool) {
	a, ok := c.Version.Autopsies[container]
	if !ok {
		return finding{}, false
	}
	for _, x := range a.Findings {
		if !fits(x) {
			continue
		}
		f := finding{code: x.Code, confidence: x.Confidence, container: container, summary: c.text(x.Summary), fix: c.text(x.Fix), rank: rankRuntime}
		for _, e := range x.Evidence {
			f.prove(e.Kind, "%s", c.show(e.Text))
		}
		if len(f.evidence) == 0 {
			f.prove("image", "%s", c.show(x.Summary))
		}
		return f, true
	}
	return finding{}, false
}

// presume makes a finding of an autopsy no more than likely if the machine that runs the container was not looked at: it
// may run programs of other kinds, and its runtime may add files.
func (c *caseFile) presume(f *finding) {
	if c.Version.Autopsies[f.container].Presumed {
		f.confidence = trysail.Likely
	}
}

// autopsyFinding is what the images say before anything was started, if it is certain.
func (c *caseFile) autopsyFinding() (finding, bool) {
	for _, name := range c.Deployment.ContainerNames() {
		f, ok := c.autopsyOf(name, func(x trysail.Finding) bool { return x.Confidence == trysail.Certain })
		if c.presume(&f); ok {
			return f, true
		}
	}
	return finding{}, false
}

// autopsyHints are what the images say and did not decide.
func (c *caseFile) autopsyHints() (list []finding) {
	for _, name := range c.Deployment.ContainerNames() {
		if f, ok := c.autopsyOf(name, func(trysail.Finding) bool { return true }); ok {
			c.presume(&f)
			list = append(list, f)
		}
	}
	return list
}
