package kube

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

// shelf supplies one image, and counts what is asked for and held.
type shelf struct {
	dir      string
	manifest []byte
	blobs    map[string][]byte
	asked    sync.Map // digests, to how often
	held     atomic.Int64
	files    atomic.Int64  // written
	fails    string        // a digest that cannot be had
	gate     chan struct{} // if there is one, blobs wait for it to be closed
}

func (s *shelf) Manifest(context.Context, string) (string, []byte, error) {
	return "application/vnd.oci.image.manifest.v1+json", s.manifest, nil
}

func (s *shelf) Blob(ctx context.Context, image string, b engine.Descriptor, progress func(int64)) (engine.File, error) {
	n, _ := s.asked.LoadOrStore(b.Digest, new(atomic.Int64))
	n.(*atomic.Int64).Add(1) //nolint:forcetypeassert // it is one
	if progress != nil {
		progress(1)
		if s.gate != nil {
			select {
			case <-s.gate:
			case <-ctx.Done():
				return engine.File{}, ctx.Err()
			}
		}
	}
	if b.Digest == s.fails {
		return engine.File{}, &trysail.ImageError{Code: "IMG-CORRUPT", Image: image, Message: "A layer is damaged."}
	}
	s.held.Add(1)
	// Everybody gets a file of their own: one that is written again while somebody reads it would be empty for a moment.
	path := filepath.Join(s.dir, strconv.FormatInt(s.files.Add(1), 10))
	return engine.File{Path: path, Release: sync.OnceFunc(func() { s.held.Add(-1) })}, os.WriteFile(path, s.blobs[b.Digest], 0o600)
}

func (s *shelf) times(digest string) int64 {
	n, ok := s.asked.Load(digest)
	if !ok {
		return 0
	}
	return n.(*atomic.Int64).Load() //nolint:forcetypeassert // it is one
}

// newShelf has an image of layers, lowest first.
func newShelf(t *testing.T, config ocispec.Image, layers ...[]byte) (s *shelf, digests []string) {
	t.Helper()
	s = &shelf{dir: t.TempDir(), blobs: map[string][]byte{}}
	add := func(b []byte) engine.Descriptor {
		d := fmt.Sprintf("sha256:%x", sha256.Sum256(b))
		s.blobs[d] = b
		return engine.Descriptor{Digest: d, Size: int64(len(b))}
	}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	m := struct {
		Config engine.Descriptor   `json:"config"`
		Layers []engine.Descriptor `json:"layers"`
	}{Config: add(text)}
	for _, l := range layers {
		m.Layers = append(m.Layers, add(l))
		digests = append(digests, m.Layers[len(m.Layers)-1].Digest)
	}
	if s.manifest, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	return s, digests
}

func tarOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func pullsOf(t *testing.T, s *shelf) *pulls {
	t.Helper()
	p, err := newPulls(Config{Dir: t.TempDir(), Registry: "10.0.0.5:4501", Images: s})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPulls_HoldAnImageOnceForAll(t *testing.T) {
	s, layers := newShelf(t, ocispec.Image{}, tarOf(t, map[string]string{"a": "x"}), tarOf(t, map[string]string{"b": "x"}))
	s.gate = make(chan struct{})
	p := pullsOf(t, s)
	var wg sync.WaitGroup
	var fresh atomic.Int64
	for range 5 {
		wg.Go(func() {
			got, isFresh, err := p.hold(t.Context(), libraryImage)
			if err != nil || len(got.indexes) != 2 {
				t.Errorf("%+v, %v", got, err)
			}
			if isFresh {
				fresh.Add(1)
			}
		})
	}
	for s.times(layers[0]) == 0 || s.times(layers[1]) == 0 {
		if t.Context().Err() != nil {
			t.Fatal("nobody asks for the layers")
		}
	}
	if got := p.held(libraryImage).progress(); got.Done != 2 || got.Total == 0 {
		t.Errorf("while it comes, %+v is there", got)
	}
	close(s.gate)
	wg.Wait()
	if fresh.Load() != 1 || s.times(layers[0]) != 1 || s.times(layers[1]) != 1 {
		t.Errorf("%d hold it; the layers were asked for %d and %d times", fresh.Load(), s.times(layers[0]), s.times(layers[1]))
	}
	p.release(libraryImage, p.held(libraryImage))
	if n := s.held.Load(); n != 0 || p.held(libraryImage) != nil {
		t.Errorf("%d files are held", n)
	}
	// What is known of a layer needs it no more.
	if _, _, err := p.hold(t.Context(), libraryImage); err != nil || s.times(layers[0]) != 1 {
		t.Errorf("a layer that is known was asked for %d times, %v", s.times(layers[0]), err)
	}
}

func TestPulls_HoldSaysWhatIsWrong(t *testing.T) {
	s, layers := newShelf(t, ocispec.Image{}, tarOf(t, map[string]string{"a": "x"}), tarOf(t, map[string]string{"b": "x"}))
	s.fails = layers[0]
	p := pullsOf(t, s)
	_, _, err := p.hold(t.Context(), libraryImage)
	fault, ok := errors.AsType[*trysail.ImageError](err)
	if !ok || fault.Code != "IMG-CORRUPT" || p.held(libraryImage) != nil || s.held.Load() != 0 {
		t.Errorf("%v; %d files are held", err, s.held.Load())
	}
	s.fails = ""
	if _, _, err := p.hold(t.Context(), libraryImage); err != nil {
		t.Errorf("when it is there again: %v", err)
	}
}

func TestEngine_ExaminesLayersAsTheyCame(t *testing.T) {
	config := ocispec.Image{Config: ocispec.ImageConfig{Entrypoint: []string{"/start.sh"}, ExposedPorts: map[string]struct{}{"3000/tcp": {}}}}
	base, damaged := tarOf(t, map[string]string{"bin/sh": "#!/x"}), []byte("this is no layer")
	top := tarOf(t, map[string]string{"start.sh": "#!/bin/sh\r\n"})
	for name, tc := range map[string]struct {
		layers [][]byte
		want   trysail.DiagnosisCode
	}{
		"seen":                    {[][]byte{base, top}, "RUN-CRLF"},
		"above one that is not":   {[][]byte{damaged, top}, "RUN-CRLF"},
		"below one that is not":   {[][]byte{top, damaged}, ""},
		"not in what can be seen": {[][]byte{damaged, base}, ""},
		"nowhere":                 {[][]byte{base}, "RUN-NOFILE"},
	} {
		s, _ := newShelf(t, config, tc.layers...)
		e := &Engine{pulls: pullsOf(t, s)}
		a, err := e.Examine(t.Context(), trysail.ContainerSpec{Image: libraryImage}, []int{80})
		got := trysail.DiagnosisCode("")
		if len(a.Findings) > 0 {
			got = a.Findings[0].Code
		}
		if err != nil || got != tc.want || !a.Presumed || tc.want == "" && a.Incomplete == "" || len(a.Exposed) != 1 {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
		if s.held.Load() != 0 {
			t.Errorf("%s: %d files are held", name, s.held.Load())
		}
	}
}

func TestLayers_ForgetWhatNobodyAsksFor(t *testing.T) {
	l := newLayers()
	dir := t.TempDir()
	read := func(digest string) {
		path := filepath.Join(dir, digest)
		if err := os.WriteFile(path, tarOf(t, map[string]string{"a": strings.Repeat("#!", 1000)}), 0o600); err != nil {
			t.Fatal(err)
		}
		if x := l.read(t.Context(), digest, path); x == nil {
			t.Fatal("it cannot be read")
		}
	}
	read("one")
	l.most = 2*l.weight + l.weight/2
	read("two")
	l.get("one")
	read("three")
	for digest, want := range map[string]bool{"one": true, "two": false, "three": true} {
		if _, known := l.get(digest); known != want {
			t.Errorf("%s is known: %v", digest, known)
		}
	}
}
