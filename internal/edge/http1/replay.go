package http1

import (
	"crypto/tls"
	"net"
	"time"
)

// replay is the connection as if nothing had been read of the current request.
func (c *conn) replay() net.Conn {
	r := &replayed{Conn: c.net, early: append([]byte(nil), c.in[c.start:c.n]...), tls: c.tls}
	_ = c.net.SetDeadline(time.Time{}) // if it fails, so does the next read
	if c.tls == nil {
		return r
	}
	return secured{r}
}

// replayed is a connection of which the beginning of what the client sends was read already.
type replayed struct {
	net.Conn
	early []byte
	tls   *tls.ConnectionState
}

// Read reads what came early first.
func (r *replayed) Read(p []byte) (int, error) {
	if len(r.early) > 0 {
		n := copy(p, r.early)
		r.early = r.early[n:]
		return n, nil
	}
	return r.Conn.Read(p)
}

// CloseWrite ends what is sent.
func (r *replayed) CloseWrite() error { return closeWrite(r.Conn) }

// secured is a replayed connection with TLS, of which net/http asks the state.
type secured struct{ *replayed }

// ConnectionState is that of the handshake.
func (s secured) ConnectionState() tls.ConnectionState { return *s.tls }
