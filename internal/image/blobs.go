package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

const (
	// maxFetches is how many blobs are fetched from one registry at a time.
	maxFetches = 4
	// progressEvery is how often the progress of a fetch is reported.
	progressEvery = 250 * time.Millisecond
	// staleAfter is how old what an earlier process has left must be to be removed.
	staleAfter = 24 * time.Hour
	// partSuffix marks the file of a blob that is not complete.
	partSuffix = ".part"
)

// Manifest implements engine.Images.
func (r *Resolver) Manifest(ctx context.Context, image string) (mediaType string, manifest []byte, err error) {
	var c content
	if isStored(image) {
		src, fault := r.stored(image)
		if fault != nil {
			return "", nil, fault
		}
		if c, err = src.manifest(ctx, ""); err == nil {
			mediaType, err = typed(c)
		}
		if err != nil {
			return "", nil, src.fault(err, r.cfg.Platform)
		}
		return mediaType, c.bytes, nil
	}
	ref, fault := parsePinned(image)
	if fault != nil {
		return "", nil, fault
	}
	fault = r.ask(ctx, image, ref, func(ctx context.Context, q *query) (err error) {
		if c, err = q.manifest(ctx, ""); err == nil {
			mediaType, err = typed(c)
		}
		return err
	})
	if fault != nil {
		return "", nil, orContext(ctx, fault)
	}
	return mediaType, c.bytes, nil
}

// typed is the media type of the manifest of an image. What the manifest itself says counts: some registries send the
// wrong one with it.
func typed(c content) (string, error) {
	m, err := parseManifest(c)
	switch {
	case err != nil:
		return "", err
	case m.Config == nil:
		return "", &formatError{what: "an index where the manifest of one platform should be", final: true}
	case m.MediaType.IsImage():
		return string(m.MediaType), nil
	default:
		return "application/vnd.oci.image.manifest.v1+json", nil
	}
}

// parsePinned reads a name by digest.
func parsePinned(image string) (name.Digest, *trysail.ImageError) {
	ref, fault := parse(image)
	if fault != nil {
		return name.Digest{}, fault
	}
	pinned, ok := ref.(name.Digest)
	if !ok {
		return pinned, &trysail.ImageError{Code: codeName, Image: image, Final: true, Message: mark(image) + " has no digest.", Fix: "Deploy again."}
	}
	return pinned, nil
}

// Blob implements engine.Images. A blob of a stored image is the registry's own file. Any other is fetched into
// Config.Dir: over and over from where it was cut as long as bytes arrive, once for all who want it at the same time,
// and by a later process from where an earlier one was killed.
func (r *Resolver) Blob(ctx context.Context, image string, blob engine.Descriptor, progress func(bytes int64)) (engine.File, error) {
	if err := trysail.ValidateDigest(blob.Digest); err != nil || blob.Size < 0 {
		return engine.File{}, &trysail.ImageError{
			Code: codeCorrupt, Image: image, Final: true, Message: "The manifest of " + mark(image) + " names a part in a way that makes no sense.",
			Fix: "Build and push the image again.", Err: err,
		}
	}
	if isStored(image) {
		src, fault := r.stored(image)
		if fault != nil {
			return engine.File{}, fault
		}
		f, err := src.blob(ctx, blob)
		if err != nil {
			return engine.File{}, src.fault(err, r.cfg.Platform)
		}
		return f, nil
	}
	ref, fault := parsePinned(image)
	if fault != nil {
		return engine.File{}, fault
	}
	for {
		f, begun := r.blobs.join(blob.Digest, func(ctx context.Context, f *fetch) error { return r.fetch(ctx, image, ref, blob, f) }) //nolint:contextcheck // it serves other callers too
		err := f.wait(ctx, progress)
		if err == nil {
			return engine.File{Path: f.path, Release: sync.OnceFunc(func() { r.blobs.leave(blob.Digest, f) })}, nil
		}
		r.blobs.leave(blob.Digest, f)
		if ctx.Err() != nil {
			return engine.File{}, ctx.Err()
		}
		// Another's fetch may have been from elsewhere, or been given up by all others just as we joined.
		if begun || errors.Is(err, errClosed) {
			return engine.File{}, err
		}
	}
}

// orContext is the error of ctx if that is why fault came about.
func orContext(ctx context.Context, fault *trysail.ImageError) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return fault
}

// blobs are the files of blobs that are being fetched or in use.
type blobs struct {
	dir string
	wg  sync.WaitGroup // the fetches under way

	mu       sync.Mutex // guards all below and the users of each fetch
	closed   bool
	byDigest map[string]*fetch
	slots    map[string]chan struct{} // by registry
}

// fetch is a blob on its way into a file, or arrived.
type fetch struct {
	path  string
	bytes atomic.Int64 // that are there
	users int          // who wait for it or use the file
	stop  context.CancelFunc
	done  chan struct{} // closed when err is set
	err   error
}

var errClosed = fmt.Errorf("fetching images has ended: %w", context.Canceled)

func (b *blobs) init(dir string) {
	b.dir, b.byDigest, b.slots = dir, map[string]*fetch{}, map[string]chan struct{}{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // there is nothing yet
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > staleAfter {
			_ = os.Remove(filepath.Join(dir, e.Name())) // the next start tries again
		}
	}
}

// close ends all fetches. Files in use stay.
func (b *blobs) close() {
	b.mu.Lock()
	b.closed = true
	for _, f := range b.byDigest {
		f.stop()
	}
	b.mu.Unlock()
	b.wg.Wait()
}

// join begins a fetch, or joins the one that is there. Who joins must leave.
func (b *blobs) join(digest string, run func(context.Context, *fetch) error) (f *fetch, begun bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.byDigest[digest]; f != nil {
		f.users++
		return f, false
	}
	f = &fetch{path: filepath.Join(b.dir, strings.TrimPrefix(digest, "sha256:")), users: 1, done: make(chan struct{})}
	var ctx context.Context
	ctx, f.stop = context.WithCancel(context.Background())
	b.byDigest[digest] = f
	if b.closed {
		b.finish(digest, f, errClosed)
		return f, true
	}
	b.wg.Go(func() {
		err := run(ctx, f)
		b.mu.Lock()
		defer b.mu.Unlock()
		if err != nil && b.closed {
			err = errClosed
		}
		b.finish(digest, f, err)
	})
	return f, true
}

// finish says what became of a fetch. b.mu is held.
func (b *blobs) finish(digest string, f *fetch, err error) {
	f.stop()
	f.err = err
	switch {
	case err != nil:
		delete(b.byDigest, digest)
	case f.users == 0:
		b.remove(digest, f)
	}
	close(f.done)
}

// leave ends the use of a fetch. What nobody uses is given up, or removed if it has arrived.
func (b *blobs) leave(digest string, f *fetch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f.users--; f.users > 0 {
		return
	}
	select {
	case <-f.done:
		if f.err == nil {
			b.remove(digest, f)
		}
	default:
		f.stop()
	}
}

// remove forgets a fetch that has arrived. b.mu is held, so that nobody joins it meanwhile.
func (b *blobs) remove(digest string, f *fetch) {
	delete(b.byDigest, digest)
	_ = os.Remove(f.path) // the next start finds it
}

// slot waits until one more blob may be fetched from a registry.
func (b *blobs) slot(ctx context.Context, registry string) (release func(), err error) {
	b.mu.Lock()
	slots := b.slots[registry]
	if slots == nil {
		slots = make(chan struct{}, maxFetches)
		b.slots[registry] = slots
	}
	b.mu.Unlock()
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// wait returns when the blob has arrived, or when it is clear that it will not.
func (f *fetch) wait(ctx context.Context, progress func(bytes int64)) error {
	if progress == nil {
		progress = func(int64) {}
	}
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-f.done:
			if f.err == nil {
				progress(f.bytes.Load())
			}
			return f.err
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			progress(f.bytes.Load())
		}
	}
}
