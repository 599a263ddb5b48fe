package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// webSocketPod echoes messages. What the path says can make it do something else.
func webSocketPod(t *testing.T) http.HandlerFunc {
	t.Helper()
	return func(w http.ResponseWriter, r *http.Request) {
		o := &websocket.AcceptOptions{Subprotocols: []string{"chat.v2", "chat.v1"}, InsecureSkipVerify: true}
		if r.URL.Path == "/deflate" {
			o.CompressionMode = websocket.CompressionContextTakeover
		}
		conn, err := websocket.Accept(w, r, o)
		if err != nil {
			return
		}
		defer func() { _ = conn.CloseNow() }()
		conn.SetReadLimit(64 << 20)
		switch r.URL.Path {
		case "/close":
			_ = conn.Close(4321, "reason of the pod")
			return
		case "/gone":
			return // without a close frame
		case "/push":
			_ = conn.Write(r.Context(), websocket.MessageText, []byte("first")) // right behind the handshake
		case "/ping":
			ctx := conn.CloseRead(r.Context())
			err := conn.Ping(ctx)
			_ = conn.Write(ctx, websocket.MessageText, fmt.Append(nil, "pong: ", err))
			<-ctx.Done()
			return
		}
		for {
			kind, message, err := conn.Reader(r.Context())
			if err != nil {
				return
			}
			out, err := conn.Writer(r.Context(), kind)
			if err != nil {
				return
			}
			if _, err = io.Copy(out, message); err != nil || out.Close() != nil {
				return
			}
		}
	}
}

// dialWebSocket opens a WebSocket over HTTP/1.1 and TLS.
func dialWebSocket(t *testing.T, e *Edge, path string, o websocket.DialOptions) (*websocket.Conn, *http.Response) {
	t.Helper()
	o.HTTPClient = testClient(t, e, false)
	conn, res, err := websocket.Dial(within(t, 30*time.Second), "wss://"+testHost+path, &o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	conn.SetReadLimit(64 << 20)
	return conn, res
}

func TestWebSocket(t *testing.T) {
	e := testEdge(t)
	e.Apply(testRoute(testBackend(t, "a", webSocketPod(t))))
	echo := func(t *testing.T, conn *websocket.Conn, kind websocket.MessageType, message []byte) {
		t.Helper()
		ctx := within(t, 60*time.Second)
		sent := make(chan error, 1)
		go func() { sent <- conn.Write(ctx, kind, message) }()
		gotKind, got, err := conn.Read(ctx)
		if err != nil || gotKind != kind || !bytes.Equal(got, message) {
			t.Errorf("%v, %d bytes of %d, %v", gotKind, len(got), len(message), err)
		}
		if err := receive(t, sent, "the message to be sent"); err != nil {
			t.Error(err)
		}
	}
	for _, size := range []int{0, 1, 125, 126, 127, 65535, 65536, 16 << 20} {
		t.Run(fmt.Sprint(size, " bytes"), func(t *testing.T) {
			conn, _ := dialWebSocket(t, e, "/", websocket.DialOptions{})
			echo(t, conn, websocket.MessageBinary, bytes.Repeat([]byte{0xff}, size))
			echo(t, conn, websocket.MessageText, bytes.Repeat([]byte("x"), size))
		})
	}
	t.Run("many messages", func(t *testing.T) {
		conn, _ := dialWebSocket(t, e, "/", websocket.DialOptions{})
		for i := range 1000 {
			echo(t, conn, websocket.MessageText, fmt.Append(nil, i, " äöü"))
		}
	})
	t.Run("fragments", func(t *testing.T) {
		conn, _ := dialWebSocket(t, e, "/", websocket.DialOptions{})
		ctx := within(t, 30*time.Second)
		w, err := conn.Writer(ctx, websocket.MessageText)
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			if _, err := io.WriteString(w, strings.Repeat("part ", 2000)); err != nil { // each becomes a frame
				t.Fatal(err)
			}
		}
		go func() { _ = w.Close() }()
		if _, got, err := conn.Read(ctx); err != nil || string(got) != strings.Repeat("part ", 100_000) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	t.Run("compression", func(t *testing.T) {
		conn, res := dialWebSocket(t, e, "/deflate", websocket.DialOptions{CompressionMode: websocket.CompressionContextTakeover})
		if !strings.Contains(res.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate") {
			t.Errorf("extensions %v", res.Header)
		}
		echo(t, conn, websocket.MessageText, bytes.Repeat([]byte("again and "), 10_000))
	})
	t.Run("subprotocols", func(t *testing.T) {
		for want, offered := range map[string][]string{"chat.v1": {"other", "chat.v1"}, "": {"other"}} {
			conn, _ := dialWebSocket(t, e, "/", websocket.DialOptions{Subprotocols: offered})
			if got := conn.Subprotocol(); got != want {
				t.Errorf("%v: %q, want %q", offered, got, want)
			}
		}
	})
	t.Run("ping of the client", func(t *testing.T) {
		conn, _ := dialWebSocket(t, e, "/", websocket.DialOptions{})
		ctx := conn.CloseRead(within(t, 30*time.Second))
		for range 3 {
			if err := conn.Ping(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("ping of the pod", func(t *testing.T) {
		conn, _ := dialWebSocket(t, e, "/ping", websocket.DialOptions{})
		if _, got, err := conn.Read(within(t, 30*time.Second)); err != nil || string(got) != "pong: <nil>" && string(got) != "pong:  <nil>" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("a message right behind the handshake", func(t *testing.T) {
		for range 20 {
			conn, _ := dialWebSocket(t, e, "/push", websocket.DialOptions{})
			if _, got, err := conn.Read(within(t, 30*time.Second)); err != nil || string(got) != "first" {
				t.Errorf("%q, %v", got, err)
			}
			_ = conn.Close(websocket.StatusNormalClosure, "")
		}
	})
	t.Run("the client closes", func(t *testing.T) {
		for _, code := range []websocket.StatusCode{websocket.StatusNormalClosure, websocket.StatusGoingAway, 3000, 4999} {
			conn, _ := dialWebSocket(t, e, "/", websocket.DialOptions{})
			if err := conn.Close(code, "bye"); err != nil {
				t.Errorf("%d: %v", code, err)
			}
		}
	})
	t.Run("the pod closes", func(t *testing.T) {
		conn, _ := dialWebSocket(t, e, "/close", websocket.DialOptions{})
		_, _, err := conn.Read(within(t, 30*time.Second))
		if ce, ok := errors.AsType[websocket.CloseError](err); !ok || ce.Code != 4321 || ce.Reason != "reason of the pod" {
			t.Errorf("%v", err)
		}
	})
	t.Run("the pod hangs up", func(t *testing.T) {
		conn, _ := dialWebSocket(t, e, "/gone", websocket.DialOptions{})
		if _, _, err := conn.Read(within(t, 30*time.Second)); !errors.Is(err, io.EOF) {
			t.Errorf("%v", err)
		}
	})
	t.Run("nobody is there", func(t *testing.T) {
		o := websocket.DialOptions{HTTPClient: testClient(t, e, false)}
		_, res, err := websocket.Dial(within(t, 30*time.Second), "wss://nobody.us-east-1.cs.localhost/", &o)
		if err == nil || res == nil || res.StatusCode != 404 {
			t.Errorf("%v, %v", res, err)
		}
	})
}

// A client that ended its side still gets what the pod sends.
func TestWebSocket_HalfClose(t *testing.T) {
	e := testEdge(t)
	e.Apply(testRoute(testBackend(t, "a", func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		all, _ := io.ReadAll(rw)
		fmt.Fprintf(conn, "after the end: %s", all)
	})))
	conn := dialTLS(t, e)
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly, ", testHost)
	_, _ = io.WriteString(conn, "late")
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || !strings.HasSuffix(string(got), "after the end: early, late") {
		t.Errorf("%q, %v", got, err)
	}
}

// A switch leaves open WebSockets at the old pod until its drain ends them; new ones go to the new pod.
func TestWebSocket_DrainsOnSwitch(t *testing.T) {
	e := testEdge(t)
	a := testBackend(t, "a", webSocketPod(t))
	b := testBackend(t, "b", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	b.Version = 2
	e.Apply(testRoute(a))
	conn, _ := dialWebSocket(t, e, "/", websocket.DialOptions{})
	a.Serving = false
	e.Apply(testRoute(a, b))
	for range 3 { // it goes on
		ctx := within(t, 30*time.Second)
		if err := conn.Write(ctx, websocket.MessageText, []byte("still here")); err != nil {
			t.Fatal(err)
		}
		if _, got, err := conn.Read(ctx); err != nil || string(got) != "still here" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if res, _ := get(t, testClient(t, e, false), "/"); res.StatusCode != http.StatusTeapot {
		t.Errorf("a new request: %d", res.StatusCode)
	}
	drained := make(chan error, 1)
	ctx, cut := context.WithCancel(t.Context())
	go func() { drained <- e.Drain(ctx, "web", "a") }()
	select {
	case err := <-drained:
		t.Fatalf("drained with a WebSocket open: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	cut()
	if err := receive(t, drained, "the drain"); !errors.Is(err, context.Canceled) {
		t.Errorf("Drain: %v", err)
	}
	if _, _, err := conn.Read(within(t, 30*time.Second)); err == nil {
		t.Error("the WebSocket outlived its pod")
	}
}

// The upgrade is refused where it does not belong: HTTP/2 has no such header.
func TestWebSocket_OverHTTP2IsRefused(t *testing.T) {
	e := testEdge(t)
	e.Apply(testRoute(testBackend(t, "a", webSocketPod(t))))
	c := dialHTTP2(t, e)
	c.open(t, 1, true, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":authority", testHost, ":path", "/", "sec-websocket-version", "13")
	if got := c.outcome(t, 1); got != "reset PROTOCOL_ERROR" && got != "405" {
		t.Errorf("extended CONNECT: %s", got)
	}
	// A browser that is offered both takes HTTP/1.1 for it.
	conn, err := tls.Dial("tcp", e.HTTPSAddr(), &tls.Config{RootCAs: rootPool(t, e), ServerName: testHost, NextProtos: []string{"http/1.1"}})
	if err != nil || conn.ConnectionState().NegotiatedProtocol != "http/1.1" {
		t.Error(err)
	}
	if err == nil {
		conn.Close()
	}
}
