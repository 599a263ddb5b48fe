package acme

import (
	"crypto/x509"
	"errors"
	"io"
	"log" //nolint:depguard // Pebble wants one
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
)

// Authority is a Pebble with a door in front of it, by which a test can spoil what it says.
type Authority struct {
	*httptest.Server
	Directory string
	Root      *x509.Certificate // that vouches for its certificates
	Roots     *x509.CertPool    // the same

	mu     sync.Mutex
	door   func(w http.ResponseWriter, r *http.Request, pass http.Handler) // nil: open
	orders int
}

// Options say what an Authority is like.
type Options struct {
	HTTPPort, TLSPort int               // where it validates names
	Resolver          string            // that it asks, host:port
	Life              time.Duration     // of certificates; zero: 90 days
	EAB               map[string]string // MAC keys by id; if there are some, accounts must be bound
	Blocked           string            // a domain that it does not issue for
	Identity          string            // in CAA records; pebble.example if empty
}

// Hurry sets Pebble by the environment, which is all that it takes: no artificial waiting, no nonces that are wrong by intent,
// no authorisation that counts twice. It belongs into TestMain.
func Hurry() error {
	return errors.Join(os.Setenv("PEBBLE_VA_NOSLEEP", "1"), os.Setenv("PEBBLE_WFE_NONCEREJECT", "0"), os.Setenv("PEBBLE_AUTHZREUSE", "0"))
}

// NewAuthority starts one that ends with the test. Hurry has to be called before.
func NewAuthority(t *testing.T, o Options) *Authority {
	t.Helper()
	logger := log.New(io.Discard, "", 0)
	mem := db.NewMemoryStore()
	for id, key := range o.EAB {
		if err := mem.AddExternalAccountKeyByID(id, key); err != nil {
			t.Fatal(err)
		}
	}
	if o.Blocked != "" {
		if err := mem.AddBlockedDomain(o.Blocked); err != nil {
			t.Fatal(err)
		}
	}
	life := o.Life
	if life == 0 {
		life = 90 * 24 * time.Hour
	}
	if o.Identity == "" {
		o.Identity = "pebble.example"
	}
	issuer := ca.New(logger, mem, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {ValidityPeriod: uint64(life/time.Second) + 1}})
	validation := va.New(logger, o.HTTPPort, o.TLSPort, false, o.Resolver, mem)
	front := wfe.New(logger, mem, validation, issuer, []string{o.Identity}, false, len(o.EAB) > 0, 0, 0)
	handler := front.Handler()
	a := &Authority{Roots: x509.NewCertPool()}
	a.Root = issuer.GetRootCert(0).Cert
	a.Roots.AddCert(a.Root)
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
	a.Directory = a.URL + "/dir"
	return a
}

// Spoil makes the door do something else; nil opens it.
func (a *Authority) Spoil(door func(http.ResponseWriter, *http.Request, http.Handler)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.door = door
}

// Orders counts the orders that were asked for.
func (a *Authority) Orders() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.orders
}
