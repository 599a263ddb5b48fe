package http1

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trysail/trysail/internal/edge/http1/cases"
)

func TestExchange_AnswersOfPods(t *testing.T) {
	for _, tt := range cases.Answers {
		for _, version := range []string{"HTTP/1.1", "HTTP/1.0"} {
			r := newRig(t, saying(t, tt.Says, tt.Last))
			c := r.dial()
			c.send("GET / " + version + "\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
			res, err := readFinal(c.br)
			if err != nil {
				t.Errorf("%s, %s: %v", tt.Name, version, err)
				continue
			}
			body, err := io.ReadAll(res.Body)
			if version == "HTTP/1.0" && res.ContentLength < 0 { // there is no way to tell
				if tt.Broken {
					if got := <-r.errs; got == nil {
						t.Errorf("%s, %s: no error", tt.Name, version)
					}
				}
			} else if (err != nil) != tt.Broken {
				t.Errorf("%s, %s: %v after %.50q", tt.Name, version, err, body)
			}
			if res.StatusCode != tt.Status || string(body) != tt.Body {
				t.Errorf("%s, %s: %d %.50q", tt.Name, version, res.StatusCode, body)
			}
			if strings.Contains(tt.Name, "trailer") && !tt.Broken && version == "HTTP/1.1" && res.Trailer.Get("X") != "y" {
				t.Errorf("%s: trailer %v", tt.Name, res.Trailer)
			}
			if tt.Broken {
				if rest := c.rest(); rest != "" {
					t.Errorf("%s, %s: %q follows a broken answer", tt.Name, version, rest)
				}
				continue
			}
			next := c
			if res.Close || res.ContentLength < 0 && version == "HTTP/1.0" {
				next = r.dial()
			}
			before := r.dials.Load()
			next.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
			if res, err = readFinal(next.br); err != nil || res.StatusCode != tt.Status {
				t.Fatalf("%s, %s, again: %v", tt.Name, version, err)
			}
			if body, err = io.ReadAll(res.Body); string(body) != tt.Body {
				t.Errorf("%s, %s, again: %.50q, %v", tt.Name, version, body, err)
			}
			if reused := r.dials.Load() == before; reused != tt.Reused {
				t.Errorf("%s, %s: connection to the pod used again: %v", tt.Name, version, reused)
			}
		}
	}
	t.Logf("%d cases", 2*len(cases.Answers))
}

// readFinal reads the head of the answer after those with 1xx.
func readFinal(br *bufio.Reader) (*http.Response, error) {
	for {
		res, err := http.ReadResponse(br, &http.Request{Method: "GET"})
		if err != nil || res.StatusCode >= 200 {
			return res, err
		}
	}
}

func TestExchange_HeadHasNoBody(t *testing.T) {
	for _, head := range []string{"Content-Length: 5", "Transfer-Encoding: chunked", "X: y"} {
		r := newRig(t, saying(t, "HTTP/1.1 200 OK\r\n"+head+"\r\n\r\n", false))
		c := r.dial()
		for range 2 {
			c.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
			res, body := c.answer("HEAD")
			if res.StatusCode != 200 || body != "" || head == "Content-Length: 5" && res.ContentLength != 5 {
				t.Errorf("%s: %d %q %v", head, res.StatusCode, body, res.Header)
			}
		}
		if n := r.dials.Load(); n != 1 {
			t.Errorf("%s: %d connections", head, n)
		}
	}
}

func TestExchange_RequestArrivesFramedAnew(t *testing.T) {
	r := newRig(t, echoPod(t))
	c := r.dial()
	for _, tt := range []struct{ request, want string }{
		{
			"GET http://h:80/a?b HTTP/1.1\r\nHost: x\r\nA: b\r\nProxy-Connection: x\r\nKeep-Alive: 1\r\nConnection: c, keep-alive\r\nC: d\r\nX-Request-ID: mine\r\n\r\n",
			"GET /a?b h:80\r\nA: b\r\nX-Request-Id: id\r\n\r\n",
		},
		{"GET /ü\"?ü\" HTTP/1.1\r\nHost: h\r\n\r\n", "GET /%C3%BC%22?ü\" h\r\nX-Request-Id: id\r\n\r\n"},
		{
			"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n3;ext=1\r\nabc\r\n0\r\nSum: 3\r\nHost: evil\r\nX-Forwarded-For: evil\r\n\r\n",
			"POST / h\r\nX-Request-Id: id\r\n\r\nabc|Sum: 3\r\n",
		},
		{"PUT / HTTP/1.1\r\nHost: h\r\n\r\n", "PUT / h\r\nContent-Length: 0\r\nX-Request-Id: id\r\n\r\n"},
		{"DELETE / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: content-length, host, x-request-id\r\n\r\n", "DELETE / h\r\nContent-Length: 0\r\nX-Request-Id: id\r\n\r\n"},
		{"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello", "POST / h\r\nContent-Length: 5\r\nX-Request-Id: id\r\n\r\nhello"},
		{"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello", "POST / h\r\nContent-Length: 5\r\nX-Request-Id: id\r\n\r\nhello"},
		{"GET / HTTP/1.1\r\nHost: h\r\nTE: gzip, trailers\r\nConnection: TE\r\n\r\n", "GET / h\r\nTe: trailers\r\nX-Request-Id: id\r\n\r\n"},
		{"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: H2C\r\nHTTP2-Settings: a\r\n\r\n", "GET / h\r\nHttp2-Settings: a\r\nX-Request-Id: id\r\n\r\n"},
	} {
		c.send(tt.request)
		if _, got := c.answer("GET"); got != tt.want {
			t.Errorf("%q\n got %q\nwant %q", tt.request, got, tt.want)
		}
	}
}

func TestExchange_LargeBodies(t *testing.T) {
	r := newRig(t, echoPod(t))
	c := r.dial()
	for _, n := range []int{1, 4095, 4096, 32 << 10, 32<<10 + 1, 1 << 20} {
		data := strings.Repeat("0123456789abcdef", n/16+1)[:n]
		c.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", n))
		c.send(data)
		if _, body := c.answer("POST"); !strings.HasSuffix(body, "\r\n\r\n"+data) {
			t.Errorf("%d bytes: got %d", n, len(body))
		}
		c.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
		for rest := data; rest != ""; {
			k := min(len(rest), 1000+n/10)
			c.send(fmt.Sprintf("%x\r\n%s\r\n", k, rest[:k]))
			rest = rest[k:]
		}
		c.send("0\r\n\r\nGET /next HTTP/1.1\r\nHost: h\r\n\r\n")
		if _, body := c.answer("POST"); !strings.HasSuffix(body, "\r\n\r\n"+data) {
			t.Errorf("%d bytes in chunks: got %d", n, len(body))
		}
		if _, body := c.answer("GET"); !strings.HasPrefix(body, "GET /next") {
			t.Errorf("after %d bytes: %.50q", n, body)
		}
	}
	if r.dials.Load() > 1 {
		t.Errorf("%d connections to the pod", r.dials.Load())
	}
}

// A bad body ends the wait for the pod at once, and nothing after it is a request.
func TestExchange_BadBodies(t *testing.T) {
	var seen atomic.Int32
	pod := rawPod(t, func(_ net.Conn, br *bufio.Reader) {
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if req.URL.Path != "/" {
				seen.Add(1)
			}
			_, _ = io.Copy(io.Discard, req.Body) // and says nothing
		}
	})
	r := newRig(t, pod)
	n := 0
	for _, tt := range cases.Chunks {
		if tt.OK {
			continue
		}
		n++
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + tt.Body)
		_, _ = io.WriteString(c.TCPConn, "GET /evil HTTP/1.1\r\nHost: h\r\n\r\n")
		if got := c.rest(); !strings.HasPrefix(got, "HTTP/1.1 400 ") || strings.Count(got, "HTTP/1.1") != 1 {
			t.Errorf("%s: %q", tt.Name, got)
		}
	}
	if seen.Load() > 0 {
		t.Error("the pod got what followed")
	}
	t.Logf("%d cases", n)
}

func TestExchange_ClientEndsInTheBody(t *testing.T) {
	r := newRig(t, saying(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false))
	c := r.dial()
	c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf")
	_ = c.CloseWrite()
	if got := c.rest(); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
		t.Errorf("half-close: %q", got)
	}
	c = r.dial()
	c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf")
	_ = c.SetLinger(0)
	c.Close()
	<-r.errs
	if err := <-r.errs; !errors.Is(err, ErrClientLeft) {
		t.Errorf("reset: %v", err)
	}
}

func TestExchange_ClientLeavesWhileThePodIsSilent(t *testing.T) {
	left := make(chan struct{})
	pod := rawPod(t, func(c net.Conn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err == nil {
			_, _ = br.ReadByte() // returns when the edge closes
			left <- struct{}{}
		}
	})
	r := newRig(t, pod)
	for _, how := range []func(*client){func(c *client) { c.Close() }, func(c *client) { _ = c.CloseWrite() }, func(c *client) { _ = c.SetLinger(0); c.Close() }} {
		c := r.dial()
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		how(c)
		<-left
		if err := <-r.errs; !errors.Is(err, ErrClientLeft) {
			t.Errorf("got %v", err)
		}
	}
}

// What a client sends while it waits is its next request, and is not lost.
func TestExchange_PipelinesWhileThePodIsSilent(t *testing.T) {
	more := make(chan struct{})
	pod := rawPod(t, func(c net.Conn, br *bufio.Reader) {
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			<-more
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"+req.RequestURI)
		}
	})
	r := newRig(t, pod)
	c := r.dial()
	c.send("GET /1 HTTP/1.1\r\nHost: h\r\n\r\n")
	time.Sleep(2 * watchAfter) // so that somebody watches; if it is not so yet, the test only tests less
	c.send("GET /2 HTTP/1.1\r\nHost: h\r\n\r\nGET /3 HTTP/1.1\r\nHost")
	time.Sleep(watchAfter / 4)
	c.send(": h\r\n\r\n")
	for _, want := range []string{"/1", "/2", "/3"} {
		more <- struct{}{}
		if _, got := c.answer("GET"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestExchange_Expect(t *testing.T) {
	for _, tt := range []struct {
		name  string
		pod   func(c net.Conn, br *bufio.Reader)
		first string // of what the client reads before it sends its body
		last  int
	}{
		{"pod says go on", func(c net.Conn, br *bufio.Reader) {
			req, _ := http.ReadRequest(br)
			_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			body, _ := io.ReadAll(req.Body)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}, "HTTP/1.1 100 Continue\r\n\r\n", 200},
		{"pod does not know it", func(c net.Conn, br *bufio.Reader) {
			req, _ := http.ReadRequest(br)
			body, _ := io.ReadAll(req.Body)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}, "HTTP/1.1 100 Continue\r\n\r\n", 200},
		{"pod refuses", func(c net.Conn, br *bufio.Reader) {
			_, _ = http.ReadRequest(br)
			_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nhello")
			_, _ = io.Copy(io.Discard, br)
		}, "", 403},
		{"pod is gone", func(c net.Conn, br *bufio.Reader) { _, _ = http.ReadRequest(br) }, "", 502},
	} {
		r := newRig(t, rawPod(t, tt.pod))
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
		first := make([]byte, len(tt.first))
		if _, err := io.ReadFull(c.br, first); err != nil || string(first) != tt.first {
			t.Errorf("%s: %q, %v", tt.name, first, err)
		}
		if tt.first != "" {
			c.send("hello")
		}
		res, body := c.answer("POST")
		if res.StatusCode != tt.last || tt.last == 200 && body != "hello" || res.Close != (tt.last != 200) {
			t.Errorf("%s: %d %q, close %v", tt.name, res.StatusCode, body, res.Close)
		}
	}
}

// The pod answers before it has read the body: the client gets the answer, and the rest of the body is nobody's request.
func TestExchange_AnswersBeforeTheRequestEnds(t *testing.T) {
	pod := rawPod(t, func(c net.Conn, br *bufio.Reader) {
		req, err := http.ReadRequest(br)
		if err != nil || req.URL.Path == "/evil" {
			t.Errorf("%v, %v", req, err)
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!")
		_, _ = io.Copy(io.Discard, br)
	})
	r := newRig(t, pod)
	for _, head := range []string{"Content-Length: 100000", "Transfer-Encoding: chunked"} {
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: h\r\n" + head + "\r\n\r\n")
		if strings.HasPrefix(head, "T") {
			c.send("10000\r\n")
		}
		c.send("some of it")
		res, body := c.answer("POST")
		if res.StatusCode != 413 || body != "no!" || !res.Close {
			t.Errorf("%d %q %v", res.StatusCode, body, res.Close)
		}
		_, _ = io.WriteString(c.TCPConn, "GET /evil HTTP/1.1\r\nHost: h\r\n\r\n")
		if got := c.rest(); got != "" {
			t.Errorf("then %q", got)
		}
	}
}

// A pod that closes idle connections costs nobody an answer, as long as sending again is harmless.
func TestPool_StaleConnections(t *testing.T) {
	var requests atomic.Int32
	pod := rawPod(t, func(c net.Conn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		requests.Add(1)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})
	r := newRig(t, pod)
	c := r.dial()
	for range 50 {
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		if res, _ := c.answer("GET"); res.StatusCode != 200 {
			t.Fatalf("status %d", res.StatusCode)
		}
	}
	if n := requests.Load(); n != 50 {
		t.Errorf("the pod got %d requests", n)
	}
}

// What a pod sends on an idle connection is not the answer to the next request, whoever sends that.
func TestPool_LateBytesAreNobodysAnswer(t *testing.T) {
	late := make(chan struct{})
	sent := make(chan struct{})
	pod := rawPod(t, func(c net.Conn, br *bufio.Reader) {
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			if req.URL.Path == "/late" {
				<-late
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
				sent <- struct{}{}
			}
		}
	})
	r := newRig(t, pod)
	c := r.dial()
	c.send("GET /late HTTP/1.1\r\nHost: h\r\n\r\n")
	c.answer("GET")
	late <- struct{}{}
	<-sent
	for range 3 {
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		if _, body := c.answer("GET"); body != "ok" {
			t.Fatalf("got %q", body)
		}
	}
}

func TestPool_TLSPod(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.Method, body)
	}))
	defer srv.Close()
	r := newRig(t, srv.Listener.Addr().String())
	plain := r.pool.Dial
	r.pool.Dial = func(ctx context.Context) (net.Conn, error) {
		conn, err := plain(ctx)
		if err != nil {
			return nil, err
		}
		secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		return secure, secure.HandshakeContext(ctx)
	}
	c := r.dial()
	for range 5 {
		c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
		if _, body := c.answer("POST"); body != "POST hi" {
			t.Errorf("got %q", body)
		}
	}
	if n := r.dials.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestPool_ForgetsOldConnections(t *testing.T) {
	r := newRig(t, echoPod(t))
	r.pool.IdleTimeout = 20 * time.Millisecond
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	c.answer("GET")
	for end := time.Now().Add(10 * time.Second); r.pool.Idle() > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if r.pool.Idle() > 0 {
		t.Error("still there")
	}
	r.pool.Close()
	c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	c.answer("GET")
	if r.pool.Idle() > 0 {
		t.Error("kept after Close")
	}
}
