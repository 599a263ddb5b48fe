package certs_test

import (
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/certs"
)

func TestManager_IssuesByAddress(t *testing.T) {
	w := newWorld(t)
	a := newAuthority(t, w, pebbleOptions{})
	for _, name := range []string{"example.com", "www.example.com"} {
		w.dns.set(t, name, "A 127.0.0.1")
	}
	w.start(with(a))
	w.request("cert", "example.com", "www.example.com")
	c := w.issued("cert")
	for _, d := range c.Domains {
		if d.Leaf.Challenge != "http-01" && d.Leaf.Challenge != "tls-alpn-01" || d.Leaf.Authority != a.url || d.Problem != nil {
			t.Errorf("%s: %+v", d.Domain, d)
		}
		if left, life := d.Leaf.NotAfter.Sub(d.RenewAt), d.Leaf.NotAfter.Sub(d.Leaf.NotBefore); left != life/3 {
			t.Errorf("%s is renewed %v before its end, of %v", d.Domain, left, life)
		}
		state, err := w.dial(d.Domain, a.roots)
		if err != nil {
			t.Fatal(err)
		}
		if names := state.PeerCertificates[0].DNSNames; len(names) != 1 || names[0] != d.Domain {
			t.Errorf("%s shows a certificate for %v", d.Domain, names)
		}
	}
	if _, err := w.dial("other.example.com", a.roots); err == nil {
		t.Error("a name that nobody asked for has a certificate")
	}
}

func TestManager_IssuesByValidationRecord(t *testing.T) {
	w := newWorld(t)
	a := newAuthority(t, w, pebbleOptions{})
	w.start(func(c *certs.Config) {
		with(a)(c)
		w.zoned(c)
	})
	cert := w.request("cert", "shop.example.com")
	// It leads nowhere yet, and says what to do.
	p := w.problem("cert", trysail.CodeCertDNS)
	record := cert.Domains[0].ValidationRecord("validations." + zoneName)
	want := "Set the DNS record: shop.example.com. A 127.0.0.1 Or validate by DNS: _acme-challenge.shop.example.com. CNAME _" + cert.Domains[0].Token + ".validations.apps.example.net."
	if p.Summary != "`shop.example.com` does not resolve; this machine is 127.0.0.1." && p.Summary != "shop.example.com does not resolve; this machine is 127.0.0.1." || p.Fix != want {
		t.Errorf("got %q, %q", p.Summary, p.Fix)
	}
	w.dns.set(t, record.Name[:len(record.Name)-1], record.Type+" "+record.Value)
	c := w.issued("cert")
	if l := c.Domains[0].Leaf; l.Challenge != "dns-01" {
		t.Errorf("got %+v", l)
	}
	if _, err := w.dial("shop.example.com", a.roots); err != nil {
		t.Error(err)
	}
	w.dns.mu.Lock()
	defer w.dns.mu.Unlock()
	if left := w.dns.records[record.Value]; len(left) > 0 {
		t.Errorf("the record of the challenge was not removed: %v", left)
	}
}

func TestManager_HasWildcardsForItsOwnDomain(t *testing.T) {
	w := newWorld(t)
	a := newAuthority(t, w, pebbleOptions{})
	w.start(func(c *certs.Config) {
		with(a)(c)
		w.zoned(c)
		c.HostLabel = "label"
	})
	deadline := time.Now().Add(patience)
	for _, name := range []string{"api." + zoneName, zoneName, "web.label.us-east-1.cs." + zoneName} {
		for {
			if _, err := w.dial(name, a.roots); err == nil {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("%s: %v", name, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	if _, err := w.dial("a.b."+zoneName, a.roots); err == nil {
		t.Error("a wildcard covers more than one label")
	}
}
