//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"

	"github.com/trysail/trysail/test/kit"
)

// said runs trysail and checks its exit status and that it says all of the words.
func said(t *testing.T, s *kit.Server, status int, words []string, args ...string) string {
	t.Helper()
	out, got := commandLine(t, s, args...)
	if got != status {
		t.Fatalf("trysail %s: status %d, want %d\n%s\n%s", strings.Join(args, " "), got, status, out, s.LogTail(30))
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("trysail %s: no %q in\n%s", strings.Join(args, " "), w, out)
		}
	}
	return out
}

// TestNodes_OneMachine: it is shown, and cannot be emptied.
func TestNodes_OneMachine(t *testing.T) {
	s := shared.server
	if s.InCluster() {
		t.Skip("the pods run in a cluster")
	}
	var list struct{ Nodes []struct{ Name string } }
	if err := json.Unmarshal([]byte(said(t, s, 0, nil, "nodes", "-o", "json")), &list); err != nil || len(list.Nodes) != 1 {
		t.Fatalf("nodes: %+v, %v", list, err)
	}
	name := list.Nodes[0].Name
	said(t, s, 0, []string{name, "READY"}, "nodes")
	for _, command := range []string{"cordon", "drain"} {
		said(t, s, 1, []string{"there is no other that could run its containers"}, "nodes", command, name)
	}
	said(t, s, 0, []string{"takes pods"}, "nodes", "uncordon", name)
}

// scales counts the healthy pods of services again and again, and remembers the fewest.
type scales struct {
	mu     sync.Mutex
	fewest map[string]int
	errs   []error

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func watchScales(t *testing.T, s *kit.Server, services ...string) *scales {
	ctx, cancel := context.WithCancel(t.Context())
	w := &scales{fewest: map[string]int{}, cancel: cancel}
	for _, service := range services {
		w.fewest[service] = 1 << 20
		w.wg.Go(func() {
			for ctx.Err() == nil {
				out, err := s.Run(ctx, "ps", service, "-o", "json")
				healthy := strings.Count(out, `"HEALTHY"`)
				w.mu.Lock()
				switch {
				case ctx.Err() != nil:
				case err != nil:
					w.errs = append(w.errs, err)
				default:
					w.fewest[service] = min(w.fewest[service], healthy)
				}
				w.mu.Unlock()
				select {
				case <-ctx.Done():
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	return w
}

// end returns the fewest pods that there were of each service.
func (w *scales) end() (map[string]int, []error) {
	w.cancel()
	w.wg.Wait()
	return w.fewest, w.errs
}

// TestNodes_DrainKeepsEveryServiceAtItsScale empties each node of the cluster in turn, with load on one service.
func TestNodes_DrainKeepsEveryServiceAtItsScale(t *testing.T) {
	if !shared.server.InCluster() {
		t.Skip("it needs a cluster")
	}
	s := dedicated(t, kit.ServerOptions{Flags: []string{"--activation-timeout", "60s", "--drain-timeout", "10s"}})
	c := clientOf(t, s)
	scale := map[string]int{"web": 3, "worker": 2, "single": 1}
	for service, n := range scale {
		c.create(service, types.ContainerServicePowerNameNano, int32(n))
		in := webDeployment(service, "web:1", nil)
		if service == "worker" {
			in.PublicEndpoint = nil
		}
		c.deploy(in)
	}
	for service := range scale {
		c.waitState(service, types.ContainerServiceStateRunning)
	}
	var nodes []string
	pods := func(node string) (names []string) {
		t.Helper()
		var list struct {
			Nodes []struct {
				Name, State string
				Pods        []struct{ ID, ServiceName string }
			}
		}
		if err := json.Unmarshal([]byte(said(t, s, 0, nil, "nodes", "-o", "json")), &list); err != nil {
			t.Fatal(err)
		}
		nodes = nil
		for _, n := range list.Nodes {
			nodes = append(nodes, n.Name)
			for _, p := range n.Pods {
				if n.Name == node {
					names = append(names, p.ID)
				}
			}
		}
		return names
	}
	pods("")
	if strings.Join(nodes, " ") != "n1 n2 n3" {
		t.Fatalf("nodes %v", nodes)
	}
	defer func() { // whatever happens
		for _, node := range nodes {
			_, _ = s.Run(context.WithoutCancel(t.Context()), "nodes", "uncordon", node)
		}
	}()
	t.Logf("trysail nodes\n%s", said(t, s, 0, []string{"n1", "n2", "n3", "READY", "v1."}, "nodes"))
	said(t, s, 1, []string{`Node "n9" not found. There is: n1, n2, n3.`}, "nodes", "drain", "n9")

	l := startLoad(t, c, c.url("web", "/"))
	w := watchScales(t, s, "web", "worker", "single")
	for _, node := range nodes {
		have := pods(node)
		out := said(t, s, 0, []string{fmt.Sprintf("Node %s is empty. When it shall take pods again: trysail nodes uncordon %s", node, node)}, "nodes", "drain", node)
		t.Logf("trysail nodes drain %s\n%s", node, out)
		for _, p := range have {
			if !strings.Contains(out, p+" has moved") {
				t.Errorf("nothing is said of %s", p)
			}
		}
		if left := pods(node); len(left) > 0 {
			t.Errorf("node %s has pods %v", node, left)
		}
		t.Logf("trysail nodes\n%s", said(t, s, 0, []string{"CORDONED"}, "nodes"))
		said(t, s, 0, []string{"Node " + node + " takes pods."}, "nodes", "uncordon", node)
	}

	// Without waiting; and a wait that is too short leaves the node as it is.
	busy := nodes[0]
	for _, node := range nodes {
		if len(pods(node)) > len(pods(busy)) {
			busy = node
		}
	}
	n := len(pods(busy))
	out := said(t, s, 1, []string{"uncordon " + busy, fmt.Sprintf("on %s: ", busy)}, "nodes", "drain", busy, "--timeout", "1ms")
	t.Logf("trysail nodes drain %s --timeout 1ms\n%s", busy, out)
	said(t, s, 0, []string{"Node " + busy + " takes no new pods; the "}, "nodes", "cordon", busy)
	c.eventually("the node to be empty", func() bool { return len(pods(busy)) == 0 })
	t.Logf("%d pods have left %s", n, busy)
	// With only one node left to take pods, that one cannot be emptied.
	rest := make([]string, 0, len(nodes))
	for _, node := range nodes {
		if node != busy {
			rest = append(rest, node)
		}
	}
	said(t, s, 0, nil, "nodes", "drain", rest[0])
	t.Logf("%s", said(t, s, 1, []string{"CAP-NOFIT: No other node takes pods (", "is cordoned"}, "nodes", "drain", rest[1]))
	for _, node := range nodes {
		said(t, s, 0, nil, "nodes", "uncordon", node)
	}
	said(t, s, 0, []string{"CordonNode", "UncordonNode", busy}, "audit", "-n", "20")

	fewest, errs := w.end()
	for service, n := range scale {
		if fewest[service] < n {
			t.Errorf("service %s had %d healthy pods, want %d at all times", service, fewest[service], n)
		}
	}
	for _, err := range errs {
		t.Errorf("counting pods: %v", err)
	}
	l.stop()
	t.Logf("%d requests, %v; the fewest healthy pods: %v", l.total, l.answers, fewest)
	for what, n := range l.failures {
		t.Errorf("%8d × FAILED %s", n, what)
	}
}
