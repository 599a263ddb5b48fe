package edge

import (
	"cmp"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/trysail/trysail"
)

// countersKept is how long the counters of a version stay readable after its last target is gone.
const countersKept = time.Hour

// counters is what is counted of one version of a service; version 0 is for requests that no pod was asked for. Adding
// takes no lock.
type counters struct {
	requests      [len(trysail.Traffic{}.Requests)]atomic.Int64
	latency       [len(trysail.Histogram{})]atomic.Int64
	bytesIn       atomic.Int64
	bytesOut      atomic.Int64
	probeFailures atomic.Int64
	unused        time.Time // since when no target counts here; Edge.mu guards it
	service       string
	version       int
}

type countersKey struct {
	service string
	version int
}

// request counts one that has ended. Status 0 is none.
func (c *counters) request(status int, took time.Duration) {
	class := status / 100
	if class >= len(c.requests) || class < 0 {
		class = 0
	}
	c.requests[class].Add(1)
	c.latency[trysail.HistogramBucket(took)].Add(1)
}

func (c *counters) read() trysail.Traffic {
	t := trysail.Traffic{
		Service: c.service, Version: c.version,
		BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(), ProbeFailures: c.probeFailures.Load(),
	}
	for i := range c.requests {
		t.Requests[i] = c.requests[i].Load()
	}
	for i := range c.latency {
		t.Latency[i] = c.latency[i].Load()
	}
	return t
}

// countersOf returns the counters of a version. The caller holds e.mu.
func (e *Edge) countersOf(service string, version int) *counters {
	key := countersKey{service, version}
	c := e.counters[key]
	if c == nil {
		e.sweepCounters(time.Now())
		c = &counters{service: service, version: version}
		e.counters[key] = c
	}
	c.unused = time.Time{}
	return c
}

// sweepCounters drops those that have not been used for long. The caller holds e.mu.
func (e *Edge) sweepCounters(now time.Time) {
	used := make(map[*counters]bool, len(e.counters))
	for _, s := range e.services {
		used[s.counters] = true
		s.sweep()
		for _, t := range s.all() {
			used[t.counters] = true
		}
	}
	maps.DeleteFunc(e.counters, func(_ countersKey, c *counters) bool {
		if used[c] {
			c.unused = time.Time{}
			return false
		}
		if c.unused.IsZero() {
			c.unused = now
		}
		return now.Sub(c.unused) >= countersKept
	})
}

// Traffic returns what was counted since the edge was made, by service and version. A version is in it as long as it
// has targets, and for an hour afterwards; what was counted of a service goes with Remove.
func (e *Edge) Traffic() []trysail.Traffic {
	e.mu.Lock()
	e.sweepCounters(time.Now())
	list := make([]trysail.Traffic, 0, len(e.counters))
	for _, c := range e.counters {
		list = append(list, c.read())
	}
	e.mu.Unlock()
	slices.SortFunc(list, func(a, b trysail.Traffic) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Version, b.Version))
	})
	return list
}
