package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// Nodes is what an engine knows of the machines that it runs pods on.
type Nodes interface {
	Nodes(ctx context.Context) ([]trysail.NodeState, error)
	// Cordon says whether a node takes new pods. Errors: trysail.ErrNoNode, trysail.ErrOnlyNode.
	Cordon(ctx context.Context, node string, cordoned bool) error
}

// Node is a node with the services of its pods.
type Node struct {
	trysail.NodeState
	Services map[string]string // names by id; a pod whose service is not there is about to be ended
}

// ListNodes lists the nodes, by name, with the pods on each.
func (c *Control) ListNodes(ctx context.Context, caller trysail.Caller) (list []Node, err error) {
	if err := caller.May(trysail.RoleRead, "ListNodes", ""); err != nil {
		return nil, err
	}
	return c.nodes(ctx)
}

func (c *Control) nodes(ctx context.Context) (list []Node, err error) {
	if c.Nodes == nil {
		return nil, trysail.Errorf(trysail.CodeUnsupported, "This Trysail does not know its nodes.")
	}
	states, err := c.Nodes.Nodes(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking the engine for its nodes: %w", err)
	}
	names := map[string]string{}
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		services, err := tx.Services()
		for _, s := range services {
			names[s.ID] = s.Name
		}
		return err
	})
	for _, s := range states {
		list = append(list, Node{s, names})
	}
	return list, err
}

// CordonNode makes a node take no new pods. Those that it has are replaced on other nodes, one for one: each goes when
// the one that replaces it is healthy. Errors: NotFound, Invalid (there is no other node, or none with room).
func (c *Control) CordonNode(ctx context.Context, caller trysail.Caller, name string) (_ *Node, err error) {
	defer c.auditFailure(ctx, caller, "CordonNode", name, &err)
	if err := caller.May(trysail.RoleAdmin, "CordonNode", ""); err != nil {
		return nil, err
	}
	list, err := c.nodes(ctx)
	if err != nil {
		return nil, err
	}
	if err := mayEmpty(list, name); err != nil {
		return nil, err
	}
	return c.cordon(ctx, caller, "CordonNode", name, true)
}

// UncordonNode makes a node take pods again. What has moved stays where it is. Errors: NotFound, Invalid (the only node).
func (c *Control) UncordonNode(ctx context.Context, caller trysail.Caller, name string) (_ *Node, err error) {
	defer c.auditFailure(ctx, caller, "UncordonNode", name, &err)
	if err := caller.May(trysail.RoleAdmin, "UncordonNode", ""); err != nil {
		return nil, err
	}
	return c.cordon(ctx, caller, "UncordonNode", name, false)
}

func (c *Control) cordon(ctx context.Context, caller trysail.Caller, operation, name string, cordoned bool) (*Node, error) {
	list, err := c.nodes(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(list, func(n Node) bool { return n.Name == name }) {
		return nil, noNode(list, name)
	}
	if len(list) == 1 && cordoned {
		return nil, errOnlyNode(name)
	}
	if _, err := c.change(ctx, caller, operation, name, func(*store.Tx) error { return nil }); err != nil {
		return nil, err
	}
	err = c.Nodes.Cordon(ctx, name, cordoned)
	switch {
	case errors.Is(err, trysail.ErrNoNode):
		return nil, noNode(list, name)
	case errors.Is(err, trysail.ErrOnlyNode) && !cordoned:
		// It takes pods, and always has.
	case errors.Is(err, trysail.ErrOnlyNode):
		return nil, errOnlyNode(name)
	case err != nil:
		return nil, fmt.Errorf("changing the node: %w", err)
	}
	if list, err = c.nodes(ctx); err != nil {
		return nil, err
	}
	for i := range list {
		if list[i].Name == name {
			return &list[i], nil
		}
	}
	return nil, noNode(list, name)
}

func noNode(list []Node, name string) error {
	var names []string
	for _, n := range list {
		names = append(names, n.Name)
	}
	return trysail.Errorf(trysail.CodeNotFound, "Node %q not found. There is: %s.", name, strings.Join(names, ", "))
}

func errOnlyNode(name string) error {
	return trysail.Errorf(trysail.CodeInvalid, "Node %q is this machine, and there is no other that could run its containers, so it cannot be emptied. "+
		"Containers keep running while Trysail is restarted or upgraded; a reboot of the machine interrupts them. "+
		"To work on machines one by one, move to a cluster: docs/migrate.md.", name)
}

// mayEmpty refuses what would only make pods wait for a place. A node that is being emptied already is not refused.
func mayEmpty(list []Node, name string) error {
	states := make([]trysail.NodeState, len(list))
	for i, n := range list {
		states[i] = n.NodeState
	}
	i := slices.IndexFunc(list, func(n Node) bool { return n.Name == name })
	switch {
	case i < 0:
		return noNode(list, name)
	case len(list) == 1:
		return errOnlyNode(name)
	case list[i].Cordoned:
		return nil
	}
	if !slices.ContainsFunc(states, func(n trysail.NodeState) bool { return n.Name != name && n.TakesPods() }) {
		return trysail.Errorf(trysail.CodeInvalid, "CAP-NOFIT: No other node takes pods (%s), so the pods of node %q have nowhere to go. Uncordon or repair another node first.",
			strings.Join(whyNot(states, name), "; "), name)
	}
	homeless := trysail.Homeless(states, name)
	if len(homeless) == 0 {
		return nil
	}
	var need int64
	for _, p := range homeless {
		need += p.Reserved.Memory
	}
	services := map[string]bool{}
	var named []string
	for _, p := range homeless {
		if s := list[i].Services[p.ServiceID]; s != "" && !services[s] {
			services[s] = true
			named = append(named, s)
		}
	}
	slices.Sort(named)
	return trysail.Errorf(trysail.CodeInvalid, "CAP-NOFIT: The other nodes have no room for %d of the %d pods of node %q (of %s), which need %.1f GB more memory or as much CPU. "+
		"Add a node, uncordon one, or choose a smaller power or scale.", len(homeless), len(states[i].Pods), name, strings.Join(named, ", "), float64(need)/(1<<30))
}

// whyNot says of each other node why it takes no pods.
func whyNot(states []trysail.NodeState, name string) (list []string) {
	for _, n := range states {
		switch {
		case n.Name == name:
		case n.Cordoned:
			list = append(list, n.Name+" is cordoned")
		case !n.Ready:
			list = append(list, n.Name+" is not ready")
		}
	}
	return list
}
