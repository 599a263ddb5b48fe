package cri

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/trysail/trysail"
)

// The bounds of one look at the processes of a container.
const (
	maxProcesses = 128
	maxFiles     = 4096 // open files of one process among which sockets are looked for
	maxDaemons   = 16   // names
)

// process is what /proc/<pid>/stat says of a process.
type process struct {
	pid, parent, session int
	started              uint64 // in clock ticks after the machine's start; with pid it names a process for ever
	name                 string // its program's, at most 15 bytes
}

// starting reports whether it is still the runtime that prepares the container, which then becomes its program.
func (p process) starting() bool { return strings.HasPrefix(p.name, "runc:[") }

// readProcess reads what the kernel says of a process; ok is false if there is none.
func readProcess(pid int) (p process, ok bool) {
	p, _, ok = parseStat(control(fmt.Sprintf("/proc/%d", pid), "stat"))
	return p, ok
}

// parseStat reads the form of /proc/<pid>/stat, in which the name may hold anything, also brackets and spaces:
//
//	123 (name) S 1 123 123 0 -1 …
//
// status is how a process that has ended did so, in the form of wait(2).
func parseStat(b []byte) (p process, status int, ok bool) {
	open, shut := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || shut < open {
		return p, 0, false
	}
	f := strings.Fields(string(b[shut+1:]))
	const state, parent, session, started, exitCode = 0, 1, 3, 19, 49
	if len(f) <= started {
		return p, 0, false
	}
	p.name = string(b[open+1 : shut])
	var errs [4]error
	p.pid, errs[0] = strconv.Atoi(string(bytes.TrimSpace(b[:open])))
	p.parent, errs[1] = strconv.Atoi(f[parent])
	p.session, errs[2] = strconv.Atoi(f[session])
	p.started, errs[3] = strconv.ParseUint(f[started], 10, 64)
	for _, err := range errs {
		if err != nil {
			return p, 0, false
		}
	}
	status = -1
	if f[state] == "Z" && len(f) > exitCode {
		if n, err := strconv.Atoi(f[exitCode]); err == nil {
			status = n
		}
	}
	return p, status, true
}

// pidsIn lists the processes in a cgroup and those below it, at most maxProcesses, the oldest first as far as their
// numbers tell.
func pidsIn(dir string) (pids []int) {
	pids = parsePIDs(control(dir, "cgroup.procs"))
	if entries, err := os.ReadDir(dir); err == nil && len(pids) < maxProcesses {
		for _, e := range entries {
			if e.IsDir() {
				pids = append(pids, pidsIn(filepath.Join(dir, e.Name()))...)
			}
		}
	}
	slices.Sort(pids)
	return pids[:min(len(pids), maxProcesses)]
}

func parsePIDs(b []byte) (pids []int) {
	for line := range bytes.Lines(b) {
		if pid, err := strconv.Atoi(string(bytes.TrimSpace(line))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// openFiles counts the open files of a process.
func openFiles(pid int) int64 {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	if info, err := os.Stat(dir); err == nil && info.Size() > 0 {
		return info.Size() // since Linux 6.2
	}
	names, _ := fileNames(dir)
	return int64(len(names))
}

// fileNames lists the entries of a directory of open files, a bounded number of them.
func fileNames(dir string) ([]string, error) {
	d, err := os.Open(dir) //nolint:gosec // the path is ours
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(maxFiles)
}

// fileLimit is how many open files the process may have; 0 if unknown or without limit.
func fileLimit(pid int) int64 {
	return parseFileLimit(control(fmt.Sprintf("/proc/%d", pid), "limits"))
}

// parseFileLimit reads the soft limit from the form of /proc/<pid>/limits:
//
//	Max open files            1024                 4096                 files
func parseFileLimit(b []byte) int64 {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("Max open files")); ok {
			if f := bytes.Fields(rest); len(f) > 0 {
				n, _ := strconv.ParseInt(string(f[0]), 10, 64)
				return n
			}
		}
	}
	return 0
}

// executable is the program that a process runs, as a path within its container; "" if it cannot be seen.
func executable(pid int) string {
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return ""
	}
	link = strings.TrimSuffix(link, " (deleted)")
	// Where we are in a chroot ourselves, the kernel shows both from outside of it.
	if root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", pid)); err == nil && root != "/" {
		link = strings.TrimPrefix(link, root)
	}
	return link
}

// owner is who has a socket open.
type owner struct{ process, container string }

// socketOwners adds to known who of the processes has the sockets with these inodes open.
func socketOwners(p process, container string, wanted map[uint64]bool, known map[uint64]owner) {
	dir := fmt.Sprintf("/proc/%d/fd", p.pid)
	names, err := fileNames(dir)
	if err != nil {
		return
	}
	for _, name := range names {
		link, err := os.Readlink(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		number, ok := strings.CutPrefix(link, "socket:[")
		if !ok {
			continue
		}
		inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
		if err == nil && wanted[inode] {
			known[inode] = owner{p.name, container}
			delete(wanted, inode)
			if len(wanted) == 0 {
				return
			}
		}
	}
}

// family remembers of the processes of a container what tells who started them.
type family struct {
	// strangers are the processes that were seen with another parent than the container's first process.
	strangers map[process]bool
	daemons   []string
}

// see finds the processes that have gone into the background: the kernel gives a process that has lost its parent to
// the container's first process. That this one did not start it itself is known in three cases. It was seen with another
// parent before. Or it is of a session that neither it nor the first process leads, so it was born into it elsewhere. Or
// it leads a session of its own and the first process is a shell, which gives its children none.
func (f *family) see(first process, program string, all []process) {
	strangers := map[process]bool{}
	for _, p := range all {
		key := process{pid: p.pid, started: p.started}
		if p.pid == first.pid || p.starting() {
			continue
		}
		if p.parent != first.pid || f.strangers[key] {
			strangers[key] = true
		}
		if p.parent != first.pid {
			continue
		}
		bornElsewhere := p.session != p.pid && p.session != first.session
		leftShell := p.session == p.pid && isShell(program)
		if (f.strangers[key] || bornElsewhere || leftShell) && len(f.daemons) < maxDaemons && !slices.Contains(f.daemons, p.name) {
			f.daemons = append(f.daemons, p.name)
		}
	}
	f.strangers = strangers
}

func isShell(program string) bool {
	return slices.Contains([]string{"sh", "ash", "bash", "busybox", "dash", "ksh", "mksh", "yash", "zsh"}, path.Base(program))
}

// listenersOf says in our words who listens.
func listenersOf(sockets []socket, known map[uint64]owner) []trysail.Listener {
	list := make([]trysail.Listener, 0, len(sockets))
	for _, s := range sockets {
		o := known[s.inode]
		list = append(list, trysail.Listener{Address: s.addr, Process: o.process, Container: o.container, UDP: s.udp})
	}
	slices.SortFunc(list, func(a, b trysail.Listener) int {
		if a.UDP != b.UDP {
			if a.UDP {
				return 1
			}
			return -1
		}
		return a.Address.Compare(b.Address)
	})
	return list
}
