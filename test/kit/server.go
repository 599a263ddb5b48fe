package kit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Server is a trysail serve process of our own, with its own data directory and ports.
type Server struct {
	Binary  string
	DataDir string
	API     string // host:port of --listen
	HTTP    string // host:port of --http
	HTTPS   string // host:port of --https
	Domain  string // --domain; localhost unless an option says otherwise
	// Vars is what trysail env prints, by name.
	Vars map[string]string

	flags []string
	env   []string
	log   string
	proc  *process

	cluster *inCluster // nil on one machine
}

// ServerOptions says how to run a server. The zero value is good.
type ServerOptions struct {
	Binary  string   // default: the one that make build makes
	DataDir string   // default: a new one below the temporary folder
	Flags   []string // further flags of trysail serve; they win over ours
	Env     []string // further environment, name=value
	Log     string   // file for the server's output; default server.log beside the data directory
	// API, HTTP and HTTPS are addresses to listen on; default: free loopback ports.
	API, HTTP, HTTPS string
	// OneMachine runs pods on this machine, whatever the others do.
	OneMachine bool
}

// NewServer prepares a server without starting it.
func NewServer(o ServerOptions) (*Server, error) {
	binary := o.Binary
	if binary == "" {
		var err error
		if binary, err = Binary(); err != nil {
			return nil, err
		}
	}
	s := &Server{Binary: binary, DataDir: o.DataDir, API: o.API, HTTP: o.HTTP, HTTPS: o.HTTPS, Domain: "localhost", flags: o.Flags, env: o.Env, log: o.Log}
	if s.DataDir == "" {
		// A short path: sockets below it have to fit into 107 bytes.
		dir, err := os.MkdirTemp("", "trysail-")
		if err != nil {
			return nil, fmt.Errorf("making a data directory: %w", err)
		}
		s.DataDir = filepath.Join(dir, "d")
	}
	if s.log == "" {
		s.log = filepath.Join(filepath.Dir(s.DataDir), "server.log")
	}
	for _, addr := range []*string{&s.API, &s.HTTP, &s.HTTPS} {
		if *addr == "" {
			var err error
			if *addr, err = FreeAddr(); err != nil {
				return nil, err
			}
		}
	}
	if os.Getenv(EngineVariable) == "kubernetes" && !o.OneMachine {
		if err := s.joinCluster(); err != nil {
			return nil, errorsJoin(err, s.leaveCluster())
		}
	}
	return s, nil
}

// StartServer starts a server and waits until it is ready.
func StartServer(ctx context.Context, o ServerOptions) (*Server, error) {
	s, err := NewServer(o)
	if err != nil {
		return nil, err
	}
	if err := s.Start(ctx); err != nil {
		return nil, errorsJoin(err, s.Remove(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// Args is the command line of the server, without the program's name.
func (s *Server) Args() []string {
	args := []string{"serve", "--data-dir", s.DataDir, "--listen", s.API, "--http", s.HTTP, "--https", s.HTTPS}
	if engine := os.Getenv(EdgeEngineVariable); engine != "" {
		args = append(args, "--edge-engine", engine)
	}
	return append(args, s.flags...)
}

// Start runs the program and waits until it is ready. Its output is appended to the log.
func (s *Server) Start(ctx context.Context) error {
	if err := s.Spawn(); err != nil {
		return err
	}
	return s.Ready(ctx)
}

// Spawn runs the program without waiting for anything.
func (s *Server) Spawn() error {
	out, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("starting trysail: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(s.Binary, s.Args()...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(withoutPrefix(os.Environ(), "TRYSAIL_", "AWS_"), s.env...)
	// A terminal's Ctrl-C is for us alone: we still need the server to clean up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	diesWithUs(cmd)
	s.proc, err = startProcess(cmd)
	if err != nil {
		return fmt.Errorf("starting trysail: %w", err)
	}
	return nil
}

// Ready waits until the server answers that all of it works, and reads its credentials.
func (s *Server) Ready(ctx context.Context) error {
	err := Until(ctx, 60*time.Second, func() error {
		if s.proc.ended() {
			return fmt.Errorf("trysail ended (%w)", s.proc.err)
		}
		return get(ctx, "http://"+s.API+"/healthz")
	})
	if err != nil {
		return fmt.Errorf("waiting for trysail: %w\n%s", err, s.LogTail(30))
	}
	if err := s.trustServer(); err != nil {
		return err
	}
	return s.readVars(ctx)
}

func (s *Server) readVars(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, s.Binary, "env", "--data-dir", s.DataDir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("running trysail env: %w: %s", err, stderr.Bytes())
	}
	s.Vars = make(map[string]string)
	for line := range strings.Lines(string(out)) {
		assignment, ok := strings.CutPrefix(strings.TrimSpace(line), "export ")
		if !ok {
			continue
		}
		k, v, _ := strings.Cut(assignment, "=")
		s.Vars[k] = strings.Trim(v, `'"`)
	}
	for _, want := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL_LIGHTSAIL", "TRYSAIL_CA"} {
		if s.Vars[want] == "" {
			return fmt.Errorf("trysail env does not export %s:\n%s", want, redact(string(out)))
		}
	}
	return nil
}

func redact(env string) string {
	var b strings.Builder
	for line := range strings.Lines(env) {
		if k, _, ok := strings.Cut(line, "="); ok {
			line = k + "=…\n"
		}
		b.WriteString(line)
	}
	return b.String()
}

// Environ is the environment of a client of this server: ours, without any AWS settings, plus what trysail env prints.
func (s *Server) Environ() []string {
	env := withoutPrefix(os.Environ(), "TRYSAIL_", "AWS_")
	for k, v := range s.Vars {
		env = append(env, k+"="+v)
	}
	slices.Sort(env)
	return append(env, "AWS_PAGER=", "AWS_EC2_METADATA_DISABLED=true", "NO_COLOR=1")
}

func withoutPrefix(env []string, prefixes ...string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(kv, p) })
	})
}

// Run runs a trysail client command against this server and returns its standard output.
func (s *Server) Run(ctx context.Context, args ...string) (string, error) {
	return s.RunInput(ctx, "", args...)
}

// RunInput is Run with a standard input.
func (s *Server) RunInput(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.Binary, args...)
	cmd.Env = s.Environ()
	cmd.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("running trysail %s: %w\n%s%s", strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.String(), nil
}

// PID is the process id of the server.
func (s *Server) PID() int { return s.proc.pid }

// Containerd returns the server's containerd child.
func (s *Server) Containerd() (Proc, error) {
	procs, err := Processes(func(p Proc) bool {
		return p.Parent == s.PID() && filepath.Base(p.Args[0]) == "containerd"
	})
	if err != nil {
		return Proc{}, err
	}
	if len(procs) != 1 {
		return Proc{}, fmt.Errorf("trysail %d has %d containerd children", s.PID(), len(procs))
	}
	return procs[0], nil
}

// Stop ends the server gently and waits for it. Containers keep running.
func (s *Server) Stop() error {
	if s.proc == nil || s.proc.ended() {
		return nil
	}
	if err := s.proc.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-s.proc.done:
	case <-time.After(60 * time.Second):
		return errorsJoin(errors.New("trysail did not end within 60s of SIGTERM"), s.proc.kill())
	}
	if s.proc.err != nil {
		return fmt.Errorf("stopping trysail: %w", s.proc.err)
	}
	return nil
}

// Kill ends the server with SIGKILL and waits for it. Containers keep running.
func (s *Server) Kill() error { return s.proc.kill() }

// Ended reports whether the server process has ended, and how.
func (s *Server) Ended() (bool, error) {
	if !s.proc.ended() {
		return false, nil
	}
	return true, s.proc.err
}

// WaitEnd waits until the server process has ended by itself and returns its exit status.
func (s *Server) WaitEnd(ctx context.Context, limit time.Duration) (int, error) {
	err := Until(ctx, limit, func() error {
		if !s.proc.ended() {
			return errors.New("trysail still runs")
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if exit, ok := errors.AsType[*exec.ExitError](s.proc.err); ok {
		return exit.ExitCode(), nil
	}
	return 0, s.proc.err
}

// KeepLogs copies what the server and its containerd have written into a new folder, for a person to read after a
// failed test, and returns the folder.
func (s *Server) KeepLogs() (string, error) {
	dir, err := os.MkdirTemp("", "failed-trysail-")
	if err != nil {
		return "", fmt.Errorf("keeping logs: %w", err)
	}
	for _, path := range []string{s.log, filepath.Join(s.DataDir, "engine", "containerd.log")} {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("keeping logs: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), data, 0o600); err != nil {
			return "", fmt.Errorf("keeping logs: %w", err)
		}
	}
	return dir, nil
}

// LogTail returns the last n lines of the server's output.
func (s *Server) LogTail(n int) string {
	data, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.SplitAfter(string(data), "\n")
	return strings.Join(lines[max(0, len(lines)-n-1):], "")
}

// CA returns the file with the root certificate of the server's edge.
func (s *Server) CA() string { return s.Vars["TRYSAIL_CA"] }

// HTTPClient returns a client that trusts the edge and connects to it whatever name a URL has, so that no name has to
// resolve. With http2 false it speaks HTTP/1.1 only. It follows no redirects.
func (s *Server) HTTPClient(http2 bool) (*http.Client, error) {
	tlsConfig, err := trusting(s.CA())
	if err != nil {
		return nil, err
	}
	var protocols http.Protocols
	protocols.SetHTTP1(!http2)
	protocols.SetHTTP2(http2)
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	transport := &http.Transport{
		Protocols:           &protocols,
		TLSClientConfig:     tlsConfig,
		MaxIdleConnsPerHost: 256,
		DisableCompression:  true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			// Plain http:// URLs without a port name port 80, https:// 443; either may be anywhere here.
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			to := s.HTTPS
			if _, httpPort, err := net.SplitHostPort(s.HTTP); port == "80" || (err == nil && port == httpPort) {
				to = s.HTTP
			}
			return dialer.DialContext(ctx, network, to)
		},
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}
