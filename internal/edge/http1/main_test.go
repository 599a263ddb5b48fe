package http1

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// loops is how many the servers of the tests have now.
var loops int

// bothWays runs all tests without loops, and with them; -loops runs them with so many only.
type bothWays struct{ *testing.M }

// Run runs the tests and returns the exit status.
func (m bothWays) Run() int {
	only := flag.Int("loops", -1, "test only with so many loops")
	flag.Parse()
	if f := flag.Lookup("test.fuzz"); *only >= 0 || f != nil && f.Value.String() != "" {
		loops = max(*only, 0)
		return m.M.Run()
	}
	status := 0
	for _, loops = range []int{0, 2} {
		fmt.Println("loops:", loops)
		status = max(status, m.M.Run())
	}
	return status
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(bothWays{m}) }

// rig is a server whose handler sends everything to one pod.
type rig struct {
	t      *testing.T
	srv    *Server
	addr   string
	pool   *Pool
	moved  chan net.Conn
	errs   chan error // of Ask and Relay
	dials  atomic.Int32
	count  [2]atomic.Int64
	change func(*Exchange)
}

// Received and Sent make a rig a Meter.
func (r *rig) Received(n int) { r.count[0].Add(int64(n)) }
func (r *rig) Sent(n int)     { r.count[1].Add(int64(n)) }

func newRig(t *testing.T, pod string, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, moved: make(chan net.Conn, 10), errs: make(chan error, 1000)}
	r.pool = &Pool{MaxIdle: 10, IdleTimeout: time.Minute, Dial: func(ctx context.Context) (net.Conn, error) {
		r.dials.Add(1)
		return (&net.Dialer{}).DialContext(ctx, "tcp", pod)
	}}
	cfg := Config{
		Handler:       r.handle,
		Elsewhere:     func(c net.Conn) { r.moved <- c },
		HeaderTimeout: 10 * time.Second, IdleTimeout: 20 * time.Second, ResponseTimeout: 20 * time.Second, Grace: time.Second,
		MaxHeadBytes: 16 << 10, MaxPodHeadBytes: 64 << 10, Loops: loops, early: loops > 0,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, c := range change {
		c(&cfg)
	}
	r.srv = NewServer(cfg)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- r.srv.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		_ = r.srv.Shutdown(ctx) // tests leave connections behind
		r.pool.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return r
}

func (r *rig) handle(x *Exchange) {
	x.Meter = r
	if r.change != nil {
		r.change(x)
	}
	if string(x.Request.Host) == "elsewhere" {
		x.HandOver()
		return
	}
	err := x.Ask(r.pool, []byte("X-Request-Id: id\r\n"), Fields(XRequestID))
	if err != nil {
		status := 502
		switch {
		case errors.Is(err, ErrClientStalled):
			status = 408
		case errors.Is(err, ErrBadBody):
			status = 400
		case isTimeout(err):
			status = 504
		}
		_ = x.Respond(status, nil, []byte("failed"))
	} else {
		err = x.Relay(nil, 0)
	}
	select {
	case r.errs <- err:
	default:
	}
}

// dial connects to the server.
func (r *rig) dial() *client {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	return &client{r.t, conn.(*net.TCPConn), bufio.NewReader(conn)}
}

type client struct {
	t *testing.T
	*net.TCPConn
	br *bufio.Reader
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.TCPConn, s); err != nil {
		c.t.Fatalf("sending: %v", err)
	}
}

// answer reads a whole answer to a request with the method.
func (c *client) answer(method string) (*http.Response, string) {
	c.t.Helper()
	res, err := http.ReadResponse(c.br, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("reading the answer: %v", err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("reading the body after %q: %v", body, err)
	}
	return res, string(body)
}

// rest reads until the server closes.
func (c *client) rest() string {
	c.t.Helper()
	b, err := io.ReadAll(c.br)
	if isTimeout(err) {
		c.t.Fatalf("still open after %q", b)
	}
	return string(b)
}

// rawPod calls serve for each connection, and closes it.
func rawPod(t *testing.T, serve func(c net.Conn, br *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var conns []net.Conn
	go func() {
		defer close(done)
		served := make(chan struct{}, 1000)
		n := 0
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			conns = append(conns, c)
			n++
			go func() {
				defer func() { c.Close(); served <- struct{}{} }()
				serve(c, bufio.NewReader(c))
			}()
		}
		for _, c := range conns {
			c.Close()
		}
		for range n {
			<-served
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// saying is a pod that reads a request with its body and answers always the same; then it closes if last is set.
func saying(t *testing.T, answer string, last bool) string {
	return rawPod(t, func(c net.Conn, br *bufio.Reader) {
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			_, _ = io.WriteString(c, answer)
			if last {
				return
			}
		}
	})
}

// echoPod answers with what it got: method, target, fields and body.
func echoPod(t *testing.T) string {
	return rawPod(t, func(c net.Conn, br *bufio.Reader) {
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			body, err := io.ReadAll(req.Body)
			if err != nil {
				return
			}
			var b strings.Builder
			_ = req.Header.Write(&b)
			text := req.Method + " " + req.RequestURI + " " + req.Host + "\r\n" + b.String() + "\r\n" + string(body) + trailerText(req.Trailer)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: "+itoa(len(text))+"\r\n\r\n")
			if req.Method != "HEAD" {
				_, _ = io.WriteString(c, text)
			}
		}
	})
}

func trailerText(h http.Header) string {
	if len(h) == 0 {
		return ""
	}
	var b strings.Builder
	_ = h.Write(&b)
	return "|" + b.String()
}
