package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

var _ engine.Executor = (*Engine)(nil)

// notStarted are a runtime's words for a command that it cannot start.
var notStarted = []string{"OCI runtime exec failed", "failed to exec in container", "failed to start exec", "executable file not found", "no such file or directory", "permission denied"}

// Exec implements engine.Executor.
func (e *Engine) Exec(ctx context.Context, id trysail.PodID, container string, c trysail.Command) (exit int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if p := e.watch.pod(id); p == nil || !slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		return s.Name == container && s.State.Running != nil
	}) {
		return 0, fmt.Errorf("container %s of pod %s: %w", container, id, trysail.ErrNotRunning)
	}
	options := &corev1.PodExecOptions{Container: container, Command: c.Args, Stdin: c.Stdin != nil, Stdout: true, Stderr: !c.TTY, TTY: c.TTY}
	address := e.api.core.Get().Namespace(e.api.namespace).Resource("pods").Name(string(id)).SubResource("exec").VersionedParams(options, e.api.codec).URL()
	executor, err := remotecommand.NewWebSocketExecutor(e.api.config, "GET", address.String())
	if err != nil {
		return 0, fmt.Errorf("running a command in a pod of the cluster: %w", err)
	}
	streams := remotecommand.StreamOptions{Stdin: c.Stdin, Stdout: c.Stdout, Tty: c.TTY}
	if !c.TTY {
		streams.Stderr = c.Stderr
	}
	done := make(chan struct{})
	defer close(done)
	if c.TTY && c.Resize != nil {
		streams.TerminalSizeQueue = sizes{c.Resize, done}
	}
	return e.execResult(ctx, executor.StreamWithContext(ctx, streams))
}

// execResult is what came of a command.
func (e *Engine) execResult(ctx context.Context, err error) (exit int, _ error) {
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if code, ok := errors.AsType[exec.CodeExitError](err); ok {
		return code.Code, nil
	}
	switch {
	case err == nil:
		return 0, nil
	case slices.ContainsFunc(notStarted, func(words string) bool { return strings.Contains(err.Error(), words) }):
		return 0, &trysail.CommandError{Reason: withoutWrapping(err.Error())}
	case apierrors.IsNotFound(err) || strings.Contains(err.Error(), "container not found"):
		return 0, fmt.Errorf("%w: %w", trysail.ErrNotRunning, err)
	}
	return 0, e.api.explain(fmt.Errorf("running a command in a pod of the cluster: %w", err))
}

// withoutWrapping is what runc says, without what all those add who hand it on. Other runtimes are quoted as a whole.
func withoutWrapping(text string) string {
	if _, after, ok := strings.Cut(text, "unable to start container process: "); ok {
		text = after
	}
	return strings.TrimSuffix(text, ": unknown")
}

// sizes hands on the sizes of a terminal until the command has ended.
type sizes struct {
	from <-chan trysail.TerminalSize
	done <-chan struct{}
}

// Next implements remotecommand.TerminalSizeQueue.
func (s sizes) Next() *remotecommand.TerminalSize {
	select {
	case size, ok := <-s.from:
		if ok {
			return &remotecommand.TerminalSize{Width: size.Columns, Height: size.Rows}
		}
	case <-s.done:
	}
	return nil
}
