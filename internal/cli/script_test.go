package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"trysail": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		app := &App{Build: ReadBuild("v1.2.3"), Root: os.Getenv("SYSTEM_ROOT"), Probe: func(context.Context, string) []Check {
			if os.Getenv("BROKEN_MACHINE") != "" {
				return []Check{{Name: "runc", Level: LevelFail, Detail: "runc is not installed", Fix: "apt-get install runc"}}
			}
			return []Check{{Name: "root", Level: LevelOK, Detail: "running as root"}}
		}}
		code := app.Execute(ctx, os.Args[1:])
		stop()
		os.Exit(code)
	}})
}

// TestScripts runs the scripts in testdata, each against a server of its own with the services web (RUNNING) and
// idle (READY).
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status, "called": called, "taken": taken, "pty": onTerminal,
		},
		Setup: func(env *testscript.Env) error {
			f := newFakeServer(env.T().(testing.TB))
			web := &fakeService{name: "web", state: "RUNNING", power: "nano", scale: 1, version: 1}
			web.current = map[string]any{
				"version": 1, "state": "ACTIVE", "createdAt": 1.7e9, "containers": map[string]any{"app": map[string]any{"image": "nginx"}},
				"publicEndpoint": map[string]any{"containerName": "app", "containerPort": 80},
			}
			f.services["web"] = web
			f.services["idle"] = &fakeService{name: "idle", state: "READY", power: "small", scale: 2}
			f.logs["web/app"] = []fakeLine{{1.7e9, "first"}, {1.7e9, "ERROR second"}, {1.7e9 + 60, "third"}}
			f.logs["web/ACCESS"] = []fakeLine{{1.7e9, `{"status":200}`}, {1.7e9 + 1, `{"status":500}`}}
			f.addNode("n1", "web-v1-0", "web-v1-1")
			f.addNode("n2", "stuck")
			f.addNode("n3")
			env.Values["server"] = f
			env.Setenv("SERVER", f.URL)
			env.Setenv("AWS_ENDPOINT_URL_LIGHTSAIL", f.URL)
			env.Setenv("AWS_ACCESS_KEY_ID", "AKADMIN")
			env.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
			env.Setenv("AWS_REGION", "us-east-1")
			env.Setenv("TRYSAIL_DATA_DIR", filepath.Join(env.WorkDir, "data"))
			env.Setenv("TZ", "UTC")
			env.Setenv("SYSTEM_ROOT", filepath.Join(env.WorkDir, "root")) // nobody's store of trusted certificates is touched
			env.Setenv("GORACE", "atexit_sleep_ms=0")                     // else each command takes a second longer with -race
			other := newFakeServer(env.T().(testing.TB))                  // the account of the profile "prod"
			env.Setenv("OTHER", other.URL)
			env.Setenv("AWS_CONFIG_FILE", filepath.Join(env.WorkDir, "aws-config"))
			profile := fmt.Sprintf("[profile prod]\nregion = eu-west-1\nendpoint_url = %s\naws_access_key_id = AKADMIN\naws_secret_access_key = x\n", other.URL)
			if err := os.WriteFile(filepath.Join(env.WorkDir, "aws-config"), []byte(profile), 0o600); err != nil {
				return err
			}
			dir := filepath.Join(env.WorkDir, "admin")
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			return WriteAdmin(dir, Admin{
				AccessKeyID: "AKADMIN", SecretAccessKey: "it's/a+secret", Region: "eu-west-1", Endpoint: f.URL, CA: filepath.Join(dir, "ca.pem"),
			})
		},
	})
}

// status N COMMAND…: the command ends with exit status N.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND [ARGUMENT]...")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

// pty N [-stdin FILE] COMMAND…: the command runs on a terminal of its own, 100 columns wide, and ends with exit status N. What
// the terminal shows is its standard output; FILE is what is typed.
func onTerminal(ts *testscript.TestScript, _ bool, args []string) {
	var typed string
	if len(args) > 2 && args[1] == "-stdin" {
		typed = ts.ReadFile(args[2])
		args = append(args[:1], args[3:]...)
	}
	path, err := exec.LookPath(args[1])
	ts.Check(err)
	cmd := exec.Command(path, args[2:]...)
	cmd.Dir, cmd.Env = ts.MkAbs("."), environ(ts)
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 100})
	ts.Check(err)
	defer f.Close()
	_, err = io.WriteString(f, typed)
	ts.Check(err)
	shown, err := io.ReadAll(f)
	if err != nil && !errors.Is(err, syscall.EIO) { // which is how a terminal ends
		ts.Check(err)
	}
	got := 0
	if err := cmd.Wait(); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	_, err = ts.Stdout().Write(bytes.ReplaceAll(shown, []byte("\r\n"), []byte("\n")))
	ts.Check(err)
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

// environ is the environment of the script.
func environ(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{
		"PATH", "HOME", "SERVER", "AWS_ENDPOINT_URL_LIGHTSAIL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION",
		"TRYSAIL_DATA_DIR", "TZ", "SYSTEM_ROOT", "GORACE", "NO_COLOR", "TERM", "BROWSER", "AWS_CONFIG_FILE", "GITHUB_ACTIONS", "GOCOVERDIR", "TMPDIR", "WORK",
	} {
		if v := ts.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// called OPERATION N: waits until the server was asked so often.
func called(ts *testscript.TestScript, _ bool, args []string) {
	f := ts.Value("server").(*fakeServer)
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	for {
		f.mu.Lock()
		n := f.calls[args[0]]
		f.mu.Unlock()
		if n >= want {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// taken NAME: sets the variable to an address that somebody listens on.
func taken(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	ts.Setenv(args[0], l.Addr().String())
}
