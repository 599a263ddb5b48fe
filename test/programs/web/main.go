// Web is the server that the end-to-end tests, the demo and the benchmarks deploy. It is one static binary, and its
// environment makes it behave well or badly:
//
//	PORT          port to listen on (8080)
//	HOST          address to listen on (all); 127.0.0.1 makes it unreachable from outside of the pod
//	VERSION       what / answers, after "version "
//	GREETING      a line that / puts before it
//	START_DELAY   wait this long before listening, as "3s"
//	FAIL_HEALTH   status that /health answers instead of 200
//	CRASH_AFTER   end this long after the start, with EXIT_CODE (1)
//	REQUIRE       a variable that must be set; if it is not, say so and end with exit code 78
//	ALLOC_MB      take and touch so much memory at the start
//	LOG_EVERY     write a line this often: "tick <version> <instance> <number>"
//	LOG_LINES     write so many lines at the start, each with a call of its own, and then how long that took: "flood 1.2s"
//	DRAIN         on SIGTERM, keep answering open requests for at most this long (20s)
//	IGNORE_TERM   any value: do not react to SIGTERM at all
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// instance tells the copies of this program apart, wherever they run. / names it in the header X-Instance.
var instance = rand.Text()

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		os.Exit(1)
	}
}

func run() error {
	if name := os.Getenv("REQUIRE"); name != "" && os.Getenv(name) == "" {
		fmt.Fprintf(os.Stderr, "web: the environment variable %s is not set\n", name)
		os.Exit(78)
	}
	if err := allocate(os.Getenv("ALLOC_MB")); err != nil {
		return err
	}
	if d := duration("CRASH_AFTER", 0); d > 0 {
		time.AfterFunc(d, crash)
	}
	if n, err := strconv.Atoi(os.Getenv("LOG_LINES")); err == nil {
		flood(n)
	}
	if d := duration("LOG_EVERY", 0); d > 0 {
		go tick(d)
	}
	// Signals are caught before the delay: a slow starter must be stoppable, too.
	stop := make(chan os.Signal, 1)
	if os.Getenv("IGNORE_TERM") == "" {
		signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	} else {
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
	}
	if d := duration("START_DELAY", 0); d > 0 {
		fmt.Printf("starting takes %s\n", d)
		select {
		case <-time.After(d):
		case <-stop:
			return errors.New("stopped while starting")
		}
	}
	return serve(stop)
}

func serve(stop <-chan os.Signal) error {
	addr := net.JoinHostPort(os.Getenv("HOST"), env("PORT", "8080"))
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: newHandler(), ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	fmt.Printf("version %s listening on %s\n", env("VERSION", "0"), ln.Addr())

	select {
	case err := <-done:
		return err
	case s := <-stop:
		fmt.Printf("version %s got %s\n", env("VERSION", "0"), s)
	}
	ctx, cancel := context.WithTimeout(context.Background(), duration("DRAIN", 20*time.Second))
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		return fmt.Errorf("shutting down: %w", err)
	}
	fmt.Printf("version %s stopped\n", env("VERSION", "0"))
	return nil
}

// crash ends the process as a program does that has met an error.
func crash() {
	code, err := strconv.Atoi(env("EXIT_CODE", "1"))
	if err != nil {
		code = 1
	}
	fmt.Fprintln(os.Stderr, "web: crashing as asked")
	os.Exit(code)
}

// held keeps what allocate took.
var held [][]byte

// allocate takes mb MiB and writes to every page of it.
func allocate(mb string) error {
	if mb == "" {
		return nil
	}
	n, err := strconv.Atoi(mb)
	if err != nil {
		return fmt.Errorf("reading a size: %w", err)
	}
	for range n {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		held = append(held, b)
	}
	return nil
}

// flood writes as fast as it can. What reads is faster only if it does not hold it up.
func flood(lines int) {
	began := time.Now()
	for i := range lines {
		fmt.Printf("level=info msg=request method=GET path=/api/v1/items/%d status=200 bytes=48213 duration=12ms remote=10.0.0.1 request_id=%016x\n", i%1000, i*2654435761)
	}
	fmt.Printf("flood %s\n", time.Since(began))
}

// tick writes numbered lines, so that a reader can see whether one is missing.
func tick(every time.Duration) {
	n := 0
	for range time.Tick(every) {
		n++
		fmt.Printf("tick %s %s %d\n", env("VERSION", "0"), instance, n)
	}
}

func env(name, def string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return def
}

func duration(name string, def time.Duration) time.Duration {
	d, err := time.ParseDuration(os.Getenv(name))
	if err != nil {
		return def
	}
	return d
}
