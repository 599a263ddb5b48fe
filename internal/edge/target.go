package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/edge/http1"
)

const (
	// podIdle is how long an unused connection to a pod is kept. It is below the keep-alive times that application
	// servers have by default (2 s and more), so that a request does not meet a connection the pod is just closing.
	podIdle = 1500 * time.Millisecond
	// maxIdle is how many of them are kept.
	maxIdle = 256
	// suspectTime is how long a target that refused a connection comes last. Otherwise it would be the least busy
	// one until its health checks fail.
	suspectTime = time.Second
	// maxPodHeader bounds the header of a pod's answer.
	maxPodHeader = 256 << 10
)

// errCut is why a request ends that was still in flight when its target's time was up.
var errCut = errors.New("the pod is being stopped")

// target is one address that requests may be sent to.
type target struct {
	spec      trysail.Target // as applied last; Edge.mu guards it
	pod       trysail.PodID
	version   int
	counters  *counters
	scheme    string // how to speak to it: http or https
	addr      string // host:port
	transport *http.Transport
	pool      *http1.Pool // the connections of our own engine
	health    health
	prober    *prober
	stop      context.CancelFunc // of the prober
	log       *slog.Logger

	outstanding  atomic.Int64 // how many flights there are, for the balancer
	suspectUntil atomic.Int64 // Unix nanoseconds
	loggedAt     atomic.Int64 // Unix nanoseconds of the last line about a failed request

	// mu guards what follows. Holding it, no request can begin or end here.
	mu      sync.Mutex
	admits  bool          // requests may begin
	retired bool          // the target is forgotten and goes when its last request ends
	flights *exchange     // the first of those under way; see exchange.next
	empty   chan struct{} // closed when the last flight ends; nil unless somebody waits
}

// begin registers x, unless the target takes no requests any more.
func (t *target) begin(x *exchange) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.admits {
		return false
	}
	x.previous, x.next = nil, t.flights
	if x.next != nil {
		x.next.previous = x
	}
	t.flights = x
	t.outstanding.Add(1)
	return true
}

// end is the counterpart of begin.
func (t *target) end(x *exchange) {
	t.mu.Lock()
	if x.next != nil {
		x.next.previous = x.previous
	}
	if x.previous != nil {
		x.previous.next = x.next
	} else {
		t.flights = x.next
	}
	t.outstanding.Add(-1)
	last := t.flights == nil
	if last && t.empty != nil {
		close(t.empty)
		t.empty = nil
	}
	last = last && t.retired
	t.mu.Unlock()
	if last {
		t.disconnect()
	}
}

// admit opens or closes the target for new requests.
func (t *target) admit(yes bool) {
	t.mu.Lock()
	t.admits = yes
	t.mu.Unlock()
}

// busy reports whether requests are in flight.
func (t *target) busy() bool { return t.outstanding.Load() > 0 }

// wait returns when no request is in flight, or with ctx's error.
func (t *target) wait(ctx context.Context) error {
	t.mu.Lock()
	if t.flights == nil {
		t.mu.Unlock()
		return nil
	}
	if t.empty == nil {
		t.empty = make(chan struct{})
	}
	empty := t.empty
	t.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// cut ends every request in flight. It does not wait for them.
func (t *target) cut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for x := t.flights; x != nil; x = x.next {
		x.cut()
	}
}

// retire forgets the target: no more probes, no new requests; its connections go with the last request.
func (t *target) retire() {
	t.stop()
	t.mu.Lock()
	t.admits, t.retired = false, true
	last := t.flights == nil
	t.mu.Unlock()
	if last {
		t.disconnect()
	}
}

// disconnect closes the connections that nobody uses and keeps none from now on.
func (t *target) disconnect() {
	t.transport.CloseIdleConnections()
	t.pool.Close()
}

// suspect puts the target last for a moment.
func (t *target) suspect() { t.suspectUntil.Store(time.Now().Add(suspectTime).UnixNano()) }

// rank orders targets before their load does: 0 healthy, 1 healthy but just refused a connection, 2 the rest. The last
// ones get requests only when there are no others: like an AWS load balancer, the edge then tries rather than refuse.
func (t *target) rank() int {
	switch until := t.suspectUntil.Load(); {
	case !t.health.healthy.Load():
		return 2
	case until != 0 && time.Now().UnixNano() < until:
		return 1
	default:
		return 0
	}
}

// logFailure writes why a request failed, at most once per second and target.
func (t *target) logFailure(id string, status int, err error) {
	now := time.Now().UnixNano()
	if last := t.loggedAt.Load(); now-last < int64(time.Second) || !t.loggedAt.CompareAndSwap(last, now) {
		return
	}
	t.log.Warn("request failed at the pod", "request_id", id, "status", status, "error", err)
}

// dialError marks that no connection came about, so nothing was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// connectTo returns what makes connections to a target. wrap may put something around the bare ones. Every error of it is
// a dialError.
func connectTo(cfg *Config, dial dialFunc, addr string, secure *tls.Config, wrap func(net.Conn) net.Conn) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		dialing, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
		defer cancel()
		conn, err := dial(dialing, "tcp", addr)
		if err != nil {
			return nil, &dialError{err}
		}
		if wrap != nil {
			conn = wrap(conn)
		}
		if secure == nil {
			return conn, nil
		}
		shaking, cancelHandshake := context.WithTimeout(ctx, cfg.DialTimeout)
		defer cancelHandshake()
		c := tls.Client(conn, secure)
		if err := c.HandshakeContext(shaking); err != nil {
			conn.Close()
			return nil, &dialError{err}
		}
		return c, nil
	}
}

// newPool makes the connections to one target for our own engine.
func newPool(cfg *Config, dial dialFunc, addr string, secure *tls.Config) *http1.Pool {
	return &http1.Pool{Dial: connectTo(cfg, dial, addr, secure, nil), MaxIdle: maxIdle, IdleTimeout: podIdle}
}

// newTransport makes the connections to one target for net/http: HTTP/1.1, never through a proxy, nothing added or decoded.
func newTransport(cfg *Config, dial dialFunc, addr string, secure *tls.Config) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	connect := connectTo(cfg, dial, addr, secure, func(c net.Conn) net.Conn { return &guardedConn{Conn: c, limit: cfg.IdleTimeout} })
	return &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return connect(ctx) },
		DialTLSContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return connect(ctx) },
		Protocols:              &protocols,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    maxIdle,
		IdleConnTimeout:        podIdle,
		ResponseHeaderTimeout:  cfg.ResponseTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxPodHeader,
	}
}

// podTLS is how the edge speaks TLS to a pod. There is no name to verify: pods are known by their address, and what
// runs in them mostly has a self-signed certificate.
func podTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true} //nolint:gosec // see above
}

// guardedConn is a connection on which the other side must not leave bytes unread for longer than limit.
type guardedConn struct {
	net.Conn
	limit time.Duration
}

func (c *guardedConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// CloseWrite passes the end of one direction of a tunnel on.
func (c *guardedConn) CloseWrite() error { return closeWrite(c.Conn) }

func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return conn.Close()
}
