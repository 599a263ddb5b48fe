package edge

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	proxyproto "github.com/pires/go-proxyproto"
)

// What is agreed on with clients of all kinds. TLS 1.2 needs forward secrecy and an AEAD, as in Mozilla's "intermediate".
func TestTLS_Versions(t *testing.T) {
	e := testEdge(t)
	e.Apply(testRoute(testBackend(t, "a", func(http.ResponseWriter, *http.Request) {})))
	dial := func(change func(*tls.Config)) (tls.ConnectionState, error) {
		cfg := &tls.Config{RootCAs: rootPool(t, e), ServerName: testHost}
		change(cfg)
		conn, err := tls.Dial("tcp", e.HTTPSAddr(), cfg)
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer conn.Close()
		return conn.ConnectionState(), nil
	}
	for v, want := range map[uint16]string{tls.VersionTLS10: "protocol version", tls.VersionTLS11: "protocol version", tls.VersionTLS12: "", tls.VersionTLS13: ""} {
		state, err := dial(func(c *tls.Config) { c.MinVersion, c.MaxVersion = v, v })
		if want == "" && (err != nil || state.Version != v) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", tls.VersionName(v), err)
		}
	}
	var taken []string
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if slices.Contains(s.SupportedVersions, tls.VersionTLS13) {
			continue // those cannot be chosen, and are all good
		}
		state, err := dial(func(c *tls.Config) { c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{s.ID} })
		if err == nil {
			taken = append(taken, tls.CipherSuiteName(state.CipherSuite))
		}
	}
	slices.Sort(taken)
	// The certificate's key is ECDSA; with one for RSA the same three with RSA are taken.
	want := []string{"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"}
	if !slices.Equal(taken, want) {
		t.Errorf("TLS 1.2 suites taken: %v", taken)
	}
	for curve, ok := range map[tls.CurveID]bool{tls.X25519MLKEM768: true, tls.X25519: true, tls.CurveP256: true, tls.CurveP384: true} {
		if _, err := dial(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{curve} }); (err == nil) != ok {
			t.Errorf("%v: %v", curve, err)
		}
	}
	for protocol, want := range map[string]string{"h2": "h2", "http/1.1": "http/1.1", "": ""} {
		state, err := dial(func(c *tls.Config) {
			if protocol != "" {
				c.NextProtos = []string{protocol}
			}
		})
		if err != nil || state.NegotiatedProtocol != want {
			t.Errorf("protocol %q: %q, %v", protocol, state.NegotiatedProtocol, err)
		}
	}
	if _, err := dial(func(c *tls.Config) { c.NextProtos = []string{"spdy/3"} }); err == nil || !strings.Contains(err.Error(), "no application protocol") {
		t.Errorf("an unknown protocol: %v", err)
	}
}

func TestTLS_Names(t *testing.T) {
	e := testEdge(t)
	e.Apply(testRoute(testBackend(t, "a", func(http.ResponseWriter, *http.Request) {})))
	for name, want := range map[string]string{testHost: "", "localhost": "", "127.0.0.1": "", "www.example.com": "unrecognized name", "evil." + testHost + ".example": "unrecognized name"} {
		conn, err := tls.Dial("tcp", e.HTTPSAddr(), &tls.Config{RootCAs: rootPool(t, e), ServerName: name})
		if err == nil {
			conn.Close()
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is no TLS at all must end soon, and cost the edge nothing else.
func TestTLS_Garbage(t *testing.T) {
	t.Parallel()
	e := testEdge(t, impatient)
	e.Apply(testRoute(testBackend(t, "a", func(http.ResponseWriter, *http.Request) {})))
	hello := "\x16\x03\x01\x00\x05\x01\x00\x00\x01"
	for name, test := range map[string]struct{ send, want string }{
		"plain HTTP":                {"GET / HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n", "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"},
		"plain HTTP/2":              {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""},
		"SSL 2":                     {"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80\x02\x00\x80\x03\x00\x80\x04\x00\x80\x05\x00\x80\x06\x00\x40\x07\x00\xc0", ""},
		"SSL 3":                     {"\x16\x03\x00\x00\x2d\x01\x00\x00\x29\x03\x00" + strings.Repeat("x", 32) + "\x00\x00\x02\x00\x0a\x01\x00", ""},
		"nothing":                   {"", ""},
		"zeroes":                    {strings.Repeat("\x00", 1000), ""},
		"a record that is too long": {"\x16\x03\x01\xff\xff" + strings.Repeat("x", 1000), ""},
		"half a hello":              {hello, ""},
		"an alert":                  {"\x15\x03\x03\x00\x02\x02\x28", ""},
		"data before the hello":     {"\x17\x03\x03\x00\x05hello", ""},
		"a PROXY header":            {"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", e.HTTPSAddr())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, test.send)
			got := closedBy(t, conn)
			if test.want != "" && got != test.want || test.want == "" && strings.HasPrefix(got, "HTTP/") {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestProxyProtocol(t *testing.T) {
	entries := make(chan string, 100)
	e := testEdge(t, func(c *Config) {
		impatient(c)
		c.ProxyProtocol = prefixes("127.0.0.0/8")
		c.AccessLog = collectLines(entries)
	})
	r := testRoute(testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header["X-Forwarded-For"]) }))
	r.AccessLog = true
	r.Rules.DenyClients = []string{"198.51.100.0/24"}
	e.Apply(r)
	tcp := func(source string) net.Addr { a, _ := net.ResolveTCPAddr("tcp", source); return a }
	header := func(version byte, source, destination string) string {
		h := proxyproto.HeaderProxyFromAddrs(version, tcp(source), tcp(destination))
		b, err := h.Format()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	local, err := (&proxyproto.Header{Version: 2, Command: proxyproto.LOCAL}).Format()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(t *testing.T, header string) string {
		t.Helper()
		conn, err := net.Dial("tcp", e.HTTPSAddr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, header)
		secure := tls.Client(conn, &tls.Config{RootCAs: rootPool(t, e), ServerName: testHost})
		if err := secure.HandshakeContext(t.Context()); err != nil {
			return ""
		}
		fmt.Fprintf(secure, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", testHost)
		return closedBy(t, secure)
	}
	for name, test := range map[string]struct{ header, client, status string }{
		"version 1":                 {header(1, "192.0.2.9:1234", "192.0.2.1:443"), "192.0.2.9", "200"},
		"version 2":                 {header(2, "192.0.2.9:1234", "192.0.2.1:443"), "192.0.2.9", "200"},
		"version 1, IPv6":           {header(1, "[2001:db8::9]:1234", "[2001:db8::1]:443"), "2001:db8::9", "200"},
		"version 2, IPv6":           {header(2, "[2001:db8::9]:1234", "[2001:db8::1]:443"), "2001:db8::9", "200"},
		"a health check of its own": {string(local), "127.0.0.1", "200"},
		"a client that is denied":   {header(2, "198.51.100.9:1234", "192.0.2.1:443"), "198.51.100.9", "403"},
	} {
		got := ask(t, test.header)
		if !strings.HasPrefix(got, "HTTP/1.1 "+test.status) || test.status == "200" && !strings.HasSuffix(got, "["+test.client+"]") {
			t.Errorf("%s: %q", name, got)
			continue
		}
		if line := receive(t, entries, "a line"); !strings.Contains(line, `"client":"`+test.client+`"`) {
			t.Errorf("%s: line %s", name, line)
		}
	}
	for name, header := range map[string]string{
		"none": "", "half of one": "PROXY TCP4 192.0.2.9", "a broken one": "PROXY TCP4 example.com 192.0.2.1 1 2\r\n",
		"one that is too long": "PROXY TCP4 " + strings.Repeat("1", 200) + "\r\n", "a broken one of version 2": "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff",
	} {
		if got := ask(t, header); got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
	// The plain listener knows it too.
	conn, err := net.Dial("tcp", e.HTTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%sGET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", header(2, "192.0.2.9:1234", "192.0.2.1:80"), testHost)
	if got := closedBy(t, conn); !strings.HasPrefix(got, "HTTP/1.1 301 ") {
		t.Errorf("plain: %q", got)
	}
}

// A header from an address that is not listed is not taken: to TLS it is garbage.
func TestProxyProtocol_NotFromStrangers(t *testing.T) {
	e := testEdge(t, func(c *Config) { c.ProxyProtocol = prefixes("192.0.2.0/24") })
	e.Apply(testRoute(testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header["X-Forwarded-For"]) })))
	if res, body := get(t, testClient(t, e, true), "/"); res.StatusCode != 200 || body != "[127.0.0.1]" {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	conn, err := net.Dial("tcp", e.HTTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PROXY TCP4 192.0.2.9 192.0.2.1 1 2\r\nGET / HTTP/1.1\r\nHost: %s\r\n\r\n", testHost)
	if got := closedBy(t, conn); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
		t.Errorf("got %q", got)
	}
}

func TestEdge_IPv6(t *testing.T) {
	for _, addr := range []string{"[::1]:0", "[::]:0"} {
		entries := make(chan string, 10)
		e := testEdge(t, withHTTP3, func(c *Config) {
			c.HTTPAddr, c.HTTPSAddr = addr, addr
			c.AccessLog = collectLines(entries)
		})
		r := testRoute(testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header["X-Forwarded-For"]) }))
		r.AccessLog = true
		e.Apply(r)
		for version, c := range map[string]*http.Client{"h1": testClient(t, e, false), "h2": testClient(t, e, true), "h3": testHTTP3Client(t, e)} {
			if res, body := get(t, c, "/"); res.StatusCode != 200 || body != "[::1]" {
				t.Errorf("%s, %s: %d %s", addr, version, res.StatusCode, body)
			}
			if line := receive(t, entries, "a line"); !strings.Contains(line, `"client":"::1"`) {
				t.Errorf("line %s", line)
			}
		}
		if status, _, location := fetch(t, testClient(t, e, false), "http://"+testHost+"/x"); status != 301 || !strings.HasPrefix(location, "https://"+testHost+":") {
			t.Errorf("redirect: %d %s", status, location)
		}
		receive(t, entries, "its line")
		if addr != "[::]:0" {
			continue
		}
		// On all addresses, IPv4 clients are written as such.
		_, port, _ := net.SplitHostPort(e.HTTPSAddr())
		conn, err := tls.Dial("tcp", "127.0.0.1:"+port, &tls.Config{RootCAs: rootPool(t, e), ServerName: testHost})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", testHost)
		if got, _ := io.ReadAll(conn); !strings.HasSuffix(string(got), "[127.0.0.1]") {
			t.Errorf("got %q", got)
		}
		if line := receive(t, entries, "a line"); !strings.Contains(line, `"client":"127.0.0.1"`) {
			t.Errorf("line %s", line)
		}
	}
}
