package kit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a child of ours that somebody waits for.
type process struct {
	pid  int
	done chan struct{} // closed when the child has ended
	err  error         // how it ended; valid once done is closed
}

// diesWithUs makes the kernel kill the child when we die, however we die.
func diesWithUs(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}

func startProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The parent-death signal belongs to the thread that forked, so that thread has to live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	return p, <-started
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// signal sends sig; a process that has ended already is no error.
func (p *process) signal(sig syscall.Signal) error {
	if p.ended() {
		return nil
	}
	if err := syscall.Kill(p.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("sending %s: %w", sig, err)
	}
	return nil
}

func (p *process) kill() error {
	err := p.signal(syscall.SIGKILL)
	<-p.done
	return err
}

// errorsJoin is errors.Join that keeps a single error as it is.
func errorsJoin(first error, more ...error) error {
	return errors.Join(append([]error{first}, more...)...)
}

// Proc is a process as /proc shows it.
type Proc struct {
	PID     int
	Parent  int
	Started string // clock ticks after boot: with PID, this names one process for ever
	Args    []string
}

func (p Proc) String() string {
	return fmt.Sprintf("%d (since %s): %s", p.PID, p.Started, strings.Join(p.Args, " "))
}

// Processes lists all processes for which keep is true. Those that end meanwhile are left out.
func Processes(keep func(Proc) bool) ([]Proc, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var procs []Proc
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, err := readProc(pid)
		if err == nil && keep(p) {
			procs = append(procs, p)
		}
	}
	return procs, nil
}

func readProc(pid int) (Proc, error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return Proc{}, err
	}
	// The name in parentheses may hold anything, so count from its end.
	_, rest, ok := bytes.Cut(stat[bytes.LastIndexByte(stat, ')'):], []byte(" "))
	fields := strings.Fields(string(rest))
	if !ok || len(fields) < 20 {
		return Proc{}, fmt.Errorf("reading %s/stat: %q", dir, stat)
	}
	if fields[0] == "Z" {
		return Proc{}, fmt.Errorf("process %d has ended", pid)
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return Proc{}, err
	}
	line, err := os.ReadFile(dir + "/cmdline")
	if err != nil {
		return Proc{}, err
	}
	args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
	return Proc{PID: pid, Parent: parent, Started: fields[19], Args: args}, nil
}

// Marked lists the processes that have name=value in their environment: the containers of one test, say.
func Marked(name, value string) ([]Proc, error) {
	want := []byte(name + "=" + value)
	return Processes(func(p Proc) bool {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID))
		if err != nil {
			return false
		}
		for kv := range bytes.SplitSeq(env, []byte{0}) {
			if bytes.Equal(kv, want) {
				return true
			}
		}
		return false
	})
}

// Mounts lists all mount points whose path or options name dir.
func Mounts(dir string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("listing mounts: %w", err)
	}
	defer f.Close()
	var points []string
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		fields := strings.Fields(s.Text())
		if len(fields) > 4 && (strings.HasPrefix(fields[4], dir) || strings.Contains(s.Text(), "="+dir+"/")) {
			points = append(points, fields[4])
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("listing mounts: %w", err)
	}
	return points, nil
}

// Memory is what a process holds.
type Memory struct {
	RSS int64 // bytes resident, shared pages counted in full
	PSS int64 // bytes resident, shared pages divided among those who share them
}

// MemoryOf reads what process pid holds now.
func MemoryOf(pid int) (Memory, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
	if err != nil {
		return Memory{}, fmt.Errorf("reading memory use: %w", err)
	}
	var m Memory
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		n, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "Rss:":
			m.RSS = n << 10
		case "Pss:":
			m.PSS = n << 10
		}
	}
	return m, nil
}

// CPUOf returns the CPU time that process pid has used, all its threads and its ended children included.
func CPUOf(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("reading CPU use: %w", err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks int64
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading CPU use: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100), nil // USER_HZ is 100 on every Linux port we serve
}
