package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

var _ engine.Executor = (*Memory)(nil)

// Exec implements engine.Executor: it runs the image's program once more, with the command as its command line. A program
// is only found under the name that the image's entrypoint has.
func (m *Memory) Exec(ctx context.Context, id trysail.PodID, name string, command trysail.Command) (exit int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	p := m.pods[id]
	if p == nil || p.containers[name] == nil || p.containers[name].status.State != trysail.ContainerRunning {
		m.mu.Unlock()
		return 0, fmt.Errorf("container %s of pod %s: %w", name, id, trysail.ErrNotRunning)
	}
	c := p.containers[name]
	m.mu.Unlock()
	if len(command.Args) == 0 || command.Args[0] != c.image.Entrypoint[0] {
		return 0, &trysail.CommandError{Reason: fmt.Sprintf("exec: %q: executable file not found in $PATH", slices.Concat(command.Args, []string{""})[0])}
	}
	killed := make(chan struct{})
	process := c.process()
	process.Args, process.Stdin, process.Stdout, process.Stderr, process.Term, process.Killed = command.Args, command.Stdin, command.Stdout, command.Stderr, nil, killed
	if process.Stdin == nil {
		process.Stdin = strings.NewReader("")
	}
	if command.TTY {
		process.Stderr = process.Stdout
		process.Size = followSize(command.Resize, killed)
	}
	done := make(chan int, 1)
	m.wg.Go(func() {
		code := oomExitCode
		defer func() { done <- code }() // also after runtime.Goexit
		code = c.image.Program(process)
	})
	defer close(killed)
	select {
	case code := <-done:
		return code, nil
	case <-c.ended:
		return oomExitCode, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// followSize returns a function that tells the newest size of a terminal.
func followSize(sizes <-chan trysail.TerminalSize, end <-chan struct{}) func() trysail.TerminalSize {
	var mu sync.Mutex
	var now trysail.TerminalSize // guarded by mu
	go func() {
		for {
			select {
			case size, open := <-sizes:
				if !open {
					return
				}
				mu.Lock()
				now = size
				mu.Unlock()
			case <-end:
				return
			}
		}
	}()
	return func() trysail.TerminalSize {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
}

// executor is the engine's ability, or the end of the test.
func (s *suite) executor() engine.Executor {
	s.Helper()
	x, ok := s.Engine.(engine.Executor)
	if !ok {
		s.Skip("this engine runs no commands")
	}
	return x
}

func (s *suite) execRuns() {
	x := s.executor()
	spec := s.spec("wait")
	spec.Containers[0].Environment = map[string]string{"COLOUR": "blue"}
	p := s.start(spec)
	var out, errs bytes.Buffer
	exit, err := x.Exec(s.Context(), p.ID, "a", trysail.Command{
		Args: []string{"/program", "say", "COLOUR", "to standard error", "3"}, Stdout: &out, Stderr: &errs,
	})
	if exit != 3 || err != nil || out.String() != "blue\n" || errs.String() != "to standard error\n" {
		s.Errorf("Exec: exit %d, %v, stdout %q, stderr %q", exit, err, &out, &errs)
	}
	if !func() bool { p, ok := s.find(spec.ID); return ok && p.Running(1) }() {
		s.Error("the end of the command has ended the pod")
	}
	// Much output comes whole.
	out.Reset()
	if exit, err := x.Exec(s.Context(), p.ID, "a", trysail.Command{Args: []string{"/program", "fill", "3000000"}, Stdout: &out, Stderr: io.Discard}); exit != 0 || err != nil || out.Len() != 3_000_000 {
		s.Errorf("Exec with much output: exit %d, %v, %d bytes", exit, err, out.Len())
	}
}

func (s *suite) execStdin() {
	x := s.executor()
	p := s.start(s.spec("wait"))
	text := strings.Repeat("all of this\n", 20_000)
	var out bytes.Buffer
	exit, err := x.Exec(s.Context(), p.ID, "a", trysail.Command{Args: []string{"/program", "cat"}, Stdin: strings.NewReader(text), Stdout: &out, Stderr: io.Discard})
	if exit != 0 || err != nil || out.String() != text {
		s.Errorf("Exec of cat: exit %d, %v, %d bytes of %d", exit, err, out.Len(), len(text))
	}
}

func (s *suite) execTerminal() {
	x := s.executor()
	p := s.start(s.spec("wait"))
	resize := make(chan trysail.TerminalSize, 2)
	resize <- trysail.TerminalSize{Columns: 101, Rows: 31}
	out := &watchedBuffer{news: make(chan struct{}, 1)}
	done := make(chan error, 1)
	var exit int
	stdin, keep := io.Pipe()
	defer keep.Close()
	go func() {
		var err error
		exit, err = x.Exec(s.Context(), p.ID, "a", trysail.Command{Args: []string{"/program", "terminal", "120x40"}, TTY: true, Stdin: stdin, Stdout: out, Resize: resize})
		done <- err
	}()
	s.wait("the program sees the first size", func() bool { return strings.Contains(out.String(), "101x31") })
	resize <- trysail.TerminalSize{Columns: 120, Rows: 40}
	if err := <-done; err != nil || exit != 0 || !strings.Contains(out.String(), "120x40") {
		s.Errorf("Exec with a terminal: exit %d, %v, output %q", exit, err, out)
	}
}

// watchedBuffer may be read while it is written to.
type watchedBuffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	news chan struct{}
}

func (b *watchedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *watchedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (s *suite) execErrors() {
	x := s.executor()
	p := s.start(s.spec("wait", "exit 0"))
	s.wait("container b has ended", func() bool { return status(s.pod(p.ID), "b").State == trysail.ContainerExited })
	run := func(id trysail.PodID, container string, args ...string) error {
		_, err := x.Exec(s.Context(), id, container, trysail.Command{Args: args, Stdout: io.Discard, Stderr: io.Discard})
		return err
	}
	for _, tt := range []struct {
		pod       trysail.PodID
		container string
	}{{"pod-that-never-was", "a"}, {p.ID, "z"}, {p.ID, "b"}} {
		if err := run(tt.pod, tt.container, "/program", "cat"); !errors.Is(err, trysail.ErrNotRunning) {
			s.Errorf("Exec in %s of %s: got %v, want ErrNotRunning", tt.container, tt.pod, err)
		}
	}
	err := run(p.ID, "a", "no-such-program")
	if e, ok := errors.AsType[*trysail.CommandError](err); !ok || !strings.HasPrefix(e.Reason, `exec: "no-such-program"`) {
		s.Errorf("Exec of a program that is not there: got %v, want a CommandError", err)
	}
}

func (s *suite) execCancelled() {
	x := s.executor()
	p := s.start(s.spec("wait"))
	ctx, cancel := context.WithCancel(s.Context())
	out := &watchedBuffer{}
	done := make(chan error, 1)
	go func() {
		_, err := x.Exec(ctx, p.ID, "a", trysail.Command{Args: []string{"/program", "print", "1", "0s"}, Stdout: out, Stderr: io.Discard})
		done <- err
	}()
	s.wait("the command runs", func() bool { return strings.Contains(out.String(), "line 0") })
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			s.Errorf("Exec whose context ended: got %v", err)
		}
	case <-time.After(patience):
		s.Fatal("Exec goes on after the end of its context")
	}
	if p := s.pod(p.ID); !p.Running(1) {
		s.Error("the end of the command has ended the pod")
	}
}
