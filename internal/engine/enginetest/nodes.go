package enginetest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

// able returns the engine's ability to tell of its nodes, or skips the test.
func (s *suite) able() engine.Nodes {
	s.Helper()
	n, ok := s.Engine.(engine.Nodes)
	if !ok {
		s.Skip("this engine does not tell of its nodes")
	}
	return n
}

func (s *suite) allNodes() []trysail.NodeState {
	s.Helper()
	list, err := s.able().Nodes(s.Context())
	if err != nil {
		s.Fatalf("Nodes: %v", err)
	}
	return list
}

// nodesOf names the nodes that list the pod.
func (s *suite) nodesOf(id trysail.PodID) (names []string) {
	s.Helper()
	for _, n := range s.allNodes() {
		for _, p := range n.Pods {
			if p.ID == id {
				names = append(names, n.Name)
			}
		}
	}
	return names
}

func (s *suite) nodes() {
	s.able()
	spec := s.spec("wait")
	s.start(spec)
	if on := s.nodesOf(spec.ID); len(on) != 1 {
		s.Fatalf("the pod is on the nodes %q", on)
	}
	list := s.allNodes()
	if !slices.IsSortedFunc(list, func(a, b trysail.NodeState) int { return strings.Compare(a.Name, b.Name) }) {
		s.Error("the nodes are not ordered by name")
	}
	for _, n := range list {
		if n.Name == "" || n.OS == "" || n.Architecture == "" || n.CPUs < 1 || n.Memory < 64<<20 || n.Version == "" || n.CreatedAt.IsZero() || n.CreatedAt.After(time.Now()) {
			s.Errorf("node %+v", n)
		}
		if n.Ready != (n.Message == "") {
			s.Errorf("node %s: ready %v, because %q", n.Name, n.Ready, n.Message)
		}
		for _, p := range n.Pods {
			if p.ID == spec.ID && p.ServiceID != spec.ServiceID {
				s.Errorf("pod %+v", p)
			}
		}
	}
	if _, err := s.Engine.Stop(s.Context(), spec.ID, 0); err != nil {
		s.Fatal(err)
	}
	s.wait("the pod is on no node", func() bool { return len(s.nodesOf(spec.ID)) == 0 })
}

func (s *suite) cordon() {
	able := s.able()
	if err := able.Cordon(s.Context(), "there-is-no-such-node", true); !errors.Is(err, trysail.ErrNoNode) {
		s.Errorf("Cordon of a node that is not there: %v", err)
	}
	spec := s.spec("wait")
	if p := s.start(spec); p.Leaving {
		s.Errorf("after Start: %+v", p)
	}
	on := s.nodesOf(spec.ID)[0]
	if len(s.allNodes()) == 1 {
		if err := able.Cordon(s.Context(), on, true); !errors.Is(err, trysail.ErrOnlyNode) {
			s.Errorf("Cordon of the only node: %v", err)
		}
		if s.pod(spec.ID).Leaving || s.allNodes()[0].Cordoned {
			s.Error("the only node is being emptied")
		}
		return
	}
	s.Cleanup(func() {
		if err := able.Cordon(context.WithoutCancel(s.Context()), on, false); err != nil {
			s.Errorf("ending it: %v", err)
		}
	})
	for range 2 {
		if err := able.Cordon(s.Context(), on, true); err != nil {
			s.Fatalf("Cordon: %v", err)
		}
	}
	if p := s.pod(spec.ID); !p.Leaving || !p.Running(1) {
		s.Errorf("on a node that is being emptied: %+v", p)
	}
	for _, n := range s.allNodes() {
		if n.Cordoned != (n.Name == on) {
			s.Errorf("node %s: cordoned %v", n.Name, n.Cordoned)
		}
	}
	other := s.spec("wait")
	if p := s.start(other); p.Leaving || slices.Contains(s.nodesOf(other.ID), on) {
		s.Errorf("a new pod is on a node that takes none: %+v", p)
	}
	if err := able.Cordon(s.Context(), on, false); err != nil {
		s.Fatalf("Cordon: %v", err)
	}
	if p := s.pod(spec.ID); p.Leaving {
		s.Errorf("on a node that takes pods again: %+v", p)
	}
}
