package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/fleet"
	"github.com/trysail/trysail/internal/store"
	"github.com/trysail/trysail/test/postgres"
)

// edge is a load balancer that is told which requests it has.
type edge struct {
	mu     sync.Mutex
	routes map[string]trysail.Route
	busy   map[trysail.PodID]chan struct{}
	cuts   map[trysail.PodID]bool
}

func newEdge() *edge {
	return &edge{routes: map[string]trysail.Route{}, busy: map[trysail.PodID]chan struct{}{}, cuts: map[trysail.PodID]bool{}}
}

func (e *edge) Apply(r trysail.Route) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.routes[r.Service] = r
}

func (e *edge) Remove(service string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.routes, service)
}

// begin is a request to a pod; the function that it returns ends it.
func (e *edge) begin(pod trysail.PodID) (end func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := make(chan struct{})
	e.busy[pod] = c
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.busy[pod] == c {
			delete(e.busy, pod)
			close(c)
		}
	}
}

func (e *edge) Wait(ctx context.Context, _ string, pod trysail.PodID) error {
	e.mu.Lock()
	c := e.busy[pod]
	e.mu.Unlock()
	if c == nil {
		return nil
	}
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *edge) Drain(ctx context.Context, service string, pod trysail.PodID) error {
	err := e.Wait(ctx, service, pod)
	if err != nil {
		e.mu.Lock()
		e.cuts[pod] = true
		if c := e.busy[pod]; c != nil {
			delete(e.busy, pod)
			close(c)
		}
		e.mu.Unlock()
	}
	return err
}

func (e *edge) Health(string) map[trysail.PodID]trysail.TargetHealth { return nil }
func (e *edge) Changes() <-chan string                               { return nil }
func (e *edge) Try(context.Context, string, trysail.PodID, []trysail.Trial) []trysail.Trial {
	return nil
}

// serves reports whether the pod is in rotation for service web.
func (e *edge) serves(pod trysail.PodID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(e.routes["web"].Targets, func(t trysail.Target) bool { return t.Pod == pod && t.Serving })
}

func (e *edge) wasCut(pod trysail.PodID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cuts[pod]
}

// bed is a PostgreSQL with one service in it.
type bed struct {
	t      *testing.T
	server *postgres.Server
	url    string
	key    string
}

func newBed(t *testing.T) *bed {
	t.Helper()
	server, err := postgres.Start(context.Background(), "fsync=off")
	if errors.Is(err, postgres.ErrMissing) && testing.Short() {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	b := &bed{t: t, server: server, key: t.TempDir() + "/seal.key"}
	if b.url, err = server.NewDatabase(t.Context(), "fleet"); err != nil {
		t.Fatal(err)
	}
	st := b.open()
	err = st.Update(t.Context(), func(tx *store.Tx) error {
		return tx.InsertService(&trysail.Service{ID: "id-web", Name: "web", HostLabel: "abc", CreatedAt: time.Now(), State: trysail.ServiceReady, Capacity: trysail.Capacity{Power: trysail.PowerNano, Scale: 1}})
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bed) open() *store.Store {
	b.t.Helper()
	st, err := store.OpenPostgres(b.t.Context(), store.Postgres{
		URL: b.url, Dir: b.t.TempDir(), SealKey: b.key, LeaseTime: 2 * time.Second, Log: slog.New(slog.NewTextHandler(b.t.Output(), nil)),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = st.Close() })
	return st
}

// server is one of several.
type server struct {
	*fleet.Fleet

	edge *edge
	pods *pods
	// stop ends it well; kill makes it fall silent.
	stop, kill func()
}

// pods are those that an engine has.
type pods struct {
	mu   sync.Mutex
	list []trysail.Pod
}

func (p *pods) set(list ...trysail.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = list
}

func (p *pods) get(context.Context) ([]trysail.Pod, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.list, nil
}

func (b *bed) join(name string, drain time.Duration) *server {
	b.t.Helper()
	e := newEdge()
	st, there := b.open(), &pods{}
	f := fleet.New(fleet.Config{
		Pods: there.get, Store: st, Edge: e, Name: name, Address: name + ":1", DrainTimeout: drain, SilentTime: 3 * time.Second, Log: slog.New(slog.NewTextHandler(b.t.Output(), nil)).With("server", name),
	})
	if err := f.Join(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f.Run(ctx)
	}()
	s := &server{Fleet: f, edge: e, pods: there, stop: func() { cancel(); <-done }, kill: func() { _ = st.Close() }}
	b.t.Cleanup(s.stop)
	return s
}

// lead makes a server the leader.
func (b *bed) lead(s *server) (*fleet.Lead, context.Context) {
	b.t.Helper()
	ctx, release, err := s.Store.Lead(b.t.Context(), func(string) {})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(release)
	l, err := s.Lead(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	return l, ctx
}

func route(pods ...trysail.PodID) trysail.Route {
	r := trysail.Route{Service: "web", ServiceID: "id-web", Host: "web.localhost", Mode: trysail.RouteServe}
	for i, pod := range pods {
		r.Targets = append(r.Targets, trysail.Target{Pod: pod, Version: 1, Addr: netip.MustParseAddrPort(fmt.Sprintf("10.0.0.%d:80", i+1)), Serving: true, PresumeHealthy: true})
	}
	return r
}

func (b *bed) until(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("waited a minute in vain: %s", what)
		}
	}
}

func TestFleet_EveryEdgeDoesWhatTheLeaderSays(t *testing.T) {
	b := newBed(t)
	one, two := b.join("one", time.Minute), b.join("two", time.Minute)
	lead, ctx := b.lead(one)
	if err := lead.Apply(ctx, route("a")); err != nil {
		t.Fatal(err)
	}
	if err := lead.Settle(ctx, "id-web"); err != nil {
		t.Fatal(err)
	}
	if !one.edge.serves("a") || !two.edge.serves("a") {
		t.Error("the route is settled, and an edge does not do it")
	}
	late := b.join("late", time.Minute)
	if !late.edge.serves("a") {
		t.Error("a server that has joined does not know the route")
	}
	late.stop()
	b.until("the server that ended well does not count", func() bool { return len(one.Others()) == 1 })
	err := one.Store.Update(ctx, func(tx *store.Tx) error { return tx.DeleteService("id-web") })
	if err != nil {
		t.Fatal(err)
	}
	b.until("the service is forgotten", func() bool { return !one.edge.serves("a") && !two.edge.serves("a") })
}

func TestFleet_APodIsDrainedWhenAllEdgesHaveLetGoOfIt(t *testing.T) {
	b := newBed(t)
	one, two := b.join("one", time.Minute), b.join("two", time.Minute)
	lead, ctx := b.lead(one)
	apply := func(pods ...trysail.PodID) {
		t.Helper()
		if err := lead.Apply(ctx, route(pods...)); err != nil {
			t.Fatal(err)
		}
	}
	apply("a", "b")
	if err := lead.Settle(ctx, "id-web"); err != nil {
		t.Fatal(err)
	}
	end := two.edge.begin("a")
	apply("b")
	drained := make(chan error, 1)
	go func() { drained <- lead.Drain(ctx, "web", "a", time.Minute) }()
	b.until("the other edge has unrouted it", func() bool { return !two.edge.serves("a") })
	select {
	case err := <-drained:
		t.Fatalf("a pod with a request in flight at another edge counts as drained: %v", err)
	case <-time.After(100 * time.Millisecond): // it must not end at all
	}
	end()
	if err := <-drained; err != nil {
		t.Error(err)
	}
	// One whose requests take too long.
	two.edge.begin("b")
	apply()
	if err := lead.Drain(ctx, "web", "b", 50*time.Millisecond); err == nil {
		t.Error("a drain that took too long is no error")
	}
	if two.edge.wasCut("b") {
		t.Error("the other edge has its own patience, which is not over")
	}
}

func TestFleet_AnEdgeCutsWhatTakesTooLong(t *testing.T) {
	b := newBed(t)
	one, two := b.join("one", time.Minute), b.join("two", 50*time.Millisecond)
	lead, ctx := b.lead(one)
	if err := errors.Join(lead.Apply(ctx, route("a")), lead.Settle(ctx, "id-web")); err != nil {
		t.Fatal(err)
	}
	two.edge.begin("a")
	if err := errors.Join(lead.Apply(ctx, route()), lead.Drain(ctx, "web", "a", time.Minute)); err != nil {
		t.Error(err)
	}
	if !two.edge.wasCut("a") {
		t.Error("the request was not cut")
	}
}

func TestFleet_AServerThatFallsSilentDoesNotCount(t *testing.T) {
	b := newBed(t)
	one, two := b.join("one", time.Minute), b.join("two", time.Minute)
	lead, ctx := b.lead(one)
	if err := errors.Join(lead.Apply(ctx, route("a")), lead.Settle(ctx, "id-web")); err != nil {
		t.Fatal(err)
	}
	two.edge.begin("a")
	two.kill()
	if err := errors.Join(lead.Apply(ctx, route()), lead.Drain(ctx, "web", "a", time.Minute)); err != nil {
		t.Error(err)
	}
	if n := len(one.Others()); n != 0 {
		t.Errorf("%d other servers", n)
	}
}

// TestFleet_SurvivesTheDatabase: while it is away edges do what they did; then nobody is given up for not having been heard
// of, and everything goes on.
func TestFleet_SurvivesTheDatabase(t *testing.T) {
	b := newBed(t)
	one, two := b.join("one", time.Minute), b.join("two", time.Minute)
	lead, ctx := b.lead(one)
	if err := errors.Join(lead.Apply(ctx, route("a")), lead.Settle(ctx, "id-web")); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*server{one, two} {
		s.pods.set(trysail.Pod{ID: "a", ServiceID: "id-web", Version: 1, Addr: netip.MustParseAddr("10.0.0.1")})
	}
	end := two.edge.begin("a")
	if err := b.server.Stop(); err != nil {
		t.Fatal(err)
	}
	<-time.After(4 * time.Second) // longer than a server may be silent
	if !two.edge.serves("a") {
		t.Error("an edge has forgotten its routes")
	}
	if err := b.server.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	lead, ctx = b.lead(one)
	b.until("the leader can write", func() bool { return lead.Apply(ctx, route("b")) == nil })
	drained := make(chan error, 1)
	go func() { drained <- lead.Drain(ctx, "web", "a", time.Minute) }()
	b.until("the other edge has unrouted it", func() bool { return !two.edge.serves("a") && two.edge.serves("b") })
	select {
	case err := <-drained:
		t.Fatalf("a pod with a request in flight at another edge counts as drained: %v", err)
	case <-time.After(100 * time.Millisecond): // it must not end at all
	}
	end()
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// TestFleet_ALeaderThatWasReplacedChangesNothing: its routes are refused.
func TestFleet_ALeaderThatWasReplacedChangesNothing(t *testing.T) {
	b := newBed(t)
	one, two := b.join("one", time.Minute), b.join("two", time.Minute)
	old, oldCtx, err := one.Store.Lead(t.Context(), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	lead, err := one.Lead(old)
	if err != nil {
		t.Fatal(err)
	}
	if err := lead.Apply(old, route("a")); err != nil {
		t.Fatal(err)
	}
	oldCtx()
	next, ctx := b.lead(two)
	if err := next.Apply(ctx, route("b")); err != nil {
		t.Fatal(err)
	}
	if err := lead.Apply(context.WithoutCancel(old), route("c")); !errors.Is(err, store.ErrNotLeader) {
		t.Errorf("a route of a former leader: %v", err)
	}
	b.until("all follow the new leader", func() bool { return one.edge.serves("b") && two.edge.serves("b") })
}

// TestFleet_AServerThatIsCutOffAsksTheCluster: it goes on serving, but no pod that the cluster does not have any more.
func TestFleet_AServerThatIsCutOffAsksTheCluster(t *testing.T) {
	b := newBed(t)
	one := b.join("one", time.Minute)
	lead, ctx := b.lead(one)
	if err := errors.Join(lead.Apply(ctx, route("a", "b", "c")), lead.Settle(ctx, "id-web")); err != nil {
		t.Fatal(err)
	}
	at := func(id trysail.PodID, addr string) trysail.Pod {
		return trysail.Pod{ID: id, ServiceID: "id-web", Version: 1, Addr: netip.MustParseAddr(addr)}
	}
	one.pods.set(at("a", "10.0.0.1"), at("b", "10.0.0.99")) // b has another address, c is gone
	if err := b.server.Stop(); err != nil {
		t.Fatal(err)
	}
	b.until("what is gone is out of rotation", func() bool { return !one.edge.serves("b") && !one.edge.serves("c") })
	if !one.edge.serves("a") {
		t.Error("a pod that is there is out of rotation as well")
	}
	if err := b.server.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.until("the store says again what is served", func() bool { return one.edge.serves("c") })
}
