package edge

import (
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/trysail/trysail"
)

// Why a guard refuses a request; the access log says it.
var (
	errDenied      = errors.New("the client's address is in denyClients")
	errNotAllowed  = errors.New("the client's address is not in allowClients")
	errTooFast     = errors.New("the client made more requests than requestsPerMinute and requestBurst allow")
	errClientBusy  = errors.New("the client has maxRequestsAtOncePerClient requests under way")
	errServiceBusy = errors.New("the service has maxRequestsAtOnce requests under way")
	errTooLarge    = errors.New("the body is larger than maxBodyBytes")
)

// guard is what the rules of a service mean for its requests. It knows nothing of how requests travel. It does not change
// once made; what it counts is in the meter.
type guard struct {
	rules       trysail.EdgeRules
	allow, deny []netip.Prefix
	hsts        string
	meter       *meter
}

// newGuard makes the guard for rules that are normalized; nil if they ask for nothing.
func newGuard(rules trysail.EdgeRules, m *meter) *guard {
	if rules.IsZero() {
		return nil
	}
	return &guard{rules: rules, allow: networks(rules.AllowClients), deny: networks(rules.DenyClients), hsts: rules.HSTS(), meter: m}
}

// networks parses what was validated before it was stored. An entry that cannot be parsed matches nobody.
func networks(list []string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, text := range list {
		out[i], _ = trysail.ParseNetwork(text)
	}
	return out
}

// refusal is the answer to a request that may not pass.
type refusal struct {
	status int           // of the answer; 0: it may pass
	retry  time.Duration // when another try makes sense; 0: never
	why    error
}

// admit decides about a request with a body of length bytes (-1: not known yet). One that may pass counts as under way until
// release.
func (g *guard) admit(client netip.Addr, length int64, now time.Time) refusal {
	switch {
	case contains(g.deny, client):
		return refusal{status: http.StatusForbidden, why: errDenied}
	case len(g.allow) > 0 && !contains(g.allow, client):
		return refusal{status: http.StatusForbidden, why: errNotAllowed}
	case g.rules.MaxBody > 0 && length > g.rules.MaxBody:
		return refusal{status: http.StatusRequestEntityTooLarge, why: errTooLarge}
	case g.counts():
		return g.meter.admit(clientOf(client), &g.rules, now)
	}
	return refusal{}
}

// release is the counterpart of an admit that let the request pass.
func (g *guard) release(client netip.Addr) {
	if g.counts() {
		g.meter.release(clientOf(client))
	}
}

// counts reports whether requests have to be counted.
func (g *guard) counts() bool {
	return g.rules.RequestsPerMinute > 0 || g.rules.MaxRequestsAtOnce > 0 || g.rules.MaxRequestsAtOncePerClient > 0
}
