package main

import (
	"context"
	"sync"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/edge"
)

// gateTime is how long the first requests are held off for routes that are not there yet.
const gateTime = 10 * time.Second

// gate is the edge as the reconciler sees it. It notes for which services the edge has been told something, so that
// the edge need not be opened before.
type gate struct {
	*edge.Edge

	mu   sync.Mutex // guards seen
	seen map[string]bool
	news chan struct{} // holds one token when seen has grown
}

func newGate(e *edge.Edge) *gate {
	return &gate{Edge: e, seen: map[string]bool{}, news: make(chan struct{}, 1)}
}

// Apply is the edge's.
func (g *gate) Apply(r trysail.Route) {
	g.Edge.Apply(r)
	g.note(r.Service)
}

// Remove is the edge's.
func (g *gate) Remove(service string) {
	g.Edge.Remove(service)
	g.note(service)
}

func (g *gate) note(service string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.seen[service] {
		return
	}
	g.seen[service] = true
	select {
	case g.news <- struct{}{}:
	default:
	}
}

// wait returns when the edge knows all the services, or after gateTime those that it does not know.
func (g *gate) wait(ctx context.Context, services []trysail.Service) (missing []string) {
	ctx, cancel := context.WithTimeout(ctx, gateTime)
	defer cancel()
	for {
		missing = missing[:0]
		g.mu.Lock()
		for _, s := range services {
			if !g.seen[s.Name] {
				missing = append(missing, s.Name)
			}
		}
		g.mu.Unlock()
		if len(missing) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return missing
		case <-g.news:
		}
	}
}
