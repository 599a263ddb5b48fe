package edge

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
)

// accessLine is a line of the access log as its readers take it.
type accessLine struct {
	Time        time.Time
	Service     string
	Version     int
	Pod         string
	Client      string
	Method      string
	Host        string
	Path        string
	Query       string
	Protocol    string
	TLS         string
	Status      int
	BytesIn     int64
	BytesOut    int64
	Duration    float64
	PodDuration *float64
	RequestID   string
	UserAgent   string
	Referer     string
	Retries     int
	HealthCheck bool
	Healthy     bool
	End         string
	Error       string
}

// accessEdge starts an edge whose access log arrives in the channel. Lines that do not fit are lost.
func accessEdge(t *testing.T) (*Edge, <-chan accessLine) {
	t.Helper()
	lines := make(chan accessLine, 100)
	return testEdge(t, func(c *Config) {
		c.AccessLog = func(serviceID string, at time.Time, text []byte) {
			var l accessLine
			dec := json.NewDecoder(strings.NewReader(string(text)))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&l); err != nil || serviceID != "id-of-web" || at.Before(l.Time.Truncate(time.Microsecond)) || !utf8.Valid(text) {
				t.Errorf("line %q of service %q at %v: %v", text, serviceID, at, err)
			}
			select {
			case lines <- l:
			default:
			}
		}
	}), lines
}

func loggedRoute(targets ...trysail.Target) trysail.Route {
	r := testRoute(targets...)
	r.ServiceID, r.AccessLog = "id-of-web", true
	return r
}

// traffic returns what was counted of a version of the test's service.
func traffic(e *Edge, version int) trysail.Traffic {
	for _, c := range e.Traffic() {
		if c.Version == version {
			return c
		}
	}
	return trysail.Traffic{}
}

func TestAccess_LineTellsTheRequest(t *testing.T) {
	bothProtocols(t, func(t *testing.T, http2 bool) {
		e, lines := accessEdge(t)
		ids := make(chan string, 1)
		target := testBackend(t, "web-1", func(w http.ResponseWriter, r *http.Request) {
			ids <- r.Header.Get("X-Request-Id")
			w.Header().Set("X-Request-Id", "the pod's own idea")
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, "hello")
		})
		target.Version = 7
		e.Apply(loggedRoute(target))
		req, _ := http.NewRequestWithContext(t.Context(), "POST", "https://"+testHost+"/a%2Fb?page=1&token=s3cret&bare&x=", strings.NewReader("four"))
		req.Header.Set("User-Agent", "agent \"\\\xff \u0085ü")
		req.Header.Set("Referer", "https://me:s3cret@example.com/from?s3cret=1#s3cret")
		res, err := testClient(t, e, http2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		got := receive(t, lines, "line")
		id := receive(t, ids, "request")
		if string(body) != "hello" || len(id) != 32 || !slices.Equal(res.Header["X-Request-Id"], []string{id}) {
			t.Errorf("body %q, pod's id %q, client's %q", body, id, res.Header["X-Request-Id"])
		}
		if got.PodDuration == nil || *got.PodDuration <= 0 || got.Duration < *got.PodDuration || time.Since(got.Time) > time.Minute {
			t.Errorf("times %+v", got)
		}
		want := accessLine{
			Time: got.Time, Service: "web", Version: 7, Pod: "web-1", Client: "127.0.0.1", Method: "POST", Host: testHost, Path: "/a%2Fb",
			Query: "page=&token=&*&x=", Protocol: res.Proto, TLS: "1.3", Status: 201, BytesIn: 4, BytesOut: 5, Duration: got.Duration, PodDuration: got.PodDuration,
			RequestID: id, UserAgent: "agent \"\\\ufffd \u0085ü", Referer: "https://example.com/from",
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("line (-want +got):\n%s", d)
		}
		c := traffic(e, 7)
		if c.Requests != [6]int64{0, 0, 1} || c.BytesIn != 4 || c.BytesOut != 5 || c.Latency.Quantile(1) == 0 || c.ProbeFailures != 0 {
			t.Errorf("traffic %+v", c)
		}
	})
}

func TestAccess_RequestIDOfTheClient(t *testing.T) {
	e, lines := accessEdge(t)
	e.Apply(loggedRoute(testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Header.Get("X-Request-Id")) })))
	client := testClient(t, e, true)
	for sent, kept := range map[string]bool{
		"6a1f0c2e-3b5d-4e7f-8a9b-0c1d2e3f4a5b": true, "Root=1-67891233-abcdef012345678912345678": true, "": false,
		"a b": false, "\"}": false, strings.Repeat("a", 128): true, strings.Repeat("a", 129): false, strings.Repeat("a", 20_000): false,
	} {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+testHost+"/", nil)
		req.Header.Set("X-Request-Id", sent)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		id := receive(t, lines, "line").RequestID
		if id != string(body) || id != res.Header.Get("X-Request-Id") || (id == sent) != kept || !validID(id) {
			t.Errorf("sent %.40q: log %.40q, pod %.40q, client %.40q", sent, id, body, res.Header.Get("X-Request-Id"))
		}
	}
}

func TestAccess_WhatTheEdgeAnswers(t *testing.T) {
	e, lines := accessEdge(t)
	client := testClient(t, e, false)
	down := testTarget("a", refusing(t))
	waiting := down
	waiting.Serving = false
	none, disabled := loggedRoute(), loggedRoute()
	none.Mode, disabled.Mode = trysail.RouteNone, trysail.RouteDisabled
	for _, tt := range []struct {
		name    string
		route   trysail.Route
		url     string
		status  int
		version int
		retries int
		err     string
	}{
		{"redirect", loggedRoute(down), "http://" + testHost + "/x?s=s3cret", 301, 0, 0, ""},
		{"nothing to serve", none, "https://" + testHost + "/", 404, 0, 0, ""},
		{"disabled", disabled, "https://" + testHost + "/", 503, 0, 0, ""},
		{"no target", loggedRoute(waiting), "https://" + testHost + "/", 503, 0, 0, "no target in rotation"},
		{"refused", loggedRoute(down), "https://" + testHost + "/", 502, 1, 1, "connection refused"},
	} {
		before := traffic(e, tt.version)
		e.Apply(tt.route)
		req, _ := http.NewRequestWithContext(t.Context(), "GET", tt.url, nil)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		n, _ := io.Copy(io.Discard, res.Body)
		res.Body.Close()
		l := receive(t, lines, "line")
		if res.StatusCode != tt.status || l.Status != tt.status || l.Version != tt.version || l.Retries != tt.retries || l.BytesOut != n || l.End != "" ||
			!strings.Contains(l.Error, tt.err) || (tt.err == "") != (l.Error == "") || (l.TLS == "") != (tt.status == 301) {
			t.Errorf("%s: %d, %+v", tt.name, res.StatusCode, l)
		}
		if tt.status != 301 && l.RequestID != res.Header.Get("X-Request-Id") {
			t.Errorf("%s: id %q, told %q", tt.name, l.RequestID, res.Header.Get("X-Request-Id"))
		}
		after := traffic(e, tt.version)
		if after.Requests[tt.status/100]-before.Requests[tt.status/100] != 1 || after.BytesOut-before.BytesOut != n {
			t.Errorf("%s: counted %+v, then %+v", tt.name, before, after)
		}
	}
}

func TestAccess_RequestsThatEndTooEarly(t *testing.T) {
	e, lines := accessEdge(t)
	begun, leave := make(chan bool, 1), make(chan bool)
	target := testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/broken":
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "four")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/silent":
			begun <- true
			<-r.Context().Done()
		default:
			_, _ = io.WriteString(w, "four")
			_ = http.NewResponseController(w).Flush()
			begun <- true
			select {
			case <-r.Context().Done():
			case <-leave:
			}
		}
	})
	e.Apply(loggedRoute(target))
	send := func(path string) (io.Closer, *bufio.Reader) {
		conn := dialTLS(t, e)
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, testHost)
		return conn, bufio.NewReader(conn)
	}
	check := func(path string, status int, out int64, end string) {
		t.Helper()
		if l := receive(t, lines, "line of "+path); l.Path != path || l.Status != status || l.BytesOut != out || l.End != end || l.Version != 1 {
			t.Errorf("%s: %+v", path, l)
		}
	}
	send("/broken")
	check("/broken", 200, 4, "pod-failed")
	conn, _ := send("/silent")
	receive(t, begun, "request")
	conn.Close()
	check("/silent", 0, 0, "client-left")
	conn, br := send("/part")
	receive(t, begun, "request")
	expect(t, br, "HTTP/1.1 200")
	conn.Close()
	check("/part", 200, 4, "client-left")
	_, br = send("/cut")
	receive(t, begun, "request")
	expect(t, br, "HTTP/1.1 200")
	e.mu.Lock()
	for _, x := range e.services["web"].all() {
		x.cut()
	}
	e.mu.Unlock()
	check("/cut", 200, 4, "stopped")
	if c := traffic(e, 1); c.Requests != [6]int64{1, 0, 3} || c.BytesOut != 12 {
		t.Errorf("traffic %+v", c)
	}
	close(leave)
}

func TestAccess_Tunnel(t *testing.T) {
	e, lines := accessEdge(t)
	e.Apply(loggedRoute(testBackend(t, "a", echoTunnel)))
	conn := dialTLS(t, e)
	fmt.Fprintf(conn, "GET /chat HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly", testHost)
	br := bufio.NewReader(conn)
	if res, err := http.ReadResponse(br, nil); err != nil || len(res.Header["X-Request-Id"]) != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	expect(t, br, "early")
	// What passes is counted at once, the request when it ends. The client may have it before it is counted.
	for end := time.Now().Add(10 * time.Second); traffic(e, 1).BytesOut == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if c := traffic(e, 1); c.BytesIn != 5 || c.BytesOut != 5 || c.Requests != [6]int64{} {
		t.Errorf("traffic %+v", c)
	}
	_, _ = io.WriteString(conn, "and more")
	expect(t, br, "and more")
	conn.Close()
	if l := receive(t, lines, "line"); l.Status != 101 || l.BytesIn != 13 || l.BytesOut != 13 || l.End != "" {
		t.Errorf("line %+v", l)
	}
	if c := traffic(e, 1); c.Requests != [6]int64{0, 1} || c.BytesIn != 13 {
		t.Errorf("traffic %+v", c)
	}
}

func TestAccess_HealthChecksOnlyIfAskedFor(t *testing.T) {
	e, lines := accessEdge(t)
	target := testProbedBackend(t, "a", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	target.PresumeHealthy, target.Activating = false, true
	target.Check.Path = "/health?key=s3cret"
	quiet := loggedRoute(target)
	e.Apply(quiet)
	for traffic(e, 1).ProbeFailures < 3 {
		time.Sleep(time.Millisecond)
	}
	select {
	case l := <-lines:
		t.Fatalf("a line nobody asked for: %+v", l)
	default:
	}
	loud := quiet
	loud.AccessLogHealthChecks = true
	e.Apply(loud)
	l := receive(t, lines, "line")
	want := accessLine{
		Time: l.Time, Service: "web", Version: 1, Pod: "a", Method: "GET", Host: target.Addr.String(), Path: "/health", Protocol: "HTTP/1.1",
		Status: 500, Duration: l.Duration, PodDuration: l.PodDuration, UserAgent: probeAgent, HealthCheck: true,
	}
	if d := cmp.Diff(want, l); d != "" {
		t.Errorf("line (-want +got):\n%s", d)
	}
}

func TestAccess_OffMeansNoLines(t *testing.T) {
	e, lines := accessEdge(t)
	target := testBackend(t, "a", func(http.ResponseWriter, *http.Request) {})
	e.Apply(testRoute(target))
	client := testClient(t, e, true)
	get(t, client, "/off")
	e.Apply(loggedRoute(target))
	get(t, client, "/on")
	if l := receive(t, lines, "line"); l.Path != "/on" {
		t.Errorf("line %+v", l)
	}
}

func TestTraffic_OutlivesTheRouteForAWhile(t *testing.T) {
	e := testEdge(t)
	one := testBackend(t, "a", func(http.ResponseWriter, *http.Request) {})
	two := testBackend(t, "b", func(http.ResponseWriter, *http.Request) {})
	two.Version = 2
	client := testClient(t, e, true)
	e.Apply(testRoute(one))
	get(t, client, "/")
	e.Apply(testRoute(two))
	get(t, client, "/")
	e.Apply(testRoute(two, one)) // back again
	for e.Traffic()[2].Requests[2] == 0 {
		time.Sleep(time.Millisecond) // it is counted after the client has its answer
	}
	e.Apply(testRoute(two))
	versions := func() (list []int) {
		for _, c := range e.Traffic() {
			list = append(list, c.Version)
		}
		return list
	}
	if c := e.Traffic(); len(c) != 3 || c[1].Version != 1 || c[1].Requests[2] != 1 || c[2].Version != 2 || c[2].Requests[2] != 1 {
		t.Fatalf("traffic %+v", c)
	}
	e.mu.Lock()
	e.sweepCounters(time.Now().Add(countersKept / 2))
	e.mu.Unlock()
	if got := versions(); !slices.Equal(got, []int{0, 1, 2}) {
		t.Errorf("after a while: versions %v", got)
	}
	e.mu.Lock()
	e.sweepCounters(time.Now().Add(2 * countersKept))
	e.mu.Unlock()
	if got := versions(); !slices.Equal(got, []int{0, 2}) {
		t.Errorf("long after: versions %v", got)
	}
	e.Remove("web")
	if got := versions(); len(got) > 0 {
		t.Errorf("after Remove: versions %v", got)
	}
}

func TestCounters_AddWithoutAllocation(t *testing.T) {
	var c counters
	x := &exchange{}
	x.counters.Store(&c)
	if n := testing.AllocsPerRun(1000, func() {
		c.request(200, 3*time.Millisecond)
		x.received(1)
		x.sent(1)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	c.request(999, time.Hour)
	c.request(-1, -1)
	if got := c.read(); got.Requests[0] != 2 || got.Requests[2] != 1001 {
		t.Errorf("counted %+v", got.Requests)
	}
}

func FuzzAppendText(f *testing.F) {
	for _, s := range []string{"", "plain", "\"\\\n\x7f", "\xff\xfeü", "\u0085\u2028", strings.Repeat("ü", 200)} {
		f.Add(s, 100)
	}
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = max(limit%3000, 0)
		b := appendText(nil, "", s, limit)
		var got string
		if err := json.Unmarshal(b, &got); err != nil || !utf8.Valid(b) {
			t.Fatalf("%q: %v", b, err)
		}
		if strings.ContainsFunc(string(b), func(r rune) bool { return r < ' ' || 0x7f <= r && r < 0xa0 }) {
			t.Errorf("control characters in %q", b)
		}
		if want := strings.ToValidUTF8(s, "?"); utf8.ValidString(s) && (len(s) <= limit && got != want || !strings.HasPrefix(s, got) || len(got) > limit) {
			t.Errorf("%q up to %d became %q", s, limit, got)
		}
	})
}

func TestQueryNames_LeaveNoValue(t *testing.T) {
	for query, want := range map[string]string{
		"": "", "a=1": "a=", "a=1&b=2": "a=&b=", "s3cret": "*", "a=1&s3cret&b": "a=&*&*", "a==b=c": "a=", "=s3cret": "=", "a;s3cret=1": "a;s3cret=",
	} {
		if got := string(appendQueryNames(nil, query)); got != want {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
	}
	if got := appendQueryNames(nil, strings.Repeat("a=1&", 1_000_000)); len(got) > 2*maxLoggedQuery {
		t.Errorf("%d bytes", len(got))
	}
}

func TestWithoutQuery_LeavesNoSecret(t *testing.T) {
	for url, want := range map[string]string{
		"https://a.example/b?c=d": "https://a.example/b", "https://u:p@a.example": "https://a.example", "/b#c?": "/b", "u:p@": "u:p@",
		"https://u:p@q@a.example/b@c": "https://a.example/b@c",
	} {
		if got := string(appendWithoutQuery(nil, url)); got != want {
			t.Errorf("%q: %q, want %q", url, got, want)
		}
	}
}

func BenchmarkAccessLine(b *testing.B) {
	r, _ := http.NewRequestWithContext(b.Context(), "GET", "https://"+testHost+"/some/path?page=1&token=x", nil)
	r.RemoteAddr, r.Header = netip.MustParseAddrPort("203.0.113.7:4711").String(), http.Header{"User-Agent": {"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"}}
	x := &exchange{id: strings.Repeat("a", 32), began: time.Now(), service: &service{name: "web"}, last: &target{pod: "web-v1-0-abcdefgh", version: 1}}
	var l line
	b.ReportAllocs()
	for b.Loop() {
		f := factsOf(r)
		writeLine(&l, x, &f, 200, time.Millisecond)
	}
}
