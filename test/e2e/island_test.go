//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// island is a network of its own for a browser. Chromium breaks off what it is loading when an interface of its machine comes
// or goes (ERR_NETWORK_CHANGED), and pods make them come and go. On the island there is only a loopback interface, and on it
// what the island was shown.
type island struct {
	t  *testing.T
	ns *os.File
}

func newIsland(t *testing.T) *island {
	t.Helper()
	i := &island{t: t}
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("making a network: %w", err)
		}
		if i.ns, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.ns.Close() })
	return i
}

// onThread runs f on a thread of its own, which ends with it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: nobody else gets a thread in another network
		done <- f()
	}()
	return <-done
}

// there runs f on the island.
func (i *island) there(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(i.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("going to the network: %w", err)
		}
		return f()
	})
}

// show makes what listens at an address of the machine's loopback interface listen there on the island, too.
func (i *island) show(address string) {
	i.t.Helper()
	var l net.Listener
	err := i.there(func() (err error) { l, err = net.Listen("tcp", address); return err })
	if err != nil {
		i.t.Fatal(err)
	}
	i.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer near.Close()
				far, err := net.Dial("tcp", address)
				if err != nil {
					return
				}
				defer far.Close()
				join(near, far)
			}()
		}
	}()
}

// join carries bytes both ways until both have ended.
func join(a, b net.Conn) {
	var both sync.WaitGroup
	carry := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if half, ok := to.(*net.TCPConn); ok && err == nil {
			err = half.CloseWrite()
		}
		if err != nil && !errors.Is(err, syscall.ENOTCONN) {
			a.Close()
			b.Close()
		}
	}
	both.Go(func() { carry(a, b) })
	both.Go(func() { carry(b, a) })
	both.Wait()
}

// chromium returns a program that is Chromium on the island.
func (i *island) chromium() string {
	i.t.Helper()
	program := filepath.Join(i.t.TempDir(), "chromium")
	script := fmt.Sprintf("#!/bin/sh\nexec nsenter --net=/proc/%d/fd/%d chromium \"$@\"\n", os.Getpid(), i.ns.Fd())
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		i.t.Fatal(err)
	}
	return program
}
