package certs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"github.com/trysail/trysail"
)

const (
	// lookTimeout bounds one question to one resolver, and one connection.
	lookTimeout = 3 * time.Second
	// maxAddresses bounds how many addresses of a name are tried.
	maxAddresses = 8
	// maxAliases bounds how many CNAMEs are followed.
	maxAliases = 8
)

// errNoName is returned for a name that does not exist.
var errNoName = errors.New("the name does not exist")

// looker finds out what the world sees of a name. It asks DNS servers itself, so /etc/hosts does not deceive it.
type looker struct {
	servers []string // host:port; empty: those of /etc/resolv.conf
	port    int      // of plain HTTP, 80 except in tests
	ours    func() []netip.Addr
	// token is what this Trysail answers when it is asked for the path of a challenge with that name.
	token string
}

// sight is what was seen of a name.
type sight struct {
	trysail.Domain
	alias   string // what the validation record points to, without a dot at its end; empty if there is none
	answers bool   // one of its addresses was answered by this very Trysail
	other   string // the address where another server answered
	err     error  // the resolver did not answer
}

// hit reports whether the name has an address of this machine.
func (s *sight) hit() bool {
	return slices.ContainsFunc(s.Ours, func(a netip.Addr) bool { return slices.Contains(s.PointsTo, a) })
}

// look asks for everything that decides whether a certificate can be had.
func (l *looker) look(ctx context.Context, name string) sight {
	s := sight{Domain: trysail.Domain{Name: name, Ours: l.ours()}}
	plain := strings.TrimPrefix(name, "*.")
	s.alias, s.err = l.alias(ctx, "_acme-challenge."+plain)
	if s.err != nil {
		return s
	}
	if s.CAA, s.err = l.caa(ctx, plain, plain != name); s.err != nil {
		return s
	}
	if plain != name {
		return s // nothing has to lead from a wildcard to here
	}
	if s.PointsTo, s.err = l.addresses(ctx, name); s.err != nil {
		return s
	}
	for _, a := range s.PointsTo[:min(len(s.PointsTo), maxAddresses)] {
		result, own := l.visit(ctx, name, a)
		s.answers = s.answers || own
		if result == trysail.ReachOK && !own {
			s.other = a.String()
		}
		if s.Port80 == "" || result == trysail.ReachOK {
			s.Port80 = result
		}
	}
	return s
}

// addresses lists what a name stands for, nothing if it does not exist.
func (l *looker) addresses(ctx context.Context, name string) (list []netip.Addr, err error) {
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		answer, err := l.ask(ctx, name, kind)
		if errors.Is(err, errNoName) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		for _, rr := range answer {
			var ip net.IP
			switch rr := rr.(type) {
			case *dns.A:
				ip = rr.A
			case *dns.AAAA:
				ip = rr.AAAA
			}
			if a, ok := netip.AddrFromSlice(ip); ok {
				list = append(list, a.Unmap())
			}
		}
	}
	return list, nil
}

// alias returns what a name is a CNAME for, "" if it is none.
func (l *looker) alias(ctx context.Context, name string) (string, error) {
	answer, err := l.ask(ctx, name, dns.TypeCNAME)
	if errors.Is(err, errNoName) {
		return "", nil
	}
	for _, rr := range answer {
		if c, ok := rr.(*dns.CNAME); ok && strings.EqualFold(c.Hdr.Name, dns.Fqdn(name)) {
			return strings.ToLower(strings.TrimSuffix(c.Target, ".")), nil
		}
	}
	return "", err
}

// caa lists the authorities that may issue for a name, nil if there is no rule. The closest set of records counts (RFC 8659).
// A set that names nobody allows nobody.
func (l *looker) caa(ctx context.Context, name string, wildcard bool) ([]string, error) {
	for at := name; at != ""; {
		answer, err := l.ask(ctx, at, dns.TypeCAA)
		if err != nil && !errors.Is(err, errNoName) {
			return nil, err
		}
		if allowed, found := issuers(answer, wildcard); found {
			return allowed, nil
		}
		_, at, _ = strings.Cut(at, ".")
	}
	return nil, nil
}

// issuers reads a set of CAA records. found is false if there is no rule in it.
func issuers(set []dns.RR, wildcard bool) (list []string, found bool) {
	var issue, issueWild []string
	for _, rr := range set {
		c, ok := rr.(*dns.CAA)
		if !ok {
			continue
		}
		who, _, _ := strings.Cut(c.Value, ";")
		if who = strings.ToLower(strings.TrimSpace(who)); who == "" {
			who = "nobody"
		}
		switch strings.ToLower(c.Tag) {
		case "issue":
			issue = append(issue, who)
		case "issuewild":
			issueWild = append(issueWild, who)
		}
	}
	if wildcard && issueWild != nil {
		return issueWild, true
	}
	return issue, issue != nil
}

// texts lists the TXT records of a name as one server has them.
func texts(ctx context.Context, server, name string) (list []string, err error) {
	answer, err := askServer(ctx, server, name, dns.TypeTXT)
	if errors.Is(err, errNoName) {
		return nil, nil
	}
	for _, rr := range answer {
		if t, ok := rr.(*dns.TXT); ok {
			list = append(list, strings.Join(t.Txt, ""))
		}
	}
	return list, err
}

// ask asks the resolvers one after the other. Aliases are followed where the resolver has not done so.
// Errors: errNoName, and what went wrong with the last resolver.
func (l *looker) ask(ctx context.Context, name string, kind uint16) (answer []dns.RR, err error) {
	servers := l.servers
	if len(servers) == 0 {
		if servers, err = systemResolvers(); err != nil {
			return nil, err
		}
	}
	for _, server := range servers {
		answer, err = askServer(ctx, server, name, kind)
		if err == nil || errors.Is(err, errNoName) {
			return answer, err
		}
	}
	return nil, err
}

func askServer(ctx context.Context, server, name string, kind uint16) ([]dns.RR, error) {
	var all []dns.RR
	for range maxAliases {
		q := new(dns.Msg)
		q.SetQuestion(dns.Fqdn(name), kind)
		q.SetEdns0(1232, false)
		reply, err := exchange(ctx, server, q)
		if err != nil {
			return nil, fmt.Errorf("asking %s for %s %s: %w", server, name, dns.TypeToString[kind], err)
		}
		switch reply.Rcode {
		case dns.RcodeSuccess:
		case dns.RcodeNameError:
			return nil, errNoName
		default:
			return nil, fmt.Errorf("asking %s for %s %s: it answers %s", server, name, dns.TypeToString[kind], dns.RcodeToString[reply.Rcode])
		}
		all = append(all, reply.Answer...)
		next := unfollowed(reply.Answer, name, kind)
		if next == "" {
			return all, nil
		}
		name = next
	}
	return all, nil
}

// unfollowed returns the name that an answer ends with when it is an alias whose target was not given.
func unfollowed(answer []dns.RR, name string, kind uint16) string {
	if kind == dns.TypeCNAME {
		return ""
	}
	target := ""
	for _, rr := range answer {
		if rr.Header().Rrtype == kind {
			return ""
		}
		if c, ok := rr.(*dns.CNAME); ok && !strings.EqualFold(c.Target, dns.Fqdn(name)) {
			target = c.Target
		}
	}
	return target
}

// exchange asks over UDP, and over TCP when the answer does not fit.
func exchange(ctx context.Context, server string, q *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*lookTimeout)
	defer cancel()
	client := &dns.Client{Timeout: lookTimeout}
	reply, _, err := client.ExchangeContext(ctx, q, server)
	if err == nil && !reply.Truncated {
		return reply, nil
	}
	client.Net = "tcp"
	reply, _, tcpErr := client.ExchangeContext(ctx, q, server)
	if tcpErr != nil && err != nil {
		return nil, err
	}
	return reply, tcpErr
}

func systemResolvers() ([]string, error) {
	cfg, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil || len(cfg.Servers) == 0 {
		return nil, errors.New("/etc/resolv.conf names no resolver")
	}
	list := make([]string, len(cfg.Servers))
	for i, s := range cfg.Servers {
		list[i] = net.JoinHostPort(s, cfg.Port)
	}
	return list, nil
}

// visit asks an address of a name for the path of a challenge, as an authority would. own says that it was this Trysail that
// answered.
func (l *looker) visit(ctx context.Context, name string, addr netip.Addr) (result trysail.ReachResult, own bool) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	target := net.JoinHostPort(addr.String(), strconv.Itoa(l.port))
	transport := &http.Transport{
		DisableKeepAlives: true, ResponseHeaderTimeout: lookTimeout,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", target)
		},
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+name+challengePath+l.token, http.NoBody)
	if err != nil {
		return trysail.ReachUnresolved, false
	}
	resp, err := client.Do(req)
	if err != nil {
		return reachOf(err), false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 256))
	return trysail.ReachOK, err == nil && resp.StatusCode == http.StatusOK && string(body) == l.token
}

// reachOf is what a failed connection means.
func reachOf(err error) trysail.ReachResult {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return trysail.ReachRefused
	case errors.As(err, &timeout) && timeout.Timeout():
		return trysail.ReachTimeout
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return trysail.ReachUnreachable
	}
	return trysail.ReachOK // somebody is there, though it is no web server
}

// MachineAddresses lists the addresses of this machine that the world could reach: none if all are private, because then
// something else stands before it and its address is not known.
func MachineAddresses() []netip.Addr {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var list []netip.Addr
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		if ip = ip.Unmap(); ok && ip.IsGlobalUnicast() && !ip.IsPrivate() && !isShared(ip) {
			list = append(list, ip)
		}
	}
	return list
}

// isShared reports whether an address is one of a provider's own network (RFC 6598).
func isShared(ip netip.Addr) bool {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10).Contains(ip)
}
