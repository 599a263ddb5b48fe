package edge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/time/rate"
)

const (
	// altSvcAge is for how many seconds clients may remember that there is HTTP/3.
	altSvcAge = 3600
	// unverified is how many new QUIC connections a second are taken from addresses that may be forged. Beyond that a client
	// has to show first that it gets what is sent there, which costs it a round trip.
	unverified = 100
	// excessiveLoad is H3_EXCESSIVE_LOAD of RFC 9114.
	excessiveLoad = 0x107
)

// http3Server serves HTTP/3. It is nil where that is off.
type http3Server struct {
	udp       net.PacketConn
	transport *quic.Transport
	server    *http3.Server
	conns     *quicLimiter

	// mu guards what follows.
	mu       sync.Mutex
	inFlight int
	idle     chan struct{} // closed when inFlight becomes 0; nil unless somebody waits
}

// listenHTTP3 opens the UDP port with the number of the HTTPS listener's.
func (e *Edge) listenHTTP3(secure net.Listener, h http.Handler) (*http3Server, error) {
	udp, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", secure.Addr().String())
	if err != nil {
		return nil, fmt.Errorf("listening on %s over UDP (--http3): %w", secure.Addr(), err)
	}
	fresh := rate.NewLimiter(unverified, unverified)
	s := &http3Server{
		udp:       udp,
		transport: &quic.Transport{Conn: udp, VerifySourceAddress: func(net.Addr) bool { return !fresh.Allow() }},
	}
	s.server = &http3.Server{
		Handler:        s.counted(h),
		MaxHeaderBytes: e.cfg.MaxHeaderBytes,
		IdleTimeout:    e.cfg.IdleTimeout,
	}
	listener, err := s.transport.Listen(http3.ConfigureTLSConfig(e.tlsConfig()), &quic.Config{
		HandshakeIdleTimeout: e.cfg.HeaderTimeout,
		MaxIdleTimeout:       e.cfg.IdleTimeout,
		KeepAlivePeriod:      e.cfg.IdleTimeout / 3, // a quiet answer is no reason to give up; idle clients are closed by the server above
		MaxIncomingStreams:   int64(e.cfg.MaxStreams),
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listening on %s over UDP (--http3): %w", secure.Addr(), err), s.transport.Close(), udp.Close())
	}
	s.conns = &quicLimiter{listener, e.newLimit()}
	return s, nil
}

// serve serves until shutdown.
func (s *http3Server) serve() error { return s.server.ServeListener(s.conns) }

// counted counts the requests in flight.
func (s *http3Server) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.count(1)
		defer s.count(-1)
		h.ServeHTTP(w, r)
	})
}

func (s *http3Server) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight += n
	if s.inFlight == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// wait returns when no request is in flight, or with ctx's error.
func (s *http3Server) wait(ctx context.Context) error {
	s.mu.Lock()
	if s.inFlight == 0 {
		s.mu.Unlock()
		return nil
	}
	if s.idle == nil {
		s.idle = make(chan struct{})
	}
	idle := s.idle
	s.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// shutdown tells the clients that no further requests are taken, waits for those in flight until ctx ends, and closes all
// connections. Unlike the server's own it does not wait for clients to hang up, which idle ones need not do.
func (s *http3Server) shutdown(ctx context.Context) error {
	hangUp, done := context.WithCancel(ctx)
	var leaving sync.WaitGroup
	leaving.Go(func() { _ = s.server.Shutdown(hangUp) }) // ends with the server's Close
	err := s.wait(ctx)
	if err == nil {
		s.flush(ctx)
	}
	done()
	leaving.Wait()
	return errors.Join(err, s.close())
}

// flush gives the last bytes of answers a moment to arrive: closing a QUIC connection drops what is still on its way.
func (s *http3Server) flush(ctx context.Context) {
	select {
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
	}
}

// close frees the port. Nothing must be served any more.
func (s *http3Server) close() error {
	return errors.Join(s.conns.Close(), s.transport.Close(), s.udp.Close())
}

// quicLimiter accepts no more connections than it may.
type quicLimiter struct {
	*quic.Listener
	limit *connLimit
}

// Accept waits for the next connection that is within the limits.
func (l *quicLimiter) Accept(ctx context.Context) (*quic.Conn, error) {
	for {
		conn, err := l.Listener.Accept(ctx)
		if err != nil {
			return nil, err
		}
		client := addrOf(conn.RemoteAddr())
		if l.limit.admit(client) {
			context.AfterFunc(conn.Context(), func() { l.limit.release(client) }) //nolint:contextcheck // the connection is given back when it ends
			return conn, nil
		}
		_ = conn.CloseWithError(excessiveLoad, "too many connections") // it is gone in any case
	}
}
