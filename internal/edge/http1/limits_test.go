package http1

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func impatient(c *Config) {
	c.HeaderTimeout, c.IdleTimeout, c.ResponseTimeout, c.Grace = 150*time.Millisecond, 150*time.Millisecond, 300*time.Millisecond, 150*time.Millisecond
}

func TestServer_SlowClients(t *testing.T) {
	r := newRig(t, saying(t, "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"+strings.Repeat("x", 30<<20), true), impatient)
	for _, tt := range []struct{ name, sends, want string }{
		{"nothing", "", ""},
		{"half a line", "GET /", ""},
		{"half a head", "GET / HTTP/1.1\r\nHost: h\r\n", ""},
		{"half a body", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf", "HTTP/1.1 408 "},
		{"half a chunk", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf", "HTTP/1.1 408 "},
		{"no last chunk", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "HTTP/1.1 408 "},
		{"half a trailer", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n", "HTTP/1.1 408 "},
	} {
		c := r.dial()
		c.send(tt.sends)
		if got := c.rest(); !strings.HasPrefix(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("%s: %q", tt.name, got)
		}
	}
	for len(r.errs) > 0 {
		<-r.errs
	}
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n") // and does not read
	if err := <-r.errs; !errors.Is(err, ErrClientStalled) {
		t.Errorf("not reading: %v", err)
	}
}

// A byte now and then does not keep a head open for ever.
func TestServer_DripsOfAHead(t *testing.T) {
	r := newRig(t, echoPod(t), impatient)
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: h\r\n")
	closed := make(chan struct{})
	go func() {
		for {
			select {
			case <-closed:
				return
			case <-time.After(20 * time.Millisecond):
				if _, err := io.WriteString(c.TCPConn, "X: y\r\n"); err != nil {
					return
				}
			}
		}
	}()
	_ = c.rest()
	close(closed)
}

func TestServer_PodsThatAreTooSlow(t *testing.T) {
	for name, tt := range map[string]struct {
		says, want string
	}{
		"silent":      {"", "HTTP/1.1 504 "},
		"half a head": {"HTTP/1.1 200 OK\r\n", "HTTP/1.1 504 "},
	} {
		r := newRig(t, rawPod(t, func(c net.Conn, br *bufio.Reader) {
			_, _ = http.ReadRequest(br)
			_, _ = io.WriteString(c, tt.says)
			_, _ = io.Copy(io.Discard, br) // until it is closed
		}), impatient)
		for _, request := range []string{"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"} {
			c := r.dial()
			c.send(request)
			if got := c.rest(); !strings.HasPrefix(got, tt.want) {
				t.Errorf("%s: %q", name, got)
			}
		}
	}
}

// An answer that is quiet for many times the limits is not too slow.
func TestServer_QuietAnswersLive(t *testing.T) {
	more := make(chan struct{})
	r := newRig(t, rawPod(t, func(c net.Conn, br *bufio.Reader) {
		_, _ = http.ReadRequest(br)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
		<-more
		_, _ = io.WriteString(c, "4\r\nlast\r\n0\r\n\r\n")
	}), impatient)
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	res, err := http.ReadResponse(c.br, nil)
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 5)
	if _, err := io.ReadFull(res.Body, first); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // several times all limits
	close(more)
	if rest, err := io.ReadAll(res.Body); string(rest) != "last" || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestServer_ShutdownLetsRequestsFinish(t *testing.T) {
	asked, more := make(chan struct{}), make(chan struct{})
	r := newRig(t, rawPod(t, func(c net.Conn, br *bufio.Reader) {
		_, _ = http.ReadRequest(br)
		asked <- struct{}{}
		<-more
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
	}))
	busy, waiting := r.dial(), r.dial()
	busy.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	<-asked
	done := make(chan error, 1)
	go func() { done <- r.srv.Shutdown(context.Background()) }()
	if got := waiting.rest(); got != "" {
		t.Errorf("the idle connection got %q", got)
	}
	select {
	case err := <-done:
		t.Fatalf("did not wait: %v", err)
	default:
	}
	close(more)
	res, body := busy.answer("GET")
	if body != "done" || !res.Close {
		t.Errorf("%q, close %v", body, res.Close)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestServer_ShutdownCuts(t *testing.T) {
	asked := make(chan struct{}, 10)
	hold := make(chan struct{})
	defer close(hold)
	r := newRig(t, rawPod(t, func(c net.Conn, br *bufio.Reader) {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if req.Header.Get("Upgrade") != "" {
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		}
		asked <- struct{}{}
		<-hold
	}))
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n",
	} {
		r.dial().send(request)
		<-asked
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestExchange_Interrupt(t *testing.T) {
	asked := make(chan struct{}, 10)
	hold := make(chan struct{})
	defer close(hold)
	r := newRig(t, rawPod(t, func(c net.Conn, br *bufio.Reader) {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if req.URL.Path == "/part" {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npart")
		}
		asked <- struct{}{}
		<-hold
	}))
	var now *Exchange
	r.change = func(x *Exchange) { now = x }
	for path, want := range map[string]string{"/": "HTTP/1.1 502 ", "/part": "HTTP/1.1 200 "} {
		c := r.dial()
		c.send("GET " + path + " HTTP/1.1\r\nHost: h\r\n\r\n")
		<-asked
		var got []byte
		if path == "/part" {
			got = make([]byte, len("HTTP/1.1 200 ")) // so that the answer is on its way
			if _, err := io.ReadFull(c.br, got); err != nil {
				t.Fatal(err)
			}
		}
		now.Interrupt()
		now.Interrupt()
		if path == "/" {
			res, _ := c.answer("GET")
			got = []byte(fmt.Sprintf("HTTP/1.1 %d ", res.StatusCode))
		} else if rest := c.rest(); !strings.HasSuffix(rest, "\r\n\r\npart") {
			t.Errorf("then %q", rest)
		}
		if string(got) != want {
			t.Errorf("%s: %q", path, got)
		}
		if err := <-r.errs; !errors.Is(err, ErrInterrupted) {
			t.Errorf("%s: %v", path, err)
		}
	}
	now.Interrupt() // it is long over
}

func TestServer_HandsOver(t *testing.T) {
	r := newRig(t, echoPod(t))
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	c.answer("GET")
	const request = "POST /own HTTP/1.1\r\nHost: elsewhere\r\nContent-Length: 4\r\n\r\nbody"
	c.send(request + "GET /next")
	moved := <-r.moved
	c.send(" HTTP/1.1\r\n")
	_ = c.CloseWrite()
	got, err := io.ReadAll(moved)
	if want := request + "GET /next HTTP/1.1\r\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := io.WriteString(moved, "answer"); err != nil {
		t.Error(err)
	}
	moved.Close()
	if got := c.rest(); got != "answer" {
		t.Errorf("client got %q", got)
	}
}

func TestServer_SurvivesAPanic(t *testing.T) {
	r := newRig(t, echoPod(t))
	r.change = func(x *Exchange) {
		if string(x.Request.Path) == "/panic" {
			panic("a fault of ours")
		}
	}
	c := r.dial()
	c.send("GET /panic HTTP/1.1\r\nHost: h\r\n\r\n")
	if got := c.rest(); got != "" {
		t.Errorf("got %q", got)
	}
	c = r.dial()
	c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	if res, _ := c.answer("GET"); res.StatusCode != 200 {
		t.Errorf("status %d", res.StatusCode)
	}
}

func TestServer_NeglectedRequestsAreClosed(t *testing.T) {
	r := newRig(t, echoPod(t), func(c *Config) { c.Handler = func(*Exchange) {} })
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	if got := c.rest(); got != "" {
		t.Errorf("got %q", got)
	}
}

func testCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"h"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestServer_TLS(t *testing.T) {
	r := newRig(t, echoPod(t), func(c *Config) {
		c.TLS = &tls.Config{Certificates: []tls.Certificate{testCertificate(t)}, NextProtos: []string{"h2", "http/1.1"}}
		c.HeaderTimeout = 300 * time.Millisecond
	})
	dial := func(protos ...string) (*tls.Conn, error) {
		return tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: protos})
	}
	for _, protos := range [][]string{nil, {"http/1.1"}} {
		conn, err := dial(protos...)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		br := bufio.NewReader(conn)
		for i := range 3 {
			body := strings.Repeat("y", i*50_000)
			fmt.Fprintf(conn, "POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", i, len(body), body)
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(res.Body); err != nil || !strings.HasSuffix(string(got), "\r\n\r\n"+body) {
				t.Errorf("%d: %d bytes, %v", i, len(got), err)
			}
		}
	}
	conn, err := dial("h2")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	moved := <-r.moved
	if secure, ok := moved.(*tls.Conn); !ok || secure.ConnectionState().NegotiatedProtocol != "h2" {
		t.Errorf("handed over %T", moved)
	}
	moved.Close()
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	if got := c.rest(); !strings.HasPrefix(got, "HTTP/1.0 400 ") {
		t.Errorf("plain HTTP: %q", got)
	}
	c = r.dial()
	if got := c.rest(); got != "" {
		t.Errorf("no handshake: %q", got)
	}
	fmt.Fprint(conn, "x")
}
