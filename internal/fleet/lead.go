package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// Lead is all edges as the reconciler of the leader sees them. It is used under the context of the lead.
type Lead struct{ fleet *Fleet }

// Lead begins with what the leader before has written.
func (f *Fleet) Lead(ctx context.Context) (*Lead, error) {
	if err := f.follow(ctx); err != nil {
		return nil, fmt.Errorf("reading the routes: %w", err)
	}
	f.mu.Lock()
	f.lead, f.epoch = ctx, store.Epoch(ctx)
	f.mu.Unlock()
	context.AfterFunc(ctx, f.tell)
	f.tell()
	return &Lead{f}, nil
}

// Apply implements reconcile.Router: the route is written, and so done by all edges soon.
func (l *Lead) Apply(ctx context.Context, route trysail.Route) error {
	text, err := json.Marshal(route)
	if err != nil {
		return fmt.Errorf("encoding the route of %s: %w", route.Service, err)
	}
	f := l.fleet
	f.mu.Lock()
	have, there := f.routes[route.ServiceID]
	f.mu.Unlock()
	if there && have.text == string(text) {
		return nil
	}
	err = f.Store.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.SetRoute(route)
		return err
	})
	if err != nil {
		return fmt.Errorf("writing the route of %s: %w", route.Service, err)
	}
	return f.follow(ctx)
}

// Remove implements reconcile.Router: the other edges forget a service when its record is gone.
func (l *Lead) Remove(service string) { l.fleet.Edge.Remove(service) }

// Settle implements reconcile.Router.
func (l *Lead) Settle(ctx context.Context, serviceID string) error {
	f := l.fleet
	f.mu.Lock()
	generation := f.routes[serviceID].Generation
	f.mu.Unlock()
	return f.all(ctx, func(s store.Server) bool { return s.Applied >= generation })
}

// Health implements reconcile.Router: what this server's edge has found.
func (l *Lead) Health(service string) map[trysail.PodID]trysail.TargetHealth {
	return l.fleet.Edge.Health(service)
}

// Drain implements reconcile.Router. That all servers have unrouted the pod is waited for however long it takes: one that
// is cut off ceases to count.
func (l *Lead) Drain(ctx context.Context, service string, pod trysail.PodID, most time.Duration) error {
	f := l.fleet
	f.mu.Lock()
	applied := f.applied
	f.mu.Unlock()
	if err := f.all(ctx, func(s store.Server) bool { return s.Applied >= applied }); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	if err := f.Edge.Drain(bounded, service, pod); err != nil {
		return err
	}
	return f.all(bounded, func(s store.Server) bool { return s.ID == f.id || !drains(s, pod) })
}

// Try implements reconcile.Router.
func (l *Lead) Try(ctx context.Context, service string, pod trysail.PodID, trials []trysail.Trial) []trysail.Trial {
	return l.fleet.Edge.Try(ctx, service, pod, trials)
}

// Changes implements reconcile.Router.
func (l *Lead) Changes() <-chan string { return l.fleet.Edge.Changes() }
