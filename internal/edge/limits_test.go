package edge

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/trysail/trysail"
)

// impatient has short limits, so that a test of what exceeds them is short too.
func impatient(c *Config) {
	c.HeaderTimeout, c.IdleTimeout = 200*time.Millisecond, 200*time.Millisecond
}

// closedBy fails the test unless the edge ends the connection within a generous time. It returns what was received.
func closedBy(t *testing.T, conn net.Conn) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(conn)
	if isTimeout(err) {
		t.Errorf("still open; got %q", data)
	}
	return string(data)
}

func TestLimits_HostileSlowClients(t *testing.T) {
	e := testEdge(t, impatient)
	e.Apply(testRoute(testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/big" {
			_, _ = io.CopyN(w, &pattern{}, 100<<20)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
	})))
	t.Run("no handshake", func(t *testing.T) {
		conn, err := net.Dial("tcp", e.HTTPSAddr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		closedBy(t, conn)
	})
	t.Run("no request", func(t *testing.T) { closedBy(t, dialTLS(t, e)) })
	t.Run("half a header", func(t *testing.T) {
		conn := dialTLS(t, e)
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n", testHost)
		closedBy(t, conn)
	})
	t.Run("half a header, plain", func(t *testing.T) {
		conn, err := net.Dial("tcp", e.HTTPAddr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n", testHost)
		closedBy(t, conn)
	})
	t.Run("half a body", func(t *testing.T) {
		conn := dialTLS(t, e)
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 100\r\n\r\nhalf", testHost)
		if got := closedBy(t, conn); !strings.HasPrefix(got, "HTTP/1.1 408 ") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("half a body for nobody", func(t *testing.T) {
		conn := dialTLS(t, e)
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: nobody\r\nContent-Length: 100\r\n\r\nhalf")
		if got := closedBy(t, conn); !strings.HasPrefix(got, "HTTP/1.1 404 ") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("answer not read", func(t *testing.T) {
		conn := dialTLS(t, e)
		fmt.Fprintf(conn, "GET /big HTTP/1.1\r\nHost: %s\r\n\r\n", testHost)
		inFlight := func() bool { return e.Drain(within(t, time.Millisecond), "web", "none") == nil && busy(e) }
		for !inFlight() {
			time.Sleep(time.Millisecond)
		}
		for start := time.Now(); busy(e); time.Sleep(time.Millisecond) {
			if time.Since(start) > 10*time.Second {
				t.Fatal("still in flight")
			}
		}
	})
	t.Run("half a body, h2", func(t *testing.T) {
		in, out := io.Pipe()
		defer in.Close()
		go func() { _, _ = io.WriteString(out, "half") }()
		res, _ := do(t, testClient(t, e, true), "POST", "/", in)
		if res.StatusCode != 408 {
			t.Errorf("status %d", res.StatusCode)
		}
	})
	t.Run("answer not read, h2", func(t *testing.T) {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+testHost+"/big", nil)
		res, err := testClient(t, e, true).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		for start := time.Now(); busy(e); time.Sleep(time.Millisecond) {
			if time.Since(start) > 10*time.Second {
				t.Fatal("still in flight")
			}
		}
		if _, err := io.Copy(io.Discard, res.Body); err == nil {
			t.Error("the client takes the answer for whole")
		}
	})
}

// busy reports whether a request is in flight at the target "a".
func busy(e *Edge) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.services["web"].targets["a"].busy()
}

// What is slow but goes on, or quiet because the pod is, must live although it takes many times the limits.
func TestLimits_SlowIsNotHostile(t *testing.T) {
	t.Parallel()
	e := testEdge(t, impatient)
	const step, steps = 60 * time.Millisecond, 12
	e.Apply(testRoute(testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/upload":
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n, err)
		case "/download":
			for range steps {
				_, _ = io.WriteString(w, "x")
				w.(http.Flusher).Flush()
				time.Sleep(step)
			}
		case "/quiet":
			_, _ = io.WriteString(w, "first ")
			w.(http.Flusher).Flush()
			time.Sleep(step * steps)
			_, _ = io.WriteString(w, "last")
		case "/ws":
			echoTunnel(w, r)
		}
	})))
	bothProtocols(t, func(t *testing.T, http2 bool) {
		t.Parallel()
		client := testClient(t, e, http2)
		t.Run("upload", func(t *testing.T) {
			t.Parallel()
			in, out := io.Pipe()
			go func() {
				for range steps {
					_, _ = io.WriteString(out, "x")
					time.Sleep(step)
				}
				out.Close()
			}()
			if res, body := do(t, client, "POST", "/upload", in); res.StatusCode != 200 || body != fmt.Sprint(steps, error(nil)) {
				t.Errorf("%d %s", res.StatusCode, body)
			}
		})
		t.Run("download", func(t *testing.T) {
			t.Parallel()
			if res, body := get(t, client, "/download"); res.StatusCode != 200 || len(body) != steps {
				t.Errorf("%d %s", res.StatusCode, body)
			}
		})
		t.Run("quiet", func(t *testing.T) {
			t.Parallel()
			if res, body := get(t, client, "/quiet"); res.StatusCode != 200 || body != "first last" {
				t.Errorf("%d %s", res.StatusCode, body)
			}
		})
	})
	t.Run("websocket", func(t *testing.T) {
		t.Parallel()
		conn := dialTLS(t, e)
		fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", testHost)
		br := bufio.NewReader(conn)
		if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 101 {
			t.Fatal(res, err)
		}
		time.Sleep(step * steps)
		_, _ = io.WriteString(conn, "still here")
		expect(t, br, "still here")
	})
	t.Run("keep-alive after a long request", func(t *testing.T) {
		t.Parallel()
		conn := dialTLS(t, e)
		br := bufio.NewReader(conn)
		for range 3 {
			fmt.Fprintf(conn, "GET /quiet HTTP/1.1\r\nHost: %s\r\n\r\n", testHost)
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			if err != nil || string(body) != "first last" {
				t.Errorf("%q, %v", body, err)
			}
			time.Sleep(step)
		}
	})
}

// A client that asks and asks and reads nothing must not keep the connection for ever.
func TestLimits_PipeliningWithoutReading(t *testing.T) {
	e := testEdge(t, impatient)
	a := testBackend(t, "a", func(http.ResponseWriter, *http.Request) {})
	for name, route := range map[string]trysail.Route{"served": testRoute(a), "404": {Service: "web", Host: testHost}} {
		e.Apply(route)
		conn := dialTLS(t, e)
		if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil { // on a busy machine it takes long to fill the buffers
			t.Fatal(err)
		}
		request := []byte(strings.Repeat("GET / HTTP/1.1\r\nHost: "+testHost+"\r\n\r\n", 100))
		for {
			if _, err := conn.Write(request); err != nil {
				if isTimeout(err) {
					t.Errorf("%s: the edge neither reads nor closes", name)
				}
				break
			}
		}
	}
}

func TestLimits_Connections(t *testing.T) {
	limited := &connLimit{max: 3, maxPerClient: 2, exempt: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, log: testLog(t), clients: map[netip.Addr]int{}}
	a, b, lo, proxy := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("198.51.100.1")
	for i, step := range []struct {
		client netip.Addr
		leave  bool
		want   bool
	}{
		{a, false, true},
		{a, false, true},
		{a, false, false}, // two per client
		{b, false, true},
		{b, false, false}, // three in all
		{a, true, true},
		{b, false, true},
		{b, true, true},
		{a, false, true},
		{a, true, true},
		{a, true, true},
		{b, true, true},
		{lo, false, true},
		{lo, false, true},
		{lo, false, true},
		{lo, false, false}, // loopback has the common limit only
		{lo, true, true},
		{lo, true, true},
		{lo, true, true},
		{proxy, false, true},
		{proxy, false, true},
		{proxy, false, true}, // and so have proxies
		{proxy, false, false},
	} {
		if step.leave {
			limited.release(step.client)
		} else if got := limited.admit(step.client); got != step.want {
			t.Fatalf("step %d: %v", i, got)
		}
	}
	if len(limited.clients) != 1 || limited.open != 3 {
		t.Errorf("%v, %d", limited.clients, limited.open)
	}
}

func TestLimits_ConnectionsAreGivenBack(t *testing.T) {
	e := testEdge(t, func(c *Config) { c.MaxConnections = 1 })
	roots := rootPool(t, e)
	for range 5 {
		var first *tls.Conn
		for start := time.Now(); first == nil; { // the place of the last one is free when the edge has seen it leave
			conn, err := tls.Dial("tcp", e.HTTPSAddr(), &tls.Config{RootCAs: roots, ServerName: testHost, NextProtos: []string{"http/1.1"}})
			if err == nil {
				first = conn
			} else if time.Since(start) > 10*time.Second {
				t.Fatalf("places are not given back: %v", err)
			}
		}
		second, err := net.Dial("tcp", e.HTTPSAddr())
		if err != nil {
			t.Fatal(err)
		}
		closedBy(t, second)
		second.Close()
		fmt.Fprintf(first, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", testHost)
		if got := closedBy(t, first); !strings.HasPrefix(got, "HTTP/1.1 404 ") {
			t.Errorf("got %q", got)
		}
		first.Close()
	}
}

func TestClientOf_GroupsIPv6(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:1": "192.0.2.1", "[::ffff:192.0.2.1]:1": "192.0.2.1", "[::1]:1": "::1",
		"[2001:db8:1:2:3:4:5:6]:1": "2001:db8:1:2::", "[fe80::1%lo]:1": "fe80::",
	} {
		ap := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))
		if got := clientOf(addrOf(ap)).String(); got != want {
			t.Errorf("%s: %s", addr, got)
		}
	}
}

// A client that sends a byte now and then keeps every limit on single reads; the header as a whole is bounded.
func TestLimits_Slowloris(t *testing.T) {
	t.Parallel()
	e := testEdge(t, impatient)
	e.Apply(testRoute(testBackend(t, "a", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })))
	// drip sends a byte every few milliseconds until the edge hangs up.
	drip := func(t *testing.T, conn net.Conn, text string) {
		t.Helper()
		ended := make(chan string, 1)
		go func() { ended <- closedBy(t, conn) }()
		for i := 0; ; i++ {
			select {
			case <-ended:
				return
			case <-time.After(20 * time.Millisecond):
			}
			if _, err := io.WriteString(conn, text[i%len(text):i%len(text)+1]); err != nil {
				receive(t, ended, "the end")
				return
			}
		}
	}
	t.Run("header", func(t *testing.T) {
		t.Parallel()
		conn := dialTLS(t, e)
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n", testHost)
		drip(t, conn, "X-Slow: a\r\n")
	})
	t.Run("header, plain", func(t *testing.T) {
		t.Parallel()
		conn, err := net.Dial("tcp", e.HTTPAddr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n", testHost)
		drip(t, conn, "X-Slow: a\r\n")
	})
	t.Run("request line", func(t *testing.T) {
		t.Parallel()
		drip(t, dialTLS(t, e), "GET /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	})
	t.Run("handshake", func(t *testing.T) {
		t.Parallel()
		conn, err := net.Dial("tcp", e.HTTPSAddr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "\x16\x03\x01\x10\x00\x01\x00\x0f\xfc\x03\x03")
		drip(t, conn, "x")
	})
	t.Run("next header of a kept connection", func(t *testing.T) {
		t.Parallel()
		conn := dialTLS(t, e)
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\nGET / HTTP/1.1\r\n", testHost)
		drip(t, conn, "X-Slow: a\r\n")
	})
}

func TestLimits_HugeHeaders(t *testing.T) {
	e := testEdge(t)
	e.Apply(testRoute(testBackend(t, "a", func(http.ResponseWriter, *http.Request) {})))
	for name, test := range map[string]struct{ header, want string }{
		"one of 40 KiB":  {"X: " + strings.Repeat("x", 40<<10) + "\r\n", "200"},
		"one of 100 KiB": {"X: " + strings.Repeat("x", 100<<10) + "\r\n", "431"},
		"one of 10 MiB":  {"X: " + strings.Repeat("x", 10<<20) + "\r\n", "431"},
		"many":           {strings.Repeat("X-Many: y\r\n", 20_000), "431"},
	} {
		for _, where := range []string{"header", "path"} {
			conn := dialTLS(t, e)
			path, header := "/", test.header
			if where == "path" {
				path, header = "/"+strings.NewReplacer("\r\n", "", " ", "").Replace(test.header), ""
			}
			go func() {
				_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n%s\r\n", path, testHost, header)
			}()
			got := closedBy(t, conn)
			// What the edge has not read when it hangs up may cost the client the answer.
			if !strings.HasPrefix(got, "HTTP/1.1 "+test.want) && (test.want == "200" || got != "") {
				t.Errorf("%s in the %s: %.40q", name, where, got)
			}
		}
	}
}
