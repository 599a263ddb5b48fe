package control_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/store"
)

// machines are nodes without an engine.
type machines struct {
	list []trysail.NodeState
}

func (m *machines) Nodes(context.Context) ([]trysail.NodeState, error) {
	return slices.Clone(m.list), nil
}

func (m *machines) Cordon(_ context.Context, name string, cordoned bool) error {
	i := slices.IndexFunc(m.list, func(n trysail.NodeState) bool { return n.Name == name })
	switch {
	case i < 0:
		return trysail.ErrNoNode
	case len(m.list) == 1:
		return trysail.ErrOnlyNode
	}
	m.list[i].Cordoned = cordoned
	return nil
}

func machine(name string, memory int64, services ...string) trysail.NodeState {
	n := trysail.NodeState{Node: trysail.Node{Name: name, OS: "linux", Architecture: "amd64", CPUs: 2, Memory: memory << 30}, Ready: true}
	for _, s := range services {
		n.Pods = append(n.Pods, trysail.NodePod{ID: trysail.PodID(name + "-" + s), ServiceID: s, Reserved: trysail.Limits{Memory: 1 << 30}})
	}
	return n
}

func newNodesBed(t *testing.T, nodes ...trysail.NodeState) (*bed, *machines) {
	m := &machines{list: nodes}
	b := newBed(t, func(c *control.Config) { c.Nodes = m })
	b.create("web", trysail.ServiceRunning, trysail.DeploymentActive)
	b.update(func(tx *store.Tx) error {
		s, err := tx.Service("web")
		for i := range m.list {
			for j := range m.list[i].Pods {
				m.list[i].Pods[j].ServiceID = s.ID
			}
		}
		return err
	})
	return b, m
}

func TestCordonNode_EmptiesANodeAndIsRecorded(t *testing.T) {
	b, m := newNodesBed(t, machine("a", 4, "web"), machine("b", 4))
	n, err := b.CordonNode(t.Context(), caller, "a")
	if err != nil || !n.Cordoned || n.Services[n.Pods[0].ServiceID] != "web" || !m.list[0].Cordoned {
		t.Fatalf("CordonNode: %+v, %v", n, err)
	}
	if _, err := b.CordonNode(t.Context(), caller, "a"); err != nil {
		t.Errorf("once more: %v", err)
	}
	if n, err = b.UncordonNode(t.Context(), caller, "a"); err != nil || n.Cordoned {
		t.Errorf("UncordonNode: %+v, %v", n, err)
	}
	page, err := b.GetAuditTrail(t.Context(), caller, control.GetAuditTrailInput{})
	if err != nil || page.Events[0].Operation != "UncordonNode" || page.Events[0].Resource != "a" || page.Events[0].Service != "" || page.Events[1].Operation != "CordonNode" {
		t.Errorf("the audit trail has %+v, %v", page, err)
	}
	list, err := b.ListNodes(t.Context(), trysail.Caller{Name: "eyes", Role: trysail.RoleRead})
	if err != nil || len(list) != 2 {
		t.Errorf("ListNodes: %+v, %v", list, err)
	}
	for _, who := range []trysail.Caller{{Name: "ci", Role: trysail.RoleDeploy}, {Name: "web", Role: trysail.RoleAdmin, Services: []string{"web"}}} {
		if _, err := b.CordonNode(t.Context(), who, "a"); trysail.ErrorCode(err) != trysail.CodeAccessDenied {
			t.Errorf("%s may cordon: %v", who.Name, err)
		}
	}
}

func TestCordonNode_RefusesWhatLeadsNowhere(t *testing.T) {
	sick := machine("c", 4)
	sick.Ready, sick.Message = false, "kubelet stopped"
	cordoned := machine("b", 4)
	cordoned.Cordoned = true
	for _, tt := range []struct {
		name  string
		nodes []trysail.NodeState
		node  string
		code  trysail.Code
		want  string
	}{
		{"unknown", []trysail.NodeState{machine("a", 4), machine("b", 4)}, "x", trysail.CodeNotFound, `Node "x" not found. There is: a, b.`},
		{"one machine", []trysail.NodeState{machine("a", 4, "web")}, "a", trysail.CodeInvalid, "docs/migrate.md"},
		{"nobody else", []trysail.NodeState{machine("a", 4, "web"), cordoned, sick}, "a", trysail.CodeInvalid, "CAP-NOFIT: No other node takes pods (b is cordoned; c is not ready)"},
		{"no room", []trysail.NodeState{machine("a", 4, "web", "web"), machine("b", 2, "web")}, "a", trysail.CodeInvalid, `no room for 1 of the 2 pods of node "a" (of web), which need 1.0 GB more memory`},
	} {
		b, m := newNodesBed(t, tt.nodes...)
		_, err := b.CordonNode(t.Context(), caller, tt.node)
		e, ok := errors.AsType[*trysail.Error](err)
		if !ok || e.Code != tt.code || !strings.Contains(e.Message, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if m.list[0].Cordoned {
			t.Errorf("%s: it was cordoned all the same", tt.name)
		}
	}
	b, _ := newNodesBed(t, machine("a", 4, "web"))
	if n, err := b.UncordonNode(t.Context(), caller, "a"); err != nil || n.Cordoned {
		t.Errorf("UncordonNode of the only machine: %+v, %v", n, err)
	}
}
