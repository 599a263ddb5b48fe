package kube

import (
	"context"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"
)

// keeper makes things in the cluster as they shall be, one after the other and again after errors. What that is, is looked up
// when its turn comes.
type keeper struct {
	engine *Engine
	what   string // for the log
	queue  workqueue.TypedRateLimitingInterface[string]
	settle func(ctx context.Context, key string) error
}

const (
	firstKeeperRetry = 100 * time.Millisecond
	maxKeeperRetry   = time.Minute
)

func newKeeper(e *Engine, what string, settle func(ctx context.Context, key string) error) *keeper {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstKeeperRetry, maxKeeperRetry)
	return &keeper{engine: e, what: what, queue: workqueue.NewTypedRateLimitingQueue(limiter), settle: settle}
}

// run settles what is in the queue until ctx ends.
func (k *keeper) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, k.queue.ShutDown)
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			key, down := k.queue.Get()
			if down {
				return
			}
			if err := k.settle(ctx, key); err != nil && ctx.Err() == nil {
				k.engine.log.InfoContext(ctx, "it is tried again", "what", k.what, "of", key, "error", err)
				k.queue.AddRateLimited(key)
			} else {
				k.queue.Forget(key)
			}
			k.queue.Done(key)
		}
	})
	wg.Wait()
}
