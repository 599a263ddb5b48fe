package trysail

import (
	"net/netip"
	"slices"
)

// Forward sends the requests for a service to another installation, which it has moved to.
type Forward struct {
	// To is where the other installation's edge takes HTTPS.
	To []netip.AddrPort
	// CA are certificates in PEM form that vouch for it, besides our own authority's and those that the machine trusts.
	CA string `json:",omitempty"`
	// Stop is true when the pods here are not needed any more. Until then other services here may still ask them.
	Stop bool `json:",omitempty"`
	// Back ends it as soon as the pods here are healthy again.
	Back bool `json:",omitempty"`
}

// TargetTrust is how a target's certificate is verified.
type TargetTrust struct {
	Name string // that it must be for
	CA   string // in PEM form: who may vouch for it, besides our own authority and those that the machine trusts
}

// Targets are what the edge sends the requests to, for the service's first host.
func (f *Forward) Targets(host string, version int) []Target {
	var list []Target
	for _, addr := range slices.SortedFunc(slices.Values(f.To), netip.AddrPort.Compare) {
		list = append(list, Target{
			Pod: PodID("forward-" + addr.String()), Version: version, Addr: addr, TLS: true, Serving: true, Unchecked: true,
			Trust: &TargetTrust{Name: host, CA: f.CA},
		})
	}
	return list
}
