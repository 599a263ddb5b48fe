// Package reconcile makes what is equal to what shall be: it observes the engine and the edge, lets Plan decide, and
// applies the plan's steps. It is the only package that changes the world.
//
// Everything it decides is in the store before it is done, and every step can be repeated. So there is no recovery
// code: after a crash the next round sees what is half done and finishes it.
package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/diagnose"
	"github.com/trysail/trysail/internal/engine"
	"github.com/trysail/trysail/internal/logs"
	"github.com/trysail/trysail/internal/store"
)

// Router is the edge, or the edges of all servers, as reconcile sees them.
type Router interface {
	// Apply makes the edges do what the route says. Targets that left rotation finish their requests.
	Apply(ctx context.Context, route trysail.Route) error
	// Settle waits until all edges do what Apply said last of a service.
	Settle(ctx context.Context, serviceID string) error
	// Remove forgets a service.
	Remove(service string)
	// Health reports on the service's targets.
	Health(service string) map[trysail.PodID]trysail.TargetHealth
	// Drain waits until a pod that left rotation has no request in flight at any edge; after most it cuts the rest, which is
	// an error.
	Drain(ctx context.Context, service string, pod trysail.PodID, most time.Duration) error
	// Try makes variations of a pod's health check, each once, and returns them with what came of them.
	Try(ctx context.Context, service string, pod trysail.PodID, trials []trysail.Trial) []trysail.Trial
	// Changes yields the name of a service whose targets' health has changed.
	Changes() <-chan string
}

// Names is the private network, as reconcile sees it.
type Names interface {
	// Publish makes the service's private name lead to the pods, and to no others: not even for clients that remember
	// where it led before.
	Publish(s trysail.PrivateService) error
	// Withdraw forgets a service.
	Withdraw(service string) error
}

// noNames is a machine without a private network.
type noNames struct{}

func (noNames) Publish(trysail.PrivateService) error { return nil }
func (noNames) Withdraw(string) error                { return nil }

// ImageResolver says what an image name stands for at this moment.
type ImageResolver interface {
	// Resolve asks the registry. Errors: *trysail.ImageError.
	Resolve(ctx context.Context, name string) (trysail.Image, error)
}

// Collector is the registry's part in housekeeping.
type Collector interface {
	// Collect removes what nothing refers to. keep are digests of manifests that are needed besides the registered ones.
	Collect(ctx context.Context, keep []string) (freed int64, err error)
}

// Config is what a Reconciler works with. The fields down to Log are required.
type Config struct {
	Rules
	Store  *store.Store
	Engine engine.Engine
	Router Router
	Images ImageResolver
	Logs   *logs.Store
	Log    *slog.Logger
	// StopGrace is the time between SIGTERM and SIGKILL; zero means 30 s, as ECS has it.
	StopGrace time.Duration
	// LogRetention is how long log lines are kept; zero means logs.Retention.
	LogRetention time.Duration
	// Registry is the installation's own registry; nil means there is none.
	Registry Collector
	// Names is the private network; nil means there is none.
	Names Names
	// DiskUsed returns the share of the disk in use, 0 to 1; nil means that nobody watches it.
	DiskUsed func() float64
}

const (
	// pollEvery is how often the engine is asked even if it reports no change: its reports are only hints.
	pollEvery = 15 * time.Second
	// retryAfter is the wait after a step that did not work for reasons outside of the service.
	retryAfter = time.Second
	// unavailableRetry is the wait while the engine does not answer: containerd restarts in a fraction of a second.
	unavailableRetry = 200 * time.Millisecond
)

// Reconciler runs rounds: one at a time per service, and many services at a time.
type Reconciler struct {
	Config

	wg sync.WaitGroup // everything that runs on behalf of Run

	observing sync.Mutex // held while the engine is asked, so that an older answer never replaces a newer one

	mu       sync.Mutex                               // guards all below; never held during I/O
	running  context.Context                          //nolint:containedctx // of Run: a round outlives whoever asked for it
	ids      map[string]string                        // service name → id, for the router's changes
	queue    map[string]*entry                        // by service id
	observed map[string]map[trysail.PodID]trysail.Pod // by service id
	actions  map[string]context.CancelFunc            // actions under way, by key
	notes    map[string]map[int]*notes                // by service id and version
}

// entry is the state of a service in the queue.
type entry struct {
	running bool        // a round is under way
	dirty   bool        // another one is wanted
	timer   *time.Timer // the next look
}

// New makes a Reconciler. Run starts it.
func New(cfg Config) *Reconciler {
	if cfg.StopGrace == 0 {
		cfg.StopGrace = 30 * time.Second
	}
	if cfg.LogRetention == 0 {
		cfg.LogRetention = logs.Retention
	}
	if cfg.Names == nil {
		cfg.Names = noNames{}
	}
	return &Reconciler{
		Config: cfg, ids: map[string]string{}, queue: map[string]*entry{}, observed: map[string]map[trysail.PodID]trysail.Pod{},
		actions: map[string]context.CancelFunc{}, notes: map[string]map[int]*notes{},
	}
}

// Run works until ctx ends, and waits for what is under way. Pods keep running.
func (r *Reconciler) Run(ctx context.Context) error {
	defer r.wg.Wait()
	r.mu.Lock()
	r.running = ctx
	r.mu.Unlock()
	sub := r.Store.Subscribe()
	defer sub.Close()
	if err := r.adopt(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	r.wg.Go(func() { r.follow(ctx) })
	r.wg.Go(func() { r.keepHouse(ctx) })
	changes := r.Router.Changes()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			r.stopTimers()
			return nil
		case <-sub.Wake():
			for _, id := range sub.Take() {
				if store.IsService(id) {
					r.enqueue(id)
				}
			}
		case name, open := <-changes:
			if !open {
				changes = nil // the edge has been closed
				continue
			}
			r.mu.Lock()
			id := r.ids[name]
			r.mu.Unlock()
			if id != "" {
				r.enqueue(id)
			}
		case <-poll.C:
			r.wg.Go(func() { r.observe(ctx) })
		}
	}
}

// adopt begins with what is there: pods that outlived the last run, and deployments that it left half done. Those get
// a new window, since the time without Trysail is not their fault.
func (r *Reconciler) adopt(ctx context.Context) error {
	var services []trysail.Service
	err := r.update(ctx, func(tx *store.Tx) (err error) {
		if services, err = tx.Services(); err != nil {
			return err
		}
		for _, s := range services {
			for _, d := range []*trysail.Deployment{s.Next, s.Current} {
				if d == nil || d.State == trysail.DeploymentActive && s.State != trysail.ServiceUpdating {
					continue
				}
				d.Deadline = tx.Now().Add(r.ActivationTimeout)
				if err := errors.Join(tx.UpdateDeployment(s.ID, d), r.noteMachine(ctx, tx, s.ID, d)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.observe(ctx)
	if err := r.adoptPods(ctx, services); err != nil {
		return err
	}
	for _, s := range services {
		r.enqueue(s.ID)
	}
	return nil
}

// adoptPods makes the engine look after pods that another server may have started. Which those are, and where their logs
// belong, is in the store alone.
func (r *Reconciler) adoptPods(ctx context.Context, services []trysail.Service) error {
	adopter, ok := r.Engine.(engine.Adopter)
	if !ok {
		return nil
	}
	owner := map[trysail.PodID]string{}
	err := r.Store.View(ctx, func(tx *store.Tx) error {
		pods, err := tx.LivePods()
		for _, p := range pods {
			owner[p.ID] = p.ServiceID
		}
		for _, s := range services {
			tasks, failed := tx.Tasks(s.ID, false)
			err = errors.Join(err, failed)
			for _, task := range tasks {
				owner[task.ID] = s.ID
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	for pod, service := range owner {
		if err := adopter.Adopt(pod, r.Logs.PodDir(service, string(pod))); err != nil {
			r.Log.WarnContext(ctx, "the log of a pod is not kept", "pod", pod, "error", err)
		}
	}
	return nil
}

// follow looks at what the engine says has changed, until ctx ends.
func (r *Reconciler) follow(ctx context.Context) {
	scoped, ok := r.Engine.(engine.Scoped)
	if !ok {
		for range r.Engine.Changes(ctx) {
			r.observe(ctx)
		}
		return
	}
	for ids := range scoped.ServiceChanges(ctx) {
		if ids == nil {
			r.observe(ctx)
		}
		for _, id := range ids {
			r.look(ctx, id)
		}
	}
}

// look is observe for one service, as far as the engine can tell its pods from all others.
func (r *Reconciler) look(ctx context.Context, id string) {
	scoped, ok := r.Engine.(engine.Scoped)
	if !ok {
		r.observe(ctx)
		return
	}
	r.observing.Lock()
	defer r.observing.Unlock()
	pods, err := scoped.ServicePods(ctx, id)
	if err != nil {
		if ctx.Err() == nil {
			r.Log.WarnContext(ctx, "the engine does not say which pods a service has", "service_id", id, "error", err)
		}
		return
	}
	var now map[trysail.PodID]trysail.Pod
	if len(pods) > 0 {
		now = map[trysail.PodID]trysail.Pod{}
	}
	for _, p := range pods {
		now[p.ID] = p
	}
	r.mu.Lock()
	before := r.observed[id]
	r.observed[id] = now
	if now == nil {
		delete(r.observed, id)
	}
	r.mu.Unlock()
	if !reflect.DeepEqual(before, now) {
		r.enqueue(id)
	}
}

// observe asks the engine for its pods and wakes the services whose pods have changed.
func (r *Reconciler) observe(ctx context.Context) {
	r.observing.Lock()
	defer r.observing.Unlock()
	pods, err := r.Engine.Pods(ctx)
	if err != nil {
		if ctx.Err() == nil {
			r.Log.WarnContext(ctx, "the engine does not say which pods it has", "error", err)
		}
		return
	}
	seen := map[string]map[trysail.PodID]trysail.Pod{}
	for _, p := range pods {
		if seen[p.ServiceID] == nil {
			seen[p.ServiceID] = map[trysail.PodID]trysail.Pod{}
		}
		seen[p.ServiceID][p.ID] = p
	}
	r.mu.Lock()
	before := r.observed
	r.observed = seen
	r.mu.Unlock()
	for id, now := range seen {
		if !reflect.DeepEqual(before[id], now) {
			r.enqueue(id)
		}
	}
	for id := range before {
		if seen[id] == nil {
			r.enqueue(id)
		}
	}
}

// enqueue asks for a round for the service. During a round it makes another one follow. Rounds end with Run and not with what
// the caller does: a round that was asked for by a pull would otherwise be broken off, and nothing come after it, when the pull ends.
func (r *Reconciler) enqueue(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx := r.running
	if ctx.Err() != nil {
		return
	}
	e := r.queue[id]
	if e == nil {
		e = &entry{}
		r.queue[id] = e
	}
	e.dirty = true
	if e.running {
		return
	}
	e.running = true
	r.wg.Go(func() { r.work(ctx, id, e) })
}

// work runs rounds until there is nothing new to look at.
func (r *Reconciler) work(ctx context.Context, id string, e *entry) {
	for {
		r.mu.Lock()
		if !e.dirty || ctx.Err() != nil {
			e.running = false
			if e.timer == nil {
				delete(r.queue, id)
			}
			r.mu.Unlock()
			return
		}
		e.dirty = false
		if e.timer != nil {
			e.timer.Stop()
			e.timer = nil
		}
		r.mu.Unlock()

		wake, err := r.round(ctx, id)
		if err != nil && ctx.Err() == nil {
			// The store itself tells of a database that does not answer, once for all services.
			if !errors.Is(err, errStale) && !errors.Is(err, store.ErrUnavailable) {
				r.Log.WarnContext(ctx, "a round did not finish and is repeated", "service_id", id, "error", err)
			}
			wake = time.Now().Add(retryAfter)
		}
		if !wake.IsZero() {
			r.later(id, e, time.Until(wake))
		}
	}
}

// later asks for a round after d.
func (r *Reconciler) later(id string, e *entry, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var t *time.Timer
	t = time.AfterFunc(max(d, 0), func() {
		r.mu.Lock()
		mine := e.timer == t
		if mine {
			e.timer = nil
		}
		r.mu.Unlock()
		if mine {
			r.enqueue(id)
		}
	})
	e.timer = t
}

func (r *Reconciler) stopTimers() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.queue {
		if e.timer != nil {
			e.timer.Stop()
		}
	}
}

// round looks at one service and applies the plan for it.
func (r *Reconciler) round(ctx context.Context, id string) (wake time.Time, err error) {
	w, tasks, err := r.world(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		r.endOrphans(ctx, id)
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	r.runTasks(ctx, &w, tasks)
	steps, wake := Plan(w, r.Rules)
	for _, s := range steps {
		if err := r.apply(ctx, &w, s); err != nil {
			return wake, err
		}
	}
	return wake, nil
}

// world gathers what Plan looks at, and the tasks of the service that have not ended.
func (r *Reconciler) world(ctx context.Context, id string) (w World, tasks []trysail.Task, err error) {
	err = r.Store.View(ctx, func(tx *store.Tx) error {
		s, err := tx.ServiceByID(id)
		if err != nil {
			return err
		}
		w.Service, w.Now = *s, tx.Now()
		var current, next int
		if s.Current != nil {
			current = s.Current.Version
		}
		if s.Next != nil {
			next = s.Next.Version
		}
		if next != 0 {
			seen, err := tx.DeploymentEvidence(id, next)
			if err != nil {
				return err
			}
			w.Evidence = *seen
		}
		if w.Pods, err = tx.PodsToPlan(id, current, next); err != nil {
			return err
		}
		tasks, err = tx.Tasks(id, false)
		return err
	})
	if err != nil {
		return w, nil, err
	}
	w.Health = r.Router.Health(w.Service.Name)
	r.mu.Lock()
	r.ids[w.Service.Name] = id
	w.Observed = withoutTasks(r.observed[id], tasks)
	w.Images, w.Tried = map[int]Images{}, map[trysail.PodID]bool{}
	for version, n := range r.notes[id] {
		w.Images[version] = n.images
		for pod := range n.trials {
			w.Tried[pod] = true
		}
	}
	r.mu.Unlock()
	if d := w.Service.Next; d != nil {
		_, w.Hopeless = diagnose.Final(r.input(&w, d))
	}
	return w, tasks, nil
}

// endOrphans ends the pods of a service that does not exist any more.
func (r *Reconciler) endOrphans(ctx context.Context, id string) {
	r.mu.Lock()
	pods := r.observed[id]
	for name, known := range r.ids {
		if known == id {
			delete(r.ids, name)
		}
	}
	r.mu.Unlock()
	r.forget(id, 0)
	for pod := range pods {
		r.act(ctx, endKey(pod), id, func(ctx context.Context) error {
			_, err := r.Engine.Stop(ctx, pod, 0)
			return err
		})
	}
}

// act does something slow beside the rounds, unless that is under way already. A round follows when it has ended, with
// a fresh look at the engine. An action that did not work is left to the next plan.
func (r *Reconciler) act(ctx context.Context, key, service string, do func(context.Context) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.actions[key] != nil || ctx.Err() != nil {
		return
	}
	actx, cancel := context.WithCancel(ctx)
	r.actions[key] = cancel
	r.wg.Go(func() {
		err := do(actx)
		defer cancel()
		r.look(ctx, service)
		r.mu.Lock()
		delete(r.actions, key)
		r.mu.Unlock()
		switch {
		case err == nil || actx.Err() != nil:
		case errors.Is(err, engine.ErrUnavailable):
			r.pause(ctx, unavailableRetry)
		default:
			r.Log.WarnContext(ctx, "an action did not work and is repeated", "action", key, "service_id", service, "error", err)
			r.pause(ctx, retryAfter)
		}
		r.enqueue(service)
	})
}

// cancel ends an action and reports whether it was under way.
func (r *Reconciler) cancel(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	cancel := r.actions[key]
	if cancel != nil {
		cancel()
	}
	return cancel != nil
}

// pause waits for d or until ctx ends.
func (r *Reconciler) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
