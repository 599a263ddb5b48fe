package edge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
)

// bothProtocols runs a test over HTTP/1.1 and HTTP/2.
func bothProtocols(t *testing.T, test func(t *testing.T, http2 bool)) {
	t.Helper()
	for _, http2 := range []bool{false, true} {
		t.Run(map[bool]string{false: "h1", true: "h2"}[http2], func(t *testing.T) { test(t, http2) })
	}
}

func TestProxy_RequestArrivesAsSent(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		e := testEdge(t)
		got := make(chan *http.Request, 1)
		e.Apply(testRoute(testBackend(t, "a", func(_ http.ResponseWriter, r *http.Request) { got <- r })))
		client := testClient(t, e, http2)
		_, port, _ := net.SplitHostPort(e.HTTPSAddr())
		for _, uri := range []string{"/", "/a%2Fb/../c//d", "//x/", "/?x=1;y=2&z=%zz", "/?", "/%E4%BD%A0?q=%E4"} {
			req, err := http.NewRequestWithContext(t.Context(), "DELETE", "https://"+testHost+uri, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = http.Header{
				"X-Forwarded-For":   {"1.2.3.4, 5.6.7.8", "9.9.9.9"},
				"X-Forwarded-Proto": {"gopher"},
				"X-Forwarded-Host":  {"evil.example"},
				"X-Forwarded-Port":  {"1"},
				"Forwarded":         {"for=1.1.1.1"},
				"X-Request-Id":      {"my-id/1"},
				"X-Own":             {"a", "b"},
				"User-Agent":        {""},
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			r := receive(t, got, "request")
			if r.RequestURI != uri || r.Method != "DELETE" || r.Host != testHost || r.Proto != "HTTP/1.1" {
				t.Errorf("%s %s of %s by %s", r.Method, r.RequestURI, r.Host, r.Proto)
			}
			want := http.Header{
				"X-Forwarded-For":   {"1.2.3.4, 5.6.7.8, 9.9.9.9, 127.0.0.1"},
				"X-Forwarded-Proto": {"https"},
				"X-Forwarded-Host":  {testHost},
				"X-Forwarded-Port":  {port},
				"X-Request-Id":      {"my-id/1"},
				"X-Own":             {"a", "b"},
			}
			if diff := cmp.Diff(want, r.Header); diff != "" {
				t.Errorf("%s: headers\n%s", uri, diff)
			}
		}
	})
}

func TestProxy_ClientCannotStripItsAddress(t *testing.T) {
	e := testEdge(t)
	got := make(chan http.Header, 1)
	e.Apply(testRoute(testBackend(t, "a", func(_ http.ResponseWriter, r *http.Request) { got <- r.Header })))
	conn := dialTLS(t, e)
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: X-Forwarded-For, X-Request-Id, close\r\nX-Request-Id: <b>\r\nUpgrade: h2c\r\nKeep-Alive: 1\r\n\r\n", testHost)
	_, _ = io.Copy(io.Discard, conn)
	h := receive(t, got, "request")
	if h.Get("X-Forwarded-For") != "127.0.0.1" || len(h.Get("X-Request-Id")) != 32 || h.Get("Upgrade") != "" || h.Get("Keep-Alive") != "" {
		t.Errorf("headers %v", h)
	}
}

func TestProxy_AnswerArrivesAsSent(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		e := testEdge(t)
		e.Apply(testRoute(testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			h.Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			h.Set("Set-Cookie", "a=b")
			h.Add("Set-Cookie", "c=d")
			h.Set("Server", "mine")
			h.Set("Content-Encoding", "gzip") // and not touched
			h.Set("Trailer", "X-Sum")
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(w, "body")
			h.Set("X-Sum", "4")
			h.Set(http.TrailerPrefix+"X-Late", "yes")
		})))
		early := http.Header{}
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			early.Set("Code", fmt.Sprint(code))
			early.Set("Link", h.Get("Link"))
			return nil
		}})
		req, _ := http.NewRequestWithContext(ctx, "GET", "https://"+testHost+"/", nil)
		res, err := testClient(t, e, http2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		if res.StatusCode != 418 || string(body) != "body" || res.Header.Get("Server") != "mine" || len(res.Header["Set-Cookie"]) != 2 || res.Header.Get("Content-Encoding") != "gzip" {
			t.Errorf("%d %q %v", res.StatusCode, body, res.Header)
		}
		if res.Trailer.Get("X-Sum") != "4" || res.Trailer.Get("X-Late") != "yes" {
			t.Errorf("trailers %v", res.Trailer)
		}
		if early.Get("Code") != "103" || early.Get("Link") == "" {
			t.Errorf("early hints %v", early)
		}
	})
}

func TestProxy_RequestTrailers(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		e := testEdge(t)
		e.Apply(testRoute(testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, r.Trailer.Get("X-Sum"))
		})))
		req, _ := http.NewRequestWithContext(t.Context(), "POST", "https://"+testHost+"/", io.MultiReader(strings.NewReader("body")))
		req.Trailer = http.Header{"X-Sum": {"four"}}
		res, err := testClient(t, e, http2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if body, _ := io.ReadAll(res.Body); string(body) != "four" {
			t.Errorf("got %q", body)
		}
	})
}

func TestProxy_StreamsAtOnceBothWays(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		e := testEdge(t)
		e.Apply(testRoute(testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			lines := bufio.NewScanner(r.Body)
			for lines.Scan() {
				fmt.Fprintln(w, "echo", lines.Text())
				w.(http.Flusher).Flush()
			}
		})))
		in, out := io.Pipe()
		go fmt.Fprintln(out, "one")
		req, _ := http.NewRequestWithContext(t.Context(), "POST", "https://"+testHost+"/", in)
		res, err := testClient(t, e, http2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		answers := bufio.NewReader(res.Body)
		for _, want := range []string{"one", "two", "three"} {
			got, err := answers.ReadString('\n')
			if err != nil || got != "echo "+want+"\n" {
				t.Fatalf("got %q, %v", got, err)
			}
			next := map[string]string{"one": "two", "two": "three"}[want]
			if next == "" {
				out.Close()
				break
			}
			fmt.Fprintln(out, next)
		}
		if rest, err := io.ReadAll(answers); err != nil || len(rest) > 0 {
			t.Errorf("rest %q, %v", rest, err)
		}
	})
}

func TestProxy_AnswersBeforeTheBodyIsRead(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		e := testEdge(t)
		e.Apply(testRoute(testBackend(t, "a", func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex() // or Go's server waits for the body itself
			w.Header().Set("Connection", "close")                // and then cannot read the next request
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		})))
		client := testClient(t, e, http2)
		in, out := io.Pipe()
		defer out.Close()
		go func() { _, _ = io.WriteString(out, "a little, and then nothing more") }()
		res, body := do(t, client, "POST", "/", in)
		if res.StatusCode != 413 || body != "too large\n" {
			t.Errorf("%d %q", res.StatusCode, body)
		}
		in.Close()
		if res, _ := do(t, client, "POST", "/", strings.NewReader("again")); res.StatusCode != 413 {
			t.Errorf("next request: %d", res.StatusCode)
		}
	})
}

func TestProxy_ExpectContinue(t *testing.T) {
	e := testEdge(t)
	e.Apply(testRoute(testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusContinue) // once more than it should; the client still gets one
		_, _ = w.Write(body)
	})))
	for path, want := range map[string]string{"/yes": "HTTP/1.1 100", "/no": "HTTP/1.1 403"} {
		conn := dialTLS(t, e)
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n", path, testHost)
		br := bufio.NewReader(conn)
		line, err := br.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, want) {
			t.Fatalf("%s: %q, %v", path, line, err)
		}
		if path == "/yes" {
			_, _ = io.WriteString(conn, "hello")
			rest, err := io.ReadAll(br)
			if err != nil || strings.Count(string(rest), "HTTP/1.1 ") != 1 || !strings.HasSuffix(string(rest), "hello") {
				t.Errorf("%q, %v", rest, err)
			}
		}
	}
}

// pattern is an endless stream that costs nothing to make.
type pattern struct{ sum [32]byte }

func (p *pattern) Read(b []byte) (int, error) {
	for n := 0; n < len(b); n += copy(b[n:], p.sum[:]) {
	}
	return len(b), nil
}

func TestProxy_LargeBodiesInBoundedMemory(t *testing.T) {
	size := int64(200 << 20)
	if testing.Short() {
		size = 20 << 20
	}
	bothProtocols(t, func(t *testing.T, http2 bool) {
		e := testEdge(t)
		e.Apply(testRoute(testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				n, err := io.Copy(io.Discard, r.Body)
				fmt.Fprint(w, n, err)
				return
			}
			_, _ = io.CopyN(w, &pattern{}, size)
		})))
		client := testClient(t, e, http2)
		var peak atomic.Uint64
		watch := func() {
			runtime.GC() // what counts is what is held
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), m.HeapInuse))
		}
		upload := io.LimitReader(&pattern{}, size)
		_, body := do(t, client, "POST", "/", upload)
		watch()
		if body != fmt.Sprint(size, error(nil)) {
			t.Errorf("upload: %s", body)
		}
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+testHost+"/", nil)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var n int64
		for buf := make([]byte, 1<<20); ; {
			m, err := io.ReadFull(res.Body, buf)
			if n += int64(m); err != nil {
				break
			}
			if n%(32<<20) == 0 {
				watch()
			}
		}
		if n != size {
			t.Errorf("download: %d bytes", n)
		}
		if peak.Load() > 64<<20 {
			t.Errorf("heap grew to %d MB", peak.Load()>>20)
		}
	})
}

func TestProxy_WebSocket(t *testing.T) {
	e := testEdge(t)
	a := testBackend(t, "a", echoTunnel)
	a.Check.IntervalSeconds = 300
	e.Apply(testRoute(a))
	open := func() (net.Conn, *bufio.Reader) {
		conn := dialTLS(t, e)
		fmt.Fprintf(conn, "GET /chat HTTP/1.1\r\nHost: %s\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\nearly", testHost)
		br := bufio.NewReader(conn)
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" {
			t.Fatalf("%d %v", res.StatusCode, res.Header)
		}
		expect(t, br, "early")
		return conn, br
	}
	conn, br := open()
	for _, s := range []string{"hello", strings.Repeat("x", 100_000)} {
		go func() { _, _ = io.WriteString(conn, s) }()
		expect(t, br, s)
	}
	// It is in flight; when the client closes, it is not.
	over, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	out := a
	out.Serving = false
	e.Apply(testRoute(out))
	drained := make(chan error, 1)
	go func() { drained <- e.Drain(t.Context(), "web", "a") }()
	conn.Close()
	if err := receive(t, drained, "drain"); err != nil {
		t.Error(err)
	}
	// The other one is cut.
	e.Apply(testRoute(a))
	_, br = open()
	e.Apply(testRoute(out))
	if err := e.Drain(over, "web", "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Drain: %v", err)
	}
	if rest, _ := io.ReadAll(br); len(rest) > 0 {
		t.Errorf("rest %q", rest)
	}
	if err := e.Drain(t.Context(), "web", "a"); err != nil {
		t.Errorf("after the cut: %v", err)
	}
}

// A peer that does not read must not hold up Close: what it is sent blocks, and so does what it does not send.
func TestProxy_CutsABlockedWebSocket(t *testing.T) {
	e := testEdge(t)
	e.Apply(testRoute(testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(rw, &pattern{})
	})))
	conn := dialTLS(t, e)
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", testHost)
	expect(t, bufio.NewReader(conn), "HTTP/1.1 101")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // time to fill the buffers
	defer cancel()
	start := time.Now()
	if err := e.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close: %v", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("Close took %v", took)
	}
}

// echoTunnel switches to websocket and sends back what it gets.
func echoTunnel(w http.ResponseWriter, _ *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	_, _ = io.Copy(conn, rw)
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("got %.50q, %v; want %.50q", got, err, want)
	}
}

func TestProxy_RetriesWhatNobodySaw(t *testing.T) {
	e := testEdge(t)
	good := testBackend(t, "good", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.Method, body)
	})
	bad := testTarget("bad", refusing(t))
	bad.Check.IntervalSeconds = 300 // its health checks shall not find out
	e.Apply(testRoute(good, bad))
	tried := 0
	bothProtocols(t, func(t *testing.T, http2 bool) {
		client := testClient(t, e, http2)
		for i := range 40 {
			method := []string{"GET", "POST"}[i%2]
			if e.services["web"].targets["bad"].suspectUntil.Swap(0) != 0 { // or it is tried once only
				tried++
			}
			var in io.Reader
			if method == "POST" {
				in = strings.NewReader("data")
			}
			res, body := do(t, client, method, "/", in)
			if res.StatusCode != 200 || body != strings.TrimRight(method+" "+map[string]string{"POST": "data"}[method], "\n") {
				t.Fatalf("%s: %d %q", method, res.StatusCode, body)
			}
		}
	})
	if tried < 5 {
		t.Errorf("the bad target was tried %d times in 80 requests", tried)
	}
}

func TestProxy_RepeatsOnlyHarmlessMethods(t *testing.T) {
	e := testEdge(t)
	var hits atomic.Int32
	slam := testTarget("slam", testRawPod(t, func(net.Conn) { hits.Add(1) }))
	good := testBackend(t, "good", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "good") })
	slam.Check.IntervalSeconds, good.Check.IntervalSeconds = 300, 300
	client := testClient(t, e, false)
	for method, want := range map[string]int{"GET": 200, "HEAD": 200, "OPTIONS": 200, "POST": 502, "DELETE": 502} {
		e.Apply(testRoute(slam))
		hits.Store(0)
		for hits.Load() == 0 { // until the slamming one was the first choice
			e.Apply(testRoute(slam, good))
			res, body := do(t, client, method, "/", nil)
			if hits.Load() > 0 && res.StatusCode != want {
				t.Errorf("%s: %d %s", method, res.StatusCode, body)
			}
		}
		if n := hits.Load(); n != 1 {
			t.Errorf("%s: the target was asked %d times", method, n)
		}
	}
	// With a body even PUT is not repeated, since the body is gone.
	e.Apply(testRoute(slam))
	if res, body := do(t, client, "PUT", "/", strings.NewReader("x")); res.StatusCode != 502 || !strings.Contains(body, "Request ID: "+res.Header.Get(headerRequestID)) {
		t.Errorf("PUT: %d %s", res.StatusCode, body)
	}
}

// TestProxy_ARequestThatKillsPodsMeetsTwo: one repetition may help, more would take the whole service down.
func TestProxy_ARequestThatKillsPodsMeetsTwo(t *testing.T) {
	e := testEdge(t)
	var hits atomic.Int32
	var pods []trysail.Target
	for i := range 4 {
		pod := testTarget(fmt.Sprint("slam", i), testRawPod(t, func(net.Conn) { hits.Add(1) }))
		pod.Check.IntervalSeconds = 300
		pods = append(pods, pod)
	}
	e.Apply(testRoute(pods...))
	hits.Store(0)
	if res, _ := do(t, testClient(t, e, false), http.MethodGet, "/", nil); res.StatusCode != http.StatusBadGateway {
		t.Errorf("status %d, want 502", res.StatusCode)
	}
	if n := hits.Load(); n != 2 {
		t.Errorf("%d pods got the request, want 2", n)
	}
}

func TestProxy_TimeoutsAndNonsenseOfPods(t *testing.T) {
	e := testEdge(t, func(c *Config) { c.ResponseTimeout, c.DialTimeout = 100*time.Millisecond, 100*time.Millisecond })
	hold := make(chan struct{})
	t.Cleanup(func() { close(hold) })
	client := testClient(t, e, true)
	tests := []struct {
		name   string
		serve  func(net.Conn)
		status int
	}{
		{"silent", func(net.Conn) { <-hold }, 504},
		{"slow header", func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"); <-hold }, 504},
		{"nonsense", func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0\r\n\r\n") }, 502},
		{"closed", func(net.Conn) {}, 502},
		{"closed in the header", func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nA: b\r\n") }, 502},
		{"endless header", func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 2*maxPodHeader)+"\r\n\r\n")
		}, 502},
		{"unwanted upgrade", func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		}, 502},
	}
	for _, tt := range tests {
		e.Apply(testRoute(testTarget("a-"+strings.ReplaceAll(tt.name, " ", "-"), testRawPod(t, tt.serve))))
		for _, method := range []string{"GET", "POST"} {
			res, body := do(t, client, method, "/", nil)
			if id := res.Header.Get(headerRequestID); res.StatusCode != tt.status || id == "" || !strings.Contains(body, id) {
				t.Errorf("%s, %s: %d\n%s", tt.name, method, res.StatusCode, body)
			}
		}
	}
}

// The client must be able to tell that the body is not whole.
func TestProxy_PodBreaksOffInTheBody(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		e := testEdge(t)
		for i, head := range []string{"Content-Length: 100\r\n\r\npart", "Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"} {
			e.Apply(testRoute(testTarget(fmt.Sprint("a", i), testRawPod(t, func(c net.Conn) {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"+head)
			}))))
			req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+testHost+"/", nil)
			res, err := testClient(t, e, http2).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err == nil || string(body) != "part" {
				t.Errorf("%q, %v", body, err)
			}
		}
	})
}

func TestProxy_TLSPod(t *testing.T) {
	e := testEdge(t)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.TLS != nil, " ", r.Proto)
	}))
	defer srv.Close()
	a := testTarget("a", srv.Listener.Addr())
	a.TLS = true
	e.Apply(testRoute(a))
	client := testClient(t, e, true)
	if res, body := get(t, client, "/"); res.StatusCode != 200 || body != "true HTTP/1.1" {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	plain := testBackend(t, "b", func(http.ResponseWriter, *http.Request) {})
	plain.TLS = true
	e.Apply(testRoute(plain, a))
	for range 10 { // a failed handshake is a connection that did not come about
		if res, body := do(t, client, "POST", "/", strings.NewReader("x")); res.StatusCode != 200 {
			t.Errorf("%d %s", res.StatusCode, body)
		}
	}
}

func TestProxy_ClientLeaves(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		e := testEdge(t)
		held, ended := make(chan struct{}), make(chan struct{})
		e.Apply(testRoute(testBackend(t, "a", func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/wait" {
				return
			}
			close(held)
			<-r.Context().Done()
			close(ended)
		})))
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-held; cancel() }()
		req, _ := http.NewRequestWithContext(ctx, "GET", "https://"+testHost+"/wait", nil)
		if res, err := testClient(t, e, http2).Do(req); err == nil {
			res.Body.Close()
			t.Error("answered")
		}
		receive(t, ended, "the pod to see it")
		if err := e.Drain(within(t, 10*time.Second), "web", "a"); err != nil {
			t.Error(err)
		}
	})
}

func TestRequestID_Validation(t *testing.T) {
	for id, want := range map[string]bool{
		"6f1c0a52-9f52-4a0f-8dc5-1e8f4b1d7d11": true, "Root=1-67891233-abcdef012345678912345678": true, "a+b/c==": true,
		"": false, "a b": false, "<script>": false, "a\"b": false, "a&b": false, "ü": false, strings.Repeat("a", 129): false,
	} {
		r := &http.Request{Header: http.Header{headerRequestID: {id}}}
		if got := requestID(r) == id; got != want {
			t.Errorf("%q taken: %v", id, got)
		}
	}
	twice := &http.Request{Header: http.Header{headerRequestID: {"a", "b"}}}
	if id := requestID(twice); len(id) != 32 {
		t.Errorf("id %q", id)
	}
}

// The heart of the matter: 100 switches under load, and not one request notices.
func TestEdge_SwitchUnderLoadDropsNothing(t *testing.T) {
	e := testEdge(t)
	const workers, switches = 8, 100
	var total, failed atomic.Int64
	version := func(v int) (trysail.Target, *httptest.Server) {
		gone := &atomic.Bool{}
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if gone.Load() {
				t.Errorf("version %d got a request after it was drained", v)
			}
			sum := sha256.New()
			_, _ = io.Copy(sum, r.Body)
			fmt.Fprintf(w, "%d %x", v, sum.Sum(nil))
		}))
		srv.Config.RegisterOnShutdown(func() { gone.Store(true) })
		target := testTarget(fmt.Sprintf("pod-%d", v), srv.Listener.Addr())
		target.Version = v
		target.Check.IntervalSeconds = 300
		return target, srv
	}
	current, server := version(0)
	e.Apply(testRoute(current))

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var working sync.WaitGroup
	for i := range workers {
		client := testClient(t, e, i%2 == 0)
		working.Go(func() {
			payload := bytes.Repeat([]byte("x"), 10_000)
			for n := 0; ctx.Err() == nil; n++ {
				method, body := "GET", io.Reader(nil)
				if n%2 == 1 {
					method, body = "POST", bytes.NewReader(payload)
				}
				req, _ := http.NewRequestWithContext(t.Context(), method, "https://"+testHost+"/", body)
				res, err := client.Do(req)
				total.Add(1)
				if err != nil {
					failed.Add(1)
					t.Errorf("%s: %v", method, err)
					return
				}
				text, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != 200 {
					failed.Add(1)
					t.Errorf("%s: %d %s %v", method, res.StatusCode, text, err)
					return
				}
			}
		})
	}
	for v := 1; v <= switches && failed.Load() == 0; v++ {
		for before := total.Load(); total.Load() < before+20 && failed.Load() == 0; {
			runtime.Gosched()
		}
		next, nextServer := version(v)
		leaving := current
		leaving.Serving = false
		e.Apply(testRoute(next, leaving))
		if err := e.Drain(within(t, 20*time.Second), "web", current.Pod); err != nil {
			t.Fatalf("draining version %d: %v", v-1, err)
		}
		e.Apply(testRoute(next))
		// As a stopped pod: nothing may be on its way there any more.
		if err := server.Config.Shutdown(within(t, 20*time.Second)); err != nil {
			t.Fatalf("version %d: %v", v-1, err)
		}
		server.Close()
		current, server = next, nextServer
	}
	stop()
	working.Wait()
	server.Close()
	t.Logf("%d requests over %d switches, %d failed", total.Load(), switches, failed.Load())
	if total.Load() < switches*20 {
		t.Errorf("only %d requests", total.Load())
	}
}
