// Package dns is the pods' name server: it knows the private names of services, <service>.service.local, and asks the
// machine's own resolvers for all others, whose answers it passes on as they are.
//
// It has no cache: the machine's resolvers have one, and what it knows itself may change at any moment.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// zone holds the private names.
const zone = "service.local."

const (
	// maxQueries bounds the queries under way, and maxPerClient those of one client; those beyond are not answered, and
	// clients ask again.
	maxQueries   = 4096
	maxPerClient = 256
	// maxStreams bounds the TCP connections, of all and of one client.
	maxStreams          = 512
	maxStreamsPerClient = 64
	// readers is how many goroutines read queries over UDP, and answer those for private names.
	readers = 4
	// streamIdle is how long a TCP connection may be idle.
	streamIdle = 10 * time.Second
)

// Config says how to serve. All fields but TakesIPv6 are required.
type Config struct {
	// Addr is where to listen. If somebody has that port already, another one is taken; see Server.Port.
	Addr netip.AddrPort
	// Clients are who is answered, besides this machine. This machine gets private names only, so that a query of ours
	// that comes back by way of its resolver ends here.
	Clients netip.Prefix
	// Upstreams lists the name servers for all other names, in the order in which they are asked.
	Upstreams func() []netip.AddrPort
	// TakesIPv6 says whether clients of a service are told its IPv6 addresses, at each such question; nil: always.
	TakesIPv6 func(service string) bool
	Log       *slog.Logger
}

// Server answers from Start to Close. Its methods are safe for concurrent use.
type Server struct {
	cfg     Config
	port    uint16
	packets *net.UDPConn
	streams *net.TCPListener
	wg      sync.WaitGroup
	ctx     context.Context //nolint:containedctx // of the queries under way; Close ends it
	stop    context.CancelFunc
	buffers sync.Pool // of *[maxAnswer]byte

	mu      sync.Mutex // guards all below
	names   map[string][]netip.Addr
	queries limiter
	conns   limiter
	open    map[net.Conn]bool
}

// Start listens and answers.
func Start(cfg Config) (*Server, error) {
	s := &Server{
		cfg: cfg, names: map[string][]netip.Addr{}, open: map[net.Conn]bool{},
		queries: newLimiter(maxQueries, maxPerClient), conns: newLimiter(maxStreams, maxStreamsPerClient),
	}
	s.buffers.New = func() any { return new([maxAnswer]byte) }
	if err := s.listen(); err != nil {
		return nil, fmt.Errorf("opening the pods' name server: %w", err)
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	for range readers {
		s.wg.Go(s.servePackets)
	}
	s.wg.Go(s.serveStreams)
	return s, nil
}

// tries is how often another port is tried: it must be free for UDP and TCP.
const tries = 10

// listen takes the port, or one that the kernel chooses.
func (s *Server) listen() error {
	at := s.cfg.Addr
	var errs []error
	for range tries {
		packets, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err == nil {
			bound, _ := netip.ParseAddrPort(packets.LocalAddr().String())
			streams, tcpErr := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(bound))
			if tcpErr == nil {
				s.packets, s.streams, s.port = packets, streams, bound.Port()
				return nil
			}
			packets.Close()
			err = tcpErr
		}
		errs = append(errs, err)
		at = netip.AddrPortFrom(at.Addr(), 0)
	}
	return errors.Join(errs...)
}

// Port is where the server listens.
func (s *Server) Port() uint16 { return s.port }

// Close stops. Queries under way are not answered.
func (s *Server) Close() error {
	s.stop()
	err := errors.Join(s.packets.Close(), s.streams.Close())
	s.mu.Lock()
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

// Set makes <service>.service.local stand for the addresses. With none the name is known and has no address.
func (s *Server) Set(service string, addrs ...netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[strings.ToLower(service)] = addrs
}

// Remove forgets the name.
func (s *Server) Remove(service string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.names, strings.ToLower(service))
}

func (s *Server) lookup(service string) (addrs []netip.Addr, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	addrs, known = s.names[service]
	return addrs, known
}

// enter counts one more use by the client, if there may be one.
func (s *Server) enter(l *limiter, client netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return l.enter(client)
}

func (s *Server) leave(l *limiter, client netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.leave(client)
}

// limiter counts what is under way, in all and by client.
type limiter struct {
	max, perClient, total int
	clients               map[netip.Addr]int
}

func newLimiter(most, perClient int) limiter {
	return limiter{max: most, perClient: perClient, clients: map[netip.Addr]int{}}
}

func (l *limiter) enter(client netip.Addr) bool {
	if l.total >= l.max || l.clients[client] >= l.perClient {
		return false
	}
	l.total++
	l.clients[client]++
	return true
}

func (l *limiter) leave(client netip.Addr) {
	l.total--
	if l.clients[client]--; l.clients[client] <= 0 {
		delete(l.clients, client)
	}
}
