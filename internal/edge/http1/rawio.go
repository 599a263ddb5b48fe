//go:build !race

package http1

import (
	"syscall"
	"unsafe"
)

// rawRead and rawWrite are the system calls on a descriptor that does not block. The scheduler is not told of them, as they take no
// time that would be worth it. p is not empty.
func rawRead(fd int32, p []byte) (int, error) { return raw(syscall.SYS_RECVFROM, fd, p, 0) }

func rawWrite(fd int32, p []byte) (int, error) {
	return raw(syscall.SYS_SENDTO, fd, p, syscall.MSG_NOSIGNAL)
}

func raw(call uintptr, fd int32, p []byte, flags uintptr) (int, error) {
	n, _, errno := syscall.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0) //nolint:gosec // what the call wants
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
