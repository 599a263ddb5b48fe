//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/trysail/trysail/test/kit"
)

// freeAddr6 is a free port of ::1.
func freeAddr6(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestEdge_RulesOverIPv6 sets rules of a service by the CLI, on a server that listens on ::1 only, behind a "proxy": they
// hold at once, over all versions of HTTP, and nothing restarts.
func TestEdge_RulesOverIPv6(t *testing.T) {
	s := dedicated(t, kit.ServerOptions{
		API: freeAddr6(t), HTTP: freeAddr6(t), HTTPS: freeAddr6(t), Flags: []string{"--http3", "--trusted-proxies", "::1"},
	})
	if endpoint := s.Vars["AWS_ENDPOINT_URL_LIGHTSAIL"]; endpoint != "http://"+s.API {
		t.Errorf("the endpoint is %s", endpoint)
	}
	c := clientOf(t, s)
	c.create("web", types.ContainerServicePowerNameNano, 1)
	c.deploy(webDeployment("web", "web:1", nil))
	c.waitState("web", types.ContainerServiceStateRunning)
	url := c.url("web", "/")
	clients := map[string]*http.Client{"HTTP/3.0": http3Client(t, s)}
	for _, http2 := range []bool{false, true} {
		h, err := s.HTTPClient(http2)
		if err != nil {
			t.Fatal(err)
		}
		clients[map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[http2]] = h
	}
	page := filepath.Join(scratch(t), "page.html")
	if err := os.WriteFile(page, []byte("<p>not you, {{requestId}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	set := func(flags ...string) {
		t.Helper()
		if out, err := s.Run(t.Context(), append([]string{"settings", "web"}, flags...)...); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	// asked asks until the answer has the status, as a change takes a moment to reach the edge.
	asked := func(protocol, client, body string, status int) (*http.Response, string) {
		t.Helper()
		var res *http.Response
		var text []byte
		c.eventually(fmt.Sprintf("%d over %s", status, protocol), func() bool {
			req := newRequest(t, "POST", url, strings.NewReader(body))
			req.Header.Set("X-Forwarded-For", client)
			res, text = do(t, clients[protocol], req)
			return res.StatusCode == status
		})
		if res.Proto != protocol || res.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s %v", res.Proto, res.Header)
		}
		return res, string(text)
	}
	for protocol := range clients {
		set("--deny", "2001:db8:bad::/48", "--error-page", "403="+page, "--hsts", "1d", "--max-body", "10B")
		if res, text := asked(protocol, "2001:db8:bad::7", "", 403); text != "<p>not you, "+res.Header.Get("X-Request-Id") {
			t.Errorf("the page is %q", text)
		}
		if res, text := asked(protocol, "2001:db8::7", "", 200); res.Header.Get("Strict-Transport-Security") != "max-age=86400" {
			t.Errorf("%v %s", res.Header, text)
		}
		asked(protocol, "2001:db8::7", "more than ten bytes", 413)
		set("--deny", "none", "--error-page", "403=", "--hsts", "off", "--max-body", "off", "--rate", "1/m", "--burst", "1")
		if res, _ := asked(protocol, "2001:db8:bad::7", "more than ten bytes", 429); res.Header.Get("Retry-After") == "" {
			t.Errorf("no Retry-After: %v", res.Header)
		}
		set("--rate", "off")
		asked(protocol, "2001:db8:bad::7", "more than ten bytes", 200)
	}
	if res, _ := do(t, clients["HTTP/2.0"], newRequest(t, "GET", url, nil)); !strings.HasPrefix(res.Header.Get("Alt-Svc"), `h3=":`) {
		t.Errorf("HTTP/3 is not announced: %v", res.Header)
	}
	if out, err := s.Run(t.Context(), "settings", "web", "--allow", "example.com"); err == nil || !strings.Contains(err.Error()+out, "allowClients") {
		t.Errorf("a bad network: %v %s", err, out)
	}
}

// http3Client talks HTTP/3 to a server's edge whatever name a URL has.
func http3Client(t *testing.T, s *kit.Server) *http.Client {
	t.Helper()
	text, err := os.ReadFile(s.CA())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	tr := &http3.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		Dial: func(ctx context.Context, _ string, tc *tls.Config, qc *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, s.HTTPS, tc, qc)
		},
	}
	t.Cleanup(func() { _ = tr.Close() })
	return &http.Client{Transport: tr}
}
