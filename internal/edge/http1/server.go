package http1

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// arrivalTime is how long a client that has connected, and has not asked for anything yet, may keep a server from stopping.
const arrivalTime = 2 * time.Second

// Config is what a Server is made from. All fields but TLS, Elsewhere and Malformed are required.
type Config struct {
	// Handler answers a request by Respond, or by Ask and Relay, or gives it away by HandOver. If it does none of these the
	// connection is closed.
	Handler func(*Exchange)
	// Malformed answers by Respond what is not a request; nothing else of the exchange may be used. Nil: an empty answer.
	Malformed func(x *Exchange, status int)
	// TLS is how to speak with clients; nil: not at all.
	TLS *tls.Config
	// Elsewhere takes connections over that speak another protocol than HTTP/1.1 after their handshake, or that the
	// handler gave away. It must not wait.
	Elsewhere func(net.Conn)

	// HeaderTimeout bounds the handshake and, on its own, the head of a request. IdleTimeout is how long a client may be
	// without a request, take for the next bytes of a body, or leave bytes unread, and a pod may leave bytes unread.
	// ResponseTimeout is from the end of a request to the head of the answer. Grace is how long a client may take to
	// notice that nobody wants the rest of what it sends.
	HeaderTimeout, IdleTimeout, ResponseTimeout, Grace time.Duration
	// MaxHeadBytes and MaxPodHeadBytes bound the heads of requests and answers.
	MaxHeadBytes, MaxPodHeadBytes int

	// Loops is how many loops serve what is simple; 0: none. The runtime is made to have more Ps than loops, since they keep theirs.
	Loops int

	Log *slog.Logger

	parkAfter time.Duration // as the constant, if it is zero
	early     bool          // for tests: a loop serves the first request as well
}

// Server serves HTTP/1.1.
type Server struct {
	cfg     Config
	heads   buffers
	bodies  buffers
	outs    buffers
	records buffers
	date    atomic.Pointer[dateLine]
	closing atomic.Bool    // answers are the last ones on their connections
	group   sync.WaitGroup // one per connection
	accepts sync.WaitGroup // one per listener

	// mu guards what follows.
	mu        sync.Mutex
	conns     map[*conn]struct{} // without those that are parked
	listeners []net.Listener
	stopped   bool    // nothing is accepted any more
	lot       *lot    // nil before Serve
	loops     []*loop // likewise; does not change then
}

// parkAfter is how long a connection may be without a request before its goroutine and its buffers go.
const parkAfter = time.Second

// NewServer makes a server.
func NewServer(cfg Config) *Server {
	cfg.parkAfter = cmp.Or(cfg.parkAfter, parkAfter)
	return &Server{
		cfg: cfg, conns: map[*conn]struct{}{},
		heads: buffers{size: headSize}, bodies: buffers{size: bodySize}, outs: buffers{size: outSize}, records: buffers{size: gatherSize},
	}
}

// Serve accepts connections until Shutdown; then the error is http.ErrServerClosed.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return errors.Join(http.ErrServerClosed, l.Close())
	}
	if err := errors.Join(s.openLot(), s.openLoops()); err != nil {
		s.mu.Unlock()
		return errors.Join(err, l.Close())
	}
	s.accepts.Add(1)
	defer s.accepts.Done()
	s.listeners = append(s.listeners, l)
	s.mu.Unlock()
	pause := time.Duration(0)
	for {
		nc, err := l.Accept()
		if err != nil && s.isStopped() {
			return http.ErrServerClosed
		}
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Temporary() { //nolint:staticcheck // too many open files, for one
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.cfg.Log.Warn("accepting a connection", "error", err)
			time.Sleep(pause)
			continue
		}
		if err != nil {
			return err
		}
		pause = 0
		c := s.accepted(nc)
		c.state.Store(fresh)
		s.start(c)
	}
}

func (s *Server) isStopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

// openLot makes the place for connections without requests. The caller holds s.mu.
func (s *Server) openLot() (err error) {
	if s.lot != nil {
		return nil
	}
	expire := func(p *parked) { s.group.Go(func() { p.net.Close() }) } // that of TLS may wait
	if s.lot, err = newLot(s.resume, expire); err == nil {
		s.group.Go(s.lot.run)
	}
	return err
}

func (s *Server) newConn(nc net.Conn) *conn {
	c := &conn{srv: s, raw: nc, net: nc}
	c.conn = nc
	c.x.c = c
	c.body.c = c
	return c
}

// openLoops starts the loops. The caller holds s.mu.
func (s *Server) openLoops() error {
	if len(s.loops) > 0 {
		return nil
	}
	for range s.cfg.Loops {
		l, err := newLoop(s)
		if err != nil {
			return err
		}
		s.loops = append(s.loops, l)
		go l.run() // Shutdown waits for it
	}
	if enough := s.cfg.Loops + 2; s.cfg.Loops > 0 && runtime.GOMAXPROCS(0) < enough {
		runtime.GOMAXPROCS(enough)
	}
	return nil
}

// accepted makes a conn of what a listener gave.
func (s *Server) accepted(nc net.Conn) *conn {
	if len(s.loops) == 0 {
		return s.newConn(nc)
	}
	sock := newSocket(nc)
	if sock == nil {
		return s.newConn(nc)
	}
	c := s.newConn(sock)
	c.sock = sock
	return c
}

// start serves a connection on a goroutine of its own.
func (s *Server) start(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		c.raw.Close()
		return
	}
	s.conns[c] = struct{}{}
	s.group.Go(func() { s.serve(c) })
}

// serve serves a connection as long as there is something to do, and brings it to where it waits for more. It is called by a
// goroutine of the connection's own, or by its loop, or begins with one and ends with the other.
func (s *Server) serve(c *conn) {
	c.run()
	l := c.loop
	switch {
	case c.resting && l != nil:
		l.rest(c.sock)
		return
	case c.resting && emptiest(s.loops).adopt(c):
		return
	}
	s.forget(c)
	switch {
	case c.parked != nil && s.lot.park(c.parked):
	case c.parked != nil, c.resting:
		c.net.Close()
	}
	if l != nil {
		c.sock.guest.c = nil
		l.leave()
	}
}

// forget is the counterpart of start and revive.
func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// canPark reports whether the connection can wait for its next request in the lot.
func (c *conn) canPark() bool {
	_, ok := c.raw.(syscall.Conn)
	return (ok || c.sock != nil) && c.srv.cfg.IdleTimeout > c.srv.cfg.parkAfter
}

// park is what waits there.
func (c *conn) park() *parked {
	return &parked{raw: c.raw, net: c.net, hadBody: c.hadBody, until: time.Now().Add(c.srv.cfg.IdleTimeout - c.srv.cfg.parkAfter)}
}

// resume serves a parked connection again.
func (s *Server) resume(p *parked) {
	s.start(s.known(p.raw, p.net, p.hadBody))
}

// known makes a conn of one that has had requests before. What speaks to the client is raw, or the *tls.Conn on it.
func (s *Server) known(raw, speaks net.Conn, hadBody bool) *conn {
	c := s.newConn(raw)
	c.net, c.conn = speaks, speaks
	if secure, ok := speaks.(*tls.Conn); ok {
		state := secure.ConnectionState()
		c.tls = &state
	}
	c.requests, c.hadBody = 1, hadBody
	return c
}

// revive makes the conn of a connection that was cold.
func (s *Server) revive(speaks net.Conn, sock *socket, hadBody bool) *conn {
	c := s.known(sock, speaks, hadBody)
	c.sock = sock
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
	return c
}

// Shutdown stops accepting, closes idle connections and waits for requests and tunnels under way, and for arrivalTime for the
// first requests of those who have just come. When ctx ends first they are cut, and ctx's error is returned. After it nothing
// of the server runs any more.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.stopped = true
	for _, l := range s.listeners {
		_ = l.Close() // nobody accepts from it any more
	}
	s.mu.Unlock()
	s.accepts.Wait() // who was accepted is served
	s.mu.Lock()
	s.closing.Store(true)
	if s.lot != nil {
		for _, p := range s.lot.close() {
			p.raw.Close()
		}
	}
	s.mu.Unlock()
	for _, l := range s.loops {
		l.post(l.closeResting)
	}
	s.closeThose(idle)
	done := make(chan struct{})
	go func() {
		s.group.Wait()
		for _, l := range s.loops {
			l.halt()
		}
		close(done)
	}()
	late := time.NewTimer(arrivalTime)
	defer late.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-late.C:
			s.closeThose(fresh)
		case <-ctx.Done():
			s.mu.Lock()
			for c := range s.conns {
				c.raw.Close()
				c.x.Interrupt()
			}
			s.mu.Unlock()
			<-done
			return ctx.Err()
		}
	}
}

// closeThose closes the connections in a state.
func (s *Server) closeThose(state int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.state.CompareAndSwap(state, gone) {
			c.raw.Close()
		}
	}
}

// dateLine is a Date field of one second.
type dateLine struct {
	second int64
	line   []byte
}

// appendDate appends the Date field of now.
func (s *Server) appendDate(b []byte, now time.Time) []byte {
	d := s.date.Load()
	if second := now.Unix(); d == nil || d.second != second {
		d = &dateLine{second: second}
		d.line = append(now.UTC().AppendFormat([]byte("Date: "), http.TimeFormat), crlf...)
		s.date.Store(d)
	}
	return append(b, d.line...)
}
