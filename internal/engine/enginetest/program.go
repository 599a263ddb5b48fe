package enginetest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trysail/trysail"
)

// Program is what runs in a container. It returns the exit code.
type Program func(p *Process) int

// Process is a program's view of the world: of the container it runs in, or of a Memory engine's imitation of one.
type Process struct {
	Hostname string
	Args     []string // the whole command line; Args[0] is the program
	Env      map[string]string
	Stdin    io.Reader
	Stdout   io.Writer
	Stderr   io.Writer
	Term     <-chan struct{} // closed by the first SIGTERM
	Killed   <-chan struct{} // closed when a goroutine that imitates a process shall end; never in a real one
	Listen   func(port int) (net.Listener, error)
	Dial     func(port int) (net.Conn, error) // to another container of the pod
	// Size is that of the terminal; nil without one.
	Size  func() trysail.TerminalSize
	Alloc func(bytes int64) // uses memory until the process ends; does not return if that is too much
}

// Wait runs until SIGTERM and ends with 0.
func Wait(p *Process) int {
	select {
	case <-p.Term:
	case <-p.Killed:
	}
	return 0
}

// ExitAfter returns a program that ends with the code after d. SIGTERM ends it with 0 before.
func ExitAfter(d time.Duration, code int) Program {
	return func(p *Process) int {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			return code
		case <-p.Term:
		case <-p.Killed:
		}
		return 0
	}
}

// Serve returns a program that serves HTTP on the port. handler nil answers every request with 200 and the pod's name.
// SIGTERM ends it with 0 at once.
func Serve(port int, handler http.Handler) Program { return ServeAfter(0, port, handler) }

// ServeAfter is Serve by a program that takes d to start.
func ServeAfter(d time.Duration, port int, handler http.Handler) Program {
	return func(p *Process) int {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-p.Term:
			return 0
		case <-p.Killed:
			return 0
		}
		h := handler
		if h == nil {
			h = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, p.Hostname) })
		}
		return p.serve(port, h, nil)
	}
}

// serve serves HTTP until SIGTERM, or until somebody sends an exit code.
func (p *Process) serve(port int, h http.Handler, exit <-chan int) int {
	l, err := p.Listen(port)
	if err != nil {
		fmt.Fprintln(p.Stderr, err)
		return 1
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l)
	}()
	defer func() {
		_ = s.Close()
		<-served
	}()
	select {
	case code := <-exit:
		return code
	case <-p.Term:
	case <-p.Killed:
	}
	return 0
}

// TestProgram is the program of the conformance suite. Its command line is
//
//	serve PORT [WORD…]    serve HTTP: /args, /env, /hostname, /get?port=P&path=Q (from another container of the pod),
//	                      /alloc?bytes=N, /exit?code=N, /print?text=T, /fetch?url=U, /file?path=P,
//	                      /remote (the client's address)
//	exit CODE [DELAY]     end with the code
//	print N DELAY         write lines "line 0" … and then wait
//	ignore                write "ignoring", run and ignore SIGTERM
//	storm LINES           print the lines of Storm in bursts, a short one to standard error now and then, and end in the middle of a line
//	alloc BYTES DELAY     use so much memory and then wait
//	burn                  use all CPU time there is, until SIGTERM
//	wait                  run until SIGTERM
//	say VAR TEXT CODE     write the environment variable, and TEXT to standard error, and end with the code
//	cat                   copy standard input to standard output
//	fill BYTES            write so many bytes
//	terminal SIZE         write the terminal's size, such as 80x24, whenever it changes, until it is SIZE
//
// A word "--entry" before it is skipped: it stands for what an image's ENTRYPOINT holds.
func TestProgram(p *Process) int {
	args := p.Args[1:]
	if len(args) > 0 && args[0] == "--entry" {
		args = args[1:]
	}
	if len(args) == 0 {
		args = []string{"wait"}
	}
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch args[0] {
	case "serve":
		return p.serveTest(atoi(arg(1)))
	case "exit":
		return ExitAfter(duration(arg(2)), atoi(arg(1)))(p)
	case "print":
		return p.print(atoi(arg(1)), duration(arg(2)))
	case "storm":
		return p.storm(atoi(arg(1)))
	case "ignore":
		fmt.Fprintln(p.Stdout, "ignoring") // from now on
		<-p.Killed
		return 0
	case "alloc":
		if code := ExitAfter(duration(arg(2)), -1)(p); code == 0 {
			return 0
		}
		p.Alloc(int64(atoi(arg(1))))
		return Wait(p)
	case "burn":
		return p.burn()
	case "wait":
		return Wait(p)
	case "say":
		fmt.Fprintln(p.Stdout, p.Env[arg(1)])
		fmt.Fprintln(p.Stderr, arg(2))
		return atoi(arg(3))
	case "cat":
		if _, err := io.Copy(p.Stdout, p.Stdin); err != nil {
			return 1
		}
		return 0
	case "fill":
		if _, err := p.Stdout.Write(bytes.Repeat([]byte("."), atoi(arg(1)))); err != nil {
			return 1
		}
		return 0
	case "terminal":
		return p.terminal(arg(1))
	}
	fmt.Fprintln(p.Stderr, "unknown command", args)
	return 2
}

func (p *Process) terminal(until string) int {
	if p.Size == nil {
		fmt.Fprintln(p.Stderr, "there is no terminal")
		return 1
	}
	shown := ""
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		size := p.Size()
		if now := fmt.Sprintf("%dx%d", size.Columns, size.Rows); now != shown {
			shown = now
			fmt.Fprintln(p.Stdout, now)
		}
		if shown == until {
			return 0
		}
		select {
		case <-tick.C:
		case <-p.Killed:
			return 1
		}
	}
}

func (p *Process) burn() int {
	for i := 0; ; i++ {
		select {
		case <-p.Term:
			return 0
		case <-p.Killed:
			return 0
		default:
		}
	}
}

// Storm is line n, from 0, of what storm prints: most are short, some are long, and some are neither text nor short.
func Storm(n int) []byte {
	line := fmt.Appendf(nil, "storm %d ", n)
	switch {
	case n%5000 == 4999:
		return append(line, bytes.Repeat([]byte("long line "), 1<<20/10)...)
	case n%100 == 99:
		for i := range 300 {
			if c := byte((n + i*7) & 0xff); c != '\n' {
				line = append(line, c)
			}
		}
		return line
	}
	return append(line, strings.Repeat("x", n%140)...)
}

func (p *Process) storm(lines int) int {
	out := bufio.NewWriter(p.Stdout)
	for i := range lines {
		_, _ = out.Write(Storm(i))
		_ = out.WriteByte('\n')
		if i%1000 == 999 {
			_ = out.Flush()
			fmt.Fprintf(p.Stderr, "storm err %d\n", i/1000)
		}
		if i%50_000 == 49_999 {
			if code := ExitAfter(200*time.Millisecond, -1)(p); code == 0 {
				return 1
			}
		}
	}
	_, _ = out.WriteString("no newline")
	_ = out.Flush()
	return 0
}

func (p *Process) print(n int, delay time.Duration) int {
	for i := range n {
		fmt.Fprintf(p.Stdout, "line %d\n", i)
		if delay == 0 {
			continue
		}
		if code := ExitAfter(delay, -1)(p); code == 0 {
			return 0
		}
	}
	return Wait(p)
}

func (p *Process) serveTest(port int) int {
	exit := make(chan int, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("/hostname", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, p.Hostname) })
	mux.HandleFunc("/args", func(w http.ResponseWriter, _ *http.Request) {
		for _, a := range p.Args {
			fmt.Fprintln(w, a)
		}
	})
	mux.HandleFunc("/env", func(w http.ResponseWriter, _ *http.Request) {
		for _, k := range slices.Sorted(maps.Keys(p.Env)) {
			fmt.Fprintf(w, "%s=%s\n", k, p.Env[k])
		}
	})
	mux.HandleFunc("/exit", func(w http.ResponseWriter, r *http.Request) {
		// The whole answer is out before the server closes.
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		exit <- atoi(r.FormValue("code"))
	})
	mux.HandleFunc("/alloc", func(_ http.ResponseWriter, r *http.Request) { p.Alloc(int64(atoi(r.FormValue("bytes")))) })
	mux.HandleFunc("/print", func(_ http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(p.Stdout, r.FormValue("text"))
		fmt.Fprintln(p.Stderr, "err "+r.FormValue("text"))
	})
	mux.HandleFunc("/get", p.proxy)
	mux.HandleFunc("/fetch", func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, r.FormValue("url"), nil) //nolint:gosec // the test asks for it
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer, err := http.DefaultClient.Do(req) //nolint:gosec // the test asks for it
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer answer.Body.Close()
		_, _ = io.Copy(w, answer.Body)
	})
	mux.HandleFunc("/remote", func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		addr, _ := netip.ParseAddr(host)
		fmt.Fprintln(w, addr.Unmap()) //nolint:gosec // no browser reads it
	})
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		b, err := os.ReadFile(r.FormValue("path")) //nolint:gosec // the test asks for it
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		_, _ = w.Write(b) //nolint:gosec // no browser reads it
	})
	return p.serve(port, mux, exit)
}

// proxy answers with what another container of the pod answers.
func (p *Process) proxy(w http.ResponseWriter, r *http.Request) {
	c, err := p.Dial(atoi(r.FormValue("port")))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer c.Close()
	fmt.Fprintf(c, "GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n", r.FormValue("path"))
	_, _ = io.Copy(w, c)
}

// Main runs TestProgram as a real process: it is the whole main function of the suite's container image.
func Main() int {
	term, killed := make(chan struct{}), make(chan struct{})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		<-signals
		close(term)
	}()
	hostname, _ := os.Hostname()
	env := map[string]string{}
	for _, kv := range os.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		env[name] = value
	}
	var mu sync.Mutex
	var hold [][]byte // guarded by mu; never freed, that is its purpose
	return TestProgram(&Process{
		Hostname: hostname, Args: os.Args, Env: env, Stdin: os.Stdin, Size: terminalSize(), Stdout: os.Stdout, Stderr: os.Stderr, Term: term, Killed: killed,
		Listen: func(port int) (net.Listener, error) {
			return new(net.ListenConfig).Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port))
		},
		Dial: func(port int) (net.Conn, error) {
			return new(net.Dialer).DialContext(context.Background(), "tcp", fmt.Sprintf("localhost:%d", port))
		},
		Alloc: func(n int64) {
			b := make([]byte, n)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			mu.Lock()
			hold = append(hold, b)
			mu.Unlock()
		},
	})
}

// terminalSize returns nil if standard input is no terminal.
func terminalSize() func() trysail.TerminalSize {
	look := func() (size trysail.TerminalSize, err error) {
		w, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
		if err == nil {
			size = trysail.TerminalSize{Columns: w.Col, Rows: w.Row}
		}
		return size, err
	}
	if _, err := look(); err != nil {
		return nil
	}
	return func() trysail.TerminalSize {
		size, _ := look()
		return size
	}
}

func atoi(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

func duration(s string) time.Duration {
	d, _ := time.ParseDuration(s)
	return d
}
