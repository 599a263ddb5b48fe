package registry

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// stall is how long a connection may stand still.
	stall = time.Minute
	// sendBytes is how much is sent under one deadline: a client that takes 4 KiB a second is slow, but moves.
	sendBytes = 256 << 10
)

// exchange is a request and its answer, whose deadlines move as long as bytes do. It is the http.ResponseWriter of its
// request and, through Read, the request's body.
type exchange struct {
	http.ResponseWriter
	body    io.ReadCloser
	rc      *http.ResponseController
	buffers *sync.Pool  // of *[]byte
	moved   time.Time   // when the deadlines were moved last
	stopped atomic.Bool // nothing more is read
}

// newExchange puts itself between the request and its body.
func (r *Registry) newExchange(w http.ResponseWriter, req *http.Request) *exchange {
	x := &exchange{ResponseWriter: w, body: req.Body, rc: http.NewResponseController(w), buffers: &r.buffers}
	x.move()
	req.Body = x
	return x
}

// move gives the connection another minute. A writer without deadlines has none to move.
func (x *exchange) move() {
	now := time.Now()
	if now.Sub(x.moved) < stall/20 {
		return
	}
	x.moved = now
	_ = x.rc.SetWriteDeadline(now.Add(stall + stall/20))
	if !x.stopped.Load() {
		_ = x.rc.SetReadDeadline(now.Add(stall + stall/20))
	}
}

// stop ends the reading of the body at once. It may be called at any time and by anyone.
func (x *exchange) stop() {
	x.stopped.Store(true)
	_ = x.rc.SetReadDeadline(time.Unix(1, 0))
}

// Read reads the body.
func (x *exchange) Read(p []byte) (int, error) {
	x.move()
	if x.stopped.Load() { // looked at after the deadline was moved, so that stop is never undone
		return 0, errClientGone
	}
	n, err := x.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		x.stopped.Store(true) // so that the server does not wait for the rest
	}
	return n, err
}

// Close closes the body.
func (x *exchange) Close() error { return x.body.Close() }

// WriteHeader implements http.ResponseWriter.
func (x *exchange) WriteHeader(status int) {
	x.moved = time.Time{}
	x.move()
	x.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (x *exchange) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		x.move()
		var m int
		m, err = x.ResponseWriter.Write(p[:min(len(p), sendBytes)])
		n, p = n+m, p[m:]
	}
	return n, err
}

// ReadFrom sends src through a large buffer. On the loopback device, over which most images are pulled, that is quicker
// than sendfile: the receiver copies from the processor's cache instead of from memory.
func (x *exchange) ReadFrom(src io.Reader) (int64, error) {
	buf := x.buffers.Get().(*[]byte) //nolint:errcheck,forcetypeassert // the pool holds nothing else
	defer x.buffers.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{x}, src, *buf)
}

// Unwrap lets http.ResponseController find the connection.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }
