package podnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// openBridge makes the bridge with the gateway's address, if need be, and returns its hardware address. The pods'
// interfaces are put on it by the CNI plugin, which takes the bridge as it is.
func openBridge(cfg Config) (net.HardwareAddr, error) {
	link, err := netlink.LinkByName(cfg.Bridge)
	if _, absent := errors.AsType[netlink.LinkNotFoundError](err); absent {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = cfg.Bridge
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return nil, err
		}
		link, err = netlink.LinkByName(cfg.Bridge)
	}
	if err != nil {
		return nil, err
	}
	mac := link.Attrs().HardwareAddr
	// A bridge has the lowest address of its ports unless it is given one.
	if err := netlink.LinkSetHardwareAddr(link, mac); err != nil {
		return nil, err
	}
	for _, f := range cfg.families() {
		if f == ipv6 {
			if err := enableIPv6(cfg.Bridge); err != nil {
				return nil, err
			}
		}
		gateway := ipNet(cfg.in(f, cfg.Gateway()), cfg.network(f).Bits())
		if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: gateway, Flags: noDAD(f)}); err != nil {
			return nil, fmt.Errorf("giving it the address %s: %w", gateway, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, err
	}
	return mac, errors.Join(
		// A pod that asks for the hardware address of a neighbour is given the machine's: all goes through its rules.
		setting("ipv4/conf", cfg.Bridge, "proxy_arp_pvlan", "1"),
		setting("ipv4/neigh", cfg.Bridge, "proxy_delay", "0"),
		setting("ipv4/conf", cfg.Bridge, "forwarding", "1"),
		setting("ipv4/conf", cfg.Bridge, "send_redirects", "0"),
		setting("ipv4/conf", cfg.Bridge, "route_localnet", "0"),
	)
}

func ipNet(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
}

// noDAD says that nobody is asked whether he has the same IPv6 address: it can be used at once.
func noDAD(f family) int {
	if f == ipv6 {
		return unix.IFA_F_NODAD
	}
	return 0
}

// setting sets one of the kernel's settings of a network interface.
func setting(kind, link, name, value string) error {
	path := filepath.Join("/proc/sys/net", kind, link, name)
	if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
		return fmt.Errorf("setting %s to %s: %w", path, value, err)
	}
	return nil
}

// purgeBridge deletes the bridge, if it is there.
func purgeBridge(name string) error {
	link, err := netlink.LinkByName(name)
	if _, absent := errors.AsType[netlink.LinkNotFoundError](err); absent {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}
