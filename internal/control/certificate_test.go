package control_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/store"
)

// certificate makes a certificate, and with issued gives all its domains one that is valid.
func (b *bed) certificate(name string, issued bool, domains ...string) *trysail.Certificate {
	b.Helper()
	out, err := b.CreateCertificate(b.Context(), caller, control.CreateCertificateInput{Name: name, Domain: domains[0], Alternatives: domains[1:]})
	if err != nil {
		b.Fatal(err)
	}
	if issued {
		b.update(func(tx *store.Tx) error {
			for _, d := range out.Certificate.Domains {
				d.Leaf = &trysail.Leaf{NotAfter: tx.Now().Add(time.Hour)}
				if err := tx.UpdateDomain(&d); err != nil {
					return err
				}
			}
			return tx.SetCertificateIssued(out.Certificate.ID, tx.Now())
		})
	}
	return out.Certificate
}

func TestCreateCertificate_WaitsForValidation(t *testing.T) {
	b := newBed(t, nil)
	out, err := b.CreateCertificate(t.Context(), caller, control.CreateCertificateInput{
		Name: "My_cert-1", Domain: "Example.com", Alternatives: []string{"example.com", "WWW.example.com"}, Tags: []trysail.Tag{{Key: "b"}, {Key: "a", Value: "1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := out.Certificate
	if len(c.Domains) != 2 || c.DomainName() != "example.com" || !c.Covers("www.example.com") || c.Status(time.Now()) != trysail.CertificatePending || c.Tags[0].Key != "a" {
		t.Errorf("got %+v", c)
	}
	if o := out.Operations[0]; o.ResourceType != "Certificate" || o.ResourceName != "My_cert-1" || o.Type != "CreateCertificate" || o.Status != trysail.OperationSucceeded {
		t.Errorf("operation %+v", o)
	}
	r := c.Domains[1].ValidationRecord("validations.apps.example.net")
	if r.Name != "_acme-challenge.www.example.com." || r.Type != "CNAME" || len(r.Value) != len("_.validations.apps.example.net.")+32 {
		t.Errorf("record %v", r)
	}
	page, err := b.GetCertificates(t.Context(), caller, control.GetCertificatesInput{Name: "My_cert-1", Statuses: []string{"PENDING_VALIDATION"}})
	if err != nil || len(page.Certificates) != 1 {
		t.Fatalf("got %+v, %v", page, err)
	}
	if diff := cmp.Diff(*c, page.Certificates[0]); diff != "" {
		t.Errorf("what was made and what is read (-want +got):\n%s", diff)
	}
	ops, err := b.GetOperationsForResource(t.Context(), caller, "My_cert-1", "")
	if err != nil || len(ops.Operations) != 1 {
		t.Errorf("operations: %+v, %v", ops, err)
	}
}

func TestCreateCertificate_KeepsTheRecordOfADomain(t *testing.T) {
	b := newBed(t, nil)
	first := b.certificate("one", false, "example.com")
	if _, err := b.DeleteCertificate(t.Context(), caller, "one"); err != nil {
		t.Fatal(err)
	}
	if second := b.certificate("two", false, "www.example.com", "example.com"); second.Domains[1].Token != first.Domains[0].Token || second.Domains[0].Token == first.Domains[0].Token {
		t.Errorf("token %q, then %+v", first.Domains[0].Token, second.Domains)
	}
}

func TestCreateCertificate_Refuses(t *testing.T) {
	b := newBed(t, func(c *control.Config) {
		c.Domain, c.ValidationZone, c.OwnHosts = "apps.example.net", "validations.apps.example.net", []string{"api.apps.example.net"}
	})
	b.create("web", trysail.ServiceReady, "")
	b.certificate("taken", false, "example.org")
	for want, in := range map[string]control.CreateCertificateInput{
		`Certificate name "-x" does not match pattern: ^\w[\w\-]*\w$`:                                       {Name: "-x"},
		`Certificate name "x" does not match pattern: ^\w[\w\-]*\w$`:                                        {Name: "x"},
		`Domain "*.example.com" is a wildcard. Wildcards are not supported: name each domain.`:              {Domain: "*.example.com"},
		`Domain "192.0.2.1" is an IP address. A certificate is for names such as www.example.com.`:          {Domain: "192.0.2.1"},
		`Domain "2001:db8::1" is an IP address. A certificate is for names such as www.example.com.`:        {Domain: "2001:db8::1"},
		`Domain "bücher.example" is not in ASCII. Write it in Punycode: xn--bcher-kva.example`:              {Domain: "Bücher.example"},
		`Domain "xn--0.example" is not valid Punycode.`:                                                     {Domain: "xn--0.example"},
		`Domain "localhost" is not valid. It must be a name such as www.example.com.`:                       {Domain: "localhost"},
		`Domain "example.com." is not valid. It must be a name such as www.example.com.`:                    {Domain: "example.com."},
		`Domain "a_b.example.com" is not valid. It must be a name such as www.example.com.`:                 {Domain: "a_b.example.com"},
		`Domain "1.2" is not valid. It must be a name such as www.example.com.`:                             {Domain: "1.2"},
		`Domain "www.example.com" is given twice.`:                                                          {Alternatives: []string{"www.example.com", "WWW.example.com"}},
		`10 subject alternative names are too many. A certificate can have up to 9.`:                        {Alternatives: strings.Fields("a.b b.b c.b d.b e.b f.b g.b h.b i.b j.b")},
		`Tag key "aws:x" is not valid. Keys that begin with "aws:" are reserved.`:                           {Tags: []trysail.Tag{{Key: "aws:x"}}},
		"Some names are already in use: web":                                                                {Name: "web"},
		"Some names are already in use: taken":                                                              {Name: "taken"},
		`Domain "api.apps.example.net" is that of this Trysail itself.`:                                     {Domain: "api.apps.example.net"},
		`Domain "web.x.us-east-1.cs.apps.example.net" is reserved for the default domains of this Trysail.`: {Domain: "web.x.us-east-1.cs.apps.example.net"},
		`Domain "_x.validations.apps.example.net" is reserved for the default domains of this Trysail.`:     {Domain: "_x.validations.apps.example.net"},
	} {
		if in.Name == "" {
			in.Name = "cert"
		}
		if in.Domain == "" {
			in.Domain = "example.com"
		}
		b.refused(trysail.CodeInvalid, want, func() error { _, err := b.CreateCertificate(t.Context(), caller, in); return err })
	}
	b.refused(trysail.CodeInvalid, "Some names are already in use: taken", func() error {
		_, err := b.CreateContainerService(t.Context(), caller, control.CreateContainerServiceInput{ServiceName: "taken", Power: "nano", Scale: 1})
		return err
	})
}

func TestCreateCertificate_Quotas(t *testing.T) {
	b := newBed(t, func(c *control.Config) { c.MaxCertificates, c.MaxCertificateRequests = 2, 3 })
	request := func(name string) error {
		_, err := b.CreateCertificate(t.Context(), caller, control.CreateCertificateInput{Name: name, Domain: "example.com"})
		return err
	}
	const sorry = "Sorry, you've requested too many certificates for your account. This Trysail allows "
	if err := errors.Join(request("c1"), request("c2")); err != nil {
		t.Fatal(err)
	}
	b.refused(trysail.CodeInvalid, sorry+"2 at a time (--max-certificates).", func() error { return request("c3") })
	for _, name := range []string{"c1", "c2"} {
		if _, err := b.DeleteCertificate(t.Context(), caller, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := request("c4"); err != nil {
		t.Fatal(err)
	}
	b.refused(trysail.CodeInvalid, sorry+"3 requests in 365 days (--max-certificate-requests).", func() error { return request("c5") })
}

func TestCertificate_StatusFollowsFromItsDomains(t *testing.T) {
	now := time.Now()
	valid := &trysail.Leaf{NotAfter: now.Add(time.Hour)}
	for want, c := range map[trysail.CertificateStatus]trysail.Certificate{
		trysail.CertificatePending:  {CreatedAt: now.Add(-71 * time.Hour), Domains: []trysail.DomainCertificate{{Leaf: valid}, {}}},
		trysail.CertificateTimedOut: {CreatedAt: now.Add(-72 * time.Hour), Domains: []trysail.DomainCertificate{{Leaf: valid}, {}}},
		trysail.CertificateFailed:   {CreatedAt: now, Domains: []trysail.DomainCertificate{{Leaf: valid}, {Refused: true}}},
		trysail.CertificateIssued:   {CreatedAt: now.Add(-1000 * time.Hour), IssuedAt: now, Domains: []trysail.DomainCertificate{{Leaf: valid}, {Leaf: valid, Refused: true}}},
		trysail.CertificateExpired:  {IssuedAt: now, Domains: []trysail.DomainCertificate{{Leaf: valid}, {Leaf: &trysail.Leaf{NotAfter: now}}}},
		trysail.CertificateRevoked:  {IssuedAt: now, Domains: []trysail.DomainCertificate{{Leaf: valid}, {Leaf: &trysail.Leaf{NotAfter: now.Add(time.Hour), RevokedAt: now}}}},
	} {
		if got := c.Status(now); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestGetCertificates_Pages(t *testing.T) {
	b := newBed(t, func(c *control.Config) { c.MaxCertificates, c.MaxCertificateRequests = 1000, 1000 })
	for i := range 101 {
		b.certificate(fmt.Sprintf("cert-%03d", i), false, fmt.Sprintf("d%d.example.com", i))
	}
	first, err := b.GetCertificates(t.Context(), caller, control.GetCertificatesInput{})
	if err != nil || len(first.Certificates) != 100 || first.NextPageToken == "" {
		t.Fatalf("got %d certificates, token %q, %v", len(first.Certificates), first.NextPageToken, err)
	}
	second, err := b.GetCertificates(t.Context(), caller, control.GetCertificatesInput{PageToken: first.NextPageToken})
	if err != nil || len(second.Certificates) != 1 || second.Certificates[0].Name != "cert-100" || second.NextPageToken != "" {
		t.Errorf("got %+v, %v", second, err)
	}
	b.refused(trysail.CodeInvalid, "Invalid page token. Use the token of the page before, with the other arguments unchanged.", func() error {
		_, err := b.GetCertificates(t.Context(), caller, control.GetCertificatesInput{PageToken: "x"})
		return err
	})
	b.refused(trysail.CodeInvalid, `Certificate status "GONE" is not valid. It must be one of: PENDING_VALIDATION, ISSUED, INACTIVE, EXPIRED, VALIDATION_TIMED_OUT, REVOKED, FAILED.`, func() error {
		_, err := b.GetCertificates(t.Context(), caller, control.GetCertificatesInput{Statuses: []string{"GONE"}})
		return err
	})
	b.refused(trysail.CodeNotFound, `Certificate "x" not found.`, func() error {
		_, err := b.GetCertificates(t.Context(), caller, control.GetCertificatesInput{Name: "x"})
		return err
	})
}

// attach updates the domains of a service.
func (b *bed) attach(service string, names map[string][]string) (*trysail.Service, error) {
	s, err := b.UpdateContainerService(b.Context(), caller, control.UpdateContainerServiceInput{ServiceName: service, PublicDomainNames: names})
	if err == nil && s.State == trysail.ServiceUpdating {
		b.update(func(tx *store.Tx) error { // what reconcile would do
			s, err := tx.Service(service)
			if err != nil {
				return err
			}
			s.State, s.Detail = trysail.ServiceRunning, trysail.StateDetail{}
			return tx.UpdateService(s)
		})
	}
	return s, err
}

func TestUpdateContainerService_AttachesDomains(t *testing.T) {
	b := newBed(t, nil)
	b.create("web", trysail.ServiceRunning, trysail.DeploymentActive)
	b.certificate("one", true, "example.com", "www.example.com")
	b.certificate("two", true, "shop.example.com")
	s, err := b.attach("web", map[string][]string{"one": {"WWW.example.com", "example.com"}, "_": {"d1.cloudfront.example.net"}})
	if err != nil {
		t.Fatal(err)
	}
	if s.State != trysail.ServiceUpdating || s.Detail.Code != trysail.DetailProvisioningCertificate {
		t.Errorf("state %s, detail %+v", s.State, s.Detail)
	}
	want := map[string][]string{"one": {"example.com", "www.example.com"}, "_": {"d1.cloudfront.example.net"}}
	if diff := cmp.Diff(want, b.service().PublicDomains); diff != "" {
		t.Errorf("domains (-want +got):\n%s", diff)
	}

	// Sending the same again changes nothing, even when the certificate has expired meanwhile.
	b.update(func(tx *store.Tx) error {
		d, err := tx.Domain("example.com")
		if err != nil {
			return err
		}
		d.Leaf.NotAfter = tx.Now()
		return tx.UpdateDomain(&d)
	})
	if s, err = b.attach("web", want); err != nil || s.State != trysail.ServiceRunning {
		t.Errorf("again: %+v, %v", s, err)
	}

	// What is not named stays, an empty list takes away.
	if _, err = b.attach("web", map[string][]string{"two": {"shop.example.com"}, "_": {}, "unknown": {}}); err != nil {
		t.Fatal(err)
	}
	want = map[string][]string{"one": {"example.com", "www.example.com"}, "two": {"shop.example.com"}}
	if diff := cmp.Diff(want, b.service().PublicDomains); diff != "" {
		t.Errorf("domains (-want +got):\n%s", diff)
	}
	page, err := b.GetCertificates(t.Context(), caller, control.GetCertificatesInput{Name: "two"})
	if err != nil || !cmp.Equal(page.Certificates[0].UsedBy, []string{"web"}) {
		t.Errorf("got %+v, %v", page, err)
	}
	b.refused(trysail.CodeInvalid, `Certificate "two" is used by service "web". Detach it from the service before you delete it.`, func() error {
		_, err := b.DeleteCertificate(t.Context(), caller, "two")
		return err
	})
	if _, err = b.attach("web", map[string][]string{"one": {}, "two": nil}); err != nil || b.service().PublicDomains != nil {
		t.Errorf("got %v, %v", b.service().PublicDomains, err)
	}
	if _, err := b.DeleteCertificate(t.Context(), caller, "two"); err != nil {
		t.Error(err)
	}
}

func TestPublicDomainNames_Refuses(t *testing.T) {
	b := newBed(t, nil)
	b.create("web", trysail.ServiceRunning, trysail.DeploymentActive)
	b.create("other", trysail.ServiceRunning, trysail.DeploymentActive)
	b.certificate("one", true, "a.example.com", "b.example.com", "c.example.com", "d.example.com", "e.example.com")
	b.certificate("pending", false, "p.example.com")
	if _, err := b.attach("other", map[string][]string{"one": {"b.example.com"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.attach("web", map[string][]string{"one": {"a.example.com"}}); err != nil {
		t.Fatal(err)
	}
	for want, names := range map[string]map[string][]string{
		`Domain "b.example.com" is already used by service "other". A domain can be used by one service only.`:                                                   {"one": {"a.example.com", "b.example.com"}},
		`Certificate "one" does not cover domain "www.example.com". Its domains are: a.example.com, b.example.com, c.example.com, d.example.com, e.example.com.`: {"one": {"www.example.com"}},
		`Certificate "pending" is in state PENDING_VALIDATION. It must be ISSUED before it can be attached to a service.`:                                        {"pending": {"p.example.com"}},
		`5 public domain names are too many. A service can have up to 4.`:                                                                                        {"one": {"c.example.com", "d.example.com", "e.example.com"}, "_": {"x.example.com", "y.example.com"}},
		`Domain "*.example.com" is a wildcard. Wildcards are not supported: name each domain.`:                                                                   {"one": {"*.example.com"}},
		`Public domain name "a.example.com" is given twice.`:                                                                                                     {"_": {"a.example.com"}},
	} {
		b.refused(trysail.CodeInvalid, want, func() error { _, err := b.attach("web", names); return err })
	}
	for _, call := range []func(context.Context) error{
		func(ctx context.Context) error {
			_, err := b.attach("web", map[string][]string{"none": {"n.example.com"}})
			return err
		},
		func(ctx context.Context) error {
			_, err := b.CreateContainerService(ctx, caller, control.CreateContainerServiceInput{ServiceName: "new", Power: "nano", Scale: 1, PublicDomainNames: map[string][]string{"none": {"n.example.com"}}})
			return err
		},
	} {
		b.refused(trysail.CodeNotFound, `Certificate "none" not found.`, func() error { return call(t.Context()) })
	}
	b.refused(trysail.CodeInvalid, `Domain "a.example.com" is already used by service "web". A domain can be used by one service only.`, func() error {
		_, err := b.CreateContainerService(t.Context(), caller, control.CreateContainerServiceInput{ServiceName: "new", Power: "nano", Scale: 1, PublicDomainNames: map[string][]string{"one": {"a.example.com"}}})
		return err
	})
}

func TestTagResource_TagsCertificates(t *testing.T) {
	b := newBed(t, nil)
	cert := b.certificate("My_cert", false, "example.com")
	arn := cert.ARN("us-east-1", "111122223333")
	ops, err := b.TagResource(t.Context(), caller, "My_cert", &arn, []trysail.Tag{{Key: "k", Value: "v"}})
	if err != nil || ops[0].ResourceType != "Certificate" {
		t.Fatalf("got %+v, %v", ops, err)
	}
	page, err := b.GetCertificates(t.Context(), caller, control.GetCertificatesInput{Name: "My_cert"})
	if err != nil || !cmp.Equal(page.Certificates[0].Tags, []trysail.Tag{{Key: "k", Value: "v"}}) {
		t.Errorf("got %+v, %v", page, err)
	}
	if _, err := b.UntagResource(t.Context(), caller, "My_cert", nil, []string{"k"}); err != nil {
		t.Error(err)
	}
}

func TestGetDomains_ListsWhatLeadsWhere(t *testing.T) {
	b := newBed(t, func(c *control.Config) {
		c.Domain, c.ValidationZone, c.OwnHosts = "apps.example.net", "validations.apps.example.net", []string{"api.apps.example.net"}
	})
	b.create("web", trysail.ServiceRunning, trysail.DeploymentActive)
	b.certificate("one", true, "a.example.com", "b.example.com")
	if _, err := b.attach("web", map[string][]string{"one": {"a.example.com"}}); err != nil {
		t.Fatal(err)
	}
	list, err := b.GetDomains(t.Context(), caller, "")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range list {
		got = append(got, fmt.Sprintf("%s %s %s %v %v", d.Kind, strings.Replace(d.Domain, b.service().HostLabel, "LABEL", 1), d.Service, d.Certificates, d.Validation.Name))
	}
	want := []string{
		"own api.apps.example.net  [] ",
		"default web.LABEL.us-east-1.cs.apps.example.net web [] ",
		"custom a.example.com web [one] _acme-challenge.a.example.com.",
		"custom b.example.com  [one] _acme-challenge.b.example.com.",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("domains (-want +got):\n%s", diff)
	}
	if list, err = b.GetDomains(t.Context(), caller, "web"); err != nil || len(list) != 2 {
		t.Errorf("of web: %+v, %v", list, err)
	}
	b.refused(trysail.CodeNotFound, `Service "no" not found.`, func() error { _, err := b.GetDomains(t.Context(), caller, "no"); return err })
}
