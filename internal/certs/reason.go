package certs

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/mholt/acmez/v3/acme"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/diagnose"
)

// reason turns a failure into words that say what to do.

func finding(code trysail.DiagnosisCode, fix, format string, args ...any) *trysail.Finding {
	return &trysail.Finding{Code: code, Confidence: trysail.Certain, Summary: fmt.Sprintf(format, args...), Fix: fix}
}

// prove adds what somebody else said, shortened.
func prove(f *trysail.Finding, kind, text string) *trysail.Finding {
	const most = 500
	if len(text) > most {
		text = text[:most] + "…"
	}
	f.Evidence = append(f.Evidence, trysail.Evidence{Kind: kind, Text: strings.ToValidUTF8(text, "?")})
	return f
}

// unready is what our own look found to be in the way, nil if nothing is. validate is the record that would do as well, if
// this installation can answer for it.
func (s *sight) unready(validate *trysail.DNSRecord) *trysail.Finding {
	also := ""
	if validate != nil {
		also = " Or validate by DNS: " + validate.String()
	}
	if s.err != nil {
		return prove(finding(trysail.CodeCertDNS, "Check the resolvers in /etc/resolv.conf, and the name servers of the domain.", "%s cannot be looked up.", s.Name), "dns", s.err.Error())
	}
	d := s.Domain
	d.Port80 = "" // what can be seen from here of our own port says little
	if s.answers {
		d.Ours = nil // whatever its addresses are, they lead here
	}
	if found := diagnose.Domain(d); len(found) > 0 {
		f := found[0]
		if f.Code == trysail.CodeCertDNS {
			f.Fix += also
		}
		return &f
	}
	switch {
	case strings.HasPrefix(s.Name, "*.") || s.hit() || s.answers:
		return nil
	case len(s.PointsTo) == 0:
		return finding(trysail.CodeCertDNS, "Set an A record for "+s.Name+" with the public address of this machine."+also, "%s does not resolve.", s.Name)
	case s.other != "":
		return finding(trysail.CodeCertDNS, "Set the A record of "+s.Name+" to the public address of this machine, or let the server there pass requests on."+also,
			"%s leads to %s, where another server answers.", s.Name, s.other)
	}
	return nil
}

// failed says why an authority gave no certificate, and whether that is its own affair, so that another one may be asked.
func failed(err error, s *sight, who string) (f *trysail.Finding, ask bool) {
	if zone, ok := errors.AsType[zoneError](err); ok {
		return prove(finding(trysail.CodeCertZone, "Check --dns and the credentials of --dns-credentials.", "The DNS record that validates %s could not be set.", s.Name), "dns", zone.Error()), false
	}
	problem, ok := errors.AsType[acme.Problem](err)
	if account, isAccount := errors.AsType[accountError](err); isAccount && ok {
		return prove(finding(trysail.CodeCertAccount, "Check --acme-email and, if the authority wants one, the binding in --acme-eab-file.",
			"%s does not open an account for us.", who), "acme", account.Error()), true
	}
	if !ok {
		return offline(err, who), true
	}
	return refusal(problem, s, who)
}

// offline is about an authority that cannot be reached, or that answers nonsense.
func offline(err error, who string) *trysail.Finding {
	if errors.Is(err, errLiar) {
		return prove(finding(trysail.CodeCertCA, "Nothing: the next try follows. If it stays, tell the authority, or name another with --acme-directory.",
			"%s sent a certificate that is not what was asked for.", who), "acme", err.Error())
	}
	text := err.Error()
	if u, ok := errors.AsType[*url.Error](err); ok {
		text = u.Err.Error()
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		text = op.Error()
	}
	return prove(finding(trysail.CodeCertCA, "Nothing: the next try follows. If it stays, check the way to the authority, or name another with --acme-directory.",
		"%s does not answer as it should.", who), "acme", text)
}

// refusal is about an authority that says what it does not like.
func refusal(problem acme.Problem, s *sight, who string) (f *trysail.Finding, ask bool) {
	details := []string{problem.Detail}
	for _, sub := range problem.Subproblems {
		details = append(details, sub.Detail)
	}
	said := strings.Join(details, " ")
	switch problem.Type {
	case acme.ProblemTypeRateLimited:
		return prove(finding(trysail.CodeCertLimit, "Nothing: the next try follows when the authority allows it.", "%s wants us to wait.", who), "acme", said), true
	case acme.ProblemTypeRejectedIdentifier, acme.ProblemTypeUnsupportedIdentifier:
		return prove(finding(trysail.CodeCertRefused, "Use another domain, or another authority with --acme-directory.", "%s does not issue certificates for %s.", who, s.Name), "acme", said), true
	case acme.ProblemTypeCAA:
		return prove(finding(trysail.CodeCertCAA, fmt.Sprintf(`Add the DNS record: %s. CAA 0 issue "%s"`, strings.TrimPrefix(s.Name, "*."), s.Issuer),
			"The CAA records of %s do not allow %s.", s.Name, who), "acme", said), true
	case acme.ProblemTypeExternalAccountRequired, acme.ProblemTypeUserActionRequired:
		return prove(finding(trysail.CodeCertAccount, "Give the binding that the authority asks for with --acme-eab-file.", "%s wants an account that is bound to one of its own.", who), "acme", said), true
	case acme.ProblemTypeConnection, acme.ProblemTypeTLS:
		return unreached(problem, s, who), false
	case acme.ProblemTypeDNS:
		return prove(finding(trysail.CodeCertDNS, "Check the name servers of the domain, and the record: "+records(s), "%s could not look %s up.", who, s.Name), "acme", said), false
	case acme.ProblemTypeUnauthorized, acme.ProblemTypeIncorrectResponse:
		if strings.Contains(strings.ToLower(said), "failed to connect") {
			return unreached(problem, s, who), false
		}
		return prove(finding(trysail.CodeCertDNS, "Let every address of "+s.Name+" lead to this machine (AAAA records, too): "+records(s),
			"%s asked for %s and got an answer from somebody else.", who, s.Name), "acme", said), false
	}
	return prove(finding(trysail.CodeCertCA, "Nothing: the next try follows. If it stays, name another authority with --acme-directory.", "%s does not issue now.", who), "acme", said), true
}

// unreached is about an authority that could not connect to the name.
func unreached(problem acme.Problem, s *sight, who string) *trysail.Finding {
	d := s.Domain
	switch {
	case strings.Contains(strings.ToLower(problem.Detail), "refused"):
		d.Port80 = trysail.ReachRefused
	case d.Port80 == "" || d.Port80 == trysail.ReachOK: // it is open to us
		d.Port80 = trysail.ReachTimeout
	}
	s.Port80 = d.Port80
	for _, f := range diagnose.Domain(d) {
		if f.Code == trysail.CodeCertPort && len(d.Ours) > 0 {
			return prove(&f, "acme", problem.Detail)
		}
	}
	return prove(finding(trysail.CodeCertPort, "Open port 80 in the firewall and pass it on to this machine, or use a DNS challenge.",
		"%s cannot reach port 80 of %s.", who, s.Name), "acme", problem.Detail)
}

func records(s *sight) string {
	list := trysail.AddressRecords(s.Name, s.Ours)
	if len(list) == 0 {
		return s.Name + ". A, the public address of this machine"
	}
	var words []string
	for _, r := range list {
		words = append(words, r.String())
	}
	return strings.Join(words, "; ")
}

// allows reports whether the CAA records allow one of the names of an authority.
func (s *sight) allows(identities []string) bool {
	return s.CAA == nil || len(identities) == 0 || slices.ContainsFunc(identities, func(id string) bool { return slices.Contains(s.CAA, id) })
}
