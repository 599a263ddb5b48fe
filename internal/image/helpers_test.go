package image

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"go.uber.org/goleak"

	"github.com/trysail/trysail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var amd64 = v1.Platform{OS: "linux", Architecture: "amd64"}

// newResolver makes a resolver for linux/amd64, wherever the test runs.
func newResolver(t *testing.T, cfg Config) *Resolver {
	t.Helper()
	if cfg.Platform.OS == "" {
		cfg.Platform = amd64
	}
	r := New(cfg)
	t.Cleanup(r.Close)
	return r
}

// redirected makes all names lead to a test server whose certificate is believed.
func redirected(r *Resolver, srv *httptest.Server) {
	r.transport.Proxy = nil
	r.transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	r.transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, srv.Listener.Addr().String())
	}
}

// counter is a handler that remembers what it was asked.
type counter struct {
	http.Handler
	mu    sync.Mutex
	asked []string
	agent string
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.asked, c.agent = append(c.asked, r.Method+" "+r.URL.Path), r.UserAgent()
	c.mu.Unlock()
	c.Handler.ServeHTTP(w, r)
}

func (c *counter) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = nil
}

func newRegistry() http.Handler {
	return registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)))
}

// serve starts a registry on loopback; host is its host:port.
func serve(t *testing.T, h http.Handler) (srv *httptest.Server, host string) {
	t.Helper()
	srv = httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv, strings.TrimPrefix(srv.URL, "http://")
}

// serveTLS starts a registry with a certificate for example.com that nobody trusts.
func serveTLS(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

// build makes an image with one configuration.
func build(t *testing.T, os, arch string, c v1.Config) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: os, Architecture: arch, Config: c})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func push(t *testing.T, image string, img remote.Taggable) string {
	t.Helper()
	ref, err := name.ParseReference(image)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	switch img := img.(type) {
	case v1.Image:
		err = remote.Write(ref, img, remote.WithTransport(tr))
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, img, remote.WithTransport(tr))
	}
	if err != nil {
		t.Fatal(err)
	}
	d, ok := img.(interface{ Digest() (v1.Hash, error) })
	if !ok {
		t.Fatalf("%T has no digest", img)
	}
	return digestOf(t, d)
}

func digestOf(t *testing.T, img interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	h, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

func add(img mutate.Appendable, p *v1.Platform, annotations map[string]string) mutate.IndexAddendum {
	return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: p, Annotations: annotations}}
}

func on(arch, variant string) *v1.Platform {
	return &v1.Platform{OS: "linux", Architecture: arch, Variant: variant}
}

// resolveError resolves an image that cannot be had.
func resolveError(t *testing.T, r *Resolver, image string) *trysail.ImageError {
	t.Helper()
	found, err := r.Resolve(t.Context(), image)
	if err == nil {
		t.Fatalf("Resolve(%q) = %+v, want an error", image, found)
	}
	e, ok := errors.AsType[*trysail.ImageError](err)
	if !ok {
		t.Fatalf("Resolve(%q): %T %v, want a *trysail.ImageError", image, err, err)
	}
	if e.Image != image || e.Message == "" || e.Fix == "" || e.Err == nil {
		t.Errorf("Resolve(%q): incomplete %+v", image, e)
	}
	return e
}

// want is what is expected of an error.
type want struct {
	code  trysail.DiagnosisCode
	final bool
	parts []string // of message and fix
}

func (w want) check(t *testing.T, e *trysail.ImageError) {
	t.Helper()
	if e.Code != w.code || e.Final != w.final {
		t.Errorf("got %s final=%v (%s | %s | %v), want %s final=%v", e.Code, e.Final, e.Message, e.Fix, e.Err, w.code, w.final)
	}
	for _, p := range w.parts {
		if !strings.Contains(e.Message+" "+e.Fix, p) {
			t.Errorf("message %q, fix %q: no %q", e.Message, e.Fix, p)
		}
	}
	t.Logf("%s %s | %s", e.Code, e.Message, e.Fix)
}

// answer makes a handler that gives the same answer to everything.
func answer(status int, contentType, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// refusal is an error in the form of registries.
func refusal(code string) string {
	return `{"errors":[{"code":"` + code + `","message":"said the registry"}]}`
}
