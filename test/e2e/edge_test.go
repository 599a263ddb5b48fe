//go:build e2e

package e2e

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"golang.org/x/net/websocket"
)

// TestEdge asks a real pod for everything that a load balancer can get wrong.
func TestEdge(t *testing.T) {
	c := clientOf(t, shared.server)
	c.create("edge", types.ContainerServicePowerNameSmall, 2)
	c.deploy(webDeployment("edge", "web:1", nil))
	c.waitState("edge", types.ContainerServiceStateRunning)

	for _, tt := range []struct {
		name string
		run  func(*testing.T, *client, *http.Client)
	}{
		{"Forwarded", edgeForwarded},
		{"Status", edgeStatus},
		{"Stream", edgeStream},
		{"Upload", edgeUpload},
		{"Download", edgeDownload},
		{"BothPods", edgeBothPods},
	} {
		for _, http2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/http2=%t", tt.name, http2), func(t *testing.T) {
				h, err := shared.server.HTTPClient(http2)
				if err != nil {
					t.Fatal(err)
				}
				defer h.CloseIdleConnections()
				tt.run(t, clientOf(t, shared.server), h)
			})
		}
	}
	t.Run("WebSocket", edgeWebSocket)
	t.Run("Redirect", edgeRedirect)
	t.Run("UnknownHost", edgeUnknownHost)
	c.delete("edge")
}

// do sends the request and returns the answer with its body read.
func do(t *testing.T, h *http.Client, req *http.Request) (*http.Response, []byte) {
	t.Helper()
	resp, err := h.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func newRequest(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func edgeForwarded(t *testing.T, c *client, h *http.Client) {
	u := c.url("edge", "/request?a=1&a=2&b=%2F;c")
	req := newRequest(t, http.MethodPost, u, strings.NewReader("body"))
	req.Header.Set("X-Forwarded-For", "203.0.113.7")
	req.Header.Set("X-Forwarded-Proto", "gopher")
	req.Header.Set("X-Custom", "kept")
	req.Header.Set("Connection", "X-Hop")
	req.Header.Set("X-Hop", "must not arrive")
	if h.Transport.(*http.Transport).Protocols.HTTP2() {
		req.Header.Del("Connection")
		req.Header.Del("X-Hop")
	}
	_, body := do(t, h, req)
	var got struct {
		Method, URI, Host, Proto string
		Header                   http.Header
	}
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	parsed, err := url.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	if got.Method != http.MethodPost || got.URI != "/request?a=1&a=2&b=%2F;c" {
		t.Errorf("the pod was asked %s %s", got.Method, got.URI)
	}
	if got.Host != parsed.Host {
		t.Errorf("the pod saw host %q, want %q", got.Host, parsed.Host)
	}
	if want := []string{"203.0.113.7, 127.0.0.1"}; got.Header.Get("X-Forwarded-For") != want[0] {
		t.Errorf("X-Forwarded-For is %q, want %q", got.Header["X-Forwarded-For"], want)
	}
	if got.Header.Get("X-Forwarded-Proto") != "https" {
		t.Errorf("X-Forwarded-Proto is %q, want https", got.Header["X-Forwarded-Proto"])
	}
	if got.Header.Get("X-Forwarded-Host") != parsed.Host {
		t.Errorf("X-Forwarded-Host is %q, want %q", got.Header["X-Forwarded-Host"], parsed.Host)
	}
	if got.Header.Get("X-Custom") != "kept" || got.Header.Get("X-Hop") != "" {
		t.Errorf("the pod saw the headers %v", got.Header)
	}
}

func edgeStatus(t *testing.T, c *client, h *http.Client) {
	base := c.url("edge", "/status")
	for _, code := range []int{200, 201, 204, 301, 304, 404, 418, 429, 500, 503} {
		resp, _ := do(t, h, newRequest(t, http.MethodGet, fmt.Sprintf("%s?code=%d&location=/x", base, code), nil))
		if resp.StatusCode != code {
			t.Errorf("the pod's %d arrives as %s", code, resp.Status)
		}
	}
}

// edgeStream: each line must arrive when it is written, not when the answer ends.
func edgeStream(t *testing.T, c *client, h *http.Client) {
	const n, every = 5, 200 * time.Millisecond
	resp, err := h.Do(newRequest(t, http.MethodGet, c.url("edge", fmt.Sprintf("/stream?n=%d&d=%s", n, every)), nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var first, last time.Time
	lines := 0
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if strings.HasPrefix(s.Text(), "data: ") {
			lines++
			last = time.Now()
			if first.IsZero() {
				first = last
			}
		}
	}
	if lines != n {
		t.Errorf("%d lines arrived, want %d", lines, n)
	}
	if took := last.Sub(first); took < (n-2)*every {
		t.Errorf("all lines arrived within %s: the stream was held back", took)
	}
}

// pattern yields n bytes that repeat 0…250.
type pattern struct{ at, n int64 }

func (p *pattern) Read(b []byte) (int, error) {
	if p.at == p.n {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), p.n-p.at)]
	for i := range b {
		b[i] = byte((p.at + int64(i)) % 251)
	}
	p.at += int64(len(b))
	return len(b), nil
}

func sumOf(n int64) string {
	h := sha256.New()
	if _, err := io.Copy(h, &pattern{n: n}); err != nil {
		panic(err) // neither side can fail
	}
	return hex.EncodeToString(h.Sum(nil))
}

const large = 300 << 20 // more than the pod's cache of anything, less than a test's patience

func edgeUpload(t *testing.T, c *client, h *http.Client) {
	for _, n := range []int64{0, 1, 70_000, large} {
		for _, chunked := range []bool{false, true} {
			req := newRequest(t, http.MethodPut, c.url("edge", "/upload"), io.NopCloser(&pattern{n: n}))
			if !chunked {
				req.ContentLength = n
				if n == 0 {
					req.Body = http.NoBody
				}
			}
			resp, body := do(t, h, req)
			if want := fmt.Sprintf("%d %s\n", n, sumOf(n)); string(body) != want {
				t.Errorf("%d bytes (chunked %t) were answered %s %q, want %q", n, chunked, resp.Status, body, want)
			}
		}
	}
}

func edgeDownload(t *testing.T, c *client, h *http.Client) {
	for _, n := range []int64{0, 1, 70_000, large} {
		for _, chunked := range []string{"", "1"} {
			resp, err := h.Do(newRequest(t, http.MethodGet, c.url("edge", fmt.Sprintf("/download?n=%d&chunked=%s", n, chunked)), nil))
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.New()
			got, err := io.Copy(sum, resp.Body)
			resp.Body.Close()
			if err != nil || got != n || hex.EncodeToString(sum.Sum(nil)) != sumOf(n) {
				t.Errorf("%d bytes were asked for, %d arrived (%v)", n, got, err)
			}
		}
	}
}

func edgeBothPods(t *testing.T, c *client, h *http.Client) {
	u := c.url("edge", "/")
	pods := map[string]int{}
	for range 20 {
		resp, _ := do(t, h, newRequest(t, http.MethodGet, u, nil))
		pods[resp.Header.Get("X-Instance")]++
	}
	if len(pods) != 2 {
		t.Errorf("the requests went to %v, want two pods", pods)
	}
}

func edgeWebSocket(t *testing.T) {
	c := clientOf(t, shared.server)
	u, err := url.Parse(c.url("edge", "/ws"))
	if err != nil {
		t.Fatal(err)
	}
	origin := u.Scheme + "://" + u.Host
	u.Scheme = "wss"
	config, err := websocket.NewConfig(u.String(), origin)
	if err != nil {
		t.Fatal(err)
	}
	h, err := shared.server.HTTPClient(false)
	if err != nil {
		t.Fatal(err)
	}
	tlsConfig := h.Transport.(*http.Transport).TLSClientConfig.Clone()
	tlsConfig.ServerName = u.Hostname()
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			conn, err := tls.Dial("tcp", shared.server.HTTPS, tlsConfig)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			ws, err := websocket.NewClient(config, conn)
			if err != nil {
				t.Error(err)
				return
			}
			defer ws.Close()
			if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Error(err)
			}
			for j := range 50 {
				want := fmt.Sprintf("message %d of %d %s", j, i, strings.Repeat("x", j*100))
				var got string
				if err := websocket.Message.Send(ws, want); err != nil {
					t.Error(err)
					return
				}
				if err := websocket.Message.Receive(ws, &got); err != nil || got != want {
					t.Errorf("sent %q, got back %q (%v)", want, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func edgeRedirect(t *testing.T) {
	c := clientOf(t, shared.server)
	u, err := url.Parse(c.url("edge", "/some/path?q=1"))
	if err != nil {
		t.Fatal(err)
	}
	host, _, err := net.SplitHostPort(u.Host)
	if err != nil {
		host = u.Host
	}
	_, port, err := net.SplitHostPort(shared.server.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	h, err := shared.server.HTTPClient(false)
	if err != nil {
		t.Fatal(err)
	}
	resp, _ := do(t, h, newRequest(t, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/some/path?q=1", nil))
	if resp.StatusCode != http.StatusMovedPermanently && resp.StatusCode != http.StatusPermanentRedirect {
		t.Errorf("plain HTTP is answered %s, want a permanent redirect", resp.Status)
	}
	if got := resp.Header.Get("Location"); got != u.String() {
		t.Errorf("plain HTTP is redirected to %q, want %q", got, u)
	}
}

func edgeUnknownHost(t *testing.T) {
	h, err := shared.server.HTTPClient(false)
	if err != nil {
		t.Fatal(err)
	}
	// A host that is no service's has no certificate of its own either; a browser may be told so in either way.
	resp, err := h.Get("https://nobody.0123456789abc.us-east-1.cs.localhost/")
	if err != nil {
		t.Logf("the handshake fails: %v", err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusNotFound || !strings.Contains(string(body), "<title>404 No Such Service</title>") {
		t.Errorf("an unknown host is answered %s: %s", resp.Status, body)
	}
}
