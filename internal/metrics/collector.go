package metrics

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

const (
	// sampleEvery is how often engine and edge are asked.
	sampleEvery = 10 * time.Second
	// sampleTimeout bounds one look at the engine, so that a stuck one does not stop the clock of the others.
	sampleTimeout = 5 * time.Second
	// compactEvery is how often old points are merged and removed.
	compactEvery = time.Hour
	// jump is by how much the clock must be set to count as having jumped; afterSet is how long nothing is removed then,
	// in case it is set right again.
	jump     = time.Minute
	afterSet = 24 * time.Hour
)

// Config is what a Collector works with.
type Config struct {
	// Dir is where the points are kept.
	Dir   string
	Store *store.Store
	// Usage samples every running pod, as engine.Engine does.
	Usage func(context.Context) ([]trysail.Usage, error)
	// Traffic is what the edge has counted since it began, which is not before the Collector was made. Nil: nothing is.
	Traffic func() []trysail.Traffic
	// Self and Copies are those of Store.Share, if there may be other servers.
	Self, Copies string
	// Leads reports whether this server counts what all would count: what pods use, and which fail. Nil: it does.
	Leads func() bool
	// Parts are directories, or patterns of files, whose sizes /metrics shows, by the name of the part.
	Parts map[string]string
	// Build is the version of Trysail that /metrics shows.
	Build string
	// Extra adds what other parts know of Trysail itself. Nil: nothing.
	Extra func(context.Context) []Family
	Log   *slog.Logger
	// Now is the clock on the wall. Nil means time.Now.
	Now func() time.Time
}

// Collector samples what services use and how they answer. Run does; the other methods are safe at any time.
type Collector struct {
	*Store
	cfg     Config
	started time.Time
	changes *store.Subscription
	sizes   sizes

	mu     sync.Mutex // guards all below
	view   view
	cpu    map[trysail.PodID]trysail.Usage // the sample before
	edge   map[versionName]trysail.Traffic // the reading before
	failed map[trysail.PodID]bool          // that have been counted
	totals map[versionKey]*Totals
	usage  map[versionKey]gauges

	clock    clock
	failing  string // the last failure to look at the engine, so that it is logged once
	compacts time.Time
}

// versionName is a version as the edge names it.
type versionName struct {
	service string
	version int
}

type versionKey struct {
	serviceID string
	version   int
}

// Totals is what has been counted of a version since Trysail started.
type Totals struct {
	Values
	CPU              time.Duration // that all pods together used
	Throttled        time.Duration
	Periods          int64
	ThrottledPeriods int64
}

// gauges is what the pods of a version use now.
type gauges struct {
	memory, memoryLimit int64
	milliCPU            int64
}

// view is what the collector knows of the store.
type view struct {
	services []trysail.Service
	byName   map[string]string // service name → id
	active   map[string]int    // service id → active version
	pods     map[trysail.PodID]trysail.PodRecord
}

// New opens the points and makes a Collector. What fails from now on is counted.
func New(ctx context.Context, cfg Config) (*Collector, error) {
	points, err := Open(cfg.Dir, cfg.Log)
	if err != nil {
		return nil, err
	}
	if cfg.Self != "" {
		points.Share(cfg.Self, cfg.Copies)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Leads == nil {
		cfg.Leads = func() bool { return true }
	}
	c := &Collector{
		Store: points, cfg: cfg, started: cfg.Now(), changes: cfg.Store.Subscribe(),
		cpu: map[trysail.PodID]trysail.Usage{}, edge: map[versionName]trysail.Traffic{},
		totals: map[versionKey]*Totals{}, usage: map[versionKey]gauges{},
		// Removing waits for an hour: a machine may learn the time after its start only.
		compacts: time.Now().Add(compactEvery),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c, c.look(ctx)
}

// Started is since when the totals count.
func (c *Collector) Started() time.Time { return c.started }

// Run samples until ctx ends, and writes what is not written then. Errors are logged: metrics are never a reason to stop.
func (c *Collector) Run(ctx context.Context) error {
	for {
		// On the full ten seconds, so that minutes are complete when they are written.
		wait := time.NewTimer(time.Until(time.Now().Truncate(sampleEvery).Add(sampleEvery)))
		select {
		case <-ctx.Done():
			wait.Stop()
			if err := c.Flush(c.cfg.Now()); err != nil {
				c.complain(context.WithoutCancel(ctx), "the last minute could not be written", err)
			}
			return nil
		case <-wait.C:
		}
		c.Sample(ctx)
	}
}

// Sample takes one sample of everything, and does what is due: the minute is written when it is over.
func (c *Collector) Sample(ctx context.Context) {
	usage, usageErr := c.askEngine(ctx)
	traffic := c.askEdge()
	now := c.cfg.Now()
	c.mu.Lock()
	if c.clock.set(now) {
		c.cfg.Log.WarnContext(ctx, "the clock was set; nothing is removed from the metrics for a while", "now", now, "for", afterSet)
		c.compacts = time.Now().Add(afterSet)
	}
	select {
	case <-c.changes.Wake():
		if err := c.look(ctx); err != nil {
			c.complain(ctx, "the state could not be read", err)
		}
	default:
	}
	// A sample is about the ten seconds before it.
	at := now.Add(-sampleEvery / 2)
	if c.worked(ctx, usageErr) {
		c.addUsage(usage, at)
	}
	c.addTraffic(traffic, at)
	compact := !time.Now().Before(c.compacts)
	if compact {
		c.compacts = time.Now().Add(compactEvery)
	}
	c.mu.Unlock()

	if now.Add(sampleEvery/2).Truncate(time.Minute) != at.Truncate(time.Minute) {
		if err := c.Flush(now); err != nil {
			c.complain(ctx, "points could not be written", err)
		}
	}
	if compact {
		if err := c.Compact(ctx, now); err != nil && ctx.Err() == nil {
			c.complain(ctx, "old points could not be removed", err)
		}
	}
}

func (c *Collector) complain(ctx context.Context, reason string, err error) {
	if ctx.Err() == nil {
		c.cfg.Log.WarnContext(ctx, "metrics are not complete", "reason", reason, "error", err)
	}
}

// clock notices when the clock on the wall is set. The other one, which only counts, is that of time.Since.
type clock struct {
	wall, counted time.Time
}

// set reports whether the clock was set since the last call.
func (k *clock) set(wall time.Time) bool {
	counted := time.Now()
	before := *k
	k.wall, k.counted = wall.Round(0), counted
	if before.counted.IsZero() {
		return false
	}
	skew := k.wall.Sub(before.wall) - counted.Sub(before.counted)
	return skew.Abs() >= jump
}

// look reads the state (c.mu is held): which services and pods there are, and which pods have failed. It forgets what belongs to
// services that are gone.
func (c *Collector) look(ctx context.Context) error {
	c.changes.Take()
	next := view{byName: map[string]string{}, active: map[string]int{}, pods: map[trysail.PodID]trysail.PodRecord{}}
	var failed []store.FailedPod
	err := c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		if next.services, err = tx.Services(); err != nil {
			return err
		}
		pods, err := tx.LivePods()
		for _, p := range pods {
			p.Evidence = nil
			next.pods[p.ID] = p
		}
		if err != nil {
			return err
		}
		failed, err = tx.FailedPods()
		return err
	})
	if err != nil {
		return err
	}
	var ids []string
	for _, s := range next.services {
		ids = append(ids, s.ID)
		next.byName[s.Name] = s.ID
		if s.Current != nil {
			next.active[s.ID] = s.Current.Version
		}
	}
	c.view = next
	c.countRestarts(failed)
	c.forget()
	if err := c.Retain(ids); err != nil {
		return fmt.Errorf("removing metrics of deleted services: %w", err)
	}
	return nil
}

// countRestarts counts the pods of active versions that have failed since the last call. Those that had failed before the
// first call were counted by the Trysail that ran then.
func (c *Collector) countRestarts(failed []store.FailedPod) {
	first := c.failed == nil
	seen := make(map[trysail.PodID]bool, len(failed))
	for _, p := range failed {
		seen[p.ID] = true
		if !first && c.cfg.Leads() && !c.failed[p.ID] && c.view.active[p.ServiceID] == p.Version {
			c.count(versionKey{p.ServiceID, p.Version}, c.cfg.Now(), &Values{Restarts: 1})
		}
	}
	c.failed = seen
}

// forget drops totals of versions that are neither active nor have pods, once the edge does not count them any more.
func (c *Collector) forget() {
	kept := map[versionKey]bool{}
	for id, version := range c.view.active {
		kept[versionKey{id, version}] = true
	}
	for _, p := range c.view.pods {
		kept[versionKey{p.ServiceID, p.Version}] = true
	}
	for name := range c.edge {
		if id, ok := c.view.byName[name.service]; ok {
			kept[versionKey{id, name.version}] = true
		}
	}
	for key := range c.totals {
		if !kept[key] {
			delete(c.totals, key)
		}
	}
}

// count adds to the minute of at and to the totals.
func (c *Collector) count(key versionKey, at time.Time, v *Values) {
	c.Add(key.serviceID, key.version, at, v)
	c.total(key).Merge(v)
}

func (c *Collector) total(key versionKey) *Totals {
	t := c.totals[key]
	if t == nil {
		t = &Totals{}
		c.totals[key] = t
	}
	return t
}

func (c *Collector) askEngine(ctx context.Context) ([]trysail.Usage, error) {
	if !c.cfg.Leads() {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	return c.cfg.Usage(ctx)
}

func (c *Collector) askEdge() []trysail.Traffic {
	if c.cfg.Traffic == nil {
		return nil
	}
	return c.cfg.Traffic()
}

// worked logs that the engine did not answer, once as long as the reason stays the same.
func (c *Collector) worked(ctx context.Context, err error) bool {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if err != nil && text != c.failing {
		c.complain(ctx, "the engine did not say what pods use", err)
	}
	c.failing = text
	return err == nil
}

// addUsage adds what the pods have used since the last sample.
func (c *Collector) addUsage(all []trysail.Usage, at time.Time) {
	before := c.cpu
	c.cpu = make(map[trysail.PodID]trysail.Usage, len(all))
	clear(c.usage)
	for _, u := range all {
		c.cpu[u.Pod] = u
		pod, known := c.view.pods[u.Pod]
		if !known {
			continue
		}
		key := versionKey{pod.ServiceID, pod.Version}
		now := c.usage[key]
		now.memory += u.Memory
		now.memoryLimit += u.Limits.Memory
		now.milliCPU += u.Limits.MilliCPU
		c.usage[key] = now
		var v Values
		if u.Limits.Memory > 0 {
			v.Memory.Observe(share(float64(u.Memory), float64(u.Limits.Memory)))
		}
		if last, ok := before[u.Pod]; ok {
			c.addCPU(key, &v, last, u)
		}
		c.count(key, at, &v)
	}
}

// addCPU adds what happened between two samples of a pod.
func (c *Collector) addCPU(key versionKey, v *Values, last, u trysail.Usage) {
	span := u.At.Sub(last.At)
	if span <= 0 || u.CPU < last.CPU {
		return
	}
	t := c.total(key)
	t.CPU += u.CPU - last.CPU
	if u.Limits.MilliCPU > 0 {
		v.CPU.Observe(share(float64(u.CPU-last.CPU), float64(span)*float64(u.Limits.MilliCPU)/1000))
	}
	periods, held := u.Periods-last.Periods, u.ThrottledPeriods-last.ThrottledPeriods
	if u.Periods == 0 || periods < 0 || held < 0 {
		return
	}
	t.Periods += periods
	t.ThrottledPeriods += held
	t.Throttled += max(0, u.Throttled-last.Throttled)
	v.Throttling.Observe(share(float64(held), float64(max(periods, 1))))
}

// share is a part of a whole. More than the whole is the noise of two clocks.
func share(part, whole float64) int64 {
	return int64(min(max(part/whole, 0), 1)*Whole + 0.5)
}

// addTraffic adds what the edge has counted since the last reading.
func (c *Collector) addTraffic(all []trysail.Traffic, at time.Time) {
	before := c.edge
	c.edge = make(map[versionName]trysail.Traffic, len(before))
	for _, t := range all {
		name := versionName{t.Service, t.Version}
		c.edge[name] = t
		id, known := c.view.byName[t.Service]
		if v := since(before[name], t); known && v != (Values{}) {
			c.count(versionKey{id, t.Version}, at, &v)
		}
	}
}

// since is what was counted between two readings. Counters that are smaller than before have begun anew.
func since(before, now trysail.Traffic) (v Values) {
	if smaller(&before, &now) {
		before = trysail.Traffic{}
	}
	for i := range v.Requests {
		v.Requests[i] = now.Requests[i] - before.Requests[i]
	}
	for i := range v.Latency {
		v.Latency[i] = now.Latency[i] - before.Latency[i]
	}
	v.BytesIn, v.BytesOut = now.BytesIn-before.BytesIn, now.BytesOut-before.BytesOut
	v.ProbeFailures = now.ProbeFailures - before.ProbeFailures
	return v
}

// smaller reports whether any counter is.
func smaller(before, now *trysail.Traffic) bool {
	if now.BytesIn < before.BytesIn || now.BytesOut < before.BytesOut || now.ProbeFailures < before.ProbeFailures {
		return true
	}
	for i := range now.Requests {
		if now.Requests[i] < before.Requests[i] {
			return true
		}
	}
	for i := range now.Latency {
		if now.Latency[i] < before.Latency[i] {
			return true
		}
	}
	return false
}
