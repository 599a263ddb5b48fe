package http1

import (
	"crypto/tls"
	"net"
	"sync"
)

const (
	// recordSize is how much crypto/tls puts into a record, each of which it writes by itself. With TLS 1.2 and 1.3 a record has at
	// most recordOverhead bytes besides (RFC 8446, 5.2).
	recordSize     = 16 << 10
	recordOverhead = 5 + 256
	// gatherSize is room for the records of the most that is written at once.
	gatherSize = outSize + (outSize/recordSize+1)*recordOverhead
)

// gatherer is the connection under TLS. It sends the records of one large write together, as most of what a write costs is
// the way through the kernel, which is the same for 32 KB as for 16.
type gatherer struct {
	net.Conn
	pool *buffers

	mu  sync.Mutex // crypto/tls also writes when it reads
	buf *[]byte    // nil: nothing is gathered
	n   int
	err error // of what was gathered: nothing can follow it
}

// Write sends p, or keeps it for later.
func (g *gatherer) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.err != nil:
		return 0, g.err
	case g.buf == nil:
		return g.Conn.Write(p)
	case len(p) > len(*g.buf)-g.n:
		if g.flush(); g.err != nil {
			return 0, g.err
		}
		if len(p) > len(*g.buf) {
			return g.Conn.Write(p)
		}
	}
	g.n += copy((*g.buf)[g.n:], p)
	return len(p), nil
}

// flush sends what was kept. The caller holds mu.
func (g *gatherer) flush() {
	if g.n > 0 && g.err == nil {
		_, g.err = g.Conn.Write((*g.buf)[:g.n])
	}
	g.n = 0
}

// writeTo writes p to the TLS connection above g, and its records together.
func (g *gatherer) writeTo(secure *tls.Conn, p []byte) error {
	g.mu.Lock()
	g.buf = g.pool.get()
	g.mu.Unlock()
	_, err := secure.Write(p)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flush() // what was written before an error goes its way
	if err == nil {
		err = g.err
	}
	g.pool.put(g.buf)
	g.buf = nil
	return err
}
