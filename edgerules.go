package trysail

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits of EdgeRules. AWS has no such settings; the reasons stand beside them.
const (
	MaxClientRules = 1000     // networks in a list; each request is compared with all of them
	MaxErrorPage   = 32 << 10 // bytes; a page refers to its pictures, it does not hold them
	// MaxErrorPages bounds all pages of a service together, in bytes: they are read with the service.
	MaxErrorPages        = 64 << 10
	MaxHSTSAge           = 2 * 365 * 24 * 3600 // seconds; what browsers' makers recommend at most
	MinHSTSPreloadAge    = 365 * 24 * 3600     // seconds, that of hstspreload.org
	MaxBodyLimit         = 1 << 40             // bytes
	MaxRequestsPerMinute = 6_000_000
	MaxRequestBurst      = 100_000
	MaxRequestsAtOnce    = 100_000
	defaultBurstSeconds  = 10
	errorPageRequestID   = "{{requestId}}"
	errorPageStatus      = "{{status}}"
)

// EdgeRules are what the edge asks of the requests of a service, and adds to the answers, beyond what Lightsail does. The
// zero value asks for nothing and adds nothing. They hold for HTTPS requests of the service's domains.
type EdgeRules struct {
	// HSTSMaxAge is how many seconds browsers shall use HTTPS only (Strict-Transport-Security); 0: no such header. An answer
	// of a pod that has the header keeps its own.
	HSTSMaxAge            int  `json:"hstsMaxAgeSeconds,omitzero"`
	HSTSIncludeSubdomains bool `json:"hstsIncludeSubdomains,omitzero"`
	HSTSPreload           bool `json:"hstsPreload,omitzero"`
	// AllowClients and DenyClients are networks (CIDR) of clients. Who is in DenyClients is refused; so is, if AllowClients
	// has entries, who is not in it. 403.
	AllowClients []string `json:"allowClients,omitempty"`
	DenyClients  []string `json:"denyClients,omitempty"`
	// MaxBody is how many bytes the body of a request may have; 0: no limit. 413.
	MaxBody int64 `json:"maxBodyBytes,omitzero"`
	// RequestsPerMinute is how many requests one client (an IPv4 address, a /64 of IPv6) may make on average, and
	// RequestBurst how many of them at once; 0: no limit, and for the burst as many as come in ten seconds on average. 429.
	RequestsPerMinute int `json:"requestsPerMinute,omitzero"`
	RequestBurst      int `json:"requestBurst,omitzero"`
	// MaxRequestsAtOnce is how many requests of the service may be under way, a WebSocket being one as long as it is open;
	// 0: no limit. 503. MaxRequestsAtOncePerClient is the same for one client. 429.
	MaxRequestsAtOnce          int `json:"maxRequestsAtOnce,omitzero"`
	MaxRequestsAtOncePerClient int `json:"maxRequestsAtOncePerClient,omitzero"`
	// ErrorPages are the bodies, in HTML, of the edge's own answers, by their status. {{requestId}} and {{status}} in them
	// are replaced.
	ErrorPages map[string]string `json:"errorPages,omitempty"`
}

// ErrorPageStatuses lists the statuses that the edge answers with by itself, and which can have a page of the service.
func ErrorPageStatuses() []string {
	return []string{"400", "403", "404", "405", "408", "413", "429", "502", "503", "504"}
}

// IsZero reports whether the rules ask for nothing.
func (r *EdgeRules) IsZero() bool {
	return r.HSTSMaxAge == 0 && !r.HSTSIncludeSubdomains && !r.HSTSPreload && len(r.AllowClients) == 0 && len(r.DenyClients) == 0 &&
		r.MaxBody == 0 && r.RequestsPerMinute == 0 && r.RequestBurst == 0 && r.MaxRequestsAtOnce == 0 && r.MaxRequestsAtOncePerClient == 0 &&
		len(r.ErrorPages) == 0
}

// Equal reports whether both ask for the same.
func (r *EdgeRules) Equal(o *EdgeRules) bool {
	return r.HSTSMaxAge == o.HSTSMaxAge && r.HSTSIncludeSubdomains == o.HSTSIncludeSubdomains && r.HSTSPreload == o.HSTSPreload &&
		slices.Equal(r.AllowClients, o.AllowClients) && slices.Equal(r.DenyClients, o.DenyClients) &&
		r.MaxBody == o.MaxBody && r.RequestsPerMinute == o.RequestsPerMinute && r.RequestBurst == o.RequestBurst &&
		r.MaxRequestsAtOnce == o.MaxRequestsAtOnce && r.MaxRequestsAtOncePerClient == o.MaxRequestsAtOncePerClient &&
		maps.Equal(r.ErrorPages, o.ErrorPages)
}

// HSTS is the value of the Strict-Transport-Security header; empty if there shall be none.
func (r *EdgeRules) HSTS() string {
	if r.HSTSMaxAge == 0 {
		return ""
	}
	value := "max-age=" + strconv.Itoa(r.HSTSMaxAge)
	if r.HSTSIncludeSubdomains {
		value += "; includeSubDomains"
	}
	if r.HSTSPreload {
		value += "; preload"
	}
	return value
}

// Burst is how many requests of a client may come at once; at least 1.
func (r *EdgeRules) Burst() int {
	if r.RequestBurst > 0 {
		return r.RequestBurst
	}
	return max(r.RequestsPerMinute*defaultBurstSeconds/60, 1)
}

// ErrorPage is the page for a status with its marks replaced; ok is false if the service has none. The request's id must be
// safe in HTML.
func (r *EdgeRules) ErrorPage(status int, requestID string) (page string, ok bool) {
	page, ok = r.ErrorPages[strconv.Itoa(status)]
	if !ok {
		return "", false
	}
	return strings.NewReplacer(errorPageRequestID, requestID, errorPageStatus, strconv.Itoa(status)).Replace(page), true
}

// Normalize brings the rules into the form in which they are kept: networks as CIDR, each once, no empty pages. Errors:
// Invalid; they name the member.
func (r *EdgeRules) Normalize() (err error) {
	if r.AllowClients, err = normalizeNetworks("allowClients", r.AllowClients); err != nil {
		return err
	}
	if r.DenyClients, err = normalizeNetworks("denyClients", r.DenyClients); err != nil {
		return err
	}
	if len(r.ErrorPages) > 0 {
		r.ErrorPages = maps.Clone(r.ErrorPages)
		maps.DeleteFunc(r.ErrorPages, func(_, page string) bool { return page == "" })
	}
	if len(r.ErrorPages) == 0 {
		r.ErrorPages = nil
	}
	return r.validate()
}

func (r *EdgeRules) validate() error {
	for _, v := range []struct {
		name       string
		value, max int64
	}{
		{"hstsMaxAgeSeconds", int64(r.HSTSMaxAge), MaxHSTSAge},
		{"maxBodyBytes", r.MaxBody, MaxBodyLimit},
		{"requestsPerMinute", int64(r.RequestsPerMinute), MaxRequestsPerMinute},
		{"requestBurst", int64(r.RequestBurst), MaxRequestBurst},
		{"maxRequestsAtOnce", int64(r.MaxRequestsAtOnce), MaxRequestsAtOnce},
		{"maxRequestsAtOncePerClient", int64(r.MaxRequestsAtOncePerClient), MaxRequestsAtOnce},
	} {
		if v.value < 0 || v.value > v.max {
			return invalid("Setting %s is %d. It can be 1 to %d, or 0 to turn it off.", v.name, v.value, v.max)
		}
	}
	switch {
	case (r.HSTSIncludeSubdomains || r.HSTSPreload) && r.HSTSMaxAge == 0:
		return invalid("Settings hstsIncludeSubdomains and hstsPreload need hstsMaxAgeSeconds. Set it too, for example to 31536000, or turn them off.")
	case r.HSTSPreload && (!r.HSTSIncludeSubdomains || r.HSTSMaxAge < MinHSTSPreloadAge):
		return invalid("Setting hstsPreload needs hstsIncludeSubdomains and an hstsMaxAgeSeconds of at least %d (a year).", MinHSTSPreloadAge)
	case r.RequestBurst > 0 && r.RequestsPerMinute == 0:
		return invalid("Setting requestBurst needs requestsPerMinute. Set it too, or set requestBurst to 0.")
	}
	return r.validatePages()
}

func (r *EdgeRules) validatePages() error {
	total := 0
	for _, status := range slices.Sorted(maps.Keys(r.ErrorPages)) {
		page := r.ErrorPages[status]
		total += len(page)
		switch {
		case !slices.Contains(ErrorPageStatuses(), status):
			return invalid("Setting errorPages has a page for %s. The edge itself answers with %s only.", quote(status), strings.Join(ErrorPageStatuses(), ", "))
		case len(page) > MaxErrorPage:
			return invalid("Setting errorPages: the page for %s has %d bytes. It can have %d; let it refer to pictures and style sheets elsewhere.", status, len(page), MaxErrorPage)
		case !utf8.ValidString(page):
			return invalid("Setting errorPages: the page for %s is not valid UTF-8.", status)
		}
	}
	if total > MaxErrorPages {
		return invalid("Setting errorPages: all pages together have %d bytes. They can have %d.", total, MaxErrorPages)
	}
	return nil
}

// normalizeNetworks makes CIDRs of networks and addresses.
func normalizeNetworks(name string, list []string) ([]string, error) {
	if len(list) > MaxClientRules {
		return nil, invalid("Setting %s has %d entries. It can have %d; use larger networks.", name, len(list), MaxClientRules)
	}
	var out []string
	for _, text := range list {
		p, err := ParseNetwork(text)
		if err != nil {
			return nil, invalid("Setting %s: %v.", name, err)
		}
		if s := p.String(); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out, nil
}

// ParseNetwork reads a network in CIDR notation, or an address, which is a network of one. The error
// tells what to write instead.
func ParseNetwork(text string) (netip.Prefix, error) {
	text = strings.TrimSpace(text)
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return p, fmt.Errorf("%s is neither a network such as 192.0.2.0/24 or 2001:db8::/32 nor an address", quote(text))
	case p.Addr().Is4In6():
		return p, fmt.Errorf("%s is IPv4 written as IPv6; write it as IPv4", quote(text))
	case p != p.Masked():
		return p, fmt.Errorf("%s is an address within a network; write %s for the network, or %s for the address", quote(text), p.Masked(), p.Addr())
	}
	return p, nil
}
