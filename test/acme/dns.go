// Package acme has what certificates are tested with: a name server that takes dynamic updates, and Pebble, the certificate
// authority of Let's Encrypt's own tests, with a door in front of it.
package acme

import (
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const (
	// TSIGName is the name of the key that updates are signed with.
	TSIGName = "trysail-test."
	// TSIGSecret is that key, in base64.
	TSIGSecret = "c2VjcmV0IG9mIHRoZSB0ZXN0cyBvZiB0cnlzYWls"
	// Zone is the one that takes updates.
	Zone = "apps.example.net"
)

// NameServer is a DNS server with records of the test's, which takes dynamic updates for Zone.
type NameServer struct {
	Addr string // host:port, UDP and TCP

	mu      sync.Mutex
	records map[string][]dns.RR // by lower-case name with dot
}

// NewNameServer starts one that ends with the test.
func NewNameServer(tb testing.TB) *NameServer {
	tb.Helper()
	s := &NameServer{records: map[string][]dns.RR{}}
	pc, l := bothPorts(tb)
	s.Addr = l.Addr().String()
	accept := func(h dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }
	for _, srv := range []*dns.Server{{PacketConn: pc}, {Listener: l}} {
		srv.Handler, srv.TsigSecret, srv.MsgAcceptFunc = s, map[string]string{TSIGName: TSIGSecret}, accept
		started, done := make(chan struct{}), make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(done)
			if err := srv.ActivateAndServe(); err != nil {
				tb.Errorf("name server: %v", err)
			}
		}()
		<-started
		tb.Cleanup(func() {
			if err := srv.Shutdown(); err != nil {
				tb.Error(err)
			}
			<-done
		})
	}
	return s
}

// bothPorts listens on a port that is free for UDP and TCP.
func bothPorts(tb testing.TB) (net.PacketConn, net.Listener) {
	tb.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		if pc, err := net.ListenPacket("udp", l.Addr().String()); err == nil {
			return pc, l
		}
		l.Close()
	}
	tb.Fatal("no port is free for UDP and TCP")
	return nil, nil
}

// ServeDNS answers.
func (s *NameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(q)
	if q.Opcode == dns.OpcodeUpdate {
		s.update(w, q, m)
	} else {
		s.answer(q.Question[0], m)
	}
	_ = w.WriteMsg(m)
}

func (s *NameServer) answer(q dns.Question, m *dns.Msg) {
	name := strings.ToLower(q.Name)
	for range 8 {
		set, known := s.records[name]
		if !known {
			m.Rcode = dns.RcodeNameError
			return
		}
		next := ""
		for _, rr := range set {
			if rr.Header().Rrtype == q.Qtype {
				m.Answer = append(m.Answer, rr)
			} else if c, ok := rr.(*dns.CNAME); ok {
				m.Answer = append(m.Answer, rr)
				next = strings.ToLower(c.Target)
			}
		}
		if next == "" || q.Qtype == dns.TypeCNAME {
			return
		}
		name = next
	}
}

// update carries out a dynamic update, if it is signed and within the zone.
func (s *NameServer) update(w dns.ResponseWriter, q, m *dns.Msg) {
	if q.IsTsig() == nil || w.TsigStatus() != nil || q.Question[0].Name != Zone+"." {
		m.Rcode = dns.RcodeNotAuth
		return
	}
	m.SetTsig(TSIGName, dns.HmacSHA256, 300, time.Now().Unix())
	for _, rr := range q.Ns {
		name := strings.ToLower(rr.Header().Name)
		if rr.Header().Class == dns.ClassINET {
			s.records[name] = append(s.records[name], rr)
			continue
		}
		gone := dns.Copy(rr)
		gone.Header().Class = dns.ClassINET
		s.records[name] = slices.DeleteFunc(s.records[name], func(have dns.RR) bool { return dns.IsDuplicate(have, gone) })
		if len(s.records[name]) == 0 {
			delete(s.records, name)
		}
	}
}

// Set replaces the records of a name, written as in a zone file.
func (s *NameServer) Set(tb testing.TB, name string, records ...string) {
	tb.Helper()
	var list []dns.RR
	for _, r := range records {
		rr, err := dns.NewRR(name + ". 60 IN " + r)
		if err != nil {
			tb.Fatal(err)
		}
		list = append(list, rr)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[name+"."] = list
}

// Remove takes a name away.
func (s *NameServer) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, name+".")
}

// Has reports whether there is a record of the name, which ends with a dot.
func (s *NameServer) Has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records[name]) > 0
}
