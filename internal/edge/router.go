package edge

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/trysail/trysail"
)

// router maps hosts to services. Lookups take no lock.
type router struct {
	hosts sync.Map // host name (string) → *service
	// changes counts those of the names. What was found stays true as long as it does not move.
	changes atomic.Uint64
}

// lookup finds the service for a Host header; nil if there is none.
func (r *router) lookup(host string) *service {
	if s, ok := r.hosts.Load(host); ok { // as clients normally write it
		return s.(*service) //nolint:errcheck,forcetypeassert // nothing else is stored
	}
	name, ok := hostname(host)
	if !ok || name == host {
		return nil
	}
	if s, ok := r.hosts.Load(name); ok {
		return s.(*service) //nolint:errcheck,forcetypeassert // nothing else is stored
	}
	return nil
}

// move gives the host name to s and takes the old one from it. An empty name is none.
func (r *router) move(s *service, from, to string) {
	defer r.changes.Add(1)
	if to != "" {
		r.hosts.Store(to, s)
	}
	if from != "" && from != to {
		r.hosts.CompareAndDelete(from, s)
	}
}

// service is what the edge knows of one service. Requests read the view only; Edge.mu guards the rest.
type service struct {
	name     string
	counters *counters // of requests that no pod was asked for
	view     atomic.Pointer[view]
	guard    *guard // nil if the service has no rules
	meter    *meter
	hosts    []string
	targets  map[trysail.PodID]*target
	// leaving are targets that a Route does not list any more but that still have requests in flight.
	leaving []*target
}

// view is what requests see of a service: one consistent answer to "what shall be done". It does not change once made.
type view struct {
	mode    trysail.RouteMode
	targets []*target  // those in rotation
	access  *accessLog // nil if there shall be none
	guard   *guard     // nil if every request may pass
}

// choose returns the target with the fewest requests in flight among those of the best rank, a random one of them if
// there are several. It returns nil when every target in rotation was tried.
func (v *view) choose(tried []*target) *target {
	n := len(v.targets)
	if n == 0 || v.mode != trysail.RouteServe {
		return nil
	}
	var best *target
	var bestRank int
	var bestLoad int64
	start := 0
	if n > 1 {
		start = rand.IntN(n) //nolint:gosec // spreads load, keeps no secret
	}
	for i := range n {
		t := v.targets[(start+i)%n]
		if slices.Contains(tried, t) {
			continue
		}
		rank, load := t.rank(), t.outstanding.Load()
		if best == nil || rank < bestRank || rank == bestRank && load < bestLoad {
			best, bestRank, bestLoad = t, rank, load
		}
	}
	return best
}

// apply makes r what s does. newTarget makes and starts a target. The targets that s forgets are returned; they do
// not admit requests any more and have to be retired.
func (s *service) apply(r trysail.Route, newTarget func(trysail.Target) *target, configure func(*target, trysail.Target)) (forgotten []*target) {
	next := make(map[trysail.PodID]*target, len(r.Targets))
	s.setRules(r.Rules)
	v := &view{mode: r.Mode, guard: s.guard}
	if r.AccessLog {
		v.access = &accessLog{serviceID: r.ServiceID, healthChecks: r.AccessLogHealthChecks}
	}
	for _, spec := range r.Targets {
		if next[spec.Pod] != nil {
			continue // listed twice
		}
		t := s.targets[spec.Pod]
		if t != nil && t.spec.Addr == spec.Addr && t.spec.TLS == spec.TLS && sameTrust(t.spec.Trust, spec.Trust) {
			configure(t, spec)
		} else {
			t = newTarget(spec)
		}
		next[spec.Pod] = t
		if spec.Serving {
			t.admit(true)
			v.targets = append(v.targets, t)
		}
	}
	// First the new view, then the doors: see the package comment.
	s.view.Store(v)
	for _, spec := range r.Targets {
		if t := next[spec.Pod]; !slices.Contains(v.targets, t) {
			t.admit(false)
		}
	}
	for pod, t := range s.targets {
		if next[pod] != t {
			t.admit(false)
			forgotten = append(forgotten, t)
		}
	}
	s.targets = next
	s.sweep()
	for _, t := range forgotten {
		if t.busy() {
			s.leaving = append(s.leaving, t)
		}
	}
	return forgotten
}

// setRules changes the guard if the rules are others than those it has.
func (s *service) setRules(rules trysail.EdgeRules) {
	var old trysail.EdgeRules
	if s.guard != nil {
		old = s.guard.rules
	}
	if rules.Equal(&old) {
		return
	}
	if rules.RequestsPerMinute != old.RequestsPerMinute || rules.RequestBurst != old.RequestBurst {
		s.meter.restart() // what is left by the old rate says nothing about the new one
	}
	s.guard = newGuard(rules, s.meter)
}

// sweep drops the leaving targets whose last request has ended.
func (s *service) sweep() {
	var still []*target
	for _, t := range s.leaving {
		if t.busy() {
			still = append(still, t)
		}
	}
	s.leaving = still
}

// all lists every target that may have requests in flight.
func (s *service) all() []*target {
	list := make([]*target, 0, len(s.targets)+len(s.leaving))
	for _, t := range s.targets {
		list = append(list, t)
	}
	return append(list, s.leaving...)
}

// find lists the targets of a pod: usually one, more when its address changed, none when it is unknown.
func (s *service) find(pod trysail.PodID) []*target {
	var list []*target
	if t := s.targets[pod]; t != nil {
		list = append(list, t)
	}
	for _, t := range s.leaving {
		if t.spec.Pod == pod {
			list = append(list, t)
		}
	}
	return list
}
