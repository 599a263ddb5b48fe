package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// steadyAfter is how long containerd must have run for its end to count as an accident: it is then started again at
	// once. When it ends sooner, the pauses between starts grow from minBackoff to maxBackoff.
	steadyAfter = time.Second
	minBackoff  = 100 * time.Millisecond
	maxBackoff  = 2 * time.Second
	// daemonStopTime is how long containerd has to end after SIGTERM.
	daemonStopTime = 10 * time.Second
	// orphanTime is how long a containerd of an earlier process may take to end by itself: it was told to when its
	// parent died.
	orphanTime = 2 * time.Second
)

// child supervises containerd: it starts it again whenever it ends. While containerd is down the containers run on,
// but one that writes more than a pipe holds (64 KiB) blocks until containerd reads again; hence the hurry.
type child struct {
	cfg        Config
	executable string // which binary to start as containerd
	log        *slog.Logger
	// beforeStart runs before every start of containerd: what must be read before containerd deletes it.
	beforeStart func() error

	mu    sync.Mutex // guards all below
	pid   int        // 0 while it does not run
	err   error      // why it does not run
	fails int        // ends in a row without having been steady
}

// run keeps containerd running until ctx ends, then stops it and returns.
func (c *child) run(ctx context.Context) {
	backoff := time.Duration(0)
	for {
		if backoff > 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(backoff):
			}
		}
		began := time.Now()
		err := c.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= steadyAfter {
			backoff = 0
		} else {
			backoff = min(max(2*backoff, minBackoff), maxBackoff)
		}
		c.ended(err, backoff)
	}
}

func (c *child) ended(err error, backoff time.Duration) {
	c.mu.Lock()
	c.pid, c.err = 0, err
	if backoff > 0 {
		c.fails++
	} else {
		c.fails = 0
	}
	c.mu.Unlock()
	c.log.Warn("containerd ended; starting it again", "error", err, "pause", backoff)
}

// state reports the process id while containerd runs. Otherwise, why not, and how often it has failed in a row.
func (c *child) state() (pid, fails int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pid, c.fails, c.err
}

// once runs containerd until it ends or ctx does.
func (c *child) once(ctx context.Context) error {
	if err := endOrphan(c.cfg, c.log); err != nil {
		return err
	}
	if err := c.beforeStart(); err != nil {
		return fmt.Errorf("reading what ended meanwhile: %w", err)
	}
	started := make(chan error, 1)
	done := make(chan struct{})
	var cmd *exec.Cmd
	var ended error // set when done is closed
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends. So this goroutine keeps its thread to itself, and
		// itself alive, for as long as containerd lives.
		runtime.LockOSThread()
		var err error
		cmd, err = c.start()
		started <- err
		if err == nil {
			ended = cmd.Wait()
			close(done)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting containerd: %w", err)
	}
	select {
	case <-done:
		return endError(ended, c.cfg)
	case <-ctx.Done():
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-done:
	case <-time.After(daemonStopTime):
		c.log.WarnContext(ctx, "containerd does not stop; killing it", "pid", cmd.Process.Pid)
		_ = cmd.Process.Kill()
		<-done
	}
	_ = os.Remove(c.cfg.pidFile())
	return nil
}

// endError turns the end of containerd into an error with the reason that its log gives.
func endError(err error, cfg Config) error {
	if err == nil {
		err = errors.New("it ended without an error")
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && !exit.Exited() {
		return fmt.Errorf("containerd: %w", err) // killed by a signal, of which its log knows nothing
	}
	if why := lastError(cfg.daemonLog()); why != "" {
		return fmt.Errorf("containerd: %w: %s", err, why)
	}
	return fmt.Errorf("containerd: %w", err)
}

// start forks containerd. The calling thread must outlive it.
func (c *child) start() (*exec.Cmd, error) {
	logFile, err := os.OpenFile(c.cfg.daemonLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	cmd := exec.Command(c.executable) //nolint:gosec,noctx // this program itself; it is ended with SIGTERM
	cmd.Args = []string{"containerd", "--config", c.cfg.configFile(), "--log-level", "info"}
	cmd.Env = daemonEnv(c.cfg, os.Environ())
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = logFile, logFile
	// Its own process group keeps a Ctrl-C in the terminal from reaching containerd before us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.pid, c.err = cmd.Process.Pid, nil
	c.mu.Unlock()
	if err := os.WriteFile(c.cfg.pidFile(), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		c.log.Warn("cannot note containerd's process id", "error", err)
	}
	c.log.Info("containerd started", "pid", cmd.Process.Pid)
	return cmd, nil
}

// daemonEnv is the environment of containerd and the shims. It holds no more than they need: ours may hold secrets,
// and theirs can be read in many more processes.
//
// The directory of the shim's name comes first in $PATH. When containerd starts, it looks the shim up by its name for
// each container but the pod's first, whatever runtime_path says, and takes a container whose shim it does not find for
// dead. Without this it would find the shim of another containerd on the machine, or none.
func daemonEnv(cfg Config, env []string) []string {
	keep := []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR", "TZ"}
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// Containerd's heap is small and short-lived; collecting it earlier costs nothing that can be noticed and saves 5 MB.
	out := []string{"HOME=/root", "GOGC=40"}
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		if slices.Contains(keep, name) {
			out = append(out, kv)
		}
		if name == "PATH" && value != "" {
			path = value
		}
	}
	return append(out, "PATH="+filepath.Dir(cfg.shimLink())+":"+path)
}

// endOrphan ends a containerd that an earlier process on the same directories has left behind, which happens when that
// process was killed a moment ago. The orphan holds the lock of the database, and the new one would wait for it for ever.
func endOrphan(cfg Config, log *slog.Logger) error {
	b, err := os.ReadFile(cfg.pidFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, _ := strconv.Atoi(string(bytes.TrimSpace(b)))
	if pid <= 1 || !isDaemon(pid, cfg) {
		return nil
	}
	log.Info("waiting for the containerd of an earlier process to end", "pid", pid)
	_ = syscall.Kill(pid, syscall.SIGTERM)
	end := time.Now().Add(orphanTime)
	for isDaemon(pid, cfg) {
		if time.Now().After(end) {
			log.Warn("killing the containerd of an earlier process", "pid", pid)
			_ = syscall.Kill(pid, syscall.SIGKILL)
			end = time.Now().Add(orphanTime)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}

// isDaemon reports whether the process is a containerd that runs with our configuration.
func isDaemon(pid int, cfg Config) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return err == nil && bytes.Contains(b, []byte("--config\x00"+cfg.configFile()+"\x00"))
}

// lastError returns the newest line of containerd's log that tells of an error, without its time.
func lastError(path string) string {
	tail, err := readTail(path, 16<<10)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(tail), "\n")
	for _, l := range slices.Backward(lines) {
		if strings.Contains(l, "level=error") || strings.Contains(l, "level=fatal") || strings.HasPrefix(l, "containerd:") || strings.HasPrefix(l, "panic:") {
			_, msg, found := strings.Cut(l, "msg=")
			if !found {
				msg = l
			}
			return msg
		}
	}
	return ""
}

// readTail reads the last n bytes of a file.
func readTail(path string, n int64) (string, error) {
	f, err := os.Open(path) //nolint:gosec // the path is configuration
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-n), n))
	return string(b), err
}

// maxDaemonLog is the size in bytes at which containerd's log is cut. The old part is kept once.
const maxDaemonLog = 8 << 20

// trimDaemonLog keeps containerd's log small. Containerd writes through a descriptor of its own in append mode, so
// the file is copied and emptied, not renamed.
func trimDaemonLog(cfg Config) error {
	info, err := os.Stat(cfg.daemonLog())
	if err != nil {
		return err
	}
	if info.Size() < maxDaemonLog {
		return nil
	}
	tail, err := readTail(cfg.daemonLog(), maxDaemonLog)
	if err != nil {
		return err
	}
	if err := os.WriteFile(cfg.daemonLog()+".1", []byte(tail), 0o600); err != nil {
		return err
	}
	return os.Truncate(cfg.daemonLog(), 0)
}
