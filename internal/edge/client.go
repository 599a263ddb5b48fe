package edge

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// longAgo as a deadline ends what is waiting.
var longAgo = time.Unix(1, 0)

// watchdog bounds single operations, not their sum: a transfer may take for ever as long as it goes on. Unlike a
// deadline on the connection it leaves nothing behind while no operation runs, which HTTP/2 streams and quiet
// answers need.
type watchdog struct {
	limit  time.Duration
	expire func()
	timer  *time.Timer // nil until the first operation
}

func (d *watchdog) start() {
	if d.timer == nil {
		d.timer = time.AfterFunc(d.limit, d.expire)
		return
	}
	d.timer.Reset(d.limit)
}

func (d *watchdog) stop() { d.timer.Stop() }

// clientBody is the body of a request, as it comes in.
type clientBody struct {
	io.ReadCloser
	x       *exchange
	rc      *http.ResponseController
	dog     watchdog
	grace   time.Duration
	touched atomic.Bool // something may have been read
	ended   atomic.Bool // it was read to its end
	failed  atomic.Bool // it has no good end
	// unsure says that others may see another end: it was chunked, and net/http does not tell whether a Content-Length
	// contradicted that. Then the connection has to be closed (RFC 9112, 6.1).
	unsure  bool
	stalled atomic.Bool // because the client stopped sending
	// limit is how many bytes there may be; 0 if there is none. A body that has more is tooLarge.
	limit    int64
	tooLarge atomic.Bool
}

func newClientBody(x *exchange, body io.ReadCloser, cfg *Config) *clientBody {
	rc := x.client.rc
	b := &clientBody{ReadCloser: body, x: x, rc: rc, grace: cfg.grace()}
	if x.guard != nil {
		b.limit = x.guard.rules.MaxBody
	}
	b.dog = watchdog{limit: cfg.IdleTimeout, expire: func() {
		b.stalled.Store(true)
		_ = rc.SetReadDeadline(longAgo) // ends the Read that is waiting
	}}
	return b
}

// Read reads what the client sent.
func (b *clientBody) Read(p []byte) (int, error) {
	b.touched.Store(true)
	b.dog.start()
	n, err := b.ReadCloser.Read(p)
	b.dog.stop()
	b.x.received(n)
	if b.limit > 0 && b.x.in.Load() > b.limit {
		b.tooLarge.Store(true) // there is more to come, so it has not ended
		return 0, errTooLarge
	}
	if err != nil {
		// After one that failed, nobody knows where the next request begins.
		whole := errors.Is(err, io.EOF)
		b.failed.Store(!whole)
		b.ended.Store(whole)
	}
	return n, err
}

// abandon is called when the answer is complete. If the body is not, the server wants to skip a reasonable rest of
// it, and a read may still be going on; neither shall wait for a client that does not send.
func (b *clientBody) abandon() {
	if !b.ended.Load() {
		_ = b.rc.SetReadDeadline(time.Now().Add(b.grace))
	}
}

// clientWriter is the way back to the client. It ends the request when the client does not read.
type clientWriter struct {
	http.ResponseWriter
	x        *exchange
	rc       *http.ResponseController
	dog      watchdog
	body     *clientBody              // of an HTTP/1 request that has one
	answered atomic.Bool              // the final header is out
	tunnel   atomic.Pointer[net.Conn] // after Hijack
	stalled  atomic.Bool              // the client did not read
	failed   atomic.Bool              // something could not be sent
	status   int                      // of the answer; 0 before its header
}

func newClientWriter(w http.ResponseWriter, x *exchange, limit time.Duration) *clientWriter {
	cw := &clientWriter{ResponseWriter: w, x: x, rc: http.NewResponseController(w)}
	cw.dog = watchdog{limit: limit, expire: func() {
		cw.stalled.Store(true)
		_ = cw.rc.SetWriteDeadline(longAgo) // ends the write that is waiting
	}}
	return cw
}

// WriteHeader sends a header; those with 1xx go out at once. A pod's 100 goes no further: it lets the request's body be
// read, and reading it sends the client our own.
func (w *clientWriter) WriteHeader(status int) {
	if status == http.StatusContinue {
		return
	}
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.answered.Store(true)
		w.status = status
		if w.body != nil && (w.body.unsure || !w.body.ended.Load()) && status != http.StatusSwitchingProtocols {
			// The answer overtakes the request, or the request is odd. What is left of the body must never be taken for
			// the next request.
			w.Header().Set("Connection", "close")
		}
		w.x.addHeaders(w.Header())
	}
	w.dog.start()
	w.ResponseWriter.WriteHeader(status)
	w.dog.stop()
}

// Write sends a part of the body.
func (w *clientWriter) Write(p []byte) (int, error) {
	w.answered.Store(true)
	w.dog.start()
	n, err := w.ResponseWriter.Write(p)
	w.dog.stop()
	w.x.sent(n)
	if err != nil {
		w.failed.Store(true)
	}
	return n, err
}

// FlushError sends what is buffered.
func (w *clientWriter) FlushError() error {
	w.dog.start()
	err := w.rc.Flush()
	w.dog.stop()
	if err != nil {
		w.failed.Store(true)
	}
	return err
}

// Hijack hands the connection over for a tunnel, such as a WebSocket.
func (w *clientWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := w.rc.Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.tunnel.Store(&conn)
	w.status = http.StatusSwitchingProtocols
	tunnel := &tunnelConn{guardedConn: guardedConn{Conn: conn, limit: w.dog.limit}, x: w.x}
	if n := rw.Reader.Buffered(); n > 0 {
		early, _ := rw.Peek(n) // they are there
		tunnel.early = bytes.Clone(early)
	}
	return tunnel, rw, nil
}

// tunnelConn is a client's connection in a tunnel. Its first bytes may have come with the request; ReverseProxy reads
// from the connection only and would lose them.
type tunnelConn struct {
	guardedConn
	x     *exchange
	early []byte
}

func (c *tunnelConn) Read(p []byte) (n int, err error) {
	if len(c.early) > 0 {
		n = copy(p, c.early)
		c.early = c.early[n:]
	} else {
		n, err = c.Conn.Read(p)
	}
	c.x.received(n)
	return n, err
}

func (c *tunnelConn) Write(p []byte) (int, error) {
	n, err := c.guardedConn.Write(p)
	c.x.sent(n)
	return n, err
}

// interrupt ends a write that is waiting for the client. A request without an answer still gets one, the error page.
// It does not block: closing a TLS connection in good order may, so a tunnel is closed beneath that.
func (w *clientWriter) interrupt() {
	if conn := w.tunnel.Load(); conn != nil {
		raw := *conn
		if secure, ok := raw.(*tls.Conn); ok {
			raw = secure.NetConn()
		}
		raw.Close()
	} else if w.answered.Load() {
		_ = w.rc.SetWriteDeadline(longAgo)
	}
}
