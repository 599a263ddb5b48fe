package trysail

import (
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// CertificateStatus is the state of a certificate as clients see it.
type CertificateStatus string

// The states of a certificate. The word is the wire value.
const (
	CertificatePending  CertificateStatus = "PENDING_VALIDATION"
	CertificateIssued   CertificateStatus = "ISSUED"
	CertificateInactive CertificateStatus = "INACTIVE" // of AWS; none is so here, but clients may filter by it
	CertificateExpired  CertificateStatus = "EXPIRED"
	CertificateTimedOut CertificateStatus = "VALIDATION_TIMED_OUT"
	CertificateRevoked  CertificateStatus = "REVOKED"
	CertificateFailed   CertificateStatus = "FAILED"
)

// CertificateStatuses lists all states of a certificate.
func CertificateStatuses() []CertificateStatus {
	return []CertificateStatus{
		CertificatePending, CertificateIssued, CertificateInactive, CertificateExpired, CertificateTimedOut, CertificateRevoked, CertificateFailed,
	}
}

// ValidationWindow is how long a certificate may wait for its first validation, as on AWS.
const ValidationWindow = 72 * time.Hour

// NoCertificate is the name in publicDomainNames of domains that are served without a certificate of their own, because
// a content delivery network stands in front of them.
const NoCertificate = "_"

// Certificate is what CreateCertificate made: a name for up to ten domains that are to be had over TLS. Each domain has
// an X.509 certificate of its own, so that one that cannot be validated holds up none of the others.
type Certificate struct {
	ID        string // UUID
	Name      string
	CreatedAt time.Time
	// IssuedAt is when all domains had their certificate for the first time; zero until then.
	IssuedAt time.Time
	Domains  []DomainCertificate // the first is the main one; there is at least one
	Tags     []Tag               // ordered by key
	UsedBy   []string            // names of services, ordered
}

// ARN is the Amazon Resource Name that clients see.
func (c *Certificate) ARN(region, account string) string {
	return "arn:aws:lightsail:" + region + ":" + account + ":Certificate/" + c.ID
}

// DomainName is the main domain.
func (c *Certificate) DomainName() string { return c.Domains[0].Domain }

// Covers reports whether the certificate is for the domain.
func (c *Certificate) Covers(domain string) bool {
	return slices.ContainsFunc(c.Domains, func(d DomainCertificate) bool { return d.Domain == domain })
}

// Status is the state at a time: it follows from what became of the domains.
func (c *Certificate) Status(now time.Time) CertificateStatus {
	has := func(is func(*DomainCertificate) bool) bool {
		return slices.ContainsFunc(c.Domains, func(d DomainCertificate) bool { return is(&d) })
	}
	switch {
	case !c.IssuedAt.IsZero():
		switch {
		case has(func(d *DomainCertificate) bool { return d.Leaf != nil && !d.Leaf.RevokedAt.IsZero() }):
			return CertificateRevoked
		case has(func(d *DomainCertificate) bool { return !d.Valid(now) }):
			return CertificateExpired
		}
		return CertificateIssued
	case has(func(d *DomainCertificate) bool { return d.Refused }):
		return CertificateFailed
	case now.Sub(c.CreatedAt) >= ValidationWindow:
		return CertificateTimedOut
	}
	return CertificatePending
}

// Wanted reports whether certificates shall be had, and renewed, for its domains.
func (c *Certificate) Wanted(now time.Time) bool {
	s := c.Status(now)
	return s != CertificateFailed && s != CertificateTimedOut
}

// DomainCertificate is what is known of the X.509 certificate of one domain. All but the first two fields is stored as
// JSON: fields are added, never renamed.
type DomainCertificate struct {
	Domain string `json:"-"` // lower case; *.example.com for the labels below example.com
	// Token makes the record that proves control of the domain; it stays the same as long as the installation does.
	Token string `json:"-"`

	Leaf *Leaf `json:"leaf,omitempty"` // what is served; nil if there is none
	// RenewAt is when the next one shall be had; zero until the first is there.
	RenewAt time.Time `json:"renewAt,omitzero"`
	// Problem is why there is no (new) certificate, in the words of the diagnosis, nil while nothing is wrong. Seen is
	// what our own lookups have found.
	Problem *Finding `json:"problem,omitempty"`
	Seen    *Domain  `json:"seen,omitempty"`
	// Tries counts those in a row that failed; NextTry is when the next one is due.
	Tries   int       `json:"tries,omitempty"`
	NextTry time.Time `json:"nextTry,omitzero"`
	// Refused says that the authority will never issue for this domain.
	Refused   bool      `json:"refused,omitempty"`
	UpdatedAt time.Time `json:"updatedAt,omitzero"`
}

// Valid reports whether the domain has a certificate that clients accept.
func (d *DomainCertificate) Valid(now time.Time) bool {
	return d.Leaf != nil && d.Leaf.RevokedAt.IsZero() && now.Before(d.Leaf.NotAfter)
}

// Leaf is an X.509 certificate in a few words.
type Leaf struct {
	Issuer       string    `json:"issuer"`    // organisation or name of the authority
	Authority    string    `json:"authority"` // the ACME directory's URL, or "local"
	Serial       string    `json:"serial"`    // hexadecimal, as clients show it
	KeyAlgorithm string    `json:"keyAlgorithm"`
	NotBefore    time.Time `json:"notBefore"`
	NotAfter     time.Time `json:"notAfter"`
	IssuedAt     time.Time `json:"issuedAt"`
	RevokedAt    time.Time `json:"revokedAt,omitzero"`
	// Challenge is how the domain was validated: http-01, tls-alpn-01, dns-01, or local.
	Challenge string `json:"challenge,omitempty"`
}

// DNSRecord is a record that somebody has to set, with names in full: they end with a dot.
type DNSRecord struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Value string `json:"value"`
}

func (r DNSRecord) String() string { return r.Name + " " + r.Type + " " + r.Value }

// ValidationRecord is the record that proves control of a domain and lets its certificate be renewed for as long as the
// record stands. It hands the question of ACME's DNS-01 challenge over to zone, where this installation answers.
func (d *DomainCertificate) ValidationRecord(zone string) DNSRecord {
	return DNSRecord{Name: "_acme-challenge." + strings.TrimPrefix(d.Domain, "*.") + ".", Type: "CNAME", Value: d.ValidationTarget(zone) + "."}
}

// ValidationTarget is the name in zone that the validation record points to, without a dot at its end.
func (d *DomainCertificate) ValidationTarget(zone string) string { return "_" + d.Token + "." + zone }

// DomainKind says what a domain is for.
type DomainKind string

// The kinds of a domain.
const (
	DomainOwn     DomainKind = "own"     // of this installation: API, registry, console
	DomainDefault DomainKind = "default" // the URL that every service has
	DomainCustom  DomainKind = "custom"  // of a certificate or of publicDomainNames
)

// DomainView is a domain with all that is known about it.
type DomainView struct {
	DomainCertificate
	Kind         DomainKind
	Service      string   // that it leads to; may be empty
	Certificates []string // by name; none for the domains that are not of a certificate
	// Addresses are the records that lead clients here; Validation the one that proves control, zero if none is needed.
	Addresses  []DNSRecord
	Validation DNSRecord
}

// AddressRecords are the records that make name lead to the addresses.
func AddressRecords(name string, addresses []netip.Addr) []DNSRecord {
	var list []DNSRecord
	for _, a := range addresses {
		kind := "A"
		if a = a.Unmap(); a.Is6() {
			kind = "AAAA"
		}
		list = append(list, DNSRecord{Name: name + ".", Type: kind, Value: a.String()})
	}
	return list
}

// ValidateCertificateName checks the name of a certificate: 2 to 255 characters of Lightsail's pattern of resource names.
func ValidateCertificateName(name string) error {
	word := func(c byte) bool { return isLowerAlnum(c) || 'A' <= c && c <= 'Z' || c == '_' }
	ok := len(name) >= 2 && word(name[0]) && word(name[len(name)-1])
	for i := 0; ok && i < len(name); i++ {
		ok = word(name[i]) || name[i] == '-'
	}
	if !ok {
		return invalid(`Certificate name %s does not match pattern: ^\w[\w\-]*\w$`, quote(name))
	}
	if len(name) > MaxCertificateName {
		return invalid("Certificate name %s is %d characters long. It can have 2 to %d.", quote(name), len(name), MaxCertificateName)
	}
	return nil
}

// ValidateCertificateDomains checks the domains of a certificate, which are in lower case: no more than ten, none twice,
// each a plain name.
func ValidateCertificateDomains(domains []string) error {
	if n := len(domains) - 1; n > MaxAlternativeNames {
		return invalid("%d subject alternative names are too many. A certificate can have up to %d.", n, MaxAlternativeNames)
	}
	for i, d := range domains {
		if err := ValidateDomain(d); err != nil {
			return err
		}
		if slices.Contains(domains[:i], d) {
			return invalid("Domain %s is given twice.", quote(d))
		}
	}
	return nil
}

// ValidateDomain checks a domain that a certificate can be for: a name in ASCII with a dot in it, not an address, not a
// wildcard. The name must be in lower case.
func ValidateDomain(domain string) error {
	if strings.HasPrefix(domain, "*.") {
		return invalid("Domain %s is a wildcard. Wildcards are not supported: name each domain.", quote(domain))
	}
	if _, err := netip.ParseAddr(strings.Trim(domain, "[]")); err == nil {
		return invalid("Domain %s is an IP address. A certificate is for names such as www.example.com.", quote(domain))
	}
	if strings.ContainsFunc(domain, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return invalid("Domain %s is not in ASCII. Write internationalised names in Punycode, such as xn--bcher-kva.example.", quote(domain))
	}
	if strings.HasSuffix(domain, ".") || !isDomainName(domain) || !isTopLevel(domain[strings.LastIndexByte(domain, '.')+1:]) {
		return invalid("Domain %s is not valid. It must be a name such as www.example.com.", quote(domain))
	}
	return nil
}

// isTopLevel reports whether a label can be that of a top-level domain: those are not numbers.
func isTopLevel(label string) bool { return strings.Trim(label, "0123456789") != "" }

// IsPrivateDomain reports whether no public authority can vouch for the name, because it is reserved for use inside of
// a network (RFC 2606, 6761, 6762, 8375, and ICANN's .internal).
func IsPrivateDomain(name string) bool {
	for _, suffix := range [...]string{"localhost", "local", "internal", "test", "example", "invalid", "lan", "home", "corp", "intranet", "home.arpa"} {
		if name == suffix || strings.HasSuffix(name, "."+suffix) {
			return true
		}
	}
	return !strings.Contains(name, ".")
}

// The codes of what can be wrong with the certificate of a domain. The first three come from our own look at the domain,
// the others from the authority.
const (
	CodeCertDNS     DiagnosisCode = "CERT-DNS"     // the domain does not lead to this machine
	CodeCertCAA     DiagnosisCode = "CERT-CAA"     // its owner allows other authorities only
	CodeCertPort    DiagnosisCode = "CERT-80"      // port 80 cannot be reached
	CodeCertZone    DiagnosisCode = "CERT-ZONE"    // our own records cannot be written
	CodeCertCA      DiagnosisCode = "CERT-CA"      // the authority does not answer, or not as it should
	CodeCertLimit   DiagnosisCode = "CERT-LIMIT"   // the authority wants us to wait
	CodeCertRefused DiagnosisCode = "CERT-REFUSED" // the authority never issues for this domain
	CodeCertAccount DiagnosisCode = "CERT-ACCOUNT" // the authority does not accept our account
)
