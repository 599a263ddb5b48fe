package trysail_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/trysail/trysail"
)

func nodeState(name string, memory int64, pods ...int64) trysail.NodeState {
	n := trysail.NodeState{Node: trysail.Node{Name: name, OS: "linux", Architecture: "amd64", CPUs: 4, Memory: memory}, Ready: true}
	for i, p := range pods {
		n.Pods = append(n.Pods, trysail.NodePod{ID: trysail.PodID(fmt.Sprintf("%s-%d", name, i)), Reserved: trysail.Limits{Memory: p, MilliCPU: 100}})
	}
	return n
}

func TestHomeless_NamesThePodsWithoutRoomElsewhere(t *testing.T) {
	with := func(n trysail.NodeState, change func(*trysail.NodeState)) trysail.NodeState {
		change(&n)
		return n
	}
	full := nodeState("a", 10, 4, 4)
	for _, tt := range []struct {
		name  string
		nodes []trysail.NodeState
		want  int
	}{
		{"nowhere", []trysail.NodeState{full}, 2},
		{"both fit on one", []trysail.NodeState{full, nodeState("b", 8)}, 0},
		{"one on each", []trysail.NodeState{full, nodeState("b", 5), nodeState("c", 5)}, 0},
		{"half", []trysail.NodeState{full, nodeState("b", 8, 4)}, 1},
		{"the other is cordoned", []trysail.NodeState{full, with(nodeState("b", 8), func(n *trysail.NodeState) { n.Cordoned = true })}, 2},
		{"the other is not heard of", []trysail.NodeState{full, with(nodeState("b", 8), func(n *trysail.NodeState) { n.Ready = false })}, 2},
		{"another processor", []trysail.NodeState{full, with(nodeState("b", 8), func(n *trysail.NodeState) { n.Architecture = "arm64" })}, 2},
		{"too little CPU", []trysail.NodeState{full, with(nodeState("b", 8), func(n *trysail.NodeState) { n.CPUs = 0 })}, 2},
		{"room for one pod more", []trysail.NodeState{full, with(nodeState("b", 80, 1), func(n *trysail.NodeState) { n.MaxPods = 2 })}, 1},
		{"the node is unknown", []trysail.NodeState{nodeState("b", 8)}, 0},
	} {
		if got := trysail.Homeless(tt.nodes, "a"); len(got) != tt.want {
			t.Errorf("%s: %v have no room, want %d", tt.name, got, tt.want)
		}
	}
}

// What is said to fit does: a node is never given more than it has.
func TestHomeless_NeverPromisesMoreThanThereIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pods := rapid.SliceOfN(rapid.Int64Range(1, 8), 0, 12).Draw(t, "pods")
		nodes := []trysail.NodeState{nodeState("a", 100, pods...)}
		var free, sum int64
		for i, m := range rapid.SliceOfN(rapid.Int64Range(0, 12), 0, 6).Draw(t, "others") {
			nodes = append(nodes, nodeState(fmt.Sprint("n", i), m))
			free += m
		}
		left := map[trysail.PodID]bool{}
		for _, p := range trysail.Homeless(nodes, "a") {
			left[p.ID] = true
		}
		for _, p := range nodes[0].Pods {
			if !left[p.ID] {
				sum += p.Reserved.Memory
			}
		}
		if sum > free {
			t.Fatalf("%d of memory placed into %d", sum, free)
		}
	})
}
