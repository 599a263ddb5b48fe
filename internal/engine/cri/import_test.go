package cri_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
	"github.com/trysail/trysail/internal/engine/cri"
	"github.com/trysail/trysail/internal/image"
)

const layerSize = 1 << 20 // bytes of random content

// layered puts layers of random content on top of the test program. Layers of the same seed are the same.
func layered(tb testing.TB, seeds ...uint64) v1.Image {
	tb.Helper()
	binary, err := program()
	if err != nil {
		tb.Fatal(err)
	}
	img := makeImage(tb, binary, "/program", "--entry")
	for _, seed := range seeds {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("data/%d", seed), Mode: 0o600, Size: layerSize}); err != nil {
			tb.Fatal(err)
		}
		if _, err := io.CopyN(w, rand.NewChaCha8([32]byte{byte(seed)}), layerSize); err != nil {
			tb.Fatal(err)
		}
		if err := w.Close(); err != nil {
			tb.Fatal(err)
		}
		options := []tarball.LayerOption{tarball.WithMediaType(types.OCILayer)}
		if seed%2 == 1 {
			options = []tarball.LayerOption{tarball.WithMediaType(types.OCILayerZStd), tarball.WithCompression(compression.ZStd)}
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }, options...)
		if err != nil {
			tb.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			tb.Fatal(err)
		}
	}
	return img
}

// shelf is an image.Local that has one image as files.
type shelf struct {
	dir      string
	image    v1.Image
	manifest []byte
	digest   string
}

func newShelf(tb testing.TB, img v1.Image) *shelf {
	tb.Helper()
	manifest, err := img.RawManifest()
	if err != nil {
		tb.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		tb.Fatal(err)
	}
	s := &shelf{dir: tb.TempDir(), image: img, manifest: manifest, digest: digest.String()}
	config, err := img.RawConfigFile()
	if err != nil {
		tb.Fatal(err)
	}
	name, err := img.ConfigName()
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, name.Hex), config, 0o600); err != nil {
		tb.Fatal(err)
	}
	for _, l := range s.layers(tb) {
		r, err := l.Compressed()
		if err != nil {
			tb.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close(), os.WriteFile(s.file(tb, l), b, 0o600)); err != nil {
			tb.Fatal(err)
		}
	}
	return s
}

func (s *shelf) layers(tb testing.TB) []v1.Layer {
	tb.Helper()
	layers, err := s.image.Layers()
	if err != nil {
		tb.Fatal(err)
	}
	return layers
}

func (s *shelf) file(tb testing.TB, l v1.Layer) string {
	tb.Helper()
	digest, err := l.Digest()
	if err != nil {
		tb.Fatal(err)
	}
	return filepath.Join(s.dir, digest.Hex)
}

func (s *shelf) Digest(context.Context, trysail.StoredImage) (string, error) { return s.digest, nil }

func (s *shelf) Manifest(_ context.Context, digest string) (string, []byte, error) {
	if digest != s.digest {
		return "", nil, fs.ErrNotExist
	}
	return string(types.OCIManifestSchema1), s.manifest, nil
}

func (s *shelf) Blob(_ context.Context, digest string) (string, int64, error) {
	path := filepath.Join(s.dir, strings.TrimPrefix(digest, "sha256:"))
	info, err := os.Stat(path)
	if err != nil {
		return "", 0, err
	}
	return path, info.Size(), nil
}

// spy passes on what an engine is supplied with, and looks at it.
type spy struct {
	engine.Images
	released func(blob engine.Descriptor, path string) // when the engine has what it wants

	mu    sync.Mutex // guards asked
	asked map[string]int
}

func (s *spy) Blob(ctx context.Context, image string, blob engine.Descriptor, progress func(int64)) (engine.File, error) {
	s.mu.Lock()
	if s.asked == nil {
		s.asked = map[string]int{}
	}
	s.asked[blob.Digest]++
	s.mu.Unlock()
	f, err := s.Images.Blob(ctx, image, blob, progress)
	if err != nil {
		return f, err
	}
	return engine.File{Path: f.Path, Release: func() {
		if s.released != nil {
			s.released(blob, f.Path)
		}
		f.Release()
	}}, nil
}

// contentFile is where containerd keeps a blob.
func (r *rig) contentFile(hex string) string {
	return filepath.Join(r.cfg.Dir, "data/io.containerd.content.v1.content/blobs/sha256", hex)
}

// usesStored makes the engine take its images from a shelf.
func usesStored(s *shelf, spied *spy) func(*cri.Config) {
	return func(c *cri.Config) {
		spied.Images = image.New(image.Config{Dir: c.Dir + "-images", Local: s})
		c.Images = spied
	}
}

func TestEngine_PrepareKeepsNoSecondPackedCopy(t *testing.T) {
	s := newShelf(t, layered(t, 1, 2))
	var r *rig
	var shared atomic.Int32
	spied := &spy{released: func(_ engine.Descriptor, path string) {
		ours, err := os.Stat(path)
		if err != nil {
			t.Error(err)
			return
		}
		theirs, err := os.Stat(r.contentFile(filepath.Base(path)))
		if err != nil || !os.SameFile(ours, theirs) {
			t.Errorf("containerd has %s in a file of its own: %v", filepath.Base(path), err)
		}
		shared.Add(1)
	}}
	r = newRig(t, func(c *cri.Config) { usesStored(s, spied)(c) })
	ref := trysail.ImageReference(":svc.web.1", s.digest)
	p := r.start(podSpec("stored", ref, "serve 8080"))
	awaitHTTP(t, p, 8080)
	if shared.Load() != 4 { // config, program and two layers
		t.Errorf("%d blobs were shared", shared.Load())
	}
	r.wait("containerd drops the packed layers", func() bool {
		for _, l := range s.layers(t) {
			if _, err := os.Stat(r.contentFile(filepath.Base(s.file(t, l)))); err == nil {
				return false
			}
		}
		return true
	})
	for _, l := range s.layers(t) {
		info, err := os.Stat(s.file(t, l))
		if err != nil {
			t.Fatal(err)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); !ok || stat.Nlink != 1 {
			t.Errorf("%s has %d names", s.file(t, l), stat.Nlink)
		}
	}
	if left, err := os.ReadDir(filepath.Join(r.cfg.Dir, "links")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	// A start of containerd must find the image good although its layers are gone.
	r.close()
	r.open()
	awaitHTTP(t, r.start(podSpec("again", ref, "serve 8080")), 8080)
}

func TestEngine_PrepareCopiesFromAnotherFileSystem(t *testing.T) {
	s := newShelf(t, layered(t, 1, 2))
	other, err := os.MkdirTemp("/dev/shm", "shelf") //nolint:usetesting // it must be another file system
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(other) })
	if err := os.CopyFS(other, os.DirFS(s.dir)); err != nil {
		t.Fatal(err)
	}
	s.dir = other
	r := newRig(t, usesStored(s, &spy{}))
	awaitHTTP(t, r.start(podSpec("stored", trysail.StoredRepository+"@"+s.digest, "serve 8080")), 8080)
}

func TestEngine_PrepareSharesLayers(t *testing.T) {
	host, _ := serve(t)
	refs := []string{push(t, host+"/a:1", layered(t, 1, 2, 3)), push(t, host+"/b:1", layered(t, 1, 2, 4)), push(t, host+"/c:1", layered(t, 1, 2))}
	spied := &spy{}
	r := newRig(t, func(c *cri.Config) { spied.Images, c.Images = c.Images, spied })
	var wg sync.WaitGroup
	for _, ref := range refs {
		wg.Go(func() {
			if err := r.engine.Prepare(t.Context(), ref); err != nil {
				t.Errorf("Prepare: %v, %v", err, errors.Unwrap(err))
			}
		})
	}
	wg.Wait()
	for i, ref := range refs {
		awaitHTTP(t, r.start(podSpec(trysail.PodID(fmt.Sprint("p", i)), ref, "serve 8080")), 8080)
	}
}

// TestEngine_PrepareWhileContainerdCollects lets containerd remove what nothing refers to all the time, such as files
// that have been linked and not yet registered.
func TestEngine_PrepareWhileContainerdCollects(t *testing.T) {
	host, _ := serve(t)
	var refs []string
	for i := range uint64(6) {
		refs = append(refs, push(t, fmt.Sprintf("%s/r%d:1", host, i), layered(t, 1, 2*i+10, 2*i+11)))
	}
	r := newRig(t, nil)
	client, err := containerd.New(filepath.Join(r.cfg.StateDir, "c.sock"), containerd.WithDefaultNamespace("k8s.io"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var collecting sync.WaitGroup
	collecting.Go(func() {
		for ctx.Err() == nil {
			lease, err := client.LeasesService().Create(ctx, leases.WithRandomID())
			if err == nil {
				err = client.LeasesService().Delete(ctx, lease, leases.SynchronousDelete)
			}
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for range 3 {
		var wg sync.WaitGroup
		for _, ref := range refs {
			wg.Go(func() {
				if err := r.engine.Prepare(t.Context(), ref); err != nil {
					t.Errorf("Prepare: %v, %v", err, errors.Unwrap(err))
				}
			})
		}
		wg.Wait()
		if _, err := r.engine.Prune(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
	cancel()
	collecting.Wait()
}

// throttled serves the blob with the digest only up to its middle until it is let go.
func throttled(digest string, asked *asked, stop <-chan struct{}) func(http.Handler) http.Handler {
	return func(inner http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, blob, isBlob := strings.Cut(r.URL.Path, "/blobs/")
			if isBlob {
				asked.add(blob, r.Header.Get("Range"))
			}
			if blob == digest {
				w = &half{ResponseWriter: w, stop: stop, ctx: r.Context()}
			}
			inner.ServeHTTP(w, r)
		})
	}
}

// half stops in the middle of a layer.
type half struct {
	http.ResponseWriter
	written int
	stop    <-chan struct{}
	ctx     context.Context //nolint:containedctx // of the request
}

func (h *half) Write(b []byte) (written int, err error) {
	if room := max(0, layerSize/2-h.written); len(b) > room {
		written, err = h.ResponseWriter.Write(b[:room])
		h.written += written
		if err != nil {
			return written, err
		}
		_ = http.NewResponseController(h.ResponseWriter).Flush()
		select {
		case <-h.stop:
		case <-h.ctx.Done():
		}
		b = b[room:]
	}
	n, err := h.ResponseWriter.Write(b)
	h.written += n
	return written + n, err
}

// asked counts what a registry was asked for.
type asked struct {
	mu     sync.Mutex // guards ranges
	ranges map[string][]string
}

func (a *asked) add(blob, from string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ranges == nil {
		a.ranges = map[string][]string{}
	}
	a.ranges[blob] = append(a.ranges[blob], from)
}

func (a *asked) of(blob string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string{}, a.ranges[blob]...)
}

func digests(tb testing.TB, img v1.Image) (list []string) {
	tb.Helper()
	layers, err := img.Layers()
	if err != nil {
		tb.Fatal(err)
	}
	for _, l := range layers {
		d, err := l.Digest()
		if err != nil {
			tb.Fatal(err)
		}
		list = append(list, d.String())
	}
	return list
}

func TestEngine_PrepareGoesOnWhereAKilledProcessWas(t *testing.T) {
	img := layered(t, 1, 2, 3)
	list := digests(t, img)
	host, wrap := serve(t)
	ref := push(t, host+"/app:1", img)
	var a asked
	stop := make(chan struct{})
	slow := throttled(list[3], &a, stop)
	wrap.Store(&slow)
	r := newRig(t, nil)
	r.close()
	helper := r.helper(ref)
	// What containerd has been given is released, and of the last layer a part is there.
	fetched := r.cfg.Dir + "-images"
	last := filepath.Join(fetched, strings.TrimPrefix(list[3], "sha256:")+".part")
	r.wait("half of the image is there", func() bool {
		entries, err := os.ReadDir(fetched)
		info, statErr := os.Stat(last)
		return err == nil && len(entries) == 1 && statErr == nil && info.Size() > 100_000 && len(a.of(list[0])) == 1
	})
	if err := helper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = helper.Wait()
	close(stop)
	r.open()
	awaitHTTP(t, r.start(podSpec("after", ref, "serve 8080")), 8080)
	for i, d := range list {
		want := []string{""}
		got := a.of(d)
		if i == 3 {
			if len(got) != 2 || !strings.HasPrefix(got[1], "bytes=") {
				t.Errorf("the last layer was asked for with the ranges %q", got)
			}
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("layer %d: %s", i, diff)
		}
	}
}

func TestEngine_PrepareSurvivesAKilledContainerd(t *testing.T) {
	for n := range 4 { // as many blobs are there
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			host, _ := serve(t)
			ref := push(t, host+"/app:1", layered(t, 1, 2))
			var r *rig
			var count atomic.Int32
			killed := make(chan int, 1)
			spied := &spy{released: func(engine.Descriptor, string) {
				if int(count.Add(1)) != n+1 {
					return
				}
				pid := r.daemonPID()
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Error(err)
				}
				killed <- pid
			}}
			r = newRig(t, func(c *cri.Config) { spied.Images, c.Images = c.Images, spied })
			for {
				err := r.engine.Prepare(t.Context(), ref)
				if err == nil {
					break
				}
				if !errors.Is(err, engine.ErrUnavailable) {
					t.Fatalf("Prepare: %v, %v", err, errors.Unwrap(err))
				}
				time.Sleep(10 * time.Millisecond)
			}
			pid := <-killed
			r.wait("another containerd runs", func() bool { return r.engine.Check(t.Context()) == nil && r.daemonPID() != pid })
			awaitHTTP(t, r.start(podSpec("after", ref, "serve 8080")), 8080)
		})
	}
}

func TestEngine_ProgressCountsLayers(t *testing.T) {
	img := layered(t, 1, 2)
	list := digests(t, img)
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, l := range manifest.Layers {
		total += l.Size
	}
	host, wrap := serve(t)
	ref := push(t, host+"/app:1", img)
	stop := make(chan struct{})
	slow := throttled(list[2], new(asked), stop)
	wrap.Store(&slow)
	r := newRig(t, nil)
	if _, ok := r.engine.Progress(ref); ok {
		t.Error("there is progress before anything was asked for")
	}
	done := make(chan error, 1)
	go func() { done <- r.engine.Prepare(t.Context(), ref) }()
	least := total - manifest.Layers[2].Size
	r.wait("two layers and a bit are there", func() bool {
		p, ok := r.engine.Progress(ref)
		return ok && p.Total == total && p.Done > least && p.Done < total
	})
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if p, ok := r.engine.Progress(ref); ok {
		t.Errorf("there is progress when all is done: %+v", p)
	}
}
