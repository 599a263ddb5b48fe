package edge

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/trysail/trysail"
)

// testRawServer lets serve have each connection, after the request's first bytes have arrived.
func testRawServer(t *testing.T, serve func(net.Conn)) net.Addr {
	t.Helper()
	return testRaw(t, func(conn net.Conn, _ string) { serve(conn) })
}

// testRawPod is testRawServer without the connections of health checks.
func testRawPod(t *testing.T, serve func(net.Conn)) net.Addr {
	t.Helper()
	return testRaw(t, func(conn net.Conn, head string) {
		if !strings.Contains(head, probeAgent) {
			serve(conn)
		}
	})
}

func testRaw(t *testing.T, serve func(conn net.Conn, head string)) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				head := make([]byte, 64<<10)
				if n, _ := conn.Read(head); n > 0 {
					serve(conn, string(head[:n]))
				}
			}()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr()
}

func probeOnce(t *testing.T, addr net.Addr, useTLS bool, c trysail.HealthCheck) trysail.Probe {
	t.Helper()
	a := asker{addr: netip.MustParseAddrPort(addr.String()), tls: useTLS, dial: new(net.Dialer).DialContext}
	return a.probe(t.Context(), newProbeSettings(c, true, testLog(t)))
}

func TestProbe_ErrorsInPlainWords(t *testing.T) {
	say := func(s string) func(net.Conn) {
		return func(c net.Conn) { _, _ = io.WriteString(c, s) }
	}
	tests := []struct {
		name  string
		serve func(net.Conn)
		tls   bool
		want  string
	}{
		{"banner", say("SSH-2.0-OpenSSH_9.2\r\n"), false, `not HTTP: "SSH-2.0-OpenSSH_9.2\r\n"`},
		{"tls alert", say("\x15\x03\x01\x00\x02\x02\x16"), false, `not HTTP: "\x15\x03\x01\x00\x02\x02\x16"`},
		{"two bytes", say("no"), false, `not HTTP: "no"`},
		{"long nonsense", say(strings.Repeat("z", 500)), false, `not HTTP: "` + strings.Repeat("z", probeHead) + `"`},
		{"closed", func(net.Conn) {}, false, "closed without an answer"},
		{"reset", func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }, false, "connection reset"},
		{"half a header", say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"), false, "broke off in the middle of the answer"},
		{"half a line", say("HTTP/1.1 200 OK\r\nContent-"), false, `malformed answer: malformed MIME header: missing colon: "Content-"`},
		{"no status", say("HTTP/1.1 hello\r\n\r\n"), false, `malformed answer: malformed HTTP status code "hello"`},
		{"prefix only", say("HT"), false, "closed without an answer"},
		{"plain HTTP on a TLS port", say("HTTP/1.1 400 Bad Request\r\n\r\n"), true, `not TLS: "HTTP/"`},
		{"endless header", func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for line := "X: " + strings.Repeat("y", 1000) + "\r\n"; ; {
				if _, err := io.WriteString(c, line); err != nil {
					return
				}
			}
		}, false, "the header of the answer is too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := probeOnce(t, testRawServer(t, tt.serve), tt.tls, trysail.HealthCheck{})
			if p.Error != tt.want || p.OK || p.Status != 0 {
				t.Errorf("got %+v, want error %s", p, tt.want)
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		if p := probeOnce(t, refusing(t), false, trysail.HealthCheck{}); p.Error != "connection refused" {
			t.Errorf("%+v", p)
		}
	})
	t.Run("silent", func(t *testing.T) {
		hold := make(chan struct{})
		defer close(hold)
		addr := testRawServer(t, func(net.Conn) { <-hold })
		if p := probeOnce(t, addr, false, trysail.HealthCheck{TimeoutSeconds: 1}); p.Error != "timed out after 1s" {
			t.Errorf("%+v", p)
		}
	})
}

func TestProbe_KeepsTheHeadOfTheBody(t *testing.T) {
	tests := []struct {
		name, body string
		want       string
	}{
		{"short", "out of order", "out of order"},
		{"long", strings.Repeat("x", 100_000), strings.Repeat("x", probeBody)},
		{"not text", "\xff\xfe!", "\uFFFD!"},
		{"replaced to longer", strings.Repeat("a\xff", 200), strings.Repeat("a\uFFFD", 75)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusInternalServerError)
				_, _ = io.WriteString(w, tt.body)
			}))
			defer srv.Close()
			p := probeOnce(t, srv.Listener.Addr(), false, trysail.HealthCheck{})
			if p.Status != 500 || p.OK || p.Error != "" || p.Body != tt.want {
				t.Errorf("%+v", p)
			}
		})
	}
}

func TestProbe_EndlessBodyDoesNotHoldItUp(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "data: hello\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer srv.Close()
	p := probeOnce(t, srv.Listener.Addr(), false, trysail.HealthCheck{TimeoutSeconds: 30})
	if !p.OK || p.Body != "data: hello\n\n" || p.Took > 10*time.Second {
		t.Errorf("%+v", p)
	}
}

func TestProbe_SpeaksTLSWithoutVerifying(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	defer srv.Close()
	if p := probeOnce(t, srv.Listener.Addr(), true, trysail.HealthCheck{SuccessCodes: "204"}); !p.OK {
		t.Errorf("%+v", p)
	}
	srv.TLS.MaxVersion = tls.VersionTLS10
	if p := probeOnce(t, srv.Listener.Addr(), true, trysail.HealthCheck{}); !strings.HasPrefix(p.Error, "TLS handshake: ") && !strings.Contains(p.Error, "protocol version") {
		t.Errorf("%+v", p)
	}
}
