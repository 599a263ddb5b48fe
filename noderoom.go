package trysail

import (
	"cmp"
	"slices"
)

// room is what a node has left.
type room struct {
	Limits
	pods      int
	boundless bool // the number of pods has no limit
}

// freeRoom is what the nodes other than the named one have left, that take pods of its kind.
func freeRoom(nodes []NodeState, name string) (free []room) {
	i := slices.IndexFunc(nodes, func(n NodeState) bool { return n.Name == name })
	for _, n := range nodes {
		if i < 0 || n.Name == name || !n.TakesPods() || n.OS != nodes[i].OS || n.Architecture != nodes[i].Architecture {
			continue
		}
		used := n.Reserved()
		free = append(free, room{
			Limits: Limits{MilliCPU: int64(n.CPUs)*1000 - used.MilliCPU, Memory: n.Memory - used.Memory},
			pods:   n.MaxPods - len(n.Pods), boundless: n.MaxPods == 0,
		})
	}
	return free
}

func largestFirst(nodes []NodeState, name string) (pods []NodePod) {
	for _, n := range nodes {
		if n.Name == name {
			pods = slices.Clone(n.Pods)
		}
	}
	slices.SortStableFunc(pods, func(a, b NodePod) int {
		return cmp.Or(cmp.Compare(b.Reserved.Memory, a.Reserved.Memory), cmp.Compare(b.Reserved.MilliCPU, a.Reserved.MilliCPU), cmp.Compare(a.ID, b.ID))
	})
	return pods
}

// place takes the pod's share from the node that has the least left of those that have enough.
func place(free []room, p NodePod) bool {
	best := -1
	for i, r := range free {
		fits := r.Memory >= p.Reserved.Memory && r.MilliCPU >= p.Reserved.MilliCPU && (r.boundless || r.pods > 0)
		if fits && (best < 0 || r.Memory < free[best].Memory) {
			best = i
		}
	}
	if best < 0 {
		return false
	}
	free[best].Memory -= p.Reserved.Memory
	free[best].MilliCPU -= p.Reserved.MilliCPU
	free[best].pods--
	return true
}
