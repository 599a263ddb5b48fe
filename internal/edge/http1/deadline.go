package http1

import (
	"errors"
	"net"
	"os"
	"time"
)

// longAgo as a deadline ends what is waiting.
var longAgo = time.Unix(1, 0)

// deadlines moves those of a connection. Setting one costs a system timer, so they are set with some reserve and left
// alone while they are good enough.
type deadlines struct {
	conn        net.Conn
	read, write time.Time // as set last; zero if there is none, or it is not known
}

// good reports whether a deadline at is neither before limit from now nor long after it.
func good(at, now time.Time, limit time.Duration) bool {
	left := at.Sub(now)
	return !at.IsZero() && left >= limit && left <= limit+limit/2
}

// readWithin makes reads end in limit, or up to half of it later.
func (d *deadlines) readWithin(now time.Time, limit time.Duration) {
	if !good(d.read, now, limit) {
		d.readBy(now.Add(limit + limit/4))
	}
}

// readBy makes reads end at a time; never if it is zero.
func (d *deadlines) readBy(at time.Time) {
	d.read = at
	_ = d.conn.SetReadDeadline(at) // fails on a closed connection only, and so will the read
}

// writeWithin makes writes end in limit, or up to half of it later.
func (d *deadlines) writeWithin(now time.Time, limit time.Duration) {
	if !good(d.write, now, limit) {
		d.write = now.Add(limit + limit/4)
		_ = d.conn.SetWriteDeadline(d.write) // as above
	}
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
