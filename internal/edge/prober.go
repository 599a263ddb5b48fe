package edge

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/trysail/trysail"
)

const (
	// probeFirstGap is the time between two probes when an activation begins. An application that is up at once is
	// found out within a few of them.
	probeFirstGap = 15 * time.Millisecond
	// probeGrowth is the factor from one gap to the next: an application that needs t to start is noticed within
	// about 0.15 t, and a slow starter is not hammered.
	probeGrowth = 1.15
	// probeLastGap is where the gaps stop growing during an activation.
	probeLastGap = time.Second
)

// probeSettings is how a target shall be probed. It does not change once made.
type probeSettings struct {
	check      trysail.HealthCheck // no field zero
	codes      codes
	activating bool
}

// newProbeSettings fills what check leaves out with the defaults. Success codes that cannot be read match nothing:
// the API does not let them in, and a target that passes a check nobody understands would be worse.
func newProbeSettings(check trysail.HealthCheck, activating bool, log *slog.Logger) *probeSettings {
	def := trysail.DefaultHealthCheck()
	setDefault(&check.HealthyThreshold, def.HealthyThreshold)
	setDefault(&check.UnhealthyThreshold, def.UnhealthyThreshold)
	setDefault(&check.TimeoutSeconds, def.TimeoutSeconds)
	setDefault(&check.IntervalSeconds, def.IntervalSeconds)
	setDefault(&check.Path, def.Path)
	setDefault(&check.SuccessCodes, defaultCodes)
	set, err := parseCodes(check.SuccessCodes)
	if err != nil {
		log.Error("health check can never pass", "error", err)
	}
	return &probeSettings{check: check, codes: set, activating: activating}
}

func (s *probeSettings) interval() time.Duration {
	return time.Duration(s.check.IntervalSeconds) * time.Second
}

func (s *probeSettings) timeout() time.Duration {
	return time.Duration(s.check.TimeoutSeconds) * time.Second
}

// prober asks one target at its times whether it can serve. It is one goroutine, and one timer while it waits.
type prober struct {
	ask      asker
	health   *health
	settings atomic.Pointer[probeSettings]
	poke     chan struct{} // settings changed; holds at most one
	log      *slog.Logger
	flipped  func()                             // called, without locks, when the target's health changed
	ended    func(path string, p trysail.Probe) // called after each probe; may be nil
}

// configure makes s the settings from the next probe on.
func (p *prober) configure(s *probeSettings) {
	p.settings.Store(s)
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

// run probes until ctx ends. A probe that is under way then leaves no trace.
func (p *prober) run(ctx context.Context) {
	var pace pace
	s := p.settings.Load()
	timer := time.NewTimer(pace.first(s, p.health.healthy.Load()))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.poke:
			if now := p.settings.Load(); now != s {
				s = now
				timer.Reset(pace.first(s, p.health.healthy.Load()))
			}
			continue
		case <-timer.C:
		}
		probe := p.ask.probe(ctx, s)
		if ctx.Err() != nil {
			return
		}
		flipped, news := p.health.record(probe, s.check)
		if p.ended != nil {
			p.ended(s.check.Path, probe)
		}
		healthy := p.health.healthy.Load()
		logOutcome(p.log, probe, healthy, flipped, news)
		if flipped {
			p.flipped()
		}
		timer.Reset(pace.next(s, probe, healthy))
	}
}

// pace decides when the next probe is due.
type pace struct {
	gap    time.Duration // the last one during activation
	passed bool          // the last probe during activation
}

// first returns the delay of the first probe under settings s: none for a target of which nothing good is known yet,
// and otherwise somewhere in the interval, so that targets that became active (or were adopted) together are not
// probed together for ever.
func (p *pace) first(s *probeSettings, healthy bool) time.Duration {
	*p = pace{}
	if s.activating || !healthy {
		return 0
	}
	return rand.N(s.interval()) //nolint:gosec // spreads probes, keeps no secret
}

// next returns the delay after a probe that just ended.
func (p *pace) next(s *probeSettings, last trysail.Probe, healthy bool) time.Duration {
	if !s.activating {
		// From start to start. The timeout is below the interval, unless someone configured otherwise.
		return max(0, s.interval()-last.Took)
	}
	switch {
	case p.gap == 0, last.OK && !p.passed && !healthy: // the missing successes shall follow quickly
		p.gap = probeFirstGap
	default:
		p.gap = time.Duration(float64(p.gap) * probeGrowth)
	}
	p.passed = last.OK
	p.gap = min(p.gap, probeLastGap, s.interval())
	return p.gap
}
