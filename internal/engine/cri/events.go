package cri

import (
	"context"
	"iter"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Changes implements engine.Engine. It yields once at the beginning.
func (e *Engine) Changes(ctx context.Context) iter.Seq[struct{}] { return e.watch.all(ctx) }

// followEvents passes containerd's events on until ctx ends. The stream ends with each containerd; what happened until
// the next one is there is not told, so a new stream counts as a change too.
func (e *Engine) followEvents(ctx context.Context) {
	for ctx.Err() == nil {
		stream, err := e.runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
		if err == nil {
			e.watch.send()
			for {
				event, err := stream.Recv()
				if err != nil {
					break
				}
				if event.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
					// It may be a pod's sandbox, whose address is gone then, or tell more of an end that is known.
					e.mu.Lock()
					e.cache.forget(event.ContainerId)
					e.mu.Unlock()
					e.witness.stopped(event)
				}
				e.watch.send()
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}
