package http1

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Detacher is a connection around another one that does something when it is closed. Detach returns the inner one, with what is to
// be called when that is closed; the outer one is not used any more.
type Detacher interface {
	Detach() (conn net.Conn, closed func())
}

// socket is a connection that is with the runtime's poller, as every net.Conn, or with a loop. It blocks in either: a goroutine there,
// a strand here. One goroutine or strand at a time owns it and may read, write and move it; deadlines and Close are for everybody.
// With a loop, everything that touches the descriptor happens on the loop's goroutine.
type socket struct {
	local, remote net.Addr
	closed        func() // told once; may be nil

	// mu guards what only the owner changes, for those who are not.
	mu   sync.Mutex
	conn net.Conn        // with the runtime; nil with a loop
	raw  syscall.RawConn // of conn
	loop *loop           // nil with the runtime
	gone atomic.Bool     // closed

	fd          int32
	read, write atomic.Int64 // deadlines, as base has them; 0: none

	// The rest is the loop's.
	readable bool    // a read may find something
	writable bool    // there is room again
	ended    bool    // the other side sends nothing more, once what is there was read
	try      bool    // reads do not wait
	waiter   *strand // waits for this socket,
	writing  bool    // and that for room to write
	waitsAt  int     // where it is in loop.waits
	turn     uint64  // of the loop, when something was read last
	guest    *guest  // nil for those of pods
}

// newSocket makes a socket of what a listener or a dialer gave, nil if that is not a bare connection.
func newSocket(conn net.Conn) *socket {
	s := &socket{local: conn.LocalAddr(), remote: conn.RemoteAddr(), conn: conn}
	if d, ok := conn.(Detacher); ok {
		s.conn, s.closed = d.Detach()
	}
	switch bare := s.conn.(type) {
	case *net.TCPConn:
		s.raw, _ = bare.SyscallConn() // it fails for none
	case *net.UnixConn:
		s.raw, _ = bare.SyscallConn() // likewise
	default:
		if s.closed == nil {
			return nil
		}
	}
	return s
}

// base is what deadlines are counted from: numbers can be compared without a lock.
var base = time.Now()

func sinceBase(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(int64(t.Sub(base)), 1)
}

// Read reads what there is, and waits if there is nothing.
func (s *socket) Read(p []byte) (int, error) {
	if s.loop == nil {
		return s.conn.Read(p)
	}
	for len(p) > 0 {
		if s.gone.Load() {
			return 0, s.failed("read", net.ErrClosed)
		}
		if !s.readable {
			if s.try {
				return 0, os.ErrDeadlineExceeded // which crypto/tls does not remember
			}
			if err := s.loop.wait(s, false); err != nil {
				return 0, err
			}
			continue
		}
		n, err := rawRead(s.fd, p)
		switch {
		case err == syscall.EINTR: //nolint:errorlint // rawRead returns it as it is
		case err == syscall.EAGAIN: //nolint:errorlint // likewise
			s.readable = false
		case err != nil:
			return 0, s.failed("read", os.NewSyscallError("read", err))
		case n == 0:
			return 0, io.EOF
		default:
			// Less than there was room for is all there is: what comes now is told anew. Its end, too, unless it came with it.
			s.readable = n == len(p) || s.ended
			s.turn = s.loop.turn
			return n, nil
		}
	}
	return 0, nil
}

// Write writes all of p, and waits for room.
func (s *socket) Write(p []byte) (int, error) {
	if s.loop == nil {
		return s.conn.Write(p)
	}
	for done := 0; ; {
		if s.gone.Load() {
			return done, s.failed("write", net.ErrClosed)
		}
		if done == len(p) {
			return done, nil
		}
		n, err := rawWrite(s.fd, p[done:])
		switch {
		case err == syscall.EINTR: //nolint:errorlint // rawWrite returns it as it is
		case err == syscall.EAGAIN: //nolint:errorlint // likewise
			if err := s.loop.wait(s, true); err != nil {
				return done, err
			}
		case err != nil:
			return done, s.failed("write", os.NewSyscallError("write", err))
		default:
			done += n
		}
	}
}

func (s *socket) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: s.local, Addr: s.remote, Err: err}
}

// Close closes the connection. On a loop that happens at the end of its turn.
func (s *socket) Close() error {
	if s.gone.Swap(true) {
		return net.ErrClosed
	}
	if s.closed != nil {
		defer s.closed()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		return s.conn.Close()
	}
	s.loop.post(func() { s.loop.discard(s) })
	return nil
}

// CloseWrite ends what is sent.
func (s *socket) CloseWrite() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		return closeWrite(s.conn)
	}
	return os.NewSyscallError("shutdown", unix.Shutdown(int(s.fd), unix.SHUT_WR))
}

// LocalAddr is our end.
func (s *socket) LocalAddr() net.Addr { return s.local }

// RemoteAddr is the other end.
func (s *socket) RemoteAddr() net.Addr { return s.remote }

// SetDeadline sets both.
func (s *socket) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline ends reads at a time.
func (s *socket) SetReadDeadline(t time.Time) error {
	return s.setDeadline(&s.read, t, net.Conn.SetReadDeadline)
}

// SetWriteDeadline ends writes at a time.
func (s *socket) SetWriteDeadline(t time.Time) error {
	return s.setDeadline(&s.write, t, net.Conn.SetWriteDeadline)
}

func (s *socket) setDeadline(own *atomic.Int64, t time.Time, set func(net.Conn, time.Time) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	own.Store(sinceBase(t))
	if s.conn != nil {
		return set(s.conn, t)
	}
	if t.Equal(longAgo) { // others say that, so the loop may sleep
		s.loop.post(func() { s.loop.advance(s) })
	}
	return nil
}

// deadline is that of what the socket's strand waits for.
func (s *socket) deadline() int64 {
	if s.writing {
		return s.write.Load()
	}
	return s.read.Load()
}

// quiet reports whether nothing has come for u, whose socket this is, and the pod has not closed.
func (s *socket) quiet(u *upstream) bool {
	u.calm = false
	switch {
	case s.gone.Load():
	case s.loop == nil:
		_ = s.raw.Control(u.look) // if it fails, nothing is calm
	case s.readable:
	case s.turn == s.loop.turn: // what came since it was read is not known yet
		u.look(uintptr(s.fd)) //nolint:gosec // a descriptor
	default:
		u.calm = true
	}
	return u.calm
}

// detach takes the descriptor from the runtime's poller, for a loop to take. It is of the same connection, but another one: the
// runtime does not give its own away.
func (s *socket) detach(l *loop) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone.Load() {
		return net.ErrClosed
	}
	if s.raw == nil {
		return errors.ErrUnsupported
	}
	var failed error
	err := s.raw.Control(func(fd uintptr) {
		n, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
		s.fd, failed = int32(n), err //nolint:gosec // a descriptor
	})
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	s.conn.Close()
	s.conn, s.raw, s.loop = nil, nil, l
	s.readable, s.ended = true, false
	return nil
}

// attach gives the descriptor to the runtime's poller. The loop has forgotten it.
func (s *socket) attach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone.Load() {
		return // it stays as it is: reads and writes fail, and the loop closes it
	}
	f := fileConn{os.NewFile(uintptr(s.fd), "connection"), s} //nolint:gosec // a descriptor
	s.conn, s.loop = f, nil
	s.raw, _ = f.SyscallConn() // it fails for none
	if at := s.read.Load(); at != 0 {
		_ = f.SetReadDeadline(base.Add(time.Duration(at))) // as in deadlines
	}
	if at := s.write.Load(); at != 0 {
		_ = f.SetWriteDeadline(base.Add(time.Duration(at))) // likewise
	}
}

// fileConn makes an os.File, which is how a descriptor comes to the runtime's poller, bear itself like a connection.
type fileConn struct {
	*os.File
	s *socket
}

func (f fileConn) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	return n, f.failed(err)
}

func (f fileConn) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	return n, f.failed(err)
}

func (f fileConn) failed(err error) error {
	pe, ok := errors.AsType[*fs.PathError](err)
	switch {
	case !ok:
		return err
	case errors.Is(err, fs.ErrClosed):
		return f.s.failed(pe.Op, net.ErrClosed)
	case isTimeout(err):
		return f.s.failed(pe.Op, os.ErrDeadlineExceeded)
	}
	return f.s.failed(pe.Op, os.NewSyscallError(pe.Op, pe.Err))
}

func (f fileConn) LocalAddr() net.Addr  { return f.s.local }
func (f fileConn) RemoteAddr() net.Addr { return f.s.remote }

// CloseWrite ends what is sent.
func (f fileConn) CloseWrite() error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	failed := raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_WR) })
	return errors.Join(failed, err)
}
