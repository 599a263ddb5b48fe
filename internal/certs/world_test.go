package certs_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/certs"
	"github.com/trysail/trysail/internal/edge"
	"github.com/trysail/trysail/internal/store"
)

const (
	tsigName   = "trysail-test."
	tsigSecret = "c2VjcmV0IG9mIHRoZSB0ZXN0cyBvZiB0cnlzYWls"
	zoneName   = "apps.example.net"
	// patience is how long things may take on a machine that does a lot else.
	patience = time.Minute
)

var here = netip.MustParseAddr("127.0.0.1")

// nameServer is a DNS server with records of the test's, which takes dynamic updates for zoneName.
type nameServer struct {
	addr string

	mu      sync.Mutex
	records map[string][]dns.RR // by lower-case name with dot
	asked   map[string]int      // by name and type
	updates int
	broken  bool
}

func newNameServer(t *testing.T) *nameServer {
	t.Helper()
	s := &nameServer{records: map[string][]dns.RR{}, asked: map[string]int{}}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = pc.LocalAddr().String()
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	accept := func(h dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }
	for _, srv := range []*dns.Server{{PacketConn: pc}, {Listener: l}} {
		srv.Handler, srv.TsigSecret, srv.MsgAcceptFunc = s, map[string]string{tsigName: tsigSecret}, accept
		started, done := make(chan struct{}), make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(done)
			if err := srv.ActivateAndServe(); err != nil {
				t.Errorf("name server: %v", err)
			}
		}()
		<-started
		t.Cleanup(func() {
			if err := srv.Shutdown(); err != nil {
				t.Error(err)
			}
			<-done
		})
	}
	return s
}

func (s *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(q)
	switch {
	case s.broken:
		m.Rcode = dns.RcodeServerFailure
	case q.Opcode == dns.OpcodeUpdate:
		s.update(w, q, m)
	default:
		s.answer(q.Question[0], m)
	}
	_ = w.WriteMsg(m)
}

func (s *nameServer) answer(q dns.Question, m *dns.Msg) {
	name := strings.ToLower(q.Name)
	s.asked[name+" "+dns.TypeToString[q.Qtype]]++
	for range 8 {
		set, known := s.records[name]
		if !known {
			m.Rcode = dns.RcodeNameError
			return
		}
		next := ""
		for _, rr := range set {
			if rr.Header().Rrtype == q.Qtype {
				m.Answer = append(m.Answer, rr)
			} else if c, ok := rr.(*dns.CNAME); ok {
				m.Answer = append(m.Answer, rr)
				next = strings.ToLower(c.Target)
			}
		}
		if next == "" || q.Qtype == dns.TypeCNAME {
			return
		}
		name = next
	}
}

// update carries out a dynamic update, if it is signed and within the zone.
func (s *nameServer) update(w dns.ResponseWriter, q, m *dns.Msg) {
	if q.IsTsig() == nil || w.TsigStatus() != nil || q.Question[0].Name != zoneName+"." {
		m.Rcode = dns.RcodeNotAuth
		return
	}
	m.SetTsig(tsigName, dns.HmacSHA256, 300, time.Now().Unix())
	s.updates++
	for _, rr := range q.Ns {
		name := strings.ToLower(rr.Header().Name)
		if rr.Header().Class == dns.ClassINET {
			s.records[name] = append(s.records[name], rr)
			continue
		}
		gone := dns.Copy(rr)
		gone.Header().Class = dns.ClassINET
		s.records[name] = slices.DeleteFunc(s.records[name], func(have dns.RR) bool { return dns.IsDuplicate(have, gone) })
		if len(s.records[name]) == 0 {
			delete(s.records, name)
		}
	}
}

// set replaces the records of a name, written as in a zone file.
func (s *nameServer) set(t *testing.T, name string, records ...string) {
	t.Helper()
	var list []dns.RR
	for _, r := range records {
		rr, err := dns.NewRR(name + ". 60 IN " + r)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, rr)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[name+"."] = list
}

func (s *nameServer) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, name+".")
}

// authority is a Pebble with a door in front of it, by which a test can spoil what it says.
type authority struct {
	*httptest.Server
	url   string
	roots *x509.CertPool // that vouch for its certificates

	mu     sync.Mutex
	door   func(w http.ResponseWriter, r *http.Request, pass http.Handler) // nil: open
	orders int
}

type pebbleOptions struct {
	life     time.Duration // of certificates; zero: 90 days
	ocsp     string
	eab      map[string]string
	blocked  string
	identity string // in CAA records
}

func newAuthority(t *testing.T, w *world, o pebbleOptions) *authority {
	t.Helper()
	// Pebble is set by the environment: no artificial waiting, no nonces that are wrong by intent, no authorisation twice.
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "0")
	t.Setenv("PEBBLE_AUTHZREUSE", "0")
	logger := log.New(io.Discard, "", 0)
	mem := db.NewMemoryStore()
	for id, key := range o.eab {
		if err := mem.AddExternalAccountKeyByID(id, key); err != nil {
			t.Fatal(err)
		}
	}
	if o.blocked != "" {
		if err := mem.AddBlockedDomain(o.blocked); err != nil {
			t.Fatal(err)
		}
	}
	life := o.life
	if life == 0 {
		life = 90 * 24 * time.Hour
	}
	if o.identity == "" {
		o.identity = "pebble.example"
	}
	issuer := ca.New(logger, mem, o.ocsp, "ecdsa", 0, 1, map[string]ca.Profile{"default": {ValidityPeriod: uint64(life/time.Second) + 1}})
	validation := va.New(logger, w.httpPort(), w.tlsPort(), false, w.dns.addr, mem)
	front := wfe.New(logger, mem, validation, issuer, []string{o.identity}, false, len(o.eab) > 0, 0, 0)
	handler := front.Handler()
	a := &authority{roots: x509.NewCertPool()}
	a.roots.AddCert(issuer.GetRootCert(0).Cert)
	a.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		door := a.door
		if strings.HasSuffix(r.URL.Path, "/order-plz") {
			a.orders++
		}
		a.mu.Unlock()
		if door != nil {
			door(w, r, handler)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(a.Close)
	a.url = a.URL + "/dir"
	return a
}

// spoil makes the door do something else; nil opens it.
func (a *authority) spoil(door func(http.ResponseWriter, *http.Request, http.Handler)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.door = door
}

func (a *authority) ordered() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.orders
}

// world is everything around a Manager: store, DNS, the ports of an edge.
type world struct {
	*testing.T
	dir   string
	store *store.Store
	dns   *nameServer
	ca    *edge.CA

	plain, secure net.Listener

	mu      sync.Mutex
	manager *certs.Manager // that the ports ask
	stop    func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, dir: t.TempDir(), dns: newNameServer(t)}
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
		Resolvers: []string{w.dns.addr}, Addresses: func() []netip.Addr { return []netip.Addr{here} }, HTTPPort: w.httpPort(),
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
func with(list ...*authority) func(*certs.Config) {
	return func(c *certs.Config) {
		c.Roots = x509.NewCertPool()
		for _, a := range list {
			c.Directories = append(c.Directories, certs.Directory{URL: a.url})
			c.Roots.AddCert(a.Certificate())
		}
	}
}

// zoned gives a Manager a zone that it can write to.
func (w *world) zoned(c *certs.Config) {
	w.Helper()
	zone, err := certs.OpenZone("rfc2136", zoneName, map[string]string{"server": w.dns.addr, "key-name": "trysail-test", "key": tsigSecret})
	if err != nil {
		w.Fatal(err)
	}
	c.Zone, c.Domain, c.ValidationZone, c.Region = zone, zoneName, "validations."+zoneName, "us-east-1"
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
