package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	var (
		s *trysail.Service
		d *trysail.Deployment
	)
	err := r.Store.View(ctx, func(tx *store.Tx) (err error) {
		if s, err = tx.ServiceByID(serviceID); err == nil {
			d = deployment(s, version)
		}
		return err
	})
	if err != nil || d == nil {
		return err
	}
	key := versionKey{serviceID, version}
	var digests map[string]string
	if err = mayPull(s, d); err == nil {
		var p pulls
		stop := r.report(ctx, key, &p)
		digests, err = r.fetch(ctx, d, &p)
		stop()
	}
	if err == nil && d.State == trysail.DeploymentActivating {
		r.examine(ctx, key, d, digests)
	}
	if errors.Is(err, engine.ErrUnavailable) || ctx.Err() != nil {
		return err
	}
	if err == nil && len(digests) > len(d.Digests) {
		err = r.keepDigests(ctx, serviceID, version, digests)
	}
	r.noteImages(key, err)
	if _, known := errors.AsType[*trysail.ImageError](err); known {
		return nil // the plan decides what follows from it
	}
	return err
}

// mayPull refuses the images of private ECR registries to a service that has not been given access to them.
func mayPull(s *trysail.Service, d *trysail.Deployment) error {
	if s.ECRPuller || d.State != trysail.DeploymentActivating {
		return nil
	}
	for _, c := range d.Containers {
		if trysail.IsECR(c.Image) {
			return &trysail.ImageError{
				Code: "IMG-AUTH", Image: c.Image, Final: true,
				Message: fmt.Sprintf("%s is in a private Amazon ECR registry, and service %s has no access to those.", c.Image, s.Name),
				Fix:     fmt.Sprintf("aws lightsail update-container-service --service-name %s --private-registry-access ecrImagePullerRole={isActive=true}", s.Name),
			}
		}
	}
	return nil
}

// fetch resolves and pulls the images of d side by side.
func (r *Reconciler) fetch(ctx context.Context, d *trysail.Deployment, p *pulls) (map[string]string, error) {
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
			ref := trysail.ImageReference(name, digest)
			defer p.add(name, ref)()
			return named(name, r.Engine.Prepare(gctx, ref))
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
	return r.update(ctx, func(tx *store.Tx) error {
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
func (r *Reconciler) noteImages(key versionKey, err error) {
	r.note(key, func(n *notes) {
		n.images.Pulling = ""
		if err == nil {
			n.images, n.pull = Images{Ready: true}, nil
			return
		}
		n.images.Tries++
		n.images.RetryAt = time.Now().Add(min(time.Second<<min(n.images.Tries-1, 10), maxImageBackoff))
		if e, ok := errors.AsType[*trysail.ImageError](err); ok {
			n.images.Final, n.pull, n.pullAt = e.Final, e, time.Now()
		}
	})
}

// reportEvery is how often the progress of a pull is told.
const reportEvery = time.Second

// report tells the rounds of a service how far the images of a version are, until stop is called.
func (r *Reconciler) report(ctx context.Context, key versionKey, p *pulls) (stop func()) {
	teller, able := r.Engine.(engine.Progress)
	if !able {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(reportEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			text := p.describe(teller)
			changed := false
			r.note(key, func(n *notes) {
				if changed = text != "" && text != n.images.Pulling; changed {
					n.images.Pulling = text
				}
			})
			if changed {
				r.enqueue(key.service)
			}
		}
	})
	return func() {
		cancel()
		done.Wait()
	}
}

// pulls are the images that are being pulled for a version.
type pulls struct {
	mu    sync.Mutex        // guards names
	names map[string]string // by reference, as the user wrote them
}

func (p *pulls) add(name, ref string) (remove func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.names == nil {
		p.names = map[string]string{}
	}
	p.names[ref] = name
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.names, ref)
	}
}

// describe says in words how far the pulls are; empty if nothing is known yet.
func (p *pulls) describe(e engine.Progress) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var sum trysail.Progress
	var names []string
	for ref, name := range p.names {
		if got, ok := e.Progress(ref); ok && got.Total > 0 {
			sum.Done, sum.Total = sum.Done+got.Done, sum.Total+got.Total
			names = append(names, name)
		}
	}
	const mb = 1_000_000
	switch {
	case len(names) == 0:
		return ""
	case len(names) > 1:
		names[0] = fmt.Sprintf("%d images", len(names))
	}
	if sum.Done >= sum.Total {
		return "Unpacking " + names[0]
	}
	return fmt.Sprintf("Pulling %s: %d of %d MB", names[0], sum.Done/mb, max(1, sum.Total/mb))
}
