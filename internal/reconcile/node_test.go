package reconcile_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
)

// TestReconciler_EmptiesNodesAtFullScale drains every node in turn under load: no request fails, and there are never
// fewer healthy pods than the service's scale.
func TestReconciler_EmptiesNodesAtFullScale(t *testing.T) {
	in := install(t)
	in.engine.AddNode("node-b")
	in.engine.AddNode("node-c")
	const scale = 3
	in.create(scale)
	in.deploy("web-1")
	in.waitState("RUNNING")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var load sync.WaitGroup
	var requests atomic.Int64
	for range 4 {
		load.Go(func() {
			for ctx.Err() == nil {
				if status, body := in.get(); status != 200 {
					t.Errorf("request %d: %d %s", requests.Load(), status, body)
				}
				requests.Add(1)
			}
		})
	}
	load.Go(func() {
		for ctx.Err() == nil {
			if n := in.healthy(); n < scale {
				t.Errorf("%d healthy pods", n)
				return
			}
		}
	})
	for _, node := range []string{"memory", "node-b", "node-c"} {
		before := requests.Load()
		in.cordon(node, true)
		in.wait(node+" is empty", func() bool { return in.podsOn(node) == 0 })
		in.wait("nothing is left over", func() bool { return in.pods() == scale })
		in.cordon(node, false)
		in.wait("traffic", func() bool { return requests.Load() > before+50 })
	}
	cancel()
	load.Wait()
	t.Logf("%d requests", requests.Load())
}

// healthy counts the pods that the edge finds healthy.
func (in *installation) healthy() (n int) {
	for _, h := range in.edge.Health("web") {
		if h.Healthy {
			n++
		}
	}
	return n
}

func (in *installation) cordon(node string, cordoned bool) {
	in.t.Helper()
	if err := in.engine.Cordon(in.t.Context(), node, cordoned); err != nil {
		in.t.Fatal(err)
	}
}

func (in *installation) podsOn(node string) int {
	in.t.Helper()
	list, err := in.engine.Nodes(in.t.Context())
	if err != nil {
		in.t.Fatal(err)
	}
	for _, n := range list {
		if n.Name == node {
			return len(n.Pods)
		}
	}
	return 0
}
