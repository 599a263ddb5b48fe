package certs

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
	"pgregory.net/rapid"

	"github.com/trysail/trysail"
)

// TestPlan_IsSound looks at random states: nothing is tried before its time, what is due is not left lying, and a wait has an
// end unless the authority refused for good.
func TestPlan_IsSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_800_000_000, 0)
		at := func(name string) time.Time {
			if rapid.Bool().Draw(t, name+" unset") {
				return time.Time{}
			}
			return now.Add(time.Duration(rapid.IntRange(-100, 100).Draw(t, name)) * time.Hour)
		}
		d := &trysail.DomainCertificate{NextTry: at("next try"), RenewAt: at("renew"), Refused: rapid.Bool().Draw(t, "refused")}
		if rapid.Bool().Draw(t, "leaf") {
			d.Leaf = &trysail.Leaf{NotAfter: at("not after"), RevokedAt: at("revoked")}
		}
		askAt := at("ask")
		s, when := plan(d, askAt, now)
		valid := d.Valid(now)
		switch {
		case s == stepIssue && now.Before(d.NextTry):
			t.Fatal("tried too early")
		case s == stepIssue && valid && now.Before(d.RenewAt):
			t.Fatal("renewed too early")
		case s == stepAsk && !valid:
			t.Fatal("asked about a certificate that is of no use")
		case s == stepWait && when.IsZero() != (d.Refused && d.Leaf == nil):
			t.Fatalf("waits until %v", when)
		case s == stepWait && !when.IsZero() && !when.After(now):
			t.Fatal("waits for what is due")
		}
	})
}

func TestPause_KeepsTheAuthoritysLimit(t *testing.T) {
	var sum time.Duration
	tries := 1
	for n := 1; ; n++ {
		if sum += pause(n, time.Minute); sum >= time.Hour {
			break
		}
		tries++
	}
	if tries > 5 {
		t.Errorf("%d tries in an hour", tries)
	}
	if d := pause(1000, time.Minute); d < 5*time.Hour || d > 7*time.Hour {
		t.Errorf("after very many tries: %v", d)
	}
	for n := range 100 {
		if d := lookPause(n, time.Minute); d < lookSoon*9/10 || d > lookLate*11/10 {
			t.Errorf("look %d: %v", n, d)
		}
	}
}

func TestRetryAfter_ReadsSecondsAndDates(t *testing.T) {
	now := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "120": 2 * time.Minute, "-5": 0, "x": 0, "99999999": maxPause,
		"Sat, 21 Nov 2026 10:05:00 GMT": 5 * time.Minute, "Sat, 21 Nov 2026 09:00:00 GMT": 0,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

// maker signs certificates for tests.
type maker struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	ocsp string
}

func newMaker(t *testing.T) *maker {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &maker{cert: cert, key: key}
}

func (m *maker) save(t *testing.T, f files, name string, serial int64) {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.save(t.Context(), name, key, m.sign(t, name, serial, &key.PublicKey)); err != nil {
		t.Fatal(err)
	}
}

func (m *maker) sign(t *testing.T, name string, serial int64, pub crypto.PublicKey) []byte {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	if m.ocsp != "" {
		template.OCSPServer = []string{m.ocsp}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, m.cert, pub, m.key)
	if err != nil {
		t.Fatal(err)
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.cert.Raw})...)
}

func serialIn(t *testing.T, tab *table, host string) int64 {
	t.Helper()
	cert, err := tab.certificate(host)
	if err != nil {
		t.Fatal(err)
	}
	if cert == nil {
		return 0
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf.SerialNumber.Int64()
}

func TestTable_FindsExactNamesAndWildcards(t *testing.T) {
	f, err := openFiles(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	m := newMaker(t)
	tab := newTable(f, 2)
	for i, name := range []string{"example.com", "*.example.com", "a.example.com", "b.example.com"} {
		m.save(t, f, name, int64(i+1))
		tab.put(name)
	}
	for range 3 { // more names than may be loaded
		for host, want := range map[string]int64{
			"example.com": 1, "x.example.com": 2, "a.example.com": 3, "b.example.com": 4, "x.y.example.com": 0, "com": 0, "": 0, "*.example.com": 2,
		} {
			if got := serialIn(t, tab, host); got != want {
				t.Errorf("%q: got %d, want %d", host, got, want)
			}
		}
		if n := tab.recent.Len(); n > 2 {
			t.Errorf("%d are loaded", n)
		}
	}
	m.save(t, f, "a.example.com", 9)
	tab.put("a.example.com")
	if got := serialIn(t, tab, "a.example.com"); got != 9 {
		t.Errorf("after it was replaced: %d", got)
	}
	tab.remove("a.example.com")
	if got := serialIn(t, tab, "a.example.com"); got != 2 {
		t.Errorf("after it was removed the wildcard covers it, but got %d", got)
	}
	tab.put("gone.example.com")
	if _, err := tab.certificate("gone.example.com"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
}

// TestTable_IsReplacedUnderLoad replaces a certificate again and again while handshakes ask for it: who asks after a
// replacement never gets an older one.
func TestTable_IsReplacedUnderLoad(t *testing.T) {
	f, err := openFiles(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	m := newMaker(t)
	tab := newTable(f, 1)
	for _, name := range []string{"a.example.com", "b.example.com"} {
		m.save(t, f, name, 1)
		tab.put(name)
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					for _, host := range []string{"a.example.com", "b.example.com"} {
						if _, err := tab.certificate(host); err != nil {
							t.Error(err)
							return
						}
					}
				}
			}
		})
	}
	for i := int64(2); i < 30; i++ {
		m.save(t, f, "a.example.com", i)
		tab.put("a.example.com")
		if got := serialIn(t, tab, "a.example.com"); got != i {
			t.Errorf("got %d after %d was put", got, i)
		}
	}
	close(stop)
	group.Wait()
}

func TestStapler_AddsAnswers(t *testing.T) {
	f, err := openFiles(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	m := newMaker(t)
	status := ocsp.Good
	responder := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		q, err := ocsp.ParseRequest(body)
		if err != nil {
			t.Error(err)
			return
		}
		answer, err := ocsp.CreateResponse(m.cert, m.cert, ocsp.Response{Status: status, SerialNumber: q.SerialNumber, ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour), RevokedAt: time.Unix(1_700_000_000, 0)}, m.key)
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(answer)
	}))
	defer responder.Close()
	m.ocsp = responder.URL
	m.save(t, f, "example.com", 7)
	tab := newTable(f, 0)
	tab.put("example.com")
	s := newStapler(tab, f, slog.New(slog.DiscardHandler))
	var told string
	s.revoked = func(_ context.Context, name string, _ *x509.Certificate, at time.Time) {
		told = fmt.Sprint(name, at.Unix())
	}
	before, err := tab.certificate("example.com")
	if err != nil || before.OCSPStaple != nil || len(tab.unstapled()) != 1 {
		t.Fatalf("got %+v, %v", before, err)
	}
	if again := s.refresh(t.Context(), "example.com"); time.Until(again) < 20*time.Minute || time.Until(again) > time.Hour {
		t.Errorf("again at %v", again)
	}
	after, err := tab.certificate("example.com")
	if err != nil || after.OCSPStaple == nil || before.OCSPStaple != nil || len(tab.unstapled()) != 0 {
		t.Errorf("got %+v, %v", after, err)
	}
	// It is still there when the certificate had to be loaded again.
	tab.mu.Lock()
	tab.unload(tab.sites["example.com"])
	tab.mu.Unlock()
	if again, err := tab.certificate("example.com"); err != nil || again.OCSPStaple == nil {
		t.Errorf("got %v, %v", again, err)
	}
	status = ocsp.Revoked
	if again := s.refresh(t.Context(), "example.com"); !again.IsZero() || told != "example.com1700000000" {
		t.Errorf("again %v, told %q", again, told)
	}
}

func TestManager_RefusesUnknownChallenges(t *testing.T) {
	c := newChallenges("own-token")
	for path, want := range map[string]bool{challengePath + "own-token": true, challengePath + "x": false, challengePath: false, "/": false, "/own-token": false} {
		if _, ok := c.answer("example.com", path); ok != want {
			t.Errorf("%s: %v", path, ok)
		}
	}
	m := &Manager{challenges: c}
	if _, err := m.Certificate(&tls.ClientHelloInfo{ServerName: "example.com", SupportedProtos: []string{challengeProtocol}}); err == nil {
		t.Error("a challenge that nobody asked for is answered")
	}
}
