package edge

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// connLimit bounds how many connections there are at once: all, and those of one client.
type connLimit struct {
	max, maxPerClient int
	exempt            []netip.Prefix // many clients come from these addresses: only the common limit holds
	log               *slog.Logger
	loggedAt          atomic.Int64 // Unix seconds

	// mu guards what follows: who is connected now.
	mu      sync.Mutex
	open    int
	clients map[netip.Addr]int
}

// newLimit is the limit for one listener.
func (e *Edge) newLimit() *connLimit {
	return &connLimit{
		max: e.cfg.MaxConnections, maxPerClient: e.cfg.MaxConnectionsPerClient, exempt: slices.Concat(e.cfg.TrustedProxies, e.cfg.ProxyProtocol),
		log: e.log, clients: map[netip.Addr]int{},
	}
}

// admit counts a connection, unless there are too many.
func (l *connLimit) admit(addr netip.Addr) bool {
	client := clientOf(addr)
	l.mu.Lock()
	ok := l.open < l.max && (l.clients[client] < l.maxPerClient || addr.IsLoopback() || contains(l.exempt, addr))
	if ok {
		l.open++
		l.clients[client]++
	}
	l.mu.Unlock()
	if !ok {
		now := time.Now().Unix()
		if last := l.loggedAt.Load(); now-last >= 60 && l.loggedAt.CompareAndSwap(last, now) {
			l.log.Warn("too many connections, new ones are refused", "client", client, "max", l.max, "max_per_client", l.maxPerClient)
		}
	}
	return ok
}

// release is the counterpart of an admit that said yes.
func (l *connLimit) release(addr netip.Addr) {
	client := clientOf(addr)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.clients[client]--; l.clients[client] == 0 {
		delete(l.clients, client)
	}
}

// limitListener accepts no more connections than it may and closes the others at once.
type limitListener struct {
	net.Listener
	limit *connLimit
}

// Accept waits for the next connection that is within the limits.
func (l *limitListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		client := addrOf(conn.RemoteAddr())
		if l.limit.admit(client) {
			return &limitConn{Conn: conn, release: sync.OnceFunc(func() { l.limit.release(client) })}, nil
		}
		conn.Close()
	}
}

// limitConn gives its place back when it is closed.
type limitConn struct {
	net.Conn
	release func()
}

// Close closes the connection.
func (c *limitConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// SyscallConn is that of the connection itself.
func (c *limitConn) SyscallConn() (syscall.RawConn, error) { return rawConn(c.Conn) }

func rawConn(conn net.Conn) (syscall.RawConn, error) {
	if sc, ok := conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// Detach gives the connection itself out, and the place in the limits with it.
func (c *limitConn) Detach() (net.Conn, func()) { return c.Conn, c.release }

// CloseWrite lets the server end its side first, so that a client can still read the answer.
func (c *limitConn) CloseWrite() error { return closeWrite(c.Conn) }
