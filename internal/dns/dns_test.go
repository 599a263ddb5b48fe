package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"
)

// upstream is a name server of the machine. It answers what handle returns; nil is silence.
type upstream struct {
	addr  netip.AddrPort
	asked atomic.Int32
}

func serveUpstream(t *testing.T, handle func(query []byte, stream bool) [][]byte) *upstream {
	t.Helper()
	u := &upstream{}
	var packets *net.UDPConn
	var streams *net.TCPListener
	for { // a port that is free for both
		var err error
		if packets, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			t.Fatal(err)
		}
		u.addr = netip.MustParseAddrPort(packets.LocalAddr().String())
		if streams, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(u.addr)); err == nil {
			break
		}
		packets.Close()
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := packets.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			u.asked.Add(1)
			for _, b := range handle(bytes.Clone(buf[:n]), false) {
				_, _ = packets.WriteToUDPAddrPort(b, from)
			}
		}
	})
	wg.Go(func() {
		for {
			c, err := streams.Accept()
			if err != nil {
				return
			}
			u.asked.Add(1)
			if q, err := readMessage(c); err == nil {
				for _, b := range handle(q, true) {
					_ = writeMessage(c, b)
				}
			}
			c.Close()
		}
	})
	t.Cleanup(func() { packets.Close(); streams.Close(); wg.Wait() })
	return u
}

// start starts a server whose clients are all on the loopback network, but not on 127.0.0.1, which is the server.
func start(t *testing.T, upstreams ...*upstream) *Server {
	t.Helper()
	var list []netip.AddrPort
	for _, u := range upstreams {
		list = append(list, u.addr)
	}
	s, err := Start(Config{
		Addr: netip.MustParseAddrPort("127.77.0.1:0"), Clients: netip.MustParsePrefix("127.0.0.0/8"),
		Upstreams: func() []netip.AddrPort { return list }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func query(t *testing.T, name string, kind dnsmessage.Type, edns int) []byte {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 4711, RecursionDesired: true})
	err := errors.Join(b.StartQuestions(), b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}))
	if edns > 0 {
		var h dnsmessage.ResourceHeader
		err = errors.Join(err, b.StartAdditionals(), h.SetEDNS0(edns, 0, false), b.OPTResource(h, dnsmessage.OPTResource{}))
	}
	q, finishErr := b.Finish()
	if err := errors.Join(err, finishErr); err != nil {
		t.Fatal(err)
	}
	return q
}

// respond makes the answer of an upstream: n addresses for the question.
func respond(q []byte, code dnsmessage.RCode, n int, truncated bool) []byte {
	var m dnsmessage.Message
	if m.Unpack(q) != nil {
		return nil
	}
	m.Response, m.RCode, m.Truncated, m.Additionals = true, code, truncated, nil
	for i := range n {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.AResource{A: [4]byte{192, 0, byte(i >> 8), byte(i)}},
		})
	}
	b, _ := m.Pack()
	return b
}

// said is what matters of an answer.
type said struct {
	Code          dnsmessage.RCode
	Authoritative bool
	Truncated     bool
	Addrs         []string
	TTL           uint32
	SOA, OPT      bool
}

func (s *Server) at() string { return netip.AddrPortFrom(s.cfg.Addr.Addr(), s.Port()).String() }

// exchange asks the server.
func (s *Server) exchange(t *testing.T, network string, q []byte) []byte {
	t.Helper()
	c, err := net.Dial(network, s.at())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if network == "tcp" {
		err = writeMessage(c, q)
	} else {
		_, err = c.Write(q)
	}
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	if network == "tcp" {
		b, err = readMessage(c)
	} else {
		b = make([]byte, 1<<16)
		var n int
		n, err = c.Read(b)
		b = b[:n]
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func read(t *testing.T, b []byte) (s said) {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		t.Fatalf("unpacking %x: %v", b, err)
	}
	if m.ID != 4711 || !m.Response {
		t.Errorf("id %d, response %v", m.ID, m.Response)
	}
	s.Code, s.Authoritative, s.Truncated = m.RCode, m.Authoritative, m.Truncated
	for _, r := range m.Answers {
		s.TTL = r.Header.TTL
		switch body := r.Body.(type) {
		case *dnsmessage.AResource:
			s.Addrs = append(s.Addrs, netip.AddrFrom4(body.A).String())
		case *dnsmessage.AAAAResource:
			s.Addrs = append(s.Addrs, netip.AddrFrom16(body.AAAA).String())
		}
	}
	for _, r := range m.Authorities {
		s.SOA = s.SOA || r.Header.Type == dnsmessage.TypeSOA
	}
	for _, r := range m.Additionals {
		s.OPT = s.OPT || r.Header.Type == dnsmessage.TypeOPT
	}
	return s
}

// asPod asks as a pod does: whoever comes from loopback is the machine.
func asPod(t *testing.T, s *Server, q []byte, stream bool) []byte {
	t.Helper()
	return s.answer(t.Context(), q, clientPod, stream)
}

func TestServer_AnswersPrivateNames(t *testing.T) {
	s := start(t)
	s.Set("api", netip.MustParseAddr("10.92.0.129"))
	s.Set("six", netip.MustParseAddr("10.92.0.130"), netip.MustParseAddr("fd00::5"))
	none := said{Authoritative: true, SOA: true}
	unknown := none
	unknown.Code = dnsmessage.RCodeNameError
	for _, tt := range []struct {
		name string
		kind dnsmessage.Type
		want said
	}{
		{"api.service.local.", dnsmessage.TypeA, said{Authoritative: true, Addrs: []string{"10.92.0.129"}, TTL: 5}},
		{"API.Service.LOCAL.", dnsmessage.TypeA, said{Authoritative: true, Addrs: []string{"10.92.0.129"}, TTL: 5}},
		{"api.service.local.", dnsmessage.TypeAAAA, none},
		{"api.service.local.", dnsmessage.TypeMX, none},
		{"six.service.local.", dnsmessage.TypeAAAA, said{Authoritative: true, Addrs: []string{"fd00::5"}, TTL: 5}},
		{"six.service.local.", dnsmessage.TypeALL, said{Authoritative: true, Addrs: []string{"10.92.0.130", "fd00::5"}, TTL: 5}},
		{"nobody.service.local.", dnsmessage.TypeA, unknown},
		{"sub.api.service.local.", dnsmessage.TypeA, unknown},
		{"service.local.", dnsmessage.TypeA, none},
	} {
		for _, network := range []string{"udp", "tcp"} {
			for _, edns := range []int{0, 4096} {
				want := tt.want
				want.OPT = edns > 0
				if diff := cmp.Diff(want, read(t, s.exchange(t, network, query(t, tt.name, tt.kind, edns)))); diff != "" {
					t.Errorf("%s %s over %s: %s", tt.name, tt.kind, network, diff)
				}
			}
		}
	}
	s.Remove("api")
	if got := read(t, s.exchange(t, "udp", query(t, "api.service.local.", dnsmessage.TypeA, 0))); got.Code != dnsmessage.RCodeNameError {
		t.Errorf("a service that is gone: %+v", got)
	}
}

func TestServer_CutsWhatDoesNotFit(t *testing.T) {
	s := start(t)
	var many []netip.Addr
	for i := range 100 {
		many = append(many, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
	}
	s.Set("many", many...)
	if got := read(t, s.exchange(t, "udp", query(t, "many.service.local.", dnsmessage.TypeA, 0))); !got.Truncated || len(got.Addrs) > 0 {
		t.Errorf("over UDP: %+v, want it cut", got)
	}
	if got := read(t, s.exchange(t, "tcp", query(t, "many.service.local.", dnsmessage.TypeA, 0))); got.Truncated || len(got.Addrs) != 100 {
		t.Errorf("over TCP: %d addresses, cut %v", len(got.Addrs), got.Truncated)
	}
}

func TestServer_ForwardsOtherNames(t *testing.T) {
	good := serveUpstream(t, func(q []byte, stream bool) [][]byte {
		switch {
		case bytes.Contains(q, []byte("\x07unknown")):
			return [][]byte{respond(q, dnsmessage.RCodeNameError, 0, false)}
		case bytes.Contains(q, []byte("\x03big")) && !stream:
			return [][]byte{respond(q, 0, 0, true)}
		case bytes.Contains(q, []byte("\x03big")):
			return [][]byte{respond(q, 0, 3000, false)}
		}
		return [][]byte{respond(q, 0, 1, false)}
	})
	failing := serveUpstream(t, func(q []byte, _ bool) [][]byte { return [][]byte{respond(q, dnsmessage.RCodeServerFailure, 0, false)} })
	s := start(t, failing, good)
	for _, stream := range []bool{false, true} {
		got := read(t, asPod(t, s, query(t, "example.com.", dnsmessage.TypeA, 1232), stream))
		if diff := cmp.Diff(said{Addrs: []string{"192.0.0.0"}, TTL: 60}, got); diff != "" {
			t.Errorf("stream %v: %s", stream, diff)
		}
		if got := read(t, asPod(t, s, query(t, "unknown.example.com.", dnsmessage.TypeA, 0), stream)); got.Code != dnsmessage.RCodeNameError {
			t.Errorf("stream %v: %+v, want that the name does not exist", stream, got)
		}
	}
	if got := read(t, asPod(t, s, query(t, "big.example.com.", dnsmessage.TypeA, 0), false)); !got.Truncated {
		t.Errorf("a big answer over UDP: %+v, want it cut", got)
	}
	if got := read(t, asPod(t, s, query(t, "big.example.com.", dnsmessage.TypeA, 0), true)); len(got.Addrs) != 3000 {
		t.Errorf("a big answer over TCP has %d addresses, want 3000", len(got.Addrs))
	}
	if failing.asked.Load() == 0 {
		t.Error("the first server was not asked")
	}
}

func TestServer_SaysWhenNobodyAnswers(t *testing.T) {
	silent := serveUpstream(t, func([]byte, bool) [][]byte { return nil })
	for name, s := range map[string]*Server{"none is known": start(t), "it is silent": start(t, silent)} {
		if got := read(t, asPod(t, s, query(t, "example.com.", dnsmessage.TypeA, 0), false)); got.Code != dnsmessage.RCodeServerFailure {
			t.Errorf("%s: %+v, want a failure", name, got)
		}
	}
}

// TestServer_TakesNoForgedAnswers: an answer under another id, to another question, or no answer at all is passed over.
func TestServer_TakesNoForgedAnswers(t *testing.T) {
	u := serveUpstream(t, func(q []byte, _ bool) [][]byte {
		otherID := respond(q, 0, 2, false)
		otherID[0]++
		otherName := bytes.Replace(respond(q, 0, 3, false), []byte("\x07example"), []byte("\x07exampel"), 1)
		return [][]byte{otherID, otherName, {1, 2, 3}, q, respond(q, 0, 1, false)}
	})
	s := start(t, u)
	if got := read(t, asPod(t, s, query(t, "example.com.", dnsmessage.TypeA, 0), false)); len(got.Addrs) != 1 {
		t.Errorf("%+v, want the one true address", got)
	}
}

// TestServer_DoesNotGoInCircles: the machine's resolver asks us, and we would ask it.
func TestServer_DoesNotGoInCircles(t *testing.T) {
	var us atomic.Pointer[Server]
	u := serveUpstream(t, func(q []byte, _ bool) [][]byte {
		s := us.Load()
		c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: s.cfg.Addr.Addr().AsSlice()}}).Dial("udp", s.at())
		if err != nil {
			return nil
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		_, _ = c.Write(q)
		b := make([]byte, 512)
		n, _ := c.Read(b)
		return [][]byte{b[:n]}
	})
	s := start(t, u)
	us.Store(s)
	if got := read(t, asPod(t, s, query(t, "example.com.", dnsmessage.TypeA, 0), false)); got.Code != dnsmessage.RCodeRefused {
		t.Errorf("%+v, want a refusal", got)
	}
	if n := u.asked.Load(); n != 1 {
		t.Errorf("the resolver was asked %d times", n)
	}
}

func TestServer_AnswersStrangersNothing(t *testing.T) {
	s, err := Start(Config{
		Addr: netip.MustParseAddrPort("127.77.0.2:0"), Clients: netip.MustParsePrefix("10.0.0.0/8"),
		Upstreams: func() []netip.AddrPort { return nil }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for addr, want := range map[string]bool{"10.1.2.3": true, "::ffff:10.1.2.3": true, "127.77.0.2": true, "127.0.0.1": true, "192.0.2.1": false, "11.0.0.1": false, "fe80::1": false} {
		if _, got := s.trust(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
}

func TestServer_TakesAnotherPortIfItsOwnIsTaken(t *testing.T) {
	first := start(t)
	second, err := Start(Config{Addr: netip.AddrPortFrom(first.cfg.Addr.Addr(), first.Port()), Upstreams: func() []netip.AddrPort { return nil }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if second.Port() == first.Port() || second.Port() == 0 {
		t.Errorf("port %d, the first has %d", second.Port(), first.Port())
	}
}

func TestServer_BoundsWhatOneClientHasUnderWay(t *testing.T) {
	l := newLimiter(3, 2)
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	got := []bool{l.enter(a), l.enter(a), l.enter(a), l.enter(b), l.enter(b)}
	if diff := cmp.Diff([]bool{true, true, false, true, false}, got); diff != "" {
		t.Error(diff)
	}
	l.leave(a)
	l.leave(a)
	l.leave(b)
	if l.total != 0 || len(l.clients) != 0 {
		t.Errorf("something is left: %+v", l)
	}
}

// TestServer_ServesManyOnOneConnection: queries follow each other, and an idle connection does not keep Close waiting.
func TestServer_ServesManyOnOneConnection(t *testing.T) {
	s := start(t)
	s.Set("api", netip.MustParseAddr("10.92.0.129"))
	c, err := net.Dial("tcp", s.at())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 100 {
		if err := writeMessage(c, query(t, "api.service.local.", dnsmessage.TypeA, 0)); err != nil {
			t.Fatal(err)
		}
		b, err := readMessage(c)
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, b); len(got.Addrs) != 1 {
			t.Fatalf("%+v", got)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestResolvers_FollowTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	list := Resolvers(file)
	if got := list(); len(got) != 0 {
		t.Errorf("no file: %v", got)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# comment\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver nonsense\nsearch a b\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n")
	if got := fmt.Sprint(list()); got != "[127.0.0.53:53 [fe80::1%eth0]:53 192.0.2.1:53]" {
		t.Errorf("%s", got)
	}
	write("nameserver 192.0.2.9\n")
	if got := fmt.Sprint(list()); got != "[192.0.2.9:53]" {
		t.Errorf("after a change: %s", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(list()); got != "[192.0.2.9:53]" {
		t.Errorf("while it is being replaced: %s", got)
	}
}

// FuzzServer_Answer: whatever arrives, the server does not fall, and answers no answers and nothing under another id.
func FuzzServer_Answer(f *testing.F) {
	t := &testing.T{}
	for _, seed := range [][]byte{
		nil,
		{0},
		make([]byte, 12), bytes.Repeat([]byte{0xff}, 600),
		query(t, "api.service.local.", dnsmessage.TypeA, 0), query(t, "api.service.local.", dnsmessage.TypeAAAA, 4096), query(t, "example.com.", dnsmessage.TypeA, 0),
		append(query(t, "service.local.", dnsmessage.TypeA, 0), 0xc0, 0x0c), // what follows the message
		{0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c, 0, 1, 0, 1},        // a name that points to itself
		{0, 1, 0x28, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1},              // an update
	} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	s := &Server{cfg: Config{Upstreams: func() []netip.AddrPort { return nil }, Log: slog.New(slog.DiscardHandler)}, names: map[string][]netip.Addr{}}
	s.Set("api", netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1"))
	f.Fuzz(func(t *testing.T, q []byte, stream bool) {
		b := s.answer(context.Background(), q, clientPod, stream)
		if b == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(b); err != nil {
			t.Fatalf("%x is answered by %x: %v", q, b, err)
		}
		switch {
		case q[2]&0x80 != 0:
			t.Fatalf("the answer %x is answered", q)
		case m.ID != binary.BigEndian.Uint16(q) || !m.Response:
			t.Fatalf("%x is answered by %x", q, b)
		case !stream && len(b) > udpSize:
			t.Fatalf("%d bytes over UDP", len(b))
		case len(b) > 3*len(q)+200:
			t.Fatalf("%d bytes are answered with %d", len(q), len(b))
		}
	})
}

// BenchmarkServer_Private is the making of an answer, without its way through the network.
func BenchmarkServer_Private(b *testing.B) {
	s := &Server{cfg: Config{Upstreams: func() []netip.AddrPort { return nil }}, names: map[string][]netip.Addr{}}
	s.Set("api", netip.MustParseAddr("10.0.0.1"))
	q := query(&testing.T{}, "api.service.local.", dnsmessage.TypeA, 1232)
	b.ReportAllocs()
	for b.Loop() {
		if s.answer(b.Context(), q, clientPod, false) == nil {
			b.Fatal("no answer")
		}
	}
}
