package fleet

import (
	"context"
	"time"

	"github.com/trysail/trysail"
)

// Edge is the load balancer of this server.
type Edge interface {
	// Apply makes the edge do what the route says. Targets that left rotation finish their requests.
	Apply(route trysail.Route)
	// Remove forgets a service.
	Remove(service string)
	// Health reports on the service's targets.
	Health(service string) map[trysail.PodID]trysail.TargetHealth
	// Wait waits until a pod that left rotation has no request in flight. Errors: ctx's.
	Wait(ctx context.Context, service string, pod trysail.PodID) error
	// Drain is Wait, and cuts the rest when ctx ends.
	Drain(ctx context.Context, service string, pod trysail.PodID) error
	// Try makes variations of a pod's health check, each once, and returns them with what came of them.
	Try(ctx context.Context, service string, pod trysail.PodID, trials []trysail.Trial) []trysail.Trial
	// Changes yields the name of a service whose targets' health has changed.
	Changes() <-chan string
}

// Alone is the edge of an installation with one server, as the reconciler sees it.
type Alone struct{ edge Edge }

// NewAlone makes one.
func NewAlone(e Edge) *Alone { return &Alone{e} }

// Apply implements reconcile.Router.
func (a *Alone) Apply(_ context.Context, route trysail.Route) error {
	a.edge.Apply(route)
	return nil
}

// Remove implements reconcile.Router.
func (a *Alone) Remove(service string) { a.edge.Remove(service) }

// Settle implements reconcile.Router: there is nobody else.
func (a *Alone) Settle(context.Context, string) error { return nil }

// Health implements reconcile.Router.
func (a *Alone) Health(service string) map[trysail.PodID]trysail.TargetHealth {
	return a.edge.Health(service)
}

// Drain implements reconcile.Router.
func (a *Alone) Drain(ctx context.Context, service string, pod trysail.PodID, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	return a.edge.Drain(ctx, service, pod)
}

// Try implements reconcile.Router.
func (a *Alone) Try(ctx context.Context, service string, pod trysail.PodID, trials []trysail.Trial) []trysail.Trial {
	return a.edge.Try(ctx, service, pod, trials)
}

// Changes implements reconcile.Router.
func (a *Alone) Changes() <-chan string { return a.edge.Changes() }
