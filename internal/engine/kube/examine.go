package kube

import (
	"context"
	"runtime"
	"slices"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/autopsy"
)

// Examine implements engine.Examiner. The layers are read as they came: what runs them, and what it adds to them, is on
// the nodes and not known. So what is found is presumed until a start has shown it.
func (e *Engine) Examine(ctx context.Context, c trysail.ContainerSpec, ports []int) (trysail.Autopsy, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	s, fresh, err := e.pulls.hold(ctx, c.Image)
	if err != nil {
		return trysail.Autopsy{}, err
	}
	if fresh {
		defer e.pulls.release(c.Image, s)
	}
	var all []*autopsy.Index
	s.mu.Lock()
	for _, l := range slices.Backward(s.layers) {
		all = append(all, s.indexes[l.Digest])
	}
	s.mu.Unlock()
	root, err := autopsy.Stack(all)
	if err != nil {
		return trysail.Autopsy{}, err
	}
	defer root.Close()
	a := autopsy.Examine(root, autopsy.ContainerOf(s.config, c, ports), autopsy.Machine{Architecture: runtime.GOARCH})
	a.Presumed = true
	return a, nil
}
