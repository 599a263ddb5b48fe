package podnet

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

const sysIPv6 = "/proc/sys/net/ipv6/conf"

// lackOfIPv6 says why pods cannot have IPv6 on this machine; "" if they can.
func lackOfIPv6() string {
	off, err := os.ReadFile(filepath.Join(sysIPv6, "all/disable_ipv6"))
	switch {
	case err != nil:
		return "the kernel has no IPv6"
	case string(bytes.TrimSpace(off)) != "0":
		return "IPv6 is turned off on this machine (net.ipv6.conf.all.disable_ipv6)"
	}
	return ""
}

// enableIPv6 lets the bridge have IPv6 and the machine forward it, which it does for all interfaces or none.
func enableIPv6(bridge string) error {
	for _, s := range [][2]string{{"disable_ipv6", "0"}, {"accept_ra", "0"}, {"accept_redirects", "0"}} {
		if err := setting("ipv6/conf", bridge, s[0], s[1]); err != nil {
			return err
		}
	}
	return forwardIPv6()
}

// forwardIPv6 makes the machine a router for IPv6. The kernel then no longer takes its own address and route from the
// announcements of another router, unless it is told to: an interface that does so now shall go on.
func forwardIPv6() error {
	on, err := os.ReadFile(filepath.Join(sysIPv6, "all/forwarding"))
	if err == nil && string(bytes.TrimSpace(on)) == "1" {
		return nil
	}
	links, err := os.ReadDir(sysIPv6)
	if err != nil {
		return fmt.Errorf("listing the network interfaces: %w", err)
	}
	for _, l := range links {
		path := filepath.Join(sysIPv6, l.Name(), "accept_ra")
		now, err := os.ReadFile(path) //nolint:gosec // a file of the kernel
		if err != nil || string(bytes.TrimSpace(now)) != "1" || l.Name() == "all" {
			continue // it is gone, or takes none, or takes them always
		}
		if err := os.WriteFile(path, []byte("2"), 0o600); err != nil {
			return fmt.Errorf("setting %s: %w", path, err)
		}
	}
	return setting("ipv6/conf", "all", "forwarding", "1")
}
