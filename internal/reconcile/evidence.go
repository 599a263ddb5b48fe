package reconcile

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/diagnose"
	"github.com/trysail/trysail/internal/engine"
)

// evidenceTime bounds how long a pod that failed is looked at before it is stopped, knockTime how long its ports are tried where
// that is needed.
const (
	evidenceTime = 5 * time.Second
	knockTime    = 11 * time.Second
)

// evidence is what can be seen of a pod now, before it is removed.
func (r *Reconciler) evidence(ctx context.Context, w *World, rec trysail.PodRecord) *trysail.PodEvidence {
	e := r.gather(ctx, w, rec)
	knocker, ok := r.Engine.(engine.Knocker)
	d := deployment(&w.Service, rec.Version)
	if !ok || d == nil {
		return e
	}
	ports := diagnose.Ports(d, r.noted(versionKey{rec.ServiceID, rec.Version}).autopsies, e)
	if len(ports) == 0 {
		return e
	}
	ctx, cancel := context.WithTimeout(ctx, knockTime)
	defer cancel()
	knocks, err := knocker.Knock(ctx, rec.ID, ports)
	if err != nil {
		r.Log.InfoContext(ctx, "who listens in a pod could not be found out completely", "pod", rec.ID, "error", err)
	}
	e.Knocks = knocks
	return e
}

// gather is the part of the evidence that leaves the pod alone, but for what it needs.
func (r *Reconciler) gather(ctx context.Context, w *World, rec trysail.PodRecord) *trysail.PodEvidence {
	ctx, cancel := context.WithTimeout(ctx, evidenceTime)
	defer cancel()
	e := r.glance(ctx, w, rec)
	d := deployment(&w.Service, rec.Version)
	if d == nil {
		return e
	}
	for _, name := range d.ContainerNames() {
		tail, err := r.Logs.Tail(rec.ServiceID, string(rec.ID), name, diagnose.LogLook)
		if err != nil {
			r.Log.WarnContext(ctx, "the last lines of a container cannot be read", "pod", rec.ID, "container", name, "error", err)
		}
		if len(tail) > 0 {
			e.LogTail[name] = diagnose.KeepLog(tail, trysail.MaxLogTail)
		}
	}
	witness, ok := r.Engine.(engine.Witness)
	if !ok {
		return e
	}
	if things := diagnose.Suspects(e); len(things) > 0 {
		reached, err := witness.Reach(ctx, rec.ID, things)
		if err != nil {
			r.Log.InfoContext(ctx, "what a pod needs could not be tried from its network", "pod", rec.ID, "error", err)
		}
		e.Reaches = reached
	}
	n := r.noted(versionKey{rec.ServiceID, rec.Version})
	e.Trials = n.trials[rec.ID]
	if m, err := witness.Machine(ctx); err == nil {
		before, known := n.oomKills[rec.ID]
		if m.OOMKills -= before; !known {
			m.OOMKills = 0
		}
		e.Machine = &m
	}
	return e
}

// glance is the part of the evidence that costs next to nothing.
func (r *Reconciler) glance(ctx context.Context, w *World, rec trysail.PodRecord) *trysail.PodEvidence {
	e := &trysail.PodEvidence{}
	if witness, ok := r.Engine.(engine.Witness); ok {
		seen, err := witness.Observe(ctx, rec.ID)
		if err != nil {
			r.Log.InfoContext(ctx, "the inside of a pod cannot be seen", "pod", rec.ID, "error", err)
		}
		e = &seen
	}
	o := w.Observed[rec.ID]
	health := w.Health[rec.ID]
	e.At, e.Health, e.Probes, e.LogTail = time.Now(), health, health.Transcript, map[string][]string{}
	if !e.Lost {
		e.Lost, e.Containers = o.Lost, o.Containers
	}
	return e
}

// lookAgain takes what the engine has at this moment into the world: what a plan rests on may be a moment old, and a
// verdict shall not.
func (r *Reconciler) lookAgain(ctx context.Context, w *World) {
	r.look(ctx, w.Service.ID)
	r.mu.Lock()
	defer r.mu.Unlock()
	w.Observed = r.observed[w.Service.ID]
}

// evidences looks at several pods at once.
func (r *Reconciler) evidences(ctx context.Context, w *World, pods []trysail.PodRecord) {
	var wg sync.WaitGroup
	for i := range pods {
		wg.Go(func() { pods[i].Evidence = r.evidence(ctx, w, pods[i]) })
	}
	wg.Wait()
}

// tryFixes tries variations of the health check in a pod that is not healthy, and notes what came of them.
func (r *Reconciler) tryFixes(ctx context.Context, w *World, rec trysail.PodRecord) {
	d := deployment(&w.Service, rec.Version)
	if d == nil {
		return
	}
	host := w.Service.Host(r.Region, r.Domain)
	trials := diagnose.Trials(d, r.gather(ctx, w, rec), host)
	if time.Now().Before(d.Deadline) {
		// The check itself is asked all the time; once more says something only when the window has closed.
		trials = slices.DeleteFunc(trials, func(t trysail.Trial) bool { return t == trysail.Trial{} })
	}
	trials = r.Router.Try(ctx, w.Service.Name, rec.ID, trials)
	if ctx.Err() == nil {
		r.note(versionKey{rec.ServiceID, rec.Version}, func(n *notes) { n.trials[rec.ID] = trials })
	}
}

// settled tells the engine which pods have become healthy.
func (r *Reconciler) settled(pods []trysail.PodRecord) {
	if witness, ok := r.Engine.(engine.Witness); ok {
		for _, p := range pods {
			witness.Settle(p.ID)
		}
	}
}
