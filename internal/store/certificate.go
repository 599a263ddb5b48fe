package store

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/trysail/trysail"
)

// CertificatesChanged is what subscribers get, in place of the id of a service, when a certificate was made or deleted.
const CertificatesChanged = "certificates"

// InsertCertificate adds a certificate. Domains that are known already keep their token and what is known of them, in
// the store and in c.
func (t *Tx) InsertCertificate(c *trysail.Certificate) error {
	t.touch(CertificatesChanged)
	if err := t.exec("INSERT INTO certificates (id, name, created_at) VALUES ($1, $2, $3)", c.ID, c.Name, unix(c.CreatedAt)); err != nil {
		return fmt.Errorf("inserting certificate: %w", err)
	}
	for i := range c.Domains {
		d := &c.Domains[i]
		if err := t.EnsureDomain(d); err != nil {
			return err
		}
		if err := t.exec("INSERT INTO certificate_domains (certificate_id, position, domain) VALUES ($1, $2, $3)", c.ID, i, d.Domain); err != nil {
			return fmt.Errorf("inserting the domain of a certificate: %w", err)
		}
	}
	return t.SetCertificateTags(c.ID, c.Tags)
}

// SetCertificateTags replaces the certificate's tags.
func (t *Tx) SetCertificateTags(id string, tags []trysail.Tag) error {
	if err := t.exec("DELETE FROM certificate_tags WHERE certificate_id = $1", id); err != nil {
		return err
	}
	for _, tag := range tags {
		if err := t.exec("INSERT INTO certificate_tags (certificate_id, key, value) VALUES ($1, $2, $3)", id, tag.Key, tag.Value); err != nil {
			return fmt.Errorf("inserting tag: %w", err)
		}
	}
	return nil
}

// SetCertificateIssued notes when the certificate was issued. Errors: ErrNotFound.
func (t *Tx) SetCertificateIssued(id string, at time.Time) error {
	return t.execOne("UPDATE certificates SET issued_at = $1 WHERE id = $2", unix(at), id)
}

// DeleteCertificate removes the certificate. What is known of its domains is kept. Errors: ErrNotFound.
func (t *Tx) DeleteCertificate(id string) error {
	t.touch(CertificatesChanged)
	return t.execOne("DELETE FROM certificates WHERE id = $1", id)
}

// Certificate finds a certificate by its name. Errors: ErrNotFound.
func (t *Tx) Certificate(name string) (*trysail.Certificate, error) {
	list, err := t.certificates("c.name = $1", name)
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return &list[0], nil
}

// Certificates lists all certificates by creation time.
func (t *Tx) Certificates() ([]trysail.Certificate, error) { return t.certificates("1 = 1") }

// CertificatesFor lists the certificates that cover a domain.
func (t *Tx) CertificatesFor(domain string) ([]trysail.Certificate, error) {
	return t.certificates("c.id IN (SELECT certificate_id FROM certificate_domains WHERE domain = $1)", domain)
}

// CertificateRequests counts the calls of CreateCertificate that succeeded since a time.
func (t *Tx) CertificateRequests(since time.Time) (n int, err error) {
	return n, t.row("SELECT COUNT(*) FROM audit WHERE operation = 'CreateCertificate' AND outcome = 'success' AND at > $1", unix(since)).Scan(&n)
}

func (t *Tx) certificates(where string, args ...any) ([]trysail.Certificate, error) {
	var list []trysail.Certificate
	at := map[string]int{}
	err := t.query(func(r *sql.Rows) error {
		var c trysail.Certificate
		var created, issued int64
		err := r.Scan(&c.ID, &c.Name, &created, &issued)
		c.CreatedAt, c.IssuedAt = fromUnix(created), fromUnix(issued)
		at[c.ID] = len(list)
		list = append(list, c)
		return err
	}, "SELECT c.id, c.name, c.created_at, c.issued_at FROM certificates c WHERE "+where+" ORDER BY c.created_at, c.name", args...)
	if err != nil {
		return nil, fmt.Errorf("reading certificates: %w", err)
	}
	err = t.query(func(r *sql.Rows) error {
		var id string
		d, err := scanDomain(r, &id)
		c := &list[at[id]]
		c.Domains = append(c.Domains, d)
		return err
	}, "SELECT x.certificate_id, d.domain, d.token, d.state FROM certificate_domains x JOIN domains d ON d.domain = x.domain JOIN certificates c ON c.id = x.certificate_id WHERE "+
		where+" ORDER BY x.position", args...)
	if err != nil {
		return nil, fmt.Errorf("reading the domains of certificates: %w", err)
	}
	err = t.query(func(r *sql.Rows) error {
		var id string
		var tag trysail.Tag
		err := r.Scan(&id, &tag.Key, &tag.Value)
		c := &list[at[id]]
		c.Tags = append(c.Tags, tag)
		return err
	}, "SELECT t.certificate_id, t.key, t.value FROM certificate_tags t JOIN certificates c ON c.id = t.certificate_id WHERE "+where+" ORDER BY t.key", args...)
	if err != nil {
		return nil, fmt.Errorf("reading the tags of certificates: %w", err)
	}
	err = t.query(func(r *sql.Rows) error {
		var id, service string
		err := r.Scan(&id, &service)
		c := &list[at[id]]
		c.UsedBy = append(c.UsedBy, service)
		return err
	}, "SELECT DISTINCT c.id, s.name FROM public_domains p JOIN certificates c ON c.name = p.certificate JOIN services s ON s.id = p.service_id WHERE "+
		where+" ORDER BY s.name", args...)
	if err != nil {
		return nil, fmt.Errorf("reading the use of certificates: %w", err)
	}
	return list, nil
}

// EnsureDomain makes a domain known, and fills d with what is known of it already. d.Token is for one that is new.
func (t *Tx) EnsureDomain(d *trysail.DomainCertificate) error {
	if err := t.exec("INSERT INTO domains (domain, token) VALUES ($1, $2) ON CONFLICT (domain) DO NOTHING", d.Domain, d.Token); err != nil {
		return fmt.Errorf("inserting domain: %w", err)
	}
	known, err := t.Domain(d.Domain)
	if err == nil {
		*d = known
	}
	return err
}

// Domain returns what is known of a domain. Errors: ErrNotFound.
func (t *Tx) Domain(name string) (d trysail.DomainCertificate, err error) {
	err = ErrNotFound
	qerr := t.query(func(r *sql.Rows) error {
		d, err = scanDomain(r)
		return err
	}, "SELECT domain, token, state FROM domains WHERE domain = $1", name)
	if qerr != nil {
		return d, fmt.Errorf("reading domain: %w", qerr)
	}
	return d, err
}

// Domains lists all domains that are known, also those that nobody needs any more.
func (t *Tx) Domains() (list []trysail.DomainCertificate, err error) {
	err = t.query(func(r *sql.Rows) error {
		d, err := scanDomain(r)
		list = append(list, d)
		return err
	}, "SELECT domain, token, state FROM domains ORDER BY domain")
	if err != nil {
		return nil, fmt.Errorf("reading domains: %w", err)
	}
	return list, nil
}

// UpdateDomain writes what is known of a domain. Errors: ErrNotFound.
func (t *Tx) UpdateDomain(d *trysail.DomainCertificate) error {
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return t.execOne("UPDATE domains SET state = $1 WHERE domain = $2", string(text), d.Domain)
}

// scanDomain reads domain, token and state; more columns may stand before them.
func scanDomain(r *sql.Rows, before ...any) (d trysail.DomainCertificate, err error) {
	var name, token, state string
	if err := r.Scan(append(before, &name, &token, &state)...); err != nil {
		return d, err
	}
	if err := json.Unmarshal([]byte(state), &d); err != nil {
		return d, fmt.Errorf("reading the state of %s: %w", name, err)
	}
	d.Domain, d.Token = name, token
	return d, nil
}

// DomainTakenError says which service has a domain already.
type DomainTakenError struct{ Domain, Service string }

func (e *DomainTakenError) Error() string {
	return fmt.Sprintf("domain %s is used by service %s", e.Domain, e.Service)
}

// SetPublicDomains replaces the service's domains, by the name of their certificate. Errors: *DomainTakenError.
func (t *Tx) SetPublicDomains(serviceID string, domains map[string][]string) error {
	t.touch(serviceID)
	t.touch(CertificatesChanged)
	if err := t.exec("DELETE FROM public_domains WHERE service_id = $1", serviceID); err != nil {
		return err
	}
	for certificate, list := range domains {
		for _, domain := range list {
			other, err := t.domainOwner(domain)
			if err != nil {
				return err
			}
			if other != "" {
				return &DomainTakenError{Domain: domain, Service: other}
			}
			if err := t.exec("INSERT INTO public_domains (domain, service_id, certificate) VALUES ($1, $2, $3)", domain, serviceID, certificate); err != nil {
				return fmt.Errorf("inserting public domain: %w", err)
			}
		}
	}
	return nil
}

func (t *Tx) domainOwner(domain string) (service string, err error) {
	err = t.row("SELECT s.name FROM public_domains p JOIN services s ON s.id = p.service_id WHERE p.domain = $1", domain).Scan(&service)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return service, err
}

// readPublicDomains fills in the public domains of the services, which are found by their ids.
func (t *Tx) readPublicDomains(list []trysail.Service, at map[string]int, where string, args ...any) error {
	return t.query(func(r *sql.Rows) error {
		var id, certificate, domain string
		if err := r.Scan(&id, &certificate, &domain); err != nil {
			return err
		}
		s := &list[at[id]]
		if s.PublicDomains == nil {
			s.PublicDomains = map[string][]string{}
		}
		s.PublicDomains[certificate] = append(s.PublicDomains[certificate], domain)
		return nil
	}, "SELECT p.service_id, p.certificate, p.domain FROM public_domains p JOIN services s ON s.id = p.service_id WHERE "+where+" ORDER BY p.certificate, p.domain", args...)
}

// Fact returns a fact of the installation, and keeps made if there was none.
func (t *Tx) Fact(key, made string) (value string, err error) {
	if err := t.exec("INSERT INTO installation (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING", key, made); err != nil {
		return "", fmt.Errorf("keeping %s: %w", strings.ReplaceAll(key, "_", " "), err)
	}
	return value, t.row("SELECT value FROM installation WHERE key = $1", key).Scan(&value)
}
