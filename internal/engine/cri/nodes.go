package cri

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

var _ engine.Nodes = (*Engine)(nil)

// scarce is the share of memory or disk below which the machine runs short of it.
const scarce = 0.05

// Nodes implements engine.Nodes: this machine is the only one.
func (e *Engine) Nodes(ctx context.Context) ([]trysail.NodeState, error) {
	n, err := e.Node(ctx)
	if err != nil {
		return nil, err
	}
	m, err := e.Machine(ctx)
	if err != nil {
		return nil, err
	}
	s := trysail.NodeState{Node: n, Ready: true, CreatedAt: bootTime(control("/proc", "stat"))}
	for _, have := range []struct {
		what        string
		free, total int64
	}{{"disk", m.DiskFree, m.DiskTotal}, {"memory", m.MemoryFree, m.MemoryTotal}} {
		if float64(have.free) < scarce*float64(have.total) {
			s.Pressures = append(s.Pressures, have.what)
		}
	}
	if v, err := e.runtime.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		s.Ready, s.Message, s.Version = false, fmt.Sprintf("containerd does not answer: %v", err), "-"
	} else {
		s.Version = v.GetRuntimeName() + " " + v.GetRuntimeVersion()
	}
	pods, err := e.Pods(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if !p.Lost {
			s.Pods = append(s.Pods, trysail.NodePod{ID: p.ID, ServiceID: p.ServiceID}) // nothing is kept for anybody
		}
	}
	slices.SortFunc(s.Pods, func(a, b trysail.NodePod) int { return cmp.Compare(a.ID, b.ID) })
	return []trysail.NodeState{s}, nil
}

// Cordon implements engine.Nodes: there is nowhere else to go.
func (e *Engine) Cordon(ctx context.Context, node string, _ bool) error {
	n, err := e.Node(ctx)
	switch {
	case err != nil:
		return err
	case n.Name != node:
		return trysail.ErrNoNode
	}
	return trysail.ErrOnlyNode
}

// bootTime reads when the machine was started from the form of /proc/stat, or now if that does not tell.
func bootTime(stat []byte) time.Time {
	for line := range bytes.Lines(stat) {
		if f := bytes.Fields(line); len(f) == 2 && string(f[0]) == "btime" {
			if seconds, err := strconv.ParseInt(string(f[1]), 10, 64); err == nil {
				return time.Unix(seconds, 0)
			}
		}
	}
	return time.Now()
}
