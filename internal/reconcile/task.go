package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
	"github.com/trysail/trysail/internal/store"
)

// A task is an action that lives as long as its pod. All that it does can be repeated, so after a restart the next round
// begins it again, and it finds its pod. Plan knows nothing of tasks: their pods are taken out of what it sees.

const (
	// taskLook is how often a task looks at what is known of its pod; the engine is not asked for that.
	taskLook = 100 * time.Millisecond
	// taskGrace is the time between SIGTERM and SIGKILL of a task that is stopped.
	taskGrace = 10 * time.Second
)

// withoutTasks is what the engine reports, without the pods of tasks.
func withoutTasks(observed map[trysail.PodID]trysail.Pod, tasks []trysail.Task) map[trysail.PodID]trysail.Pod {
	if len(tasks) == 0 {
		return observed
	}
	rest := maps.Clone(observed)
	for _, k := range tasks {
		delete(rest, k.ID)
	}
	return rest
}

// runTasks sees to it that all tasks are under way.
func (r *Reconciler) runTasks(ctx context.Context, w *World, tasks []trysail.Task) {
	for _, k := range tasks {
		name := w.Service.Name
		r.act(ctx, "task/"+string(k.ID), k.ServiceID, func(ctx context.Context) error { return r.runTask(ctx, name, k) })
	}
}

// runTask starts a task, waits for its end, and removes its pod. When ctx ends the pod goes on, and the next run of
// Trysail waits for it.
func (r *Reconciler) runTask(ctx context.Context, service string, k trysail.Task) error {
	if now, err := r.task(ctx, k.ID); err != nil || !now.EndedAt.IsZero() {
		return ignoreMissing(err)
	}
	err := r.startTask(ctx, service, k)
	if err != nil && (ctx.Err() != nil || errors.Is(err, engine.ErrUnavailable)) {
		return err
	}
	if err != nil {
		r.Log.WarnContext(ctx, "a task could not be started", "service", service, "task", k.ID, "error", err)
		return r.endTask(ctx, k, 0, 0, startReason(err))
	}
	started := time.Now()
	tick := time.NewTicker(taskLook)
	defer tick.Stop()
	for {
		now, err := r.task(ctx, k.ID)
		if err != nil { // deleted with its service, which stops the pod
			return ignoreMissing(err)
		}
		pod, seen := r.observedPod(k.ServiceID, k.ID)
		switch {
		case seen && pod.Crashed():
			code, reason := taskResult(pod, k.Container)
			return r.endTask(ctx, k, 0, code, reason)
		case !now.StopAt.IsZero():
			return r.endTask(ctx, k, taskGrace, 0, "It was stopped.")
		case time.Now().After(now.Deadline):
			return r.endTask(ctx, k, taskGrace, 0, fmt.Sprintf("It was stopped, as its time of %v was over.", now.Deadline.Sub(now.CreatedAt)))
		case !seen && time.Since(started) > pollEvery:
			r.look(ctx, k.ServiceID)
			if _, seen := r.observedPod(k.ServiceID, k.ID); !seen {
				return r.endTask(ctx, k, 0, 0, "Its pod was gone.")
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func ignoreMissing(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// task reads the task as the store has it now. Errors: store.ErrNotFound.
func (r *Reconciler) task(ctx context.Context, id trysail.PodID) (k trysail.Task, err error) {
	err = r.Store.View(ctx, func(tx *store.Tx) error {
		k, err = tx.Task(id)
		return err
	})
	return k, err
}

func (r *Reconciler) observedPod(serviceID string, id trysail.PodID) (trysail.Pod, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.observed[serviceID][id]
	return p, ok
}

// startTask starts the pod, or finds it started.
func (r *Reconciler) startTask(ctx context.Context, service string, k trysail.Task) error {
	var d *trysail.Deployment
	err := r.Store.View(ctx, func(tx *store.Tx) error {
		all, err := tx.Deployments(k.ServiceID)
		for i := range all {
			if all[i].Version == k.Version {
				d = &all[i]
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	if d == nil {
		return fmt.Errorf("version %d is not kept any more", k.Version)
	}
	c := d.Containers[k.Container]
	digest := d.Digests[c.Image]
	if digest == "" {
		img, err := r.Images.Resolve(ctx, c.Image)
		if err != nil {
			return err
		}
		digest = img.Digest
	}
	image := trysail.ImageReference(c.Image, digest)
	if err := r.Engine.Prepare(ctx, image); err != nil {
		return err
	}
	err = r.Engine.Start(ctx, trysail.PodSpec{
		ID: k.ID, Service: service, ServiceID: k.ServiceID, Version: k.Version, Limits: k.Power.Limits(),
		LogDir:     r.Logs.PodDir(k.ServiceID, string(k.ID)),
		Containers: []trysail.ContainerSpec{{Name: k.Container, Image: image, Command: k.Command, Environment: c.Environment}},
	})
	if err == nil {
		r.look(ctx, k.ServiceID)
	}
	return err
}

// startReason is what a client sees of why a task could not be started.
func startReason(err error) string {
	if e, ok := errors.AsType[*trysail.ImageError](err); ok {
		return e.Message
	}
	return "The engine could not start it; the log of the server says why."
}

// taskResult is how the task's container ended.
func taskResult(p trysail.Pod, container string) (code int, reason string) {
	for _, c := range p.Containers {
		switch {
		case c.Name != container || c.State != trysail.ContainerExited:
		case c.StartError != "":
			return 0, "The command could not be started: " + c.StartError
		case c.OOMKilled:
			return c.ExitCode, "It ran out of memory."
		default:
			return c.ExitCode, ""
		}
	}
	return 0, "Its pod was gone."
}

// endTask removes the pod and records what came of the task. The record comes last: who sees it finds the whole log.
func (r *Reconciler) endTask(ctx context.Context, k trysail.Task, grace time.Duration, code int, reason string) error {
	if _, err := r.Engine.Stop(ctx, k.ID, grace); err != nil {
		return err
	}
	err := r.update(ctx, func(tx *store.Tx) error {
		now, err := tx.Task(k.ID)
		if err != nil {
			return err
		}
		now.EndedAt, now.ExitCode, now.Reason = tx.Now(), code, reason
		return tx.UpdateTask(&now)
	})
	return ignoreMissing(err)
}
