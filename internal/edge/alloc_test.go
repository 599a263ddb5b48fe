//go:build !race

package edge

import (
	"bytes"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// A small request over a connection that is kept, counted and logged, costs an allocation for its id, and one for each record that crypto/tls
// reads, on either side; a loop asks it once more whether it holds another one.
func TestEngine_AllocatesLittle(t *testing.T) {
	if engine == EngineNetHTTP {
		t.Skip("net/http allocates for every request")
	}
	addr := acceptConns(t, func(c net.Conn) {
		buf, answer := make([]byte, 4096), []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	})
	var lines atomic.Int64
	e := testEdge(t, func(c *Config) { c.AccessLog = func(string, time.Time, []byte) { lines.Add(1) } })
	target := testTarget("a", addr)
	target.Check.IntervalSeconds = 300
	e.Apply(loggedRoute(target))
	c := dialTLS(t, e)
	request := []byte("GET /path?query=1 HTTP/1.1\r\nHost: " + testHost + "\r\nUser-Agent: test\r\nReferer: https://" + testHost + "/\r\nAccept: */*\r\n\r\n")
	buf := make([]byte, 4096)
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
	n := float64(after.Mallocs-before.Mallocs) / 1000
	t.Logf("%.2f allocations", n)
	limit := 3.5
	if engine == EngineLoops {
		limit++
	}
	if n > limit {
		t.Errorf("%.2f allocations", n)
	}
	if got := lines.Load(); got < 1000 { // the last may come after its answer
		t.Errorf("%d lines", got)
	}
}
