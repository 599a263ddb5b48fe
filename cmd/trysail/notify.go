package main

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

// notify tells systemd, or whoever else named a socket in NOTIFY_SOCKET, how far the server is: READY=1, STOPPING=1.
// Without a socket it does nothing.
func notify(socket, state string) error { return notifyFiles(socket, state) }

// notifyFiles is notify with open files, of which the receiver gets copies.
func notifyFiles(socket, state string, files ...int) error {
	if socket == "" {
		return nil
	}
	// A leading @ stands for the abstract namespace, in package net too.
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notifying systemd: %w", err)
	}
	defer c.Close()
	var rights []byte
	if len(files) > 0 {
		rights = syscall.UnixRights(files...)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("notifying systemd: %w", err)
	}
	var sent error
	err = raw.Write(func(fd uintptr) (done bool) {
		sent = syscall.Sendmsg(int(fd), []byte(state), rights, nil, syscall.MSG_NOSIGNAL)
		return !errors.Is(sent, syscall.EAGAIN)
	})
	if err = errors.Join(err, sent); err != nil {
		return fmt.Errorf("notifying systemd: %w", err)
	}
	return nil
}
