package reconcile

import (
	"context"
	"errors"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
	"github.com/trysail/trysail/internal/store"
)

const (
	// keepHouseEvery is how often old logs and unused images are removed when there is room.
	keepHouseEvery = time.Hour
	// pressureEvery is how often the disk is looked at, and how often house is kept while it is nearly full.
	pressureEvery = 5 * time.Minute
	// fullDisk is the share of the disk in use from which on images of old versions go too. It is what the kubelet
	// begins to remove images at.
	fullDisk = 0.85
	// keptImageVersions is for how many of a service's newest versions the images stay on the node, so that going back
	// to one of them needs no registry.
	keptImageVersions = 5
	// keptWhenFull is the same on a disk that is nearly full: the newest, and one to go back to.
	keptWhenFull = 2
)

// keepHouse removes what nobody needs any more until ctx ends: once an hour, and sooner when the disk fills up.
func (r *Reconciler) keepHouse(ctx context.Context) {
	tick := time.NewTicker(pressureEvery)
	defer tick.Stop()
	last := time.Now()
	if err := r.Store.Reserve(); err != nil {
		r.Log.WarnContext(ctx, "the reserve for a full disk cannot be made", "error", err)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := r.Store.Reserve(); err != nil {
			r.Log.WarnContext(ctx, "the reserve for a full disk cannot be made", "error", err)
		}
		versions := keptImageVersions
		switch {
		case r.DiskUsed != nil && r.DiskUsed() >= fullDisk:
			versions = keptWhenFull
		case time.Since(last) < keepHouseEvery:
			continue
		}
		if err := r.Sweep(ctx, versions); err != nil && ctx.Err() == nil {
			r.Log.WarnContext(ctx, "housekeeping did not work and is repeated", "after", keepHouseEvery, "error", err)
		}
		last = time.Now()
	}
}

// Sweep removes the log lines beyond LogRetention, the images that none of the newest versions of a service (so many)
// needs, and what the registry holds that neither a service's images nor any kept version refers to.
func (r *Reconciler) Sweep(ctx context.Context, versions int) error {
	live, uses, err := r.needed(ctx)
	if err != nil {
		return err
	}
	isLive := func(_, podID string) bool { return live[trysail.PodID(podID)] }
	return errors.Join(
		r.Logs.Sweep(time.Now().Add(-r.LogRetention), isLive),
		r.prune(ctx, uses, versions),
		r.collect(ctx, uses),
	)
}

func (r *Reconciler) prune(ctx context.Context, uses []trysail.ImageUse, versions int) error {
	pruner, ok := r.Engine.(engine.Pruner)
	if !ok {
		return nil
	}
	var keep []string
	for _, u := range uses {
		if u.Newer < versions || u.State == trysail.DeploymentActive || u.State == trysail.DeploymentActivating {
			keep = append(keep, trysail.ImageReference(u.Name, u.Digest))
		}
	}
	freed, err := pruner.Prune(ctx, keep)
	if freed > 0 {
		r.Log.InfoContext(ctx, "unused images were removed", "bytes", freed)
	}
	return err
}

// collect lets the registry remove its garbage. What a kept version runs stays, so that deploying it again runs the
// same bytes, even if its image was deleted meanwhile.
func (r *Reconciler) collect(ctx context.Context, uses []trysail.ImageUse) error {
	if r.Registry == nil {
		return nil
	}
	var keep []string
	for _, u := range uses {
		keep = append(keep, u.Digest)
	}
	freed, err := r.Registry.Collect(ctx, keep)
	if freed > 0 {
		r.Log.InfoContext(ctx, "garbage of the registry was removed", "bytes", freed)
	}
	return err
}

// needed lists the pods that run and what the kept versions need.
func (r *Reconciler) needed(ctx context.Context) (live map[trysail.PodID]bool, uses []trysail.ImageUse, err error) {
	live = map[trysail.PodID]bool{}
	err = r.Store.View(ctx, func(tx *store.Tx) error {
		services, err := tx.Services()
		if err != nil {
			return err
		}
		for _, s := range services {
			pods, err := tx.Pods(s.ID, false)
			if err != nil {
				return err
			}
			for _, p := range pods {
				live[p.ID] = true
			}
			tasks, err := tx.Tasks(s.ID, false)
			if err != nil {
				return err
			}
			for _, k := range tasks {
				live[k.ID] = true
			}
		}
		uses, err = tx.ImageUses()
		return err
	})
	return live, uses, err
}
