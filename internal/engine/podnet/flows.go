package podnet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// flows chooses connections with pods among those that the kernel tracks.
type flows struct {
	pods []netip.Addr
	// redirected takes only UDP, and only what was sent to a service's address: the client goes on, with another pod.
	redirected bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f flows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	to, _ := netip.AddrFromSlice(flow.Forward.DstIP)
	from, _ := netip.AddrFromSlice(flow.Forward.SrcIP)
	answers, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	to, from, answers = to.Unmap(), from.Unmap(), answers.Unmap()
	if f.redirected {
		return flow.Forward.Protocol == unix.IPPROTO_UDP && to != answers && slices.Contains(f.pods, answers)
	}
	return slices.Contains(f.pods, answers) || slices.Contains(f.pods, from)
}

// forgetFlows makes the kernel forget connections with the pods, over IPv4 and IPv6. The next packet is treated as the
// first of a new one.
func (n *Network) forgetFlows(pods []netip.Addr, redirected bool) error {
	if len(pods) == 0 {
		return nil
	}
	var errs []error
	for _, f := range n.cfg.families() {
		filter := flows{redirected: redirected}
		for _, pod := range pods {
			filter.pods = append(filter.pods, n.cfg.in(f, pod))
		}
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(f.proto), filter)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, netlink.ErrDumpInterrupted) {
			errs = append(errs, fmt.Errorf("forgetting connections: %w", err))
		}
	}
	return errors.Join(errs...)
}
