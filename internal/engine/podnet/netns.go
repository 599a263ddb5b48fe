package podnet

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Within calls do on a thread that is in the network namespace (a file in some /proc/<pid>/ns) and waits for it. The
// sockets that do makes in its own goroutine stay in that namespace. The thread ends with the call: none that has been
// elsewhere ever runs other code.
func Within(namespace *os.File, do func() error) error {
	done := make(chan error, 1)
	onSpareThread(func() {
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering the network: %w", err)
			return
		}
		done <- do()
	})
	return <-done
}

// onSpareThread starts do in a goroutine with a thread of its own, which is thrown away when do returns. It is never
// the first thread of the process: that one cannot end, and /proc/self shows where it is.
func onSpareThread(do func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			do()
			return // the thread is still locked, and so ends
		}
		defer runtime.UnlockOSThread()
		passed := make(chan struct{})
		go func() {
			runtime.LockOSThread() // another thread, since the first one is taken
			close(passed)
			do()
		}()
		<-passed
	}()
}
