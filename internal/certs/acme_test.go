package certs_test

import (
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/certs"
	"github.com/trysail/trysail/test/acme"
)

func TestManager_IssuesByAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := newAuthority(t, w, acme.Options{})
	for _, name := range []string{"example.com", "www.example.com"} {
		w.dns.Set(t, name, "A 127.0.0.1")
	}
	w.start(with(a))
	w.request("cert", "example.com", "www.example.com")
	c := w.issued("cert")
	for _, d := range c.Domains {
		if d.Leaf.Challenge != "http-01" && d.Leaf.Challenge != "tls-alpn-01" || d.Leaf.Authority != a.Directory || d.Problem != nil {
			t.Errorf("%s: %+v", d.Domain, d)
		}
		if left, life := d.Leaf.NotAfter.Sub(d.RenewAt), d.Leaf.NotAfter.Sub(d.Leaf.NotBefore); left != life/3 {
			t.Errorf("%s is renewed %v before its end, of %v", d.Domain, left, life)
		}
		state, err := w.dial(d.Domain, a.Roots)
		if err != nil {
			t.Fatal(err)
		}
		if names := state.PeerCertificates[0].DNSNames; len(names) != 1 || names[0] != d.Domain {
			t.Errorf("%s shows a certificate for %v", d.Domain, names)
		}
	}
	if _, err := w.dial("other.example.com", a.Roots); err == nil {
		t.Error("a name that nobody asked for has a certificate")
	}
}

// TestManager_SolvesEachChallenge has an authority that reaches one port only.
func TestManager_SolvesEachChallenge(t *testing.T) {
	t.Parallel()
	for challenge, limit := range map[string]func(*acme.Options, int){
		"http-01":     func(o *acme.Options, closed int) { o.TLSPort = closed },
		"tls-alpn-01": func(o *acme.Options, closed int) { o.HTTPPort = closed },
	} {
		t.Run(challenge, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			o := acme.Options{HTTPPort: w.httpPort(), TLSPort: w.tlsPort(), Resolver: w.dns.Addr}
			limit(&o, closedPort(t))
			a := acme.NewAuthority(t, o)
			w.dns.Set(t, "example.com", "A 127.0.0.1")
			w.start(with(a))
			w.request("cert", "example.com")
			if l := w.issued("cert").Domains[0].Leaf; l.Challenge != challenge {
				t.Errorf("validated by %s", l.Challenge)
			}
		})
	}
}

func TestManager_IssuesByValidationRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := newAuthority(t, w, acme.Options{})
	w.start(func(c *certs.Config) {
		with(a)(c)
		w.zoned(c)
	})
	cert := w.request("cert", "shop.example.com")
	// It leads nowhere yet, and says what to do.
	p := w.problem("cert", trysail.CodeCertDNS)
	record := cert.Domains[0].ValidationRecord("validations." + acme.Zone)
	want := "Set the DNS record: shop.example.com. A 127.0.0.1 Or validate by DNS: _acme-challenge.shop.example.com. CNAME _" + cert.Domains[0].Token + ".validations.apps.example.net."
	if p.Summary != "`shop.example.com` does not resolve; this machine is 127.0.0.1." && p.Summary != "shop.example.com does not resolve; this machine is 127.0.0.1." || p.Fix != want {
		t.Errorf("got %q, %q", p.Summary, p.Fix)
	}
	w.dns.Set(t, record.Name[:len(record.Name)-1], record.Type+" "+record.Value)
	c := w.issued("cert")
	if l := c.Domains[0].Leaf; l.Challenge != "dns-01" {
		t.Errorf("got %+v", l)
	}
	if _, err := w.dial("shop.example.com", a.Roots); err != nil {
		t.Error(err)
	}
	if w.dns.Has(record.Value) {
		t.Error("the record of the challenge was not removed")
	}
}

func TestManager_HasWildcardsForItsOwnDomain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := newAuthority(t, w, acme.Options{})
	w.start(func(c *certs.Config) {
		with(a)(c)
		w.zoned(c)
		c.HostLabel = "label"
	})
	deadline := time.Now().Add(patience)
	for _, name := range []string{"api." + acme.Zone, acme.Zone, "web.label.us-east-1.cs." + acme.Zone} {
		for {
			if _, err := w.dial(name, a.Roots); err == nil {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("%s: %v", name, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	if _, err := w.dial("a.b."+acme.Zone, a.Roots); err == nil {
		t.Error("a wildcard covers more than one label")
	}
}
