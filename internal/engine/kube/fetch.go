package kube

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/autopsy"
	"github.com/trysail/trysail/internal/engine"
)

const (
	// holdTime is how long the parts of an image stay here after they were fetched: nodes ask for them when a pod is
	// started there, and what is served once they have begun to ask stays as long as that takes.
	holdTime = 5 * time.Minute
	// maxFetches is how many parts of an image are fetched at a time.
	maxFetches = 4
	// readTime bounds reading the layers of an image, waiting for others included. It is time in which nothing starts.
	readTime = 30 * time.Second
	// lookTime bounds an examination of an image that is with the nodes and not here.
	lookTime = 5 * time.Second
	// maxUnpacked and maxIndex bound reading one layer, maxIndexes what is remembered of all; in bytes.
	maxUnpacked = 16 << 30
	maxIndex    = 32 << 20
	maxIndexes  = 96 << 20
)

// supply is an image whose parts are on this machine for a while, or on their way here.
type supply struct {
	ready chan struct{} // closed when err is set
	err   error

	kind     string
	manifest []byte
	config   ocispec.Image
	layers   []engine.Descriptor // lowest first

	mu      sync.Mutex // guards all below
	indexes map[string]*autopsy.Index
	files   []engine.File
	total   int64            // bytes that are to be fetched
	done    map[string]int64 // by layer
}

// describe gets the manifest and the configuration of an image. Errors: *trysail.ImageError, or that of ctx.
func (p *pulls) describe(ctx context.Context, image string) (*supply, error) {
	kind, content, err := p.images.Manifest(ctx, image)
	if err != nil {
		return nil, err
	}
	s := &supply{ready: make(chan struct{}), kind: kind, manifest: content, indexes: map[string]*autopsy.Index{}, done: map[string]int64{}}
	config, layers, err := descriptors(content)
	if err != nil || config.Size > maxConfig {
		return nil, damaged(image, err)
	}
	s.layers = layers
	file, err := p.images.Blob(ctx, image, config, nil)
	if err != nil {
		return nil, err
	}
	defer file.Release()
	text, err := os.ReadFile(file.Path)
	if err == nil {
		err = json.Unmarshal(text, &s.config)
	}
	if err != nil {
		return nil, damaged(image, err)
	}
	return s, nil
}

// held is the image if its parts are here at the moment, or on their way.
func (p *pulls) held(image string) *supply {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.supplies[image]
}

// hold fetches an image and looks through it, once for all who want it at the same time. What could not be looked at is no
// error. fresh is true for the one who has to call release when it is needed no more. Errors: *trysail.ImageError, or that
// of ctx.
func (p *pulls) hold(ctx context.Context, image string) (s *supply, fresh bool, err error) {
	for {
		s := p.held(image)
		if s == nil {
			break
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
		if s.err == nil {
			return s, false, nil
		}
	}
	if s, err = p.describe(ctx, image); err != nil {
		return nil, false, err
	}
	p.mu.Lock()
	if other := p.supplies[image]; other != nil {
		p.mu.Unlock()
		return p.hold(ctx, image)
	}
	p.supplies[image] = s
	p.mu.Unlock()
	s.err = p.fetch(ctx, image, s)
	if s.err != nil {
		p.release(image, s)
	}
	close(s.ready)
	return s, true, s.err
}

// release lets go of an image. What is being sent to a node stays until that is done.
func (p *pulls) release(image string, s *supply) {
	p.mu.Lock()
	if p.supplies[image] == s {
		delete(p.supplies, image)
	}
	p.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		f.Release()
	}
	s.files = nil
}

// fetch gets the layers that are not known yet, the topmost first: that is where programs are.
func (p *pulls) fetch(ctx context.Context, image string, s *supply) error {
	s.mu.Lock()
	for _, l := range s.layers {
		if x, known := p.layers.get(l.Digest); known {
			s.indexes[l.Digest] = x
			continue
		}
		s.total += l.Size
	}
	known := len(s.indexes)
	s.mu.Unlock()
	if known == len(s.layers) {
		return nil
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxFetches)
	reading, cancel := context.WithTimeout(gctx, readTime)
	defer cancel()
	for _, l := range slices.Backward(s.layers) {
		s.mu.Lock()
		_, known := s.indexes[l.Digest]
		s.mu.Unlock()
		if known {
			continue
		}
		g.Go(func() error {
			file, err := p.images.Blob(gctx, image, l, func(bytes int64) { s.arrived(l.Digest, bytes) })
			if err != nil {
				return err
			}
			s.arrived(l.Digest, l.Size)
			x := p.layers.read(reading, l.Digest, file.Path)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.files, s.indexes[l.Digest] = append(s.files, file), x
			return nil
		})
	}
	return g.Wait()
}

func (s *supply) arrived(layer string, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[layer] = bytes
}

// progress is how far fetching it is.
func (s *supply) progress() trysail.Progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := trysail.Progress{Total: s.total}
	for _, bytes := range s.done {
		got.Done += bytes
	}
	return got
}

// layers remembers what is in layers that were read: many images have the same ones.
type layers struct {
	turn chan struct{} // held by whoever reads: one at a time, so that memory and CPU are left for others
	most int64         // bytes that are remembered

	mu     sync.Mutex // guards all below
	known  map[string]*knownLayer
	weight int64
	clock  int64
}

type knownLayer struct {
	index *autopsy.Index // nil if it cannot be read
	used  int64
}

func newLayers() *layers {
	return &layers{turn: make(chan struct{}, 1), most: maxIndexes, known: map[string]*knownLayer{}}
}

func (l *layers) get(digest string) (x *autopsy.Index, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.known[digest]
	if k == nil {
		return nil, false
	}
	l.clock++
	k.used = l.clock
	return k.index, true
}

// read reads a layer's file; nil if that is not possible, or takes too long.
func (l *layers) read(ctx context.Context, digest, file string) *autopsy.Index {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil
	}
	f, err := os.Open(file) //nolint:gosec // that of the supplier
	if err != nil {
		return nil
	}
	defer f.Close()
	x, err := autopsy.ReadLayer(ctx, f, &autopsy.Budget{Unpacked: maxUnpacked, Memory: maxIndex})
	if err != nil && ctx.Err() != nil {
		return nil // another time, when there is less to do
	}
	l.put(digest, x)
	return x
}

// put remembers a layer, and forgets those that have not been asked for for longest.
func (l *layers) put(digest string, x *autopsy.Index) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known[digest] != nil {
		return
	}
	l.clock++
	l.known[digest] = &knownLayer{x, l.clock}
	l.weight += weightOf(x)
	for l.weight > l.most && len(l.known) > 1 {
		oldest := ""
		for d, k := range l.known {
			if oldest == "" || k.used < l.known[oldest].used {
				oldest = d
			}
		}
		l.weight -= weightOf(l.known[oldest].index)
		delete(l.known, oldest)
	}
}

// weightOf is what a layer takes, be it that it cannot be read.
func weightOf(x *autopsy.Index) int64 {
	const least = 1 << 10
	if x == nil {
		return least
	}
	return least + x.Weight()
}

// Prepare implements engine.Engine. It brings the image here, looks through it and keeps it for a while: nodes get it from
// here when they need it. An image that pods have already is with them.
func (e *Engine) Prepare(ctx context.Context, image string) error {
	if e.isInUse(image) {
		_, err := e.pulls.user(ctx, image)
		return err
	}
	s, fresh, err := e.pulls.hold(ctx, image)
	if err != nil {
		return err
	}
	e.pulls.know(image, s.config.Config.User)
	if fresh {
		e.wg.Go(func() {
			select {
			case <-e.ctx.Done():
			case <-time.After(holdTime):
			}
			e.pulls.release(image, s)
		})
	}
	return nil
}

// isInUse reports whether a pod has been made from the image.
func (e *Engine) isInUse(image string) bool {
	_, name, _ := strings.Cut(e.pulls.name(image), "/") // by whatever address nodes know us
	for _, p := range e.watch.allPods() {
		if p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.ImageID != "" }) &&
			slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool { return strings.HasSuffix(c.Image, "/"+name) }) {
			return true
		}
	}
	return false
}

// Progress implements engine.Progress.
func (e *Engine) Progress(image string) (trysail.Progress, bool) {
	s := e.pulls.held(image)
	if s == nil {
		return trysail.Progress{}, false
	}
	return s.progress(), true
}
