package reconcile_test

import (
	"context"
	"errors"
	"iter"
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
	"github.com/trysail/trysail/internal/engine/enginetest"
)

// scoped is an engine that speaks of single services, and of nothing else.
type scoped struct{ *enginetest.Memory }

var _ engine.Scoped = scoped{}

func (scoped) Pods(context.Context) ([]trysail.Pod, error) {
	return nil, errors.New("there are too many pods")
}

func (e scoped) byService(ctx context.Context) map[string][]trysail.Pod {
	pods, _ := e.Memory.Pods(ctx)
	services := map[string][]trysail.Pod{}
	for _, p := range pods {
		services[p.ServiceID] = append(services[p.ServiceID], p)
	}
	return services
}

func (e scoped) ServicePods(ctx context.Context, serviceID string) ([]trysail.Pod, error) {
	return e.byService(ctx)[serviceID], nil
}

func (e scoped) ServiceChanges(ctx context.Context) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		before := map[string][]trysail.Pod{}
		for range e.Changes(ctx) {
			now := e.byService(ctx)
			ids := []string{}
			for _, id := range slices.Sorted(maps.Keys(now)) {
				if !reflect.DeepEqual(before[id], now[id]) {
					ids = append(ids, id)
				}
			}
			for id := range before {
				if now[id] == nil {
					ids = append(ids, id)
				}
			}
			before = now
			if !yield(ids) {
				return
			}
		}
	}
}

// TestReconciler_LooksAtSingleServices: with an engine that can tell the pods of one service from all others, nothing
// that happens to a service needs a look at all pods.
func TestReconciler_LooksAtSingleServices(t *testing.T) {
	in := install(t)
	in.stop()
	in.startOn(scoped{in.engine})
	in.create(2)
	in.deploy("web-1")
	in.waitState(trysail.ServiceRunning)
	in.serves("version 1")
	in.deploy("web-2")
	in.waitState(trysail.ServiceRunning)
	in.serves("version 2")
	in.wait("two pods", func() bool { return in.pods() == 2 })
	pods, err := in.engine.Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !in.engine.Crash(pods[0].ID, "app", 1) {
		t.Fatal("nothing to crash")
	}
	in.wait("another pod in place of the one that crashed", func() bool {
		now, err := in.engine.Pods(t.Context())
		return err == nil && len(now) == 2 && !slices.ContainsFunc(now, func(p trysail.Pod) bool { return p.ID == pods[0].ID })
	})
	in.deploy("crash")
	in.wait("the failure of version 3", func() bool { return in.service().Next == nil })
	in.serves("version 2")
}
