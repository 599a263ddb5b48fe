package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// testHTTP3Client talks HTTP/3 to e whatever the URL's host is.
func testHTTP3Client(t *testing.T, e *Edge) *http.Client {
	t.Helper()
	tr := &http3.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: rootPool(t, e)},
		DisableCompression: true,
		Dial: func(ctx context.Context, _ string, cfg *tls.Config, qc *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, e.HTTPSAddr(), cfg, qc)
		},
	}
	t.Cleanup(func() { tr.Close() })
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func withHTTP3(c *Config) { c.HTTP3 = true }

func TestHTTP3_ServesLikeTheOthers(t *testing.T) {
	entries := make(chan string, 10)
	e := testEdge(t, withHTTP3, func(c *Config) { c.AccessLog = collectLines(entries) })
	r := testRoute(testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/big":
			_, _ = io.CopyN(w, &pattern{}, 8<<20)
		case "/headers":
			fmt.Fprintln(w, r.Method, r.ContentLength, r.TransferEncoding, r.Header["X-Forwarded-For"], r.Header["X-Forwarded-Proto"], r.Host)
		case "/trailer":
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("Trailer", "X-After")
			_, _ = w.Write(body)
			w.Header().Set("X-After", "this")
		default:
			_ = http.NewResponseController(w).EnableFullDuplex()
			_, _ = io.Copy(w, r.Body)
		}
	}))
	r.AccessLog = true
	e.Apply(r)
	c := testHTTP3Client(t, e)
	for _, method := range []string{"GET", "HEAD", "DELETE"} {
		res, body := do(t, c, method, "/headers", nil)
		if want := method + " 0 [] [127.0.0.1] [https] " + testHost + "\n"; res.StatusCode != 200 || method == "GET" && body != want || res.ProtoMajor != 3 {
			t.Errorf("%s: %d %s, want %s", method, res.StatusCode, body, want)
		}
		if line := receive(t, entries, "a line"); !strings.Contains(line, `"protocol":"HTTP/3.0"`) || !strings.Contains(line, `"tls":"1.3"`) || !strings.Contains(line, `"client":"127.0.0.1"`) {
			t.Errorf("line %s", line)
		}
	}
	if res, body := do(t, c, "POST", "/", io.LimitReader(&pattern{}, 3<<20)); res.StatusCode != 200 || len(body) != 3<<20 {
		t.Errorf("echo: %d, %d bytes", res.StatusCode, len(body))
	}
	if _, body := do(t, c, "GET", "/big", nil); len(body) != 8<<20 {
		t.Errorf("%d bytes", len(body))
	}
	if res, body := do(t, c, "POST", "/trailer", strings.NewReader("body")); body != "body" || res.Trailer.Get("X-After") != "this" {
		t.Errorf("%q, trailer %v", body, res.Trailer)
	}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://nobody.us-east-1.cs.localhost/", nil)
	if res, body := send(t, c, req); res.StatusCode != 404 || body != page404 {
		t.Errorf("unknown host: %d %s", res.StatusCode, body)
	}
	if res, _ := do(t, c, "TRACE", "/", nil); res.StatusCode != 405 {
		t.Errorf("TRACE: %d", res.StatusCode)
	}
}

func TestHTTP3_IsAnnouncedOnlyWhereItIs(t *testing.T) {
	for _, on := range []bool{true, false} {
		e := testEdge(t, func(c *Config) { c.HTTP3 = on })
		e.Apply(testRoute(testBackend(t, "a", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Alt-Svc", `h3=":1"`) })))
		_, port, _ := net.SplitHostPort(e.HTTPSAddr())
		want := `h3=":` + port + `"; ma=3600`
		if !on {
			want = `h3=":1"` // the pod's affair
		}
		bothProtocols(t, func(t *testing.T, http2 bool) {
			res, _ := get(t, testClient(t, e, http2), "/")
			if got := res.Header["Alt-Svc"]; len(got) != 1 || got[0] != want {
				t.Errorf("on %v: Alt-Svc %q, want %q", on, got, want)
			}
		})
		if status, _, _ := fetch(t, testClient(t, e, false), "http://"+testHost+"/"); status != 301 {
			t.Errorf("redirect: %d", status)
		}
	}
}

func TestHTTP3_TakesNewCertificates(t *testing.T) {
	var current atomic.Pointer[tls.Certificate]
	e := testEdge(t, withHTTP3, func(c *Config) {
		c.Certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil }
	})
	for range 2 {
		cert := issue(t, e, testHost)
		current.Store(cert)
		conn, err := quic.DialAddr(within(t, 20*time.Second), e.HTTPSAddr(), &tls.Config{RootCAs: rootPool(t, e), ServerName: testHost, NextProtos: []string{"h3"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !conn.ConnectionState().TLS.PeerCertificates[0].Equal(cert.Leaf) {
			t.Error("not the current certificate")
		}
		_ = conn.CloseWithError(0, "")
	}
	current.Store(nil)
	_, err := quic.DialAddr(within(t, 20*time.Second), e.HTTPSAddr(), &tls.Config{RootCAs: rootPool(t, e), ServerName: "evil.example.com", NextProtos: []string{"h3"}}, nil)
	if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("another name: %v", err)
	}
}

func TestHTTP3_ConnectionsAreLimited(t *testing.T) {
	e := testEdge(t, withHTTP3, func(c *Config) { c.MaxConnections = 1 })
	dial := func() (*quic.Conn, error) {
		return quic.DialAddr(within(t, 20*time.Second), e.HTTPSAddr(), &tls.Config{RootCAs: rootPool(t, e), ServerName: testHost, NextProtos: []string{"h3"}}, nil)
	}
	first, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	second, err := dial()
	if err == nil {
		receive(t, second.Context().Done(), "the end of the second connection")
		err = context.Cause(second.Context())
	}
	if app, ok := errors.AsType[*quic.ApplicationError](err); !ok || app.ErrorCode != excessiveLoad {
		t.Errorf("the second connection ended with %v", err)
	}
	_ = first.CloseWithError(0, "")
	for start := time.Now(); ; {
		again, err := dial()
		if err == nil {
			_, err = again.AcceptUniStream(within(t, 20*time.Second)) // the server's control stream
			_ = again.CloseWithError(0, "")
		}
		if err == nil {
			break
		}
		if time.Since(start) > 20*time.Second {
			t.Fatalf("the place is not given back: %v", err)
		}
	}
}

// Close lets a request finish, and does not wait for clients that only stay connected.
func TestHTTP3_Drains(t *testing.T) {
	e := testEdge(t, withHTTP3)
	begun, end := make(chan bool), make(chan bool)
	e.Apply(testRoute(testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			begun <- true
			<-end
		}
		_, _ = io.WriteString(w, "whole")
	})))
	c := testHTTP3Client(t, e)
	get(t, c, "/")
	got := make(chan string)
	go func() {
		res, err := c.Get("https://" + testHost + "/slow")
		if err != nil {
			got <- err.Error()
			return
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		got <- fmt.Sprint(string(body), err)
	}()
	receive(t, begun, "the request")
	closed := make(chan error)
	go func() { closed <- e.Close(within(t, 30*time.Second)) }()
	select {
	case err := <-closed:
		t.Fatalf("closed with a request in flight: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(end)
	if body := receive(t, got, "the answer"); body != "whole<nil>" {
		t.Errorf("got %s", body)
	}
	if err := receive(t, closed, "Close"); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// A pod's drain cuts what is left over HTTP/3 as well.
func TestHTTP3_CutsAtTheEndOfADrain(t *testing.T) {
	e := testEdge(t, withHTTP3)
	begun := make(chan bool)
	e.Apply(testRoute(testBackend(t, "a", func(_ http.ResponseWriter, r *http.Request) {
		begun <- true
		<-r.Context().Done()
	})))
	c := testHTTP3Client(t, e)
	status := make(chan int)
	go func() {
		res, err := c.Get("https://" + testHost + "/")
		if err != nil {
			status <- 0
			return
		}
		res.Body.Close()
		status <- res.StatusCode
	}()
	receive(t, begun, "the request")
	if err := e.Drain(within(t, 10*time.Millisecond), "web", "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Drain: %v", err)
	}
	if got := receive(t, status, "the answer"); got != 502 {
		t.Errorf("status %d", got)
	}
}

func TestHTTP3_HugeHeadersAndSlowBodies(t *testing.T) {
	e := testEdge(t, withHTTP3, func(c *Config) {
		impatient(c)
		c.MaxHeaderBytes = 4 << 10
	})
	e.Apply(testRoute(testBackend(t, "a", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })))
	c := testHTTP3Client(t, e)
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+testHost+"/", nil)
	req.Header.Set("X-Huge", strings.Repeat("x", 100<<10))
	if res, err := c.Do(req); err == nil {
		res.Body.Close()
		if res.StatusCode != 431 {
			t.Errorf("huge header: %d", res.StatusCode)
		}
	}
	in, out := io.Pipe()
	defer in.Close()
	go func() { _, _ = io.WriteString(out, "half") }()
	if res, _ := do(t, c, "POST", "/", in); res.StatusCode != 408 {
		t.Errorf("half a body: %d", res.StatusCode)
	}
}

func TestHTTP3_PortInUse(t *testing.T) {
	udp := testPacketConn(t)
	e, err := New(Config{Dir: t.TempDir(), HTTPAddr: "127.0.0.1:0", HTTPSAddr: udp.LocalAddr().String(), HTTP3: true}, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(); err == nil || !strings.Contains(err.Error(), "--http3") {
		t.Errorf("Start: %v", err)
	}
	// Nothing is left open.
	l, err := net.Listen("tcp", udp.LocalAddr().String())
	if err != nil {
		t.Error(err)
	} else {
		l.Close()
	}
	if err := e.Close(within(t, 10*time.Second)); err != nil {
		t.Error(err)
	}
}

// testPacketConn listens at a UDP port of which the TCP port is free, and stays so: the kernel gives ports of this range to
// nobody who does not ask for them.
func testPacketConn(t *testing.T) net.PacketConn {
	t.Helper()
	for range 100 {
		udp, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(10000)))
		if err != nil {
			continue
		}
		tcp, err := net.Listen("tcp", udp.LocalAddr().String())
		if err != nil {
			udp.Close()
			continue
		}
		tcp.Close()
		t.Cleanup(func() { udp.Close() })
		return udp
	}
	t.Fatal("no port is free for both TCP and UDP")
	return nil
}
