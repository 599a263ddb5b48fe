package http1

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// looped is a rig with loops, whose clients are with them from the first request on.
func looped(t *testing.T, pod string, change ...func(*Config)) *rig {
	t.Helper()
	return newRig(t, pod, append([]func(*Config){func(c *Config) { c.Loops, c.early = 2, true }}, change...)...)
}

// guests is how many connections of clients are with loops.
func (r *rig) guests() (n int) {
	for _, l := range r.srv.loops {
		n += int(l.guests.Load())
	}
	return n
}

func (c *client) ask(t *testing.T, request, want string) {
	t.Helper()
	c.send(request)
	if _, got := c.answer(strings.Fields(request)[0]); !strings.HasPrefix(got, want) {
		t.Errorf("%.40q: %q", request, got)
	}
}

const smallRequest = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"

// An end that comes with the last bytes is told once, with them; whoever reads only these must not wait for it in vain.
func TestLoop_SeesTheEndThatComesWithTheData(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\n\r\nuntil the end",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nd\r\nuntil the end\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nuntil the end",
	} {
		r := looped(t, saying(t, answer, true))
		for range 20 {
			c := r.dial()
			for range 5 { // each finds a new pod, if it notices that the last one has left
				c.ask(t, smallRequest, "until the end")
			}
			c.send(smallRequest)
			_ = c.CloseWrite()
			if got := c.rest(); !strings.Contains(got, "until the end") {
				t.Errorf("with the client's own end: %q", got)
			}
		}
	}
}

// What is left unread of an answer, or of its end, does not get into the next one's.
func TestLoop_LateBytesAreNobodys(t *testing.T) {
	for _, late := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", "x"} {
		sent := make(chan struct{})
		r := looped(t, rawPod(t, func(c net.Conn, br *bufio.Reader) {
			for {
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
				time.Sleep(time.Millisecond)
				_, _ = io.WriteString(c, late)
				sent <- struct{}{}
			}
		}))
		c := r.dial()
		for range 50 {
			c.ask(t, smallRequest, "good")
			<-sent
		}
	}
}

// A connection leaves its loop for what is not simple, in the middle of it, and is back when it has had no request for a while.
func TestLoop_ConnectionsLeaveAndComeBack(t *testing.T) {
	r := looped(t, echoPod(t), func(c *Config) { c.parkAfter = 50 * time.Millisecond })
	c := r.dial()
	for i := range 3 {
		c.ask(t, fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: h\r\n\r\n", i), fmt.Sprintf("GET /%d h", i))
		if n := r.guests(); n != 1 {
			t.Errorf("%d connections with the loops", n)
		}
		c.send("POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nhalf")
		eventually(t, "it has left", func() bool { return r.guests() == 0 })
		c.ask(t, "half", "POST /p h")
		eventually(t, "it is back", func() bool { return r.guests() == 1 })
	}
	if n := r.dials.Load(); n > 2 { // one of the loop and one of the goroutine, which nobody takes from each other for nothing
		t.Errorf("%d connections to the pod", n)
	}
}

// A client that does not read keeps neither its loop nor anybody else waiting, and gets everything in the end.
func TestLoop_SlowReaders(t *testing.T) {
	large := strings.Repeat("0123456789", 3000)
	r := looped(t, saying(t, "HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n"+large, false))
	slow := r.dial()
	const n = 500
	go func() { _, _ = io.WriteString(slow.TCPConn, strings.Repeat(smallRequest, n)) }()
	for range 100 {
		r.dial().ask(t, smallRequest, large)
	}
	for i := range n {
		if _, got := slow.answer("GET"); got != large {
			t.Fatalf("answer %d has %d bytes", i, len(got))
		}
	}
}

// Requests that need no pod, as many as come, do not keep others from their turn.
func TestLoop_FloodsWaitTheirTurn(t *testing.T) {
	r := looped(t, echoPod(t), func(c *Config) {
		c.Loops = 1
		next := c.Handler
		c.Handler = func(x *Exchange) {
			if string(x.Request.Path) == "/flood" {
				_ = x.Respond(404, nil, nil)
				return
			}
			next(x)
		}
	})
	var ended atomic.Bool
	for range 4 {
		flood := r.dial()
		go func() {
			for !ended.Load() {
				if _, err := io.WriteString(flood.TCPConn, strings.Repeat("GET /flood HTTP/1.1\r\nHost: h\r\n\r\n", 1000)); err != nil {
					return
				}
			}
			flood.Close()
		}()
		go func() { _, _ = io.Copy(io.Discard, flood.TCPConn) }()
	}
	c := r.dial()
	for range 50 {
		c.ask(t, smallRequest, "GET / h")
	}
	ended.Store(true)
}

// A deadline moves with its connection, and what others ask for in the meantime is done.
func TestSocket_MovesWithItsDeadlines(t *testing.T) {
	r := looped(t, echoPod(t))
	r.dial().ask(t, smallRequest, "GET / h") // so that there are loops
	l := r.srv.loops[0]
	a, b := socketPair(t)
	defer b.Close()
	s := newSocket(a)
	_ = s.SetReadDeadline(time.Now().Add(time.Hour))
	if err := s.detach(l); err != nil {
		t.Fatal(err)
	}
	_ = s.SetWriteDeadline(time.Now().Add(-time.Second))
	moved := make(chan error)
	l.post(func() {
		err := l.take(s)
		l.release(s)
		s.attach()
		moved <- err
	})
	if err := <-moved; err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("a")); !isTimeout(err) {
		t.Errorf("writing too late: %v", err)
	}
	_ = s.SetWriteDeadline(time.Time{})
	if _, err := s.Write([]byte("a")); err != nil {
		t.Error(err)
	}
	_, _ = b.Write([]byte("b"))
	if n, err := s.Read(make([]byte, 10)); n != 1 || err != nil {
		t.Error(n, err)
	}
	_ = s.SetReadDeadline(longAgo)
	if _, err := s.Read(make([]byte, 10)); !isTimeout(err) {
		t.Errorf("reading too late: %v", err)
	}
	if s.Close() != nil || s.Close() == nil {
		t.Error("closing works once")
	}
	if _, err := s.Read(make([]byte, 10)); err == nil {
		t.Error("a closed one can be read")
	}
}

// crypto/tls goes on after a read that had to end in the middle of a record: loops depend on that.
func TestLoop_TLSGoesOnAfterHalfARecord(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	var wire bytes.Buffer
	halting := &haltingConn{Conn: far, wire: &wire}
	srv := tls.Server(halting, &tls.Config{Certificates: []tls.Certificate{testCertificate(t)}})
	c := tls.Client(near, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error, 1)
	go func() { shaken <- srv.Handshake() }()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() { _, err := c.Write([]byte("hello, world")); sent <- err }()
	record := make([]byte, 100)
	n, _ := far.Read(record)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	halting.halts = true
	buf, got := make([]byte, 100), ""
	for _, b := range record[:n] {
		if m, err := srv.Read(buf); m != 0 || !isTimeout(err) {
			t.Fatalf("%d bytes, %v", m, err)
		}
		wire.WriteByte(b)
	}
	m, err := srv.Read(buf)
	if got += string(buf[:m]); err != nil || !cmp.Equal(got, "hello, world") {
		t.Errorf("%q, %v", got, err)
	}
}

// haltingConn has what is in wire and then says what a socket of a loop says.
type haltingConn struct {
	net.Conn
	wire  *bytes.Buffer
	halts bool
}

func (c *haltingConn) Read(p []byte) (int, error) {
	switch {
	case !c.halts:
		return c.Conn.Read(p)
	case c.wire.Len() == 0:
		return 0, os.ErrDeadlineExceeded
	}
	return c.wire.Read(p)
}
