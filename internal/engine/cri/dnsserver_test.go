package cri_test

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// dnsServer is a name server on an address of its own that pods can reach.
type dnsServer struct {
	addr    netip.Addr
	overTCP atomic.Bool // somebody has asked over TCP

	mu    sync.Mutex // guards names
	names map[string]netip.Addr
}

func (s *dnsServer) set(name string, addr netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[name] = addr
}

func serveDNS(t *testing.T) *dnsServer {
	t.Helper()
	s := &dnsServer{addr: netip.MustParseAddr("198.51.100.53"), names: map[string]netip.Addr{}}
	const link = "tstdns0"
	for _, args := range [][]string{{"link", "add", link, "type", "bridge"}, {"addr", "add", s.addr.String() + "/32", "dev", link}, {"link", "set", link, "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
		if args[1] == "add" && args[0] == "link" {
			t.Cleanup(func() { _ = exec.Command("ip", "link", "del", link).Run() })
		}
	}
	packets, err := net.ListenPacket("udp", netip.AddrPortFrom(s.addr, 53).String())
	if err != nil {
		t.Fatal(err)
	}
	streams, err := net.Listen("tcp", netip.AddrPortFrom(s.addr, 53).String())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		packets.Close()
		streams.Close()
		wg.Wait()
	})
	wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := packets.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := s.answer(buf[:n], false); answer != nil {
				_, _ = packets.WriteTo(answer, from)
			}
		}
	})
	wg.Go(func() {
		for {
			conn, err := streams.Accept()
			if err != nil {
				return
			}
			s.overTCP.Store(true)
			var size [2]byte
			if _, err := io.ReadFull(conn, size[:]); err == nil {
				buf := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(conn, buf); err == nil {
					answer := s.answer(buf, true)
					_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
				}
			}
			conn.Close()
		}
	})
	return s
}

// answer answers a question; nil is silence. What is asked for big.test is cut over UDP.
func (s *dnsServer) answer(question []byte, stream bool) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	s.mu.Lock()
	addr, known := s.names[q.Name.String()]
	s.mu.Unlock()
	m.Response = true
	switch {
	case q.Name.String() == "silent.test.":
		return nil
	case q.Name.String() == "broken.test.":
		m.RCode = dnsmessage.RCodeServerFailure
	case q.Name.String() == "big.test." && !stream:
		m.Truncated = true
	case !known:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		alias := dnsmessage.MustNewName("alias.test.")
		m.Answers = []dnsmessage.Resource{
			{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeCNAME, Class: q.Class}, Body: &dnsmessage.CNAMEResource{CNAME: alias}},
			{Header: dnsmessage.ResourceHeader{Name: alias, Type: q.Type, Class: q.Class}, Body: &dnsmessage.AResource{A: addr.As4()}},
		}
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}
