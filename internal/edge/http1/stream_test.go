package http1

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// FuzzStream serves what a client sends with what a pod answers, both any bytes at all, and compares what the other side got with
// how net/http reads them: a pod sees no request that the client did not send, a client no answer that the pod did not give, and
// nothing that is broken looks whole.
func FuzzStream(f *testing.F) { fuzzStream(f, loops) }

// FuzzStreamLoops does it with a loop.
func FuzzStreamLoops(f *testing.F) { fuzzStream(f, 1) }

func fuzzStream(f *testing.F, loops int) {
	f.Helper()
	const get, answer = "GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
	for _, client := range []string{
		get, get + get, "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n" + get, get + "nonsense\r\n\r\n" + get, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + get,
		"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody" + get, "POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nbody",
		"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nA: b\r\n\r\n" + get, "POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nzz\r\n" + get,
		"GET /w HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly",
	} {
		for _, pod := range []string{
			answer, answer + "surplus", "HTTP/1.1 200 OK\r\n\r\nuntil the end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
			"HTTP/1.1 204 No\r\n\r\n", "HTTP/1.1 103 Hints\r\nLink: a\r\n\r\n" + answer, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n", "nonsense", "",
			"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nframe", "HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
		} {
			f.Add([]byte(client), []byte(pod), uint16(0))
		}
	}
	f.Add([]byte(get+get), []byte(answer), uint16(podCloses|30<<8))
	f.Add([]byte("POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"+get), []byte(answer), uint16(podHurries|50<<8))
	f.Fuzz(func(t *testing.T, client, pod []byte, how uint16) {
		if len(client)+len(pod) > 32<<10 || bytes.Contains(bytes.ToLower(client), []byte("expect")) {
			return // one who waits for 100 Continue and then sends nothing is tested elsewhere, as it takes a second
		}
		s := &stream{t: t, client: client, pod: pod, how: how, loops: loops}
		s.run()
		s.check()
	})
}

// What the low byte of how says; the high one is where streams are cut in two.
const (
	podCloses  = 1 << iota // after each answer
	podHurries             // it answers before it has read the body
)

// stream is a client's connection, and the pods'.
type stream struct {
	t           *testing.T
	client, pod []byte
	how         uint16
	loops       int

	mu   sync.Mutex
	seen []podRequest
	got  []byte // by the client
}

// podRequest is what a pod sees, or should.
type podRequest struct {
	method, uri, host, body string
	whole                   bool // all of the body came
}

const fuzzPatience = 20 * time.Second

func (s *stream) run() {
	var group sync.WaitGroup
	pool := &Pool{MaxIdle: 4, IdleTimeout: time.Minute, Dial: func(context.Context) (net.Conn, error) {
		near, far := socketPair(s.t)
		group.Go(func() { s.servePod(far) })
		return near, nil
	}}
	srv := NewServer(Config{
		Handler: func(x *Exchange) {
			if x.Ask(pool, nil, 0) == nil {
				_ = x.Relay([]byte("X-Relayed: 1\r\n"), 0)
			} else {
				_ = x.Respond(http.StatusBadGateway, []byte("X-Edge: 1\r\n"), []byte("failed"))
			}
		},
		Malformed:     func(x *Exchange, status int) { _ = x.Respond(status, []byte("X-Edge: 1\r\n"), []byte("malformed")) },
		HeaderTimeout: fuzzPatience, IdleTimeout: fuzzPatience, ResponseTimeout: fuzzPatience, Grace: fuzzPatience,
		MaxHeadBytes: 16 << 10, MaxPodHeadBytes: 16 << 10, Log: slog.New(slog.DiscardHandler), Loops: s.loops, early: true,
	})
	if err := srv.openLoops(); err != nil {
		s.t.Error(err)
		return
	}
	near, far := socketPair(s.t)
	defer near.Close()
	_ = near.SetDeadline(time.Now().Add(fuzzPatience))
	srv.start(srv.accepted(far))
	group.Go(func() {
		s.write(near, s.client) // fails when the server has seen enough
		_ = closeWrite(near)
	})
	var err error
	if s.got, err = io.ReadAll(near); isTimeout(err) {
		s.t.Errorf("%q with %q: nothing happens after %q", s.client, s.pod, s.got)
	}
	near.Close()
	ctx, cancel := context.WithTimeout(context.Background(), fuzzPatience)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		s.t.Errorf("%q with %q: %v", s.client, s.pod, err)
	}
	pool.Close()
	group.Wait()
}

// write writes b in two parts.
func (s *stream) write(conn net.Conn, b []byte) {
	cut := min(int(s.how>>8), len(b))
	if _, err := conn.Write(b[:cut]); err == nil {
		_, _ = conn.Write(b[cut:])
	}
}

func (s *stream) servePod(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * fuzzPatience))
	br := bufio.NewReaderSize(conn, 64<<10) // which trailers have to fit in
	for {
		if _, err := br.Peek(1); err != nil {
			return
		}
		req, err := http.ReadRequest(br)
		if err != nil {
			// A head goes out in one piece, or not at all.
			s.t.Errorf("%q with %q: the pod cannot read it: %v", s.client, s.pod, err)
			return
		}
		s.mu.Lock()
		n := len(s.seen)
		s.seen = append(s.seen, podRequest{method: req.Method, uri: req.RequestURI, host: req.Host})
		s.mu.Unlock()
		hurries := s.how&podHurries != 0
		if hurries {
			s.write(conn, s.pod)
		}
		body, err := io.ReadAll(req.Body)
		s.mu.Lock()
		s.seen[n].body, s.seen[n].whole = string(body), err == nil
		s.mu.Unlock()
		if err != nil {
			return
		}
		if !hurries {
			s.write(conn, s.pod)
		}
		if !s.podStays(req.Method) {
			_ = closeWrite(conn)
			_, _ = io.Copy(io.Discard, br) // of a tunnel, for instance
			return
		}
	}
}

// podStays reports whether the pod reads another request after its answer, which then must end by itself.
func (s *stream) podStays(method string) bool {
	a := s.reference(method)
	return s.how&podCloses == 0 && a.whole && !a.untilEnd && a.status != http.StatusSwitchingProtocols
}

// answer is an answer as net/http reads it.
type answer struct {
	status          int // 0 if there is none
	body            string
	header          http.Header
	whole, untilEnd bool
}

// reference is the pod's answer, other than 1xx.
func (s *stream) reference(method string) answer {
	return nextAnswer(bufio.NewReaderSize(bytes.NewReader(s.pod), 64<<10), method)
}

func nextAnswer(br *bufio.Reader, method string) answer {
	for {
		res, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			return answer{}
		}
		if res.StatusCode < 200 && res.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		body, err := io.ReadAll(res.Body)
		return answer{res.StatusCode, string(body), res.Header, err == nil, res.ContentLength < 0 && len(res.TransferEncoding) == 0}
	}
}

// requests are what net/http sees in what the client sends, up to the first that it does not take.
func (s *stream) requests() (list []podRequest) {
	br := bufio.NewReaderSize(bytes.NewReader(s.client), 64<<10)
	for hadBody := false; ; {
		if b, _ := br.Peek(2); hadBody && string(b) == crlf {
			_, _ = br.Discard(2)
		}
		req, err := http.ReadRequest(br)
		if err != nil {
			return list
		}
		hadBody = req.ContentLength != 0
		body, err := io.ReadAll(req.Body)
		list = append(list, podRequest{req.Method, req.RequestURI, req.Host, string(body), err == nil})
		if err != nil {
			return list
		}
	}
}

func (s *stream) check() {
	sent := s.requests()
	s.checkPod(sent)
	br := bufio.NewReaderSize(bytes.NewReader(s.got), 64<<10)
	for i := 0; ; i++ {
		if _, err := br.Peek(1); err != nil {
			return
		}
		method := http.MethodGet
		if i < len(sent) {
			method = sent[i].method
		}
		if head, _ := br.Peek(br.Buffered()); bytes.HasSuffix(head, []byte("\r\n\r\nmalformed")) && bytes.Count(head, []byte("HTTP/1.1 ")) == 1 {
			method = http.MethodGet // whatever it may have been
		}
		a := nextAnswer(br, method)
		switch want := s.reference(method); {
		case a.status == 0:
			s.fail("answer %d is none", i)
			return
		case a.header.Get("X-Edge") != "" && a.header.Get("X-Relayed") == "":
			if !a.whole {
				s.fail("answer %d, our own, is broken", i)
			}
		case i >= len(sent):
			s.fail("answer %d is to no request", i)
		case a.status != want.status:
			s.fail("answer %d has status %d, the pod's has %d", i, a.status, want.status)
		case a.status == http.StatusSwitchingProtocols:
			return // what follows is another protocol
		case a.whole && !a.untilEnd && (!want.whole || a.body != want.body):
			s.fail("answer %d is %q, the pod's %q, whole: %v", i, a.body, want.body, want.whole)
		case !strings.HasPrefix(want.body, a.body):
			s.fail("answer %d begins with %q, the pod's is %q", i, a.body, want.body)
		}
	}
}

// checkPod compares what pods got with what the client sent. Each gets requests in order; one that changes nothing may have
// gone to a second pod after the first did not answer.
func (s *stream) checkPod(sent []podRequest) {
	at := 0
	for i, r := range s.seen {
		if at < len(sent) && same(r, sent[at]) {
			at++
			continue
		}
		again := at > 0 && same(r, sent[at-1]) && harmless([]byte(r.method)) && r.body == ""
		if !again {
			s.fail("the pod's request %d is %+v; sent were %+v", i, r, sent)
			return
		}
	}
}

// same reports whether the pod got what was sent. A body that did not arrive whole may be cut anywhere.
func same(got, sent podRequest) bool {
	target := sent.uri
	if got.method == http.MethodConnect {
		return got.host == sent.host
	}
	u, err := url.ParseRequestURI(target)
	v, err2 := url.ParseRequestURI(got.uri)
	if err != nil || err2 != nil || u.Path != v.Path && u.Path != "" || u.RawQuery != v.RawQuery {
		return false
	}
	if got.method != sent.method || got.host != sent.host {
		return false
	}
	if !got.whole {
		return strings.HasPrefix(sent.body, got.body)
	}
	return sent.whole && got.body == sent.body
}

func (s *stream) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Errorf("client %q, pod %q, how %x: the client got %q", s.client, s.pod, s.how, s.got)
	s.t.Errorf(format, args...)
}

// socketPair makes two connected sockets, which cost no ports.
func socketPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Error(err)
		return errConn{}, errConn{}
	}
	conn := func(fd int) net.Conn {
		file := os.NewFile(uintptr(fd), "socket")
		defer file.Close()
		c, err := net.FileConn(file)
		if err != nil {
			t.Error(err)
			return errConn{}
		}
		return c
	}
	return conn(fds[0]), conn(fds[1])
}

// errConn is a connection that there is none of.
type errConn struct{ net.Conn }

var errNoConn = errors.New("no connection")

func (errConn) Read([]byte) (int, error)         { return 0, errNoConn }
func (errConn) Write([]byte) (int, error)        { return 0, errNoConn }
func (errConn) Close() error                     { return nil }
func (errConn) SetDeadline(time.Time) error      { return nil }
func (errConn) SetReadDeadline(time.Time) error  { return nil }
func (errConn) SetWriteDeadline(time.Time) error { return nil }
