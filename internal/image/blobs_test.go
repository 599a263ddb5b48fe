package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

// blobServer serves one blob of random content under any name, as wrap wants it.
type blobServer struct {
	content []byte
	blob    engine.Descriptor
	image   string // by some digest

	mu     sync.Mutex // guards all below
	ranges []string   // that were asked for, one per request
	wrap   func(n int, w http.ResponseWriter, r *http.Request, serve func())
}

func newBlobServer(t *testing.T, size int) *blobServer {
	t.Helper()
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	sum := sha256.Sum256(b)
	s := &blobServer{content: b, blob: engine.Descriptor{Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(size)}}
	_, host := serve(t, s)
	s.image = host + "/team/app@" + s.blob.Digest
	return s
}

func (s *blobServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.ranges = append(s.ranges, r.Header.Get("Range"))
	n, wrap := len(s.ranges), s.wrap
	s.mu.Unlock()
	serve := func() { http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.content)) }
	if wrap == nil {
		serve()
		return
	}
	wrap(n, w, r, serve)
}

func (s *blobServer) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.ranges...)
}

// some sends a part of what it should send, and cuts the connection.
func (s *blobServer) some(w http.ResponseWriter, from, to int) {
	w.Header().Set("Content-Length", fmt.Sprint(len(s.content)-from))
	if from > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(s.content)-1, len(s.content)))
		w.WriteHeader(http.StatusPartialContent)
	}
	_, _ = w.Write(s.content[from:to])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// check fetches the blob and looks at the file.
func (s *blobServer) check(t *testing.T, r *Resolver) {
	t.Helper()
	f, err := r.Blob(t.Context(), s.image, s.blob, nil)
	if err != nil {
		t.Fatalf("Blob: %v, %v", err, errors.Unwrap(err))
	}
	b, err := os.ReadFile(f.Path)
	if err != nil || !bytes.Equal(b, s.content) {
		t.Errorf("the file has %d bytes, %v", len(b), err)
	}
	f.Release()
	f.Release() // once more does no harm
	if left := filesIn(t, r.cfg.Dir); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func blobError(t *testing.T, r *Resolver, s *blobServer) *trysail.ImageError {
	t.Helper()
	_, err := r.Blob(t.Context(), s.image, s.blob, nil)
	e, ok := errors.AsType[*trysail.ImageError](err)
	if !ok || e.Image != s.image || e.Fix == "" || e.Err == nil {
		t.Fatalf("Blob: %T %+v", err, err)
	}
	return e
}

func TestBlob_IsFetchedWhateverHappens(t *testing.T) {
	const size = 3 << 20
	for _, tt := range []struct {
		name   string
		wrap   func(s *blobServer, n int, w http.ResponseWriter, r *http.Request, serve func())
		ranges []string
	}{
		{"nothing", func(_ *blobServer, _ int, _ http.ResponseWriter, _ *http.Request, serve func()) { serve() }, []string{""}},
		{"cuts", func(s *blobServer, n int, w http.ResponseWriter, _ *http.Request, serve func()) {
			if n < 3 {
				s.some(w, (n-1)<<20, n<<20)
			}
			serve()
		}, []string{"", "bytes=1048576-3145727", "bytes=2097152-3145727"}},
		{"no ranges", func(s *blobServer, n int, w http.ResponseWriter, r *http.Request, serve func()) {
			if n == 1 {
				s.some(w, 0, 1<<20)
			}
			r.Header.Del("Range")
			serve()
		}, []string{"", "bytes=1048576-3145727"}},
		{"ranges refused", func(s *blobServer, n int, w http.ResponseWriter, r *http.Request, serve func()) {
			if n == 1 {
				s.some(w, 0, 1<<20)
			}
			if r.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			serve()
		}, []string{"", "bytes=1048576-3145727", ""}},
		{"faults of the server", func(_ *blobServer, n int, w http.ResponseWriter, _ *http.Request, serve func()) {
			switch n {
			case 1:
				w.WriteHeader(http.StatusBadGateway)
			case 2:
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(http.StatusTooManyRequests)
			default:
				serve()
			}
		}, []string{"", "", ""}},
		{"wrong bytes once", func(s *blobServer, n int, w http.ResponseWriter, _ *http.Request, serve func()) {
			if n == 1 {
				_, _ = w.Write(make([]byte, len(s.content)))
				return
			}
			serve()
		}, []string{"", ""}},
		{"a redirect", func(_ *blobServer, _ int, w http.ResponseWriter, r *http.Request, serve func()) {
			if r.URL.Path != "/elsewhere" {
				http.Redirect(w, r, "/elsewhere?sign=1", http.StatusTemporaryRedirect)
				return
			}
			serve()
		}, []string{"", ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newBlobServer(t, size)
			s.wrap = func(n int, w http.ResponseWriter, r *http.Request, serve func()) { tt.wrap(s, n, w, r, serve) }
			r := newResolver(t, Config{Dir: t.TempDir()})
			r.transport.DisableKeepAlives = true // or the transport tries once more by itself
			s.check(t, r)
			if got := s.requests(); strings.Join(got, ",") != strings.Join(tt.ranges, ",") {
				t.Errorf("asked for %q, want %q", got, tt.ranges)
			}
		})
	}
}

func TestBlob_FaultsAreTyped(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		wrap func(w http.ResponseWriter, serve func())
		want want
	}{
		{"gone", func(w http.ResponseWriter, _ func()) {
			answer(404, "application/json", refusal("BLOB_UNKNOWN"))(w, nil)
		}, want{"IMG-CORRUPT", false, []string{"lacks a part"}}},
		{"login wanted", func(w http.ResponseWriter, _ func()) {
			answer(401, "text/plain", "", "Www-Authenticate", `Basic realm="x"`)(w, nil)
		}, want{"IMG-REPO", true, []string{"is private"}}},
		{"limit", func(w http.ResponseWriter, _ func()) { answer(429, "text/plain", "", "Retry-After", "3600")(w, nil) }, want{"IMG-RATE", false, []string{"resets about"}}},
		{"always broken", func(w http.ResponseWriter, _ func()) { w.WriteHeader(500) }, want{"IMG-NET", false, []string{"500"}}},
		{"always other bytes", func(w http.ResponseWriter, _ func()) { _, _ = w.Write(make([]byte, 100_000)) }, want{"IMG-CORRUPT", false, []string{"arrived damaged", "2 times"}}},
		{"always too short", func(w http.ResponseWriter, _ func()) { _, _ = w.Write([]byte{}) }, want{"IMG-NET", false, []string{"was cut"}}},
		{"plain HTTP", func(w http.ResponseWriter, _ func()) {
			w.Header().Set("Location", "http://cdn.example.com/?geheim=1")
			w.WriteHeader(http.StatusFound)
		}, want{"IMG-CORRUPT", false, []string{"plain HTTP"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newBlobServer(t, 100_000)
			s.wrap = func(_ int, w http.ResponseWriter, _ *http.Request, serve func()) { tt.wrap(w, serve) }
			e := blobError(t, newResolver(t, Config{Dir: t.TempDir()}), s)
			tt.want.check(t, e)
			if strings.Contains(e.Err.Error(), "geheim") {
				t.Errorf("the query is shown: %v", e.Err)
			}
		})
	}
	s := newBlobServer(t, 10)
	s.blob.Digest = "sha256:../../../etc/passwd"
	if e := blobError(t, newResolver(t, Config{Dir: t.TempDir()}), s); e.Code != "IMG-CORRUPT" || !e.Final {
		t.Errorf("a digest that is a path: %+v", e)
	}
	s = newBlobServer(t, 10)
	want{"IMG-DISK", false, nil}.check(t, blobError(t, newResolver(t, Config{}), s))
	want{"IMG-DISK", false, []string{"is full", "trysail images"}}.check(t, diskFault("app", "/data", &os.PathError{Op: "write", Path: "/data/x", Err: syscall.ENOSPC}))
}

func TestBlob_FullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("only root can make a small disk")
	}
	defer func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	r := newResolver(t, Config{Dir: dir})
	want{"IMG-DISK", false, []string{"The disk of " + dir + " is full"}}.check(t, blobError(t, r, newBlobServer(t, 3<<20)))
}

func TestBlob_AMirrorThatFailsInTheMiddleIsLeft(t *testing.T) {
	const size = 2 << 20
	mirror, origin := newBlobServer(t, size), newBlobServer(t, size)
	mirror.wrap = func(n int, w http.ResponseWriter, _ *http.Request, _ func()) {
		if n == 1 {
			mirror.some(w, 0, 1<<20)
		}
		w.WriteHeader(http.StatusNotFound)
	}
	host := func(s *blobServer) string { h, _, _ := strings.Cut(s.image, "/"); return h }
	r := newResolver(t, Config{Dir: t.TempDir(), Registries: known(trysail.Registry{Host: host(origin), Mirrors: []string{"http://" + host(mirror)}})})
	origin.check(t, r)
	if got := origin.requests(); len(got) != 1 || got[0] != "bytes=1048576-2097151" {
		t.Errorf("the registry was asked for %q", got)
	}
}

func TestBlob_GoesOnAfterARestart(t *testing.T) {
	const size = 3 << 20
	for _, tt := range []struct {
		name   string
		left   func(s *blobServer) []byte
		suffix string
		ranges string
	}{
		{"a beginning", func(s *blobServer) []byte { return s.content[:1<<20] }, ".part", "bytes=1048576-3145727"},
		{"all of it", func(s *blobServer) []byte { return s.content }, ".part", ""},
		{"a complete file", func(s *blobServer) []byte { return s.content }, "", ""},
		{"a file that lost its content with the power", func(s *blobServer) []byte { return make([]byte, len(s.content)) }, "", ","},
		{"a beginning that lost its content", func(*blobServer) []byte { return make([]byte, 1<<20) }, ".part", "bytes=1048576-3145727,"},
		{"too much", func(s *blobServer) []byte { return append(bytes.Clone(s.content), 1) }, ".part", ","},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, dir := newBlobServer(t, size), t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, strings.TrimPrefix(s.blob.Digest, "sha256:")+tt.suffix), tt.left(s), 0o600); err != nil {
				t.Fatal(err)
			}
			s.check(t, newResolver(t, Config{Dir: dir}))
			var want []string
			switch tt.ranges {
			case "":
			case ",":
				want = []string{""}
			default:
				want = strings.Split(tt.ranges, ",")
			}
			if got := s.requests(); strings.Join(got, ",") != strings.Join(want, ",") || len(got) != len(want) {
				t.Errorf("asked for %q, want %q", got, want)
			}
		})
	}
}

func TestBlob_IsFetchedOnceForAll(t *testing.T) {
	s := newBlobServer(t, 1<<20)
	begin := make(chan struct{})
	s.wrap = func(_ int, _ http.ResponseWriter, _ *http.Request, serve func()) { <-begin; serve() }
	r := newResolver(t, Config{Dir: t.TempDir()})
	var wg sync.WaitGroup
	var files [5]engine.File
	for i := range files {
		wg.Go(func() {
			var err error
			if files[i], err = r.Blob(t.Context(), s.image, s.blob, nil); err != nil {
				t.Error(err)
			}
		})
	}
	// One gives up early: that is no reason for the others.
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() {
		if _, err := r.Blob(ctx, s.image, s.blob, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
	})
	cancel()
	for {
		r.blobs.mu.Lock()
		f := r.blobs.byDigest[s.blob.Digest]
		all := f != nil && f.users == len(files)
		r.blobs.mu.Unlock()
		if all && len(s.requests()) == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	close(begin)
	wg.Wait()
	if n := len(s.requests()); n != 1 {
		t.Errorf("asked %d times", n)
	}
	for i, f := range files {
		if _, err := os.Stat(f.Path); err != nil {
			t.Errorf("before release %d: %v", i, err)
		}
		f.Release()
	}
	if left := filesIn(t, r.cfg.Dir); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestBlob_NobodyWantsItAnyMore(t *testing.T) {
	s := newBlobServer(t, 1<<20)
	s.wrap = func(n int, w http.ResponseWriter, r *http.Request, serve func()) {
		if n > 1 {
			serve()
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(s.content)))
		_, _ = w.Write(s.content[:500_000])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	r := newResolver(t, Config{Dir: t.TempDir()})
	ctx, cancel := context.WithCancel(t.Context())
	var seen atomic.Int64
	_, err := r.Blob(ctx, s.image, s.blob, func(bytes int64) {
		if seen.Store(bytes); bytes == 500_000 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || seen.Load() != 500_000 {
		t.Errorf("Blob: %v after %d bytes", err, seen.Load())
	}
	s.check(t, r) // from there on
	if got := s.requests(); len(got) != 2 || got[1] != "bytes=500000-1048575" {
		t.Errorf("asked for %q", got)
	}
}

func TestResolver_CloseEndsFetches(t *testing.T) {
	s := newBlobServer(t, 10)
	asked := make(chan struct{})
	s.wrap = func(_ int, _ http.ResponseWriter, r *http.Request, _ func()) { close(asked); <-r.Context().Done() }
	r := newResolver(t, Config{Dir: t.TempDir()})
	done := make(chan error, 1)
	go func() {
		_, err := r.Blob(t.Context(), s.image, s.blob, nil)
		done <- err
	}()
	<-asked
	r.Close()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the fetch under way: %v", err)
	}
	if _, err := r.Blob(t.Context(), s.image, s.blob, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a fetch after Close: %v", err)
	}
}

func TestNew_RemovesWhatIsStale(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-25 * time.Hour)
	for name, at := range map[string]time.Time{"a.part": old, "b": old, "c.part": time.Now(), "d": time.Now()} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	newResolver(t, Config{Dir: dir})
	if got := strings.Join(filesIn(t, dir), " "); got != "c.part d" {
		t.Errorf("left: %s", got)
	}
}

func TestManifest_IsThatOfTheDigest(t *testing.T) {
	reg := newRegistry()
	var damage atomic.Bool
	_, host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if damage.Load() && strings.Contains(r.URL.Path, "/manifests/") {
			answer(200, "application/vnd.oci.image.manifest.v1+json", `{"schemaVersion":2,"config":{}}`)(w, r)
			return
		}
		reg.ServeHTTP(w, r)
	}))
	img := build(t, "linux", "amd64", v1.Config{})
	ref := host + "/app@" + push(t, host+"/app:v1", img)
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	r := newResolver(t, Config{})
	mediaType, got, err := r.Manifest(t.Context(), ref)
	if err != nil || !bytes.Equal(got, raw) || mediaType != "application/vnd.docker.distribution.manifest.v2+json" {
		t.Errorf("%s %s, %v", mediaType, got, err)
	}
	manifestError := func(image string) *trysail.ImageError {
		_, _, err := r.Manifest(t.Context(), image)
		e, ok := errors.AsType[*trysail.ImageError](err)
		if !ok {
			t.Fatalf("Manifest(%s): %v", image, err)
		}
		return e
	}
	damage.Store(true)
	want{"IMG-CORRUPT", false, []string{"damaged"}}.check(t, manifestError(ref))
	damage.Store(false)
	want{"IMG-NAME", true, []string{"no digest"}}.check(t, manifestError(host+"/app:v1"))
	want{"IMG-CORRUPT", true, []string{"an index"}}.check(t, manifestError(host+"/index@"+push(t, host+"/index:v1", empty.Index)))
	want{"IMG-TAG", true, nil}.check(t, manifestError(host+"/app@sha256:"+strings.Repeat("0", 64)))
}

func BenchmarkBlob_Loopback(b *testing.B) {
	const size = 256 << 20
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(content)
	sum := sha256.Sum256(content)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	blob := engine.Descriptor{Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: size}
	r := New(Config{Dir: b.TempDir()})
	defer r.Close()
	b.SetBytes(size)
	for b.Loop() {
		f, err := r.Blob(b.Context(), host+"/app@"+blob.Digest, blob, nil)
		if err != nil {
			b.Fatal(err)
		}
		f.Release()
	}
}
