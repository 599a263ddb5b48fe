package edge

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/trysail/trysail"
)

// trialsAtOnce is how many trials run side by side in a pod: an application that takes one request at a time shall not
// be judged by how it bears a crowd.
const trialsAtOnce = 2

// Try makes variations of the health check, each once, and returns them with their results. A target that is not
// known, or a context that ends, leaves trials without a result. It changes nothing about the target's health.
func (e *Edge) Try(ctx context.Context, service string, pod trysail.PodID, trials []trysail.Trial) []trysail.Trial {
	trials = slices.Clone(trials)
	t := e.target(service, pod)
	if t == nil {
		return trials
	}
	s := t.prober.settings.Load()
	var g errgroup.Group
	g.SetLimit(trialsAtOnce)
	for i := range trials {
		g.Go(func() error {
			trial := &trials[i]
			p := t.prober.ask.variation(trial).ask(ctx, question{cmp.Or(trial.Path, s.check.Path), trial.Host, trial.Proto},
				cmp.Or(trial.Timeout, s.timeout()), s.codes)
			if ctx.Err() == nil {
				trial.Result = trysail.Transcript{}.Add(p)[0]
			}
			return nil
		})
	}
	_ = g.Wait() // no trial returns an error
	return trials
}

// variation is the asker for a trial.
func (a *asker) variation(t *trysail.Trial) *asker {
	v := *a
	if t.Port != 0 {
		v.addr = netip.AddrPortFrom(a.addr.Addr(), uint16(t.Port)) //nolint:gosec // a port
	}
	v.tls = a.tls || t.TLS
	return &v
}

func (e *Edge) target(service string, pod trysail.PodID) *target {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.services[service]
	if s == nil {
		return nil
	}
	return s.targets[pod]
}
