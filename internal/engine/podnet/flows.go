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

// forgetFlows makes the kernel forget connections with the pods. The next packet is treated as the first of a new one.
func forgetFlows(pods []netip.Addr, redirected bool) error {
	if len(pods) == 0 {
		return nil
	}
	_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, flows{pods, redirected})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("forgetting connections: %w", err)
	}
	return nil
}
