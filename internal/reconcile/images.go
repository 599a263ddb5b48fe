package reconcile

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
	"github.com/trysail/trysail/internal/store"
)

// maxImageBackoff bounds the wait between tries to get an image.
const maxImageBackoff = time.Minute

// prepare makes the images of a version present on the node: what has no digest yet is resolved, and the digest kept
// with the version, so that the same version always runs the same bytes.
func (r *Reconciler) prepare(ctx context.Context, serviceID string, version int) error {
	var d *trysail.Deployment
	err := r.Store.View(ctx, func(tx *store.Tx) error {
		s, err := tx.ServiceByID(serviceID)
		if err == nil {
			d = deployment(s, version)
		}
		return err
	})
	if err != nil || d == nil {
		return err
	}
	digests, err := r.fetch(ctx, d)
	if errors.Is(err, engine.ErrUnavailable) || ctx.Err() != nil {
		return err
	}
	if err == nil && len(digests) > len(d.Digests) {
		err = r.keepDigests(ctx, serviceID, version, digests)
	}
	r.noteImages(imageKey{serviceID, version}, err)
	if _, known := errors.AsType[*trysail.ImageError](err); known {
		return nil // the plan decides what follows from it
	}
	return err
}

// fetch resolves and pulls the images of d side by side.
func (r *Reconciler) fetch(ctx context.Context, d *trysail.Deployment) (map[string]string, error) {
	type result struct{ name, digest string }
	results := make(chan result, len(d.Containers))
	seen := map[string]bool{}
	g, gctx := errgroup.WithContext(ctx)
	for _, c := range d.Containers {
		name := c.Image
		if seen[name] {
			continue
		}
		seen[name] = true
		g.Go(func() error {
			digest := d.Digests[name]
			if digest == "" {
				img, err := r.Images.Resolve(gctx, name)
				if err != nil {
					return err
				}
				digest = img.Digest
			}
			results <- result{name, digest}
			return named(name, r.Engine.Prepare(gctx, trysail.ImageReference(name, digest)))
		})
	}
	err := g.Wait()
	close(results)
	digests := map[string]string{}
	for res := range results {
		digests[res.name] = res.digest
	}
	return digests, err
}

// named puts the name that the user wrote into an error that speaks of the digest.
func named(name string, err error) error {
	if e, ok := errors.AsType[*trysail.ImageError](err); ok {
		renamed := *e
		renamed.Image = name
		return &renamed
	}
	return err
}

func (r *Reconciler) keepDigests(ctx context.Context, serviceID string, version int, digests map[string]string) error {
	return r.Store.Update(ctx, func(tx *store.Tx) error {
		s, err := tx.ServiceByID(serviceID)
		if err != nil {
			return err
		}
		d := deployment(s, version)
		if d == nil {
			return nil
		}
		d.Digests = digests
		return tx.UpdateDeployment(serviceID, d)
	})
}

// noteImages remembers how far the images of a version are.
func (r *Reconciler) noteImages(key imageKey, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	im := r.images[key]
	if err == nil {
		r.images[key] = Images{Ready: true}
		delete(r.imageErr, key)
		return
	}
	im.Tries++
	im.RetryAt = time.Now().Add(min(time.Second<<min(im.Tries-1, 10), maxImageBackoff))
	if e, ok := errors.AsType[*trysail.ImageError](err); ok {
		im.Final = e.Final
		r.imageErr[key] = e
	}
	r.images[key] = im
}

// forgetImages drops what is remembered of all versions of a service but one.
func (r *Reconciler) forgetImages(serviceID string, keep int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range r.images {
		if key.service == serviceID && key.version != keep {
			delete(r.images, key)
			delete(r.imageErr, key)
		}
	}
}
