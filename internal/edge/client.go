package edge

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// abandonGrace is how long a client may take to send the rest of a body that the pod did not want.
const abandonGrace = 5 * time.Second

// longAgo as a deadline ends what is waiting.
var longAgo = time.Unix(1, 0)

// errStalled is why a request fails whose client stopped in the middle of the body.
var errStalled = errors.New("the client stopped sending the request body")

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
	rc      *http.ResponseController
	dog     watchdog
	touched atomic.Bool // something may have been read
	ended   atomic.Bool
	stalled atomic.Bool

	// mu guards err: it is read when another goroutine may still be in Read.
	mu  sync.Mutex
	err error
}

func newClientBody(body io.ReadCloser, rc *http.ResponseController, limit time.Duration) *clientBody {
	b := &clientBody{ReadCloser: body, rc: rc}
	b.dog = watchdog{limit: limit, expire: func() {
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
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		b.ended.Store(true)
	default:
		b.ended.Store(true)
		if b.stalled.Load() {
			err = errStalled
		}
		b.mu.Lock()
		b.err = err
		b.mu.Unlock()
	}
	return n, err
}

// failed returns the error that reading ended with, unless that was the end of the body.
func (b *clientBody) failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// abandon is called when the answer is complete. If the body is not, the server wants to skip a reasonable rest of
// it, and a read may still be going on; neither shall wait for a client that does not send.
func (b *clientBody) abandon() {
	if !b.ended.Load() {
		_ = b.rc.SetReadDeadline(time.Now().Add(abandonGrace))
	}
}

// clientWriter is the way back to the client. It ends the request when the client does not read.
type clientWriter struct {
	http.ResponseWriter
	rc       *http.ResponseController
	dog      watchdog
	body     *clientBody              // of an HTTP/1 request that has one
	answered atomic.Bool              // the final header is out
	tunnel   atomic.Pointer[net.Conn] // after Hijack
}

func newClientWriter(w http.ResponseWriter, rc *http.ResponseController, limit time.Duration) *clientWriter {
	return &clientWriter{ResponseWriter: w, rc: rc, dog: watchdog{limit: limit, expire: func() {
		_ = rc.SetWriteDeadline(longAgo) // ends the write that is waiting
	}}}
}

// WriteHeader sends a header; those with 1xx go out at once.
func (w *clientWriter) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.answered.Store(true)
		if w.body != nil && !w.body.ended.Load() && status != http.StatusSwitchingProtocols {
			// The answer overtakes the request. What is left of the body must never be taken for the next request.
			w.Header().Set("Connection", "close")
		}
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
	return n, err
}

// FlushError sends what is buffered.
func (w *clientWriter) FlushError() error {
	w.dog.start()
	err := w.rc.Flush()
	w.dog.stop()
	return err
}

// Hijack hands the connection over for a tunnel, such as a WebSocket.
func (w *clientWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := w.rc.Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.tunnel.Store(&conn)
	return &guardedConn{Conn: conn, limit: w.dog.limit}, rw, nil
}

// interrupt ends a write that is waiting for the client. A request without an answer still gets one, the error page.
func (w *clientWriter) interrupt() {
	if conn := w.tunnel.Load(); conn != nil {
		(*conn).Close()
	} else if w.answered.Load() {
		_ = w.rc.SetWriteDeadline(longAgo)
	}
}
