//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/trysail/trysail/test/kit"
)

var update = flag.Bool("update", false, "write what the commands show into testdata/transcript")

// TestTranscript_OfEveryCommand runs the commands of testdata/transcript on real servers, in pipes and on a terminal, and
// compares what they show. Every command of the program must be there.
func TestTranscript_OfEveryCommand(t *testing.T) {
	t.Parallel()
	lines := transcriptLines(t)
	for _, mode := range []string{"pipe", "terminal"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			server := dedicated(t, kit.ServerOptions{Flags: []string{"--activation-timeout", "30s", "--drain-timeout", "1s"}})
			s := newStage(t, server)
			var got strings.Builder
			for _, line := range lines {
				got.WriteString(s.play(t, line, mode == "terminal"))
			}
			file := filepath.Join("testdata", "transcript", mode+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("%s is not what the commands show; look, and run the test with -update (-want +got):\n%s", file, diff)
			}
		})
	}
}

// elsewhere are commands that have tests of their own instead, for a reason.
var elsewhere = map[string]string{
	"trysail nodes":   "needs machines",
	"trysail migrate": "moves a server",
}

func TestTranscript_HasEveryCommand(t *testing.T) {
	lines := transcriptLines(t)
	for _, command := range manualsWith(t, "") {
		there := slices.ContainsFunc(lines, func(l transcriptLine) bool {
			return strings.Contains(l.command+" ", command+" ")
		})
		if !there && elsewhere[firstWords(command, 2)] == "" {
			t.Errorf("testdata/transcript/commands.txt has no %q", command)
		}
	}
}

func firstWords(text string, n int) string {
	words := strings.Fields(text)
	return strings.Join(words[:min(n, len(words))], " ")
}

// transcriptLine is a line of commands.txt.
type transcriptLine struct {
	command string
	typed   string // on the terminal
	free    bool   // its output is not compared
	comment bool
}

func transcriptLines(t *testing.T) (lines []transcriptLine) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "transcript", "commands.txt"))
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(text), "is typed\n") // the introduction
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		l := transcriptLine{command: line}
		switch {
		case line == "":
			continue
		case line[0] == '#':
			l.comment = true
		case strings.HasPrefix(line, "? "):
			l.command, l.free = line[2:], true
		case strings.HasPrefix(line, "n> "):
			l.command, l.typed = line[3:], "n\n"
		}
		lines = append(lines, l)
	}
	return lines
}

// stage is where a transcript is played.
type stage struct {
	dir string
	bin string // holds the program, called trysail
	env []string
	// hide replaces what differs from run to run.
	hide *strings.Replacer
}

func newStage(t *testing.T, server *kit.Server) *stage {
	t.Helper()
	s := &stage{dir: t.TempDir(), bin: t.TempDir()}
	if err := os.Symlink(server.Binary, filepath.Join(s.bin, "trysail")); err != nil {
		t.Fatal(err)
	}
	s.env = slices.Concat(server.Environ(), []string{
		"PATH=" + s.bin + string(os.PathListSeparator) + os.Getenv("PATH"), "TERM=xterm", "TZ=UTC", "DATA_DIR=" + server.DataDir, "NO_COLOR=", "GITHUB_ACTIONS=",
	})
	s.hide = strings.NewReplacer(server.DataDir, "DATA", s.dir, "DIR", server.API, "API", server.HTTPS, "HTTPS", fmt.Sprintf(":%d", portOf(t, server.HTTPS)), ":443")
	box, err := boxImage()
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("box:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(filepath.Join(s.dir, "box.tar"), tag, box); err != nil {
		t.Fatal(err)
	}
	for file, text := range transcriptFiles {
		if err := os.WriteFile(filepath.Join(s.dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// boxImage is busybox as a small web server, /www, with a shell.
func boxImage() (v1.Image, error) {
	files, err := kit.MachineFiles("/bin/busybox")
	if err != nil {
		return nil, err
	}
	for _, applet := range []string{"sh", "httpd", "echo", "true", "sleep", "cat", "stty", "ls"} {
		files["/bin/"+applet] = kit.File{Link: "busybox"}
	}
	files["/www/index.html"] = kit.File{Mode: 0o644, Data: []byte("hello\n")}
	return kit.BuildImage(runtime.GOARCH, v1.Config{
		Cmd: []string{"httpd", "-f", "-p", "8080", "-h", "/www"}, Env: []string{"PATH=/bin"},
	}, files)
}

var transcriptFiles = map[string]string{
	"web.json":     box(`"environment": {"LEVEL": "info"}`),
	"two.json":     box(`"environment": {"LEVEL": "debug"}`),
	"broken.json":  box(`"command": ["sh", "-c", "sleep 1; echo DATABASE_URL is not set >&2; exit 3"]`),
	"slow.json":    box(`"command": ["sleep", "600"]`),
	"typo.json":    strings.Replace(box(`"environment": {}`), `"ports"`, `"prots"`, 1),
	"compose.yaml": "services:\n  web:\n    image: \":web.box.1\"\n    ports: [\"80:8080\"]\n    depends_on: [web]\n",
}

// box is a deployment of boxImage.
func box(more string) string {
	return `{
  "containers": {"app": {"image": ":web.box.1", ` + more + `, "ports": {"8080": "HTTP"}}},
  "publicEndpoint": {"containerName": "app", "containerPort": 8080, "healthCheck": {"successCodes": "200"}}
}
`
}

// play runs a line and returns what was seen.
func (s *stage) play(t *testing.T, l transcriptLine, terminal bool) string {
	t.Helper()
	if l.comment {
		return l.command + "\n\n"
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-o", "pipefail", "-c", l.command)
	cmd.Dir, cmd.Env = s.dir, s.env
	var shown string
	var err error
	if terminal {
		shown, err = onTerminal(cmd, l.typed)
	} else {
		var out []byte
		out, err = cmd.CombinedOutput()
		shown = string(out)
	}
	status := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		status = exit.ExitCode()
	} else if err != nil {
		t.Fatalf("%s: %v", l.command, err)
	}
	if ctx.Err() != nil {
		t.Fatalf("%s: %v\n%s", l.command, ctx.Err(), shown)
	}
	t.Logf("$ %s\n%s", l.command, shown)
	shown = s.plain(shown)
	if l.free {
		shown = ""
	}
	if status != 0 {
		shown += fmt.Sprintf("[exit status %d]\n", status)
	}
	return "$ " + l.command + "\n" + shown + "\n"
}

// onTerminal runs a command on a terminal of its own and returns what stands on it at the end.
func onTerminal(cmd *exec.Cmd, typed string) (string, error) {
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 50, Cols: 80})
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := io.WriteString(f, typed); err != nil {
		return "", err
	}
	raw, err := io.ReadAll(f)
	if err != nil && !errors.Is(err, syscall.EIO) { // which is how a terminal ends
		return "", err
	}
	return screenOf(raw), cmd.Wait()
}

// escape is what programs here send to a terminal besides text.
var escape = regexp.MustCompile("^\x1b\\[([?0-9;]*)([A-Za-z])")

// screenOf is what stands on a terminal of any height after it was sent raw. Colours are left out.
func screenOf(raw []byte) string {
	lines := [][]rune{{}}
	row, column := 0, 0
	for len(raw) > 0 {
		if m := escape.FindSubmatch(raw); m != nil {
			n := 1
			_, _ = fmt.Sscan(string(m[1]), &n) // absent: 1
			switch m[2][0] {
			case 'A':
				row = max(row-n, 0)
			case 'B':
				row = min(row+n, len(lines)-1)
			case 'K':
				lines[row] = lines[row][:min(column, len(lines[row]))]
			}
			raw = raw[len(m[0]):]
			continue
		}
		r, size := rune(raw[0]), 1
		if r >= 0x80 {
			r = []rune(string(raw[:min(len(raw), 4)]))[0]
			size = len(string(r))
		}
		raw = raw[size:]
		switch r {
		case '\r':
			column = 0
		case '\n':
			if row++; row == len(lines) {
				lines = append(lines, nil)
			}
		default:
			for len(lines[row]) <= column {
				lines[row] = append(lines[row], ' ')
			}
			lines[row][column] = r
			column++
		}
	}
	var out strings.Builder
	for i, line := range lines {
		if i < len(lines)-1 || len(line) > 0 {
			out.WriteString(strings.TrimRight(string(line), " ") + "\n")
		}
	}
	return out.String()
}

// variable is what differs from run to run, and what stands for it.
var variable = []struct {
	pattern *regexp.Regexp
	text    string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "YYYY-MM-DDThh:mm:ssZ"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`), "YYYY-MM-DD hh:mm:ss"},
	{regexp.MustCompile(`\b20\d\d-\d\d-\d\d\b`), "YYYY-MM-DD"},
	{regexp.MustCompile(`\d\d:\d\d:\d\d\.\d{3}`), "hh:mm:ss.mmm"},
	{regexp.MustCompile(`\.[0-9a-v]{13}\.us-east-1`), ".0123456789abc.us-east-1"},
	{regexp.MustCompile(`-v(\d+)-(\d+)-[0-9a-z]{8}\b`), "-v$1-$2-xxxxxxxx"},
	{regexp.MustCompile(`-task-[0-9a-z]{10}\b`), "-task-xxxxxxxxxx"},
	{regexp.MustCompile(`sha256:[0-9a-f]{64}`), "sha256:DIGEST"},
	{regexp.MustCompile(`\b[0-9a-f]{12}\b`), "xxxxxxxxxxxx"},
	{regexp.MustCompile(`AKIA[A-Z0-9]{16}`), "AKIA0000000000000000"},
	{regexp.MustCompile(`(AWS_SECRET_ACCESS_KEY=).*`), "${1}SECRET"},
	{regexp.MustCompile(`\b\d+\.\d MB`), "N.N MB"},
	{regexp.MustCompile(` *\b\d+(\.\d+)? ?(ms|µs|s)\b`), " N.Ns"},
	// What the service is doing is seen, or over before anybody looked.
	{regexp.MustCompile(`(?m)^ N\.Ns  (PENDING|PENDING_VALIDATION|READY|UPDATING|DEPLOYING|RUNNING|DELETING|DISABLED)\b.*\n`), ""},
	// A version serves before the one before it is gone.
	{regexp.MustCompile(`(?m)^[✓…]( N\.Ns  drained).*$`), "…$1"},
	// The deployment's own times and the order of what it did.
	{regexp.MustCompile(`(?m)^  (time  |      )( *)hh:mm:ss\.mmm .*\n`), ""},
}

// plain takes out of the output what differs from run to run.
func (s *stage) plain(text string) string {
	text = s.hide.Replace(text)
	for _, v := range variable {
		text = v.pattern.ReplaceAllString(text, v.text)
	}
	if len(text) > 0 && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text
}

func TestScreenOf_IsWhatATerminalShows(t *testing.T) {
	for raw, want := range map[string]string{
		"a\r\nb\r\n":                                 "a\nb\n",
		"\x1b[31mred\x1b[0m\r\n":                     "red\n",
		"wait\r\x1b[Kdone\r\n":                       "done\n",
		"one\r\ntwo\r\n\x1b[2A\rONE\x1b[K\x1b[2B\rx": "ONE\ntwo\nx\n",
		"✓ grün\r\n":                                 "✓ grün\n",
	} {
		if got := screenOf(bytes.Clone([]byte(raw))); got != want {
			t.Errorf("%q shows %q, want %q", raw, got, want)
		}
	}
}
