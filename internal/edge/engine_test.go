package edge

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestEngine_IsTheOneAskedFor: net/http takes a line without CR, our own engine does not.
func TestEngine_IsTheOneAskedFor(t *testing.T) {
	for engine, want := range map[string]string{EngineNetHTTP: "HTTP/1.1 404 ", EngineHTTP1: "HTTP/1.1 400 ", EngineLoops: "HTTP/1.1 400 "} {
		e := testEdge(t, func(c *Config) { c.Engine = engine })
		conn := dialTLS(t, e)
		fmt.Fprintf(conn, "GET / HTTP/1.1\nHost: %s\r\nConnection: close\r\n\r\n", testHost)
		answer, _ := io.ReadAll(conn)
		if !strings.HasPrefix(string(answer), want) {
			t.Errorf("%s: %q", engine, answer)
		}
		if want == "HTTP/1.1 400 " && !strings.Contains(string(answer), "Request ID: ") {
			t.Errorf("no request id: %q", answer)
		}
	}
}

// replies are what the pod of the comparison can say. All have a type, as net/http makes one up if there is none.
var replies = []string{
	"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 5\r\n\r\nhello",
	"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n5;x=y\r\nhello\r\n0\r\nSum: 1\r\nLate: 2\r\n\r\n",
	"HTTP/1.1 404 Nope\r\nContent-Type: a/b\r\nContent-Length: 2\r\nSet-Cookie: a\r\nset-cookie: b\r\nServer: x\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nno",
	"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
	"HTTP/1.1 304 Not Modified\r\nEtag: \"a\"\r\n\r\n",
	"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nConnection: X-Secret, keep-alive\r\nX-Secret: a\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: b\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nX-Request-Id: mine\r\nContent-Length: 20000\r\n\r\n" + strings.Repeat("x", 20000),
	"close HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n\r\nuntil the end",
	"close HTTP/1.0 200 OK\r\nContent-Type: a/b\r\n\r\nuntil the end",
	"close HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbye",
	"close HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 9\r\n\r\nshort",
	"close HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
	"close ",
	"close HTTP/1.1 200 OK\r\nConten",
	"close nonsense\r\n\r\n",
}

// seenRequest is a request as the pod sees it, seenAnswer an answer as the client does.
type (
	seenRequest struct {
		Method, URI, Host, Body string
		Header, Trailer         http.Header
	}
	seenAnswer struct {
		Status  int
		Interim int
		Body    string
		Broken  bool
		Header  http.Header
		Trailer http.Header
	}
)

// comparison is an edge with its pod.
type comparison struct {
	e    *Edge
	seen chan seenRequest
}

func newComparison(tb testing.TB, engine string) *comparison {
	tb.Helper()
	c := &comparison{seen: make(chan seenRequest, 1000)}
	target := testTarget("a", acceptConns(tb, c.serve))
	target.Check.IntervalSeconds = 300
	c.e = testEdge(tb, func(c *Config) { c.Engine = engine }) // after the pod, so that it is closed before
	c.e.Apply(testRoute(target))
	return c
}

// serve is the pod: the field Reply of a request says which of the replies it gets.
func (c *comparison) serve(conn net.Conn) {
	br := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(br)
		if err != nil || req.UserAgent() == probeAgent {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		n, err := strconv.Atoi(req.Header.Get("Reply"))
		if err != nil || n >= len(replies) {
			return
		}
		req.Header.Del("X-Request-Id")
		req.Header.Del("X-Forwarded-Port")
		req.Header.Del("Expect") // ours leaves it out when all of the body is there
		if req.ContentLength == 0 {
			req.Header.Del("Content-Length") // net/http writes it for the methods for which it is usual, we as it came
		}
		c.seen <- seenRequest{req.Method, req.RequestURI, req.Host, string(body), req.Header, req.Trailer}
		reply, last := strings.CutPrefix(replies[n], "close ")
		if req.Method == http.MethodHead {
			interim := ""
			if strings.HasPrefix(reply, "HTTP/1.1 103") {
				interim, reply, _ = strings.Cut(reply, "\r\n\r\n")
				interim += "\r\n\r\n"
			}
			if head, _, found := strings.Cut(reply, "\r\n\r\n"); found {
				reply = head + "\r\n\r\n"
			}
			reply = interim + reply
		}
		if _, err := io.WriteString(conn, reply); err != nil || last {
			return
		}
	}
}

// send sends all of the requests at once and collects what both sides saw until the connection ends.
func (c *comparison) send(tb testing.TB, stream string, methods []string) (answers []seenAnswer, requests []seenRequest) {
	tb.Helper()
	conn := dialTLS(tb, c.e)
	defer conn.Close()
	began := time.Now()
	defer func() {
		if took := time.Since(began); took > 10*time.Second {
			tb.Logf("%v for %q: %+v", took, stream, answers)
		}
	}()
	_, _ = io.WriteString(conn, stream) // the answers tell what became of it
	br := bufio.NewReader(conn)
	for _, method := range methods {
		var a seenAnswer
		for {
			res, err := http.ReadResponse(br, &http.Request{Method: method})
			if err != nil {
				answers = append(answers, seenAnswer{Status: -1})
				return answers, c.drain()
			}
			if res.StatusCode < 200 {
				if res.StatusCode != http.StatusContinue { // ours needs none when all of the body is there
					a.Interim++
				}
				continue
			}
			body, err := io.ReadAll(res.Body)
			a.Status, a.Body, a.Broken = res.StatusCode, string(body), err != nil
			a.Header, a.Trailer = maps.Clone(res.Header), res.Trailer
			delete(a.Header, "Connection") // HTTP/1.0 may ask for both at once; ours closes then
			if len(res.TransferEncoding) == 0 {
				delete(a.Header, "Trailer") // net/http announces one even where none can come
			}
			id := a.Header.Get("X-Request-Id")
			a.Body = strings.ReplaceAll(a.Body, id, "ID")
			for _, name := range []string{"X-Request-Id", "Date"} {
				if len(a.Header[name]) != 1 {
					tb.Errorf("%d %s", len(a.Header[name]), name)
				}
				delete(a.Header, name)
			}
			break
		}
		if strings.Contains(stream, " HTTP/1.0\r\n") {
			a.Interim = 0 // net/http sends them even to clients that cannot know them
		}
		answers = append(answers, a)
		if a.Broken {
			break
		}
	}
	return answers, c.drain()
}

func (c *comparison) drain() (list []seenRequest) {
	for {
		select {
		case r := <-c.seen:
			list = append(list, r)
		default:
			return list
		}
	}
}

// TestEngine_DoesWhatNetHTTPDoes sends generated streams of requests through the engine and through net/http: the client and the
// pod see no difference.
func TestEngine_DoesWhatNetHTTPDoes(t *testing.T) {
	if engine == EngineNetHTTP {
		t.Skip("the others are compared with it")
	}
	theirs, ours := newComparison(t, EngineNetHTTP), newComparison(t, engine)
	began := time.Now()
	checks, sent := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		if time.Since(began) > 8*time.Second {
			return // it has seen enough on a slow machine
		}
		checks++
		sent += compareStream(t, rt, theirs, ours)
	})
	t.Logf("%d streams, %d requests", checks, sent)
}

// FuzzEngine does the same for as long as one likes.
func FuzzEngine(f *testing.F) { fuzzEngine(f, EngineHTTP1) }

// FuzzEngineLoops does it with loops.
func FuzzEngineLoops(f *testing.F) { fuzzEngine(f, EngineLoops) }

func fuzzEngine(f *testing.F, which string) {
	f.Helper()
	if engine != which && !isFuzzing() {
		f.Skip("the corpus is run once, with", which)
	}
	theirs, ours := newComparison(f, EngineNetHTTP), newComparison(f, which)
	f.Fuzz(func(t *testing.T, input []byte) {
		rapid.MakeFuzz(func(rt *rapid.T) { compareStream(t, rt, theirs, ours) })(t, input)
	})
}

// compareStream generates a stream of requests, sends it through both engines and returns how many there were.
func compareStream(tb testing.TB, rt *rapid.T, theirs, ours *comparison) int {
	tb.Helper()
	var stream strings.Builder
	var methods []string
	for range rapid.IntRange(1, 5).Draw(rt, "requests") {
		method := appendRequest(rt, &stream)
		methods = append(methods, method)
		if last := stream.String(); strings.Contains(last, "Connection: close") || strings.Contains(last, "HTTP/1.0") || method == "CONNECT" {
			break // what follows may reset the connection before the answer is read
		}
	}
	// A pod that closes may catch a request in either engine, so what differs once does not count.
	var d string
	for range 3 {
		if d = difference(tb, theirs, ours, stream.String(), methods); d == "" {
			return len(methods)
		}
	}
	rt.Fatalf("%q\n%s", stream.String(), d)
	return 0
}

// difference sends a stream through both engines and says what is not the same.
func difference(tb testing.TB, theirs, ours *comparison, stream string, methods []string) string {
	tb.Helper()
	wantAnswers, wantRequests := theirs.send(tb, stream, methods)
	gotAnswers, gotRequests := ours.send(tb, stream, methods)
	if n := len(wantAnswers) - 1; wantAnswers[n].Status < 0 && n < len(gotAnswers) {
		// net/http hangs up when an answer overtakes the end of a body in chunks, which ours knows better.
		wantAnswers, gotAnswers = wantAnswers[:n], gotAnswers[:n]
		gotRequests = gotRequests[:min(len(gotRequests), len(wantRequests))]
	}
	if d := cmp.Diff(wantAnswers, gotAnswers); d != "" {
		return "the client sees (-net/http +ours):\n" + d
	}
	if d := cmp.Diff(wantRequests, gotRequests); d != "" {
		return "the pod sees (-net/http +ours):\n" + d
	}
	return ""
}

// appendRequest appends a request that both engines take.
func appendRequest(rt *rapid.T, b *strings.Builder) (method string) {
	method = rapid.SampledFrom([]string{"GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "X-OWN"}).Draw(rt, "method")
	target := rapid.SampledFrom([]string{"/", "/a%2Fb/../c//d", "//x/", "/?x=1;y=2&z=%zz", "/?", "/%E4%BD%A0?q=\xe4", "/ü", "/a\"b<c>", "https://" + testHost + "/abs?x", "http://" + testHost, "/~!$&'()*+,;=:@"}).Draw(rt, "target")
	version := rapid.SampledFrom([]string{"1", "1", "1", "0"}).Draw(rt, "version")
	if method == "CONNECT" {
		target = testHost + ":443"
	}
	fmt.Fprintf(b, "%s %s HTTP/1.%s\r\nHost: %s\r\n", method, target, version, testHost)
	fmt.Fprintf(b, "Reply: %d\r\n", rapid.IntRange(0, len(replies)-1).Draw(rt, "reply"))
	fields := []string{
		"X-A: b", "x-a: c", "Cookie: a=b", "Cookie: c", "Accept: */*", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Host: evil", "X-Forwarded-Proto: http", "Forwarded: for=x",
		"Connection: X-A", "Connection: keep-alive", "Keep-Alive: 5", "Proxy-Connection: x", "Proxy-Authorization: y", "TE: trailers", "TE: gzip", "Upgrade: h2c", "Authorization: Basic x", "X-Empty:", "X-Bin: \xe4\xff", "X-Request-Id: my-id", "X-Tab: a\tb",
		"Expect: 100-continue", "User-Agent: x", "Range: bytes=0-1", "If-None-Match: \"a\"", "Via: 1.1 x", "Accept-Encoding: gzip",
	}
	for _, i := range slices.Sorted(maps.Keys(rapid.MapOfN(rapid.IntRange(0, len(fields)-1), rapid.Just(true), 0, 6).Draw(rt, "fields"))) {
		if fields[i] == "Expect: 100-continue" && version == "0" {
			continue // net/http obeys it
		}
		b.WriteString(fields[i] + "\r\n")
	}
	if rapid.Bool().Draw(rt, "close") {
		b.WriteString("Connection: close\r\n")
	}
	body := rapid.SampledFrom([]string{"", "", "body", strings.Repeat("large ", 2000)}).Draw(rt, "body")
	switch {
	case method == "CONNECT" || method == "TRACE", body == "" && rapid.Bool().Draw(rt, "no length"):
		b.WriteString("\r\n")
	case version == "1" && rapid.Bool().Draw(rt, "chunked"):
		trailer := rapid.SampledFrom([]string{"", "Sum: 1\r\n"}).Draw(rt, "trailer")
		if trailer != "" {
			b.WriteString("Trailer: Sum\r\n")
		}
		b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		if body != "" {
			half := len(body) / 2
			fmt.Fprintf(b, "%x\r\n%s\r\n%X;ext\r\n%s\r\n", half, body[:half], len(body)-half, body[half:])
		}
		b.WriteString("0\r\n" + trailer + "\r\n")
	default:
		fmt.Fprintf(b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	}
	return method
}
