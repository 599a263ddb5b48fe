package ship

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	// connectTime bounds connecting and the TLS handshake.
	connectTime = 10 * time.Second
	// writeTime is how long a server may not read.
	writeTime = 30 * time.Second
	// confirmTime is how long to wait for a server to end the connection after it has read everything.
	confirmTime = 10 * time.Second
	// structuredID names our data in messages. 32473 is the number for those that have none of their own.
	structuredID = "trysail@32473"
)

// syslogSender speaks RFC 5424: over UDP one message per datagram (RFC 5426), over TCP and TLS with the length before
// each message (RFC 6587, RFC 5425).
//
// Syslog has no acknowledgements. But a server that has read the end of the connection has read all that came before it,
// and then ends its side too. So each batch goes over a connection of its own, and counts as delivered when the server
// has closed that in good order. Datagrams may get lost, which nobody can know.
type syslogSender struct {
	dest    Destination
	host    string
	network string
	// lingers is set once a server did not close its side. Then it is the acknowledgement of its kernel that counts.
	lingers bool
}

func newSyslog(d Destination, host string) (*syslogSender, error) {
	s := &syslogSender{dest: d, host: headerField(host, 255), network: "tcp"}
	if d.scheme == "syslog+udp" {
		s.network = "udp"
	}
	_, err := d.tls()
	return s, err
}

// send never rejects.
func (s *syslogSender) send(ctx context.Context, lines []record) (int, error) {
	if len(lines) == 0 {
		return 0, nil
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return 0, err
	}
	// What is under way when ctx ends is sent again later.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err = s.write(conn, lines)
	switch {
	case err != nil:
	case s.network == "tcp":
		err = s.confirm(conn)
	default:
		err = refused(ctx, conn)
	}
	_ = conn.Close() // what it says is no news
	if err != nil {
		return 0, fmt.Errorf("sending to %s: %w", s.dest, err)
	}
	return 0, nil
}

func (s *syslogSender) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, s.network, s.dest.addr)
	if err != nil || s.dest.scheme != "syslog+tls" {
		return conn, err
	}
	cfg, err := s.dest.tls() // read again each time: certificates are renewed
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	cfg.ServerName, _, _ = net.SplitHostPort(s.dest.addr)
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("TLS with %s: %w", s.dest.addr, err), conn.Close())
	}
	return secure, nil
}

func (s *syslogSender) write(conn net.Conn, lines []record) error {
	out := bufio.NewWriterSize(&patientConn{conn}, 64<<10)
	var msg []byte
	for i := range lines {
		parts := splitText(lines[i].text, s.dest.max-overhead)
		for n, part := range parts {
			msg = s.message(msg[:0], &lines[i], part, n+1, len(parts))
			if s.network == "udp" {
				if err := writeDatagram(conn, msg); err != nil {
					return err
				}
				continue
			}
			if _, err := out.Write(append(strconv.AppendInt(nil, int64(len(msg)), 10), ' ')); err != nil {
				return err
			}
			if _, err := out.Write(msg); err != nil {
				return err
			}
		}
	}
	return out.Flush()
}

// writeDatagram fails when it has become known that nobody listens.
func writeDatagram(conn net.Conn, msg []byte) error {
	if err := conn.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	_, err := conn.Write(msg)
	return err
}

// patientConn bounds single writes.
type patientConn struct{ net.Conn }

func (c *patientConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// confirm returns nil when the server has read everything.
func (s *syslogSender) confirm(conn net.Conn) error {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.New("this connection cannot be closed on one side")
	}
	if err := half.CloseWrite(); err != nil {
		return err
	}
	wait := confirmTime
	if s.lingers {
		wait = 100 * time.Millisecond
	}
	deadline := time.Now().Add(wait)
	if err := conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, conn) // nothing is expected
	switch {
	case err == nil, errors.Is(err, io.ErrUnexpectedEOF): // closed, with TLS perhaps without saying so
		s.lingers = false
		return nil
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case time.Now().Before(deadline):
		return context.Canceled
	}
	// It keeps its side open. At least its kernel must have everything.
	for end := time.Now().Add(confirmTime); ; time.Sleep(20 * time.Millisecond) {
		left, err := unacknowledged(conn)
		if err != nil {
			return err
		}
		if left == 0 {
			s.lingers = true
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("it has not acknowledged %d bytes", left)
		}
	}
}

// unacknowledged is how many bytes the other side's kernel has not acknowledged.
func unacknowledged(conn net.Conn) (left int, err error) {
	err = socketDo(conn, func(fd int) (err error) {
		left, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		return err
	})
	return left, err
}

func socketDo(conn net.Conn, do func(fd int) error) error {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return errors.New("the connection has no socket")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	ctlErr := raw.Control(func(fd uintptr) { err = do(int(fd)) })
	return errors.Join(err, ctlErr)
}

// refusalTime is how long the news takes that nobody listens at an address.
const refusalTime = 50 * time.Millisecond

// refused reports whether the host has said that nobody listens there for datagrams.
func refused(ctx context.Context, conn net.Conn) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(refusalTime):
	}
	return socketDo(conn, func(fd int) error {
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = syscall.Errno(code)
		}
		return err
	})
}

// overhead is room for the header of a message: its fields and the structured data are bounded.
const overhead = 768

// message appends a message: part n of several of a line.
func (s *syslogSender) message(b []byte, r *record, text []byte, n, of int) []byte {
	const info, errorSeverity = 6, 3
	severity := info
	if r.stderr {
		severity = errorSeverity
	}
	msgID := r.container
	if r.kind == kindAccess {
		msgID = kindAccess
	}
	b = append(b, '<')
	b = strconv.AppendInt(b, int64(s.dest.facility*8+severity), 10)
	b = append(b, ">1 "...)
	b = r.at.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	for _, field := range []string{s.host, headerField(r.service, 48), headerField(r.pod, 128), headerField(msgID, 32)} {
		b = append(append(b, ' '), field...)
	}
	b = append(b, " ["+structuredID...)
	b = appendParam(b, "kind", r.kind)
	b = appendParam(b, "service", r.service)
	if r.version > 0 {
		b = appendParam(b, "version", strconv.Itoa(r.version))
	}
	if r.pod != "" {
		b = appendParam(b, "pod", r.pod)
	}
	if r.container != "" {
		b = appendParam(b, "container", r.container)
	}
	if r.kind == kindContainer {
		b = appendParam(b, "stream", streamName(r.stderr))
	}
	if of > 1 {
		b = appendParam(b, "part", strconv.Itoa(n))
		b = appendParam(b, "parts", strconv.Itoa(of))
	}
	b = append(b, "] "...)
	return append(b, text...)
}

func streamName(stderr bool) string {
	if stderr {
		return "stderr"
	}
	return "stdout"
}

// appendParam appends a parameter of structured data. Names and values are ours: names of services, pods and
// containers, so there is nothing to escape, but what would have to be is left out all the same.
func appendParam(b []byte, name, value string) []byte {
	b = append(append(append(b, ' '), name...), `="`...)
	return append(append(b, headerField(value, 80)...), '"')
}

// headerField is a text in the form that fields of the header have: printable ASCII without spaces, bounded.
func headerField(s string, limit int) string {
	if s == "" {
		return "-"
	}
	b := []byte(s[:min(len(s), limit)])
	for i, c := range b {
		if c <= ' ' || c > '~' || c == '"' || c == '\\' || c == ']' {
			b[i] = '_'
		}
	}
	return string(b)
}

// splitText cuts a text into parts of at most limit bytes, not in the middle of a character. There is at least one.
func splitText(text []byte, limit int) (parts [][]byte) {
	for len(text) > limit {
		n := limit
		for i := 0; i < utf8.UTFMax && n > 0 && !utf8.RuneStart(text[n]); i++ {
			n--
		}
		if n == 0 || !utf8.RuneStart(text[n]) {
			n = limit // it is no UTF-8 anyway
		}
		parts = append(parts, text[:n])
		text = text[n:]
	}
	return append(parts, text)
}
