package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/edge"
)

func TestDataDir_SecondServerIsRefusedWithThePidOfTheFirst(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "data")
	first, err := openDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory has mode %v, %v", info.Mode(), err)
	}
	_, err = openDataDir(dir)
	if want := fmt.Sprintf("another trysail serve (pid %d) uses %s", os.Getpid(), dir); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := openDataDir(dir)
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	again.Close()
}

func TestDataDir_IsClosedToOthers(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := openDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory has mode %v, %v", info.Mode(), err)
	}
}

func TestNotify_TellsTheSocket(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "n"), "@trysail-test-" + t.Name()} {
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := notify(name, "READY=1"); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		n, err := l.Read(b)
		if err != nil || string(b[:n]) != "READY=1" {
			t.Errorf("the socket got %q, %v", b[:n], err)
		}
	}
	if err := notify("", "READY=1"); err != nil {
		t.Errorf("without a socket: %v", err)
	}
}

func TestHealth_AnswersForAllParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken error
		var asked atomic.Int32
		h := &health{parts: []part{
			{"api", func(context.Context) error { asked.Add(1); return nil }},
			{"engine", func(context.Context) error { return broken }},
			{"edge", func(ctx context.Context) error {
				if broken == nil {
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			}},
		}}
		get := func(method string) (int, string) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(method, "/healthz", nil))
			return w.Code, w.Body.String()
		}
		if code, body := get("GET"); code != http.StatusOK || body != "ok\n" {
			t.Errorf("healthy: %d %q", code, body)
		}
		broken = errors.New("containerd does not run:\nit is being started")
		if code, _ := get("GET"); code != http.StatusOK || asked.Load() != 1 {
			t.Errorf("asked %d times at once, answered %d", asked.Load(), code)
		}
		time.Sleep(healthFresh)
		before := time.Now()
		code, body := get("GET")
		want := "engine: containerd does not run:; it is being started\nedge: context deadline exceeded\n"
		if code != http.StatusServiceUnavailable || body != want {
			t.Errorf("broken: %d %q, want %q", code, body, want)
		}
		if took := time.Since(before); took != healthTime {
			t.Errorf("it took %v", took)
		}
		if code, _ := get("POST"); code != http.StatusMethodNotAllowed {
			t.Errorf("POST: %d", code)
		}
	})
}

func TestListen_NamesTheFlag(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := config{listen: "127.0.0.1:0", http: "127.0.0.1:0", https: l.Addr().String()}
	err = checkPorts(t.Context(), cfg, &sockets{})
	if want := fmt.Sprintf("--https: the address %s is in use by another program", l.Addr()); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	cfg.https = "192.0.2.1:1"
	if err := checkPorts(t.Context(), cfg, &sockets{}); err == nil || !strings.Contains(err.Error(), "this machine has no address 192.0.2.1:1") {
		t.Errorf("got %v", err)
	}
}

func TestIsLoopback_DecidesOnTLS(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:4500": true, "[::1]:4500": true, "localhost:4500": true, "127.9.9.9:1": true, "[::ffff:127.0.0.1]:1": true,
		":4500": false, "0.0.0.0:4500": false, "[::]:4500": false, "10.0.0.1:4500": false, "example.com:4500": false, "localhost.example.com:1": false,
	} {
		if got := isLoopback(address); got != want {
			t.Errorf("isLoopback(%q) = %v, want %v", address, got, want)
		}
	}
}

func newEdge(t *testing.T, domain string) *edge.Edge {
	t.Helper()
	e, err := edge.New(edge.Config{Dir: t.TempDir(), Domain: domain}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return e
}

// TestAPI_SpeaksTLSWhereOthersCanReachIt serves the API on all addresses and calls it as a client that trusts the local
// CA does.
func TestAPI_SpeaksTLSWhereOthersCanReachIt(t *testing.T) {
	e := newEdge(t, "apps.example.com")
	secure, err := apiTLS(e.CA(), "0.0.0.0:0", "apps.example.com")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{log: slog.New(slog.DiscardHandler), failed: make(chan error, 1)}
	s.serveAPI(l, secure, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host) }))
	defer s.close(context.Background())
	root, err := os.ReadFile(e.CA().RootFile())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	for _, name := range []string{"", "localhost", "apps.example.com"} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: name}}}
		resp, err := client.Get("https://" + l.Addr().String())
		if err != nil {
			t.Errorf("as %q: %v", name, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		client.CloseIdleConnections()
		if err != nil || string(body) != l.Addr().String() {
			t.Errorf("as %q: %q, %v", name, body, err)
		}
	}
}

func TestClientEndpoint_IsWhatThisMachineCalls(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for address, want := range map[string]string{
		"127.0.0.1:0": "http://127.0.0.1:", "localhost:0": "http://localhost:", "[::1]:0": "http://[::1]:",
		":0": "https://127.0.0.1:", "0.0.0.0:0": "https://127.0.0.1:", "[::]:0": "https://127.0.0.1:", "10.1.2.3:0": "https://10.1.2.3:",
	} {
		if got := clientEndpoint(l, address); got != want+port {
			t.Errorf("%s: got %s, want %s%s", address, got, want, port)
		}
	}
}

// TestServer_ClosesInReverse checks that parts end last first, also when one of them fails.
func TestServer_ClosesInReverse(t *testing.T) {
	s := &server{failed: make(chan error, 1)}
	var order bytes.Buffer
	for _, name := range []string{"a", "b", "c"} {
		s.onClose(func(context.Context) error {
			order.WriteString(name)
			return errors.New(name)
		})
	}
	if err := s.close(t.Context()); order.String() != "cba" || err == nil {
		t.Errorf("closed in the order %s, %v", order.String(), err)
	}
}

func TestServer_EndsWhenAPartDoes(t *testing.T) {
	s := &server{failed: make(chan error, 1)}
	s.work(t.Context(), "sailing", func(context.Context) error { return errors.New("no wind") })
	if err := <-s.failed; err.Error() != "sailing: no wind" {
		t.Errorf("got %v", err)
	}
	s.work(t.Context(), "sailing", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	if err := s.close(t.Context()); err != nil {
		t.Error(err)
	}
	select {
	case err := <-s.failed:
		t.Errorf("a part that was told to stop counts as failed: %v", err)
	default:
	}
}

func TestGate_WaitsForTheRoutesOfAllServices(t *testing.T) {
	g := newGate(newEdge(t, "localhost"))
	services := []trysail.Service{{Name: "a"}, {Name: "b"}}
	go func() {
		g.Apply(trysail.Route{Service: "a", Host: "a.localhost"})
		g.Remove("b")
	}()
	if missing := g.wait(t.Context(), services); len(missing) > 0 {
		t.Errorf("it did not wait for %v", missing)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if missing := g.wait(ctx, []trysail.Service{{Name: "a"}, {Name: "c"}}); len(missing) != 1 || missing[0] != "c" {
		t.Errorf("missing %v, want c", missing)
	}
}
