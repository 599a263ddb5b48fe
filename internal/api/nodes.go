package api

import (
	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

func readNodeName(m members) string { return zeroIfNil(m.require("nodeName").string("nodeName")) }

type nodesResult struct {
	Nodes []node `json:"nodes"`
}

type nodeResult struct {
	Node node `json:"node"`
}

// node is a node on the wire. Memory is in bytes, CPU in thousandths.
type node struct {
	Name         string    `json:"name"`
	State        string    `json:"state"` // READY, CORDONED or NOT_READY
	Message      string    `json:"message,omitempty"`
	Cordoned     bool      `json:"cordoned"`
	Pressures    []string  `json:"pressures"`
	OS           string    `json:"os"`
	Architecture string    `json:"architecture"`
	Version      string    `json:"version"`
	CreatedAt    float64   `json:"createdAt"`
	MilliCPU     int64     `json:"milliCpu"`
	Memory       int64     `json:"memory"`
	ReservedCPU  int64     `json:"reservedMilliCpu"`
	ReservedMem  int64     `json:"reservedMemory"`
	MaxPods      int       `json:"maxPods,omitempty"`
	Pods         []nodePod `json:"pods"`
}

type nodePod struct {
	ID          trysail.PodID `json:"id"`
	ServiceName string        `json:"serviceName,omitempty"`
}

func (v view) nodesResult(list []control.Node) nodesResult {
	answer := nodesResult{make([]node, len(list))}
	for i := range list {
		answer.Nodes[i] = newNode(&list[i])
	}
	return answer
}

func (v view) nodeResult(n *control.Node) nodeResult { return nodeResult{newNode(n)} }

func newNode(n *control.Node) node {
	reserved := n.Reserved()
	shown := node{
		Name: n.Name, State: "READY", Message: n.Message, Cordoned: n.Cordoned, Pressures: n.Pressures, OS: n.OS, Architecture: n.Architecture, Version: n.Version,
		CreatedAt: seconds(n.CreatedAt), MilliCPU: int64(n.CPUs) * 1000, Memory: n.Memory, ReservedCPU: reserved.MilliCPU, ReservedMem: reserved.Memory,
		MaxPods: n.MaxPods, Pods: make([]nodePod, len(n.Pods)),
	}
	switch {
	case !n.Ready:
		shown.State = "NOT_READY"
	case n.Cordoned:
		shown.State = "CORDONED"
	}
	if shown.Pressures == nil {
		shown.Pressures = []string{}
	}
	for i, p := range n.Pods {
		shown.Pods[i] = nodePod{p.ID, n.Services[p.ServiceID]}
	}
	return shown
}
