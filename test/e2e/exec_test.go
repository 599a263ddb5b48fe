//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/trysail/trysail/test/kit"
)

// session is a program on a terminal, and somebody before it.
type session struct {
	t    *testing.T
	cmd  *exec.Cmd
	pty  *os.File
	read sync.WaitGroup

	mu    sync.Mutex
	shown bytes.Buffer
	seen  int // up to there expect has looked
}

// sit runs a command of the stage on a terminal of 30 lines of 90 columns.
func (s *stage) sit(t *testing.T, env []string, args ...string) *session {
	t.Helper()
	cmd := s.command(t, env, args...)
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 90})
	if err != nil {
		t.Fatal(err)
	}
	x := &session{t: t, cmd: cmd, pty: f}
	x.read.Go(func() {
		buf := make([]byte, 4<<10)
		for {
			n, err := f.Read(buf)
			x.mu.Lock()
			x.shown.Write(buf[:n])
			x.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	return x
}

// command is a command of the stage that has not been started.
func (s *stage) command(t *testing.T, env []string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "trysail"), args...)
	cmd.Dir, cmd.Env = s.dir, append(slices.Clip(s.env), env...)
	return cmd
}

// trysail runs a command in a pipe; it must end with the status.
func (s *stage) trysail(t *testing.T, status int, args ...string) string {
	t.Helper()
	return s.trysailIn(t, nil, status, args...)
}

func (s *stage) trysailIn(t *testing.T, env []string, status int, args ...string) string {
	t.Helper()
	out, err := s.command(t, env, args...).CombinedOutput()
	if got := statusOf(t, err); got != status {
		t.Fatalf("trysail %s ended with %d, want %d:\n%s", strings.Join(args, " "), got, status, out)
	}
	return string(out)
}

func statusOf(t *testing.T, err error) int {
	t.Helper()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

func (x *session) send(text string) {
	x.t.Helper()
	if _, err := io.WriteString(x.pty, text); err != nil {
		x.t.Fatal(err)
	}
}

// expect waits until the terminal shows what it has not shown before.
func (x *session) expect(pattern string) {
	x.t.Helper()
	re := regexp.MustCompile(pattern)
	err := kit.Until(x.t.Context(), time.Minute, func() error {
		x.mu.Lock()
		defer x.mu.Unlock()
		at := re.FindIndex(x.shown.Bytes()[x.seen:])
		if at == nil {
			return errors.New("it does not show " + pattern)
		}
		x.seen += at[1]
		return nil
	})
	if err != nil {
		x.t.Fatalf("%v; it shows:\n%q", err, x.all())
	}
}

func (x *session) all() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.shown.String()
}

// ends waits for the end of the program, which must have the status.
func (x *session) ends(status int) {
	x.t.Helper()
	got := statusOf(x.t, x.cmd.Wait())
	x.read.Wait()
	if got != status {
		x.t.Errorf("it ended with %d, want %d:\n%s", got, status, x.all())
	}
	if err := x.pty.Close(); err != nil {
		x.t.Error(err)
	}
}

// echoes reports whether the terminal shows what is typed, as it does unless a program has changed that.
func (x *session) echoes() bool {
	x.t.Helper()
	settings, err := unix.IoctlGetTermios(int(x.pty.Fd()), unix.TCGETS)
	if err != nil {
		x.t.Fatal(err)
	}
	return settings.Lflag&unix.ECHO != 0
}

// boxService makes a service with one version of boxImage.
func boxService(t *testing.T, service string) *stage {
	t.Helper()
	s := newStage(t, shared.server)
	s.trysail(t, 0, "create", service, "--wait")
	t.Cleanup(func() {
		cmd := exec.Command(filepath.Join(s.bin, "trysail"), "delete", service, "--yes", "--wait")
		cmd.Env = s.env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	s.trysail(t, 0, "push", "box.tar", "--service", service, "--label", "box")
	for _, name := range []string{"web.json", "two.json", "broken.json", "slow.json"} {
		text := strings.ReplaceAll(transcriptFiles[name], ":web.", ":"+service+".")
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.trysail(t, 0, "deploy", service, "-f", "web.json", "--wait")
	return s
}

func TestExec_GivesAShellOnATerminal(t *testing.T) {
	t.Parallel()
	s := boxService(t, "shell")
	x := s.sit(t, nil, "exec", "shell")
	x.expect(`/ # `)
	if x.echoes() {
		t.Error("the terminal here echoes what the one there echoes as well")
	}
	x.send("stty size\n")
	x.expect(`30 90\r\n`)
	if err := pty.Setsize(x.pty, &pty.Winsize{Rows: 41, Cols: 101}); err != nil {
		t.Fatal(err)
	}
	// The new size is on its way; sh asks until it is there.
	x.send("until [ \"$(stty size)\" = '41 101' ]; do sleep 0.1; done; echo size is 4''1\n")
	x.expect(`size is 41\r\n`)
	x.send("echo before; sleep 600; echo after\n")
	x.expect(`before\r\n`)
	x.send("\x03")
	x.expect(`\^C`)
	x.expect(`/ # `)
	x.send("echo status $?\n")
	x.expect(`status 130\r\n`)
	x.send("echo $LEVEL\n")
	x.expect(`info\r\n`)
	x.send("exit 5\n")
	x.ends(5)
	if !strings.Contains(s.trysail(t, 0, "audit", "shell"), "CreateExecSession") {
		t.Error("the audit trail does not tell who had a shell")
	}
}

func TestExec_LooksIntoAFailedPodThatIsHeld(t *testing.T) {
	t.Parallel()
	s := boxService(t, "held")
	s.trysail(t, 3, "deploy", "held", "-f", "slow.json", "--wait", "--hold", "5m")
	var list struct {
		Pods []struct {
			ID      string `json:"id"`
			Version int    `json:"version"`
			State   string `json:"state"`
		} `json:"pods"`
	}
	text := s.trysail(t, 0, "ps", "held", "--version", "2", "-o", "json")
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list.Pods) != 1 || list.Pods[0].ID == "" {
		t.Fatalf("%v: %s", err, text)
	}
	x := s.sit(t, nil, "exec", "held", "--pod", list.Pods[0].ID)
	x.expect(`/ # `)
	x.send("cat /proc/1/cmdline; echo; exit\n")
	x.expect("sleep\x00?600")
	x.ends(0)
	if out := s.trysail(t, 0, "exec", "held", "--", "cat", "/www/index.html"); out != "hello\n" {
		t.Errorf("the version that serves says %q", out)
	}
}

func TestRun_EndsAsItsCommandDoesOrAsItIsTold(t *testing.T) {
	t.Parallel()
	s := boxService(t, "tasks")
	x := s.sit(t, nil, "run", "tasks", "--", "sh", "-c", "echo begun; sleep 600")
	x.expect(`begun\r\n`)
	x.send("\x03")
	x.expect(`the task was told to stop`)
	x.ends(1)
	id := strings.TrimSpace(s.trysail(t, 0, "run", "tasks", "--detach", "--", "sh", "-c", "echo from afar"))
	if !strings.HasPrefix(id, "tasks-task-") {
		t.Errorf("the task is called %q", id)
	}
	err := kit.Until(t.Context(), time.Minute, func() error {
		if out := s.trysail(t, 0, "logs", "tasks", "app", "--no-time"); !strings.Contains(out, "from afar\n") {
			return errors.New("the log says:\n" + out)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if out := s.trysail(t, 1, "run", "tasks", "--timeout", "1s", "--", "sleep", "600"); !strings.Contains(out, "1s") && !strings.Contains(out, "time") {
		t.Errorf("a task that took too long says %q", out)
	}
}

func TestDeploy_ShowsItselfAsTheSurroundingsWant(t *testing.T) {
	t.Parallel()
	s := boxService(t, "shown")
	const colour, moves = "\x1b[32m", "\x1b["
	x := s.sit(t, nil, "deploy", "shown", "-f", "two.json", "--wait")
	x.ends(0)
	if all := x.all(); !strings.Contains(all, colour) || !strings.Contains(all, "✓") {
		t.Errorf("no colour on a terminal: %q", all)
	}
	x = s.sit(t, []string{"NO_COLOR=1"}, "deploy", "shown", "-f", "web.json", "--wait")
	x.ends(0)
	if all := x.all(); strings.Contains(all, colour) || !strings.Contains(all, "✓") {
		t.Errorf("NO_COLOR on a terminal: %q", all)
	}
	x = s.sit(t, []string{"TERM=dumb"}, "deploy", "shown", "-f", "two.json", "--wait")
	x.ends(0)
	if all := x.all(); strings.Contains(all, moves) || !strings.Contains(all, "] Reached a steady state") {
		t.Errorf("TERM=dumb: %q", all)
	}
	out := s.trysailIn(t, []string{"GITHUB_ACTIONS=true"}, 3, "deploy", "shown", "-f", "broken.json", "--wait")
	if strings.Contains(out, moves) || strings.Count(out, "::error ") != 1 ||
		!regexp.MustCompile(`(?m)^::error title=Deployment 5 of service shown FAILED \(RUN-ENV\)::.*DATABASE_URL`).MatchString(out) {
		t.Errorf("in a workflow of GitHub: %q", out)
	}
}
