package edge

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trysail/trysail"
)

// Edge is the load balancer. It is ready for Apply as soon as it is made, so that the routes can be in place before
// the first client is let in. All methods are safe for concurrent use.
type Edge struct {
	cfg     Config
	log     *slog.Logger
	ca      *CA
	router  router
	changes *changes
	proxy   *httputil.ReverseProxy
	dial    dialFunc

	in  listeners                               // http, https, and what became of them
	own atomic.Pointer[map[string]http.Handler] // by name; see ServeOwn

	stopChanges chan struct{}
	tasks       sync.WaitGroup // probers and the delivery of changes

	// mu guards what follows, and the fields of services that say so. Holding it, the set of targets is fixed.
	mu       sync.Mutex
	services map[string]*service
	counters map[countersKey]*counters
	closed   bool
}

// New makes an Edge and, if there is none in cfg.Dir yet, its certificate authority. It must be closed.
func New(cfg Config, log *slog.Logger) (*Edge, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	ca, err := openCA(cfg.Dir, cfg.Domain, cfg.Names, log)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{KeepAliveConfig: keepAlive()}
	e := &Edge{
		cfg:         cfg,
		log:         log,
		ca:          ca,
		changes:     newChanges(),
		dial:        dialer.DialContext,
		stopChanges: make(chan struct{}),
		services:    map[string]*service{},
		counters:    map[countersKey]*counters{},
	}
	e.proxy = newProxy(e)
	e.tasks.Go(func() { e.changes.run(e.stopChanges) })
	return e, nil
}

// CA is the local certificate authority.
func (e *Edge) CA() *CA { return e.ca }

// Apply makes r what the edge does for the service r.Service. Targets that are new are probed from now on, targets
// that are not listed any more are forgotten (requests in flight there go on, and Drain still knows them), and the
// targets that serve are exchanged atomically. Applying a route twice changes nothing.
func (e *Edge) Apply(r trysail.Route) {
	hosts := e.hosts(r)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	s := e.services[r.Service]
	if s == nil {
		s = &service{name: r.Service, counters: e.countersOf(r.Service, 0), meter: newMeter()}
		s.view.Store(&view{})
		e.services[r.Service] = s
	}
	forgotten := s.apply(r,
		func(spec trysail.Target) *target { return e.newTarget(s, spec) },
		e.configure)
	e.setHosts(s, hosts)
	for _, t := range forgotten {
		t.retire()
	}
}

// hosts lists the names that lead to a route.
func (e *Edge) hosts(r trysail.Route) []string {
	var list []string
	for _, h := range append([]string{r.Host}, r.Domains...) {
		host, ok := hostname(h)
		if ok {
			list = append(list, host)
		} else if h != "" {
			e.log.Error("route has an impossible host", "service", r.Service, "host", h)
		}
	}
	return list
}

// setHosts gives s these names and takes from it those that it has had besides. Edge.mu is held.
func (e *Edge) setHosts(s *service, hosts []string) {
	for _, h := range hosts {
		e.router.move(s, "", h)
	}
	for _, h := range s.hosts {
		if !slices.Contains(hosts, h) {
			e.router.move(s, h, "")
		}
	}
	s.hosts = hosts
}

// Remove forgets the service: its hosts answer 404, its targets are not probed any more, and requests that are still
// in flight are cut. Removing an unknown service does nothing.
func (e *Edge) Remove(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.services[name]
	if s == nil {
		return
	}
	delete(e.services, name)
	e.setHosts(s, nil)
	maps.DeleteFunc(e.counters, func(key countersKey, _ *counters) bool { return key.service == name })
	s.view.Store(&view{}) // for requests that found s just now
	for _, t := range s.all() {
		t.retire()
		t.cut()
	}
}

// Health says what the probes of each target of the service have found. It is empty for an unknown service.
func (e *Edge) Health(name string) map[trysail.PodID]trysail.TargetHealth {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.services[name]
	if s == nil {
		return map[trysail.PodID]trysail.TargetHealth{}
	}
	all := make(map[trysail.PodID]trysail.TargetHealth, len(s.targets))
	for pod, t := range s.targets {
		all[pod] = t.health.snapshot()
	}
	return all
}

// Drain waits until no request is in flight at the pod, which should have left rotation before; if it has not, it gets
// no new requests from now on, until a Route says otherwise. When ctx ends first, the remaining requests are cut and
// ctx's error is returned. Draining an unknown pod is done at once.
func (e *Edge) Drain(ctx context.Context, name string, pod trysail.PodID) error {
	e.mu.Lock()
	var list []*target
	if s := e.services[name]; s != nil {
		s.sweep()
		list = s.find(pod)
	}
	for _, t := range list {
		t.admit(false)
	}
	e.mu.Unlock()
	return drain(ctx, list)
}

// Wait waits until no request is in flight at the pod, and neither cuts anything nor keeps new ones away. An unknown pod
// has none. Errors: ctx's.
func (e *Edge) Wait(ctx context.Context, name string, pod trysail.PodID) error {
	e.mu.Lock()
	var list []*target
	if s := e.services[name]; s != nil {
		list = s.find(pod)
	}
	e.mu.Unlock()
	for _, t := range list {
		if err := t.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// drain waits for all targets in list, and cuts what is left when ctx ends.
func drain(ctx context.Context, list []*target) error {
	var failed error
	for _, t := range list {
		if err := t.wait(ctx); err != nil {
			t.cut()
			failed = err
		}
	}
	return failed
}

// Changes delivers the name of each service in which the health of a target changed. Names that wait for delivery are
// merged, so a receiver looks at Health for what is true now. The channel is closed by Close.
func (e *Edge) Changes() <-chan string { return e.changes.out }

// Close stops accepting, lets requests in flight finish until ctx ends, cuts the rest, and stops all probing. It
// returns ctx's error if it had to cut. After it nothing of the edge runs any more. Closing twice does nothing.
func (e *Edge) Close(ctx context.Context) error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	var list []*target
	for _, s := range e.services {
		list = append(list, s.all()...)
	}
	e.mu.Unlock()

	err := e.in.shutdown(ctx)
	// WebSockets are no longer the servers' but still in flight; what shutdown cut ends here as well.
	err = errors.Join(err, drain(ctx, list))
	_ = drain(context.WithoutCancel(ctx), list)
	for _, t := range list {
		t.retire()
	}
	close(e.stopChanges)
	e.tasks.Wait()
	return err
}

// newTarget makes the target for spec and starts probing it.
func (e *Edge) newTarget(s *service, spec trysail.Target) *target {
	log := e.log.With("service", s.name, "version", spec.Version, "pod", spec.Pod, "addr", spec.Addr)
	ctx, stop := context.WithCancel(context.Background())
	secure := e.targetTLS(spec, log)
	t := &target{
		spec:      spec,
		pod:       spec.Pod,
		version:   spec.Version,
		counters:  e.countersOf(s.name, spec.Version),
		scheme:    "http",
		addr:      spec.Addr.String(),
		transport: newTransport(&e.cfg, e.dial, spec.Addr.String(), secure),
		pool:      newPool(&e.cfg, e.dial, spec.Addr.String(), secure),
		stop:      stop,
		log:       log,
	}
	if spec.TLS {
		t.scheme = "https"
	}
	if spec.PresumeHealthy || spec.Unchecked {
		t.health.presume(time.Now())
	}
	t.prober = &prober{
		ask:     asker{addr: spec.Addr, tls: spec.TLS, dial: e.dial},
		health:  &t.health,
		poke:    make(chan struct{}, 1),
		log:     log,
		flipped: func() { e.changes.add(s.name) },
		ended: func(path string, p trysail.Probe) {
			if !p.OK {
				t.counters.probeFailures.Add(1)
			}
			e.logProbe(s, t, path, p)
		},
	}
	t.prober.settings.Store(newProbeSettings(spec.Check, spec.Activating, log))
	if !spec.Unchecked {
		e.tasks.Go(func() { t.prober.run(ctx) })
	}
	return t
}

// configure gives t the parts of spec that may change while it lives.
func (e *Edge) configure(t *target, spec trysail.Target) {
	if t.spec.Check != spec.Check || t.spec.Activating != spec.Activating {
		t.prober.configure(newProbeSettings(spec.Check, spec.Activating, t.log))
	}
	t.spec = spec
}

// handler is what every HTTPS request goes through.
func (e *Edge) handler() http.Handler {
	return e.ownFirst(e.recorded(func(x *exchange, r *http.Request) {
		w := x.client
		if r.ProtoMajor == 1 {
			// The last bytes of an answer are written after the handler, so only a deadline can bound that. It belongs
			// to the connection: that of the previous request is still there and must not hit this one.
			rc := w.rc
			_ = rc.SetWriteDeadline(time.Time{})
			defer func() { _ = rc.SetWriteDeadline(time.Now().Add(e.cfg.grace() + e.cfg.IdleTimeout)) }()
		}
		x.altSvc = e.in.altSvc
		mode := trysail.RouteNone
		if x.service != nil {
			v := x.service.view.Load()
			mode = v.mode
			if x.guard = v.guard; x.guard != nil {
				if no := x.guard.admit(x.from.client, r.ContentLength, x.began); no.status != 0 {
					x.failed, x.retry = no.why, no.retry
					e.refuse(x, r, no.status)
					return
				}
				defer x.guard.release(x.from.client)
			}
		}
		switch {
		case !isToken(r.Method): // HTTP/2 and 3 let it through
			e.refuse(x, r, http.StatusBadRequest)
		case r.Method == http.MethodConnect, r.Method == http.MethodTrace:
			// Neither has a meaning behind a load balancer; AWS ones refuse them too.
			e.refuse(x, r, http.StatusMethodNotAllowed)
		case mode == trysail.RouteServe:
			e.forward(x, r)
		case mode == trysail.RouteDisabled:
			e.refuse(x, r, http.StatusServiceUnavailable)
		default:
			e.refuse(x, r, http.StatusNotFound)
		}
	}))
}

// refuse answers a request whose body nobody wants, without waiting long for it.
func (e *Edge) refuse(x *exchange, r *http.Request, status int) {
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		_ = x.client.rc.SetReadDeadline(time.Now().Add(e.cfg.grace()))
	}
	x.writeError(r, status)
}
