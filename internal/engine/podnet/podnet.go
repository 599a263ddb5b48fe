// Package podnet is the network of this machine's pods: a bridge, addresses that stand for services, and the rules of
// the packet filter that say who reaches whom.
//
//	pod ──▶ <address of service api>:8080 ──▶ (nftables: a healthy pod of api that opens 8080) ──▶ pod of api
//	pod ──▶ internet                          through the machine, with the machine's address
//	pod ──▶ anything else                     refused
//
// A pod has one address that is kept track of, the IPv4 one. Where the machine has IPv6, everything in the network, be it a
// pod, a service or the machine itself, has a second one that follows from the first (Config.Six).
//
// The rules are in two tables of our own (table.go). When somebody removes them, they are put back (guard.go). Other
// firewalls on the machine are told to let pods through (host.go); none of their rules is changed.
package podnet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/trysail/trysail"
)

// dnsStandard is where pods expect their name server.
const dnsStandard = 53

// Config says which network it is.
type Config struct {
	// ID tells networks on one machine apart: lower-case letters and digits.
	ID string
	// Bridge is the name of the bridge that connects the pods.
	Bridge string
	// Subnet is where pods and services have their addresses: IPv4, /8 to /24.
	Subnet netip.Prefix
	// Subnet6 is where they have IPv6 addresses: /96 or larger; invalid if they have none.
	Subnet6 netip.Prefix
	// File keeps the addresses of services. What it says is in force as soon as the network is open: pods run while
	// nobody looks after them.
	File string
	// Resolvers are the name servers that pods ask, as far as they are addresses of this machine.
	Resolvers []netip.Addr
	// Edge is where the load balancer listens. Pods reach it as anybody does; an invalid address stands for all of the
	// machine's.
	Edge []netip.AddrPort
	Log  *slog.Logger

	mac net.HardwareAddr // of the bridge
}

// Gateway is this machine's address in the network: the first.
func (c Config) Gateway() netip.Addr { return c.Subnet.Masked().Addr().Next() }

// Six is the IPv6 address of what has the IPv4 address a in the network: the prefix, and a as its last four bytes. It is
// invalid where there is no IPv6, or no a.
func (c Config) Six(a netip.Addr) netip.Addr {
	if !c.Subnet6.IsValid() || !a.Is4() {
		return netip.Addr{}
	}
	b, low := c.Subnet6.Masked().Addr().As16(), a.As4()
	copy(b[12:], low[:])
	return netip.AddrFrom16(b)
}

// families are the kinds of addresses that the network has.
func (c Config) families() []family {
	if c.Subnet6.IsValid() {
		return []family{ipv4, ipv6}
	}
	return []family{ipv4}
}

// in is what has the IPv4 address a, as an address of the family.
func (c Config) in(f family, a netip.Addr) netip.Addr {
	if f == ipv6 {
		return c.Six(a)
	}
	return a
}

// network is the part of the network of the family.
func (c Config) network(f family) netip.Prefix {
	if f == ipv6 {
		return c.Subnet6
	}
	return c.Subnet
}

// services returns the first and last of the addresses that stand for services: the last quarter of the network, or 128
// addresses of a small one. The very last is the network's broadcast address.
func (c Config) services() (first, last netip.Addr) {
	size := uint32(1) << (32 - c.Subnet.Bits())
	network := binary.BigEndian.Uint32(c.Subnet.Masked().Addr().AsSlice())
	return addr4(network + size - max(size/4, min(size/2, 128))), addr4(network + size - 2)
}

// LastPod is the last of the addresses that pods may have. They begin after the gateway.
func (c Config) LastPod() netip.Addr {
	first, _ := c.services()
	return first.Prev()
}

func addr4(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// group is the number of the group of network interfaces that the pods' are in, so that rules know them.
func (c Config) group() uint32 {
	h := fnv.New32a()
	h.Write([]byte(c.ID))
	return h.Sum32()&0x7fffffff | 1<<16 // no number that a person would choose
}

// Network is the open network. Its methods are safe for concurrent use.
type Network struct {
	cfg  Config
	log  *slog.Logger
	stop context.CancelFunc
	wg   sync.WaitGroup // the guard

	mu      sync.Mutex // guards all below, and the rules
	state   state
	dnsPort uint16
	mark    *mark

	warned []Obstacle // by warn alone
}

// Open makes the bridge and the rules. What earlier calls have published is in force at once.
func Open(ctx context.Context, cfg Config) (*Network, error) {
	st, err := readState(cfg.File)
	if err != nil {
		return nil, err
	}
	if cfg.Subnet6.IsValid() {
		if why := lackOfIPv6(); why != "" {
			cfg.Log.InfoContext(ctx, "pods have no IPv6", "reason", why)
			cfg.Subnet6 = netip.Prefix{}
		}
	}
	if cfg.mac, err = openBridge(cfg); err != nil {
		return nil, fmt.Errorf("making the bridge %s: %w", cfg.Bridge, err)
	}
	n := &Network{cfg: cfg, log: cfg.Log, state: st}
	if err := n.keepMembers(); err != nil {
		return nil, err
	}
	if err := n.install(); err != nil {
		return nil, err
	}
	admitByHost(ctx, n.cfg)
	n.warn(ctx)
	own, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.stop = stop
	n.wg.Go(func() { n.guard(own) })
	return n, nil
}

// Close stops looking after the rules. They stay, as the pods do.
func (n *Network) Close() {
	n.stop()
	n.wg.Wait()
}

// Gateway is this machine's address in the network, where the pods' name server is to listen.
func (n *Network) Gateway() netip.Addr { return n.cfg.Gateway() }

// Subnet is the network.
func (n *Network) Subnet() netip.Prefix { return n.cfg.Subnet }

// install writes the rules. n.mu is held, or nobody else knows n.
func (n *Network) install() error {
	m, err := install(n.cfg, n.state, n.dnsPort)
	if err != nil {
		return fmt.Errorf("setting up the pods' network (nftables): %w", err)
	}
	n.mark = m
	return nil
}

// ServeDNSAt says on which port of the gateway the name server listens, where another program has the usual one.
func (n *Network) ServeDNSAt(port uint16) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dnsPort == port {
		return nil
	}
	n.dnsPort = port
	return n.install()
}

// Published lists the services' IPv4 addresses.
func (n *Network) Published() map[string]netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make(map[string]netip.Addr, len(n.state.Services))
	for name, s := range n.state.Services {
		all[name] = s.Addr
	}
	return all
}

// Six is Config.Six of the open network.
func (n *Network) Six(a netip.Addr) netip.Addr { return n.cfg.Six(a) }

// Publish makes the service's open ports reachable at an address that stays the same as long as the service is
// published, and returns it: the IPv4 one, see Six. From its return on new connections go to the pods in s, and so does the next packet of a UDP
// flow that went to a pod that is not there any more.
func (n *Network) Publish(s trysail.PrivateService) (netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	old, known := n.state.Services[s.Service]
	now := &published{Pods: only4(s.Pods), TCP: s.TCP, UDP: s.UDP}
	if known {
		if old.same(now) {
			return old.Addr, nil
		}
		now.Addr = old.Addr
	} else {
		var err error
		if now.Addr, err = n.freeAddr(s.Service); err != nil {
			return netip.Addr{}, err
		}
	}
	if err := n.change(func(st *state) { st.Services[s.Service] = now }); err != nil {
		return netip.Addr{}, err
	}
	if known {
		var gone []netip.Addr
		for _, p := range old.Pods {
			if !slices.Contains(now.Pods, p) {
				gone = append(gone, p)
			}
		}
		if err := n.forgetFlows(gone, true); err != nil {
			n.log.Warn("cannot redirect what is on its way to pods that are gone", "service", s.Service, "error", err)
		}
	}
	return now.Addr, nil
}

func only4(list []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(list), func(a netip.Addr) bool { return !a.Is4() })
}

// Withdraw forgets the service and its address.
func (n *Network) Withdraw(service string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state.Services[service] == nil {
		return nil
	}
	return n.change(func(st *state) { delete(st.Services, service) })
}

// change applies a change to the rules and then keeps it. What fails is as if it had not been tried.
func (n *Network) change(do func(*state)) error {
	before := n.state
	n.state = before.clone()
	do(&n.state)
	err := n.install()
	if err == nil {
		err = writeState(n.cfg.File, n.state)
	}
	if err != nil {
		n.state = before
		return errors.Join(err, n.install())
	}
	return nil
}

// freeAddr chooses an address for a service. It depends on the name, so that a service that is made again mostly has the
// address that clients may remember.
func (n *Network) freeAddr(service string) (netip.Addr, error) {
	first, last := n.cfg.services()
	low, high := binary.BigEndian.Uint32(first.AsSlice()), binary.BigEndian.Uint32(last.AsSlice())
	taken := map[netip.Addr]bool{}
	for _, s := range n.state.Services {
		taken[s.Addr] = true
	}
	h := fnv.New32a()
	h.Write([]byte(service))
	count := high - low + 1
	for i := range count {
		if a := addr4(low + (h.Sum32()%count+i)%count); !taken[a] {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("all %d addresses for services in %s are taken; choose a larger network with --subnet", count, n.cfg.Subnet)
}

// Purge removes the rules, those in iptables as well, and the bridge.
func Purge(ctx context.Context, cfg Config) error {
	return errors.Join(uninstall(cfg), purgeIptables(ctx, cfg.Bridge), purgeBridge(cfg.Bridge))
}
