package edge

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trysail/trysail"
)

// health is what the probes of a target have found.
type health struct {
	// healthy mirrors state.Healthy for the balancer, which must not wait for a lock.
	healthy atomic.Bool

	// mu guards what follows.
	mu    sync.Mutex
	state trysail.TargetHealth
	inRow int // probes with the outcome of the newest, since the last one with another
}

// snapshot returns the state now.
func (h *health) snapshot() trysail.TargetHealth {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.state
	s.Transcript = slices.Clone(s.Transcript) // record goes on in place
	return s
}

// presume begins a target as healthy.
func (h *health) presume(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state.Healthy, h.state.Since = true, now
	h.healthy.Store(true)
}

// record adds a probe that ended. It reports whether Healthy changed, and whether the outcome of the probe is another
// than that of the one before (or the first), for the log.
func (h *health) record(p trysail.Probe, check trysail.HealthCheck) (flipped, news bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &h.state
	first := s.Probes == 0
	news = first || s.Last.OK != p.OK || s.Last.Status != p.Status || s.Last.Error != p.Error
	if first || s.Last.OK != p.OK {
		h.inRow = 0
	}
	if s.Since.IsZero() {
		s.Since = p.At
	}
	h.inRow++
	s.Probes++
	s.Last = p
	s.Transcript = s.Transcript.Add(p)

	threshold := check.HealthyThreshold
	if s.Healthy {
		threshold = check.UnhealthyThreshold
	}
	if p.OK != s.Healthy && h.inRow >= threshold {
		s.Healthy = p.OK
		s.Since = p.At.Add(p.Took)
		h.healthy.Store(p.OK)
		flipped = true
	}
	return flipped, news
}

// logOutcome writes what a probe changed, once per change: health where an operator looks, the rest for debugging.
func logOutcome(log *slog.Logger, p trysail.Probe, healthy, flipped, news bool) {
	args := []any{"status", p.Status, "took", p.Took}
	if p.Error != "" {
		args = append(args, "error", p.Error)
	}
	switch {
	case flipped && healthy:
		log.Info("target is healthy", args...)
	case flipped:
		log.Warn("target is unhealthy", args...)
	case news:
		log.Debug("health check has a new outcome", append(args, "ok", p.OK)...)
	}
}
