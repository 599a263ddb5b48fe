package cri

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	ctrns "github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

var _ engine.Executor = (*Engine)(nil)

const (
	// execStop bounds what is done with a command whose caller has gone.
	execStop = 10 * time.Second
	// execDrain is how long the output of a command that has ended is waited for: a process that it left behind may hold
	// it open for ever.
	execDrain = 2 * time.Second
)

// execDir is where the pipes of commands are. What a crash leaves there is removed at the next start.
func (c Config) execDir() string { return filepath.Join(c.StateDir, "exec") }

// Exec implements engine.Executor. It does what CRI's Exec does, without its detour over a web server of containerd: a
// further process of the container's task, with the container's own process as the pattern.
func (e *Engine) Exec(ctx context.Context, id trysail.PodID, name string, c trysail.Command) (exit int, err error) {
	task, spec, err := e.runningTask(ctx, id, name)
	if err != nil {
		return 0, err
	}
	spec.Args, spec.CommandLine, spec.Terminal = c.Args, "", c.TTY
	if c.TTY {
		spec.Env = append(spec.Env, "TERM=xterm")
	}
	// What the command needs is cleaned up also if ctx has ended.
	own, cancel := context.WithCancel(ctrns.WithNamespace(context.WithoutCancel(ctx), namespace))
	defer cancel()
	in := &endOfInput{Reader: c.Stdin, ended: make(chan struct{})}
	process, err := task.Exec(own, "exec-"+rand.Text(), spec, cio.NewCreator(func(s *cio.Streams) {
		s.Stdout, s.Stderr, s.Terminal, s.FIFODir = c.Stdout, c.Stderr, c.TTY, e.cfg.execDir()
		if c.Stdin != nil {
			s.Stdin = in
		}
		if c.TTY {
			s.Stderr = nil
		}
	}))
	if err != nil {
		return 0, execError(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(own, execStop)
		defer cancel()
		if _, derr := process.Delete(ctx, containerd.WithProcessKill); err == nil && derr != nil && !errdefs.IsNotFound(derr) {
			err = fmt.Errorf("cleaning up after the command: %w", derr)
		}
	}()
	ended, err := process.Wait(own)
	if err != nil {
		return 0, execError(err)
	}
	if err := process.Start(own); err != nil {
		return 0, execError(err)
	}
	return e.attend(ctx, own, process, c, in, ended)
}

// attend passes on the terminal's size and the end of the input until the command has ended.
func (e *Engine) attend(ctx, own context.Context, process containerd.Process, c trysail.Command, in *endOfInput, ended <-chan containerd.ExitStatus) (int, error) {
	resize, inputEnd := c.Resize, (<-chan struct{})(in.ended)
	for {
		select {
		case size, open := <-resize:
			if !open {
				resize = nil
				continue
			}
			// A command that has just ended has no terminal any more.
			_ = process.Resize(own, uint32(size.Columns), uint32(size.Rows))
		case <-inputEnd:
			inputEnd = nil
			_ = process.CloseIO(own, containerd.WithStdinCloser)
		case <-ctx.Done():
			stop, cancel := context.WithTimeout(own, execStop)
			defer cancel()
			if err := process.Kill(stop, syscall.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
				return 0, errors.Join(ctx.Err(), err)
			}
			select {
			case <-ended:
			case <-stop.Done():
			}
			return 0, ctx.Err()
		case status := <-ended:
			code, _, err := status.Result()
			if err != nil {
				return 0, execError(err)
			}
			drain(process)
			return int(code), nil
		}
	}
}

// drain waits for the last of the command's output.
func drain(process containerd.Process) {
	done := make(chan struct{})
	go func() {
		process.IO().Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(execDrain):
		process.IO().Cancel() // which ends the wait
		<-done
	}
}

// runningTask finds a running container, and what its process was started with. Errors: trysail.ErrNotRunning.
func (e *Engine) runningTask(ctx context.Context, id trysail.PodID, name string) (containerd.Task, *specs.Process, error) {
	sandboxes, err := e.list(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range sandboxes {
		for _, c := range s.containers {
			if c.Labels[labelContainer] != name || c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
				continue
			}
			ctx := ctrns.WithNamespace(ctx, namespace)
			found, err := e.containerd.LoadContainer(ctx, c.Id)
			if err != nil {
				return nil, nil, execError(err)
			}
			spec, err := found.Spec(ctx)
			if err != nil {
				return nil, nil, execError(err)
			}
			task, err := found.Task(ctx, nil)
			if err != nil {
				return nil, nil, execError(err)
			}
			return task, spec.Process, nil
		}
	}
	return nil, nil, fmt.Errorf("container %s of pod %s: %w", name, id, trysail.ErrNotRunning)
}

// execError sorts what containerd and runc say.
func execError(err error) error {
	const reason = "unable to start container process: "
	text := err.Error()
	switch _, after, ok := strings.Cut(text, reason); {
	case ok:
		return &trysail.CommandError{Reason: strings.TrimSuffix(after, ": unknown")}
	case errdefs.IsNotFound(err), errdefs.IsFailedPrecondition(err), strings.Contains(text, "cannot exec in a stopped"), strings.Contains(text, "process already finished"):
		return fmt.Errorf("%w: %w", trysail.ErrNotRunning, err)
	case isSilence(err):
		return fmt.Errorf("%w: %w", engine.ErrUnavailable, err)
	}
	return fmt.Errorf("running a command: %w", err)
}

// endOfInput tells when its reader has come to its end. Only then the shim may be told that there is no more.
type endOfInput struct {
	io.Reader

	ended chan struct{} // closed at the end; only the one copying goroutine reads
	told  bool
}

func (r *endOfInput) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !r.told {
		r.told = true
		close(r.ended)
	}
	return n, err
}
