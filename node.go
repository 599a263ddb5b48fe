package trysail

import (
	"errors"
	"time"
)

// NodeState is a node with what is on it.
type NodeState struct {
	Node
	Version   string    // of what runs the containers there
	CreatedAt time.Time // since when it has been a node; of a single machine: since when it runs
	// Ready is true when the node is heard of and fit for pods; Message says why it is not.
	Ready   bool
	Message string
	// Cordoned is true when it takes no new pods, and those it has are replaced elsewhere.
	Cordoned bool
	// Pressures are what it runs short of: "memory", "disk", "processes", "network"; ordered.
	Pressures []string
	MaxPods   int       // of all, ours and others; 0: no limit
	Pods      []NodePod // ours, by ID
}

// NodePod is a pod on a node.
type NodePod struct {
	ID        PodID
	ServiceID string
	// Reserved is what of the node is kept for the pod. Zero where nothing is kept for anybody.
	Reserved Limits
}

// ErrNoNode says that there is no node of that name.
var ErrNoNode = errors.New("there is no such node")

// ErrOnlyNode says that a node cannot be emptied as there is no other and never will be.
var ErrOnlyNode = errors.New("this machine is the only node")

// Reserved is what of the node is kept for our pods, together.
func (n *NodeState) Reserved() (sum Limits) {
	for _, p := range n.Pods {
		sum.Memory += p.Reserved.Memory
		sum.MilliCPU += p.Reserved.MilliCPU
	}
	return sum
}

// TakesPods reports whether new pods may be put on the node.
func (n *NodeState) TakesPods() bool { return n.Ready && !n.Cordoned }

// Homeless are the pods of a node for which no other has room, as far as our own pods tell: what others have on the nodes
// is not known, so there may be less room than this says, never more. The largest pods are placed first.
func Homeless(nodes []NodeState, name string) (list []NodePod) {
	free := freeRoom(nodes, name)
	for _, p := range largestFirst(nodes, name) {
		if !place(free, p) {
			list = append(list, p)
		}
	}
	return list
}
