package podnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// member is a pod's connection with the bridge: what comes from there with any other address is forged.
type member struct {
	// Link is the index of the network interface on the bridge.
	Link int `json:"link"`
	// MAC is the hardware address of the pod's end.
	MAC string `json:"mac"`
}

func (m member) mac() net.HardwareAddr {
	mac, _ := net.ParseMAC(m.MAC) // it was written by us
	return mac
}

// podLink is the name of a pod's network interface, in the pod.
const podLink = "eth0"

// Admit puts a pod under the rules and gives it its IPv6 address. namespace is a file that stands for its network
// namespace, where it already has the IPv4 address. It is called before anything of the pod runs, again for the pods that
// are there after a restart, and repeating it changes nothing.
func (n *Network) Admit(namespace string, pod netip.Addr) error {
	if !pod.Is4() || !n.cfg.Subnet.Contains(pod) {
		return fmt.Errorf("the pod's address %v is not in the network %s", pod, n.cfg.Subnet)
	}
	m, err := n.connect(namespace, pod)
	if err != nil {
		return fmt.Errorf("connecting the pod at %v: %w", pod, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state.Members[pod] == m {
		return n.reach(pod, m)
	}
	before := n.state
	n.state = before.clone()
	n.state.Members[pod] = m
	err = n.addMember(pod, m)
	if err == nil {
		err = n.reach(pod, m)
	}
	if err == nil {
		err = writeState(n.cfg.File, n.state)
	}
	if err != nil {
		n.state = before
		return fmt.Errorf("putting the pod at %v under the rules: %w", pod, err)
	}
	return nil
}

// connect sets up the pod's end, and says what it is connected to.
func (n *Network) connect(namespace string, pod netip.Addr) (m member, err error) {
	f, err := os.Open(namespace) //nolint:gosec // the path is the engine's
	if err != nil {
		return m, err
	}
	defer f.Close()
	err = Within(f, func() error {
		m, err = n.connectHere(pod)
		return err
	})
	return m, err
}

// connectHere does it in the namespace of its thread.
func (n *Network) connectHere(pod netip.Addr) (member, error) {
	link, err := netlink.LinkByName(podLink)
	if err != nil {
		return member{}, fmt.Errorf("looking for %s: %w", podLink, err)
	}
	m := member{Link: link.Attrs().ParentIndex, MAC: link.Attrs().HardwareAddr.String()}
	own, gateway := n.cfg.Six(pod), n.cfg.Six(n.cfg.Gateway())
	if !own.IsValid() {
		return m, nil
	}
	for _, s := range [][2]string{{"disable_ipv6", "0"}, {"accept_ra", "0"}} {
		if err := setting("ipv6/conf", podLink, s[0], s[1]); err != nil {
			return m, err
		}
	}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(own, 128), Flags: noDAD(ipv6)}); err != nil {
		return m, fmt.Errorf("giving it the address %s: %w", own, err)
	}
	// It has no neighbours but the machine, whose hardware address it need not ask for.
	if err := netlink.NeighSet(neighbour(link.Attrs().Index, gateway, n.cfg.mac)); err != nil {
		return m, fmt.Errorf("telling it the machine's hardware address: %w", err)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
	if err := netlink.RouteReplace(route); err != nil {
		return m, fmt.Errorf("giving it a route by %s: %w", gateway, err)
	}
	return m, nil
}

// neighbour is an entry that nobody on the link can change by claims of his own.
func neighbour(link int, a netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: link, IP: a.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT}
}

// reach puts the pod's interface under the rules and tells the machine the pod's hardware address.
func (n *Network) reach(pod netip.Addr, m member) error {
	link, err := netlink.LinkByIndex(m.Link)
	if err != nil {
		return fmt.Errorf("looking for its interface on the bridge: %w", err)
	}
	if err := netlink.LinkSetGroup(link, int(n.cfg.group())); err != nil {
		return fmt.Errorf("marking its interface on the bridge: %w", err)
	}
	for _, f := range n.cfg.families() {
		if err := netlink.NeighSet(neighbour(link.Attrs().MasterIndex, n.cfg.in(f, pod), m.mac())); err != nil {
			return fmt.Errorf("noting its hardware address: %w", err)
		}
	}
	return nil
}

// Forget ends what is known of a pod that is gone, whose address may become another's, and of connections with it.
func (n *Network) Forget(pod netip.Addr) error {
	if !pod.Is4() {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	if _, known := n.state.Members[pod]; known {
		// Its element in the rules stays until they are replaced: it stands for an interface that is gone.
		n.state = n.state.clone()
		delete(n.state.Members, pod)
		errs = append(errs, writeState(n.cfg.File, n.state))
	}
	if bridge, err := netlink.LinkByName(n.cfg.Bridge); err == nil {
		for _, f := range n.cfg.families() {
			err := netlink.NeighDel(&netlink.Neigh{LinkIndex: bridge.Attrs().Index, IP: n.cfg.in(f, pod).AsSlice()})
			if err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("forgetting its hardware address: %w", err))
			}
		}
	}
	return errors.Join(append(errs, n.forgetFlows([]netip.Addr{pod}, false))...)
}

// keepMembers forgets the pods that have gone while nobody looked, as all do with the machine.
func (n *Network) keepMembers() error {
	bridge, err := netlink.LinkByName(n.cfg.Bridge)
	if err != nil {
		return fmt.Errorf("looking for the bridge %s: %w", n.cfg.Bridge, err)
	}
	for pod, m := range n.state.Members {
		link, err := netlink.LinkByIndex(m.Link)
		if err != nil || link.Attrs().MasterIndex != bridge.Attrs().Index || link.Attrs().Group != n.cfg.group() {
			delete(n.state.Members, pod)
		}
	}
	return n.reachAll()
}

// reachAll does it again for all pods: the kernel forgets what it was told of them when the bridge was down or has got a
// hardware address, be it the one that it had.
func (n *Network) reachAll() error {
	var errs []error
	for pod, m := range n.state.Members {
		if err := n.reach(pod, m); err != nil && !isGone(err) {
			errs = append(errs, fmt.Errorf("the pod at %v: %w", pod, err))
		}
	}
	return errors.Join(errs...)
}

func isGone(err error) bool {
	_, gone := errors.AsType[netlink.LinkNotFoundError](err)
	return gone || errors.Is(err, unix.ENODEV)
}
