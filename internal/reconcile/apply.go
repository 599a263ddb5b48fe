package reconcile

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/diagnose"
	"github.com/trysail/trysail/internal/engine"
	"github.com/trysail/trysail/internal/store"
)

// errStale says that somebody changed the service since the plan was made. The next round sees the change.
var errStale = errors.New("the service has changed since the plan was made")

// apply carries one step out. Store first, then the world, so that a crash between the two is repaired by the next
// plan. What may take long is started here and goes on beside the rounds.
func (r *Reconciler) apply(ctx context.Context, w *World, step Step) error {
	if _, quiet := step.(SetRoute); !quiet {
		r.Log.DebugContext(ctx, "step", "service", w.Service.Name, "step", step.String())
	}
	switch s := step.(type) {
	case Begin:
		return r.begin(ctx, w)
	case BeginUpdate:
		return r.change(ctx, w, func(tx *store.Tx, svc *trysail.Service) error {
			svc.Detail = beginUpdate(svc.Detail)
			return errors.Join(r.openWindow(tx, svc.ID, svc.Current), tx.UpdateService(svc))
		})
	case SetDetail:
		return r.change(ctx, w, func(tx *store.Tx, svc *trysail.Service) error {
			svc.Detail = s.Detail
			return tx.UpdateService(svc)
		})
	case PrepareImages:
		id := w.Service.ID
		r.act(ctx, fmt.Sprintf("images/%s/%d", id, s.Version), id, func(ctx context.Context) error { return r.prepare(ctx, id, s.Version) })
	case TryFixes:
		now := *w // the rounds go on
		for _, p := range s.Pods {
			r.act(ctx, "try/"+string(p.ID), w.Service.ID, func(ctx context.Context) error {
				r.tryFixes(ctx, &now, p)
				return nil
			})
		}
	case CreatePods:
		return r.create(ctx, w, s)
	case StartPod:
		r.start(ctx, w, s.Pod)
	case MarkHealthy:
		r.settled(s.Pods)
		return r.change(ctx, w, func(tx *store.Tx, _ *trysail.Service) error { return markHealthy(tx, s.Pods) })
	case StopPod:
		return r.stop(ctx, w, s)
	case EndPod:
		r.end(ctx, w, s)
	case SetRoute:
		// Pods end in later steps, so an error here keeps those that others are still sent to.
		if err := r.Router.Apply(ctx, s.Route); err != nil {
			return err
		}
		return r.Names.Publish(s.Private)
	case Activate:
		return r.activate(ctx, w, s)
	case Fail:
		return r.fail(ctx, w, s)
	case Revert:
		return r.revert(ctx, w, s)
	case EndForward:
		return r.change(ctx, w, func(tx *store.Tx, svc *trysail.Service) error {
			svc.Forward = nil
			return tx.UpdateService(svc)
		})
	case Settle:
		return r.settle(ctx, w, s)
	case RemoveService:
		r.Router.Remove(w.Service.Name)
		if err := errors.Join(r.Names.Withdraw(w.Service.Name), r.Logs.Delete(w.Service.ID)); err != nil {
			return err
		}
		return r.update(ctx, func(tx *store.Tx) error {
			return errors.Join(tx.FinishOperations(w.Service.Name, trysail.OperationSucceeded, "", ""), tx.DeleteService(w.Service.ID))
		})
	default:
		return fmt.Errorf("applying: no such step: %v", step)
	}
	return nil
}

// update runs fn in a transaction. On a full disk it gives up the reserve for that: what fills the disk may be a pod, and
// to stop it begins with a transaction.
func (r *Reconciler) update(ctx context.Context, fn func(*store.Tx) error) error {
	err := r.Store.Update(ctx, fn)
	if !errors.Is(err, store.ErrFull) {
		return err
	}
	released, failed := r.Store.ReleaseReserve()
	if failed != nil || !released {
		return errors.Join(err, failed)
	}
	r.Log.ErrorContext(ctx, "the disk that holds the data directory is full; the reserve has been given up")
	return r.Store.Update(ctx, fn)
}

// change runs fn in a transaction on the service as it is now, if it still is what the plan was made for. w sees the
// change.
func (r *Reconciler) change(ctx context.Context, w *World, fn func(*store.Tx, *trysail.Service) error) error {
	var after *trysail.Service
	err := r.update(ctx, func(tx *store.Tx) error {
		svc, err := tx.ServiceByID(w.Service.ID)
		if err != nil {
			return err
		}
		if svc.State != w.Service.State || svc.Disabled != w.Service.Disabled || svc.Capacity != w.Service.Capacity || version(svc.Next) != version(w.Service.Next) {
			return errStale
		}
		after = svc
		return fn(tx, svc)
	})
	if err == nil {
		w.Service = *after
	}
	return err
}

// beginUpdate is the detail of an update that somebody looks at now. Its code says what is changed.
func beginUpdate(d trysail.StateDetail) trysail.StateDetail {
	if d.Code == trysail.DetailProvisioningCertificate {
		return trysail.StateDetail{Code: d.Code, Message: "Changing the domains"}
	}
	return trysail.StateDetail{Code: trysail.DetailProvisioningService, Message: "Changing the capacity"}
}

func version(d *trysail.Deployment) int {
	if d == nil {
		return 0
	}
	return d.Version
}

// openWindow gives a deployment its time to become healthy.
func (r *Reconciler) openWindow(tx *store.Tx, serviceID string, d *trysail.Deployment) error {
	if d == nil {
		return nil
	}
	d.Deadline = tx.Now().Add(r.ActivationTimeout)
	return tx.UpdateDeployment(serviceID, d)
}

func (r *Reconciler) begin(ctx context.Context, w *World) error {
	return r.change(ctx, w, func(tx *store.Tx, svc *trysail.Service) error {
		svc.State = trysail.ServiceDeploying
		svc.Detail = trysail.StateDetail{Code: trysail.DetailCreatingDeployment, Message: "Pulling images"}
		err := errors.Join(r.openWindow(tx, svc.ID, svc.Next), tx.UpdateService(svc), r.noteMachine(ctx, tx, svc.ID, svc.Next))
		if err == nil {
			r.say(ctx, w, svc.Next, "Creating your deployment")
		}
		return err
	})
}

// say writes a system line of a deployment, as AWS does, into the log of each of its containers. Like explain, it is
// called as the last thing before the state it tells of is committed: who sees the state finds the line, and a crash
// between the two repeats the line instead of losing it.
func (r *Reconciler) say(ctx context.Context, w *World, d *trysail.Deployment, text string) {
	r.write(ctx, w, d, fmt.Sprintf("[deployment:%d] %s", d.Version, text))
}

// explain writes a line of ours into the log of each container of a deployment.
func (r *Reconciler) explain(ctx context.Context, w *World, d *trysail.Deployment, text string) {
	for line := range strings.Lines(text) {
		r.write(ctx, w, d, "[trysail] "+strings.TrimRight(line, "\n"))
	}
}

func (r *Reconciler) write(ctx context.Context, w *World, d *trysail.Deployment, line string) {
	if err := r.Logs.Append(w.Service.ID, d.ContainerNames(), time.Now().UTC(), line); err != nil {
		// The line is a report, not a decision: a full disk must not stop the deployment.
		r.Log.WarnContext(ctx, "a system line could not be written", "service", w.Service.Name, "error", err)
	}
}

func (r *Reconciler) create(ctx context.Context, w *World, s CreatePods) error {
	return r.change(ctx, w, func(tx *store.Tx, svc *trysail.Service) error {
		for _, p := range s.Pods {
			p.ID, p.CreatedAt = newPodID(svc.Name, p), tx.Now()
			if err := tx.InsertPod(&p); err != nil {
				return err
			}
		}
		if d := deployment(svc, s.Version); d != nil {
			text := "Started 1 new node"
			if n := len(s.Pods); n > 1 {
				text = fmt.Sprintf("Started %d new nodes", n)
			}
			r.say(ctx, w, d, text)
		}
		return nil
	})
}

// newPodID makes a name that a person can read and that is never used again.
func newPodID(service string, p trysail.PodRecord) trysail.PodID {
	return trysail.PodID(fmt.Sprintf("%.30s-v%d-%d-%s", service, p.Version, p.Slot, strings.ToLower(rand.Text()[:8])))
}

func deployment(s *trysail.Service, version int) *trysail.Deployment {
	for _, d := range []*trysail.Deployment{s.Current, s.Next} {
		if d != nil && d.Version == version {
			return d
		}
	}
	return nil
}

func startKey(id trysail.PodID) string { return "start/" + string(id) }
func endKey(id trysail.PodID) string   { return "end/" + string(id) }

// start makes the engine run a pod. The engine's refusal counts as a failed start; its silence does not.
func (r *Reconciler) start(ctx context.Context, w *World, rec trysail.PodRecord) {
	d := deployment(&w.Service, rec.Version)
	if d == nil {
		return
	}
	spec := trysail.PodSpec{
		ID: rec.ID, Service: w.Service.Name, ServiceID: rec.ServiceID, Version: rec.Version,
		Limits: rec.Power.Limits(), LogDir: r.Logs.PodDir(rec.ServiceID, string(rec.ID)),
	}
	for _, name := range d.ContainerNames() {
		c := d.Containers[name]
		spec.Containers = append(spec.Containers, trysail.ContainerSpec{
			Name: name, Image: trysail.ImageReference(c.Image, d.Digests[c.Image]), Command: c.Command, Environment: c.Environment,
		})
	}
	r.act(ctx, startKey(rec.ID), w.Service.ID, func(actx context.Context) error {
		// The plan may be older than the end of another start of this pod.
		if wanted, err := r.wanted(actx, rec); err != nil || !wanted {
			return err
		}
		if witness, ok := r.Engine.(engine.Witness); ok {
			if m, err := witness.Machine(actx); err == nil {
				r.note(versionKey{rec.ServiceID, rec.Version}, func(n *notes) { n.oomKills[rec.ID] = m.OOMKills })
			}
		}
		// Each start may fill the disk again.
		if err := r.Store.Reserve(); err != nil {
			r.Log.WarnContext(actx, "the reserve for a full disk cannot be made", "error", err)
		}
		err := r.Engine.Start(actx, spec)
		if err == nil || actx.Err() != nil || errors.Is(err, engine.ErrUnavailable) {
			return err
		}
		return r.update(ctx, func(tx *store.Tx) error {
			rec.StopAt, rec.Failed, rec.Reason = tx.Now(), true, "the engine could not start it"
			if strings.HasPrefix(err.Error(), trysail.StartNoRoom) {
				rec.Reason = "no node has room for it"
			}
			rec.Evidence = &trysail.PodEvidence{StartError: err.Error()}
			return tx.UpdatePod(&rec)
		})
	})
}

// wanted reports whether the pod shall run, as the store has it now.
func (r *Reconciler) wanted(ctx context.Context, rec trysail.PodRecord) (yes bool, err error) {
	err = r.Store.View(ctx, func(tx *store.Tx) error {
		now, err := tx.Pod(rec.ID)
		yes = err == nil && now.Live()
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	return yes, err
}

func markHealthy(tx *store.Tx, pods []trysail.PodRecord) error {
	for _, p := range pods {
		p.HealthyAt = tx.Now()
		if err := tx.UpdatePod(&p); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reconciler) stop(ctx context.Context, w *World, s StopPod) error {
	rec := s.Pod
	rec.Reason, rec.Failed = s.Reason, s.Failed
	var verdict trysail.Diagnosis // of the crash of a pod of the ACTIVE version
	crash := s.Failed && version(w.Service.Current) == rec.Version
	if s.Failed {
		r.lookAgain(ctx, w)
		rec.Evidence = r.evidence(ctx, w, rec)
	}
	if crash {
		var err error
		if verdict, err = r.explainCrash(ctx, w, rec); err != nil {
			return err
		}
	}
	return r.change(ctx, w, func(tx *store.Tx, svc *trysail.Service) error {
		rec.StopAt = tx.Now()
		if !crash {
			return tx.UpdatePod(&rec)
		}
		rec.Reason = fmt.Sprintf("%s (%s)", s.Reason, verdict.Code)
		if before, err := tx.Diagnosis(svc.ID, rec.Version); err == nil {
			verdict.Warnings = before.Warnings
		}
		if err := errors.Join(tx.UpdatePod(&rec), tx.SetDiagnosis(svc.ID, &verdict)); err != nil {
			return err
		}
		r.Log.WarnContext(ctx, "a pod of the active version failed", "service", svc.Name, "version", rec.Version, "pod", rec.ID, "code", verdict.Code, "summary", verdict.Summary)
		r.explain(ctx, w, svc.Current, fmt.Sprintf("Version %d: %s. It is started again.", rec.Version, s.Reason))
		r.explain(ctx, w, svc.Current, fmt.Sprintf("%s: %s", verdict.Code, verdict.Summary))
		r.explain(ctx, w, svc.Current, "Fix: "+verdict.Fix)
		return nil
	})
}

// end drains and stops a pod. A start of it that is under way is given up.
func (r *Reconciler) end(ctx context.Context, w *World, s EndPod) {
	rec, name := s.Pod, w.Service.Name
	grace := r.StopGrace
	if rec.Failed {
		grace = min(grace, 5*time.Second)
	}
	if r.cancel(startKey(rec.ID)) {
		return // the round that follows its end comes back here
	}
	now := *w // the rounds go on
	r.act(ctx, endKey(rec.ID), w.Service.ID, func(ctx context.Context) error {
		if !rec.CreatedAt.IsZero() { // without a record it was never routed to
			err := r.Router.Drain(ctx, name, rec.ID, s.Drain)
			if ctx.Err() != nil {
				return ctx.Err() // perhaps somebody else leads now, and this edge is not the only one
			}
			if err != nil {
				r.Log.InfoContext(ctx, "requests in flight were cut", "service", name, "pod", rec.ID, "after", s.Drain)
			}
		}
		asked := time.Now()
		killed, err := r.Engine.Stop(ctx, rec.ID, grace)
		if err != nil {
			return fmt.Errorf("stopping pod %s: %w", rec.ID, err)
		}
		if rec.CreatedAt.IsZero() {
			return nil // it had no record
		}
		return r.update(ctx, func(tx *store.Tx) error {
			rec.EndedAt = tx.Now()
			err := tx.UpdatePod(&rec)
			if err == nil && len(killed) > 0 && !rec.Failed {
				err = r.warnOfKill(ctx, &now, tx, rec, &trysail.StopEvidence{AskedAt: asked, Grace: grace, Killed: killed})
			}
			if errors.Is(err, store.ErrNotFound) {
				return nil // its version is not kept any more
			}
			return err
		})
	})
}

func (r *Reconciler) activate(ctx context.Context, w *World, s Activate) error {
	in := r.input(w, w.Service.Next)
	in.Pods = s.Healthy
	for i := range in.Pods {
		in.Pods[i].Evidence = r.glance(ctx, w, in.Pods[i])
	}
	warnings := diagnose.Warnings(in)
	// Who learns that the version is ACTIVE is answered by it, whichever edge he asks.
	if err := r.Router.Settle(ctx, w.Service.ID); err != nil {
		return err
	}
	err := r.change(ctx, w, func(tx *store.Tx, svc *trysail.Service) error {
		if version(svc.Next) != s.Version {
			return errStale
		}
		if svc.Current != nil {
			svc.Current.State = trysail.DeploymentInactive
			if err := tx.UpdateDeployment(svc.ID, svc.Current); err != nil {
				return err
			}
		}
		svc.Next.State = trysail.DeploymentActive
		svc.Current, svc.Next = svc.Next, nil
		svc.State, svc.Detail = trysail.ServiceRunning, trysail.StateDetail{}
		err := errors.Join(
			tx.UpdateDeployment(svc.ID, svc.Current), tx.UpdateService(svc), markHealthy(tx, s.Healthy),
			tx.SetDeploymentEvidence(svc.ID, s.Version, in.Version), addWarnings(tx, svc.ID, s.Version, warnings),
			tx.FinishOperations(svc.Name, trysail.OperationSucceeded, "", ""))
		if err != nil {
			return err
		}
		r.say(ctx, w, svc.Current, "Reached a steady state")
		r.say(ctx, w, svc.Current, "Finalizing your deployment")
		for _, f := range warnings {
			r.explain(ctx, w, svc.Current, fmt.Sprintf("Warning %s: %s Fix: %s", f.Code, f.Summary, f.Fix))
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.settled(s.Healthy)
	r.Log.InfoContext(ctx, "deployment is active", "service", w.Service.Name, "version", s.Version)
	r.forget(w.Service.ID, s.Version)
	return nil
}

func (r *Reconciler) fail(ctx context.Context, w *World, s Fail) error {
	failed := w.Service.Next
	if version(failed) != s.Version {
		return errStale
	}
	var held []trysail.PodRecord
	verdict, seen, live, err := r.diagnose(ctx, w, s)
	if err != nil {
		return err
	}
	err = r.change(ctx, w, func(tx *store.Tx, svc *trysail.Service) error {
		hold := svc.Next.Hold
		held = nil
		for _, p := range live {
			p.StopAt, p.Failed, p.Reason = tx.Now(), true, "the deployment failed: "+string(verdict.Code)
			if o := w.Observed[p.ID]; hold > 0 && o.Running(len(failed.Containers)) {
				p.HoldUntil = tx.Now().Add(hold)
				held = append(held, p)
			}
			if err := tx.UpdatePod(&p); err != nil {
				return err
			}
		}
		svc.Next.State = trysail.DeploymentFailed
		err := errors.Join(tx.UpdateDeployment(svc.ID, svc.Next), tx.SetDiagnosis(svc.ID, &verdict), tx.SetDeploymentEvidence(svc.ID, s.Version, seen))
		if err != nil {
			return err
		}
		svc.Next, svc.Detail, svc.State = nil, trysail.StateDetail{}, trysail.ServiceReady
		if svc.Current != nil {
			svc.State = trysail.ServiceRunning
		}
		details := verdict.Summary + " Fix: " + verdict.Fix
		if err := errors.Join(tx.UpdateService(svc), tx.FinishOperations(svc.Name, trysail.OperationFailed, string(verdict.Code), details)); err != nil {
			return err
		}
		if s.TookTooLong {
			r.say(ctx, w, failed, "Took too long")
		}
		r.say(ctx, w, failed, "Canceled")
		r.explain(ctx, w, failed, fmt.Sprintf("%s: %s", verdict.Code, verdict.Summary))
		r.explain(ctx, w, failed, "Fix: "+verdict.Fix)
		for _, p := range held {
			r.explain(ctx, w, failed, fmt.Sprintf("Pod %s at %s is kept until %s, out of rotation.", p.ID, w.Observed[p.ID].Addr, p.HoldUntil.UTC().Format("15:04:05 UTC")))
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.Log.WarnContext(ctx, "deployment failed", "service", w.Service.Name, "version", s.Version, "code", verdict.Code, "summary", verdict.Summary)
	r.forget(w.Service.ID, version(w.Service.Current))
	return nil
}

// diagnose gathers the evidence of the pods that still live, and names the cause.
func (r *Reconciler) diagnose(ctx context.Context, w *World, s Fail) (verdict trysail.Diagnosis, seen *trysail.DeploymentEvidence, live []trysail.PodRecord, err error) {
	for _, p := range w.Pods {
		if p.Version == s.Version && p.Live() {
			live = append(live, p)
		}
	}
	r.lookAgain(ctx, w)
	r.evidences(ctx, w, live)
	in := r.input(w, w.Service.Next)
	in.TookTooLong = s.TookTooLong
	for i, p := range in.Pods {
		for _, l := range live {
			if l.ID == p.ID {
				in.Pods[i] = l
			}
		}
	}
	err = r.Store.View(ctx, func(tx *store.Tx) (err error) {
		in.Version.Neighbors, err = neighbors(tx, w.Service.ID)
		return err
	})
	if err != nil {
		return verdict, nil, nil, err
	}
	if witness, ok := r.Engine.(engine.Witness); ok {
		if m, err := witness.Machine(ctx); err == nil {
			in.Version.Machine = &m
		}
	}
	verdict, final := diagnose.Final(in)
	if !final {
		verdict = diagnose.Diagnose(in)
	}
	if in.Image != nil && in.Image.Container != "" {
		verdict.ContainerName = in.Image.Container
	}
	return verdict, in.Version, live, nil
}

func (r *Reconciler) revert(ctx context.Context, w *World, s Revert) error {
	err := r.change(ctx, w, func(tx *store.Tx, svc *trysail.Service) error {
		if svc.Fallback != nil {
			svc.Capacity, svc.Fallback = *svc.Fallback, nil
		}
		svc.State, svc.Detail = trysail.ServiceRunning, trysail.StateDetail{}
		text := fmt.Sprintf("The update was given up because %s. The service has power %s and scale %d.", s.Reason, svc.Power, svc.Scale)
		if err := errors.Join(tx.UpdateService(svc), tx.FinishOperations(svc.Name, trysail.OperationFailed, "UPDATE-FAILED", text)); err != nil {
			return err
		}
		r.explain(ctx, w, svc.Current, text)
		return nil
	})
	if err == nil {
		r.Log.WarnContext(ctx, "update given up", "service", w.Service.Name, "reason", s.Reason, "power", w.Service.Power, "scale", w.Service.Scale)
	}
	return err
}

func (r *Reconciler) settle(ctx context.Context, w *World, s Settle) error {
	err := r.change(ctx, w, func(tx *store.Tx, svc *trysail.Service) error {
		svc.State, svc.Detail, svc.Fallback = s.State, trysail.StateDetail{}, nil
		return errors.Join(tx.UpdateService(svc), tx.FinishOperations(svc.Name, trysail.OperationSucceeded, "", ""))
	})
	if err == nil {
		r.Log.InfoContext(ctx, "service settled", "service", w.Service.Name, "state", s.State)
	}
	return err
}
