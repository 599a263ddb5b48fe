package edge

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/trysail/trysail"
)

func TestEdge_Pages(t *testing.T) {
	e := testEdge(t)
	down := testTarget("a", refusing(t))
	serving := testRoute(down)
	waiting := down
	waiting.Serving = false
	tests := []struct {
		name   string
		route  trysail.Route
		host   string
		status int
		title  string
	}{
		{"none", trysail.Route{Service: "web", Host: testHost, Mode: trysail.RouteNone}, testHost, 404, "404 No Such Service"},
		{"activating", trysail.Route{Service: "web", Host: testHost, Mode: trysail.RouteNone, Targets: []trysail.Target{waiting}}, testHost, 404, "404 No Such Service"},
		{"unknown host", serving, "other.0123456789abc.us-east-1.cs.localhost", 404, "404 No Such Service"},
		{"bare domain", serving, "localhost", 404, "404 No Such Service"},
		{"disabled", trysail.Route{Service: "web", Host: testHost, Mode: trysail.RouteDisabled, Targets: []trysail.Target{down}}, testHost, 503, "503 Service Temporarily Unavailable"},
		{"no target", testRoute(waiting), testHost, 503, "503 Service Temporarily Unavailable"},
		{"refused", serving, testHost, 502, "502 Bad Gateway"},
	}
	for _, tt := range tests {
		for _, http2 := range []bool{false, true} {
			client := testClient(t, e, http2)
			e.Apply(tt.route)
			for _, method := range []string{"GET", "HEAD", "POST"} {
				req, err := http.NewRequestWithContext(t.Context(), method, "https://"+tt.host+"/", strings.NewReader("body"))
				if err != nil {
					t.Fatal(err)
				}
				res, err := client.Do(req)
				if err != nil {
					t.Fatalf("%s: %v", tt.name, err)
				}
				body, _ := io.ReadAll(res.Body)
				res.Body.Close()
				id := res.Header.Get(headerRequestID)
				want := "<!DOCTYPE html>\n<html>\n<head><title>" + tt.title + "</title></head>\n<body bgcolor=\"white\">\n<center><h1>" + tt.title + "</h1></center>\n"
				if tt.status != 404 {
					want += "<center>Request ID: " + id + "</center>\n"
				}
				want += "</body>\n</html>"
				if method == "HEAD" {
					want = ""
				}
				if res.StatusCode != tt.status || string(body) != want || id == "" {
					t.Errorf("%s, %s: %d id %q\n%s", tt.name, method, res.StatusCode, id, body)
				}
				if ct := res.Header.Get("Content-Type"); ct != "text/html" || res.Header.Get("Server") != "" {
					t.Errorf("%s: headers %v", tt.name, res.Header)
				}
			}
		}
	}
}

func TestEdge_RedirectsPlainHTTP(t *testing.T) {
	e := testEdge(t)
	client := testClient(t, e, false)
	_, port, _ := net.SplitHostPort(e.HTTPSAddr())
	tests := []struct {
		method, host, uri string
		status            int
		location          string
	}{
		{"GET", testHost, "/a%2Fb?x=1;y=%zz", 301, "https://" + testHost + ":" + port + "/a%2Fb?x=1;y=%zz"},
		{"HEAD", testHost, "/", 301, "https://" + testHost + ":" + port + "/"},
		{"POST", testHost, "/", 308, "https://" + testHost + ":" + port + "/"},
		{"GET", strings.ToUpper(testHost) + ".:80", "//evil.example/", 301, "https://" + testHost + ":" + port + "//evil.example/"},
		{"GET", "evil.example", "/", 404, ""},
		{"GET", "127.0.0.1", "/", 404, ""},
		{"GET", "[::1]:80", "/", 404, ""},
		{"GET", testHost + "@evil.example", "/", 404, ""},
		{"GET", "evil.example/" + testHost, "/", 404, ""},
	}
	for _, tt := range tests {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://"+testHost+tt.uri, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = tt.host
		res, err := client.Do(req)
		if err != nil {
			t.Fatalf("%+v: %v", tt, err)
		}
		res.Body.Close()
		if got := res.Header.Get("Location"); got != tt.location || res.StatusCode != tt.status && (tt.status != 404 || res.StatusCode != 400) {
			t.Errorf("%s %s %s: %d, Location %q", tt.method, tt.host, tt.uri, res.StatusCode, got)
		}
	}
}

func TestEdge_HostileHostOnTheWire(t *testing.T) {
	e := testEdge(t)
	for _, head := range []string{
		"GET / HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: \x00\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: <script>\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n",
		"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
		"TRACE / HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n",
		"GET http://evil.example/ HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: " + testHost + "\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: " + testHost + "\r\nX: " + strings.Repeat("x", 80<<10) + "\r\n\r\n",
	} {
		conn := dialTLS(t, e)
		_, _ = io.WriteString(conn, head)
		_ = conn.CloseWrite()
		answer, _ := io.ReadAll(conn)
		line, _, _ := strings.Cut(string(answer), "\r\n")
		if !strings.HasPrefix(line, "HTTP/1.1 4") && !strings.HasPrefix(head, "OPTIONS") {
			t.Errorf("%.60q: %q", head, line)
		}
		if strings.Contains(string(answer), "<script>") {
			t.Errorf("%.60q is reflected", head)
		}
	}
}

func TestEdge_SNI(t *testing.T) {
	e := testEdge(t)
	client := testClient(t, e, true)
	for host, ok := range map[string]bool{
		"gone.0123456789abc.us-east-1.cs.localhost": true, // was a service once: its 404 page needs a certificate
		"localhost":        true,
		"127.0.0.1":        true,
		"www.google.com":   false,
		"web.localhost":    false, // could be signed for, but nothing is there
		"cs.localhost.com": false,
	} {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+host+"/", nil)
		res, err := client.Do(req)
		if (err == nil) != ok {
			t.Errorf("%s: %v", host, err)
		}
		if err == nil {
			res.Body.Close()
			if res.StatusCode != 404 || res.ProtoMajor != 2 || res.TLS.Version < 0x0303 {
				t.Errorf("%s: %d %s", host, res.StatusCode, res.Proto)
			}
		} else if !strings.Contains(err.Error(), "unrecognized name") {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestEdge_PortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	e, err := New(Config{Dir: t.TempDir(), HTTPAddr: "127.0.0.1:0", HTTPSAddr: l.Addr().String()}, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(t.Context())
	err = e.Start()
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) || !strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), "--https") {
		t.Errorf("error: %v", err)
	}
	if e.Check() == nil {
		t.Error("Check is content")
	}
}

func TestEdge_CheckFollowsItsLife(t *testing.T) {
	e, err := New(Config{Dir: t.TempDir(), HTTPAddr: "127.0.0.1:0", HTTPSAddr: "127.0.0.1:0"}, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	if e.Check() == nil {
		t.Error("content before Start")
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	if err := e.Check(); err != nil {
		t.Error(err)
	}
	if err := e.Start(); err == nil {
		t.Error("started twice")
	}
	if err := e.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if e.Check() == nil {
		t.Error("content after Close")
	}
	if err := e.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, open := <-e.Changes(); open {
		t.Error("changes go on")
	}
}

func TestConfig_Validate(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{Dir: "x", Domain: "UPPER"},
		{Dir: "x", Domain: "a b"},
		{Dir: "x", Domain: "localhost:80"},
		{Dir: "x", Names: []string{"*"}},
		{Dir: "x", HTTPAddr: "80"},
		{Dir: "x", HTTPSAddr: "nope"},
		{Dir: "x", IdleTimeout: -1},
		{Dir: "x", MaxConnections: -1},
	} {
		if err := cfg.Validate(); err == nil {
			t.Errorf("accepted %+v", cfg)
		}
	}
	if err := (Config{Dir: "x"}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestEdge_ReportsHealth(t *testing.T) {
	e := testEdge(t)
	status := make(chan int, 1)
	status <- 503
	a := testProbedBackend(t, "a", func(w http.ResponseWriter, _ *http.Request) {
		s := <-status
		status <- s
		w.WriteHeader(s)
	})
	a.PresumeHealthy, a.Activating, a.Serving = false, true, false
	e.Apply(testRoute(a))
	for e.Health("web")["a"].Probes < 3 {
		time.Sleep(time.Millisecond) // no event tells of probes that change nothing
	}
	select {
	case name := <-e.Changes():
		t.Fatalf("change of %q before there was one", name)
	default:
	}
	e.Apply(testRoute(a)) // changes nothing
	if e.Health("web")["a"].Probes < 3 {
		t.Error("applying again forgot the probes")
	}
	<-status
	status <- 200
	if name := receive(t, e.Changes(), "health"); name != "web" {
		t.Errorf("change of %q", name)
	}
	if h := e.Health("web")["a"]; !h.Healthy || h.Last.Status != 200 {
		t.Errorf("%+v", h)
	}
	e.Remove("web")
	if h := e.Health("web"); len(h) != 0 {
		t.Errorf("%+v", h)
	}
}

func TestEdge_ChangesNeverBlockAndMerge(t *testing.T) {
	c := newChanges()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { c.run(stop); close(done) }()
	for range 1000 {
		c.add("a")
		c.add("b")
	}
	got := map[string]int{}
	for len(got) < 2 {
		got[receive(t, c.out, "change")]++
	}
	c.add("c")
	for got["c"] == 0 {
		got[receive(t, c.out, "change")]++
	}
	if got["a"] > 2 || got["b"] > 2 {
		t.Errorf("not merged: %v", got)
	}
	close(stop)
	<-done
}

func TestEdge_PrefersHealthyAndFailsOpen(t *testing.T) {
	e := testEdge(t)
	name := func(n string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, n) }
	}
	a, b := testBackend(t, "a", name("a")), testBackend(t, "b", name("b"))
	for _, target := range []*trysail.Target{&a, &b} {
		target.Check.SuccessCodes = "299" // never
		target.PresumeHealthy = false
	}
	a.PresumeHealthy = true
	a.Check.IntervalSeconds = 300
	client := testClient(t, e, false)
	e.Apply(testRoute(a, b))
	for range 20 {
		if _, body := get(t, client, "/"); body != "a" {
			t.Fatalf("the unhealthy %s got a request", body)
		}
	}
	e.Apply(testRoute(b))
	if res, body := get(t, client, "/"); body != "b" || res.StatusCode != 200 {
		t.Errorf("nobody is healthy: %d %s", res.StatusCode, body)
	}
}

func TestEdge_LeastOutstanding(t *testing.T) {
	e := testEdge(t)
	held, free := make(chan string), make(chan struct{})
	hold := func(n string) http.HandlerFunc {
		return func(http.ResponseWriter, *http.Request) {
			held <- n
			<-free
		}
	}
	e.Apply(testRoute(testBackend(t, "a", hold("a")), testBackend(t, "b", hold("b")), testBackend(t, "c", hold("c"))))
	client := testClient(t, e, true)
	count := map[string]int{}
	done := make(chan error, 9)
	for range 9 {
		go func() {
			req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+testHost+"/", nil)
			res, err := client.Do(req)
			if err == nil {
				res.Body.Close()
			}
			done <- err
		}()
		count[receive(t, held, "request")]++
	}
	close(free)
	for range 9 {
		if err := receive(t, done, "answer"); err != nil {
			t.Error(err)
		}
	}
	if count["a"] != 3 || count["b"] != 3 || count["c"] != 3 {
		t.Errorf("nine waiting requests: %v", count)
	}
}

func TestEdge_DrainWaitsThenCuts(t *testing.T) {
	e := testEdge(t)
	held, free := make(chan struct{}), make(chan struct{})
	a := testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "first ")
		w.(http.Flusher).Flush()
		select {
		case <-free:
			_, _ = io.WriteString(w, "last")
		case <-r.Context().Done():
		}
	})
	a.Check.IntervalSeconds = 300
	client := testClient(t, e, false)
	read := func() <-chan string {
		got := make(chan string, 1)
		go func() {
			req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+testHost+"/", nil)
			res, err := client.Do(req)
			if err != nil {
				got <- err.Error()
				return
			}
			defer res.Body.Close()
			first := make([]byte, len("first "))
			_, _ = io.ReadFull(res.Body, first)
			held <- struct{}{}
			rest, err := io.ReadAll(res.Body)
			if err != nil {
				rest = append(rest, "cut"...)
			}
			got <- string(first) + string(rest)
		}()
		return got
	}
	leave := func() {
		out := a
		out.Serving = false
		e.Apply(testRoute(out))
	}

	e.Apply(testRoute(a))
	if err := e.Drain(t.Context(), "web", "unknown"); err != nil {
		t.Error(err)
	}
	if err := e.Drain(t.Context(), "unknown", "a"); err != nil {
		t.Error(err)
	}
	got := read()
	receive(t, held, "request")
	leave()
	drained := make(chan error, 1)
	go func() { drained <- e.Drain(t.Context(), "web", "a") }()
	free <- struct{}{}
	if body := receive(t, got, "answer"); body != "first last" {
		t.Errorf("drained request got %q", body)
	}
	if err := receive(t, drained, "drain"); err != nil {
		t.Error(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Drain(over, "web", "a"); err != nil {
		t.Errorf("nothing in flight: %v", err)
	}

	e.Apply(testRoute(a))
	got = read()
	receive(t, held, "request")
	e.Apply(testRoute()) // forgotten, but not by Drain
	if err := e.Drain(over, "web", "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if body := receive(t, got, "answer"); body != "first cut" {
		t.Errorf("cut request got %q", body)
	}

	e.Apply(testRoute(a))
	got = read()
	receive(t, held, "request")
	e.Remove("web")
	if body := receive(t, got, "answer"); body != "first cut" {
		t.Errorf("request of a removed service got %q", body)
	}
	if res, _ := get(t, client, "/"); res.StatusCode != 404 {
		t.Errorf("status %d after Remove", res.StatusCode)
	}
}

func TestEdge_DrainClosesATargetInRotation(t *testing.T) {
	e := testEdge(t)
	a := testBackend(t, "a", func(http.ResponseWriter, *http.Request) {})
	e.Apply(testRoute(a))
	if err := e.Drain(t.Context(), "web", "a"); err != nil {
		t.Fatal(err)
	}
	client := testClient(t, e, false)
	if res, _ := get(t, client, "/"); res.StatusCode != 503 {
		t.Errorf("status %d after Drain", res.StatusCode)
	}
	e.Apply(testRoute(a))
	if res, _ := get(t, client, "/"); res.StatusCode != 200 {
		t.Errorf("status %d after it came back", res.StatusCode)
	}
}

func TestEdge_CloseLetsRequestsFinish(t *testing.T) {
	e := testEdge(t)
	held, free := make(chan struct{}), make(chan struct{})
	e.Apply(testRoute(testBackend(t, "a", func(w http.ResponseWriter, _ *http.Request) {
		held <- struct{}{}
		<-free
		_, _ = io.WriteString(w, "done")
	})))
	client := testClient(t, e, true)
	got := make(chan string, 1)
	go func() {
		_, body := get(t, client, "/")
		got <- body
	}()
	receive(t, held, "request")
	closed := make(chan error, 1)
	go func() { closed <- e.Close(t.Context()) }()
	select {
	case err := <-closed:
		t.Fatalf("Close did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(free)
	if body := receive(t, got, "answer"); body != "done" {
		t.Errorf("got %q", body)
	}
	if err := receive(t, closed, "Close"); err != nil {
		t.Error(err)
	}
}

func TestEdge_CloseCutsInTheEnd(t *testing.T) {
	e := testEdge(t)
	held := make(chan struct{}, 1)
	e.Apply(testRoute(testBackend(t, "a", func(_ http.ResponseWriter, r *http.Request) {
		held <- struct{}{}
		<-r.Context().Done()
	})))
	client := testClient(t, e, false)
	failed := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+testHost+"/", nil)
		res, err := client.Do(req)
		if err == nil {
			res.Body.Close()
		}
		failed <- err
	}()
	receive(t, held, "request")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := e.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close: %v", err)
	}
	if err := receive(t, failed, "end"); err == nil {
		t.Error("the request succeeded")
	}
}

func TestEdge_HostMoves(t *testing.T) {
	e := testEdge(t)
	client := testClient(t, e, false)
	a := testBackend(t, "a", func(http.ResponseWriter, *http.Request) {})
	e.Apply(testRoute(a))
	moved := testRoute(a)
	moved.Host = "new.0123456789abc.us-east-1.cs.localhost"
	e.Apply(moved)
	if res, _ := get(t, client, "/"); res.StatusCode != 404 {
		t.Errorf("old host: %d", res.StatusCode)
	}
	// Another service takes the old host; removing the first must not take it away.
	other := testRoute(testBackend(t, "b", func(http.ResponseWriter, *http.Request) {}))
	other.Service = "other"
	e.Apply(other)
	e.Remove("web")
	if res, _ := get(t, client, "/"); res.StatusCode != 200 {
		t.Errorf("new owner: %d", res.StatusCode)
	}
}
