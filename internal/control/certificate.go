package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

const (
	// certificatesPerPage is how many certificates one answer has.
	certificatesPerPage = 100
	// requestYear is the time over which requests for certificates are counted.
	requestYear = 365 * 24 * time.Hour
)

// CreateCertificateInput is the request of CreateCertificate.
type CreateCertificateInput struct {
	Name         string
	Domain       string
	Alternatives []string
	Tags         []trysail.Tag
}

// GetCertificatesInput is the request of GetCertificates.
type GetCertificatesInput struct {
	Name      string   // empty: all
	Statuses  []string // none: any
	Details   bool
	PageToken string
}

// CertificatePage is the answer of GetCertificates.
type CertificatePage struct {
	Certificates  []trysail.Certificate
	Details       bool
	NextPageToken string // empty when there is no more
}

// CertificateOperation is the answer of CreateCertificate and DeleteCertificate.
type CertificateOperation struct {
	Certificate *trysail.Certificate // nil after DeleteCertificate
	Operations  []trysail.Operation
}

// CreateCertificate asks for a certificate. It is issued later, when its domains have been validated.
// Errors: Invalid (validation, name in use, quota).
func (c *Control) CreateCertificate(ctx context.Context, caller trysail.Caller, in CreateCertificateInput) (_ *CertificateOperation, err error) {
	defer c.auditFailure(ctx, caller, "CreateCertificate", in.Name, &err)
	if err := caller.May(trysail.RoleAdmin, "CreateCertificate", ""); err != nil {
		return nil, err
	}
	domains, err := c.certificateDomains(in)
	if err := firstError(trysail.ValidateCertificateName(in.Name), err, trysail.ValidateTags(in.Tags)); err != nil {
		return nil, err
	}
	cert := &trysail.Certificate{
		ID: newUUID(), Name: in.Name,
		Tags: slices.SortedFunc(slices.Values(in.Tags), func(a, b trysail.Tag) int { return cmp.Compare(a.Key, b.Key) }),
	}
	for _, d := range domains {
		cert.Domains = append(cert.Domains, trysail.DomainCertificate{Domain: d, Token: newToken()})
	}
	o, err := c.change(ctx, caller, "CreateCertificate", in.Name, func(tx *store.Tx) error {
		if err := c.certificateAllowed(tx, in.Name); err != nil {
			return err
		}
		cert.CreatedAt = tx.Now()
		return tx.InsertCertificate(cert)
	})
	if err != nil {
		return nil, err
	}
	return &CertificateOperation{Certificate: cert, Operations: []trysail.Operation{o}}, nil
}

// certificateDomains lists the domains that a request names, each once and in lower case.
func (c *Control) certificateDomains(in CreateCertificateInput) ([]string, error) {
	var list []string
	for i, d := range append([]string{in.Domain}, in.Alternatives...) {
		d = strings.ToLower(d)
		if i > 0 && d == list[0] {
			continue // clients repeat the main name, as AWS shows it in its answers
		}
		if err := firstError(c.plainName(d), c.refuseReserved(d)); err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, trysail.ValidateCertificateDomains(list)
}

// plainName refuses what is no name in ASCII, with the form in which it would be one.
func (c *Control) plainName(d string) error {
	if !strings.ContainsFunc(d, func(r rune) bool { return r >= utf8.RuneSelf }) {
		if _, err := idna.Lookup.ToUnicode(d); err != nil && strings.Contains(d, "xn--") && trysail.ValidateDomain(d) == nil {
			return trysail.Errorf(trysail.CodeInvalid, "Domain %q is not valid Punycode.", d)
		}
		return nil
	}
	ascii, err := idna.Lookup.ToASCII(d)
	if err != nil || trysail.ValidateDomain(ascii) != nil {
		return trysail.ValidateDomain(d)
	}
	return trysail.Errorf(trysail.CodeInvalid, "Domain %q is not in ASCII. Write it in Punycode: %s", d, ascii)
}

// refuseReserved refuses the names that Trysail itself answers under: whoever had one could pose as the API.
func (c *Control) refuseReserved(d string) error {
	if slices.Contains(c.OwnHosts, d) {
		return trysail.Errorf(trysail.CodeInvalid, "Domain %q is that of this Trysail itself.", d)
	}
	if c.Domain == "" {
		return nil
	}
	for _, zone := range []string{"cs." + c.Domain, "validations." + c.Domain} {
		if d == zone || strings.HasSuffix(d, "."+zone) {
			return trysail.Errorf(trysail.CodeInvalid, "Domain %q is reserved for the default domains of this Trysail.", d)
		}
	}
	return nil
}

// certificateAllowed refuses a name that is taken, and one certificate too many.
func (c *Control) certificateAllowed(tx *store.Tx, name string) error {
	if err := nameUnused(tx, name); err != nil {
		return err
	}
	all, err := tx.Certificates()
	if err != nil {
		return err
	}
	active := 0
	for i := range all {
		if s := all[i].Status(tx.Now()); s == trysail.CertificatePending || s == trysail.CertificateIssued {
			active++
		}
	}
	if active >= c.MaxCertificates {
		return tooManyCertificates("allows %d at a time (--max-certificates)", c.MaxCertificates)
	}
	n, err := tx.CertificateRequests(tx.Now().Add(-requestYear))
	if err == nil && n >= c.MaxCertificateRequests {
		return tooManyCertificates("allows %d requests in 365 days (--max-certificate-requests)", c.MaxCertificateRequests)
	}
	return err
}

func tooManyCertificates(format string, n int) error {
	return trysail.Errorf(trysail.CodeInvalid, "Sorry, you've requested too many certificates for your account. This Trysail "+format+".", n)
}

// nameUnused refuses a name that a service or a certificate has: resources share one space of names.
func nameUnused(tx *store.Tx, name string) error {
	_, serviceErr := tx.Service(name)
	_, certificateErr := tx.Certificate(name)
	for _, err := range []error{serviceErr, certificateErr} {
		switch {
		case err == nil:
			return trysail.Errorf(trysail.CodeInvalid, "Some names are already in use: %s", name)
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
	}
	return nil
}

// certificate finds a certificate by name. Errors: NotFound.
func certificate(tx *store.Tx, name string) (*trysail.Certificate, error) {
	cert, err := tx.Certificate(name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, trysail.Errorf(trysail.CodeNotFound, "Certificate %q not found.", name)
	}
	return cert, err
}

// GetCertificates lists certificates, oldest first. Errors: Invalid (status, token), NotFound.
func (c *Control) GetCertificates(ctx context.Context, caller trysail.Caller, in GetCertificatesInput) (*CertificatePage, error) {
	if err := caller.May(trysail.RoleRead, "GetCertificates", ""); err != nil {
		return nil, err
	}
	for _, s := range in.Statuses {
		if known := trysail.CertificateStatuses(); !slices.Contains(known, trysail.CertificateStatus(s)) {
			return nil, trysail.Errorf(trysail.CodeInvalid, "Certificate status %q is not valid. It must be one of: %s.", s, joinWords(known))
		}
	}
	page := &CertificatePage{Details: in.Details}
	err := c.Store.View(ctx, func(tx *store.Tx) error {
		var all []trysail.Certificate
		var err error
		if in.Name != "" {
			cert, err := certificate(tx, in.Name)
			if err != nil {
				return err
			}
			all = append(all, *cert)
		} else if all, err = tx.Certificates(); err != nil {
			return err
		}
		if len(in.Statuses) > 0 {
			all = slices.DeleteFunc(all, func(cert trysail.Certificate) bool {
				return !slices.Contains(in.Statuses, string(cert.Status(tx.Now())))
			})
		}
		return page.cut(all, in.PageToken)
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

// cut takes the page that begins after the certificate that the token names. The token is an id, so that a page begins in
// the right place even when certificates come and go in between.
func (p *CertificatePage) cut(all []trysail.Certificate, token string) error {
	if token != "" {
		i := slices.IndexFunc(all, func(c trysail.Certificate) bool { return c.ID == token })
		if i < 0 {
			return trysail.Errorf(trysail.CodeInvalid, "Invalid page token. Use the token of the page before, with the other arguments unchanged.")
		}
		all = all[i+1:]
	}
	if len(all) > certificatesPerPage {
		all = all[:certificatesPerPage]
		p.NextPageToken = all[len(all)-1].ID
	}
	p.Certificates = all
	return nil
}

// DeleteCertificate removes a certificate that no service uses. Errors: Invalid (in use), NotFound.
func (c *Control) DeleteCertificate(ctx context.Context, caller trysail.Caller, name string) (_ *CertificateOperation, err error) {
	defer c.auditFailure(ctx, caller, "DeleteCertificate", name, &err)
	if err := caller.May(trysail.RoleAdmin, "DeleteCertificate", ""); err != nil {
		return nil, err
	}
	o, err := c.change(ctx, caller, "DeleteCertificate", name, func(tx *store.Tx) error {
		cert, err := certificate(tx, name)
		if err != nil {
			return err
		}
		if len(cert.UsedBy) > 0 {
			return trysail.Errorf(trysail.CodeInvalid, "Certificate %q is used by service %q. Detach it from the service before you delete it.", name, cert.UsedBy[0])
		}
		return tx.DeleteCertificate(cert.ID)
	})
	if err != nil {
		return nil, err
	}
	return &CertificateOperation{Operations: []trysail.Operation{o}}, nil
}

// publicDomains is what the service's domains become by a request: certificates that it does not name keep theirs, an
// empty list takes them away. Only what is new is checked, so that a client may send again what is there.
// Errors: Invalid, NotFound (certificate).
func (c *Control) publicDomains(tx *store.Tx, now, change map[string][]string) (map[string][]string, error) {
	after := map[string][]string{}
	maps.Copy(after, now)
	for _, name := range slices.Sorted(maps.Keys(change)) {
		var domains []string
		for _, d := range change[name] {
			domains = append(domains, strings.ToLower(d))
		}
		slices.Sort(domains)
		delete(after, name)
		if len(domains) == 0 {
			continue
		}
		after[name] = domains
		added := slices.DeleteFunc(slices.Clone(domains), func(d string) bool { return slices.Contains(now[name], d) })
		if err := c.attachable(tx, name, added); err != nil {
			return nil, err
		}
	}
	if err := trysail.ValidatePublicDomainNames(after); err != nil {
		return nil, err
	}
	if len(after) == 0 {
		return nil, nil
	}
	return after, nil
}

// attachable refuses domains that the certificate cannot serve.
func (c *Control) attachable(tx *store.Tx, name string, domains []string) error {
	if len(domains) == 0 {
		return nil
	}
	for _, d := range domains {
		if err := c.refuseReserved(d); err != nil {
			return err
		}
	}
	if name == trysail.NoCertificate {
		return nil
	}
	cert, err := certificate(tx, name)
	if err != nil {
		return err
	}
	if s := cert.Status(tx.Now()); s != trysail.CertificateIssued {
		return trysail.Errorf(trysail.CodeInvalid, "Certificate %q is in state %s. It must be ISSUED before it can be attached to a service.", name, s)
	}
	for _, d := range domains {
		if !cert.Covers(d) {
			return trysail.Errorf(trysail.CodeInvalid, "Certificate %q does not cover domain %q. Its domains are: %s.", name, d, domainList(cert))
		}
	}
	return nil
}

// setPublicDomains writes the service's domains. Errors: Invalid (on another service).
func setPublicDomains(tx *store.Tx, s *trysail.Service) error {
	return domainTaken(tx.SetPublicDomains(s.ID, s.PublicDomains))
}

// domainTaken turns the store's error into what a client may see.
func domainTaken(err error) error {
	if taken, ok := errors.AsType[*store.DomainTakenError](err); ok {
		return trysail.Errorf(trysail.CodeInvalid, "Domain %q is already used by service %q. A domain can be used by one service only.", taken.Domain, taken.Service)
	}
	return err
}

func domainList(cert *trysail.Certificate) string {
	var list []string
	for _, d := range cert.Domains {
		list = append(list, d.Domain)
	}
	return strings.Join(list, ", ")
}

func joinWords[T ~string](list []T) string {
	words := make([]string, len(list))
	for i, w := range list {
		words[i] = string(w)
	}
	return strings.Join(words, ", ")
}

// newToken makes 128 random bits as 32 hexadecimal digits.
func newToken() string {
	var b [16]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}
