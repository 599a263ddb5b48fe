package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// upstreamTime is how long one of the machine's resolvers may take, before the next one is asked.
	upstreamTime = 2 * time.Second
	// forwardTime is how long all of them may take: clients ask again after five seconds.
	forwardTime = 5 * time.Second
	// maxAnswer is the largest answer over UDP.
	maxAnswer = 1<<16 - 1
)

// forward asks the machine's resolvers and returns the first useful answer, else the last one; nil if there is none. An
// answer that was cut is passed on as it is: the client comes again over TCP.
func (s *Server) forward(ctx context.Context, query []byte, q dnsmessage.Question, stream bool) (last []byte) {
	ctx, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	for _, server := range s.cfg.Upstreams() {
		if server.Addr() == s.cfg.Addr.Addr() {
			continue // that is us
		}
		answer, err := s.ask(ctx, server, query, q, stream)
		if err != nil {
			if ctx.Err() != nil {
				return last
			}
			s.cfg.Log.DebugContext(ctx, "a name server does not answer", "server", server, "error", err)
			continue
		}
		last = answer
		if code := dnsmessage.RCode(answer[3] & 0xf); code != dnsmessage.RCodeServerFailure && code != dnsmessage.RCodeRefused {
			return answer
		}
	}
	return last
}

// ask sends a query under an id of our own and returns the answer under the client's.
func (s *Server) ask(ctx context.Context, server netip.AddrPort, query []byte, q dnsmessage.Question, stream bool) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTime)
	defer cancel()
	network := "udp"
	if stream {
		network = "tcp"
	}
	c, err := connect(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	defer context.AfterFunc(ctx, func() { c.Close() })()

	var id [2]byte
	_, _ = rand.Read(id[:]) // it cannot fail
	ours := append(id[:2:2], query[2:]...)
	if stream {
		err = writeMessage(c, ours)
	} else {
		_, err = c.Write(ours)
	}
	if err != nil {
		return nil, err
	}
	buf := s.buffers.Get().(*[maxAnswer]byte) //nolint:errcheck,forcetypeassert // it holds nothing else
	defer s.buffers.Put(buf)
	for {
		var answer []byte
		if stream {
			answer, err = readMessage(c)
		} else {
			var n int
			n, err = c.Read(buf[:])
			answer = buf[:n]
		}
		if err != nil {
			return nil, err
		}
		if !answers(answer, binary.BigEndian.Uint16(id[:]), q) {
			continue // of somebody who guesses; the true one may still come
		}
		answer = append([]byte(nil), answer...)
		copy(answer, query[:2])
		return answer, nil
	}
}

// connect makes a connection of its own for each query over UDP as well: what guesses the answer has to guess its port.
func connect(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	if network == "udp" {
		return net.DialUDP(network, nil, net.UDPAddrFromAddrPort(server)) // it does not wait
	}
	return new(net.Dialer).DialContext(ctx, network, server.String())
}

// answers reports whether b is an answer to the question under the id.
func answers(b []byte, id uint16, q dnsmessage.Question) bool {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || !h.Response || h.ID != id {
		return false
	}
	got, err := p.Question()
	if err != nil {
		return h.RCode != dnsmessage.RCodeSuccess // some servers leave it out of a refusal
	}
	return got.Type == q.Type && got.Class == q.Class && strings.EqualFold(got.Name.String(), q.Name.String())
}
