package http1

import (
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lot is where connections wait that have had no request for a while. They need neither a goroutine nor buffers there, only
// themselves: a client's connection is mostly one that has nothing to do. The kernel says who has something to say again.
type lot struct {
	fd   int      // of an epoll
	poll *os.File // the same: the runtime's own poller can wait for it
	raw  syscall.RawConn
	// resume serves a connection that has something to say, expire closes one that had nothing for too long. Neither may wait.
	resume, expire func(*parked)

	// mu guards what follows.
	mu     sync.Mutex
	closed bool
	byFD   map[int32]*parked
	first  *parked // the one that came first, and has to go first
	last   *parked
}

// parked is a connection in a lot.
type parked struct {
	raw, net       net.Conn // as in conn
	hadBody        bool     // as in conn
	until          time.Time
	fd             int32
	next, previous *parked
}

// newLot makes a lot, whose run must be called.
func newLot(resume, expire func(*parked)) (*lot, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making an epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // says that it can be polled
		return nil, fmt.Errorf("making an epoll: %w", err)
	}
	l := &lot{fd: fd, poll: os.NewFile(uintptr(fd), "epoll"), resume: resume, expire: expire, byFD: map[int32]*parked{}}
	l.raw, err = l.poll.SyscallConn()
	return l, err
}

// park takes a connection, unless it has no descriptor or the lot is closed. The caller must not touch it any more then, which
// somebody else may serve already.
func (l *lot) park(p *parked) bool {
	sc, ok := p.raw.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		p.fd = int32(fd) //nolint:gosec // a descriptor
		event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: p.fd}
		if failed = unix.EpollCtl(l.fd, unix.EPOLL_CTL_ADD, int(fd), &event); failed == unix.EEXIST { // it was here before
			failed = unix.EpollCtl(l.fd, unix.EPOLL_CTL_MOD, int(fd), &event)
		}
	})
	if err != nil || failed != nil {
		return false
	}
	l.byFD[p.fd] = p
	p.previous, p.next = l.last, nil
	if l.last != nil {
		l.last.next = p
	} else {
		l.first = p
		_ = l.poll.SetReadDeadline(p.until) // if it is closed, run ends by that
	}
	l.last = p
	return true
}

// remove takes a connection out. l.mu is held.
func (l *lot) remove(p *parked) {
	delete(l.byFD, p.fd)
	if p.next != nil {
		p.next.previous = p.previous
	} else {
		l.last = p.previous
	}
	if p.previous != nil {
		p.previous.next = p.next
	} else {
		l.first = p.next
	}
}

// run watches the connections until close.
func (l *lot) run() {
	var events [128]unix.EpollEvent
	for {
		n := 0
		err := l.raw.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), events[:], 0) // it can only be interrupted
			return n != 0
		})
		if err != nil && !isTimeout(err) {
			return
		}
		woken, expired := l.leave(events[:max(n, 0)], time.Now())
		for _, p := range woken {
			l.resume(p)
		}
		for _, p := range expired {
			l.expire(p)
		}
	}
}

// leave takes out those that have an event, and those whose time is over.
func (l *lot) leave(events []unix.EpollEvent, now time.Time) (woken, expired []*parked) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range events {
		if p := l.byFD[events[i].Fd]; p != nil {
			l.remove(p)
			woken = append(woken, p)
		}
	}
	for l.first != nil && !now.Before(l.first.until) {
		expired = append(expired, l.first)
		l.remove(l.first)
	}
	var next time.Time
	if l.first != nil {
		next = l.first.until
	}
	_ = l.poll.SetReadDeadline(next) // as in park
	return woken, expired
}

// close ends run and returns who is still here.
func (l *lot) close() (left []*parked) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for p := l.first; p != nil; p = p.next {
		left = append(left, p)
	}
	l.byFD, l.first, l.last = nil, nil, nil
	_ = l.poll.Close() // nothing was written
	return left
}

// size is how many connections are here.
func (l *lot) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.byFD)
}
