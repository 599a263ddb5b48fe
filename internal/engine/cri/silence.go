package cri

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/trysail/trysail/internal/engine"
)

// notUp is what CRI answers between the start of containerd and the end of its own recovery, with code Unknown.
const notUp = "server is not initialized yet"

// markSilence puts engine.ErrUnavailable into the chain of each error that means that containerd does not answer, so
// that no caller takes its restart for a fault of the pod.
func markSilence(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if isSilence(err) {
		return fmt.Errorf("%w: %w", engine.ErrUnavailable, err)
	}
	return err
}

func isSilence(err error) bool {
	return status.Code(err) == codes.Unavailable || err != nil && strings.Contains(err.Error(), notUp)
}
