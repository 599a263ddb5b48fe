package cli

import (
	"fmt"
	"slices"
)

// addNode adds a node with a pod of web for each of the names.
func (f *fakeServer) addNode(name string, pods ...string) {
	n := &node{
		Name: name, State: "READY", Pressures: []string{}, OS: "linux", Architecture: "amd64", Version: "v1.36.3", CreatedAt: 1.7e9, MilliCPU: 4000, Memory: 8 << 30, Pods: []nodePod{},
	}
	for _, p := range pods {
		n.Pods = append(n.Pods, nodePod{p, "web"})
		n.ReservedMem, n.ReservedCPU = n.ReservedMem+1<<29, n.ReservedCPU+250
	}
	f.nodes = append(f.nodes, n)
}

func (f *fakeServer) cordon(name string, cordoned bool) (any, error) {
	i := slices.IndexFunc(f.nodes, func(n *node) bool { return n.Name == name })
	switch {
	case i < 0:
		return nil, &fakeError{400, "NotFoundException", fmt.Sprintf("Node %q not found.", name)}
	case len(f.nodes) == 1:
		return nil, &fakeError{400, "InvalidInputException", fmt.Sprintf("Node %q is this machine.", name)}
	}
	n := f.nodes[i]
	n.Cordoned, n.State = cordoned, "READY"
	if cordoned {
		n.State = "CORDONED"
	}
	return map[string]any{"node": n}, nil
}

// moveOn moves one pod from a cordoned node to the last one. The pod named stuck stays.
func (f *fakeServer) moveOn() {
	last := f.nodes[len(f.nodes)-1]
	for _, n := range f.nodes {
		if !n.Cordoned || len(n.Pods) == 0 || n.Pods[0].ID == "stuck" || n == last {
			continue
		}
		last.Pods = append(last.Pods, nodePod{n.Pods[0].ID + "-again", "web"})
		n.Pods = n.Pods[1:]
		return
	}
}
