package http1

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// eventually waits until ok is true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// parked is how many connections wait in the lot, or cold in a loop.
func (r *rig) parked() int {
	r.srv.mu.Lock()
	n := r.srv.lot.size()
	r.srv.mu.Unlock() // which the loops want
	for _, l := range r.srv.loops {
		n += l.count(func() *socket { return l.cold.first })
	}
	return n
}

// count is how long a list of a loop is.
func (l *loop) count(first func() *socket) int {
	counted := make(chan int, 1)
	if !l.post(func() {
		n := 0
		for s := first(); s != nil; s = s.guest.next {
			n++
		}
		counted <- n
	}) {
		return 0
	}
	return <-counted
}

func (r *rig) connections() int {
	r.srv.mu.Lock()
	defer r.srv.mu.Unlock()
	return len(r.srv.conns)
}

func TestServer_ParksIdleConnections(t *testing.T) {
	r := parkingRig(t, echoPod(t))
	before := runtime.NumGoroutine()
	const n = 50
	clients := make([]*client, n)
	ask := func(i, round int) {
		clients[i].send(fmt.Sprintf("POST /%d/%d HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody", i, round))
		if res, body := clients[i].answer("POST"); res.StatusCode != 200 || !strings.HasPrefix(body, fmt.Sprintf("POST /%d/%d h", i, round)) {
			t.Fatalf("%d: %d %q", i, res.StatusCode, body)
		}
	}
	for i := range clients {
		clients[i] = r.dial()
		ask(i, 0)
	}
	for round := range 3 { // a connection may be parked many times
		eventually(t, "all parked", func() bool { return r.parked() == n && r.connections() == 0 })
		if got := runtime.NumGoroutine(); got >= before+n {
			t.Errorf("%d goroutines, %d before", got, before)
		}
		if round == 1 {
			clients[0].send("\r\n") // the one that some send after a body belongs to nothing
		}
		for i := range clients {
			ask(i, round+1)
		}
	}
	// One that leaves is noticed.
	eventually(t, "all parked", func() bool { return r.parked() == n })
	clients[0].Close()
	eventually(t, "one less", func() bool { return r.parked() == n-1 && r.connections() == 0 })
	// Half a request is a request under way.
	clients[1].send("GET /half HTT")
	eventually(t, "one served", func() bool { return r.parked() == n-2 && r.connections() == 1 })
	clients[1].send("P/1.1\r\nHost: h\r\n\r\n")
	if _, body := clients[1].answer("GET"); !strings.HasPrefix(body, "GET /half h") {
		t.Errorf("%q", body)
	}
}

// parkingRig is a rig whose connections are parked at once.
func parkingRig(t *testing.T, pod string, change ...func(*Config)) *rig {
	t.Helper()
	return newRig(t, pod, append(change, func(c *Config) { c.parkAfter = 10 * time.Millisecond })...)
}

func TestServer_ClosesParkedConnectionsInTheEnd(t *testing.T) {
	r := parkingRig(t, echoPod(t), func(c *Config) { c.IdleTimeout = 200 * time.Millisecond })
	for range 3 {
		c := r.dial()
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		c.answer("GET")
		eventually(t, "it is parked", func() bool { return r.parked() == 1 })
		if got := c.rest(); got != "" {
			t.Errorf("got %q", got)
		}
		eventually(t, "it is gone", func() bool { return r.parked() == 0 })
	}
}

func TestServer_ShutdownClosesParkedConnections(t *testing.T) {
	r := parkingRig(t, echoPod(t))
	var all []*client
	for range 10 {
		c := r.dial()
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		c.answer("GET")
		all = append(all, c)
	}
	eventually(t, "some are parked", func() bool { return r.parked() > 3 })
	if err := r.srv.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	for _, c := range all {
		if got := c.rest(); got != "" {
			t.Errorf("got %q", got)
		}
	}
}

func TestServer_ParksTLS(t *testing.T) {
	r := parkingRig(t, echoPod(t), func(c *Config) {
		c.TLS = &tls.Config{Certificates: []tls.Certificate{testCertificate(t)}}
	})
	raw, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	wire := &dripping{Conn: raw}
	conn := tls.Client(wire, &tls.Config{InsecureSkipVerify: true})
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	br := bufio.NewReader(conn)
	for i := range 4 {
		fmt.Fprintf(conn, "GET /%d HTTP/1.1\r\nHost: h\r\n\r\n", i)
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); err != nil || !strings.HasPrefix(string(body), fmt.Sprintf("GET /%d h", i)) {
			t.Fatalf("%q, %v", body, err)
		}
		eventually(t, "it is parked", func() bool { return r.parked() == 1 })
		// Half a record wakes the connection, which is parked again until the other half comes.
		wire.hold = i%2 == 0
	}
}

// dripping sends what is written in two parts with a pause between them.
type dripping struct {
	net.Conn
	hold bool
}

func (d *dripping) Write(p []byte) (int, error) {
	if !d.hold || len(p) < 10 {
		return d.Conn.Write(p)
	}
	if _, err := d.Conn.Write(p[:7]); err != nil {
		return 0, err
	}
	time.Sleep(100 * time.Millisecond)
	n, err := d.Conn.Write(p[7:])
	return n + 7, err
}
