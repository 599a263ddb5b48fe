package dns

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"
)

// maxPacket is the largest query over UDP that is looked at; no client has reason to send more.
const maxPacket = 4096

// servePackets answers over UDP until the socket is closed. Several goroutines do so.
func (s *Server) servePackets() {
	buf := make([]byte, maxPacket)
	for {
		n, from, err := s.packets.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.pause() // of an earlier answer, mostly; at worst of a machine without memory
			continue
		}
		who, ok := s.trust(from.Addr())
		if !ok {
			continue
		}
		answer, others := s.answerHere(buf[:n], who, false)
		if answer != nil {
			_, _ = s.packets.WriteToUDPAddrPort(answer, from) // who is gone does not want it
		}
		if others == nil || !s.enter(&s.queries, from.Addr()) {
			continue
		}
		query := append([]byte(nil), buf[:n]...)
		s.wg.Go(func() {
			defer s.leave(&s.queries, from.Addr())
			if answer := s.answerOthers(s.ctx, query, others, false); answer != nil {
				_, _ = s.packets.WriteToUDPAddrPort(answer, from)
			}
		})
	}
}

// pause keeps a failure that does not go away from using up a processor.
func (s *Server) pause() {
	select {
	case <-s.ctx.Done():
	case <-time.After(10 * time.Millisecond):
	}
}

// serveStreams answers over TCP until the listener is closed.
func (s *Server) serveStreams() {
	for {
		c, err := s.streams.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.pause()
			continue
		}
		remote, _ := netip.ParseAddrPort(c.RemoteAddr().String())
		from := remote.Addr().Unmap()
		who, ok := s.trust(from)
		if !ok || !s.enter(&s.conns, from) {
			c.Close()
			continue
		}
		s.mu.Lock()
		s.open[c] = true
		s.mu.Unlock()
		if s.ctx.Err() != nil { // Close may have gone through the list before
			c.Close()
		}
		s.wg.Go(func() {
			s.serveStream(c, from, who)
			c.Close()
			s.mu.Lock()
			delete(s.open, c)
			s.mu.Unlock()
			s.leave(&s.conns, from)
		})
	}
}

// serveStream answers one query after the other.
func (s *Server) serveStream(c *net.TCPConn, from netip.Addr, who client) {
	for {
		_ = c.SetDeadline(time.Now().Add(streamIdle))
		query, err := readMessage(c)
		if err != nil || !s.enter(&s.queries, from) {
			return
		}
		answer := s.answer(s.ctx, query, who, true)
		s.leave(&s.queries, from)
		if answer == nil || writeMessage(c, answer) != nil {
			return
		}
	}
}

// client says what one may ask for.
type client int

const (
	clientPod     client = iota // everything
	clientMachine               // private names
)

// trust reports whether the client is answered at all.
func (s *Server) trust(a netip.Addr) (client, bool) {
	a = a.Unmap()
	if a == s.cfg.Addr.Addr() || a.IsLoopback() {
		return clientMachine, true
	}
	return clientPod, s.cfg.Clients.Contains(a)
}

// readMessage reads a message with its length before it.
func readMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeMessage(w io.Writer, b []byte) error {
	if len(b) > 1<<16-1 {
		return errors.New("dns: message too long")
	}
	_, err := w.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, len(b)+2), uint16(len(b))), b...)) //nolint:gosec // just checked
	return err
}
