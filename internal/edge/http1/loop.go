package http1

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// lingerTime is how long a loop that has nothing to do waits for events without telling the scheduler. That keeps the
	// scheduler's monitor from taking the loop's place away and giving it back for each event.
	lingerTime = 5 * time.Millisecond
	// maxSpare is how many strands a loop keeps that have no job.
	maxSpare = 64
	// maxStreak is how many requests that have come at once are served before others have their turn.
	maxStreak = 16
)

// loop serves connections on one goroutine, as long as that costs little time: it waits for what the kernel has to tell of their
// sockets, and resumes the strands that wait for it. All fields but the last ones belong to that goroutine, and all methods but
// post and adopt are called on it.
type loop struct {
	srv    *Server
	epoll  int
	bell   int // an eventfd in it, for post
	events [128]unix.EpollEvent
	bySock []*socket // by descriptor
	turn   uint64    // counts the times that events were asked for
	clock  time.Time // when this turn began,
	now    int64     // and that as base has it
	due    int64     // the next sweep

	current *strand   // which runs; nil between them
	spare   []*strand // without a job
	waits   []*socket // of which a strand waits
	late    []*socket // scratch of sweep
	warm    guests    // have no request now
	cold    guests    // have had none for long
	halted  bool      // by halt

	asleep  atomic.Bool
	pending atomic.Bool   // there is something posted
	guests  atomic.Int64  // connections of clients
	done    chan struct{} // closed when run has returned

	// mu guards what follows.
	mu      sync.Mutex
	posted  []func()
	stopped bool // nothing is posted any more
}

// guest is what a loop knows of a client's connection.
type guest struct {
	net            net.Conn // the socket, or the *tls.Conn on it
	c              *conn    // nil if it is cold
	hadBody        bool     // as in conn
	expired        bool
	job            func() // serves it
	until          int64  // when it is not warm, or not even cold any more
	in             *guests
	next, previous *socket
}

// guests are connections that wait for a request, in the order in which their time is over.
type guests struct{ first, last *socket }

func (g *guests) add(s *socket) {
	s.guest.in, s.guest.previous, s.guest.next = g, g.last, nil
	if g.last != nil {
		g.last.guest.next = s
	} else {
		g.first = s
	}
	g.last = s
}

func (g *guests) remove(s *socket) {
	if next := s.guest.next; next != nil {
		next.guest.previous = s.guest.previous
	} else {
		g.last = s.guest.previous
	}
	if previous := s.guest.previous; previous != nil {
		previous.guest.next = s.guest.next
	} else {
		g.first = s.guest.next
	}
	s.guest.in, s.guest.next, s.guest.previous = nil, nil, nil
}

// newLoop makes a loop, whose run must be called.
func newLoop(srv *Server) (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making an epoll: %w", err)
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, bell, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(bell)}) //nolint:gosec // a descriptor
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making a bell: %w", err), unix.Close(epoll))
	}
	return &loop{srv: srv, epoll: epoll, bell: bell, due: math.MaxInt64, done: make(chan struct{})}, nil
}

// run serves until halt.
func (l *loop) run() {
	defer close(l.done)
	for !l.halted {
		n := l.wait4events()
		l.turn++
		l.clock = time.Now()
		l.now = sinceBase(l.clock)
		for i := range n { // all of them first: who takes a pod's connection must know whether something has come on it
			if s := l.socket(l.events[i].Fd); s != nil {
				s.told(l.events[i].Events)
			}
		}
		for i := range n {
			if s := l.socket(l.events[i].Fd); s != nil {
				l.advance(s)
			}
		}
		for _, f := range l.takePosted() {
			f()
		}
		if l.now >= l.due {
			l.sweep()
		}
	}
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
	for _, f := range l.takePosted() {
		f()
	}
	for _, st := range l.spare {
		st.cancel()
	}
	for _, s := range l.bySock {
		if s != nil { // a pool's
			s.gone.Store(true)
			unix.Close(int(s.fd))
		}
	}
	_ = errors.Join(unix.Close(l.bell), unix.Close(l.epoll)) // nothing was written
}

// wait4events waits until there are events, something was posted or a sweep is due, and returns how many events there are.
func (l *loop) wait4events() int {
	l.asleep.Store(true)
	defer l.asleep.Store(false)
	left := lingerTime
	if l.pending.Load() {
		left = 0
	} else if l.due != math.MaxInt64 {
		left = max(0, min(left, time.Duration(l.due-l.now)))
	}
	n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&l.events)), uintptr(len(l.events)), uintptr(millis(left)), 0, 0) //nolint:gosec // descriptors and sizes
	if errno != 0 {                                                                                                                                                        // it was interrupted, as the garbage collector does
		return 0
	}
	if n > 0 || left < lingerTime || l.pending.Load() {
		return int(n)
	}
	limit := -1
	if l.due != math.MaxInt64 {
		limit = millis(max(0, time.Duration(l.due-sinceBase(time.Now()))))
	}
	some, _ := unix.EpollWait(l.epoll, l.events[:], limit) // as above
	return max(some, 0)
}

// millis rounds up.
func millis(d time.Duration) int { return int((d + time.Millisecond - 1) / time.Millisecond) }

// post has the loop's goroutine call f. It reports whether it will.
func (l *loop) post(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return false
	}
	l.posted = append(l.posted, f)
	l.pending.Store(true)
	if l.asleep.Swap(false) {
		_, _ = unix.Write(l.bell, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // it fails if it rings already
	}
	return true
}

func (l *loop) takePosted() []func() {
	if !l.pending.Load() {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.posted
	l.posted = nil
	l.pending.Store(false)
	return all
}

// halt ends run. There must be no connections of clients.
func (l *loop) halt() {
	l.post(func() { l.halted = true })
	<-l.done
}

// socket finds the one with a descriptor; nil for the bell, and for one that was closed or has left.
func (l *loop) socket(fd int32) *socket {
	if fd >= 0 && int(fd) < len(l.bySock) {
		return l.bySock[fd]
	}
	return nil
}

// take begins to watch a detached socket.
func (l *loop) take(s *socket) error {
	if s.fd < 0 {
		return net.ErrClosed
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: s.fd}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, int(s.fd), &event); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	if more := int(s.fd) + 1 - len(l.bySock); more > 0 {
		l.bySock = append(l.bySock, make([]*socket, more)...)
	}
	l.bySock[s.fd] = s
	return nil
}

// release ends what take began.
func (l *loop) release(s *socket) {
	if l.socket(s.fd) == s {
		l.bySock[s.fd] = nil
		_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, int(s.fd), nil) // it is there
	}
}

// discard closes the descriptor of a socket on which Close was called. Whoever waits for it finds out.
func (l *loop) discard(s *socket) {
	if s.fd < 0 {
		return
	}
	if l.socket(s.fd) == s {
		l.bySock[s.fd] = nil
	}
	unix.Close(int(s.fd))
	s.fd = -1
	l.advance(s)
}

// told notes what the kernel tells of a socket.
func (s *socket) told(events uint32) {
	if events&^uint32(unix.EPOLLOUT) != 0 {
		s.readable = true
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.ended = true // reads go on until they find that
	}
	if events&^uint32(unix.EPOLLIN|unix.EPOLLRDHUP) != 0 {
		s.writable = true
	}
}

// advance goes on with what waits for a socket, if there is something new.
func (l *loop) advance(s *socket) {
	g := s.guest
	switch {
	case s.waiter != nil:
		if s.gone.Load() || s.writing && s.writable || !s.writing && s.readable || isPast(s.deadline(), l.now) {
			l.goOn(s)
		}
	case g == nil:
	case g.in != nil && (s.readable || s.gone.Load()):
		l.wake(s)
	case g.c != nil && g.c.watched && s.readable:
		g.c.watched = false
		g.c.x.poke(g.c.x.up)
	}
}

func isPast(deadline, now int64) bool { return deadline != 0 && deadline <= now }

// wait stops the current strand until the socket can be read or written. Errors: os.ErrDeadlineExceeded.
func (l *loop) wait(s *socket, writing bool) error {
	s.writing, s.writable = writing, false
	at := s.deadline()
	if isPast(at, l.now) {
		return os.ErrDeadlineExceeded
	}
	if at != 0 {
		l.due = min(l.due, at)
	}
	s.waiter, s.waitsAt = l.current, len(l.waits)
	l.waits = append(l.waits, s)
	s.waiter.pause(waiting)
	if !s.gone.Load() && isPast(s.deadline(), l.now) {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// goOn resumes the strand that waits for a socket.
func (l *loop) goOn(s *socket) {
	last := len(l.waits) - 1
	l.waits[s.waitsAt] = l.waits[last]
	l.waits[s.waitsAt].waitsAt = s.waitsAt
	l.waits[last] = nil
	l.waits = l.waits[:last]
	st := s.waiter
	s.waiter = nil
	l.resume(st)
}

// resume runs a strand until it stops.
func (l *loop) resume(st *strand) {
	l.current = st
	why := st.resume()
	l.current = nil
	switch why {
	case waiting:
	case leaving:
		l.srv.group.Go(st.finish)
		l.leave()
	case ended:
		if len(l.spare) < maxSpare {
			l.spare = append(l.spare, st)
		} else {
			st.cancel()
		}
	}
}

// leave counts that a connection of a client is not here any more.
func (l *loop) leave() {
	l.guests.Add(-1)
	l.srv.group.Done()
}

// adopt takes the connection of a client from the goroutine that has served it, which must not touch it any more then. It reports
// whether it could.
func (l *loop) adopt(c *conn) bool {
	s := c.sock
	if s.detach(l) != nil {
		return false
	}
	l.guests.Add(1)
	l.srv.group.Add(1)
	if s.guest == nil {
		s.guest = &guest{net: c.net}
		s.guest.job = func() { s.loop.serve(s) }
	}
	s.guest.c, c.heavy = c, false
	l.post(func() {
		if l.take(s) != nil {
			s.Close()
		}
		l.wake(s) // it may have a request already, perhaps in crypto/tls
	})
	return true
}

// wake serves the connection of a client until it has no more requests.
func (l *loop) wake(s *socket) {
	if in := s.guest.in; in != nil {
		in.remove(s)
	}
	st := (*strand)(nil)
	if last := len(l.spare) - 1; last >= 0 {
		st, l.spare = l.spare[last], l.spare[:last]
	} else {
		st = newStrand()
	}
	st.job = s.guest.job
	l.resume(st)
}

// serve is what a strand does for a connection of a client.
func (l *loop) serve(s *socket) {
	g := s.guest
	if g.expired {
		g.net.Close()
		l.leave()
		return
	}
	if g.c == nil {
		g.c = l.srv.revive(s.guest.net, s, g.hadBody)
	}
	g.c.loop = l
	l.srv.serve(g.c)
}

// rest keeps the connection of a client that has no request.
func (l *loop) rest(s *socket) {
	if l.srv.closing.Load() {
		l.srv.forget(s.guest.c)
		s.guest.net.Close()
		l.leave()
		return
	}
	limit := min(l.srv.cfg.parkAfter, l.srv.cfg.IdleTimeout)
	if s.guest.c.requests == 0 {
		limit = l.srv.cfg.HeaderTimeout
	}
	s.guest.until = l.now + int64(limit)
	l.due = min(l.due, s.guest.until)
	l.warm.add(s)
}

// cool forgets what is known of a connection that had no request for some time.
func (l *loop) cool(s *socket) {
	g := s.guest
	if g.c.requests == 0 {
		l.expire(s)
		return
	}
	g.in.remove(s)
	l.srv.forget(g.c)
	g.hadBody, g.c = g.c.hadBody, nil
	g.until += int64(max(0, l.srv.cfg.IdleTimeout-l.srv.cfg.parkAfter))
	l.cold.add(s)
}

// closeResting closes the connections of clients that have no request.
func (l *loop) closeResting() {
	for _, in := range []*guests{&l.warm, &l.cold} {
		for in.first != nil {
			l.expire(in.first)
		}
	}
}

// expire closes a connection without a request.
func (l *loop) expire(s *socket) {
	if c := s.guest.c; c != nil {
		l.srv.forget(c)
	}
	s.guest.expired = true
	l.wake(s)
}

// sweep does what has its time.
func (l *loop) sweep() {
	for l.warm.first != nil && l.warm.first.guest.until <= l.now {
		l.cool(l.warm.first)
	}
	for l.cold.first != nil && l.cold.first.guest.until <= l.now {
		l.expire(l.cold.first)
	}
	l.due = math.MaxInt64
	for _, in := range []*guests{&l.warm, &l.cold} {
		if in.first != nil {
			l.due = min(l.due, in.first.guest.until)
		}
	}
	l.late = l.late[:0]
	for _, s := range l.waits {
		if at := s.deadline(); isPast(at, l.now) {
			l.late = append(l.late, s)
		} else if at != 0 {
			l.due = min(l.due, at)
		}
	}
	for _, s := range l.late {
		l.advance(s) // unless it went on by now
	}
	clear(l.late)
}

// aside has a goroutine call f, which blocks, and waits for it.
func (c *conn) aside(f func()) {
	l := c.loop
	if l == nil {
		f()
		return
	}
	st := l.current
	go func() {
		f()
		l.post(func() { l.resume(st) }) // the loop is there as long as it has a connection
	}()
	st.pause(waiting)
}

// now is the time, to within a turn of the loop.
func (c *conn) now() time.Time {
	if c.loop != nil {
		return c.loop.clock
	}
	return time.Now()
}

// turnOver lets others have their turn.
func (c *conn) turnOver() {
	if l := c.loop; l != nil {
		st := l.current
		l.post(func() { l.resume(st) })
		st.pause(waiting)
	}
}

// leave takes the connection from its loop, in the middle of whatever it does: from now on a goroutine goes on with it. That is
// for everything that may take long, and for what needs more than one goroutine.
func (c *conn) leave() {
	c.heavy = true
	l := c.loop
	if l == nil {
		return
	}
	c.loop, c.sock.guest.c = nil, nil
	socks := []*socket{c.sock}
	if u := c.x.up; u != nil && u.sock != nil {
		socks = append(socks, u.sock)
	}
	for _, s := range socks {
		if s.loop == l {
			l.release(s)
			s.attach()
		}
	}
	l.current.pause(leaving)
}

// emptiest is the loop with the fewest connections.
func emptiest(loops []*loop) *loop {
	return slices.MinFunc(loops, func(a, b *loop) int { return cmp.Compare(a.guests.Load(), b.guests.Load()) })
}
