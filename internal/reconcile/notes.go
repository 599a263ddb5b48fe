package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/diagnose"
	"github.com/trysail/trysail/internal/engine"
	"github.com/trysail/trysail/internal/store"
)

// versionKey names a version of a service.
type versionKey struct {
	service string // id
	version int
}

// notes are what is known of a version that the store does not have: all of it can be found out again. Reconciler.mu
// guards them.
type notes struct {
	images    Images
	pull      *trysail.ImageError // why an image could not be had the last time
	pullAt    time.Time
	autopsies map[string]trysail.Autopsy // by container
	trials    map[trysail.PodID][]trysail.Trial
	oomKills  map[trysail.PodID]int64 // of the machine, when the pod was started
}

// note changes the notes of a version.
func (r *Reconciler) note(key versionKey, change func(*notes)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.notes[key.service] == nil {
		r.notes[key.service] = map[int]*notes{}
	}
	n := r.notes[key.service][key.version]
	if n == nil {
		n = &notes{trials: map[trysail.PodID][]trysail.Trial{}, oomKills: map[trysail.PodID]int64{}}
		r.notes[key.service][key.version] = n
	}
	change(n)
}

// noted returns a copy of the notes of a version, which may be empty.
func (r *Reconciler) noted(key versionKey) (n notes) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if have := r.notes[key.service][key.version]; have != nil {
		n = *have
		n.trials, n.oomKills = maps.Clone(have.trials), maps.Clone(have.oomKills)
	}
	return n
}

// forget drops the notes of all versions of a service but one.
func (r *Reconciler) forget(serviceID string, keep int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.notes[serviceID]
	maps.DeleteFunc(all, func(version int, _ *notes) bool { return version != keep })
	if len(all) == 0 {
		delete(r.notes, serviceID)
	}
}

// examine looks into the images before anything is started, and notes what it sees.
func (r *Reconciler) examine(ctx context.Context, key versionKey, d *trysail.Deployment, digests map[string]string) {
	examiner, ok := r.Engine.(engine.Examiner)
	if !ok {
		return
	}
	seen := map[string]trysail.Autopsy{}
	for _, name := range d.ContainerNames() {
		c := d.Containers[name]
		var ports []int
		for port := range c.Ports {
			if n, err := strconv.Atoi(port); err == nil {
				ports = append(ports, n)
			}
		}
		spec := trysail.ContainerSpec{Name: name, Image: trysail.ImageReference(c.Image, digests[c.Image]), Command: c.Command, Environment: c.Environment}
		autopsy, err := examiner.Examine(ctx, spec, ports)
		if err != nil {
			// Then the start will tell.
			r.Log.WarnContext(ctx, "an image could not be looked into", "image", c.Image, "container", name, "error", err)
			continue
		}
		seen[name] = autopsy
	}
	r.note(key, func(n *notes) { n.autopsies = seen })
}

// input is what is known of a version that is current or next: what the store has of it and the notes.
func (r *Reconciler) input(w *World, d *trysail.Deployment) diagnose.Input {
	n := r.noted(versionKey{w.Service.ID, d.Version})
	seen := w.Evidence // of the next version
	if version(w.Service.Next) != d.Version {
		seen = trysail.DeploymentEvidence{}
	}
	if n.autopsies != nil {
		seen.Autopsies = n.autopsies
	}
	if e := n.pull; e != nil {
		seen.Pull = &trysail.PullFailure{Image: e.Image, Code: e.Code, Message: e.Message, Fix: e.Fix, Final: e.Final, Tries: n.images.Tries, At: n.pullAt}
		if e.Err != nil {
			seen.Pull.Text = e.Err.Error()
		}
	}
	in := diagnose.Input{
		Deployment: d, Power: w.Service.Power, Image: n.pull, Window: r.ActivationTimeout, Version: &seen,
	}
	if w.Service.Current != nil && w.Service.Current.Version != d.Version {
		in.Previous = w.Service.Current
	}
	for _, p := range w.Pods {
		if p.Version == d.Version {
			in.Pods = append(in.Pods, p)
		}
	}
	return in
}

// neighbors lists the other services and their open ports, for programs that look for them in the wrong place.
func neighbors(tx *store.Tx, serviceID string) ([]trysail.Neighbor, error) {
	all, err := tx.Services()
	if err != nil {
		return nil, fmt.Errorf("listing the other services: %w", err)
	}
	var list []trysail.Neighbor
	for _, s := range all {
		if s.ID == serviceID || s.Current == nil {
			continue
		}
		n := trysail.Neighbor{Service: s.Name}
		for _, c := range s.Current.Containers {
			for port := range c.Ports {
				if p, err := strconv.Atoi(port); err == nil {
					n.Ports = append(n.Ports, p)
				}
			}
		}
		list = append(list, n)
	}
	return list, nil
}

// lastActive is the deployment that was ACTIVE before a version; nil if none is kept.
func lastActive(tx *store.Tx, serviceID string, before int) (*trysail.Deployment, error) {
	all, err := tx.Deployments(serviceID)
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		if d.Version < before && d.State == trysail.DeploymentInactive {
			return &d, nil
		}
	}
	return nil, nil
}

// explainCrash says why a pod of the ACTIVE version failed.
func (r *Reconciler) explainCrash(ctx context.Context, w *World, rec trysail.PodRecord) (verdict trysail.Diagnosis, err error) {
	in := r.input(w, w.Service.Current)
	in.Pods = []trysail.PodRecord{rec}
	err = r.Store.View(ctx, func(tx *store.Tx) (err error) {
		if in.Previous, err = lastActive(tx, w.Service.ID, rec.Version); err != nil {
			return err
		}
		in.Version.Neighbors, err = neighbors(tx, w.Service.ID)
		return err
	})
	if err != nil {
		return verdict, err
	}
	return diagnose.Diagnose(in), nil
}

// warnings are kept with a version. What the version has been told before stays.
func addWarnings(tx *store.Tx, serviceID string, version int, found []trysail.Finding) error {
	if len(found) == 0 {
		return nil
	}
	d, err := tx.Diagnosis(serviceID, version)
	if errors.Is(err, store.ErrNotFound) {
		d = &trysail.Diagnosis{
			Version: version, Code: trysail.DiagnosisOK, Confidence: trysail.Certain, Summary: "Nothing failed.",
			Evidence: []trysail.Evidence{}, Diff: []trysail.Difference{},
		}
	} else if err != nil {
		return err
	}
	for _, f := range found {
		d.Warn(f)
	}
	return tx.SetDiagnosis(serviceID, d)
}

// warnOfKill keeps with the version that containers of a pod did not end when they were asked to. Errors: store.ErrNotFound.
func (r *Reconciler) warnOfKill(ctx context.Context, w *World, tx *store.Tx, rec trysail.PodRecord, stop *trysail.StopEvidence) error {
	all, err := tx.Deployments(rec.ServiceID)
	if err != nil {
		return err
	}
	seen, err := tx.DeploymentEvidence(rec.ServiceID, rec.Version)
	if err != nil {
		return err
	}
	before, err := tx.Pod(rec.ID)
	if err != nil {
		return err
	}
	if rec.Evidence = before.Evidence; rec.Evidence == nil {
		rec.Evidence = &trysail.PodEvidence{At: tx.Now()}
	}
	rec.Evidence.Stop = stop
	if err := tx.UpdatePod(&rec); err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(d trysail.Deployment) bool { return d.Version == rec.Version })
	if i < 0 {
		return store.ErrNotFound
	}
	alone := rec
	alone.Evidence = &trysail.PodEvidence{Stop: stop}
	found := diagnose.Warnings(diagnose.Input{Deployment: &all[i], Power: rec.Power, Version: seen, Pods: []trysail.PodRecord{alone}})
	if err := addWarnings(tx, rec.ServiceID, rec.Version, found); err != nil {
		return err
	}
	for _, f := range found {
		if f.Code == "DRAIN-KILL" {
			r.explain(ctx, w, &all[i], fmt.Sprintf("Warning %s: %s Fix: %s", f.Code, f.Summary, f.Fix))
		}
	}
	return nil
}

// noteMachine records which machine, and since which start of it, a deployment begins on.
func (r *Reconciler) noteMachine(ctx context.Context, tx *store.Tx, serviceID string, d *trysail.Deployment) error {
	witness, ok := r.Engine.(engine.Witness)
	if !ok {
		return nil
	}
	seen, err := tx.DeploymentEvidence(serviceID, d.Version)
	if err != nil {
		return err
	}
	now, err := witness.Machine(ctx)
	if err != nil {
		r.Log.InfoContext(ctx, "the state of the machine cannot be seen", "error", err)
		return nil
	}
	if before := seen.Machine; before != nil && before.BootID != now.BootID {
		seen.RestartedAt = tx.Now()
	}
	seen.Machine = &now
	return tx.SetDeploymentEvidence(serviceID, d.Version, seen)
}
