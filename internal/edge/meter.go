package edge

import (
	"maps"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/trysail/trysail"
)

// maxMetered bounds the clients whose rate is remembered, per service. More share one place, so that nobody can have
// unlimited requests, or our memory, by having many addresses.
const maxMetered = 1 << 16

// busyRetry is what a client is told that has, or whose service has, too many requests under way.
const busyRetry = time.Second

// meter counts the requests of a service: their rate by client, and how many are under way. It outlives changes of the
// rules.
type meter struct {
	// mu guards what follows.
	mu sync.Mutex
	// due is, by client, the Unix time in nanoseconds when it has made use of all that it may by then (GCRA: a token bucket
	// kept as a single time). One that is past says nothing.
	due     map[netip.Addr]int64
	swept   int64 // when past ones were dropped
	atOnce  map[netip.Addr]int
	atOnceN int
}

func newMeter() *meter { return &meter{due: map[netip.Addr]int64{}, atOnce: map[netip.Addr]int{}} }

// admit counts a request unless the rules are against it.
func (m *meter) admit(client netip.Addr, rules *trysail.EdgeRules, now time.Time) refusal {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case rules.MaxRequestsAtOncePerClient > 0 && m.atOnce[client] >= rules.MaxRequestsAtOncePerClient:
		return refusal{http.StatusTooManyRequests, busyRetry, errClientBusy}
	case rules.MaxRequestsAtOnce > 0 && m.atOnceN >= rules.MaxRequestsAtOnce:
		return refusal{http.StatusServiceUnavailable, busyRetry, errServiceBusy}
	}
	if rules.RequestsPerMinute > 0 {
		if wait := m.take(client, rules, now.UnixNano()); wait > 0 {
			return refusal{http.StatusTooManyRequests, wait, errTooFast}
		}
	}
	m.atOnceN++
	m.atOnce[client]++
	return refusal{}
}

// take uses one request of what the client may make, or returns when the next one will be there. The caller holds m.mu.
func (m *meter) take(client netip.Addr, rules *trysail.EdgeRules, now int64) time.Duration {
	interval := int64(time.Minute) / int64(rules.RequestsPerMinute)
	due, known := m.due[client]
	if !known && len(m.due) >= maxMetered {
		m.sweep(now)
		if len(m.due) >= maxMetered {
			client = netip.Addr{} // the common place
			due = m.due[client]
		}
	}
	due = max(due, now)
	if early := due - now - int64(rules.Burst()-1)*interval; early > 0 {
		return time.Duration(early)
	}
	m.due[client] = due + interval
	return 0
}

// restart forgets how many requests clients have made.
func (m *meter) restart() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.due)
}

// sweep drops clients that could make all their requests again, at most once a second as it looks at all. The caller holds m.mu.
func (m *meter) sweep(now int64) {
	if now-m.swept < int64(time.Second) {
		return
	}
	m.swept = now
	maps.DeleteFunc(m.due, func(_ netip.Addr, due int64) bool { return due <= now })
}

// release is the counterpart of an admit that let the request pass.
func (m *meter) release(client netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.atOnceN--
	if m.atOnce[client]--; m.atOnce[client] == 0 {
		delete(m.atOnce, client)
	}
}
