package engine

import (
	"context"

	"github.com/trysail/trysail"
)

// Executor is an optional ability of an Engine: running a command in a container, with its environment, user and limits,
// while the container runs. What the command writes is no part of the container's log.
type Executor interface {
	// Exec runs the command to its end and returns its exit code. When ctx ends, the command is killed and the error is
	// that of ctx. Errors: trysail.ErrNotRunning, *trysail.CommandError, ErrUnavailable.
	Exec(ctx context.Context, id trysail.PodID, container string, c trysail.Command) (exit int, err error)
}
