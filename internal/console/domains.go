package console

import (
	"fmt"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// domainsView is all domains and certificates.
type domainsView struct {
	Certificates []certificateView
	Domains      []trysail.DomainView
	Checked      *trysail.DomainView // what a look at a domain found
	Zone         string
}

// certificateView is a certificate with what has to be done for each of its domains.
type certificateView struct {
	*trysail.Certificate
	State   trysail.CertificateStatus
	Domains []domainState
}

// domainState is a domain of a certificate with the records that it needs, and which of them are there.
type domainState struct {
	trysail.DomainView
	Valid   bool
	Records []recordState
}

// recordState is a DNS record and whether it was seen.
type recordState struct {
	trysail.DNSRecord
	What  string
	State string // "done", "starting" while nobody knows, or "failed"
}

func (v *visit) now() time.Time { return time.Now() }

// allCertificates lists them all, with their domains.
func (c *Console) allCertificates(v *visit) (list []trysail.Certificate, err error) {
	in := control.GetCertificatesInput{Details: true}
	for {
		found, err := c.control.GetCertificates(v.Context(), v.caller, in)
		if err != nil {
			return nil, err
		}
		list = append(list, found.Certificates...)
		if in.PageToken = found.NextPageToken; in.PageToken == "" {
			return list, nil
		}
	}
}

// showDomains is all domains, certificates and the records they need, which are ticked off as they appear.
func (c *Console) showDomains(v *visit) (*page, error) {
	certificates, err := c.allCertificates(v)
	if err != nil && trysail.ErrorCode(err) != trysail.CodeAccessDenied {
		return nil, err
	}
	view := domainsView{Zone: c.cfg.ValidationZone}
	if view.Domains, err = c.control.GetDomains(v.Context(), v.caller, ""); err != nil {
		return nil, err
	}
	known := map[string]trysail.DomainView{}
	for _, d := range view.Domains {
		known[d.Domain] = d
	}
	for i := range certificates {
		one := certificateView{Certificate: &certificates[i], State: certificates[i].Status(v.now())}
		for _, d := range certificates[i].Domains {
			shown := known[d.Domain]
			if shown.Domain == "" {
				shown.DomainCertificate = d
			}
			one.Domains = append(one.Domains, domainState{DomainView: shown, Valid: d.Valid(v.now()), Records: recordsOf(&shown, d.Valid(v.now()))})
		}
		view.Certificates = append(view.Certificates, one)
	}
	if name := v.URL.Query().Get("check"); name != "" && !isStream(v.Request) {
		if view.Checked, err = c.control.CheckDomain(v.Context(), v.caller, strings.TrimSpace(name)); err != nil {
			if statusOf(err) >= 500 {
				return nil, err
			}
			return v.outcome(Root+"domains", err, "")
		}
	}
	return &page{Template: "domains", Title: "Domains and certificates", Section: "domains", D: view, Live: true}, nil
}

// recordsOf are the records of a domain. A certificate that is valid needed one of the ways only.
func recordsOf(d *trysail.DomainView, valid bool) (list []recordState) {
	for _, r := range d.Addresses {
		one := recordState{DNSRecord: r, What: "leads here", State: "starting"}
		if d.Seen != nil {
			one.State = "failed"
			for _, a := range d.Seen.PointsTo {
				if a.Unmap().String() == r.Value {
					one.State = "done"
				}
			}
		}
		list = append(list, one)
	}
	if d.Validation.Name != "" {
		one := recordState{DNSRecord: d.Validation, What: "proves control, so that the certificate is renewed without port 80", State: "starting"}
		if valid && d.Leaf != nil && d.Leaf.Challenge == "dns-01" {
			one.State = "done"
		}
		list = append(list, one)
	}
	return list
}

// createCertificate asks for a certificate.
func (c *Console) createCertificate(v *visit) (*page, error) {
	names := strings.FieldsFunc(v.PostFormValue("domains"), func(r rune) bool { return strings.ContainsRune(" ,\r\n\t", r) })
	in := control.CreateCertificateInput{Name: strings.TrimSpace(v.PostFormValue("name"))}
	if len(names) > 0 {
		in.Domain, in.Alternatives = names[0], names[1:]
	}
	_, err := c.control.CreateCertificate(v.Context(), v.caller, in)
	return v.outcome(Root+"domains", err, fmt.Sprintf("Certificate %s is asked for. Set the records below.", in.Name))
}

// deleteCertificate removes a certificate that no service uses.
func (c *Console) deleteCertificate(v *visit) (*page, error) {
	name := v.PostFormValue("name")
	_, err := c.control.DeleteCertificate(v.Context(), v.caller, name)
	return v.outcome(Root+"domains", err, fmt.Sprintf("Certificate %s is deleted.", name))
}
