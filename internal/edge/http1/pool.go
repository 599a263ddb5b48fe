package http1

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
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
	mu      sync.Mutex
	shelves []shelf // the first is that of the goroutines
	idle    int
	closed  bool
	sweep   *time.Timer // nil while nothing is idle
}

// shelf has the idle connections that are with a loop, or with none. The one used last is the last.
type shelf struct {
	loop *loop
	idle []*upstream
}

// take takes the last one, nil if there is none. One that has been idle since before the loop last heard of its sockets is known
// to be quiet, and goes before those that the kernel would have to be asked about.
func (s *shelf) take() *upstream {
	i := len(s.idle) - 1
	for s.loop != nil && i >= 0 && s.idle[i].sock.turn == s.loop.turn {
		i--
	}
	if i < 0 {
		i = len(s.idle) - 1
	}
	if i < 0 {
		return nil
	}
	u := s.idle[i]
	s.idle = slices.Delete(s.idle, i, i+1)
	return u
}

// shelf finds the one of a loop, or of none. The caller holds p.mu.
func (p *Pool) shelf(l *loop) *shelf {
	for i := range p.shelves {
		if p.shelves[i].loop == l {
			return &p.shelves[i]
		}
	}
	if len(p.shelves) == 0 {
		p.shelves = append(p.shelves, shelf{})
	}
	if l != nil {
		p.shelves = append(p.shelves, shelf{loop: l})
	}
	return &p.shelves[len(p.shelves)-1]
}

// upstream is a connection to a pod.
type upstream struct {
	net.Conn
	deadlines
	sock  *socket         // Conn, if loops can have it; nil otherwise
	raw   syscall.RawConn // nil if it has no descriptor
	tls   bool
	since time.Time // when it became idle

	look func(fd uintptr)
	poll [1]unix.PollFd // scratch of look
	calm bool           // what look found: nothing came and nobody closed
}

// newUpstream makes one of a connection that was just made. movable says that there are loops.
func newUpstream(conn net.Conn, movable bool) *upstream {
	u := &upstream{}
	bottom := conn
	if secure, ok := conn.(*tls.Conn); ok {
		u.tls, bottom = true, secure.NetConn()
	} else if movable {
		if u.sock = newSocket(conn); u.sock != nil {
			conn = u.sock
		}
	}
	u.Conn, u.deadlines = conn, deadlines{conn: conn}
	if sc, ok := bottom.(syscall.Conn); ok && u.sock == nil {
		u.raw, _ = sc.SyscallConn() // nil if it fails: then reads tell
	}
	u.look = func(fd uintptr) {
		u.poll[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN} //nolint:gosec // a descriptor
		n, err := unix.Poll(u.poll[:], 0)
		u.calm = n == 0 && err == nil
	}
	return u
}

// home is the loop that it is with, nil if it is with the runtime.
func (u *upstream) home() *loop {
	if u.sock == nil {
		return nil
	}
	return u.sock.loop
}

// moveTo brings it to a loop, which calls this, and reports whether it is there.
func (u *upstream) moveTo(l *loop) bool {
	switch {
	case u.sock == nil:
		return false
	case u.sock.loop == l:
		return true
	case u.sock.detach(l) != nil:
		return false
	}
	if l.take(u.sock) != nil {
		u.sock.attach()
		return false
	}
	return true
}

// quiet reports whether the connection can take a request: the pod has not closed it, and has sent nothing that would be
// taken for the answer.
func (u *upstream) quiet() bool {
	if u.sock != nil {
		return u.sock.quiet(u)
	}
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

// get returns a connection that was used before and is quiet, nil if there is none. For a loop it is one that is with it or with
// none: others belong to their loops.
func (p *Pool) get(now time.Time, l *loop) *upstream {
	for {
		p.mu.Lock()
		u := p.shelf(l).take()
		if u == nil && l != nil {
			u = p.shelf(nil).take()
		}
		if u == nil {
			p.mu.Unlock()
			return nil
		}
		p.idle--
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
	if p.closed || p.idle >= p.MaxIdle {
		p.mu.Unlock()
		u.Close()
		return
	}
	s := p.shelf(u.home())
	s.idle = append(s.idle, u)
	p.idle++
	if p.sweep == nil {
		p.sweep = time.AfterFunc(p.IdleTimeout, p.expire)
	}
	p.mu.Unlock()
}

// expire closes what was idle for too long and comes back while there is more.
func (p *Pool) expire() {
	var old []*upstream
	p.mu.Lock()
	now, next := time.Now(), p.IdleTimeout
	for i := range p.shelves {
		s, n := &p.shelves[i], 0
		for n < len(s.idle) && now.Sub(s.idle[n].since) >= p.IdleTimeout {
			n++
		}
		old = append(old, s.idle[:n]...)
		s.idle = slices.Delete(s.idle, 0, n)
		if len(s.idle) > 0 {
			next = min(next, p.IdleTimeout-now.Sub(s.idle[0].since))
		}
	}
	p.idle -= len(old)
	switch {
	case p.idle == 0:
		p.sweep = nil
	case !p.closed:
		p.sweep.Reset(next)
	}
	p.mu.Unlock()
	for _, u := range old {
		u.Close()
	}
}

// Close closes the idle connections now, and those in use when they are given back.
func (p *Pool) Close() {
	p.mu.Lock()
	all := p.shelves
	p.shelves, p.idle, p.closed = nil, 0, true
	if p.sweep != nil {
		p.sweep.Stop()
		p.sweep = nil
	}
	p.mu.Unlock()
	for _, s := range all {
		for _, u := range s.idle {
			u.Close()
		}
	}
}

// Idle is how many connections wait for a request.
func (p *Pool) Idle() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.idle
}
