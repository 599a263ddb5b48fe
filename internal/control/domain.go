package control

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// GetDomains lists every domain of this installation with what is known of its certificate: those of Trysail itself, the
// default ones, and those of certificates and services. With a service's name only what leads there. Errors: NotFound.
func (c *Control) GetDomains(ctx context.Context, caller trysail.Caller, serviceName string) (list []trysail.DomainView, err error) {
	if err := maySee(caller, "GetDomains", serviceName); err != nil {
		return nil, err
	}
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		if serviceName != "" {
			if _, err := service(tx, serviceName); err != nil {
				return err
			}
		}
		list, err = c.domains(tx)
		return err
	})
	if serviceName != "" {
		list = slices.DeleteFunc(list, func(d trysail.DomainView) bool { return d.Service != serviceName })
	}
	return slices.DeleteFunc(list, func(d trysail.DomainView) bool { return !caller.Sees(d.Service) }), err
}

// CheckDomain looks at a domain now: what DNS says of it, whether it leads here, and what is missing. A domain that is
// not known yet is looked at as well. Errors: Invalid.
func (c *Control) CheckDomain(ctx context.Context, caller trysail.Caller, name string) (*trysail.DomainView, error) {
	if err := caller.May(trysail.RoleAdmin, "CheckDomain", ""); err != nil {
		return nil, err
	}
	name = strings.ToLower(name)
	if err := firstError(c.plainName(name), trysail.ValidateDomain(name)); err != nil {
		return nil, err
	}
	all, err := c.GetDomains(ctx, caller, "")
	if err != nil {
		return nil, err
	}
	view := trysail.DomainView{Kind: trysail.DomainCustom, DomainCertificate: trysail.DomainCertificate{Domain: name}}
	if i := slices.IndexFunc(all, func(d trysail.DomainView) bool { return d.Domain == name }); i >= 0 {
		view = all[i]
	}
	if c.LookAtDomain != nil {
		seen, problem := c.LookAtDomain(ctx, view.DomainCertificate)
		view.Seen = &seen
		if problem != nil || view.Problem != nil && seenFromHere(view.Problem.Code) {
			view.Problem = problem // what was wrong then may be right now
		}
		view.Addresses = trysail.AddressRecords(name, seen.Ours)
	}
	return &view, nil
}

// seenFromHere reports whether a problem is one that our own look finds.
func seenFromHere(code trysail.DiagnosisCode) bool {
	return code == trysail.CodeCertDNS || code == trysail.CodeCertCAA
}

// domains gathers all domains, by kind and name.
func (c *Control) domains(tx *store.Tx) ([]trysail.DomainView, error) {
	known, err := tx.Domains()
	if err != nil {
		return nil, err
	}
	services, err := tx.Services()
	if err != nil {
		return nil, err
	}
	certificates, err := tx.Certificates()
	if err != nil {
		return nil, err
	}
	all := map[string]*trysail.DomainView{}
	view := func(name string, kind trysail.DomainKind) *trysail.DomainView {
		if all[name] == nil {
			all[name] = &trysail.DomainView{DomainCertificate: trysail.DomainCertificate{Domain: name}, Kind: kind}
		}
		return all[name]
	}
	for _, own := range c.OwnHosts {
		view(own, trysail.DomainOwn)
	}
	for i := range services {
		s := &services[i]
		for k, host := range s.Hosts(c.Region, c.Domain) {
			kind := trysail.DomainCustom
			if k == 0 {
				kind = trysail.DomainDefault
			}
			view(host, kind).Service = s.Name
		}
	}
	for i := range certificates {
		for _, d := range certificates[i].Domains {
			v := view(d.Domain, trysail.DomainCustom)
			v.Certificates = append(v.Certificates, certificates[i].Name)
		}
	}
	c.fillDomains(all, known)
	return slices.SortedFunc(values(all), func(a, b trysail.DomainView) int {
		return cmp.Or(cmp.Compare(kindOrder(a.Kind), kindOrder(b.Kind)), cmp.Compare(a.Domain, b.Domain))
	}), nil
}

// fillDomains adds what is known of the certificates: that of the name itself or of the wildcard that covers it.
func (c *Control) fillDomains(all map[string]*trysail.DomainView, known []trysail.DomainCertificate) {
	byName := make(map[string]*trysail.DomainCertificate, len(known))
	for i := range known {
		byName[known[i].Domain] = &known[i]
	}
	var ours []trysail.DNSRecord
	if c.Addresses != nil {
		ours = trysail.AddressRecords("", c.Addresses())
	}
	for name, v := range all {
		d := byName[name]
		if _, rest, ok := strings.Cut(name, "."); d == nil && ok {
			d = byName["*."+rest]
		}
		if d != nil {
			v.DomainCertificate = *d
			v.Domain = name
		}
		for _, r := range ours {
			r.Name = name + r.Name
			v.Addresses = append(v.Addresses, r)
		}
		if v.Kind == trysail.DomainCustom && v.Token != "" && c.ValidationZone != "" {
			v.Validation = v.ValidationRecord(c.ValidationZone)
		}
	}
}

func values(all map[string]*trysail.DomainView) func(func(trysail.DomainView) bool) {
	return func(yield func(trysail.DomainView) bool) {
		for v := range maps.Values(all) {
			if !yield(*v) {
				return
			}
		}
	}
}

func kindOrder(k trysail.DomainKind) int {
	return slices.Index([]trysail.DomainKind{trysail.DomainOwn, trysail.DomainDefault, trysail.DomainCustom}, k)
}
