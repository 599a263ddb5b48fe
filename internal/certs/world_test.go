package certs_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log" //nolint:depguard // http.Server wants one
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/certs"
	"github.com/trysail/trysail/internal/edge"
	"github.com/trysail/trysail/internal/store"
	"github.com/trysail/trysail/test/acme"
)

// patience is how long things may take on a machine that does a lot else.
const patience = time.Minute

var here = netip.MustParseAddr("127.0.0.1")

// TestMain sets Pebble to hurry.
func TestMain(m *testing.M) {
	if err := acme.Hurry(); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// world is everything around a Manager: store, DNS, the ports of an edge.
type world struct {
	*testing.T
	dir   string
	store *store.Store
	dns   *acme.NameServer
	ca    *edge.CA

	plain, secure net.Listener

	mu      sync.Mutex
	manager *certs.Manager // that the ports ask
	stop    func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, dir: t.TempDir(), dns: acme.NewNameServer(t)}
	var err error
	if w.store, err = store.Open(t.Context(), w.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	e, err := edge.New(edge.Config{Dir: filepath.Join(w.dir, "ca")}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close(context.Background()) })
	w.ca = e.CA()
	w.plain, w.secure = listen(t), listen(t)
	w.serve()
	return w
}

func newAuthority(t *testing.T, w *world, o acme.Options) *acme.Authority {
	t.Helper()
	o.HTTPPort, o.TLSPort, o.Resolver = w.httpPort(), w.tlsPort(), w.dns.Addr
	return acme.NewAuthority(t, o)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

func (w *world) httpPort() int { return port(w.plain) }
func (w *world) tlsPort() int  { return port(w.secure) }

func (w *world) current() *certs.Manager {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.manager
}

// serve answers on both ports as the edge does.
func (w *world) serve() {
	quiet := log.New(io.Discard, "", 0)
	plain := &http.Server{ErrorLog: quiet, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if m := w.current(); m == nil || !m.Challenge(rw, r) {
			http.NotFound(rw, r)
		}
	})}
	secure := &http.Server{ErrorLog: quiet, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, "hello") }), TLSConfig: &tls.Config{
		NextProtos: []string{"http/1.1", "acme-tls/1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if m := w.current(); m != nil {
				return m.Certificate(hello)
			}
			return nil, errors.New("no manager")
		},
	}}
	var group sync.WaitGroup
	group.Go(func() { _ = plain.Serve(w.plain) })
	group.Go(func() { _ = secure.ServeTLS(w.secure, "", "") })
	w.Cleanup(func() {
		plain.Close()
		secure.Close()
		group.Wait()
	})
}

// start runs a Manager until the test ends or halt is called.
func (w *world) start(change func(*certs.Config)) *certs.Manager {
	w.Helper()
	cfg := certs.Config{
		Dir: filepath.Join(w.dir, "certs"), Store: w.store, Sign: w.ca.SignRequest, Log: slog.New(slog.NewTextHandler(w.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		Resolvers: []string{w.dns.Addr}, Addresses: func() []netip.Addr { return []netip.Addr{here} }, HTTPPort: w.httpPort(),
		Unit: 200 * time.Millisecond, Email: "ops@example.com",
	}
	change(&cfg)
	m, err := certs.New(cfg)
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
	})
	w.mu.Lock()
	w.manager, w.stop = m, stop
	w.mu.Unlock()
	w.Cleanup(stop)
	return m
}

// halt ends the Manager, as a restart would.
func (w *world) halt() {
	w.mu.Lock()
	stop := w.stop
	w.manager = nil
	w.mu.Unlock()
	stop()
}

// with makes a Manager use these authorities.
func with(list ...*acme.Authority) func(*certs.Config) {
	return func(c *certs.Config) {
		c.Roots = x509.NewCertPool()
		for _, a := range list {
			c.Directories = append(c.Directories, certs.Directory{URL: a.Directory})
			c.Roots.AddCert(a.Certificate())
		}
	}
}

// zoned gives a Manager a zone that it can write to.
func (w *world) zoned(c *certs.Config) {
	w.Helper()
	zone, err := certs.OpenZone("rfc2136", acme.Zone, map[string]string{"server": w.dns.Addr, "key-name": "trysail-test", "key": acme.TSIGSecret})
	if err != nil {
		w.Fatal(err)
	}
	c.Zone, c.Domain, c.ValidationZone, c.Region = zone, acme.Zone, "validations."+acme.Zone, "us-east-1"
}

// request asks for a certificate.
func (w *world) request(name string, domains ...string) *trysail.Certificate {
	w.Helper()
	c := &trysail.Certificate{ID: "id-" + name, Name: name}
	for i, d := range domains {
		c.Domains = append(c.Domains, trysail.DomainCertificate{Domain: d, Token: fmt.Sprintf("%032x", i+1)})
	}
	err := w.store.Update(w.Context(), func(tx *store.Tx) error {
		c.CreatedAt = tx.Now()
		return tx.InsertCertificate(c)
	})
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// certificate reads a certificate from the store.
func (w *world) certificate(name string) (c *trysail.Certificate) {
	w.Helper()
	err := w.store.View(context.Background(), func(tx *store.Tx) (err error) {
		c, err = tx.Certificate(name)
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// await waits until a certificate is as it should be.
func (w *world) await(name, what string, is func(*trysail.Certificate) bool) *trysail.Certificate {
	w.Helper()
	deadline := time.Now().Add(patience)
	for {
		c := w.certificate(name)
		if is(c) {
			return c
		}
		if time.Now().After(deadline) {
			w.Fatalf("certificate %s: not %s after %s: %+v", name, what, patience, describe(c))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (w *world) issued(name string) *trysail.Certificate {
	w.Helper()
	return w.await(name, "issued", func(c *trysail.Certificate) bool { return c.Status(time.Now()) == trysail.CertificateIssued })
}

// problem waits until the first domain has a problem with this code.
func (w *world) problem(name string, code trysail.DiagnosisCode) *trysail.Finding {
	w.Helper()
	c := w.await(name, string(code), func(c *trysail.Certificate) bool {
		return c.Domains[0].Problem != nil && c.Domains[0].Problem.Code == code
	})
	return c.Domains[0].Problem
}

func describe(c *trysail.Certificate) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", c.Name, c.Status(time.Now()))
	for _, d := range c.Domains {
		fmt.Fprintf(&b, "; %s leaf %+v problem %+v tries %d next %s", d.Domain, d.Leaf, d.Problem, d.Tries, d.NextTry)
	}
	return b.String()
}

// dial makes a TLS connection under a name and returns the certificate that is shown, which must be valid for roots.
func (w *world) dial(name string, roots *x509.CertPool) (*tls.ConnectionState, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", w.secure.Addr().String(), &tls.Config{ServerName: name, RootCAs: roots})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	state := conn.ConnectionState()
	return &state, nil
}

func newServer(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}
