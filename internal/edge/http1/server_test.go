package http1

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

func itoa(n int) string { return strconv.Itoa(n) }

func TestServer_KeepAliveAndPipelining(t *testing.T) {
	r := newRig(t, echoPod(t))
	c := r.dial()
	for i := range 3 {
		c.send(fmt.Sprintf("GET /%d?a=b HTTP/1.1\r\nHost: h\r\n\r\n", i))
		res, body := c.answer("GET")
		if res.StatusCode != 200 || !strings.HasPrefix(body, fmt.Sprintf("GET /%d?a=b h\r\n", i)) || res.Header.Get("Date") == "" {
			t.Fatalf("%d: %d %q", i, res.StatusCode, body)
		}
	}
	c.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\nPOST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcPOST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\n\r\nGET /d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	for _, want := range []string{"GET /a", "POST /b", "POST /c", "GET /d"} {
		res, body := c.answer("GET")
		if res.StatusCode != 200 || !strings.HasPrefix(body, want) {
			t.Fatalf("want %s: %d %q", want, res.StatusCode, body)
		}
		if want == "POST /b" && !strings.HasSuffix(body, "\r\n\r\nabc") || want == "POST /c" && !strings.HasSuffix(body, "\r\n\r\nxy") {
			t.Errorf("%s: %q", want, body)
		}
	}
	if got := c.rest(); got != "" {
		t.Errorf("after the last: %q", got)
	}
	if n := r.dials.Load(); n != 1 {
		t.Errorf("%d connections to the pod", n)
	}
}

func TestServer_Tunnel(t *testing.T) {
	pod := rawPod(t, func(c net.Conn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\nhi ")
		_, _ = io.Copy(c, br)
		_, _ = io.WriteString(c, " bye")
	})
	r := newRig(t, pod)
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
	res, err := http.ReadResponse(c.br, nil)
	if err != nil || res.StatusCode != 101 {
		t.Fatal(res, err)
	}
	c.send(" late")
	_ = c.CloseWrite()
	if got := c.rest(); got != "hi early late bye" {
		t.Errorf("got %q", got)
	}
	if err := <-r.errs; err != nil {
		t.Error(err)
	}
	if r.count[0].Load() != 10 || r.count[1].Load() != 17 {
		t.Errorf("counted %d in, %d out", r.count[0].Load(), r.count[1].Load())
	}
}
