//go:build !race

package http1

import (
	"bufio"
	"bytes"
	"net"
	"runtime"
	"testing"
)

// A small request over a connection that is kept costs no allocation, neither here nor in the pool.
func TestServer_AllocatesNothing(t *testing.T) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
	pod := rawPod(t, func(c net.Conn, _ *bufio.Reader) {
		buf := make([]byte, 4096)
		for {
			if n, err := c.Read(buf); err != nil || !bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
				return
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	})
	var r *rig
	r = newRig(t, pod, func(c *Config) {
		c.Handler = func(x *Exchange) {
			if x.Ask(r.pool, nil, 0) == nil {
				_ = x.Relay(nil, 0)
			}
		}
	})
	c := r.dial()
	request, buf := []byte("GET /path?query HTTP/1.1\r\nHost: h\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n"), make([]byte, 4096)
	exchange := func() {
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(buf); err != nil || !bytes.HasSuffix(buf[:n], []byte("\r\n\r\nhello")) {
			t.Fatalf("%q, %v", buf[:n], err)
		}
	}
	for range 100 {
		exchange()
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 1000 {
		exchange()
	}
	runtime.ReadMemStats(&after) // testing.AllocsPerRun leaves the loops one P, which they need for themselves
	if n := after.Mallocs - before.Mallocs; n >= 900 {
		t.Errorf("%d allocations for 1000 requests", n)
	}
}
