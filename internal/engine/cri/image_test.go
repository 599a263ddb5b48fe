package cri_test

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/trysail/trysail"
)

// serve runs a registry whose answers to reads pass through wrap once it is not nil.
func serve(tb testing.TB) (host string, wrap *atomic.Pointer[func(http.Handler) http.Handler]) {
	tb.Helper()
	wrap = new(atomic.Pointer[func(http.Handler) http.Handler])
	inner := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := inner
		if f := wrap.Load(); f != nil {
			h = (*f)(inner)
		}
		h.ServeHTTP(w, r)
	}))
	tb.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), wrap
}

// answer is a registry that answers everything the same.
func answer(status int, header ...string) func(http.Handler) http.Handler {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
		})
	}
}

// damage replaces the content of layers.
func damage(inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			inner.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		inner.ServeHTTP(rec, r)
		b := rec.Body.Bytes()
		if len(b) > 100_000 { // the layer, not the config
			b[50_000] ^= 0xff
		}
		w.Header().Set("Content-Type", rec.Header().Get("Content-Type"))
		_, _ = w.Write(b)
	})
}

func TestEngine_PrepareTellsCauses(t *testing.T) {
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	image := makeImage(t, binary, "/program")
	r := newRig(t, nil)
	digest := "@sha256:" + strings.Repeat("0", 64)
	for _, tt := range []struct {
		name  string
		image func(host string) string
		wrap  func(http.Handler) http.Handler
		want  trysail.DiagnosisCode
		final bool
	}{
		{name: "no such image", image: func(host string) string { return host + "/a" + digest }, want: "IMG-REPO", final: true},
		{name: "damaged", wrap: damage, want: "IMG-CORRUPT"},
		{name: "no archive", image: func(host string) string { return push(t, host+"/noarchive:1", withLayer(t, image, []byte("hello"))) }, want: "IMG-CORRUPT"},
		{name: "damaged before it was pushed", image: func(host string) string { return push(t, host+"/cut:1", withLayer(t, image, cut(t, image))) }, want: "IMG-CORRUPT"},
		{name: "other architecture", image: func(host string) string { return push(t, host+"/arch:1", withArchitecture(t, image, "s390x")) }, want: "IMG-ARCH", final: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host, wrap := serve(t)
			ref := push(t, host+"/test:1", image)
			if tt.image != nil {
				ref = tt.image(host)
			}
			if tt.wrap != nil {
				wrap.Store(&tt.wrap)
			}
			err := r.engine.Prepare(t.Context(), ref)
			ie, ok := errors.AsType[*trysail.ImageError](err)
			if !ok || ie.Code != tt.want || ie.Final != tt.final {
				t.Fatalf("Prepare: %v, cause %v; want %s, final %v", err, errors.Unwrap(err), tt.want, tt.final)
			}
		})
	}
}

// withLayer is the image with another layer that says of itself that it is packed by gzip.
func withLayer(tb testing.TB, image v1.Image, content []byte) v1.Image {
	tb.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		tb.Fatal(err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	changed, err := mutate.AppendLayers(base, static.NewLayer(content, types.OCILayer))
	if err != nil {
		tb.Fatal(err)
	}
	got, err := changed.ConfigFile()
	if err != nil {
		tb.Fatal(err)
	}
	got = got.DeepCopy()
	got.OS, got.Architecture, got.Config = config.OS, config.Architecture, config.Config
	if changed, err = mutate.ConfigFile(changed, got); err != nil {
		tb.Fatal(err)
	}
	return changed
}

// cut is the beginning of the image's layer.
func cut(tb testing.TB, image v1.Image) []byte {
	tb.Helper()
	layers, err := image.Layers()
	if err != nil {
		tb.Fatal(err)
	}
	r, err := layers[0].Compressed()
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	b := make([]byte, 100_000)
	if _, err := io.ReadFull(r, b); err != nil {
		tb.Fatal(err)
	}
	return b
}

func withArchitecture(tb testing.TB, image v1.Image, arch string) v1.Image {
	tb.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		tb.Fatal(err)
	}
	config = config.DeepCopy()
	config.Architecture = arch
	if image, err = mutate.ConfigFile(image, config); err != nil {
		tb.Fatal(err)
	}
	return image
}

func TestEngine_PreparePullsOnceForAll(t *testing.T) {
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	host, wrap := serve(t)
	ref := push(t, host+"/test:1", makeImage(t, binary, "/program"))
	var blobs atomic.Int64
	count := func(inner http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				blobs.Add(1)
			}
			inner.ServeHTTP(w, r)
		})
	}
	wrap.Store(&count)
	r := newRig(t, nil)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if err := r.engine.Prepare(t.Context(), ref); err != nil {
				t.Errorf("Prepare: %v", err)
			}
		})
	}
	wg.Wait()
	if n := blobs.Load(); n != 2 { // config and layer
		t.Errorf("%d blobs were fetched, want 2", n)
	}
	// Present, so the registry is not asked.
	gone := answer(http.StatusInternalServerError)
	wrap.Store(&gone)
	if err := r.engine.Prepare(t.Context(), ref); err != nil {
		t.Errorf("Prepare of a present image: %v", err)
	}
}

func TestEngine_PruneRemovesWhatNobodyUses(t *testing.T) {
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	host, wrap := serve(t)
	var refs []string
	for _, word := range []string{"used", "kept", "unused"} {
		refs = append(refs, push(t, host+"/"+word+":1", makeImage(t, binary, "/program", "--entry", "wait", word)))
	}
	r := newRig(t, nil)
	for _, ref := range refs {
		if err := r.engine.Prepare(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	r.start(podSpec("user", refs[0], "wait"))
	freed, err := r.engine.Prune(t.Context(), []string{refs[1]})
	if err != nil || freed <= 0 {
		t.Errorf("Prune() = %d, %v", freed, err)
	}
	gone := answer(http.StatusInternalServerError)
	wrap.Store(&gone)
	for i, ref := range refs {
		if err := r.engine.Prepare(t.Context(), ref); (err == nil) != (i < 2) {
			t.Errorf("after Prune, Prepare(%s): %v", ref, err)
		}
	}
	// The pause image is still there too.
	r.start(podSpec("another", refs[1], "wait"))
}

func TestEngine_KeepsEnvironmentOutOfContainerdsLog(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, nil)
	spec := podSpec("secret", images.program, "serve 8080", "exit 1")
	spec.Containers[0].Environment = map[string]string{"PASSWORD": "hunter2-in-env"}
	spec.Containers = append(spec.Containers, trysail.ContainerSpec{Name: "z", Image: images.broken, Environment: map[string]string{"PASSWORD": "hunter2-in-env"}})
	p := r.start(spec)
	if got := get(t, p, "/env"); !strings.Contains(got, "PASSWORD=hunter2-in-env") {
		t.Errorf("environment:\n%s", got)
	}
	if _, err := r.engine.Stop(t.Context(), spec.ID, 0); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(r.cfg.Dir, "containerd.log"))
	if err != nil || !strings.Contains(string(b), "StartContainer") {
		t.Fatalf("containerd's log: %d bytes, %v", len(b), err)
	}
	if strings.Contains(string(b), "hunter2") {
		t.Error("containerd's log holds the value of a variable")
	}
	if info, err := os.Stat(filepath.Join(r.cfg.Dir, "containerd.log")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("containerd's log: %v, %v", info.Mode(), err)
	}
}
