// Package fleet makes the edges of several servers one load balancer. docs/adr/021-several-edges.md has the reasons.
//
// The leader writes each route into the store. Every server follows: it makes its edge do what is there (follow.go), and
// writes down up to which generation of routes it has done so, and which pods out of rotation still have requests in
// flight at its edge. The leader stops a pod when every server has unrouted and drained it (lead.go). A server that is not
// heard of for a while does not count; who is heard is judged by the leader's own clock, and only while it reaches the
// database itself (peers.go). Alone is the same for an installation with one server, without the store.
package fleet

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// Config is what a Fleet works with. The fields without a default are required.
type Config struct {
	Store *store.Store
	Edge  Edge
	Log   *slog.Logger
	// Name is what people know this server by. Address is where the others reach its API, host:port; may be empty.
	Name, Address string
	// Pods lists the pods that the engine has, as this server sees them by itself.
	Pods func(context.Context) ([]trysail.Pod, error)
	// DrainTimeout is how long requests in flight to a pod out of rotation may take.
	DrainTimeout time.Duration
	// SilentTime is how long a server may not be heard of before it does not count; zero means 12 s. That is a little longer
	// than a lease of the lead, so that it does not run out for a server that only has to find the database again.
	SilentTime time.Duration
}

// Fleet is this server among others with the same state.
type Fleet struct {
	Config

	id   string        // of this run
	kick chan struct{} // holds a token when others should know what has changed here

	wg sync.WaitGroup // waiting for pods to be drained

	following sync.Mutex // held while routes are read and applied, so that an older one never replaces a newer one

	mu       sync.Mutex      // guards all below; not held during I/O
	ctx      context.Context //nolint:containedctx // of Run, for what waits for pods
	beaten   time.Time       // when this server has reached the store last
	lead     context.Context //nolint:containedctx // of the lead, to know whether it still is; nil before
	epoch    int64           // of the lead
	applied  int64
	routes   map[string]known // by id of the service
	draining map[trysail.PodID]bool
	peers    map[string]*peer // by id, this server included
	heard    time.Time        // when peers was read last
	news     chan struct{}    // closed when peers has been read again
}

// known is a route that the edge does.
type known struct {
	store.Route

	text string // the same, to compare
}

// New makes a Fleet. Join makes it one of the servers.
func New(cfg Config) *Fleet {
	cfg.SilentTime = cmp.Or(cfg.SilentTime, 12*time.Second)
	return &Fleet{
		Config: cfg, id: rand.Text(), kick: make(chan struct{}, 1), routes: map[string]known{}, draining: map[trysail.PodID]bool{},
		peers: map[string]*peer{}, news: make(chan struct{}),
	}
}

// ID names this run of this server.
func (f *Fleet) ID() string { return f.id }

// Join applies all routes, and makes this server one that counts: from now on pods are not stopped before it has let go of
// them. Run has to follow.
func (f *Fleet) Join(ctx context.Context) error {
	// First it counts, then it reads: what changes in between is waited for.
	if _, err := f.beat(ctx); err != nil {
		return fmt.Errorf("joining the other servers: %w", err)
	}
	if err := f.follow(ctx); err != nil {
		return fmt.Errorf("reading the routes: %w", err)
	}
	_, err := f.beat(ctx)
	return err
}

// Run follows the routes until ctx ends, and says then that this server has ended.
func (f *Fleet) Run(ctx context.Context) error {
	sub := f.Store.Subscribe()
	defer sub.Close()
	waits, cancel := context.WithCancel(ctx)
	f.mu.Lock()
	f.ctx = waits
	f.mu.Unlock()
	tick := time.NewTicker(f.SilentTime / 6)
	defer tick.Stop()
	behind := true // something may have changed since Join
	for ctx.Err() == nil {
		if behind {
			behind = f.report(ctx, "reading the routes", f.follow(ctx))
		}
		beat, look := false, false
		select {
		case <-ctx.Done():
		case <-tick.C:
			beat, look = true, true
		case <-f.kick:
			beat = true
		case <-sub.Wake():
			ids := sub.Take()
			behind = behind || slices.ContainsFunc(ids, f.concerns)
			look = slices.Contains(ids, store.ServersChanged)
		}
		if beat && ctx.Err() == nil {
			forgotten, err := f.beat(ctx)
			if f.report(ctx, "saying that this server runs", err) {
				behind = f.cutOff(ctx) || behind
			}
			if forgotten {
				f.Log.WarnContext(ctx, "the others had not heard of this server for a while")
				behind = true
			}
		}
		if look && ctx.Err() == nil {
			f.report(ctx, "looking at the other servers", f.look(ctx))
		}
	}
	cancel()
	f.wg.Wait()
	bounded, done := context.WithTimeout(context.WithoutCancel(ctx), f.SilentTime/2)
	defer done()
	f.report(bounded, "saying that this server ends", f.Store.Update(bounded, func(tx *store.Tx) error { return tx.ForgetServer(f.id) }))
	return nil
}

// concerns reports whether what has changed has to do with routes.
func (f *Fleet) concerns(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ours := f.routes[id] // it may have been deleted
	return ours || id == store.RoutesChanged
}

// report logs what did not work and will be done again, and reports whether it did not. A database that is away is the
// store's to tell.
func (f *Fleet) report(ctx context.Context, what string, err error) bool {
	if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrUnavailable) {
		f.Log.WarnContext(ctx, "something did not work and is done again", "what", what, "error", err)
	}
	return err != nil
}

// beat writes how far this server is. It reports whether the others had given it up.
func (f *Fleet) beat(ctx context.Context) (forgotten bool, err error) {
	f.mu.Lock()
	s := store.Server{ID: f.id, Name: f.Name, Address: f.Address, Applied: f.applied}
	if f.lead != nil && f.lead.Err() == nil {
		s.Epoch = f.epoch
	}
	for pod := range f.draining {
		s.Draining = append(s.Draining, pod)
	}
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, f.SilentTime/2)
	defer cancel()
	err = f.Store.Update(ctx, func(tx *store.Tx) (err error) {
		forgotten, err = tx.Beat(s)
		return err
	})
	if err == nil {
		f.mu.Lock()
		f.beaten = time.Now()
		f.mu.Unlock()
	}
	return forgotten && err == nil, err
}

func (f *Fleet) tell() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// follow makes the edge do what the store says.
func (f *Fleet) follow(ctx context.Context) error {
	f.following.Lock()
	defer f.following.Unlock()
	f.mu.Lock()
	applied := f.applied
	f.mu.Unlock()
	var changed []store.Route
	var all []string
	var newest int64
	err := f.Store.View(ctx, func(tx *store.Tx) (err error) {
		changed, all, newest, err = tx.Routes(applied)
		return err
	})
	if err != nil {
		return err
	}
	for _, r := range changed {
		if err := f.apply(r); err != nil { //nolint:contextcheck // what waits for pods goes on after this
			return err
		}
	}
	f.mu.Lock()
	var gone []known
	for id, r := range f.routes {
		if !slices.Contains(all, id) {
			gone = append(gone, r)
			delete(f.routes, id)
		}
	}
	f.mu.Unlock()
	for _, r := range gone {
		f.Edge.Remove(r.Service)
	}
	f.mu.Lock()
	f.applied = newest
	f.mu.Unlock()
	if newest != applied {
		f.tell()
	}
	return nil
}

// apply makes the edge do what the route says, and watches over the pods that leave rotation.
func (f *Fleet) apply(r store.Route) error {
	text, err := json.Marshal(r.Route)
	if err != nil {
		return fmt.Errorf("encoding the route of %s: %w", r.Service, err)
	}
	f.mu.Lock()
	before := f.routes[r.ServiceID]
	f.routes[r.ServiceID] = known{r, string(text)}
	f.mu.Unlock()
	f.Edge.Apply(r.Route)
	for _, t := range before.Targets {
		if t.Serving && !serves(&r.Route, t.Pod) {
			f.watchOver(r.Service, r.ServiceID, t.Pod)
		}
	}
	return nil
}

// serves reports whether the pod is in rotation.
func serves(r *trysail.Route, pod trysail.PodID) bool {
	return r.Mode == trysail.RouteServe && slices.ContainsFunc(r.Targets, func(t trysail.Target) bool { return t.Pod == pod && t.Serving })
}

// watchOver notes that a pod has requests in flight here until it has none, and cuts those that take too long.
func (f *Fleet) watchOver(service, id string, pod trysail.PodID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx == nil || f.draining[pod] {
		return // no request has come in yet, or somebody watches
	}
	now, cancel := context.WithCancel(f.ctx)
	cancel()
	if f.Edge.Wait(now, service, pod) == nil {
		return // it is idle
	}
	ctx := f.ctx
	f.draining[pod] = true
	f.wg.Go(func() {
		bounded, cancel := context.WithTimeout(ctx, f.DrainTimeout)
		defer cancel()
		if f.Edge.Wait(bounded, service, pod) != nil && ctx.Err() == nil {
			f.cut(bounded, service, id, pod)
		}
		f.mu.Lock()
		delete(f.draining, pod)
		f.mu.Unlock()
		f.tell()
	})
}

// cut ends the requests in flight to a pod, unless it has come back into rotation. over has ended.
func (f *Fleet) cut(over context.Context, service, id string, pod trysail.PodID) {
	f.following.Lock()
	defer f.following.Unlock()
	f.mu.Lock()
	r := f.routes[id].Route.Route
	f.mu.Unlock()
	if !serves(&r, pod) {
		_ = f.Edge.Drain(over, service, pod)
		f.Log.InfoContext(over, "requests in flight were cut", "service", service, "pod", pod, "after", f.DrainTimeout)
	}
}
