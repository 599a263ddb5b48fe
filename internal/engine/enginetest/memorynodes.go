package enginetest

import (
	"cmp"
	"context"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

var _ engine.Nodes = (*Memory)(nil)

// AddNode adds a node like the first one. New pods go where the fewest are.
func (m *Memory) AddNode(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := trysail.NodeState{Node: m.node}
	n.Name, n.Architecture = name, runtime.GOARCH
	m.others = append(m.others, n)
	slices.SortFunc(m.others, func(a, b trysail.NodeState) int { return cmp.Compare(a.Name, b.Name) })
}

// Nodes implements engine.Nodes.
func (m *Memory) Nodes(ctx context.Context) ([]trysail.NodeState, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	list := append([]trysail.NodeState{{Node: m.node}}, m.others...)
	at := map[string]int{}
	for i := range list {
		n := &list[i]
		n.Version, n.Ready, n.CreatedAt, n.Cordoned = "memory", true, time.Now().Add(-time.Hour), m.cordoned[n.Name]
		at[n.Name] = i
	}
	for _, id := range slices.Sorted(maps.Keys(m.pods)) {
		p := m.pods[id]
		if i, ok := at[p.node]; ok && !p.pod.Lost {
			list[i].Pods = append(list[i].Pods, trysail.NodePod{ID: id, ServiceID: p.pod.ServiceID, Reserved: trysail.Limits{Memory: p.limits.Memory}})
		}
	}
	slices.SortFunc(list, func(a, b trysail.NodeState) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// Cordon implements engine.Nodes.
func (m *Memory) Cordon(ctx context.Context, node string, cordoned bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case node != m.node.Name && !slices.ContainsFunc(m.others, func(n trysail.NodeState) bool { return n.Name == node }):
		return trysail.ErrNoNode
	case len(m.others) == 0:
		return trysail.ErrOnlyNode
	}
	m.cordoned[node] = cordoned
	m.changedLocked()
	return nil
}

// chooseLocked is the node for the next pod: of those that take pods the one with the fewest.
func (m *Memory) chooseLocked() string {
	if len(m.others) == 0 {
		return m.node.Name
	}
	count := map[string]int{}
	for _, p := range m.pods {
		count[p.node]++
	}
	best := ""
	for _, name := range append([]string{m.node.Name}, namesOf(m.others)...) {
		if !m.cordoned[name] && (best == "" || count[name] < count[best]) {
			best = name
		}
	}
	return cmp.Or(best, m.node.Name)
}

func namesOf(nodes []trysail.NodeState) (names []string) {
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	return names
}
