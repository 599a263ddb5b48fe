package cri

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/trysail/trysail/internal/engine"
)

func TestMarkSilence_TellsSilenceFromRefusal(t *testing.T) {
	for _, tc := range []struct {
		err    error
		silent bool
	}{
		{nil, false},
		{status.Error(codes.Unavailable, "connection refused"), true},
		{status.Error(codes.Unknown, "server is not initialized yet"), true},
		{status.Error(codes.Unknown, "failed to reserve sandbox name"), false},
		{status.Error(codes.NotFound, "no such sandbox"), false},
	} {
		invoke := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return tc.err }
		err := markSilence(t.Context(), "m", nil, nil, nil, invoke)
		if errors.Is(err, engine.ErrUnavailable) != tc.silent || status.Code(err) != status.Code(tc.err) {
			t.Errorf("%v: got %v, code %v", tc.err, err, status.Code(err))
		}
	}
}
