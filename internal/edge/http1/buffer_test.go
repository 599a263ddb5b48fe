package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Whoever waits does it with small buffers; what comes then, little and much in turns, arrives as it was sent.
func TestExchange_WaitsWithSmallBuffers(t *testing.T) {
	var pieces [][]byte
	for i, size := range []int{1, 100, 4095, 4096, 4097, 10, 32 << 10, 33 << 10, 5, 200_000, 1, 1, 40_000, 4096, 4096, 2} {
		pieces = append(pieces, bytes.Repeat([]byte{byte('a' + i)}, size))
	}
	whole := bytes.Join(pieces, nil)
	for _, kind := range []string{"Transfer-Encoding: chunked", fmt.Sprint("Content-Length: ", len(whole)), "X: until the end"} {
		waited := make(chan bool, 1)
		pod := rawPod(t, func(c net.Conn, br *bufio.Reader) {
			if _, err := http.ReadRequest(br); err != nil {
				return
			}
			<-waited
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"+kind+"\r\n\r\n")
			for _, p := range pieces {
				if strings.Contains(kind, "chunked") {
					fmt.Fprintf(c, "%x\r\n%s\r\n", len(p), p)
				} else {
					_, _ = c.Write(p)
				}
				time.Sleep(5 * time.Millisecond) // so that it is a piece on the other side as well
			}
			if strings.Contains(kind, "chunked") {
				_, _ = io.WriteString(c, "0\r\n\r\n")
			}
		})
		var r *rig
		small := make(chan bool, 1)
		r = newRig(t, pod, func(c *Config) {
			c.Handler = func(x *Exchange) {
				time.AfterFunc(3*watchAfter, func() { waited <- true })
				err := x.Ask(r.pool, nil, 0)
				small <- !x.large
				if err == nil {
					err = x.Relay(nil, 0)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
		c := r.dial()
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		_, body := c.answer("GET")
		if body != string(whole) {
			t.Errorf("%s: %d bytes of %d", kind, len(body), len(whole))
		}
		if !<-small {
			t.Errorf("%s: it waited with large buffers", kind)
		}
	}
}
