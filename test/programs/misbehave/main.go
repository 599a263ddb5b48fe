// Misbehave fails in every way that a program in a container can, and does unusual things that are no failures. Each
// argument is one step: a verb, and what it needs after a space. Steps are done in order; a step that fails prints its
// error and ends the program with exit code 1. After the last step it waits for SIGTERM.
//
//	say TEXT          write a line to standard output; cry TEXT: to standard error
//	sleep D           wait
//	burn D            use so much time of one CPU
//	exit N            end; panic TEXT: end as Go programs do
//	need NAME         end with exit code 78 unless the variable is set
//	alloc MB          take and touch memory, one megabyte at a time; eat MB: the same, and slowly: 20 MB a second
//	child STEP…       run itself with the remaining steps and end with the child's exit code, 1 if it was killed
//	helper STEP…      run itself with the remaining steps again and again; without waiting go on with the steps after a
//	                  step that is a lone dot
//	daemon STEP…      run itself with the remaining steps in a session of its own and end with exit code 0
//	crowd N STEP…     run itself N times with the remaining steps and wait for all
//	files N           open files until there may be no more; N is the soft limit that is set before
//	threads N         start threads that wait
//	write PATH        write a file; fill PATH: write to it until that fails
//	reserve PATH MB   make room for a file, as databases do
//	dial ADDRESS      connect over TCP or fail; retry ADDRESS: until it succeeds, telling of each failure
//	listen ADDRESS    take TCP connections and say nothing; udp ADDRESS: take packets
//	deaf              ignore SIGTERM
//	serve OPTION…     serve HTTP, see serve.go; a lone dot ends its options
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		os.Exit(0)
	}()
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "misbehave:", err)
		os.Exit(1)
	}
	select {}
}

// steps are the verbs that take the rest of their own argument.
var steps = map[string]func(string) error{
	"say":     func(s string) error { fmt.Println(s); return nil },
	"cry":     func(s string) error { fmt.Fprintln(os.Stderr, s); return nil },
	"sleep":   sleep,
	"burn":    burn,
	"exit":    exit,
	"panic":   func(s string) error { panic(s) },
	"need":    need,
	"alloc":   func(s string) error { return alloc(s, 0) },
	"eat":     func(s string) error { return alloc(s, 50*time.Millisecond) },
	"files":   files,
	"threads": threads,
	"write":   func(s string) error { return os.WriteFile(s, []byte("misbehave\n"), 0o600) },
	"fill":    fill,
	"reserve": reserve,
	"dial":    dial,
	"retry":   retry,
	"listen":  listen,
	"udp":     udp,
	"deaf":    func(string) error { signal.Ignore(syscall.SIGTERM); return nil },
}

func run(args []string) error {
	for i := 0; i < len(args); i++ {
		verb, rest, _ := strings.Cut(args[i], " ")
		switch verb {
		case "child":
			return child(args[i+1:])
		case "crowd":
			return crowd(rest, args[i+1:])
		case "daemon":
			return daemon(args[i+1:])
		case "helper", "serve":
			own := args[i+1:]
			if end := slices.Index(own, "."); end >= 0 {
				own = own[:end]
			}
			i += len(own) + 1
			if verb == "helper" {
				go helper(own)
				continue
			}
			if err := serve(own); err != nil {
				return err
			}
			continue
		}
		step, known := steps[verb]
		if !known {
			return fmt.Errorf("no such step: %q", args[i])
		}
		if err := step(rest); err != nil {
			return err
		}
	}
	return nil
}

func sleep(s string) error {
	d, err := time.ParseDuration(s)
	time.Sleep(d)
	return err
}

// burn counts the CPU time that this thread gets, not the time that passes.
func burn(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const thread = 1 // RUSAGE_THREAD
	var u syscall.Rusage
	for {
		if err := syscall.Getrusage(thread, &u); err != nil {
			return err
		}
		if time.Duration(u.Utime.Nano()+u.Stime.Nano()) >= d {
			return nil
		}
		for range 1_000_000 {
		}
	}
}

func exit(s string) error {
	n, err := strconv.Atoi(s)
	if err == nil {
		os.Exit(n)
	}
	return err
}

func need(name string) error {
	if os.Getenv(name) == "" {
		fmt.Fprintf(os.Stderr, "misbehave: the environment variable %s is not set\n", name)
		os.Exit(78)
	}
	return nil
}

// held keeps what was taken.
var held [][]byte

func alloc(s string, pause time.Duration) error {
	mb, err := strconv.Atoi(s)
	for range mb {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		held = append(held, b)
		time.Sleep(pause)
	}
	return err
}

func myself(args []string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}

func child(args []string) error {
	err := myself(args).Run()
	if status, ok := errors.AsType[*exec.ExitError](err); ok && status.ExitCode() > 0 {
		os.Exit(status.ExitCode())
	}
	if err != nil {
		return fmt.Errorf("worker died: %w", err)
	}
	os.Exit(0)
	return nil
}

func crowd(s string, args []string) error {
	n, err := strconv.Atoi(s)
	if err != nil {
		return err
	}
	for range n {
		if err := myself(args).Start(); err != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	select {}
}

func helper(args []string) {
	for {
		if err := myself(args).Run(); err != nil {
			fmt.Fprintln(os.Stderr, "misbehave: helper ended, starting it again:", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func daemon(args []string) error {
	cmd := myself(args)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	// As daemons do, it ends when the server is up.
	time.Sleep(time.Second)
	os.Exit(0)
	return nil
}

func files(s string) error {
	limit, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return err
	}
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return err
	}
	r.Cur = limit
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return err
	}
	for {
		f, err := os.Open("/proc/self/status")
		if err != nil {
			time.Sleep(3 * time.Second) // as a server that goes on for a while without accepting anybody
			return err
		}
		_ = f.Fd()
		open = append(open, f)
	}
}

var open []*os.File

func threads(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil {
		return err
	}
	for i := range n {
		go func() {
			runtime.LockOSThread()
			var forever syscall.Timespec
			forever.Sec = 1 << 30
			_ = syscall.Nanosleep(&forever, nil)
		}()
		if i%64 == 63 {
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}

func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for {
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
}

func reserve(s string) error {
	path, size, _ := strings.Cut(s, " ")
	mb, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, mb<<20); err != nil {
		return &os.PathError{Op: "allocate", Path: path, Err: err}
	}
	return nil
}

func dial(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	fmt.Println("connected to", addr)
	return conn.Close()
}

func retry(addr string) error {
	for {
		err := dial(addr)
		if err == nil {
			return nil
		}
		fmt.Fprintln(os.Stderr, "misbehave:", err, "- trying again")
		time.Sleep(time.Second)
	}
}

func listen(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			open := conn
			time.AfterFunc(time.Hour, func() { open.Close() })
		}
	}()
	return nil
}

func udp(addr string) error {
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	go func() {
		buf := make([]byte, 1500)
		for {
			if _, _, err := conn.ReadFrom(buf); err != nil {
				return
			}
		}
	}()
	return nil
}
