package main

import (
	"fmt"
	"net"
)

// notify tells systemd, or whoever else named a socket in NOTIFY_SOCKET, how far the server is: READY=1, STOPPING=1.
// Without a socket it does nothing.
func notify(socket, state string) error {
	if socket == "" {
		return nil
	}
	// A leading @ stands for the abstract namespace, in package net too.
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notifying systemd: %w", err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(state)); err != nil {
		return fmt.Errorf("notifying systemd: %w", err)
	}
	return nil
}
