package edge

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/trysail/trysail"
)

// rawHTTP2 is a client that sends any frames it likes.
type rawHTTP2 struct {
	*http2.Framer
	conn *tls.Conn
	hdr  bytes.Buffer
	enc  *hpack.Encoder
}

func dialHTTP2(t *testing.T, e *Edge) *rawHTTP2 {
	t.Helper()
	conn, err := tls.Dial("tcp", e.HTTPSAddr(), &tls.Config{RootCAs: rootPool(t, e), ServerName: testHost, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c := &rawHTTP2{Framer: http2.NewFramer(conn, conn), conn: conn}
	c.AllowIllegalWrites = true
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.enc = hpack.NewEncoder(&c.hdr)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// block encodes a header, given as names and values in turn.
func (c *rawHTTP2) block(fields ...string) []byte {
	c.hdr.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = c.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}) // to a buffer
	}
	return bytes.Clone(c.hdr.Bytes())
}

func request(more ...string) []string {
	return append([]string{":method", "GET", ":scheme", "https", ":authority", testHost, ":path", "/"}, more...)
}

// open sends a whole header.
func (c *rawHTTP2) open(t *testing.T, stream uint32, end bool, fields ...string) {
	t.Helper()
	if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.block(fields...), EndHeaders: true, EndStream: end}); err != nil {
		t.Fatal(err)
	}
}

// outcome reads until it is clear what became of a stream: its status, or how it or the connection ended.
func (c *rawHTTP2) outcome(t *testing.T, stream uint32) string {
	t.Helper()
	for {
		f, err := c.ReadFrame()
		if err != nil {
			if isTimeout(err) {
				t.Error("neither an answer nor an end")
			}
			return "closed"
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID == stream {
				return f.PseudoValue("status")
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == stream {
				return "reset " + f.ErrCode.String()
			}
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo {
				return "goaway " + f.ErrCode.String()
			}
		}
	}
}

// What h2spec has no case for, or sees differently: what malformed requests get. None may reach the pod.
func TestHTTP2_Requests(t *testing.T) {
	e := testEdge(t)
	var got atomic.Int64
	e.Apply(testRoute(testBackend(t, "a", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		got.Add(1)
	})))
	replace := func(name, value string) []string {
		f := request()
		for i := 0; i < len(f); i += 2 {
			if f[i] == name {
				f[i+1] = value
			}
		}
		return f
	}
	without := func(name string) []string {
		f := request()
		for i := 0; i < len(f); i += 2 {
			if f[i] == name {
				return append(f[:i], f[i+2:]...)
			}
		}
		return f
	}
	for _, test := range []struct {
		name   string
		fields []string
		want   []string // any of them
	}{
		{"a good one", request(), []string{"200"}},
		{"te: trailers", request("te", "trailers"), []string{"200"}},
		{"cookies in pieces", request("cookie", "a=1", "cookie", "b=2"), []string{"200"}},
		{"an unknown host", replace(":authority", "nobody.example.com"), []string{"404"}},
		{"no host", without(":authority"), []string{"404", "400", "reset PROTOCOL_ERROR"}},
		{"host instead of :authority", append(without(":authority"), "host", testHost), []string{"200"}},
		{"host that contradicts :authority", request("host", "other.example.com"), []string{"200", "400", "reset PROTOCOL_ERROR"}},
		{"user in :authority", replace(":authority", "me@"+testHost), []string{"404", "400", "reset PROTOCOL_ERROR"}},
		{"a space in :authority", replace(":authority", "a b"), []string{"404", "400", "reset PROTOCOL_ERROR"}},
		{"te: gzip", request("te", "gzip"), []string{"400", "reset PROTOCOL_ERROR"}},
		{"connection", request("connection", "keep-alive"), []string{"400", "reset PROTOCOL_ERROR"}},
		{"connection: close", request("connection", "close"), []string{"400", "reset PROTOCOL_ERROR"}},
		{"keep-alive", request("keep-alive", "timeout=5"), []string{"400", "reset PROTOCOL_ERROR"}},
		{"proxy-connection", request("proxy-connection", "keep-alive"), []string{"400", "reset PROTOCOL_ERROR"}},
		{"transfer-encoding", request("transfer-encoding", "chunked"), []string{"400", "reset PROTOCOL_ERROR"}},
		{"upgrade", request("upgrade", "websocket"), []string{"400", "reset PROTOCOL_ERROR"}},
		{"a relative path", replace(":path", "relative"), []string{"400", "reset PROTOCOL_ERROR"}},
		{"an empty path", replace(":path", ""), []string{"400", "reset PROTOCOL_ERROR"}},
		{"a star as the path of a GET", replace(":path", "*"), []string{"400", "405", "200", "reset PROTOCOL_ERROR"}},
		{"a space in the path", replace(":path", "/a b"), []string{"200", "400", "reset PROTOCOL_ERROR"}},
		{"a newline in the path", replace(":path", "/\r\nX: y"), []string{"400", "reset PROTOCOL_ERROR"}},
		{"no method", without(":method"), []string{"reset PROTOCOL_ERROR"}},
		{"no scheme", without(":scheme"), []string{"reset PROTOCOL_ERROR"}},
		{"a method with a space", replace(":method", "GE T"), []string{"400", "405", "reset PROTOCOL_ERROR"}},
		{"a method with a newline", replace(":method", "GET / HTTP/1.1\r\nX: y\r\n"), []string{"400", "405", "reset PROTOCOL_ERROR"}},
		{"CONNECT with a path", replace(":method", "CONNECT"), []string{"405", "400", "reset PROTOCOL_ERROR"}},
		{"CONNECT", []string{":method", "CONNECT", ":authority", testHost}, []string{"405", "400", "reset PROTOCOL_ERROR"}},
		{"TRACE", replace(":method", "TRACE"), []string{"405"}},
		{"a newline in a value", request("x-a", "a\r\nX-B: b"), []string{"400", "reset PROTOCOL_ERROR"}},
		{"a NUL in a value", request("x-a", "a\x00b"), []string{"400", "reset PROTOCOL_ERROR"}},
		{"a space in a name", request("x a", "b"), []string{"400", "reset PROTOCOL_ERROR"}},
		{"a colon in a name", request("x:a", "b"), []string{"400", "reset PROTOCOL_ERROR"}},
		{"an empty name", request("", "b"), []string{"400", "reset PROTOCOL_ERROR"}},
		{"upper case in a name", request("X-A", "b"), []string{"400", "reset PROTOCOL_ERROR"}},
		{"a pseudo-header of answers", request(":status", "200"), []string{"reset PROTOCOL_ERROR"}},
		{"a pseudo-header after others", append(request("x-a", "b"), ":path", "/other"), []string{"reset PROTOCOL_ERROR"}},
		{"a pseudo-header twice", request(":path", "/other"), []string{"reset PROTOCOL_ERROR"}},
		{"an unknown pseudo-header", request(":protocol", "websocket"), []string{"reset PROTOCOL_ERROR"}},
		{"a content-length that is no number", request("content-length", "x"), []string{"400", "200", "reset PROTOCOL_ERROR"}},
		{"a negative content-length", request("content-length", "-1"), []string{"400", "200", "reset PROTOCOL_ERROR"}},
		{"a content-length without a body", request("content-length", "5"), []string{"200", "400", "reset PROTOCOL_ERROR"}}, // as one without: the pod is told of no body
	} {
		t.Run(test.name, func(t *testing.T) {
			before := got.Load()
			c := dialHTTP2(t, e)
			c.open(t, 1, true, test.fields...)
			outcome := c.outcome(t, 1)
			ok := false
			for _, want := range test.want {
				ok = ok || outcome == want
			}
			if !ok {
				t.Errorf("%s, want one of %v", outcome, test.want)
			}
			if outcome != "200" && got.Load() != before {
				t.Errorf("%s, but the pod got it", outcome)
			}
		})
	}
}

// Floods must end in the end of the connection, or of the stream, before they cost much.
func TestHTTP2_Floods(t *testing.T) {
	e := testEdge(t, func(c *Config) { c.IdleTimeout = 5 * time.Second })
	enough := make(chan bool)
	e.Apply(testRoute(testBackend(t, "a", func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/blocks" {
			<-enough
		}
		_, _ = io.Copy(io.Discard, r.Body)
	})))
	t.Cleanup(func() { close(enough) }) // before the pod ends
	// closes sends with fn until the edge hangs up.
	closes := func(t *testing.T, most int, fn func(c *rawHTTP2, i int) error) {
		t.Helper()
		c := dialHTTP2(t, e)
		ended := make(chan error, 1)
		go func() { // answers are read, so that the edge can hang up in good order
			for {
				f, err := c.ReadFrame()
				if _, ok := f.(*http2.GoAwayFrame); ok || err != nil {
					if se := (http2.StreamError{}); errors.As(err, &se) {
						continue
					}
					ended <- err
					return
				}
			}
		}()
		for i := range most { // it goes on for as long as the edge may take to see that there is no end
			select {
			case <-ended:
				return
			default:
			}
			if err := fn(c, i); err != nil {
				break
			}
		}
		select {
		case err := <-ended:
			if isTimeout(err) {
				t.Error("the edge bears all of it")
			}
		case <-time.After(30 * time.Second):
			t.Error("the edge bears all of it")
		}
	}
	t.Run("CONTINUATION", func(t *testing.T) {
		closes(t, 100_000, func(c *rawHTTP2, i int) error {
			block := c.block(fmt.Sprintf("x-%d", i), strings.Repeat("x", 1000))
			if i == 0 {
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block(request()...)})
			}
			return c.WriteContinuation(1, false, block)
		})
	})
	t.Run("empty CONTINUATION", func(t *testing.T) {
		closes(t, 1<<30, func(c *rawHTTP2, i int) error {
			if i == 0 {
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block(request()...)})
			}
			return c.WriteContinuation(1, false, nil)
		})
	})
	t.Run("something between HEADERS and CONTINUATION", func(t *testing.T) {
		closes(t, 2, func(c *rawHTTP2, i int) error {
			if i == 0 {
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block(request()...)})
			}
			return c.WritePing(false, [8]byte{})
		})
	})
	t.Run("frames that are too large", func(t *testing.T) {
		closes(t, 1, func(c *rawHTTP2, _ int) error {
			return c.WriteRawFrame(http2.FrameHeaders, 4, 1, make([]byte, 16<<10+1))
		})
	})
	t.Run("window overflow", func(t *testing.T) {
		closes(t, 2, func(c *rawHTTP2, _ int) error { return c.WriteWindowUpdate(0, 1<<31-1) })
	})
	t.Run("DATA nobody asked for", func(t *testing.T) {
		closes(t, 1, func(c *rawHTTP2, _ int) error { return c.WriteData(1, true, []byte("x")) })
	})
	t.Run("more DATA than the window", func(t *testing.T) {
		c := dialHTTP2(t, e)
		ended := make(chan string, 1)
		go func() { ended <- c.outcome(t, 1) }()
		c.open(t, 1, false, ":method", "POST", ":scheme", "https", ":authority", testHost, ":path", "/blocks")
		for range 5000 {
			if c.WriteData(1, false, make([]byte, 16<<10)) != nil {
				break
			}
		}
		if got := receive(t, ended, "the end"); !strings.HasSuffix(got, "FLOW_CONTROL_ERROR") && got != "closed" {
			t.Errorf("80 MB that nobody reads: %s", got)
		}
	})
}

// A client that begins and resets requests again and again (CVE-2023-44487) must not have more of them under way at the
// pods than it may have streams, and others must be served.
func TestHTTP2_RapidReset(t *testing.T) {
	const most = 20
	e := testEdge(t, func(c *Config) { c.MaxStreams = most })
	var now, peak atomic.Int64
	e.Apply(testRoute(testBackend(t, "a", func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/other" {
			return
		}
		n := now.Add(1)
		defer now.Add(-1)
		for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
		}
		<-r.Context().Done()
	})))
	c := dialHTTP2(t, e)
	go func() { _, _ = io.Copy(io.Discard, c.conn) }()
	for i := range uint32(5000) {
		c.open(t, 2*i+1, true, request()...)
		if c.WriteRSTStream(2*i+1, http2.ErrCodeCancel) != nil {
			break
		}
	}
	if res, _ := get(t, testClient(t, e, true), "/other"); res.StatusCode != 200 {
		t.Errorf("another client gets %d", res.StatusCode)
	}
	// A handler that was reset may still be on its way out when the next one begins.
	if p := peak.Load(); p > 10*most {
		t.Errorf("%d requests of one connection were at the pod at once", p)
	}
}

func TestHTTP2_HugeHeaders(t *testing.T) {
	e := testEdge(t)
	e.Apply(testRoute(testBackend(t, "a", func(http.ResponseWriter, *http.Request) {})))
	c := testClient(t, e, true)
	for size, want := range map[int]int{1 << 10: 200, 40 << 10: 200, 200 << 10: 431} {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+testHost+"/", nil)
		req.Header.Set("X-Huge", strings.Repeat("x", size))
		res, err := c.Do(req)
		if err != nil { // the client itself keeps to what the edge says that it takes
			if want == 200 {
				t.Errorf("%d bytes: %v", size, err)
			}
			continue
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%d bytes: %d", size, res.StatusCode)
		}
	}
	// One that does not.
	raw := dialHTTP2(t, e)
	block := raw.block(request("x-huge", strings.Repeat("\xff", 200<<10))...)
	for i := 0; i < len(block); i += 16 << 10 {
		part := block[i:min(len(block), i+16<<10)]
		last := i+16<<10 >= len(block)
		var err error
		if i == 0 {
			err = raw.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: part, EndHeaders: last, EndStream: true})
		} else {
			err = raw.WriteContinuation(1, last, part)
		}
		if err != nil {
			break
		}
	}
	if got := raw.outcome(t, 1); got != "431" && got != "closed" && !strings.HasPrefix(got, "goaway") && !strings.HasPrefix(got, "reset") {
		t.Errorf("200 KiB of header: %s", got)
	}
}

// Close says GOAWAY, lets what is under way finish, and takes nothing new.
func TestHTTP2_GoAway(t *testing.T) {
	e := testEdge(t)
	begun, end := make(chan bool), make(chan bool)
	e.Apply(testRoute(testBackend(t, "a", func(http.ResponseWriter, *http.Request) {
		begun <- true
		<-end
	})))
	c := dialHTTP2(t, e)
	c.open(t, 1, true, request()...)
	receive(t, begun, "the request")
	closed := make(chan error)
	go func() { closed <- e.Close(within(t, 30*time.Second)) }()
	for goaway := false; !goaway; {
		f, err := c.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		_, goaway = f.(*http2.GoAwayFrame)
	}
	close(end)
	if got := c.outcome(t, 1); got != "200" {
		t.Errorf("the request under way: %s", got)
	}
	if err := receive(t, closed, "Close"); err != nil {
		t.Errorf("Close: %v", err)
	}
	if conn, err := net.Dial("tcp", e.HTTPSAddr()); err == nil {
		conn.Close()
		t.Error("new connections are taken")
	}
}

// One connection may carry requests for several services: each goes to its own.
func TestHTTP2_CoalescedConnection(t *testing.T) {
	e := testEdge(t)
	e.Apply(testRoute(testBackend(t, "a", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) })))
	other := "other." + testHost
	e.Apply(trysail.Route{Service: "other", Host: other, Mode: trysail.RouteServe, Targets: []trysail.Target{
		testBackend(t, "b", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(202) }),
	}})
	c := dialHTTP2(t, e)
	for i, want := range []string{"201", "202", "201"} {
		host := map[string]string{"201": testHost, "202": other}[want]
		stream := uint32(2*i + 1)
		c.open(t, stream, true, ":method", "GET", ":scheme", "https", ":authority", host, ":path", "/")
		if got := c.outcome(t, stream); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}
