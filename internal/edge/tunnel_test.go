package edge

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// frame is a WebSocket frame of a client, masked with zeros so that it reads the same on both sides.
func frame(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

// tunnelCases are what is sent through a tunnel: what Autobahn's suite has of frames, well made and not. The edge must not know.
func tunnelCases() map[string][]byte {
	cases := map[string][]byte{}
	for _, n := range []int{0, 1, 125, 126, 127, 128, 65535, 65536, 1 << 20} {
		cases[fmt.Sprint("text of ", n)] = frame(0x81, bytes.Repeat([]byte("*"), n))
		cases[fmt.Sprint("binary of ", n)] = frame(0x82, bytes.Repeat([]byte{0xfe}, n))
	}
	for _, n := range []int{0, 125, 126} {
		cases[fmt.Sprint("ping of ", n)] = frame(0x89, bytes.Repeat([]byte{0}, n))
		cases[fmt.Sprint("pong nobody asked for, of ", n)] = frame(0x8a, bytes.Repeat([]byte{0}, n))
	}
	for _, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		cases[fmt.Sprint("reserved opcode ", op)] = frame(0x80|op, []byte("x"))
	}
	for _, bit := range []byte{0x10, 0x20, 0x40, 0x70} {
		cases[fmt.Sprintf("reserved bits %x", bit)] = frame(0x81|bit, []byte("x"))
	}
	for _, code := range []uint16{0, 999, 1000, 1001, 1004, 1005, 1006, 1007, 1011, 1016, 1100, 2999, 3000, 3999, 4000, 4999, 5000, 65535} {
		cases[fmt.Sprint("close ", code)] = frame(0x88, append(binary.BigEndian.AppendUint16(nil, code), "why"...))
	}
	cases["close without a code"] = frame(0x88, nil)
	cases["close of one byte"] = frame(0x88, []byte{3})
	cases["close, then more"] = append(frame(0x88, []byte{3, 0xe8}), frame(0x81, []byte("late"))...)
	cases["fragments"] = slicesJoin(frame(0x01, []byte("one")), frame(0x00, []byte("two")), frame(0x80, []byte("three")))
	cases["ping among fragments"] = slicesJoin(frame(0x01, []byte("one")), frame(0x89, []byte("?")), frame(0x80, []byte("two")))
	cases["fragmented ping"] = slicesJoin(frame(0x09, []byte("one")), frame(0x80, []byte("two")))
	cases["continuation of nothing"] = frame(0x80, []byte("x"))
	cases["a thousand fragments"] = append(bytes.Repeat(frame(0x00, []byte("x")), 1000), frame(0x80, nil)...)
	cases["text that is no UTF-8"] = frame(0x81, []byte("\xce\xba\xed\xa0\x80\xf4\x90\x80\x80"))
	cases["a frame that claims more than comes"] = []byte{0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 'x'}
	cases["what looks like a request"] = []byte("GET / HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n")
	cases["what looks like chunks"] = []byte("0\r\n\r\n")
	return cases
}

func slicesJoin(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// tunnelPod accepts every upgrade and hands the connection to serve; the path is a request for more.
func tunnelPod(t *testing.T, serve func(path string, conn net.Conn, br *bufio.Reader)) http.HandlerFunc {
	t.Helper()
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			w.Header().Set("Upgrade", "websocket")
			w.WriteHeader(http.StatusUpgradeRequired)
			_, _ = io.WriteString(w, "not so")
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		head := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
		if r.URL.Path == "/behind" {
			head += "right behind"
		}
		if _, err := io.WriteString(conn, head); err == nil {
			serve(r.URL.Path, conn, rw.Reader)
		}
	}
}

const upgradeHead = " HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"

// openTunnel sends an upgrade, with early data in the same write, and reads the 101.
func openTunnel(t *testing.T, e *Edge, path, early string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn := dialTLS(t, e)
	if _, err := io.WriteString(conn, "GET "+path+upgradeHead+early); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", res, err)
	}
	return conn, br
}

func echoFrames(_ string, conn net.Conn, br *bufio.Reader) { _, _ = io.Copy(conn, br) }

// What goes through a tunnel comes out of it, in both directions, however it is cut.
func TestTunnel_IsOpaque(t *testing.T) {
	t.Parallel()
	e := testEdge(t)
	e.Apply(testRoute(testBackend(t, "a", tunnelPod(t, echoFrames))))
	all := tunnelCases()
	for name, data := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, piece := range []int{1, 1000, len(data)} {
				if len(data)/max(piece, 1) > 3000 {
					continue
				}
				conn, br := openTunnel(t, e, "/", "")
				go func() {
					for at := 0; at < len(data); at += piece {
						if _, err := conn.Write(data[at:min(at+piece, len(data))]); err != nil {
							return
						}
					}
				}()
				got := make([]byte, len(data))
				if _, err := io.ReadFull(br, got); err != nil || !bytes.Equal(got, data) {
					t.Errorf("in pieces of %d: %.50x for %.50x, %v", piece, got, data, err)
				}
				conn.Close()
			}
		})
	}
	t.Logf("%d cases", len(all))
}

func TestTunnel_EarlyData(t *testing.T) {
	t.Parallel()
	e := testEdge(t)
	e.Apply(testRoute(testBackend(t, "a", tunnelPod(t, echoFrames))))
	for _, early := range []string{"", "early", strings.Repeat("early ", 500)} {
		_, br := openTunnel(t, e, "/behind", early)
		got := make([]byte, len("right behind")+len(early))
		if _, err := io.ReadFull(br, got); err != nil || string(got) != "right behind"+early {
			t.Errorf("%d bytes early: %.50q, %v", len(early), got, err)
		}
	}
}

// A refused upgrade is an answer like any other: the connection serves the next request, which may be an upgrade again.
func TestTunnel_Refused(t *testing.T) {
	t.Parallel()
	e := testEdge(t)
	e.Apply(testRoute(testBackend(t, "a", tunnelPod(t, echoFrames))))
	conn := dialTLS(t, e)
	br := bufio.NewReader(conn)
	for range 3 {
		_, _ = io.WriteString(conn, "GET /refused"+upgradeHead)
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != "not so" || res.StatusCode != http.StatusUpgradeRequired {
			t.Fatalf("%d %q, %v", res.StatusCode, body, err)
		}
	}
	_, _ = io.WriteString(conn, "GET /"+upgradeHead+"hello")
	if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", res, err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(br, got); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
}

// A tunnel in which nobody says anything stays open for longer than anything else may take.
func TestTunnel_Idle(t *testing.T) {
	t.Parallel()
	e := testEdge(t, func(c *Config) {
		c.HeaderTimeout, c.IdleTimeout, c.ResponseTimeout = time.Second, 300*time.Millisecond, time.Second
	})
	e.Apply(testRoute(testBackend(t, "a", tunnelPod(t, echoFrames))))
	conn, br := openTunnel(t, e, "/", "")
	for range 2 {
		time.Sleep(1500 * time.Millisecond) // more than all limits
		if _, err := io.WriteString(conn, "still here"); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len("still here"))
		if _, err := io.ReadFull(br, got); err != nil {
			t.Fatal(err)
		}
	}
}

// Who does not read holds up the other side, and nothing is lost or kept in memory meanwhile.
func TestTunnel_Backpressure(t *testing.T) {
	t.Parallel()
	const total = 32 << 20
	e := testEdge(t)
	sent := make(chan error, 1)
	e.Apply(testRoute(testBackend(t, "a", tunnelPod(t, func(_ string, conn net.Conn, br *bufio.Reader) {
		piece := bytes.Repeat([]byte("0123456789abcdef"), 4096)
		var err error
		for at := 0; at < total && err == nil; at += len(piece) {
			_, err = conn.Write(piece)
		}
		sent <- err
		_, _ = br.ReadByte()
	}))))
	conn, br := openTunnel(t, e, "/", "")
	select {
	case err := <-sent:
		t.Errorf("32 MB fit somewhere: %v", err)
	case <-time.After(500 * time.Millisecond):
	}
	buf := make([]byte, 64<<10)
	for at := 0; at < total; at += len(buf) {
		if _, err := io.ReadFull(br, buf); err != nil || !bytes.HasPrefix(buf, []byte("0123456789abcdef")) {
			t.Fatalf("after %d bytes: %.20q, %v", at, buf, err)
		}
	}
	if err := receive(t, sent, "the pod to have sent all"); err != nil {
		t.Error(err)
	}
	conn.Close()
}

// Whoever ends a tunnel, and how, the other side learns it.
func TestTunnel_Ends(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	e := testEdge(t)
	e.Apply(testRoute(testBackend(t, "a", tunnelPod(t, func(path string, conn net.Conn, br *bufio.Reader) {
		switch path {
		case "/close":
			_, _ = io.WriteString(conn, "bye")
		case "/reset":
			_ = conn.(*net.TCPConn).SetLinger(0)
		default:
			_, err := io.Copy(io.Discard, br)
			ended <- err
		}
	}))))
	for path, want := range map[string]string{"/close": "bye", "/reset": ""} {
		_, br := openTunnel(t, e, path, "")
		got, err := io.ReadAll(br)
		if string(got) != want || isTimeout(err) || path == "/close" && err != nil {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	conn, _ := openTunnel(t, e, "/", "")
	conn.Close()
	if err := receive(t, ended, "the end"); err != nil && !isReset(err) {
		t.Error(err)
	}
	conn, _ = openTunnel(t, e, "/", "")
	raw, ok := conn.(interface{ NetConn() net.Conn })
	if !ok {
		t.Fatal(errors.New("no bare connection"))
	}
	_ = raw.NetConn().(*net.TCPConn).SetLinger(0) //nolint:forcetypeassert // dialled as that
	raw.NetConn().Close()
	_ = receive(t, ended, "the end after a reset")
}
