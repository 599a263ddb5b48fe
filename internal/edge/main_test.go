package edge

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/trysail/trysail"
)

// engine is the one that the tests use now.
var engine = EngineNetHTTP

// everyEngine runs all tests with each engine; -engine runs them with one.
type everyEngine struct{ *testing.M }

// Run runs the tests and returns the exit status.
func (m everyEngine) Run() int {
	only := flag.String("engine", "", "test only this engine")
	flag.Parse()
	if *only != "" || isFuzzing() {
		engine = cmp.Or(*only, engine)
		return m.M.Run()
	}
	status := 0
	for _, engine = range Engines() {
		fmt.Println("engine", engine)
		status = max(status, m.M.Run())
	}
	return status
}

func isFuzzing() bool {
	f := flag.Lookup("test.fuzz")
	return f != nil && f.Value.String() != ""
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(everyEngine{m}) }

const testHost = "web.0123456789abc.us-east-1.cs.localhost"

// testEdge starts an edge on loopback. It is closed, and must be empty by then, at the end of the test.
func testEdge(tb testing.TB, change ...func(*Config)) *Edge {
	tb.Helper()
	cfg := Config{Dir: tb.TempDir(), HTTPAddr: "127.0.0.1:0", HTTPSAddr: "127.0.0.1:0", Engine: engine}
	for _, c := range change {
		c(&cfg)
	}
	e, err := New(cfg, testLog(tb))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := e.Close(ctx); err != nil {
			tb.Errorf("Close: %v", err)
		}
	})
	if err := e.Start(); err != nil {
		tb.Fatal(err)
	}
	return e
}

// testLog writes to the test's log.
func testLog(tb testing.TB) *slog.Logger {
	tb.Helper()
	return slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// testBackend serves h on loopback and returns its target: serving, and healthy without being asked. Health checks,
// which come when they come, do not reach h.
func testBackend(t *testing.T, pod string, h http.HandlerFunc) trysail.Target {
	t.Helper()
	return testProbedBackend(t, pod, func(w http.ResponseWriter, r *http.Request) {
		if r.UserAgent() != probeAgent {
			h(w, r)
		}
	})
}

// testProbedBackend is testBackend with health checks.
func testProbedBackend(t *testing.T, pod string, h http.HandlerFunc) trysail.Target {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return testTarget(pod, srv.Listener.Addr())
}

func testTarget(pod string, addr net.Addr) trysail.Target {
	return trysail.Target{
		Pod: trysail.PodID(pod), Version: 1, Addr: netip.MustParseAddrPort(addr.String()),
		Check: trysail.DefaultHealthCheck(), Serving: true, PresumeHealthy: true,
	}
}

func testRoute(targets ...trysail.Target) trysail.Route {
	return trysail.Route{Service: "web", Host: testHost, Mode: trysail.RouteServe, Targets: targets}
}

// refusing returns an address that nothing listens on.
func refusing(t *testing.T) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return l.Addr()
}

func rootPool(tb testing.TB, e *Edge) *x509.CertPool {
	tb.Helper()
	pem, err := os.ReadFile(e.CA().RootFile())
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		tb.Fatal("no certificate in the root file")
	}
	return pool
}

// testClient talks to e whatever the URL's host is, verifies its certificates, and follows no redirects.
func testClient(t *testing.T, e *Edge, http2 bool) *http.Client {
	t.Helper()
	var dialer net.Dialer
	var protocols http.Protocols
	protocols.SetHTTP1(!http2)
	protocols.SetHTTP2(http2)
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if strings.HasSuffix(addr, ":80") {
				return dialer.DialContext(ctx, network, e.HTTPAddr())
			}
			return dialer.DialContext(ctx, network, e.HTTPSAddr())
		},
		TLSClientConfig:     &tls.Config{RootCAs: rootPool(t, e)},
		Protocols:           &protocols,
		MaxIdleConnsPerHost: 100,
		DisableCompression:  true,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// dialTLS opens a bare TLS connection to e with HTTP/1.1.
func dialTLS(tb testing.TB, e *Edge) *tls.Conn {
	tb.Helper()
	conn, err := tls.Dial("tcp", e.HTTPSAddr(), &tls.Config{RootCAs: rootPool(tb, e), ServerName: testHost, NextProtos: []string{"http/1.1"}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		tb.Fatal(err)
	}
	return conn
}

// get fetches path from the test host and returns the answer and its body.
func get(t *testing.T, c *http.Client, path string) (*http.Response, string) {
	t.Helper()
	return do(t, c, http.MethodGet, path, nil)
}

func do(t *testing.T, c *http.Client, method, path string, body io.Reader) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+testHost+path, body)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(data)
}

// within returns a context that ends the test's patience.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// receive waits for a value.
func receive[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}
