package dns

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// ttl is how many seconds a client may remember an address of ours, or that there is none.
	ttl = 5
	// udpSize is the largest answer over UDP that is announced: what fits through every network.
	udpSize = 1232
	// plainSize is the largest answer to a client that does not say that it takes more.
	plainSize = 512
)

// answer answers a query; nil is silence.
func (s *Server) answer(ctx context.Context, query []byte, who client, stream bool) []byte {
	b, others := s.answerHere(query, who, stream)
	if others == nil {
		return b
	}
	return s.answerOthers(ctx, query, others, stream)
}

// answerHere answers what can be answered without asking anybody; nil is silence. If others is not nil, somebody has to be
// asked.
func (s *Server) answerHere(query []byte, who client, stream bool) (b []byte, others *reply) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return nil, nil // not a query; an answer could start a quarrel between two servers
	}
	r := &reply{header: h}
	if h.OpCode != 0 {
		return r.fail(dnsmessage.RCodeNotImplemented), nil
	}
	questions, err := p.AllQuestions()
	if err != nil || len(questions) != 1 {
		return r.fail(dnsmessage.RCodeFormatError), nil
	}
	r.question = &questions[0]
	switch {
	case s.private(r.question.Name):
		r.readEDNS(&p)
		return s.answerPrivate(r, stream), nil
	case who != clientPod:
		return r.fail(dnsmessage.RCodeRefused), nil
	}
	return nil, r
}

// answerOthers answers with what the machine's resolvers say.
func (s *Server) answerOthers(ctx context.Context, query []byte, r *reply, stream bool) []byte {
	if b := s.forward(ctx, query, *r.question, stream); b != nil {
		return b
	}
	return r.fail(dnsmessage.RCodeServerFailure)
}

// private reports whether a name is in our zone.
func (s *Server) private(name dnsmessage.Name) bool {
	n := strings.ToLower(name.String())
	return n == zone || strings.HasSuffix(n, "."+zone)
}

// answerPrivate answers for a name of our zone.
func (s *Server) answerPrivate(r *reply, stream bool) []byte {
	if r.version > 0 {
		return r.fail(rcodeBadVersion)
	}
	if r.question.Class != dnsmessage.ClassINET && r.question.Class != dnsmessage.ClassANY {
		return r.fail(dnsmessage.RCodeRefused)
	}
	r.authoritative = true
	name := strings.ToLower(r.question.Name.String())
	if name == zone {
		return r.fail(dnsmessage.RCodeSuccess) // the zone itself has no address
	}
	service := strings.TrimSuffix(name, "."+zone)
	addrs, known := s.lookup(service)
	if !known {
		return r.fail(dnsmessage.RCodeNameError)
	}
	if r.question.Type != dnsmessage.TypeA && s.cfg.TakesIPv6 != nil && !s.cfg.TakesIPv6(service) {
		addrs = slices.DeleteFunc(slices.Clone(addrs), netip.Addr.Is6)
	}
	limit := 1<<16 - 1
	if !stream {
		limit = max(plainSize, min(r.size, udpSize))
	}
	return r.addresses(addrs, limit)
}

// rcodeBadVersion is what a client gets that uses an EDNS to come. Its upper bits are in the OPT record.
const rcodeBadVersion = dnsmessage.RCode(16)

// reply builds an answer.
type reply struct {
	header        dnsmessage.Header
	question      *dnsmessage.Question
	authoritative bool
	// What the client says of itself in its OPT record, if it has one.
	edns    bool
	size    int
	version int
}

// readEDNS looks for the client's OPT record. A message that cannot be read to its end has none.
func (r *reply) readEDNS(p *dnsmessage.Parser) {
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return
	}
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return
		}
		if h.Type == dnsmessage.TypeOPT {
			r.edns, r.size, r.version = true, int(h.Class), int(h.TTL>>16&0xff)
			return
		}
		if p.SkipAdditional() != nil {
			return
		}
	}
}

// fail is an answer without an address.
func (r *reply) fail(code dnsmessage.RCode) []byte { return r.build(code, nil, false) }

// addresses is an answer with those of the addresses that are of the type asked for, cut to what fits.
func (r *reply) addresses(addrs []netip.Addr, limit int) []byte {
	b := r.build(dnsmessage.RCodeSuccess, addrs, false)
	if len(b) > limit {
		return r.build(dnsmessage.RCodeSuccess, nil, true)
	}
	return b
}

func (r *reply) build(code dnsmessage.RCode, addrs []netip.Addr, truncated bool) []byte {
	b := dnsmessage.NewBuilder(make([]byte, 0, plainSize), dnsmessage.Header{
		ID: r.header.ID, Response: true, OpCode: r.header.OpCode, Authoritative: r.authoritative, Truncated: truncated,
		RecursionDesired: r.header.RecursionDesired, RecursionAvailable: true, CheckingDisabled: r.header.CheckingDisabled, RCode: code & 0xf,
	})
	b.EnableCompression()
	// What follows fails only for messages that are too long, which these are not.
	if b.StartQuestions() != nil || r.question != nil && b.Question(*r.question) != nil || b.StartAnswers() != nil {
		return nil
	}
	answers := 0
	for _, a := range addrs {
		if r.addAddress(&b, a) {
			answers++
		}
	}
	if b.StartAuthorities() != nil || r.authoritative && answers == 0 && !truncated && addSOA(&b) != nil || b.StartAdditionals() != nil {
		return nil
	}
	if r.edns {
		var h dnsmessage.ResourceHeader
		if h.SetEDNS0(udpSize, code, false) != nil || b.OPTResource(h, dnsmessage.OPTResource{}) != nil {
			return nil
		}
	}
	m, err := b.Finish()
	if err != nil {
		return nil
	}
	return m
}

// addAddress adds an address if it is of the type asked for.
func (r *reply) addAddress(b *dnsmessage.Builder, a netip.Addr) bool {
	q := r.question
	h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: ttl}
	switch {
	case a.Is4() && (q.Type == dnsmessage.TypeA || q.Type == dnsmessage.TypeALL):
		return b.AResource(h, dnsmessage.AResource{A: a.As4()}) == nil
	case a.Is6() && (q.Type == dnsmessage.TypeAAAA || q.Type == dnsmessage.TypeALL):
		return b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: a.As16()}) == nil
	}
	return false
}

// addSOA says how long a client may remember that there is nothing.
func addSOA(b *dnsmessage.Builder) error {
	name := dnsmessage.MustNewName(zone)
	return b.SOAResource(
		dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: ttl},
		dnsmessage.SOAResource{NS: name, MBox: dnsmessage.MustNewName("hostmaster." + zone), Serial: 1, Refresh: 60, Retry: 60, Expire: 60, MinTTL: ttl},
	)
}
