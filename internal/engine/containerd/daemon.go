package containerd

import (
	"context"

	"github.com/containerd/containerd/v2/cmd/containerd/command"
)

// RunDaemon runs containerd until it is told to stop by SIGTERM, or fails. args is the whole command line, args[0]
// included. It may be called only once in the life of a process.
func RunDaemon(ctx context.Context, args []string) error {
	decompressAhead()
	return command.App().Run(ctx, args)
}
