package podnet

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
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
	gateway := &net.IPNet{IP: cfg.Gateway().AsSlice(), Mask: net.CIDRMask(cfg.Subnet.Bits(), 32)}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: gateway}); err != nil {
		return nil, fmt.Errorf("giving it the address %s: %w", gateway, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, err
	}
	return mac, errors.Join(
		// A pod that asks for the hardware address of a neighbour is given the machine's: all goes through its rules.
		setting(cfg.Bridge, "conf", "proxy_arp_pvlan", "1"),
		setting(cfg.Bridge, "neigh", "proxy_delay", "0"),
		setting(cfg.Bridge, "conf", "forwarding", "1"),
		setting(cfg.Bridge, "conf", "send_redirects", "0"),
		setting(cfg.Bridge, "conf", "route_localnet", "0"),
	)
}

// setting sets one of the kernel's settings of an interface for IPv4.
func setting(link, kind, name, value string) error {
	path := filepath.Join("/proc/sys/net/ipv4", kind, link, name)
	if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
		return fmt.Errorf("setting %s to %s: %w", path, value, err)
	}
	return nil
}

// Admit puts the interfaces of all pods under the rules. It is called after a pod has got its interface and before
// anything of the pod runs.
func (n *Network) Admit() error {
	bridge, err := netlink.LinkByName(n.cfg.Bridge)
	if err != nil {
		return fmt.Errorf("looking for the bridge %s: %w", n.cfg.Bridge, err)
	}
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("listing the network interfaces: %w", err)
	}
	group := n.cfg.group()
	for _, l := range links {
		if l.Attrs().MasterIndex != bridge.Attrs().Index || l.Attrs().Group == group {
			continue
		}
		err := netlink.LinkSetGroup(l, int(group))
		if _, gone := errors.AsType[netlink.LinkNotFoundError](err); err != nil && !gone && exists(l.Attrs().Name) {
			return fmt.Errorf("putting the network interface %s under the rules: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

func exists(link string) bool {
	_, err := os.Stat(filepath.Join("/sys/class/net", link))
	return err == nil
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
