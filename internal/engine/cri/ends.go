package cri

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// life is a handle on a process that tells its end at once, and then how it ended. The runtime needs some ten
// milliseconds until it removes the cgroup of a container whose first process has ended; who learns of the end from the
// runtime comes too late to read the counters.
type life struct {
	pid  int
	file *os.File // a pidfd
}

// openLife takes hold of a process. Errors: that of pidfd_open(2).
func openLife(pid int) (*life, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("taking hold of process %d: %w", pid, err)
	}
	// Go's runtime waits for descriptors that do not block without a thread for each.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &life{pid: pid, file: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// Close lets go of the process and ends wait.
func (l *life) Close() error { return l.file.Close() }

// wait returns when the process has ended; false if it was closed before.
func (l *life) wait() bool {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return false
	}
	return raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
		n, err := unix.Poll(fds, 0)
		return err == nil && n > 0
	}) == nil
}

// status is how the process ended; ok is false if that cannot be known any more. As long as its parent has not asked,
// the process is in /proc; afterwards kernels from 6.15 on remember.
func (l *life) status() (status syscall.WaitStatus, ok bool) {
	if _, status, ok := parseStat(control(fmt.Sprintf("/proc/%d", l.pid), "stat")); ok && status >= 0 {
		return syscall.WaitStatus(status), true //nolint:gosec // 16 bits
	}
	raw, err := l.file.SyscallConn()
	if err != nil {
		return 0, false
	}
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	err = raw.Control(func(fd uintptr) {
		if unix.IoctlPidfdInfo(int(fd), &info) != nil {
			info.Mask = 0
		}
	})
	if err != nil || info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return 0, false
	}
	return syscall.WaitStatus(info.Exit_code), true //nolint:gosec // 16 bits
}

// exitCode is what containerd makes of a status.
func exitCode(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}
