package http1

import (
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Relay sends the pod's answer to the client. fields are lines that go with it, and without says which of the pod's do not.
// After an error the client has a part of the answer at most, and its connection is closed.
func (x *Exchange) Relay(fields []byte, without FieldSet) error {
	if x.Response.Status == http.StatusSwitchingProtocols {
		return x.relayTunnel(fields, without)
	}
	out := x.framingOut()
	if !x.bodyTaken() {
		// The answer overtakes the request. What is left of the body must never be taken for the next request.
		x.c.closeAfter = true
	}
	b := x.appendHead(out, fields, without)
	x.answer(x.Response.Status)
	var err error
	switch {
	case out.none:
		x.surplus = x.rn > x.rpos
		err = x.c.write(b)
	case x.Response.Chunked:
		err = x.relayChunks(b, out)
	case x.Response.Length >= 0:
		err = x.relayLength(b)
	default:
		err = x.relayToEnd(b, out)
	}
	if err != nil {
		x.c.closeAfter = true
		return err
	}
	x.giveBack()
	return nil
}

// answer notes that the head of the answer goes out.
func (x *Exchange) answer(status int) {
	x.mu.Lock()
	x.answered, x.status = true, status
	x.mu.Unlock()
}

// outFraming is how an answer's body goes to the client.
type outFraming struct {
	none    bool // there is no body
	chunked bool
}

func (x *Exchange) framingOut() outFraming {
	r := &x.Response
	switch {
	case string(x.Request.Method) == http.MethodHead, r.Status == http.StatusNoContent, r.Status == http.StatusNotModified:
		return outFraming{none: true}
	case r.Length >= 0 && !r.Chunked:
		return outFraming{none: r.Length == 0}
	case x.Request.Minor == 0:
		x.c.closeAfter = true // its end is the only end that the client can see
		return outFraming{}
	}
	return outFraming{chunked: true}
}

// appendHead appends the head of the pod's answer.
func (x *Exchange) appendHead(out outFraming, fields []byte, without FieldSet) []byte {
	r := &x.Response
	b := x.appendStatus((*x.out)[:0], r.Status, r.Reason)
	b = x.appendFields(b, without)
	if _, n := r.Field(Date); n == 0 {
		b = x.c.srv.appendDate(b, x.c.now())
	}
	switch {
	case out.chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		for i := range r.Fields {
			if f := &r.Fields[i]; f.ID == Trailer && !f.hop {
				b = append(append(append(b, "Trailer: "...), f.Value...), crlf...)
			}
		}
	case r.Length >= 0 && r.Status != http.StatusNoContent:
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), r.Length, 10), crlf...)
	}
	return append(append(x.appendConnection(b), fields...), crlf...)
}

func (x *Exchange) appendStatus(b []byte, status int, reason []byte) []byte {
	b = strconv.AppendInt(append(b, "HTTP/1.1 "...), int64(status), 10)
	return append(append(append(b, ' '), reason...), crlf...)
}

// appendFields appends the fields of the pod's answer that go further.
func (x *Exchange) appendFields(b []byte, without FieldSet) []byte {
	for i := range x.Response.Fields {
		f := &x.Response.Fields[i]
		if f.HopByHop() || without.has(f.ID) {
			continue
		}
		b = append(append(append(append(b, f.Name...), ": "...), f.Value...), crlf...)
	}
	return b
}

// appendConnection tells the client whether the connection stays open.
func (x *Exchange) appendConnection(b []byte) []byte {
	if x.c.srv.closing.Load() {
		x.c.closeAfter = true
	}
	switch {
	case x.c.closeAfter:
		return append(b, "Connection: close\r\n"...)
	case x.Request.Minor == 0:
		return append(b, "Connection: keep-alive\r\n"...)
	}
	return b
}

// relayLength relays a body of known length. b is the head, which is not sent yet.
func (x *Exchange) relayLength(b []byte) error {
	left := x.Response.Length
	for first := true; ; first = false {
		data := x.buf[x.rpos:x.rn]
		if int64(len(data)) > left {
			x.surplus = true
			data = data[:left]
		}
		left -= int64(len(data))
		switch {
		case !first:
			b = data
		case len(b)+len(data) <= cap(b):
			b = append(b, data...)
		default:
			if err := x.c.write(b); err != nil {
				return err
			}
			b = data
		}
		if err := x.c.write(b); err != nil {
			return err
		}
		x.sent(len(data))
		if left == 0 {
			return nil
		}
		if err := x.readMore(); err != nil {
			return unexpected(err)
		}
	}
}

// readMore reads the next part of the answer into the buffer. What was in out is gone then.
func (x *Exchange) readMore() error {
	if x.relayed += x.rn; x.relayed > bodySize {
		x.c.leave()
	}
	if x.slow { // now little, now much may come
		x.resize(x.rn == len(x.buf) || x.large && x.rn > headSize)
	}
	n, err := x.await(0)
	x.rpos, x.rn = 0, n
	if n > 0 {
		return nil
	}
	return err
}

// unexpected is err, for which the end of the connection is too early.
func unexpected(err error) error {
	if err == io.EOF { //nolint:errorlint // connections return it as it is
		return io.ErrUnexpectedEOF
	}
	return err
}

// relayChunks relays a body in chunks, each part as soon as it is there. b is the head, which is not sent yet.
func (x *Exchange) relayChunks(b []byte, out outFraming) error {
	var chunks chunked
	for {
		parts := 0
		for {
			data, used, err := chunks.next(x.buf[x.rpos:x.rn])
			x.rpos += used
			if len(data) > 0 {
				if len(b)+len(data)+32 > cap(b) && len(b) > 0 {
					if err := x.c.write(b); err != nil {
						return err
					}
					b = b[:0]
				}
				b = appendBody(b, data, out)
				parts += len(data)
				continue
			}
			if err == io.EOF { //nolint:errorlint // next returns it as it is
				x.surplus = x.rn > x.rpos
				return x.endChunks(b, &chunks, parts, out)
			}
			if err != nil {
				_ = x.c.write(b) // the client gets what there was
				x.sent(parts)
				return err
			}
			break
		}
		if len(b) > 0 {
			if err := x.c.write(b); err != nil {
				return err
			}
			x.sent(parts)
		}
		if err := x.readMore(); err != nil {
			return unexpected(err)
		}
		b = (*x.out)[:0]
	}
}

// endChunks sends what b holds and the end of the body.
func (x *Exchange) endChunks(b []byte, chunks *chunked, parts int, out outFraming) error {
	if out.chunked {
		b = append(chunks.appendTrailer(append(b, "0\r\n"...)), crlf...)
	}
	if len(b) > 0 {
		if err := x.c.write(b); err != nil {
			return err
		}
	}
	x.sent(parts)
	return nil
}

func appendBody(b, data []byte, out outFraming) []byte {
	if out.chunked {
		return appendChunk(b, data)
	}
	return append(b, data...)
}

// relayToEnd relays a body that ends with the pod's connection. b is the head, which is not sent yet.
func (x *Exchange) relayToEnd(b []byte, out outFraming) error {
	x.surplus = true // nothing can follow
	for {
		data := x.buf[x.rpos:x.rn]
		b = appendBody(b, data, out)
		if len(b) > 0 {
			if err := x.c.write(b); err != nil {
				return err
			}
			x.sent(len(data))
		}
		err := x.readMore()
		b = (*x.out)[:0]
		if err == io.EOF { //nolint:errorlint // connections return it as it is
			break
		}
		if err != nil {
			return err
		}
	}
	if out.chunked {
		return x.c.write([]byte("0\r\n\r\n"))
	}
	return nil
}

// giveBack returns the pod's connection to nobody or, if both messages on it have ended as they should, to its pool.
func (x *Exchange) giveBack() {
	u := x.up
	if !x.uploaded() || x.surplus || !x.Response.persistent() || x.interrupted.Load() {
		return // finish closes it
	}
	x.setUp(nil)
	x.pool.put(u, x.c.now())
}

// Respond answers the request. fields are lines of the head, besides those for date, length and connection.
func (x *Exchange) Respond(status int, fields, body []byte) error {
	x.stopUpload()
	x.c.unwatch()
	x.drop()
	if !x.c.body.ended && x.c.body.skip() {
		x.c.body.ended = true
	}
	if !x.c.body.ended {
		x.c.closeAfter, x.c.linger = true, true
	}
	b := x.appendStatus((*x.out)[:0], status, []byte(http.StatusText(status)))
	b = x.c.srv.appendDate(b, x.c.now())
	b = append(strconv.AppendInt(append(b, "Content-Length: "...), int64(len(body)), 10), crlf...)
	b = append(append(x.appendConnection(b), fields...), crlf...)
	x.interrupted.Store(false) // that is what may be answered here; another one ends this as well
	x.answer(status)
	if string(x.Request.Method) == http.MethodHead {
		body = nil
	}
	if err := x.c.write(append(b, body...)); err != nil {
		x.c.closeAfter, x.c.linger = true, false
		return err
	}
	x.sent(len(body))
	return nil
}

// relayTunnel relays a 101 answer and then what both sides send, until both have ended.
func (x *Exchange) relayTunnel(fields []byte, without FieldSet) error {
	x.c.leave()
	x.c.unwatch()
	r := &x.Response
	b := x.appendStatus((*x.out)[:0], r.Status, r.Reason)
	b = x.appendFields(b, without)
	b = append(append(append(b, "Connection: Upgrade\r\nUpgrade: "...), r.upgrade...), crlf...)
	b = append(append(b, fields...), crlf...)
	x.c.closeAfter = true
	x.answer(r.Status)
	x.mu.Lock()
	x.tunnel = true
	x.mu.Unlock()
	if err := x.c.write(append(b, x.buf[x.rpos:x.rn]...)); err != nil {
		return err
	}
	x.sent(x.rn - x.rpos)
	if x.interrupted.Load() {
		return ErrInterrupted
	}
	x.resize(false)
	x.runTunnel()
	return nil
}

// runTunnel moves bytes both ways. Each direction ends by itself, and with it the other side's reading; if one fails,
// both end.
func (x *Exchange) runTunnel() {
	u, c := x.up, x.c
	u.readBy(time.Time{})
	c.readBy(time.Time{})
	cut := func() {
		c.raw.Close()
		closeRaw(u.Conn)
	}
	var back sync.WaitGroup
	back.Go(func() {
		if err := pump(c.srv, &c.deadlines, u.Conn, x.sent); err != nil {
			cut()
			return
		}
		_ = closeWrite(c.net)
		if c.tls != nil {
			_ = closeWrite(c.raw)
		}
	})
	err := error(nil)
	if early := c.in[c.pos:c.n]; len(early) > 0 {
		u.writeWithin(time.Now(), c.srv.cfg.IdleTimeout)
		_, err = u.Write(early)
		x.received(len(early))
		c.pos = c.n
	}
	if err == nil {
		err = pump(c.srv, &u.deadlines, c.net, x.received)
	}
	if err != nil {
		cut()
	} else {
		_ = closeWrite(u.Conn)
	}
	back.Wait()
}

// pump moves what from sends. Nobody has to send, but what is sent must be read. The buffer is small as long as little comes.
func pump(s *Server, to *deadlines, from io.Reader, count func(int)) error {
	pool := &s.heads
	buf := pool.get()
	defer func() { pool.put(buf) }()
	for {
		n, err := from.Read(*buf)
		if n > 0 {
			to.writeWithin(time.Now(), s.cfg.IdleTimeout)
			if _, err := to.conn.Write((*buf)[:n]); err != nil {
				return err
			}
			count(n)
		}
		if pool == &s.heads && n == len(*buf) {
			pool.put(buf)
			pool = &s.bodies
			buf = pool.get()
		} else if pool == &s.bodies && n <= headSize {
			pool.put(buf)
			pool = &s.heads
			buf = pool.get()
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
