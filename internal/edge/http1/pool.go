package http1

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Pool holds the connections to one pod. All methods are safe for concurrent use. It must be closed.
type Pool struct {
	// Dial makes a connection, of TLS if the pod speaks that.
	Dial func(context.Context) (net.Conn, error)
	// MaxIdle is how many unused connections are kept, IdleTimeout for how long. It should be below the keep-alive time of
	// servers, so that a request does not meet a connection that is just being closed.
	MaxIdle     int
	IdleTimeout time.Duration

	// mu guards what follows.
	mu     sync.Mutex
	idle   []*upstream // the one used last is the last
	closed bool
	sweep  *time.Timer // nil while nothing is idle
}

// upstream is a connection to a pod.
type upstream struct {
	net.Conn
	deadlines
	raw   syscall.RawConn // nil if it has no descriptor
	tls   bool
	since time.Time // when it became idle

	look func(fd uintptr)
	poll [1]unix.PollFd // scratch of look
	calm bool           // what look found: nothing came and nobody closed
}

func newUpstream(conn net.Conn) *upstream {
	u := &upstream{Conn: conn, deadlines: deadlines{conn: conn}}
	bottom := conn
	if secure, ok := conn.(*tls.Conn); ok {
		u.tls, bottom = true, secure.NetConn()
	}
	if sc, ok := bottom.(syscall.Conn); ok {
		u.raw, _ = sc.SyscallConn() // nil if it fails: then reads tell
	}
	u.look = func(fd uintptr) {
		u.poll[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN} //nolint:gosec // a descriptor
		n, err := unix.Poll(u.poll[:], 0)
		u.calm = n == 0 && err == nil
	}
	return u
}

// quiet reports whether the connection can take a request: the pod has not closed it, and has sent nothing that would be
// taken for the answer.
func (u *upstream) quiet() bool {
	if u.raw != nil {
		u.calm = false
		if err := u.raw.Control(u.look); err != nil || !u.calm {
			return false
		}
		if !u.tls {
			return true
		}
	}
	// What TLS holds already shows itself in a read that must not wait.
	u.read = time.Time{}
	if err := u.SetReadDeadline(longAgo); err != nil {
		return false
	}
	var b [1]byte
	n, err := u.Read(b[:])
	return n == 0 && isTimeout(err)
}

// get returns a connection that was used before and is quiet, nil if there is none.
func (p *Pool) get(now time.Time) *upstream {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			return nil
		}
		u := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if now.Sub(u.since) < p.IdleTimeout && u.quiet() {
			return u
		}
		u.Close()
	}
}

// put takes a connection back on which a request and its answer have ended.
func (p *Pool) put(u *upstream, now time.Time) {
	u.since = now
	p.mu.Lock()
	if p.closed || len(p.idle) >= p.MaxIdle {
		p.mu.Unlock()
		u.Close()
		return
	}
	p.idle = append(p.idle, u)
	if p.sweep == nil {
		p.sweep = time.AfterFunc(p.IdleTimeout, p.expire)
	}
	p.mu.Unlock()
}

// expire closes what was idle for too long and comes back while there is more.
func (p *Pool) expire() {
	p.mu.Lock()
	now, n := time.Now(), 0
	for n < len(p.idle) && now.Sub(p.idle[n].since) >= p.IdleTimeout {
		n++
	}
	old := append([]*upstream(nil), p.idle[:n]...)
	rest := copy(p.idle, p.idle[n:])
	clear(p.idle[rest:])
	p.idle = p.idle[:rest]
	switch {
	case rest == 0:
		p.sweep = nil
	case !p.closed:
		p.sweep.Reset(p.IdleTimeout - now.Sub(p.idle[0].since))
	}
	p.mu.Unlock()
	for _, u := range old {
		u.Close()
	}
}

// Close closes the idle connections now, and those in use when they are given back.
func (p *Pool) Close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	if p.sweep != nil {
		p.sweep.Stop()
		p.sweep = nil
	}
	p.mu.Unlock()
	for _, u := range idle {
		u.Close()
	}
}

// Idle is how many connections wait for a request.
func (p *Pool) Idle() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}
