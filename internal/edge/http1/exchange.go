package http1

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Why an exchange ends before it is complete, on the client's side or by Interrupt. What a pod does wrong are the errors of
// its connection, io.ErrUnexpectedEOF, *ParseError, or os.ErrDeadlineExceeded when its answer did not come in time.
var (
	ErrClientLeft    = errors.New("the client left")
	ErrClientStalled = errors.New("the client did not go on")
	ErrInterrupted   = errors.New("interrupted")
	ErrBadBody       = errors.New("the body of the request cannot be read")
	ErrTooLarge      = errors.New("the body of the request is too large")
	errUnread        = errors.New("the rest is not wanted")
	errShortBody     = bad("the body ended too early")
	errUpgrade       = errors.New("the pod changed to a protocol that nobody asked for")
	errInterim       = errors.New("the pod sent too many 1xx answers")
)

const (
	// watchAfter is how long a pod may be silent before somebody looks whether the client is still there.
	watchAfter = 100 * time.Millisecond
	// continueAfter is how long a client that waits for 100 Continue is left waiting for what the pod says.
	continueAfter = time.Second
	// maxInterim is how many 1xx answers a pod may send.
	maxInterim = 16
)

// Meter is told what passes, while it passes: the bytes of bodies and in tunnels.
type Meter interface {
	Received(n int) // from the client
	Sent(n int)     // to the client
}

// FieldSet is a set of fields.
type FieldSet uint32

// Fields makes a FieldSet.
func Fields(ids ...FieldID) (s FieldSet) {
	for _, id := range ids {
		s |= 1 << id
	}
	return s
}

func (s FieldSet) has(id FieldID) bool { return id != Other && s&(1<<id) != 0 }

// Exchange is a request and its answer. It is valid until the handler returns; only Interrupt may be called by others.
type Exchange struct {
	Request  Request
	Response Response // of the pod; valid after Ask
	// Meter may be set by the handler.
	Meter Meter
	// MaxBody may be set by the handler: how many bytes the body may have, 0 for any number.
	MaxBody int64
	// Local is for the handler: it is kept for the next request of the connection.
	Local any

	c        *conn
	up       *upstream // set under mu
	pool     *Pool     // of up
	reused   bool      // up has had a request before
	upload   *upload   // nil if the body came with the head, or is not sent yet
	touched  bool      // some of the body may be with a pod
	halt     atomic.Bool
	out      *[]byte // what is written next
	resp     *[]byte // what came from the pod: resp[rpos:rn]
	buf      []byte  // *resp, or a larger one
	large    bool    // how large out and resp are; see resize
	rpos, rn int
	relayed  int // bytes that came from the pod before those

	expecting  bool      // the client waits for 100 Continue,
	continueAt time.Time // until then
	slow       bool      // the pod was silent for watchAfter
	waiting    bool      // for the head of the answer,
	answerBy   time.Time // until then; zero while the request has not ended
	surplus    bool      // the pod sent more than its answer
	status     int       // of the answer that the client got; 0 before its head

	pokes       atomic.Int32
	interrupted atomic.Bool

	// mu guards what Interrupt needs.
	mu         sync.Mutex
	live       bool // between begin and finish
	answered   bool // the head of the answer is going out
	tunnel     bool
	cancelDial context.CancelFunc // nil when no dial is under way
}

// begin readies the exchange for a request.
func (x *Exchange) begin() {
	x.Meter, x.MaxBody, x.up, x.upload, x.touched = nil, 0, nil, nil, false
	x.rpos, x.rn, x.relayed, x.buf = 0, 0, 0, nil
	x.expecting, x.slow, x.waiting, x.surplus = false, false, false, false
	x.answerBy, x.status = time.Time{}, 0
	x.halt.Store(false)
	x.interrupted.Store(false)
	x.c.interimAnswers = 0
	x.out, x.large = x.c.srv.outs.get(), true
	x.mu.Lock()
	x.live, x.answered, x.tunnel = true, false, false
	x.mu.Unlock()
}

// finish ends what is still going on.
func (x *Exchange) finish() {
	x.mu.Lock()
	x.live = false
	x.mu.Unlock()
	x.stopUpload()
	x.c.unwatch()
	x.drop()
	out, resp := x.pools()
	if x.out != nil {
		out.put(x.out)
	}
	if x.resp != nil {
		resp.put(x.resp)
	}
	x.out, x.resp, x.buf = nil, nil, nil
	if x.status == 0 && !x.c.moved {
		x.c.closeAfter = true
	}
	if !x.c.body.ended && !x.c.moved {
		x.c.closeAfter, x.c.linger = true, true
	}
}

// pools are where out and resp are from.
func (x *Exchange) pools() (out, resp *buffers) {
	if x.large {
		return &x.c.srv.outs, &x.c.srv.bodies
	}
	return &x.c.srv.heads, &x.c.srv.heads
}

// resize exchanges both buffers, in which there must be nothing. Who has to wait does that with small ones: there may be
// thousands that wait for something to happen.
func (x *Exchange) resize(large bool) {
	if large == x.large {
		return
	}
	out, resp := x.pools()
	out.put(x.out)
	resp.put(x.resp)
	x.large = large
	out, resp = x.pools()
	x.out, x.resp = out.get(), resp.get()
	x.buf = *x.resp
}

// RemoteAddr is the other end of the client's connection.
func (x *Exchange) RemoteAddr() net.Addr { return x.c.raw.RemoteAddr() }

// TLS is the state of the client's connection, nil if it is a plain one.
func (x *Exchange) TLS() *tls.ConnectionState { return x.c.tls }

// HasBody reports whether the request has a body.
func (x *Exchange) HasBody() bool { return x.Request.hasBody() }

// BodyLength is how many bytes the body has, -1 if that is not known yet.
func (x *Exchange) BodyLength() int64 {
	if x.Request.Chunked {
		return -1
	}
	return max(x.Request.Length, 0)
}

// Touched reports whether a part of the body may be with a pod, so that it cannot be sent again.
func (x *Exchange) Touched() bool { return x.touched }

// Status is that of the answer that the client got, 0 if it got none. That of a tunnel is 101.
func (x *Exchange) Status() int { return x.status }

// HandOver gives the connection, with this request, to Config.Elsewhere. It must be the first and last call.
func (x *Exchange) HandOver() { x.c.moved = true }

func (x *Exchange) received(n int) {
	if x.Meter != nil && n > 0 {
		x.Meter.Received(n)
	}
}

func (x *Exchange) sent(n int) {
	if x.Meter != nil && n > 0 {
		x.Meter.Sent(n)
	}
}

// Interrupt ends what waits, from any goroutine. A request without an answer can still be given one. It does nothing after
// the handler has returned.
func (x *Exchange) Interrupt() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.live {
		return
	}
	x.interrupted.Store(true)
	if x.cancelDial != nil {
		x.cancelDial()
	}
	switch {
	case x.tunnel:
		// Closing TLS in good order may wait, so both are closed beneath it.
		x.c.raw.Close()
		closeRaw(x.up.Conn)
		return
	case x.answered:
		_ = x.c.raw.SetWriteDeadline(longAgo)
	}
	x.poke(x.up)
}

func closeRaw(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	conn.Close()
}

// poke makes await look around.
func (x *Exchange) poke(u *upstream) {
	x.pokes.Add(1)
	if u != nil {
		_ = u.SetReadDeadline(longAgo)
	}
}

// setUp makes u the connection to the pod.
func (x *Exchange) setUp(u *upstream) {
	x.mu.Lock()
	x.up = u
	x.mu.Unlock()
}

// drop closes the connection to the pod, if there is one.
func (x *Exchange) drop() {
	if u := x.up; u != nil {
		x.setUp(nil)
		u.Close()
	}
}

// Ask sends the request to a pod and waits for the head of its answer, other than 1xx. fields are lines that go with it, and
// without says which of the client's do not. It may be called again after an error if Touched is false.
func (x *Exchange) Ask(p *Pool, fields []byte, without FieldSet) error {
	for fresh := false; ; fresh = true {
		u, err := x.connect(p, fresh)
		if err != nil {
			return err
		}
		x.setUp(u)
		x.pool = p
		x.rpos, x.rn, x.surplus = 0, 0, false
		err = x.ask(u, x.appendRequest((*x.out)[:0], fields, without))
		if err == nil {
			return nil
		}
		x.stopUpload()
		x.c.unwatch()
		x.drop()
		if !x.reused || x.rn > 0 || x.HasBody() || !harmless(x.Request.Method) || !broken(err) {
			return err
		}
		// The pod closed the connection while it was idle, or just when the request came: nobody has seen it.
	}
}

// harmless reports whether a method changes nothing, so that it may be sent twice.
func harmless(method []byte) bool {
	switch string(method) {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return true
	}
	return false
}

// broken reports whether the connection is the matter.
func broken(err error) bool {
	return !isTimeout(err) && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || isOpError(err))
}

func isOpError(err error) bool {
	_, ok := errors.AsType[*net.OpError](err)
	return ok
}

// connect returns an idle connection, or a new one.
func (x *Exchange) connect(p *Pool, fresh bool) (*upstream, error) {
	if x.interrupted.Load() {
		return nil, ErrInterrupted
	}
	if !fresh {
		if u := p.get(x.c.now(), x.c.loop); u != nil {
			x.reused = true
			return x.bring(u), nil
		}
	}
	x.reused = false
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	x.mu.Lock()
	x.cancelDial = cancel
	x.mu.Unlock()
	var conn net.Conn
	var err error
	x.c.aside(func() { conn, err = p.Dial(ctx) })
	x.mu.Lock()
	x.cancelDial = nil
	x.mu.Unlock()
	switch {
	case x.interrupted.Load():
		if err == nil {
			conn.Close()
		}
		return nil, ErrInterrupted
	case err != nil:
		return nil, err
	}
	return x.bring(newUpstream(conn, x.c.sock != nil)), nil
}

// bring brings a pod's connection to the client's loop, or that one away from it: both are served by the same.
func (x *Exchange) bring(u *upstream) *upstream {
	if l := x.c.loop; l != nil && !u.moveTo(l) {
		x.c.leave()
	}
	return u
}

// appendRequest appends the head as it goes to the pod, and the body if all of it came with the head.
func (x *Exchange) appendRequest(b, fields []byte, without FieldSet) []byte {
	r := &x.Request
	b = append(append(b, r.Method...), ' ')
	b = appendPath(b, r.Path)
	if r.HasQuery {
		b = append(append(b, '?'), r.Query...)
	}
	b = append(append(append(b, " HTTP/1.1\r\nHost: "...), r.Host...), crlf...)
	whole := x.HasBody() && x.c.body.whole()
	x.expecting = r.expect && x.HasBody() && !whole
	for i := range r.Fields {
		f := &r.Fields[i]
		if f.HopByHop() && (f.ID != Trailer || !r.Chunked || f.hop) || without.has(f.ID) {
			continue
		}
		b = append(append(append(append(b, f.Name...), ": "...), f.Value...), crlf...)
	}
	switch {
	case r.Chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case r.Length >= 0:
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), r.Length, 10), crlf...)
	case string(r.Method) == http.MethodPost, string(r.Method) == http.MethodPut, string(r.Method) == http.MethodPatch:
		b = append(b, "Content-Length: 0\r\n"...) // some servers insist on it
	}
	if x.expecting {
		b = append(b, "Expect: 100-continue\r\n"...)
	}
	if r.upgrade != nil {
		b = append(append(append(b, "Connection: Upgrade\r\nUpgrade: "...), r.upgrade...), crlf...)
	}
	if r.trailers {
		b = append(b, "TE: trailers\r\n"...)
	}
	b = append(append(b, fields...), crlf...)
	if whole {
		b = append(b, x.c.in[x.c.pos:x.c.pos+int(x.c.body.left)]...)
	}
	return b
}

// EscapedPath is the path as it goes to the pod.
func (r *Request) EscapedPath() []byte {
	if all(r.Path, isPath) {
		return r.Path
	}
	return appendPath(nil, r.Path)
}

// appendPath appends a path; bytes that must not be in one are escaped, as browsers do and some programs forget.
func appendPath(b, path []byte) []byte {
	const hex = "0123456789ABCDEF"
	if all(path, isPath) {
		return append(b, path...)
	}
	for _, c := range path {
		if class[c]&isPath != 0 {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return b
}

// ask sends what b holds, and the rest of the body, and reads the head of the answer.
func (x *Exchange) ask(u *upstream, b []byte) error {
	now := x.c.now()
	cfg := &x.c.srv.cfg
	u.writeWithin(now, cfg.IdleTimeout)
	if x.HasBody() && x.c.body.whole() {
		x.touched = true
		x.received(int(x.c.body.left))
	}
	if _, err := u.Write(b); err != nil {
		return err
	}
	x.waiting, x.answerBy, x.slow = true, time.Time{}, false
	switch {
	case x.c.body.ended:
		x.answerBy = now.Add(cfg.ResponseTimeout)
	case x.c.body.whole():
		x.c.pos += int(x.c.body.left)
		x.c.body.left, x.c.body.ended = 0, true
		x.answerBy = now.Add(cfg.ResponseTimeout)
	case x.expecting:
		x.continueAt = now.Add(continueAfter)
	default:
		x.startUpload()
	}
	for {
		if err := x.readResponse(); err != nil {
			return err
		}
		r := &x.Response
		switch {
		case r.Status == http.StatusSwitchingProtocols:
			if x.Request.upgrade == nil || !bytes.EqualFold(r.upgrade, x.Request.upgrade) {
				return errUpgrade
			}
		case r.Status == http.StatusContinue:
			if x.expecting {
				if err := x.goOn(); err != nil {
					return err
				}
			}
			continue
		case r.Status < 200:
			if err := x.interim(); err != nil {
				return err
			}
			continue
		}
		x.waiting = false
		return nil
	}
}

// goOn lets a client send its body that waits for that.
func (x *Exchange) goOn() error {
	x.expecting = false
	x.startUpload()
	return x.c.write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
}

// interim passes a 1xx answer on. Clients of HTTP/1.0 do not know them.
func (x *Exchange) interim() error {
	if x.c.interimAnswers++; x.c.interimAnswers > maxInterim {
		return errInterim
	}
	if x.Request.Minor == 0 {
		return nil
	}
	b := x.appendStatus((*x.out)[:0], x.Response.Status, x.Response.Reason)
	b = append(x.appendFields(b, 0), crlf...)
	return x.c.write(b)
}

// readResponse reads the next head that the pod sends, which begins at rpos.
func (x *Exchange) readResponse() error {
	if x.resp == nil {
		_, resp := x.pools()
		x.resp = resp.get()
	}
	if x.buf == nil {
		x.buf = *x.resp
	}
	x.rn = copy(x.buf, x.buf[x.rpos:x.rn])
	x.rpos = 0
	for scanned := 0; ; {
		end, err := headEnd(x.buf[:x.rn], scanned, false)
		if err != nil {
			return err
		}
		if end > x.c.srv.cfg.MaxPodHeadBytes || end == 0 && x.rn >= x.c.srv.cfg.MaxPodHeadBytes {
			return errHeadSize
		}
		if end > 0 {
			x.rpos = end
			return x.Response.parse(x.buf[:end])
		}
		if x.rn >= 5 && string(x.buf[:5]) != "HTTP/" {
			return errStatusLine
		}
		scanned = x.rn
		if x.rn == len(x.buf) {
			x.buf = append(make([]byte, 0, 2*x.rn), x.buf...)[:2*x.rn]
		}
		n, err := x.await(x.rn)
		x.rn += n
		if n == 0 && err != nil {
			if err == io.EOF && x.rn > 0 { //nolint:errorlint // connections return it as it is
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// await reads from the pod, into the buffer from position at on. Meanwhile it notices what else may end the exchange, and does
// what has its time.
func (x *Exchange) await(at int) (int, error) {
	u := x.up
	for {
		pokes := x.pokes.Load()
		now := x.c.now()
		if err := x.lookAround(now); err != nil {
			return 0, err
		}
		switch {
		case x.waiting && x.expecting:
			u.readBy(x.continueAt)
		case !x.slow && (!x.waiting || x.answerBy.IsZero() || x.answerBy.Sub(now) > 2*watchAfter):
			u.readWithin(now, watchAfter)
		case x.waiting:
			u.readBy(x.answerBy)
		default:
			u.readBy(time.Time{})
		}
		if x.pokes.Load() != pokes {
			continue
		}
		n, err := u.Read(x.buf[at:])
		if n > 0 || !isTimeout(err) {
			return n, err
		}
		if !u.read.IsZero() && !x.c.now().Before(u.read) {
			x.slow = true
			if at == 0 {
				x.resize(false)
			}
		}
		u.read = time.Time{}
	}
}

// lookAround does what else there is to do while the pod is silent, and reports what ends the exchange.
func (x *Exchange) lookAround(now time.Time) error {
	switch {
	case x.interrupted.Load():
		return ErrInterrupted
	case x.c.clientLeft():
		return ErrClientLeft
	case x.upload != nil && x.upload.ended():
		if x.upload.err != nil {
			if _, malformed := errors.AsType[*ParseError](x.upload.err); malformed {
				return fmt.Errorf("%w: %w", ErrBadBody, x.upload.err)
			}
			return x.upload.err
		}
		if x.waiting && x.answerBy.IsZero() {
			x.answerBy = now.Add(x.c.srv.cfg.ResponseTimeout)
		}
	}
	if x.waiting {
		switch {
		case x.expecting && !now.Before(x.continueAt):
			return x.goOn()
		case !x.answerBy.IsZero() && !now.Before(x.answerBy):
			return os.ErrDeadlineExceeded
		}
	}
	if x.slow && !x.uploading() && x.c.body.ended {
		x.c.watch()
	}
	return nil
}

// write sends b to the client.
func (c *conn) write(b []byte) error {
	c.writeWithin(c.now(), c.srv.cfg.IdleTimeout)
	if c.x.interrupted.Load() && c.x.answered {
		return ErrInterrupted
	}
	err := c.send(b)
	switch {
	case err == nil:
		return nil
	case c.x.interrupted.Load():
		return ErrInterrupted
	case isTimeout(err):
		return ErrClientStalled
	default:
		return ErrClientLeft
	}
}

// send writes b to the client; with TLS, as few writes as can be.
func (c *conn) send(b []byte) error {
	if secure, ok := c.net.(*tls.Conn); ok && len(b) > recordSize {
		if g, ok := secure.NetConn().(*gatherer); ok {
			return g.writeTo(secure, b)
		}
	}
	_, err := c.net.Write(b)
	return err
}
