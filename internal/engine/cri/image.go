package cri

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/trysail/trysail"
)

// pull is an image on its way into containerd, for which all who want it wait.
type pull struct {
	done     chan struct{} // closed when err is set
	err      error
	began    time.Time
	progress progress
}

// Prepare implements engine.Engine. A pull that was begun goes on when its callers stop waiting.
func (e *Engine) Prepare(ctx context.Context, image string) error {
	present, err := e.imagePresent(ctx, image)
	if err != nil || present {
		return err
	}
	p := e.pull(image) //nolint:contextcheck // it serves other callers too
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Progress implements engine.Progress.
func (e *Engine) Progress(image string) (trysail.Progress, bool) {
	e.mu.Lock()
	p := e.pulls[image]
	e.mu.Unlock()
	if p == nil {
		return trysail.Progress{}, false
	}
	return p.progress.get(), true
}

// imagePresent reports whether the image is on the node, unpacked and ready.
func (e *Engine) imagePresent(ctx context.Context, image string) (bool, error) {
	resp, err := e.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	if err != nil {
		return false, fmt.Errorf("asking for image %s: %w", image, err)
	}
	return resp.Image != nil, nil
}

// pull begins to pull the image, or joins a pull of it that is under way.
func (e *Engine) pull(image string) *pull {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p := e.pulls[image]; p != nil {
		return p
	}
	p := &pull{done: make(chan struct{}), began: time.Now()}
	e.pulls[image] = p
	e.wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), e.cfg.PullTimeout)
		defer cancel()
		e.wg.Go(func() {
			select {
			case <-e.end:
				cancel()
			case <-p.done:
			}
		})
		if err := e.importImage(ctx, image, e.cfg.Images, &p.progress); err != nil {
			p.err = e.pullFault(ctx, image, p, err)
		}
		e.mu.Lock()
		delete(e.pulls, image)
		e.mu.Unlock()
		close(p.done)
	})
	return p
}

// progress counts the bytes of layers that are there.
type progress struct {
	mu    sync.Mutex // guards all below
	total int64
	done  map[digest.Digest]int64
}

func (p *progress) expect(total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total = total
}

func (p *progress) set(layer digest.Digest, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done == nil {
		p.done = map[digest.Digest]int64{}
	}
	p.done[layer] = bytes
}

func (p *progress) get() trysail.Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	got := trysail.Progress{Total: p.total}
	for _, bytes := range p.done {
		got.Done += bytes
	}
	return got
}

// Prune removes the images that no container uses and that are not in keep (names by digest), and returns how many
// bytes that is about. Images being pulled stay.
func (e *Engine) Prune(ctx context.Context, keep []string) (freed int64, err error) {
	images, err := e.images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return 0, fmt.Errorf("listing images: %w", err)
	}
	containers, err := e.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return 0, fmt.Errorf("listing containers: %w", err)
	}
	// What is kept by name is kept by its digest: one image has many names, with and without docker.io.
	kept := map[string]bool{}
	for _, k := range keep {
		kept[digestOf(k)] = true
	}
	for _, c := range containers.Containers {
		kept[c.ImageRef], kept[c.ImageId], kept[c.GetImage().GetImage()] = true, true, true
	}
	e.mu.Lock()
	for name := range e.pulls {
		kept[digestOf(name)] = true
	}
	e.mu.Unlock()
	var errs []error
	for _, i := range images.Images {
		if i.Pinned || kept[i.Id] || slices.ContainsFunc(i.RepoDigests, func(name string) bool { return kept[name] || kept[digestOf(name)] }) {
			continue
		}
		if _, err := e.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: i.Id}}); err != nil {
			errs = append(errs, fmt.Errorf("removing an unused image: %w", err))
			continue
		}
		freed += int64(i.Size) //nolint:gosec // no image has 8 EiB
	}
	return freed, errors.Join(errs...)
}

// digestOf returns the digest in a name by digest.
func digestOf(name string) string {
	_, digest, _ := strings.Cut(name, "@")
	return digest
}
