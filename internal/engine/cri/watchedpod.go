package cri

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/trysail/trysail"
)

// watchedPod is what has been seen inside one pod.
type watchedPod struct {
	id       trysail.PodID
	sandbox  string // id of its sandbox
	schedule schedule

	addr netip.Addr // invalid until it is in the network; witness.mu guards it
	// listening is what the last look has seen; nil before.
	listening atomic.Pointer[[]trysail.Listener]

	mu         sync.Mutex // guards all below and the containers; held during a look, which takes a millisecond or less
	closed     bool
	containers map[string]*watchedContainer // by name
	counters   *counters                    // nil: never read
	query      *socketQuery                 // nil until it is needed, or where the kernel does not answer it
	noQuery    bool                         // it does not
	owners     map[uint64]owner             // by the inodes of the sockets of the last look
	passing    map[uint64]bool              // sockets of the last look that may be there for a moment only
	sockets    trysail.SocketHistory
	listens    bool // a TCP socket has been seen
	moments    []trysail.Moment
}

// watchedContainer is what has been seen of one container.
type watchedContainer struct {
	pod   *watchedPod
	id    string
	name  string
	first int // its first process; 0 if that had ended before it could be held

	// watchedPod.mu guards all below.
	life     *life
	counters *counters // nil: never read
	over     bool      // the first process has ended
	last     bool      // counters were read after that
	status   syscall.WaitStatus
	known    bool // status is
	exit     int  // index of the moment of its end + 1
	family   family
	program  string
	files    int64
	limit    int64
}

// say adds to the time line.
func (p *watchedPod) say(at time.Time, format string, args ...any) {
	p.moments = append(p.moments, trysail.Moment{At: at, Text: fmt.Sprintf(format, args...)})
}

// add begins to watch a container.
func (p *watchedPod) add(c *watchedContainer, isNew bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.containers[c.name] = c
	switch {
	case isNew && c.first != 0:
		p.say(time.Now(), "container %s started (pid %d)", c.name, c.first)
	case isNew:
		p.say(time.Now(), "container %s started", c.name)
	}
}

// hold keeps the handle until the container has ended or the pod is forgotten; false if it is already.
func (p *watchedPod) hold(c *watchedContainer, l *life) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		l.Close()
		return false
	}
	c.life = l
	return true
}

// close lets go of all that the pod holds.
func (p *watchedPod) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.containers {
		if c.life != nil {
			c.life.Close()
		}
	}
	if p.query != nil {
		p.query.Close()
		p.query = nil
	}
}

// ended notes the end of a container's first process, with the last counters if they could be read.
func (p *watchedPod) ended(c *watchedContainer, status syscall.WaitStatus, known bool, now counters, read bool) {
	at := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.over {
		return
	}
	if read {
		p.count(c, at, now)
		c.last = true
	}
	c.over, c.status, c.known = true, status, known
	if c.exit != 0 {
		return // it was told already
	}
	if known {
		p.say(at, "container %s exited with %d", c.name, exitCode(status))
	} else {
		p.say(at, "container %s exited", c.name)
	}
	c.exit = len(p.moments)
}

// exited notes how a container has ended by containerd's word.
func (p *watchedPod) exited(c *watchedContainer, at time.Time, code int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.exit == 0 {
		p.say(at, "")
		c.exit = len(p.moments)
	}
	if c.life == nil {
		c.over = true
	}
	p.moments[c.exit-1].Text = fmt.Sprintf("container %s exited with %d", c.name, code)
}

// count adds a reading of a container's counters.
func (p *watchedPod) count(c *watchedContainer, at time.Time, now counters) {
	if c.counters == nil {
		c.counters = &counters{}
	}
	before := c.counters.OOMKills
	c.counters.merge(now)
	if before == 0 && c.counters.OOMKills > 0 {
		p.say(at, "container %s: a process was killed for want of memory", c.name)
	}
}

// look sees what there is to see now: who listens, and if it is thorough, counters and processes.
func (p *watchedPod) look(g *cgroups, thorough bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lookLocked(g, thorough)
}

// lookLocked returns who listens; nil if that could not be seen.
func (p *watchedPod) lookLocked(g *cgroups, thorough bool) []trysail.Listener {
	if p.closed {
		return nil
	}
	at := time.Now()
	processes := map[string][]process{}
	if thorough {
		processes = p.lookThrough(g, at)
	}
	sockets, err := p.readSockets(g)
	if err != nil {
		return nil
	}
	sockets = p.lasting(sockets)
	if p.identify(sockets, processes) && !thorough {
		p.identify(sockets, p.lookThrough(g, at))
	}
	listeners := listenersOf(sockets, p.owners)
	p.listening.Store(&listeners)
	p.sockets = p.sockets.See(at, listeners)
	if i := slices.IndexFunc(listeners, func(l trysail.Listener) bool { return !l.UDP }); i >= 0 && !p.listens {
		p.listens = true
		p.say(at, "first socket: %s (%s)", listeners[i].Address, cmp.Or(listeners[i].Process, "of an unknown process"))
	}
	return listeners
}

// lookThrough reads the counters of the pod and of its containers, and lists the processes of these.
func (p *watchedPod) lookThrough(g *cgroups, at time.Time) map[string][]process {
	if now, ok := g.podCounters(p.id).read(); ok {
		if p.counters == nil {
			p.counters = &counters{}
		}
		p.counters.merge(now)
	}
	processes := map[string][]process{}
	for name, c := range p.containers {
		if c.over {
			continue
		}
		dirs := g.containerCounters(p.id, c.id)
		if now, ok := dirs.read(); ok {
			p.count(c, at, now)
		}
		processes[name] = c.look(dirs)
	}
	return processes
}

// look goes through the processes of a container, which it returns.
func (c *watchedContainer) look(dirs counterDirs) (all []process) {
	var first process
	var most int64
	greatest := 0
	for _, pid := range pidsIn(dirs.pids) {
		p, ok := readProcess(pid)
		if !ok || p.starting() {
			continue
		}
		all = append(all, p)
		if p.pid == c.first {
			first = p
		}
		if n := openFiles(pid); n > most {
			most, greatest = n, pid
		}
	}
	if first.pid != 0 {
		if program := executable(first.pid); program != "" {
			c.program = program
		}
		c.family.see(first, c.program, all)
	}
	if most > c.files || c.limit == 0 && greatest != 0 {
		c.files, c.limit = max(most, c.files), fileLimit(greatest)
	}
	return all
}

// readSockets lists the sockets of the pod's network, which its sandbox keeps: a container may still be on its way
// into it.
func (p *watchedPod) readSockets(g *cgroups) ([]socket, error) {
	pid, err := g.sandboxProcess(p.id, p.sandbox)
	if err != nil {
		return nil, err // a query would go on, but nobody can use the network any more
	}
	if p.noQuery {
		return tableSockets(pid)
	}
	if p.query == nil {
		if p.query, err = openSocketQuery(pid); err != nil {
			return nil, err
		}
	}
	list, err := p.query.sockets()
	if err != nil {
		p.noQuery = true
		p.query.Close()
		p.query = nil
		return tableSockets(pid)
	}
	return list, nil
}

// sandboxProcess is the process that holds the pod's namespaces.
func (g *cgroups) sandboxProcess(id trysail.PodID, sandbox string) (int, error) {
	pids := parsePIDs(control(g.containerCounters(id, sandbox).pids, "cgroup.procs"))
	if len(pids) == 0 {
		return 0, errGone
	}
	return pids[0], nil
}

// lasting leaves out what may be the local end of a question to somebody: a UDP socket on a port of the range that the
// kernel chooses from, until it is seen a second time.
func (p *watchedPod) lasting(sockets []socket) []socket {
	const chosen = 32768
	before := p.passing
	p.passing = map[uint64]bool{}
	return slices.DeleteFunc(sockets, func(s socket) bool {
		if !s.udp || s.addr.Port() < chosen {
			return false
		}
		p.passing[s.inode] = true
		return !before[s.inode]
	})
}

// identify finds the owners of the sockets among the processes, and reports whether some are unknown that were not
// looked for.
func (p *watchedPod) identify(sockets []socket, processes map[string][]process) (missing bool) {
	known, wanted := map[uint64]owner{}, map[uint64]bool{}
	for _, s := range sockets {
		if o, ok := p.owners[s.inode]; ok {
			known[s.inode] = o
		}
		if known[s.inode] == (owner{}) {
			wanted[s.inode] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(processes)) {
		for _, process := range processes[name] {
			if len(wanted) > 0 {
				socketOwners(process, name, wanted, known)
			}
		}
	}
	for inode := range wanted {
		if _, tried := p.owners[inode]; !tried {
			missing = true
		}
		known[inode] = owner{} // so that a look that is not thorough does not search again
	}
	p.owners = known
	return missing
}

// observe takes a look and returns all that was seen.
func (p *watchedPod) observe(g *cgroups) trysail.PodEvidence {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := trysail.PodEvidence{Listeners: p.lookLocked(g, true), Details: map[string]trysail.ContainerEvidence{}}
	var kills, refused int64
	for name, c := range p.containers {
		d := trysail.ContainerEvidence{
			OpenFiles: c.files, FileLimit: c.limit, Daemons: slices.Clone(c.family.daemons), Executable: c.program,
		}
		if c.counters != nil {
			own := c.counters.CgroupCounters
			own.Peak = c.counters.needed()
			d.Cgroup = &own
			kills, refused = kills+own.OOMKills, refused+own.ProcessLimitHits
		}
		e.Details[name] = d
	}
	if p.counters != nil {
		whole := p.counters.CgroupCounters
		// On v1 the kernel counts these where the process was, not above.
		whole.OOMKills, whole.ProcessLimitHits = max(whole.OOMKills, kills), max(whole.ProcessLimitHits, refused)
		e.Cgroup = &whole
	}
	e.Sockets = slices.Clone(p.sockets)
	e.TimeLine = slices.Clone(p.moments)
	slices.SortStableFunc(e.TimeLine, func(a, b trysail.Moment) int { return a.At.Compare(b.At) })
	return e
}

// victim tells whether SIGKILL for want of memory has ended the container's first process; known is false where its end
// was not seen.
func (p *watchedPod) victim(c *watchedContainer) (killed, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !c.over:
		return false, false
	case c.known && (!c.status.Signaled() || c.status.Signal() != syscall.SIGKILL):
		return false, true // it has said 137 itself, perhaps of a child
	case c.last:
		return c.counters.OOMKills > 0, true
	}
	return false, false
}
