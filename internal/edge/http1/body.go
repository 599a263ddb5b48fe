package http1

import (
	"io"
	"sync/atomic"
	"time"
)

// body is the body of a request as it comes in. What came with the head is taken first.
type body struct {
	c       *conn
	left    int64 // if it is not chunked
	chunked bool
	chunks  chunked
	raw     []byte // read but not yet taken out of its chunks; lies in the reader's buffer
	ended   bool   // all of it was taken, and c.pos is where the next request begins
}

// whole reports whether all of a body with a known length is there.
func (b *body) whole() bool { return !b.chunked && int64(b.c.n-b.c.pos) >= b.left }

// next returns the next piece, which lies in the connection's buffer or in buf. At the end the error is io.EOF. The
// calls for one body must come with the same buf.
func (b *body) next(buf []byte) ([]byte, error) {
	for {
		if b.ended {
			return nil, io.EOF
		}
		if !b.chunked {
			return b.nextOfLength(buf)
		}
		in := b.raw
		early := b.c.pos < b.c.n
		if early {
			in = b.c.in[b.c.pos:b.c.n]
		}
		data, used, err := b.chunks.next(in)
		if early {
			b.c.pos += used
		} else {
			b.raw = b.raw[used:]
		}
		if err == io.EOF { //nolint:errorlint // next returns it as it is
			b.ended = true
			b.c.keep(b.raw)
			b.raw = nil
		}
		if data != nil || err != nil {
			return data, err
		}
		if b.c.pos == b.c.n && len(b.raw) == 0 {
			n, err := b.c.readBody(buf)
			if n == 0 && err != nil {
				return nil, err
			}
			b.raw = buf[:n]
		}
	}
}

func (b *body) nextOfLength(buf []byte) ([]byte, error) {
	var data []byte
	switch {
	case b.left == 0:
		b.ended = true
		return nil, io.EOF
	case b.c.pos < b.c.n:
		n := int(min(int64(b.c.n-b.c.pos), b.left))
		data = b.c.in[b.c.pos : b.c.pos+n]
		b.c.pos += n
	default:
		n, err := b.c.readBody(buf[:min(int64(len(buf)), b.left)])
		if n == 0 && err != nil {
			return nil, err
		}
		data = buf[:n]
	}
	b.left -= int64(len(data))
	return data, nil
}

// skip takes what is there of a body that nobody wants, and reports whether that was all of it.
func (b *body) skip() bool {
	for !b.ended && b.c.pos < b.c.n {
		if _, err := b.next(nil); err != nil {
			break
		}
	}
	return b.ended || !b.chunked && b.left == 0
}

// readBody reads from the client, who must not be silent for longer than the idle timeout.
func (c *conn) readBody(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, errUnread
	}
	c.readWithin(time.Now(), c.srv.cfg.IdleTimeout)
	if c.x.halt.Load() {
		return 0, errUnread
	}
	n, err := c.net.Read(p)
	switch {
	case n > 0 || err == nil:
		return n, nil
	case isTimeout(err):
		return 0, ErrClientStalled
	case err == io.EOF: //nolint:errorlint // connections return it as it is
		return 0, errShortBody
	default:
		return 0, ErrClientLeft
	}
}

// keep puts bytes that belong to the next request where it will be looked for.
func (c *conn) keep(b []byte) {
	if len(b) == 0 {
		return
	}
	if c.pos == c.n {
		c.pos, c.n = c.taken, c.taken // the head before it is still looked at
	}
	if c.n+len(b) > len(c.in) {
		bigger := make([]byte, c.n+len(b))
		copy(bigger, c.in[:c.n])
		c.in = bigger
	}
	c.n += copy(c.in[c.n:], b)
}

// upload is a body on its way to the pod, on a goroutine of its own.
type upload struct {
	done chan struct{} // closed at the end; the rest is set by then
	// complete is set when the pod was sent all of it, err when that was the client's fault.
	complete bool
	err      error
	taken    atomic.Bool // the client has sent all of it; the pod may not have got it yet
}

// ended reports whether the goroutine is through.
func (up *upload) ended() bool {
	select {
	case <-up.done:
		return true
	default:
		return false
	}
}

// startUpload begins to send the body to the pod.
func (x *Exchange) startUpload() {
	x.c.leave()
	x.touched = true
	x.upload = &upload{done: make(chan struct{})}
	go func(up *upload, u *upstream) {
		defer x.poke(u)
		defer close(up.done)
		x.runUpload(up, u)
	}(x.upload, x.up)
}

func (x *Exchange) runUpload(up *upload, u *upstream) {
	c := x.c
	in, out := c.srv.bodies.get(), c.srv.outs.get()
	defer c.srv.bodies.put(in)
	defer c.srv.outs.put(out)
	for total := int64(0); ; {
		data, err := c.body.next(*in)
		x.received(len(data))
		if total += int64(len(data)); x.MaxBody > 0 && total > x.MaxBody {
			up.err, c.body.ended, c.body.chunks.failed = ErrTooLarge, false, ErrTooLarge // the rest is not even looked at
			return
		}
		ended := err == io.EOF //nolint:errorlint // next returns it as it is
		if err != nil && !ended {
			if err != errUnread { //nolint:errorlint // as above
				up.err = err
			}
			return
		}
		if c.body.ended || !c.body.chunked && c.body.left == 0 {
			up.taken.Store(true) // before the pod can answer
		}
		if c.body.chunked {
			b := appendChunk((*out)[:0], data)
			if ended {
				b = append(c.body.chunks.appendTrailer(append(b, "0\r\n"...)), crlf...)
			}
			data = b
		}
		if len(data) > 0 {
			u.writeWithin(time.Now(), c.srv.cfg.IdleTimeout)
			if x.halt.Load() {
				return
			}
			if _, err := u.Write(data); err != nil {
				return // the answer, or its absence, will say why
			}
		}
		if ended {
			up.complete = true
			return
		}
	}
}

// stopUpload ends the upload if it is still going on.
func (x *Exchange) stopUpload() {
	if x.upload == nil || x.upload.ended() {
		return
	}
	x.halt.Store(true)
	_ = x.c.net.SetReadDeadline(longAgo)
	_ = x.up.SetWriteDeadline(longAgo)
	<-x.upload.done
	x.c.read = time.Time{}
}

// uploading reports whether a goroutine may be reading from the client.
func (x *Exchange) uploading() bool { return x.upload != nil && !x.upload.ended() }

// bodyTaken reports whether the client has sent all of the body.
func (x *Exchange) bodyTaken() bool {
	if x.uploading() {
		return x.upload.taken.Load()
	}
	return x.c.body.ended
}

// uploaded reports whether the pod was sent all of the body. A pod that answers as soon as it has the last byte may be
// faster than the goroutine that sent it.
func (x *Exchange) uploaded() bool {
	if x.upload == nil {
		return x.c.body.ended
	}
	if !x.upload.ended() && x.upload.taken.Load() {
		select {
		case <-x.upload.done:
		case <-time.After(10 * time.Millisecond):
		}
	}
	return x.upload.ended() && x.upload.complete
}
