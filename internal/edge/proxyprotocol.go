package edge

import (
	"net"
	"net/netip"
	"syscall"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
)

// proxiedListener takes the PROXY protocol header from the connections of load balancers, so that they seem to come from
// the client. Versions 1 and 2. The header is read by the goroutine that serves the connection.
type proxiedListener struct {
	net.Listener
	from    []netip.Prefix
	timeout time.Duration // for the header
}

// Accept waits for the next connection. One from a load balancer fails at its first use if it has no header; what others
// send is not looked at.
func (l *proxiedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil || !contains(l.from, addrOf(conn.RemoteAddr())) {
		return conn, err
	}
	return &proxiedConn{proxyproto.NewConn(conn, proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(l.timeout))}, nil
}

// proxiedConn is a connection of a load balancer.
type proxiedConn struct{ *proxyproto.Conn }

// SyscallConn is that of the connection itself. What was read with the header is given out before anything is read from it.
func (c *proxiedConn) SyscallConn() (syscall.RawConn, error) { return rawConn(c.Raw()) }

// CloseWrite passes the end of one direction on.
func (c *proxiedConn) CloseWrite() error { return closeWrite(c.Raw()) }

// addrOf is the IP address in a; invalid if there is none.
func addrOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return canonical(ap.Addr())
}
