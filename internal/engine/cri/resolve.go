package cri

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/trysail/trysail"
)

// resolver looks names up as the programs in a pod do: in its /etc/hosts, then by its /etc/resolv.conf. It makes its
// sockets in the calling goroutine, as podnet.Within needs it.
type resolver struct {
	hosts    map[string][]netip.Addr
	servers  []netip.AddrPort
	searches []string
	ndots    int
}

const maxAddrs = 4 // of a name that are of interest

func newResolver(conf, hosts string) *resolver {
	r := &resolver{hosts: parseHosts(hosts), ndots: 1}
	c := parseResolvConf(conf)
	for _, s := range c.Servers[:min(len(c.Servers), 3)] { // as the C library does
		if addr, err := netip.ParseAddr(s); err == nil {
			r.servers = append(r.servers, netip.AddrPortFrom(addr, 53))
		}
	}
	r.searches = c.Searches[:min(len(c.Searches), 6)]
	for _, o := range c.Options {
		if n, err := strconv.Atoi(strings.TrimPrefix(o, "ndots:")); err == nil && strings.HasPrefix(o, "ndots:") {
			r.ndots = n
		}
	}
	return r
}

// parseHosts reads a hosts file: address, names.
func parseHosts(text string) map[string][]netip.Addr {
	hosts := map[string][]netip.Addr{}
	s := bufio.NewScanner(strings.NewReader(text))
	for s.Scan() {
		line, _, _ := strings.Cut(s.Text(), "#")
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(f[0])
		if err != nil {
			continue
		}
		for _, name := range f[1:] {
			name = strings.ToLower(name)
			hosts[name] = append(hosts[name], addr)
		}
	}
	return hosts
}

// lookup returns what a name or address stands for, at least one address if the result is ReachOK.
func (r *resolver) lookup(ctx context.Context, host string) ([]netip.Addr, trysail.ReachResult) {
	if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return []netip.Addr{addr}, trysail.ReachOK
	}
	if addrs := r.hosts[strings.ToLower(strings.TrimSuffix(host, "."))]; len(addrs) > 0 {
		return addrs, trysail.ReachOK
	}
	result := trysail.ReachNoDNS
	for _, name := range r.candidates(host) {
		addrs, answered := r.ask(ctx, name)
		if len(addrs) > 0 {
			return addrs, trysail.ReachOK
		}
		if !answered {
			return nil, trysail.ReachNoDNS
		}
		result = trysail.ReachUnresolved
	}
	return nil, result
}

// candidates are the names that a name may be short for, in the order in which they are asked for.
func (r *resolver) candidates(host string) (names []string) {
	if strings.HasSuffix(host, ".") {
		return []string{host}
	}
	for _, s := range r.searches {
		names = append(names, host+"."+strings.TrimSuffix(s, ".")+".")
	}
	if strings.Count(host, ".") >= r.ndots {
		return append([]string{host + "."}, names...)
	}
	return append(names, host+".")
}

// ask asks for the addresses of a full name, one server after the other until one answers. Pods reach
// everything that has an IPv4 address by it, so the other kind is asked for if there is none of this.
func (r *resolver) ask(ctx context.Context, name string) (addrs []netip.Addr, answered bool) {
	deadline, _ := ctx.Deadline()
	for i, server := range r.servers {
		share, cancel := context.WithTimeout(ctx, time.Until(deadline)/time.Duration(len(r.servers)-i))
		for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
			var err error
			if addrs, err = query(share, server, name, kind); err != nil {
				answered = false
				break
			}
			if answered = true; len(addrs) > 0 {
				break
			}
		}
		cancel()
		if answered {
			return addrs, true
		}
	}
	return nil, false
}

// errServer is for a server that answers that it cannot answer.
var errServer = errors.New("the name server does not know how to answer")

// query asks one server, over UDP and if the answer is too long for that over TCP. No addresses and no error mean that
// there are none.
func query(ctx context.Context, server netip.AddrPort, name string, kind dnsmessage.Type) ([]netip.Addr, error) {
	question, id, err := newQuestion(name, kind)
	if errors.Is(err, errName) {
		return nil, nil // what is no name has no address
	}
	if err != nil {
		return nil, err
	}
	addrs, cut, err := exchange(ctx, "udp", server, question, id, kind)
	if cut && err == nil {
		addrs, _, err = exchange(ctx, "tcp", server, question, id, kind)
	}
	return addrs, err
}

// errName is for text that cannot be a name in the DNS.
var errName = errors.New("not a name")

func newQuestion(name string, kind dnsmessage.Type) (question []byte, id uint16, err error) {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, 0, errName
	}
	id = uint16(rand.Uint32()) //nolint:gosec // a test of what programs would get, which nobody relies on
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: kind, Class: dnsmessage.ClassINET}},
	}
	if question, err = m.Pack(); err != nil {
		return nil, 0, errName // an empty or too long part
	}
	return question, id, nil
}

// exchange sends a question and reads the answer to it.
func exchange(ctx context.Context, network string, server netip.AddrPort, question []byte, id uint16, kind dnsmessage.Type) (addrs []netip.Addr, cut bool, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, server.String())
	if err != nil {
		return nil, false, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, false, err
	}
	stream := network == "tcp"
	if stream {
		question = slices.Concat(binary.BigEndian.AppendUint16(nil, uint16(len(question))), question) //nolint:gosec // at most 512
	}
	if _, err := conn.Write(question); err != nil {
		return nil, false, err
	}
	for {
		answer, err := readAnswer(conn, stream)
		if err != nil {
			return nil, false, err
		}
		if len(answer) >= 2 && binary.BigEndian.Uint16(answer) == id {
			return parseAnswer(answer, kind)
		}
	}
}

func readAnswer(conn net.Conn, stream bool) ([]byte, error) {
	if !stream {
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		return buf[:n], err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(conn, buf)
	return buf, err
}

// parseAnswer reads the addresses from a message; cut is true if not all of them had room in it.
func parseAnswer(answer []byte, kind dnsmessage.Type) (addrs []netip.Addr, cut bool, err error) {
	var p dnsmessage.Parser
	h, err := p.Start(answer)
	if err != nil {
		return nil, false, err
	}
	if h.RCode != dnsmessage.RCodeSuccess && h.RCode != dnsmessage.RCodeNameError {
		return nil, false, errServer
	}
	if h.Truncated {
		return nil, true, nil
	}
	if err := p.SkipAllQuestions(); err != nil {
		return nil, false, err
	}
	for len(addrs) < maxAddrs {
		rh, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil {
			return nil, false, err
		}
		switch {
		case rh.Type == dnsmessage.TypeA && kind == rh.Type:
			a, err := p.AResource()
			if err != nil {
				return nil, false, err
			}
			addrs = append(addrs, netip.AddrFrom4(a.A))
		case rh.Type == dnsmessage.TypeAAAA && kind == rh.Type:
			a, err := p.AAAAResource()
			if err != nil {
				return nil, false, err
			}
			addrs = append(addrs, netip.AddrFrom16(a.AAAA))
		default: // a CNAME on the way
			if err := p.SkipAnswer(); err != nil {
				return nil, false, err
			}
		}
	}
	return addrs, false, nil
}
