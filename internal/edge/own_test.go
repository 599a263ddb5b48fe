package edge

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trysail/trysail"
)

// issue has the local CA of e sign for names, as an authority would.
func issue(t *testing.T, e *Edge, name string) *tls.Certificate {
	t.Helper()
	l, err := e.ca.sign([]string{name})
	if err != nil {
		t.Fatal(err)
	}
	return l.cert
}

func fetch(t *testing.T, c *http.Client, url string) (status int, body, location string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text), resp.Header.Get("Location")
}

func TestEdge_ServesDomainsOfARoute(t *testing.T) {
	var current atomic.Pointer[tls.Certificate]
	e := testEdge(t, func(c *Config) {
		c.Names = []string{"example.com"} // so that the local CA can play the authority
		c.Certificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName == "shop.example.com" {
				return current.Load(), nil
			}
			return nil, nil
		}
	})
	current.Store(issue(t, e, "shop.example.com"))
	e.Apply(func() trysail.Route {
		r := testRoute(testBackend(t, "a", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "for ", r.Host) }))
		r.Domains = []string{"shop.example.com", "www.example.com"}
		return r
	}())
	c := testClient(t, e, false)
	for _, host := range []string{testHost, "shop.example.com", "www.example.com", "SHOP.example.com"} {
		if status, body, _ := fetch(t, c, "https://"+host+"/"); status != 200 || !strings.EqualFold(body, "for "+host) {
			t.Errorf("%s: %d %q", host, status, body)
		}
	}
	if status, _, location := fetch(t, c, "http://shop.example.com/x?y=1"); status != 301 || !strings.HasPrefix(location, "https://shop.example.com:") || !strings.HasSuffix(location, "/x?y=1") {
		t.Errorf("plain HTTP: %d %s", status, location)
	}

	// A connection outlives the replacement of its certificate; new ones get the new one.
	conn, err := tls.Dial("tcp", e.HTTPSAddr(), &tls.Config{RootCAs: rootPool(t, e), ServerName: "shop.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	next := issue(t, e, "shop.example.com")
	current.Store(next)
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n\r\n")
	if answer, err := io.ReadAll(conn); err != nil || !strings.Contains(string(answer), "for shop.example.com") {
		t.Errorf("over the old connection: %q, %v", answer, err)
	}
	fresh, err := tls.Dial("tcp", e.HTTPSAddr(), &tls.Config{RootCAs: rootPool(t, e), ServerName: "shop.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	if !fresh.ConnectionState().PeerCertificates[0].Equal(next.Leaf) {
		t.Error("a new connection has the old certificate")
	}

	// A domain that is taken away belongs to nobody, or to the next service.
	other := testRoute(testBackend(t, "b", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "other") }))
	other.Service, other.Host, other.Domains = "other", "other."+testHost, []string{"shop.example.com"}
	e.Apply(other)
	e.Apply(testRoute())
	c.CloseIdleConnections()
	if status, body, _ := fetch(t, c, "https://shop.example.com/"); status != 200 || body != "other" {
		t.Errorf("after it moved: %d %q", status, body)
	}
	if _, err := tls.Dial("tcp", e.HTTPSAddr(), &tls.Config{RootCAs: rootPool(t, e), ServerName: "www.example.com"}); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("after it was taken away: %v", err)
	}
}

func TestEdge_AnswersUnderItsOwnNames(t *testing.T) {
	e := testEdge(t, func(c *Config) { c.Domain = "apps.example.net" })
	e.ServeOwn(map[string]http.Handler{"api.apps.example.net": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Host, r.Method, body)
	})})
	// A service cannot take the name.
	r := testRoute(testBackend(t, "a", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "service") }))
	r.Host, r.Domains = "web.x.us-east-1.cs.apps.example.net", []string{"api.apps.example.net"}
	e.Apply(r)
	for _, http2 := range []bool{false, true} {
		c := testClient(t, e, http2)
		for range 2 {
			resp, err := c.Post("https://api.apps.example.net/", "text/plain", strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || string(body) != "api.apps.example.net POST hello" {
				t.Errorf("http2 %v: %q, %v", http2, body, err)
			}
			if _, body, _ := fetch(t, c, "https://web.x.us-east-1.cs.apps.example.net/"); body != "service" {
				t.Errorf("http2 %v: the service answers %q", http2, body)
			}
		}
		if status, _, location := fetch(t, c, "http://api.apps.example.net/"); status != 301 || !strings.HasPrefix(location, "https://api.apps.example.net") {
			t.Errorf("plain HTTP: %d %s", status, location)
		}
	}
}

func TestEdge_OwnNamesBehindProxies(t *testing.T) {
	for trusted, want := range map[string]string{"127.0.0.1/32": "203.0.113.9:0", "192.0.2.1/32": "127.0.0.1:"} {
		e := testEdge(t, func(c *Config) { c.Domain, c.TrustedProxies = "apps.example.net", prefixes(trusted) })
		e.ServeOwn(map[string]http.Handler{"api.apps.example.net": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.RemoteAddr)
		})})
		bothProtocols(t, func(t *testing.T, http2 bool) {
			req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://api.apps.example.net/", nil)
			req.Header.Set("X-Forwarded-For", "198.51.100.7, 203.0.113.9")
			if _, body := send(t, testClient(t, e, http2), req); !strings.HasPrefix(body, want) {
				t.Errorf("%s is trusted: the request is from %s, want %s", trusted, body, want)
			}
		})
	}
}

func TestEdge_AnswersChallengesBeforeItRedirects(t *testing.T) {
	challenge := &tls.Certificate{}
	e := testEdge(t, func(c *Config) {
		c.Challenge = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/.well-known/acme-challenge/t" {
				return false
			}
			fmt.Fprint(w, "t.key of ", r.Host)
			return true
		}
		c.Certificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.SupportedProtos[0] != challengeProtocol {
				return nil, nil
			}
			if hello.ServerName != testHost {
				return nil, errors.New("no challenge")
			}
			return challenge, nil
		}
	})
	*challenge = *issue(t, e, testHost)
	c := testClient(t, e, false)
	if status, body, _ := fetch(t, c, "http://new.example.com/.well-known/acme-challenge/t"); status != 200 || body != "t.key of new.example.com" {
		t.Errorf("got %d %q", status, body)
	}
	if status, _, _ := fetch(t, c, "http://new.example.com/.well-known/acme-challenge/other"); status != 404 {
		t.Errorf("got %d", status)
	}
	dial := func(name string) (*x509.Certificate, string, error) {
		conn, err := tls.Dial("tcp", e.HTTPSAddr(), &tls.Config{InsecureSkipVerify: true, ServerName: name, NextProtos: []string{challengeProtocol}})
		if err != nil {
			return nil, "", err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		return conn.ConnectionState().PeerCertificates[0], conn.ConnectionState().NegotiatedProtocol, nil
	}
	if cert, protocol, err := dial(testHost); err != nil || protocol != challengeProtocol || !cert.Equal(challenge.Leaf) {
		t.Errorf("got %v %q", err, protocol)
	}
	if _, _, err := dial("other." + testHost); err == nil {
		t.Error("a challenge that nobody asked for is answered with a certificate")
	}
}
