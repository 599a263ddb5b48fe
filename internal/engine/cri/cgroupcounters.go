package cri

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trysail/trysail"
)

// counterDirs are the directories that hold the kernel's counters of one cgroup: one per controller on v1, all the same
// on v2.
type counterDirs struct {
	version                    int
	memory, cpu, cpuacct, pids string
}

// podCounters are those of the pod's cgroup, which stays until the pod is removed.
func (g *cgroups) podCounters(id trysail.PodID) counterDirs { return g.countersOf(g.path(id)) }

// containerCounters are those of a container's cgroup, which the runtime removes soon after the container's end.
func (g *cgroups) containerCounters(id trysail.PodID, containerID string) counterDirs {
	return g.countersOf(g.path(id) + "/" + containerID)
}

func (g *cgroups) countersOf(path string) counterDirs {
	return counterDirs{
		version: g.version(),
		memory:  filepath.Join(g.dir("memory"), path), cpu: filepath.Join(g.dir("cpu"), path),
		cpuacct: filepath.Join(g.dir("cpuacct"), path), pids: filepath.Join(g.dir("pids"), path),
	}
}

// counters is one reading of a cgroup.
type counters struct {
	trysail.CgroupCounters
	// files is how many bytes of Peak and of what is in use may be copies of files, which the kernel drops before it
	// kills anybody. Memory leaves out those that are not in active use.
	files int64
	// held is how many bytes are in use without any copies of files.
	held int64
}

// noLimit is what a limit of cgroup v1 is above if there is none: the kernel shows the largest number of pages.
const noLimit = 1 << 60

// read reads all counters; ok is false if the cgroup is not there. What this kernel does not count is 0.
func (d counterDirs) read() (c counters, ok bool) {
	if d.version == 2 {
		return d.readV2()
	}
	return d.readV1()
}

func (d counterDirs) readV2() (c counters, ok bool) {
	var used int64
	if used, ok = numberIn(d.memory, "memory.current"); !ok {
		return c, false
	}
	c.Peak, _ = numberIn(d.memory, "memory.peak")
	c.Limit, _ = numberIn(d.memory, "memory.max")
	events := control(d.memory, "memory.events")
	c.OOMKills, c.LimitHits = value(events, "oom_kill"), value(events, "max")
	c.MemoryStall = time.Duration(pressureTotal(control(d.memory, "memory.pressure"), "full")) * time.Microsecond
	stat := control(d.memory, "memory.stat")
	c.use(used, value(stat, "active_file"), value(stat, "inactive_file"))
	cpu := control(d.cpu, "cpu.stat")
	c.CPU = time.Duration(value(cpu, "usage_usec")) * time.Microsecond
	c.Throttled = time.Duration(value(cpu, "throttled_usec")) * time.Microsecond
	c.Periods, c.ThrottledPeriods = value(cpu, "nr_periods"), value(cpu, "nr_throttled")
	d.readPIDs(&c)
	return c, true
}

func (d counterDirs) readV1() (c counters, ok bool) {
	var used int64
	if used, ok = numberIn(d.memory, "memory.usage_in_bytes"); !ok {
		return c, false
	}
	c.Peak, _ = numberIn(d.memory, "memory.max_usage_in_bytes")
	if c.Limit, _ = numberIn(d.memory, "memory.limit_in_bytes"); c.Limit >= noLimit {
		c.Limit = 0
	}
	// Where memory and memory with swap have the same limit, it is the second that is hit; newer kernels do not count it.
	hits, _ := numberIn(d.memory, "memory.failcnt")
	swapHits, _ := numberIn(d.memory, "memory.memsw.failcnt")
	c.LimitHits = hits + swapHits
	c.OOMKills = value(control(d.memory, "memory.oom_control"), "oom_kill")
	stat := control(d.memory, "memory.stat")
	c.use(used, value(stat, "total_active_file"), value(stat, "total_inactive_file"))
	if c.LimitHits == 0 && c.Limit > 0 && c.Peak >= c.Limit {
		c.LimitHits = 1
	}
	nanos, _ := numberIn(d.cpuacct, "cpuacct.usage")
	c.CPU = time.Duration(nanos)
	cpu := control(d.cpu, "cpu.stat")
	c.Throttled = time.Duration(value(cpu, "throttled_time"))
	c.Periods, c.ThrottledPeriods = value(cpu, "nr_periods"), value(cpu, "nr_throttled")
	d.readPIDs(&c)
	return c, true
}

// readPIDs reads what has the same form on both versions.
func (d counterDirs) readPIDs(c *counters) {
	c.ProcessLimit, _ = numberIn(d.pids, "pids.max")
	c.ProcessLimitHits = value(control(d.pids, "pids.events"), "max")
}

func (c *counters) use(used, active, inactive int64) {
	c.Memory = max(0, used-inactive)
	c.files = active + inactive
	c.held = max(0, used-c.files)
	c.Peak = max(c.Peak, used) // not every kernel keeps it
}

// merge adds a later reading. Counters never go down: a cgroup that is made anew begins at 0 again.
func (c *counters) merge(later counters) {
	c.OOMKills, c.LimitHits = max(c.OOMKills, later.OOMKills), max(c.LimitHits, later.LimitHits)
	c.Memory, c.Limit, c.ProcessLimit = later.Memory, later.Limit, later.ProcessLimit
	c.Peak, c.files, c.held = max(c.Peak, later.Peak), max(c.files, later.files), max(c.held, later.held)
	c.MemoryStall, c.CPU, c.Throttled = max(c.MemoryStall, later.MemoryStall), max(c.CPU, later.CPU), max(c.Throttled, later.Throttled)
	c.Periods, c.ThrottledPeriods = max(c.Periods, later.Periods), max(c.ThrottledPeriods, later.ThrottledPeriods)
	c.ProcessLimitHits = max(c.ProcessLimitHits, later.ProcessLimitHits)
}

// needed is the most memory that could not have been dropped, as far as it was seen. The kernel's own peak counts a
// container that has read a large file as one that needed much.
func (c *counters) needed() int64 { return max(c.held, c.Peak-c.files) }

// control reads a file of the kernel; nil if it is not there. It makes half the system calls of os.ReadFile, which are
// most of what a look costs.
func control(dir, name string) []byte {
	fd, err := unix.Open(dir+"/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	buf := make([]byte, 0, 2048)
	for {
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil
		}
		buf = buf[:len(buf)+n]
		if n == 0 {
			return buf
		}
		buf = slices.Grow(buf, 512)
	}
}

// numberIn reads a control file that holds one number; "max" is 0.
func numberIn(dir, name string) (n int64, ok bool) {
	b := bytes.TrimSpace(control(dir, name))
	if string(b) == "max" {
		return 0, true
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	return n, err == nil
}

// value finds the number after a word at the beginning of a line; 0 if there is none.
func value(b []byte, key string) int64 {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte(key)); ok && len(rest) > 1 && rest[0] == ' ' {
			n, _ := strconv.ParseInt(string(bytes.TrimSpace(rest)), 10, 64)
			return n
		}
	}
	return 0
}

// pressureTotal finds the total of one line of the kernel's pressure stall information:
//
//	some avg10=0.00 avg60=0.00 avg300=0.00 total=0
func pressureTotal(b []byte, kind string) int64 {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte(kind+" ")); ok {
			_, total, _ := bytes.Cut(rest, []byte("total="))
			n, _ := strconv.ParseInt(string(bytes.TrimSpace(total)), 10, 64)
			return n
		}
	}
	return 0
}
