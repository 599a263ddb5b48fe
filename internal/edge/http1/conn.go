package http1

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"
)

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
	secure := tls.Server(&gatherer{Conn: c.raw, pool: &c.srv.records}, c.srv.cfg.TLS)
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
