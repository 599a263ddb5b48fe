package kube

import (
	"context"
	"iter"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/trysail/trysail"
)

// feed collects of which services pods have changed until somebody takes that.
type feed struct {
	wake chan struct{} // has something when there is something to take

	mu       sync.Mutex // guards all below
	services map[string]bool
	all      bool
}

// note adds the service of a pod, or all if it is nil.
func (f *feed) note(p *corev1.Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p == nil {
		f.all = true
	} else {
		f.services[p.Labels[labelServiceID]] = true
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// take returns the services that have been added since the last time, nil for all.
func (f *feed) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids := slices.AppendSeq(make([]string, 0, len(f.services)), maps.Keys(f.services)) // not nil
	clear(f.services)
	if f.all {
		f.all = false
		return nil
	}
	return ids
}

// ServicePods implements engine.Scoped.
func (e *Engine) ServicePods(ctx context.Context, serviceID string) (list []trysail.Pod, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, p := range e.watch.servicePods(serviceID) {
		list = append(list, e.podOf(p))
	}
	return list, nil
}

// ServiceChanges implements engine.Scoped. It yields once at the beginning.
func (e *Engine) ServiceChanges(ctx context.Context) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		f := &feed{wake: make(chan struct{}, 1), services: map[string]bool{}}
		f.note(nil)
		e.watch.mu.Lock()
		e.watch.feeds[f] = true
		e.watch.mu.Unlock()
		defer func() {
			e.watch.mu.Lock()
			defer e.watch.mu.Unlock()
			delete(e.watch.feeds, f)
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case <-f.wake:
			}
			if !yield(f.take()) {
				return
			}
		}
	}
}
