package http1

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
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
		heads: buffers{size: headSize}, bodies: buffers{size: bodySize}, outs: buffers{size: outSize},
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

// The states of a connection.
const (
	idle   int32 = iota // no request is under way: it may be closed
	fresh               // likewise, but whoever has just connected is about to ask for something
	active              // a request is under way
	gone                // Shutdown closed it
)

// conn is a connection from a client. Its goroutine owns everything in it that is not said to be others' too.
type conn struct {
	deadlines
	srv   *Server
	raw   net.Conn // as accepted
	net   net.Conn // raw, or the *tls.Conn on it
	tls   *tls.ConnectionState
	state atomic.Int32 // shared with Shutdown

	// in[pos:n] has come and was not used yet; the head of the current request is in[start:taken].
	in             []byte
	head           *[]byte // what in was, if it is from the server's pool
	pos, n         int
	start, taken   int
	requests       int
	hadBody        bool    // the last request
	closeAfter     bool    // the request under way is the last one
	linger         bool    // what the client still sends has to be read before the connection is closed
	moved          bool    // somebody else has the connection now
	parked         *parked // likewise, if it is not nil
	sock           *socket // raw, if loops can have it
	loop           *loop   // which serves it now; nil: a goroutine does
	resting        bool    // a loop shall wait for the next request
	heavy          bool    // it left its loop, where it comes back to when it has had no requests for a while
	streak         int     // requests served since it began to run
	watched        bool    // its loop pokes it when something comes
	body           body
	x              Exchange
	watcher        *watcher
	interimAnswers int
}

// run serves the connection until it ends, or is to be parked.
func (c *conn) run() {
	c.resting, c.streak = false, 0
	defer func() {
		if fault := recover(); fault != nil {
			c.srv.cfg.Log.Error("panic while serving a request", "panic", fmt.Sprint(fault), "stack", string(debug.Stack()))
			c.x.finish()
		}
		if !c.moved && c.parked == nil && !c.resting {
			c.net.Close()
		}
		c.release()
	}()
	if c.srv.cfg.TLS != nil && c.net == c.raw && !c.handshake() {
		return
	}
	for c.readHead() {
		c.serve()
		if c.moved {
			c.leave()
			c.srv.cfg.Elsewhere(c.replay())
			return
		}
		c.requests++
		if c.closeAfter || !c.state.CompareAndSwap(active, idle) {
			break
		}
		if c.srv.closing.Load() {
			return
		}
		if c.streak++; c.streak%maxStreak == 0 {
			c.turnOver()
		}
	}
	if c.linger || c.pos < c.n {
		c.lingeringClose()
	}
}

// busy says that a request is under way, and reports whether it can be: the connection is not closed.
func (c *conn) busy() bool {
	for {
		switch was := c.state.Load(); was {
		case active:
			return true
		case gone:
			return false
		default:
			if c.state.CompareAndSwap(was, active) {
				return true
			}
		}
	}
}

// release gives the buffer back.
func (c *conn) release() {
	if c.head != nil {
		c.srv.heads.put(c.head)
	}
	c.head, c.in = nil, nil
}

// handshake does what TLS needs, and reports whether HTTP/1.1 follows.
func (c *conn) handshake() bool {
	secure := tls.Server(c.raw, c.srv.cfg.TLS)
	_ = c.raw.SetDeadline(time.Now().Add(c.srv.cfg.HeaderTimeout)) // if it fails, so does the handshake
	if err := secure.Handshake(); err != nil {                     //nolint:noctx // the deadline bounds it
		if re, ok := errors.AsType[tls.RecordHeaderError](err); ok && re.Conn != nil && looksLikeHTTP(re.RecordHeader) {
			_, _ = re.Conn.Write([]byte("HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"))
		}
		c.srv.cfg.Log.Debug("TLS handshake failed", "client", c.raw.RemoteAddr(), "error", err)
		return false
	}
	_ = c.raw.SetDeadline(time.Time{})
	c.net, c.conn = secure, secure
	state := secure.ConnectionState()
	c.tls = &state
	if p := state.NegotiatedProtocol; p != "" && p != "http/1.1" && c.srv.cfg.Elsewhere != nil {
		if c.busy() {
			c.moved = true
			c.srv.cfg.Elsewhere(secure)
		}
		return false
	}
	return true
}

func looksLikeHTTP(head [5]byte) bool {
	switch string(head[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "PATCH", "DELET":
		return true
	}
	return false
}

// readHead waits for the next request and reads its head. It reports whether there is one that can be served; a client
// that sent something else was answered.
func (c *conn) readHead() bool {
	c.closeAfter, c.linger = false, false
	limit := c.srv.cfg.IdleTimeout
	if c.requests == 0 {
		limit = c.srv.cfg.HeaderTimeout
	} else if c.canPark() {
		limit = c.srv.cfg.parkAfter
	}
	light := c.sock != nil && !c.heavy && (c.requests > 0 || c.srv.cfg.early)
	var headBy time.Time // when it must be whole
	scanned := 0
	for {
		if c.hadBody && c.n-c.pos >= 2 && string(c.in[c.pos:c.pos+2]) == crlf {
			c.pos += 2 // some clients send one more after a body
			c.hadBody = false
		}
		if c.n > c.pos {
			if !c.busy() {
				return false
			}
			end, err := headEnd(c.in[c.pos:c.n], scanned, true)
			if err == nil && (end == 0 && c.n-c.pos >= c.srv.cfg.MaxHeadBytes || end > c.srv.cfg.MaxHeadBytes) {
				err = errHeadSize
			}
			if err == nil && end > 0 {
				c.start, c.taken, c.pos = c.pos, c.pos+end, c.pos+end
				err = c.x.Request.parse(c.in[c.start:c.taken])
			}
			if err == nil && end == 0 && headBy.IsZero() {
				err = c.firstLine() // what is not even HTTP gets its answer without waiting
			}
			if err != nil {
				c.malformed(err)
				return false
			}
			if end > 0 {
				return true
			}
			scanned = c.n - c.pos
			if headBy.IsZero() {
				headBy = time.Now().Add(c.srv.cfg.HeaderTimeout)
				c.readBy(headBy)
			}
		} else {
			c.pos, c.n = 0, 0
			switch {
			case c.loop != nil:
				c.sock.try = true
			case light:
				c.resting = true
				return false
			default:
				c.readWithin(time.Now(), limit)
			}
		}
		err := c.fill()
		if c.sock != nil {
			c.sock.try = false
		}
		if err != nil {
			if c.pos == c.n && isTimeout(err) {
				c.idle()
			}
			return false
		}
	}
}

// idle has the connection wait for its next request somewhere else.
func (c *conn) idle() {
	switch {
	case c.loop != nil:
		c.resting = true
	case c.requests == 0 || !c.canPark(): // its time is over
	case c.sock != nil:
		c.resting = true
	default:
		c.parked = c.park()
	}
}

// firstLine looks at the first line of a head that is not whole yet, if that is.
func (c *conn) firstLine() error {
	i := bytes.IndexByte(c.in[c.pos:c.n], '\n')
	if i < 1 {
		return nil
	}
	var r Request
	_, err := r.parseLine(c.in[c.pos : c.pos+i-1])
	return err
}

// fill reads what the client sends next. It makes room if there is none.
func (c *conn) fill() error {
	if c.in == nil {
		c.head = c.srv.heads.get()
		c.in = *c.head
	}
	if c.n == len(c.in) && c.pos > 0 {
		c.n = copy(c.in, c.in[c.pos:c.n])
		c.pos = 0
	}
	if c.n == len(c.in) {
		bigger := make([]byte, 2*len(c.in))
		copy(bigger, c.in)
		if c.head != nil {
			c.srv.heads.put(c.head)
		}
		c.in, c.head = bigger, nil
	}
	n, err := c.net.Read(c.in[c.n:])
	c.n += n
	if n > 0 {
		return nil
	}
	return err
}

// malformed answers what is not a request. What follows it cannot be understood either.
func (c *conn) malformed(err error) {
	status := http.StatusBadRequest
	if pe, ok := errors.AsType[*ParseError](err); ok {
		status = pe.Status
	}
	x := &c.x
	x.Request = Request{head: head{Fields: x.Request.Fields[:0], Length: -1, Minor: 1, close: true}}
	x.begin()
	defer x.finish()
	c.closeAfter, c.linger = true, true
	if c.srv.cfg.Malformed == nil {
		_ = x.Respond(status, nil, nil)
		return
	}
	c.srv.cfg.Malformed(x, status)
}

// serve has the handler answer the request.
func (c *conn) serve() {
	x, r := &c.x, &c.x.Request
	c.closeAfter = !r.persistent() || string(r.Method) == http.MethodConnect // who asked for a tunnel may send anything
	c.hadBody = r.hasBody()
	c.body = body{c: c, left: max(r.Length, 0), chunked: r.Chunked, ended: !r.hasBody()}
	if c.hadBody || len(r.upgrade) == 0 || containsFold(r.upgrade, "h2c") {
		// Ignoring an upgrade is always allowed. One to HTTP/2 would open a tunnel for requests nobody looks at.
		r.upgrade = nil
	}
	x.begin()
	c.srv.cfg.Handler(x)
	x.finish()
}

// lingeringClose closes the client's way first and reads what is on its way, for otherwise the kernel throws the answer
// away.
func (c *conn) lingeringClose() {
	if c.state.Swap(idle) == gone {
		return
	}
	c.leave()
	_ = c.raw.SetDeadline(time.Now().Add(c.srv.cfg.Grace)) // also bounds what follows
	if secure, ok := c.net.(*tls.Conn); ok {
		_ = secure.CloseWrite() // the alert that ends the stream
	}
	if closeWrite(c.raw) != nil || c.srv.closing.Load() {
		return
	}
	buf := c.srv.bodies.get()
	defer c.srv.bodies.put(buf)
	for left := 4 << 20; left > 0; {
		n, err := c.raw.Read(*buf)
		if left -= n; err != nil {
			return
		}
	}
}

func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

func containsFold(b []byte, lower string) bool {
	for i := 0; i+len(lower) <= len(b); i++ {
		if equalFold(b[i:i+len(lower)], lower) {
			return true
		}
	}
	return false
}

// replay is the connection as if nothing had been read of the current request.
func (c *conn) replay() net.Conn {
	r := &replayed{Conn: c.net, early: append([]byte(nil), c.in[c.start:c.n]...), tls: c.tls}
	_ = c.net.SetDeadline(time.Time{}) // if it fails, so does the next read
	if c.tls == nil {
		return r
	}
	return secured{r}
}

// replayed is a connection of which the beginning of what the client sends was read already.
type replayed struct {
	net.Conn
	early []byte
	tls   *tls.ConnectionState
}

// Read reads what came early first.
func (r *replayed) Read(p []byte) (int, error) {
	if len(r.early) > 0 {
		n := copy(p, r.early)
		r.early = r.early[n:]
		return n, nil
	}
	return r.Conn.Read(p)
}

// CloseWrite ends what is sent.
func (r *replayed) CloseWrite() error { return closeWrite(r.Conn) }

// secured is a replayed connection with TLS, of which net/http asks the state.
type secured struct{ *replayed }

// ConnectionState is that of the handshake.
func (s secured) ConnectionState() tls.ConnectionState { return *s.tls }

// watcher waits for what a client does that has nothing to do but to wait.
type watcher struct {
	done chan struct{} // closed when it has ended; the rest is set by then
	n    int
	left bool // the client did, or closed its side, which looks the same
}

// watch begins to read from the client; what comes belongs to the next request. It does nothing if there is no room for it.
func (c *conn) watch() {
	if c.watcher != nil || c.n == len(c.in) {
		return
	}
	if c.loop != nil && !c.sock.readable { // the loop sees it
		c.watched = true
		return
	}
	heavy := c.heavy
	c.leave()
	c.heavy = heavy // it is just a pod that takes its time
	w := &watcher{done: make(chan struct{})}
	c.watcher = w
	c.readBy(time.Time{})
	u, room := c.x.up, c.in[c.n:]
	go func() {
		var err error
		w.n, err = c.net.Read(room)
		w.left = err != nil && !isTimeout(err)
		close(w.done)
		if w.left {
			c.x.poke(u)
		}
	}()
}

// unwatch ends the watch.
func (c *conn) unwatch() {
	w := c.watcher
	c.watched = false
	if w == nil {
		return
	}
	c.watcher = nil
	_ = c.net.SetReadDeadline(longAgo)
	<-w.done
	c.readBy(time.Time{})
	c.n += w.n
	if w.left {
		c.closeAfter = true
	}
}

// clientLeft reports whether the watch has seen that.
func (c *conn) clientLeft() bool {
	if c.watcher == nil {
		return false
	}
	select {
	case <-c.watcher.done:
		return c.watcher.left
	default:
		return false
	}
}
