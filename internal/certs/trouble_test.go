package certs_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/certs"
	"github.com/trysail/trysail/internal/store"
	"github.com/trysail/trysail/test/acme"
)

// TestManager_Renews has certificates that live for some seconds, and looks that there is a valid one at every moment.
func TestManager_Renews(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := newAuthority(t, w, acme.Options{Life: 6 * time.Second})
	w.dns.Set(t, "example.com", "A 127.0.0.1")
	w.start(with(a))
	w.request("cert", "example.com")
	first := w.issued("cert").Domains[0].Leaf
	w.await("cert", "renewed twice", func(c *trysail.Certificate) bool {
		if _, err := w.dial("example.com", a.Roots); err != nil {
			t.Errorf("while it is renewed: %v", err)
		}
		return c.Domains[0].Leaf.NotBefore.Sub(first.NotBefore) > 7*time.Second
	})
}

// TestManager_ReplacesWhatTheAuthorityTakesBack revokes a certificate as its owner could; the authority says then that it
// should have been renewed already.
func TestManager_ReplacesWhatTheAuthorityTakesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := newAuthority(t, w, acme.Options{})
	w.dns.Set(t, "example.com", "A 127.0.0.1")
	w.start(func(c *certs.Config) {
		with(a)(c)
		c.Unit = 10 * time.Millisecond // so the authority is asked every few seconds
	})
	w.request("cert", "example.com")
	first := w.issued("cert").Domains[0].Leaf
	w.revoke(a, "example.com")
	w.await("cert", "replaced", func(c *trysail.Certificate) bool { return c.Domains[0].Leaf.Serial != first.Serial })
	if a.Orders() != 2 {
		t.Errorf("%d orders", a.Orders())
	}
}

// revoke takes back the certificate of a name with its own key (RFC 8555 §7.6).
func (w *world) revoke(a *acme.Authority, name string) {
	w.Helper()
	data, err := os.ReadFile(filepath.Join(w.dir, "certs", "names", name+".pem"))
	if err != nil {
		w.Fatal(err)
	}
	block, rest := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		w.Fatal(err)
	}
	leaf, _ := pem.Decode(rest)
	if err := certs.RevokeForTest(w.Context(), a.Client(), a.Directory, key.(*ecdsa.PrivateKey), leaf.Bytes); err != nil {
		w.Fatal(err)
	}
}

func TestManager_AsksTheNextAuthority(t *testing.T) {
	t.Parallel()
	problem := func(status int, kind, detail string) func(http.ResponseWriter, *http.Request, http.Handler) {
		return func(rw http.ResponseWriter, r *http.Request, pass http.Handler) {
			if !strings.HasSuffix(r.URL.Path, "/order-plz") {
				pass.ServeHTTP(rw, r)
				return
			}
			rw.Header().Set("Content-Type", "application/problem+json")
			rw.Header().Set("Replay-Nonce", "x")
			rw.Header().Set("Retry-After", "3600")
			rw.WriteHeader(status)
			fmt.Fprintf(rw, `{"type": "urn:ietf:params:acme:error:%s", "detail": %q}`, kind, detail)
		}
	}
	for name, door := range map[string]func(http.ResponseWriter, *http.Request, http.Handler){
		"limited":  problem(429, "rateLimited", "too many certificates already issued"),
		"broken":   problem(500, "serverInternal", "oops"),
		"busy":     problem(503, "serverInternal", "Service busy"),
		"rejected": problem(400, "rejectedIdentifier", "policy"),
		"garbage":  func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) { fmt.Fprint(rw, "<html>captive portal") },
		"dropping": func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) },
		"lying":    wrongCertificate(t),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			bad, good := newAuthority(t, w, acme.Options{}), newAuthority(t, w, acme.Options{})
			bad.Spoil(door)
			w.dns.Set(t, "example.com", "A 127.0.0.1")
			w.start(with(bad, good))
			w.request("cert", "example.com")
			if l := w.issued("cert").Domains[0].Leaf; l.Authority != good.Directory {
				t.Errorf("issued by %s", l.Authority)
			}
		})
	}
}

// wrongCertificate answers the last question of an order with a certificate for another key.
func wrongCertificate(t *testing.T) func(http.ResponseWriter, *http.Request, http.Handler) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"example.com"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return func(rw http.ResponseWriter, r *http.Request, pass http.Handler) {
		if strings.Contains(r.URL.Path, "/certZ/") {
			rw.Header().Set("Content-Type", "application/pem-certificate-chain")
			_ = pem.Encode(rw, &pem.Block{Type: "CERTIFICATE", Bytes: der})
			return
		}
		pass.ServeHTTP(rw, r)
	}
}

// TestManager_WaitsAsLongAsTheAuthorityWants counts what reaches an authority that said how long to wait.
func TestManager_WaitsAsLongAsTheAuthorityWants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := newAuthority(t, w, acme.Options{})
	a.Spoil(func(rw http.ResponseWriter, r *http.Request, pass http.Handler) {
		if strings.HasSuffix(r.URL.Path, "/order-plz") {
			rw.Header().Set("Content-Type", "application/problem+json")
			rw.Header().Set("Replay-Nonce", "x")
			rw.Header().Set("Retry-After", "7200")
			rw.WriteHeader(429)
			fmt.Fprint(rw, `{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many new orders (300) from this account in the last 3h0m0s"}`)
			return
		}
		pass.ServeHTTP(rw, r)
	})
	for _, name := range []string{"a.example.com", "b.example.com"} {
		w.dns.Set(t, name, "A 127.0.0.1")
	}
	w.start(with(a))
	w.request("first", "a.example.com")
	p := w.problem("first", trysail.CodeCertLimit)
	if len(p.Evidence) == 0 || !strings.Contains(p.Evidence[0].Text, "too many new orders") || !strings.Contains(p.Summary, "wants us to wait") {
		t.Errorf("got %+v", p)
	}
	if next := w.certificate("first").Domains[0].NextTry; time.Until(next) < 90*time.Minute {
		t.Errorf("the next try is at %s", next)
	}
	// That limit is for all names, so others wait without asking.
	w.request("second", "b.example.com")
	w.problem("second", trysail.CodeCertLimit)
	if a.Orders() != 1 {
		t.Errorf("%d orders", a.Orders())
	}
}

// TestManager_ServesOnWhileTheAuthorityIsAway has a certificate that should be renewed, and an authority that is down.
func TestManager_ServesOnWhileTheAuthorityIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := newAuthority(t, w, acme.Options{Life: 20 * time.Second})
	w.dns.Set(t, "example.com", "A 127.0.0.1")
	w.start(with(a))
	w.request("cert", "example.com")
	first := w.issued("cert").Domains[0].Leaf
	a.Spoil(func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) })
	w.makeDue("example.com")
	p := w.problem("cert", trysail.CodeCertCA)
	if !strings.HasSuffix(p.Summary, "does not answer as it should.") || len(p.Evidence) == 0 {
		t.Errorf("got %+v", p)
	}
	if state, err := w.dial("example.com", a.Roots); err != nil || state.PeerCertificates[0].NotAfter.Unix() != first.NotAfter.Unix() {
		t.Errorf("while the authority is away: %v", err)
	}
	if c := w.certificate("cert"); c.Status(time.Now()) != trysail.CertificateIssued {
		t.Errorf("it is %s", c.Status(time.Now()))
	}
	a.Spoil(nil)
	w.await("cert", "renewed", func(c *trysail.Certificate) bool {
		return c.Domains[0].Leaf.Serial != first.Serial && c.Domains[0].Problem == nil
	})
}

// makeDue restarts the Manager with a certificate whose renewal is due.
func (w *world) makeDue(domain string) {
	w.Helper()
	w.mu.Lock()
	m := w.manager
	w.mu.Unlock()
	w.halt()
	err := w.store.Update(w.Context(), func(tx *store.Tx) error {
		d, err := tx.Domain(domain)
		if err != nil {
			return err
		}
		d.RenewAt = tx.Now().Add(-time.Second)
		return tx.UpdateDomain(&d)
	})
	if err != nil {
		w.Fatal(err)
	}
	w.start(func(c *certs.Config) { *c = certs.ConfigForTest(m) })
}

func TestManager_SurvivesARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := newAuthority(t, w, acme.Options{})
	w.dns.Set(t, "example.com", "A 127.0.0.1")
	w.start(with(a))
	w.request("cert", "example.com")
	first := w.issued("cert").Domains[0].Leaf
	w.halt()
	// Even without a word in the store, as after a crash between the file and the store.
	err := w.store.Update(t.Context(), func(tx *store.Tx) error {
		return tx.UpdateDomain(&trysail.DomainCertificate{Domain: "example.com"})
	})
	if err != nil {
		t.Fatal(err)
	}
	w.start(with(a))
	c := w.issued("cert")
	if c.Domains[0].Leaf.Serial != first.Serial {
		t.Error("it was issued again")
	}
	if _, err := w.dial("example.com", a.Roots); err != nil {
		t.Error(err)
	}
	if a.Orders() != 1 {
		t.Errorf("%d orders", a.Orders())
	}
	err = filepath.Walk(filepath.Join(w.dir, "certs"), func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestManager_BindsAccounts(t *testing.T) {
	t.Parallel()
	const key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	w := newWorld(t)
	a := newAuthority(t, w, acme.Options{EAB: map[string]string{"kid-1": key}})
	w.dns.Set(t, "example.com", "A 127.0.0.1")
	w.start(with(a))
	w.request("cert", "example.com")
	if p := w.problem("cert", trysail.CodeCertAccount); !strings.Contains(p.Fix, "--acme-eab-file") {
		t.Errorf("got %+v", p)
	}
	w.halt()
	w.start(func(c *certs.Config) {
		with(a)(c)
		c.Directories[0].KeyID, c.Directories[0].MACKey = "kid-1", key
	})
	w.issued("cert")
}

func TestManager_SaysWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := newAuthority(t, w, acme.Options{Blocked: "blocked.example.com", Identity: "pebble.example"})
	w.start(with(a))
	elsewhere := netip.MustParseAddr("127.0.0.9")
	for name, tt := range map[string]struct {
		records      []string
		code         trysail.DiagnosisCode
		summary, fix string
	}{
		"elsewhere.example.com": {[]string{"A " + elsewhere.String()}, trysail.CodeCertDNS, "points to 127.0.0.9; this machine is 127.0.0.1.", "Set the DNS record: elsewhere.example.com. A 127.0.0.1"},
		"nowhere.example.com":   {nil, trysail.CodeCertDNS, "does not resolve; this machine is 127.0.0.1.", "Set the DNS record: nowhere.example.com. A 127.0.0.1"},
		"caa.example.com":       {[]string{"A 127.0.0.1", `CAA 0 issue "other.example"`}, trysail.CodeCertCAA, "allows certificates from other.example only.", `CAA 0 issue "pebble.example"`},
		"none.example.com":      {[]string{"A 127.0.0.1", `CAA 0 issue ";"`}, trysail.CodeCertCAA, "allows certificates from nobody only.", `CAA 0 issue "pebble.example"`},
		"blocked.example.com":   {[]string{"A 127.0.0.1"}, trysail.CodeCertRefused, "does not issue certificates for blocked.example.com.", "Use another domain"},
	} {
		if tt.records != nil {
			w.dns.Set(t, name, tt.records...)
		}
		w.request(strings.ReplaceAll(name, ".", "-"), name)
		p := w.problem(strings.ReplaceAll(name, ".", "-"), tt.code)
		if !strings.Contains(p.Summary, tt.summary) || !strings.Contains(p.Fix, tt.fix) {
			t.Errorf("%s: %q, %q", name, p.Summary, p.Fix)
		}
	}
	blocked := w.await("blocked-example-com", "failed", func(c *trysail.Certificate) bool { return c.Status(time.Now()) == trysail.CertificateFailed })
	if blocked.Domains[0].Seen == nil || blocked.Domains[0].Seen.PointsTo[0] != here {
		t.Errorf("seen: %+v", blocked.Domains[0].Seen)
	}
	if a.Orders() != 1 {
		t.Errorf("%d orders: names that cannot be validated must not bother the authority", a.Orders())
	}
	// CAA of a parent counts, the closest one first; who looks finds out when it is right.
	w.dns.Set(t, "caa.example.com", "A 127.0.0.1", `CAA 0 issue "pebble.example"`)
	w.issued("caa-example-com")
	w.dns.Set(t, "elsewhere.example.com", "A 127.0.0.1")
	w.issued("elsewhere-example-com")
}

// TestManager_SaysWhichPortIsClosed has a name that leads here, and an authority that finds the ports closed.
func TestManager_SaysWhichPortIsClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	closed := closedPort(t)
	a := acme.NewAuthority(t, acme.Options{HTTPPort: closed, TLSPort: closed, Resolver: w.dns.Addr})
	w.dns.Set(t, "example.com", "A 127.0.0.1")
	w.start(func(c *certs.Config) {
		with(a)(c)
		c.HTTPPort = closed
	})
	w.request("cert", "example.com")
	p := w.problem("cert", trysail.CodeCertPort)
	if p.Summary != "Port 80 of 127.0.0.1 is closed to the outside (it refuses connections); the certificate authority must reach it." || p.Fix != "Open port 80 in the firewall, or use a DNS challenge." {
		t.Errorf("got %+v", p)
	}
}

// closedPort is a port that is bound, so that nobody else gets it, and refuses connections.
func closedPort(t *testing.T) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	addr, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return addr.(*syscall.SockaddrInet4).Port
}

func TestManager_SignsLocallyWithoutAnAuthority(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(func(*certs.Config) {})
	w.request("cert", "shop.localhost", "shop.example.com")
	c := w.issued("cert")
	roots := x509.NewCertPool()
	text, err := os.ReadFile(w.ca.RootFile())
	if err != nil {
		t.Fatal(err)
	}
	if !roots.AppendCertsFromPEM(text) || bytes.Count(text, []byte("BEGIN CERTIFICATE")) != 2 {
		t.Fatalf("the roots are %s", text)
	}
	for _, d := range c.Domains {
		if d.Leaf.Authority != "local" {
			t.Errorf("%+v", d.Leaf)
		}
		if _, err := w.dial(d.Domain, roots); err != nil {
			t.Error(err)
		}
	}
	// With an authority it is asked for what it can vouch for.
	a := newAuthority(t, w, acme.Options{})
	w.dns.Set(t, "shop.example.com", "A 127.0.0.1")
	w.halt()
	w.start(with(a))
	w.await("cert", "issued by the authority", func(c *trysail.Certificate) bool {
		return c.Domains[1].Leaf.Authority == a.Directory && c.Domains[0].Leaf.Authority == "local"
	})
}

func TestManager_ForgetsWhatIsNotWanted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(func(*certs.Config) {})
	c := w.request("cert", "shop.localhost")
	w.issued("cert")
	err := w.store.Update(t.Context(), func(tx *store.Tx) error { return tx.DeleteCertificate(c.ID) })
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for {
		if _, err := w.dial("shop.localhost", nil); err != nil && strings.Contains(err.Error(), "unrecognized name") {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("it is still served: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestLook_MakesTheTurnComeAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := newAuthority(t, w, acme.Options{})
	m := w.start(func(c *certs.Config) {
		with(a)(c)
		c.Unit = time.Hour
	})
	w.request("cert", "example.com")
	w.problem("cert", trysail.CodeCertDNS)
	d := w.certificate("cert").Domains[0]
	if _, p := m.Look(t.Context(), d); p == nil || p.Code != trysail.CodeCertDNS {
		t.Errorf("got %+v", p)
	}
	w.dns.Set(t, "example.com", "A 127.0.0.1")
	if seen, p := m.Look(t.Context(), d); p != nil || seen.Port80 != trysail.ReachOK {
		t.Errorf("got %+v, %+v", seen, p)
	}
	w.issued("cert")
}

// TestZones_SpeakTheAPIs has the providers' APIs played by a server of ours, in the form that their documentation shows.
func TestZones_SpeakTheAPIs(t *testing.T) {
	t.Parallel()
	for provider, want := range map[string]string{
		"cloudflare": "POST /zones/z1/dns_records _x.validations.apps.example.net \"v1\"; DELETE /zones/z1/dns_records/r1; ",
		"hetzner":    "POST /zones/example.net/rrsets/_x.validations.apps/TXT/actions/add_records \"v1\"; POST /zones/example.net/rrsets/_x.validations.apps/TXT/actions/remove_records \"v1\"; ",
	} {
		t.Run(provider, func(t *testing.T) {
			t.Parallel()
			var did strings.Builder
			var unauthorised atomic.Int32
			s := newAPI(t, &did, &unauthorised)
			z, err := certs.OpenZone(provider, acme.Zone, map[string]string{"token": "t0ken", "endpoint": s})
			if err != nil {
				t.Fatal(err)
			}
			if err := z.SetTXT(t.Context(), "_x.validations."+acme.Zone, "v1"); err != nil {
				t.Fatal(err)
			}
			if err := z.DeleteTXT(t.Context(), "_x.validations."+acme.Zone, "v1"); err != nil {
				t.Fatal(err)
			}
			if did.String() != want {
				t.Errorf("it did  %s\nwant    %s", did.String(), want)
			}
			z, err = certs.OpenZone(provider, acme.Zone, map[string]string{"token": "wr0ng", "endpoint": s})
			if err != nil {
				t.Fatal(err)
			}
			if err := z.SetTXT(t.Context(), "_x."+acme.Zone, "v"); err == nil || strings.Contains(err.Error(), "wr0ng") || !strings.Contains(err.Error(), "403") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func newAPI(t *testing.T, did *strings.Builder, unauthorised *atomic.Int32) string {
	t.Helper()
	mux := http.NewServeMux()
	reply := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
	}
	note := func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Name, Content string
			Records       []struct{ Value string }
		}
		body, _ := io.ReadAll(r.Body)
		if len(body) > 0 {
			if err := json.Unmarshal(body, &in); err != nil {
				t.Error(err)
			}
		}
		words := []string{r.Method, r.URL.Path, in.Name, in.Content}
		for _, rec := range in.Records {
			words = append(words, rec.Value)
		}
		fmt.Fprint(did, strings.Join(strings.Fields(strings.Join(words, " ")), " ")+"; ")
	}
	mux.HandleFunc("GET /zones", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("name") == "example.net" {
			fmt.Fprint(w, `{"result":[{"id":"z1","name":"example.net"}]}`)
			return
		}
		fmt.Fprint(w, `{"result":[]}`)
	})
	mux.HandleFunc("GET /zones/z1/dns_records", reply(`{"result":[{"id":"r0","content":"\"other\""},{"id":"r1","content":"\"v1\""}]}`))
	mux.HandleFunc("POST /zones/z1/dns_records", note)
	mux.HandleFunc("DELETE /zones/z1/dns_records/{id}", note)
	mux.HandleFunc("GET /zones/example.net", reply(`{"zone":{"id":1}}`))
	mux.HandleFunc("POST /zones/example.net/rrsets/", note)
	server := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer t0ken" {
			unauthorised.Add(1)
			w.WriteHeader(http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	return server.URL
}

func TestReadSettings_RefusesWhatOthersCanRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "dns")
	if err := os.WriteFile(path, []byte("# a comment\n\ntoken = \"s3cret\"\nserver=192.0.2.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := certs.ReadSettings(path)
	if err != nil || got["token"] != "s3cret" || got["server"] != "192.0.2.1" || len(got) != 2 {
		t.Errorf("got %v, %v", got, err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := certs.ReadSettings(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(path, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := certs.ReadSettings(path); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v", err)
	}
}

func TestOpenZone_Refuses(t *testing.T) {
	t.Parallel()
	for want, tt := range map[string]struct {
		provider string
		settings map[string]string
	}{
		`DNS provider "x" is unknown`:         {"x", nil},
		`lack "token"`:                        {"cloudflare", nil},
		`has no setting "tokne"`:              {"hetzner", map[string]string{"token": "t", "tokne": "t"}},
		`needs "key-name" and "key" together`: {"rfc2136", map[string]string{"server": "192.0.2.1", "key": "k"}},
		`key algorithm "md5" is unknown`:      {"rfc2136", map[string]string{"server": "192.0.2.1", "key": "k", "key-name": "n", "key-algorithm": "md5"}},
	} {
		if _, err := certs.OpenZone(tt.provider, acme.Zone, tt.settings); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
