// Demo is what make demo runs: it starts Trysail, deploys a sample service through the public API, asks it over HTTPS,
// deploys a broken version, prints why it failed, and removes everything it made, also when it is interrupted.
//
// It shows the commands that a person would type and runs exactly those.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/trysail/trysail/test/kit"
)

func main() {
	began := flag.Float64("began", 0, "when make began to install and build, in Unix seconds; 0: it did not")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, *began)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, began float64) (err error) {
	if os.Getuid() != 0 {
		return errors.New("the demo runs containers, so it needs root")
	}
	d := &demo{out: os.Stdout, began: time.Now()}
	if began > 0 {
		d.nothing = time.UnixMicro(int64(began * 1e6))
	}
	defer func() {
		// What was made is removed whatever happened, and nothing may cut that short.
		err = errors.Join(err, d.close(context.WithoutCancel(ctx)))
		if ctx.Err() != nil {
			err = errors.Join(errors.New("interrupted"), err)
		} else if err == nil {
			d.say("Done. Next: sudo bin/trysail serve")
		}
	}()
	if err := d.prepare(ctx); err != nil {
		return err
	}
	return d.play(ctx)
}

// demo is a run of the demonstration.
type demo struct {
	out      io.Writer
	dir      string // work folder with the deployment files
	registry *kit.Registry
	server   *kit.Server
	step     int
	began    time.Time // when it started
	nothing  time.Time // when make did, before it installed and built; zero if it did neither
}

// prepare makes what the demonstration takes for granted: a registry with images, and deployment files.
func (d *demo) prepare(ctx context.Context) error {
	d.say("Trysail: Amazon Lightsail container services on your own machine.\n" +
		"What is below happens here, for real, and is removed at the end.")
	var err error
	if d.dir, err = os.MkdirTemp("", "trysail-"); err != nil {
		return fmt.Errorf("making a work folder: %w", err)
	}
	if d.registry, err = kit.StartSmallRegistry(ctx); err != nil {
		return err
	}
	image := ""
	for _, version := range []string{"1", "2"} {
		img, err := kit.Web(ctx, version)
		if err != nil {
			return err
		}
		if image, err = d.registry.Push(ctx, "hello:"+version, img); err != nil {
			return err
		}
	}
	image = strings.TrimSuffix(image, ":2")
	if err := d.write("hello.json", deployment(image+":1", `"GREETING": "Hello from Trysail!"`)); err != nil {
		return err
	}
	return d.write("broken.json", deployment(image+":2", `"GREETING": "Hello from Trysail!", "REQUIRE": "DATABASE_URL"`))
}

func deployment(image, environment string) string {
	return fmt.Sprintf(`{
  "containers": {
    "web": {
      "image": "%s",
      "environment": {%s},
      "ports": {"8080": "HTTP"}
    }
  },
  "publicEndpoint": {"containerName": "web", "containerPort": 8080}
}
`, image, environment)
}

func (d *demo) write(name, text string) error {
	if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing a deployment file: %w", err)
	}
	return nil
}

func (d *demo) play(ctx context.Context) error {
	d.title("Start the server")
	if err := d.serve(ctx); err != nil {
		return err
	}

	d.title("Make a service and deploy to it")
	if err := d.show("cat hello.json"); err != nil {
		return err
	}
	if _, err := d.shell(ctx, 0, "cat hello.json"); err != nil {
		return err
	}
	for _, line := range []string{"trysail create hello --power nano --scale 1", "trysail deploy hello -f hello.json --wait"} {
		if err := d.run(ctx, 0, line); err != nil {
			return err
		}
	}

	d.title("Ask it over HTTPS")
	url, err := d.shell(ctx, -1, `trysail services --output json | grep -o 'https://[^"]*'`)
	if err != nil {
		return err
	}
	ask := `curl --silent --show-error --cacert "$TRYSAIL_CA" ` + strings.TrimSpace(url)
	if err := d.run(ctx, 0, ask); err != nil {
		return err
	}
	if err := d.took(time.Now()); err != nil {
		return err
	}

	d.title("Deploy a broken version: it wants a setting that it is not given")
	if err := d.run(ctx, 3, "trysail deploy hello -f broken.json --wait"); err != nil {
		return err
	}
	d.title("Ask why it failed (at any time, for any version)")
	if err := d.run(ctx, 0, "trysail explain hello"); err != nil {
		return err
	}

	d.title("The version before goes on serving")
	if err := d.run(ctx, 0, ask); err != nil {
		return err
	}
	return d.run(ctx, 0, "trysail services")
}

// took says how long all of it took up to the first answer.
func (d *demo) took(now time.Time) error {
	line := fmt.Sprintf("The first HTTPS answer came %.1f s after the start of the demo", now.Sub(d.began).Seconds())
	if !d.nothing.IsZero() {
		line += fmt.Sprintf(", %.1f s after the start of make, which installs and builds what is missing", now.Sub(d.nothing).Seconds())
	}
	_, err := fmt.Fprintf(d.out, "\n  %s.\n", line)
	return err
}

// serve starts the server on its usual ports, or on others where those are taken.
func (d *demo) serve(ctx context.Context) error {
	o := kit.ServerOptions{DataDir: filepath.Join(d.dir, "data"), Log: filepath.Join(d.dir, "server.log")}
	for addr, to := range map[string]*string{"127.0.0.1:4500": &o.API, "127.0.0.1:80": &o.HTTP, "127.0.0.1:443": &o.HTTPS} {
		if free(ctx, addr) {
			*to = addr
		}
	}
	s, err := kit.NewServer(o)
	if err != nil {
		return err
	}
	if err := d.show("trysail " + strings.Join(s.Args(), " ") + " &"); err != nil {
		return err
	}
	began := time.Now()
	d.server = s
	if err := s.Start(ctx); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "  ready after %.1f s\n", time.Since(began).Seconds())
	return d.show(`eval "$(trysail env --data-dir ` + s.DataDir + `)"`)
}

func free(ctx context.Context, addr string) bool {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	return ln.Close() == nil
}

// run shows a command, runs it and shows its output. It must end with the exit status want.
func (d *demo) run(ctx context.Context, want int, line string) error {
	if err := d.show(line); err != nil {
		return err
	}
	_, err := d.shell(ctx, want, line)
	return err
}

func (d *demo) show(line string) error {
	_, err := fmt.Fprintf(d.out, "\n  $ %s\n", line)
	return err
}

// shell runs a line as the user's shell would after eval "$(trysail env)". It shows the output as it comes and returns
// standard output. A negative want means: show nothing and expect success.
func (d *demo) shell(ctx context.Context, want int, line string) (string, error) {
	cmd := exec.CommandContext(ctx, "bash", "-c", "set -o pipefail; "+line)
	cmd.Dir = d.dir
	cmd.Env = append(slices.Clone(d.server.Environ()), "PATH="+filepath.Dir(d.server.Binary)+":"+os.Getenv("PATH"))
	// A terminal's Ctrl-C is for us alone: we end the command ourselves, then clean up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	var stdout strings.Builder
	if want < 0 {
		cmd.Stdout, cmd.Stderr = &stdout, os.Stderr
		want = 0
	} else {
		shown := &indented{w: d.out, start: true}
		cmd.Stdout, cmd.Stderr = io.MultiWriter(&stdout, shown), shown
	}
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if cmd.ProcessState == nil {
		return "", fmt.Errorf("running '%s': %w", line, err)
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		return "", fmt.Errorf("'%s' ended with status %d (%w), expected %d\n%s", line, got, err, want, d.server.LogTail(20))
	}
	return stdout.String(), nil
}

// close removes all that was made.
func (d *demo) close(ctx context.Context) error {
	var errs []error
	if d.server != nil {
		d.title("Clean up")
		errs = append(errs, d.server.Remove(ctx))
	}
	if d.registry != nil {
		errs = append(errs, d.registry.Close())
	}
	if d.dir != "" {
		errs = append(errs, os.RemoveAll(d.dir))
	}
	return errors.Join(errs...)
}

func (d *demo) title(text string) {
	d.step++
	fmt.Fprintf(d.out, "\n%d. %s\n", d.step, text)
}

func (d *demo) say(text string) { fmt.Fprintf(d.out, "\n%s\n", text) }

// indented writes lines with two spaces before each.
type indented struct {
	w     io.Writer
	start bool // at the start of a line
}

func (i *indented) Write(p []byte) (int, error) {
	var b strings.Builder
	for _, c := range p {
		if i.start && c != '\n' {
			b.WriteString("  ")
		}
		b.WriteByte(c)
		i.start = c == '\n'
	}
	if _, err := io.WriteString(i.w, b.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}
