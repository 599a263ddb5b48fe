package edge

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/trysail/trysail"
)

// collectLines is an access log that hands its lines on.
func collectLines(to chan<- string) func(string, time.Time, []byte) {
	return func(_ string, _ time.Time, line []byte) { to <- string(line) }
}

// send sends a request and returns the answer and its body.
func send(t *testing.T, c *http.Client, req *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(data)
}

func guardOf(t *testing.T, r trysail.EdgeRules) *guard {
	t.Helper()
	if err := r.Normalize(); err != nil {
		t.Fatal(err)
	}
	return newGuard(r, newMeter())
}

func TestGuard_NoRulesNoGuard(t *testing.T) {
	if g := guardOf(t, trysail.EdgeRules{}); g != nil {
		t.Errorf("guard %+v", g)
	}
}

func TestGuard_Lists(t *testing.T) {
	allow := guardOf(t, trysail.EdgeRules{AllowClients: []string{"192.0.2.0/24", "2001:db8::/32"}, DenyClients: []string{"192.0.2.7", "2001:db8:bad::/48"}})
	deny := guardOf(t, trysail.EdgeRules{DenyClients: []string{"192.0.2.7", "2001:db8:bad::/48"}})
	for addr, want := range map[string][2]error{
		"192.0.2.1":       {nil, nil},
		"192.0.2.7":       {errDenied, errDenied},
		"203.0.113.1":     {errNotAllowed, nil},
		"2001:db8::1":     {nil, nil},
		"2001:db8:bad::1": {errDenied, errDenied},
		"2001:db9::1":     {errNotAllowed, nil},
		"::1":             {errNotAllowed, nil},
	} {
		for i, g := range []*guard{allow, deny} {
			no := g.admit(netip.MustParseAddr(addr), 0, time.Now())
			if !errors.Is(no.why, want[i]) || (no.status == 403) != (want[i] != nil) {
				t.Errorf("%s, guard %d: %+v, want %v", addr, i, no, want[i])
			}
		}
	}
	if no := allow.admit(netip.Addr{}, 0, time.Now()); no.status != 403 {
		t.Errorf("a client without an address: %+v", no)
	}
}

func TestGuard_Body(t *testing.T) {
	g := guardOf(t, trysail.EdgeRules{MaxBody: 10})
	for length, want := range map[int64]int{-1: 0, 0: 0, 10: 0, 11: 413, 1 << 50: 413} {
		if no := g.admit(netip.MustParseAddr("::1"), length, time.Now()); no.status != want {
			t.Errorf("%d bytes: %+v", length, no)
		}
	}
}

func TestMeter_RatePerClient(t *testing.T) {
	g := guardOf(t, trysail.EdgeRules{RequestsPerMinute: 60, RequestBurst: 3})
	now := time.Now()
	ask := func(addr string) refusal {
		no := g.admit(netip.MustParseAddr(addr), 0, now)
		if no.status == 0 {
			g.release(netip.MustParseAddr(addr))
		}
		return no
	}
	for i := range 3 {
		if no := ask("2001:db8::1"); no.status != 0 {
			t.Fatalf("request %d: %+v", i, no)
		}
	}
	// The whole /64 is one client; what is outside of it is another.
	if no := ask("2001:db8::ffff:2"); no.status != 429 || no.retry != time.Second {
		t.Errorf("%+v", no)
	}
	if no := ask("2001:db8:0:1::1"); no.status != 0 {
		t.Errorf("%+v", no)
	}
	now = now.Add(999 * time.Millisecond)
	if no := ask("2001:db8::1"); no.status != 429 || no.retry != time.Millisecond {
		t.Errorf("%+v", no)
	}
	now = now.Add(time.Millisecond)
	if no := ask("2001:db8::1"); no.status != 0 {
		t.Errorf("%+v", no)
	}
	now = now.Add(time.Hour) // does not save up more than the burst
	for i := range 5 {
		if no := ask("2001:db8::1"); (no.status == 0) != (i < 3) {
			t.Errorf("after an hour, request %d: %+v", i, no)
		}
	}
}

// In any stretch of time a client gets no more than the burst and what comes in by the rate, and no less if it asks.
func TestMeter_RateHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := trysail.EdgeRules{RequestsPerMinute: rapid.IntRange(1, 6000).Draw(t, "rate"), RequestBurst: rapid.IntRange(1, 50).Draw(t, "burst")}
		m := newMeter()
		client := netip.MustParseAddr("192.0.2.1")
		start := time.Unix(1_000_000, 0)
		now := start
		got := 0
		for range rapid.IntRange(1, 200).Draw(t, "requests") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(2*time.Second)).Draw(t, "pause")))
			no := m.admit(client, &rules, now)
			if no.status == 0 {
				got++
				m.release(client)
			} else if later := m.admit(client, &rules, now.Add(no.retry)); later.status != 0 {
				t.Fatalf("told to wait %v, and then %+v", no.retry, later)
			} else {
				now = now.Add(no.retry)
				got++
				m.release(client)
			}
			if most := float64(rules.RequestBurst) + now.Sub(start).Minutes()*float64(rules.RequestsPerMinute) + 0.01; float64(got) > most {
				t.Fatalf("%d requests in %v, %f are allowed", got, now.Sub(start), most)
			}
		}
		if m.atOnceN != 0 || len(m.atOnce) != 0 {
			t.Fatalf("under way: %d, %v", m.atOnceN, m.atOnce)
		}
	})
}

func TestMeter_IsBounded(t *testing.T) {
	m := newMeter()
	rules := trysail.EdgeRules{RequestsPerMinute: 60, RequestBurst: 1}
	now := time.Now()
	client := func(i int) netip.Addr {
		var b [16]byte
		b[0] = 0x20
		binary.BigEndian.PutUint32(b[4:], uint32(i))
		return netip.AddrFrom16(b)
	}
	for i := range maxMetered {
		if no := m.admit(client(i), &rules, now); no.status != 0 {
			t.Fatalf("client %d: %+v", i, no)
		}
	}
	// The ones beyond share a place.
	if no := m.admit(client(maxMetered), &rules, now); no.status != 0 {
		t.Errorf("the first beyond: %+v", no)
	}
	if no := m.admit(client(maxMetered+1), &rules, now); no.status != 429 {
		t.Errorf("the second beyond: %+v", no)
	}
	if len(m.due) > maxMetered+1 {
		t.Errorf("%d are remembered", len(m.due))
	}
	now = now.Add(time.Minute) // all may again
	if no := m.admit(client(maxMetered+1), &rules, now); no.status != 0 || len(m.due) > 2 {
		t.Errorf("later: %+v, %d remembered", no, len(m.due))
	}
}

func TestMeter_AtOnce(t *testing.T) {
	g := guardOf(t, trysail.EdgeRules{MaxRequestsAtOnce: 3, MaxRequestsAtOncePerClient: 2})
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for i, step := range []struct {
		client netip.Addr
		leave  bool
		want   error
	}{
		{a, false, nil},
		{a, false, nil},
		{a, false, errClientBusy},
		{b, false, nil},
		{b, false, errServiceBusy},
		{a, true, nil},
		{b, false, nil},
		{b, true, nil},
		{a, false, nil},
		{a, true, nil},
		{a, true, nil},
		{b, true, nil},
	} {
		if step.leave {
			g.release(step.client)
			continue
		}
		no := g.admit(step.client, 0, time.Now())
		status := map[error]int{nil: 0, errClientBusy: 429, errServiceBusy: 503}[step.want]
		if !errors.Is(no.why, step.want) || no.status != status || step.want != nil && no.retry <= 0 {
			t.Fatalf("step %d: %+v", i, no)
		}
	}
	if g.meter.atOnceN != 0 || len(g.meter.atOnce) != 0 {
		t.Errorf("%+v", g.meter)
	}
}

// every runs a test over every version of HTTP that the edge speaks.
func every(t *testing.T, test func(t *testing.T, e *Edge, c *http.Client, entries <-chan string)) {
	t.Helper()
	for _, version := range []int{1, 2, 3} {
		t.Run("HTTP/"+strconv.Itoa(version), func(t *testing.T) {
			entries := make(chan string, 100)
			e := testEdge(t, func(c *Config) {
				c.HTTP3 = version == 3
				c.AccessLog = collectLines(entries)
			})
			c := testClient(t, e, version == 2)
			if version == 3 {
				c = testHTTP3Client(t, e)
			}
			test(t, e, c, entries)
		})
	}
}

func TestEdge_RulesAreLive(t *testing.T) {
	every(t, func(t *testing.T, e *Edge, c *http.Client, entries <-chan string) {
		r := testRoute(testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			if r.URL.Path == "/own" {
				w.Header().Set("Strict-Transport-Security", "max-age=1")
			}
			if err == nil {
				fmt.Fprint(w, n)
			}
		}))
		r.AccessLog = true
		apply := func(rules trysail.EdgeRules) {
			t.Helper()
			r.Rules = rules
			e.Apply(r)
		}
		refused := func(method, path string, body io.Reader, status int, why error) *http.Response {
			t.Helper()
			res, text := do(t, c, method, path, body)
			id := res.Header.Get(headerRequestID)
			line := receive(t, entries, "a line")
			if res.StatusCode != status || id == "" || !strings.Contains(text, id) {
				t.Errorf("%d %v %s", res.StatusCode, res.Header, text)
			}
			for _, want := range []string{fmt.Sprintf(`"status":%d`, status), `"requestId":"` + id + `"`, `"error":"` + why.Error() + `"`} {
				if !strings.Contains(line, want) {
					t.Errorf("no %s in %s", want, line)
				}
			}
			return res
		}
		passes := func(method, path string, body io.Reader, want string) *http.Response {
			t.Helper()
			res, text := do(t, c, method, path, body)
			if res.StatusCode != 200 || text != want {
				t.Errorf("%d %s", res.StatusCode, text)
			}
			receive(t, entries, "a line")
			return res
		}

		apply(trysail.EdgeRules{})
		if res := passes("GET", "/", nil, "0"); res.Header.Get("Strict-Transport-Security") != "" || res.Header.Get("Retry-After") != "" {
			t.Errorf("without rules: %v", res.Header)
		}

		apply(trysail.EdgeRules{DenyClients: []string{"127.0.0.0/8"}})
		refused("GET", "/", nil, 403, errDenied)
		apply(trysail.EdgeRules{AllowClients: []string{"192.0.2.0/24"}})
		refused("POST", "/", strings.NewReader("some body"), 403, errNotAllowed)
		apply(trysail.EdgeRules{AllowClients: []string{"127.0.0.1/32"}})
		passes("GET", "/", nil, "0")

		apply(trysail.EdgeRules{MaxBody: 10})
		passes("POST", "/", strings.NewReader("0123456789"), "10")
		passes("POST", "/", io.MultiReader(strings.NewReader("01234"), strings.NewReader("56789")), "10") // length not known
		refused("POST", "/", strings.NewReader("0123456789a"), 413, errTooLarge)
		refused("POST", "/", io.MultiReader(strings.NewReader("01234"), strings.NewReader("56789a")), 413, errTooLarge)
		passes("GET", "/", nil, "0")

		apply(trysail.EdgeRules{RequestsPerMinute: 1, RequestBurst: 2})
		passes("GET", "/", nil, "0")
		passes("GET", "/", nil, "0")
		res := refused("GET", "/", nil, 429, errTooFast)
		if after, err := strconv.Atoi(res.Header.Get("Retry-After")); err != nil || after < 1 || after > 60 {
			t.Errorf("Retry-After: %v", res.Header)
		}
		r.Rules = trysail.EdgeRules{RequestsPerMinute: 1, RequestBurst: 2, MaxBody: 10}
		e.Apply(r) // another change does not give it new ones
		refused("GET", "/", nil, 429, errTooFast)

		apply(trysail.EdgeRules{HSTSMaxAge: 300, HSTSIncludeSubdomains: true, DenyClients: []string{"192.0.2.0/24"}})
		if res := passes("GET", "/", nil, "0"); res.Header.Get("Strict-Transport-Security") != "max-age=300; includeSubDomains" {
			t.Errorf("HSTS: %v", res.Header)
		}
		if res := passes("GET", "/own", nil, "0"); len(res.Header["Strict-Transport-Security"]) != 1 || res.Header.Get("Strict-Transport-Security") != "max-age=1" {
			t.Errorf("the pod's own HSTS: %v", res.Header)
		}

		apply(trysail.EdgeRules{HSTSMaxAge: 300, DenyClients: []string{"127.0.0.1/32"}, ErrorPages: map[string]string{"403": "<p>{{status}} ü {{requestId}}"}})
		res, text := do(t, c, "GET", "/", nil)
		if want := "<p>403 ü " + res.Header.Get(headerRequestID); res.StatusCode != 403 || text != want || res.Header.Get("Content-Type") != "text/html; charset=utf-8" || res.Header.Get("Strict-Transport-Security") != "max-age=300" {
			t.Errorf("own page: %d %q %v", res.StatusCode, text, res.Header)
		}
		receive(t, entries, "a line")

		// All of it counts.
		var refusals int64
		for _, tr := range e.Traffic() {
			refusals += tr.Requests[4]
		}
		if refusals != 7 {
			t.Errorf("%d requests with 4xx are counted, want 7: %+v", refusals, e.Traffic())
		}
	})
}

func TestEdge_ErrorPagesOfAService(t *testing.T) {
	e := testEdge(t, func(c *Config) { c.ResponseTimeout = 100 * time.Millisecond })
	pages := map[string]string{}
	for _, status := range trysail.ErrorPageStatuses() {
		pages[status] = "page " + status
	}
	a := testBackend(t, "a", func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-r.Context().Done() // the edge gives up
			return
		}
		panic(http.ErrAbortHandler)
	})
	gone := testTarget("gone", refusing(t))
	c := testClient(t, e, true)
	for _, test := range []struct {
		name, method, path string
		route              trysail.Route
		status             int
	}{
		{"a pod that hangs up", "GET", "/", testRoute(a), 502},
		{"a pod that is not there", "GET", "/", testRoute(gone), 502},
		{"a slow pod", "GET", "/slow", testRoute(a), 504},
		{"no pod", "GET", "/", testRoute(), 503},
		{"a disabled service", "GET", "/", trysail.Route{Service: "web", Host: testHost, Mode: trysail.RouteDisabled}, 503},
		{"nothing deployed", "GET", "/", trysail.Route{Service: "web", Host: testHost}, 404},
		{"a method", "TRACE", "/", testRoute(a), 405},
		{"HEAD", "HEAD", "/slow", testRoute(a), 504},
	} {
		for _, own := range []bool{true, false} {
			test.route.Rules = trysail.EdgeRules{}
			if own {
				test.route.Rules.ErrorPages = pages
			}
			e.Apply(test.route)
			res, text := do(t, c, test.method, test.path, nil)
			want := fmt.Sprint("page ", test.status)
			if test.method == "HEAD" {
				want = ""
			}
			if res.StatusCode != test.status || own && text != want || !own && strings.Contains(text, "page ") {
				t.Errorf("%s, own page %v: %d %q", test.name, own, res.StatusCode, text)
			}
		}
	}
}

// A request with a body that is too large must never be followed by the rest of it as the next request.
func TestEdge_TooLargeBodyEndsTheConnection(t *testing.T) {
	e := testEdge(t)
	r := testRoute(testBackend(t, "a", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	r.Rules.MaxBody = 5
	e.Apply(r)
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n"
	for _, framing := range []string{
		fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(smuggled), smuggled),
		fmt.Sprintf("Expect: 100-continue\r\nContent-Length: %d\r\n\r\n%s", len(smuggled), smuggled),
		fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(smuggled), smuggled),
	} {
		conn := dialTLS(t, e)
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\n%s", testHost, framing)
		br := bufio.NewReader(conn)
		res, err := http.ReadResponse(br, nil)
		if err != nil || res.StatusCode != 413 {
			t.Fatal(res, err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		if rest, _ := io.ReadAll(br); strings.HasPrefix(string(rest), "HTTP/") && res.Close {
			t.Errorf("another answer on the connection: %q", rest)
		}
	}
}

// A WebSocket is under way as long as it is open, and one that ended is not.
func TestEdge_AtOnceCountsTunnels(t *testing.T) {
	e := testEdge(t)
	r := testRoute(testBackend(t, "a", echoTunnel))
	r.Rules.MaxRequestsAtOncePerClient = 1
	e.Apply(r)
	open := func() (*http.Response, io.Closer) {
		conn := dialTLS(t, e)
		fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", testHost)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		return res, conn
	}
	first, conn := open()
	second, other := open()
	if first.StatusCode != 101 || second.StatusCode != 429 || second.Header.Get("Retry-After") != "1" {
		t.Fatalf("%d, %d %v", first.StatusCode, second.StatusCode, second.Header)
	}
	other.Close()
	conn.Close()
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		again, conn := open()
		conn.Close()
		if again.StatusCode == 101 {
			break
		}
		if time.Since(start) > 20*time.Second {
			t.Fatal("the place is not given back")
		}
	}
}
