package reconcile

import (
	"context"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
	"github.com/trysail/trysail/internal/store"
)

const (
	// keepHouseEvery is how often old logs and unused images are removed.
	keepHouseEvery = time.Hour
	// keptImageVersions is for how many of a service's newest versions the images stay on the node, so that going back
	// to one of them needs no registry.
	keptImageVersions = 5
)

// keepHouse removes what nobody needs any more, once an hour until ctx ends.
func (r *Reconciler) keepHouse(ctx context.Context) {
	tick := time.NewTicker(keepHouseEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := r.Sweep(ctx); err != nil && ctx.Err() == nil {
			r.Log.WarnContext(ctx, "housekeeping did not work and is repeated", "after", keepHouseEvery, "error", err)
		}
	}
}

// Sweep removes the log lines beyond LogRetention and the images that no recent version needs.
func (r *Reconciler) Sweep(ctx context.Context) error {
	live, keep, err := r.needed(ctx)
	if err != nil {
		return err
	}
	isLive := func(_, podID string) bool { return live[trysail.PodID(podID)] }
	if err := r.Logs.Sweep(time.Now().Add(-r.LogRetention), isLive); err != nil {
		return err
	}
	pruner, ok := r.Engine.(engine.Pruner)
	if !ok {
		return nil
	}
	freed, err := pruner.Prune(ctx, keep)
	if freed > 0 {
		r.Log.InfoContext(ctx, "unused images were removed", "bytes", freed)
	}
	return err
}

// needed lists the pods that run and the images that shall stay, by digest.
func (r *Reconciler) needed(ctx context.Context) (live map[trysail.PodID]bool, keep []string, err error) {
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
			versions, err := tx.Deployments(s.ID)
			if err != nil {
				return err
			}
			for i, d := range versions {
				if i >= keptImageVersions && d.State != trysail.DeploymentActive && d.State != trysail.DeploymentActivating {
					continue
				}
				for name, digest := range d.Digests {
					keep = append(keep, trysail.ImageReference(name, digest))
				}
			}
		}
		return nil
	})
	return live, keep, err
}
