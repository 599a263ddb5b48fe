package edge

import (
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// sender is who made a request.
type sender struct {
	// peer is the other end of the connection; invalid if it has no IP address.
	peer netip.Addr
	// client is who made the request: the peer, or who a trusted proxy says it speaks for.
	client netip.Addr
	// proxied says that the peer is a trusted proxy.
	proxied bool
}

// senderOf finds out who made a request. remote is the other end of its connection. Only proxies that are trusted are
// believed about others: X-Forwarded-For is read from its end, up to the first address that is not one of theirs.
func senderOf(remote string, h http.Header, trusted []netip.Prefix) sender {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return sender{}
	}
	peer := canonical(ap.Addr())
	s := sender{peer: peer, client: peer}
	if len(trusted) == 0 || !contains(trusted, peer) {
		return s
	}
	s.proxied = true
	for _, line := range slices.Backward(h["X-Forwarded-For"]) {
		for more := true; more; {
			var hop string
			if i := strings.LastIndexByte(line, ','); i >= 0 {
				line, hop = line[:i], line[i+1:]
			} else {
				hop, more = line, false
			}
			addr, ok := parseHop(hop)
			if !ok {
				return s // whoever wrote this, what is before it cannot be relied on
			}
			s.client = addr
			if !contains(trusted, addr) {
				return s
			}
		}
	}
	return s
}

// parseHop reads an entry of X-Forwarded-For: an address, as some proxies write it with a port.
func parseHop(s string) (netip.Addr, bool) {
	s = strings.TrimSpace(s)
	if a, err := netip.ParseAddr(s); err == nil {
		return canonical(a), true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return canonical(ap.Addr()), true
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		if a, err := netip.ParseAddr(strings.TrimSuffix(inner, "]")); err == nil {
			return canonical(a), true
		}
	}
	return netip.Addr{}, false
}

// canonical is the one form in which the edge writes and compares an address.
func canonical(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// contains reports whether a is in one of the networks.
func contains(networks []netip.Prefix, a netip.Addr) bool {
	for _, p := range networks {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// clientOf is what counts as one client: an IPv4 address or an IPv6 network of 64 bits, as one household or machine has.
func clientOf(a netip.Addr) netip.Addr {
	if !a.IsValid() || a.Is4() || a.IsLoopback() {
		return a
	}
	return netip.PrefixFrom(a, 64).Masked().Addr()
}

// setForwarded tells the pod in h where a request comes from. in is the request as it came. If proxies are trusted, only
// they are believed; if none are configured, a client's X-Forwarded-For is kept and its address appended, as AWS load
// balancers do.
func setForwarded(h http.Header, in *http.Request, from sender, trusting bool, port string) {
	peer := in.RemoteAddr
	if from.peer.IsValid() {
		peer = from.peer.String()
	}
	if prior := in.Header["X-Forwarded-For"]; len(prior) > 0 && (from.proxied || !trusting) {
		peer = strings.Join(prior, ", ") + ", " + peer
	}
	proto, host := "https", in.Host
	if from.proxied {
		proto = believed(in.Header["X-Forwarded-Proto"], proto, func(s string) bool { return s == "http" || s == "https" })
		host = believed(in.Header["X-Forwarded-Host"], host, func(s string) bool { _, ok := hostname(s); return ok })
		port = believed(in.Header["X-Forwarded-Port"], port, func(s string) bool {
			n, err := strconv.ParseUint(s, 10, 16)
			return err == nil && n > 0
		})
	}
	h["X-Forwarded-For"] = []string{peer}
	h["X-Forwarded-Proto"] = []string{proto}
	h["X-Forwarded-Host"] = []string{host}
	h["X-Forwarded-Port"] = []string{port}
}

// believed is the one value of a header, or otherwise if that makes no sense.
func believed(values []string, otherwise string, ok func(string) bool) string {
	if len(values) == 1 && ok(values[0]) {
		return values[0]
	}
	return otherwise
}
