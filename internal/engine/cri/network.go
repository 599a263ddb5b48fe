package cri

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine/podnet"
)

// network is the pods' network; the subnets have been chosen.
func (c Config) network(log *slog.Logger) (podnet.Config, error) {
	n := podnet.Config{ID: c.id(), Bridge: c.Bridge, Subnet: c.Subnet, Subnet6: c.Subnet6, File: c.servicesFile(), Edge: c.Edge, Log: log}
	dns, err := podDNS(c)
	if err != nil {
		return n, err
	}
	for _, server := range dns.Servers {
		if a, err := netip.ParseAddr(server); err == nil {
			n.Resolvers = append(n.Resolvers, a)
		}
	}
	return n, nil
}

// admit puts the pod, which has its address, into the network.
func (e *Engine) admit(ctx context.Context, id trysail.PodID, sandboxID string) error {
	addr, err := e.addr(ctx, sandboxID)
	if err != nil {
		return err
	}
	pid, err := e.cgroups.sandboxProcess(id, sandboxID)
	if err != nil {
		return err
	}
	e.witness.located(id, addr)
	return e.network.Admit(fmt.Sprintf("/proc/%d/ns/net", pid), addr)
}

// TakesIPv6 reports whether all pods of a service were seen listening for IPv6 at all of its open ports. Many programs
// listen for IPv4 alone, as at 0.0.0.0, and their clients should not be told of another address.
func (e *Engine) TakesIPv6(s trysail.PrivateService) bool {
	for _, addr := range s.Pods {
		listening := e.witness.listening(addr)
		for udp, ports := range map[bool][]uint16{false: s.TCP, true: s.UDP} {
			for _, port := range ports {
				if !slices.ContainsFunc(listening, func(l trysail.Listener) bool {
					at := l.Address.Addr()
					return l.UDP == udp && l.Address.Port() == port && at.Is6() && !at.Is4In6() && !at.IsLoopback()
				}) {
					return false
				}
			}
		}
	}
	return len(s.Pods) > 0
}

// chooseSubnet returns the network of the pods' addresses. What was chosen once is kept, as pods have addresses of it.
func chooseSubnet(cfg Config) (netip.Prefix, error) {
	if cfg.Subnet.IsValid() {
		return cfg.Subnet.Masked(), nil
	}
	file := filepath.Join(cfg.Dir, "subnet")
	if p, err := readSubnet(file); err != nil || p.IsValid() {
		return p, err
	}
	used, err := usedNetworks(cfg.Bridge)
	if err != nil {
		return netip.Prefix{}, err
	}
	p, ok := freeSubnet(cfg, used)
	if !ok {
		return p, errors.New("no network in 10.92.0.0 to 10.107.255.255 is free for pods; choose another with --subnet")
	}
	return p, writeFile(file, []byte(p.String()+"\n"))
}

// readSubnet reads what was chosen before; invalid if nothing was.
func readSubnet(file string) (p netip.Prefix, err error) {
	b, err := os.ReadFile(file) //nolint:gosec // the path is ours
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		p, err = netip.ParsePrefix(strings.TrimSpace(string(b)))
	}
	if err != nil {
		return p, fmt.Errorf("reading the pods' network from %s: %w", file, err)
	}
	return p, nil
}

// chooseSubnet6 returns the network of the pods' IPv6 addresses, which is kept like the other one; invalid if they shall
// have none. It is of the addresses that nobody else has (RFC 4193): 40 bits of it are random.
func chooseSubnet6(cfg Config) (netip.Prefix, error) {
	if cfg.NoIPv6 {
		return netip.Prefix{}, nil
	}
	if cfg.Subnet6.IsValid() {
		return cfg.Subnet6.Masked(), nil
	}
	file := filepath.Join(cfg.Dir, "subnet6")
	if p, err := readSubnet(file); err != nil || p.IsValid() {
		return p, err
	}
	a := [16]byte{0xfd}
	_, _ = rand.Read(a[1:6]) // it cannot fail
	p := netip.PrefixFrom(netip.AddrFrom16(a), 64)
	return p, writeFile(file, []byte(p.String()+"\n"))
}

// checkSubnets looks for networks of this machine that have addresses of the pods' networks. A bridge that is there has
// pods: then it is too late to choose, and all that can be done is to say so.
func checkSubnets(ctx context.Context, cfg Config, log *slog.Logger) error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("listing the network interfaces: %w", err)
	}
	running := slices.ContainsFunc(interfaces, func(i net.Interface) bool { return i.Name == cfg.Bridge })
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil || i.Name == cfg.Bridge {
			continue // it is gone, or ours
		}
		for _, a := range addrs {
			other, err := netip.ParsePrefix(a.String())
			if err != nil {
				continue
			}
			for flag, own := range map[string]netip.Prefix{"--subnet": cfg.Subnet, "--subnet6": cfg.Subnet6} {
				if !own.IsValid() || !own.Overlaps(other) {
					continue
				}
				err := fmt.Errorf("the containers' network %s overlaps with %s, where this machine is by its interface %s; choose another with %s", own, other.Masked(), i.Name, flag)
				if !running {
					return err
				}
				log.WarnContext(ctx, "some addresses cannot be reached", "reason", err)
			}
		}
	}
	return nil
}

// freeSubnet finds a /20 in 10.92.0.0–10.107.255.255 that overlaps no network in use. Where the search begins depends
// on the engine, so that two on one machine, started at the same moment, do not choose the same.
func freeSubnet(cfg Config, used []netip.Prefix) (netip.Prefix, bool) {
	const choices = 256
	id := cfg.id()
	var first uint32
	for _, c := range []byte(id) {
		first = first*31 + uint32(c)
	}
	for i := range uint32(choices) {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 10<<24|92<<16+(first+i)%choices<<12)
		p := netip.PrefixFrom(netip.AddrFrom4(a), 20)
		free := true
		for _, u := range used {
			free = free && !u.Overlaps(p)
		}
		if free {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// usedNetworks lists the IPv4 networks that the machine has addresses in or routes to, except by our bridge and by the
// default route.
func usedNetworks(bridge string) ([]netip.Prefix, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var used []netip.Prefix
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil || i.Name == bridge {
			continue
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
				used = append(used, p.Masked())
			}
		}
	}
	b, err := os.ReadFile("/proc/net/route")
	if errors.Is(err, fs.ErrNotExist) {
		return used, nil // a kernel without the table; the addresses are known
	}
	if err != nil {
		return nil, err
	}
	return append(used, parseRoutes(string(b), bridge)...), nil
}

// parseRoutes reads the kernel's table of routes: interface, destination and (eighth) mask, in hexadecimal digits of
// the machine's byte order.
func parseRoutes(text, bridge string) (routes []netip.Prefix) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 8 || f[0] == bridge {
			continue
		}
		var dest, mask uint32
		if _, err := fmt.Sscanf(f[1]+" "+f[7], "%x %x", &dest, &mask); err != nil || mask == 0 {
			continue
		}
		var a, m [4]byte
		binary.NativeEndian.PutUint32(a[:], dest)
		binary.NativeEndian.PutUint32(m[:], mask)
		ones, _ := net.IPMask(m[:]).Size()
		routes = append(routes, netip.PrefixFrom(netip.AddrFrom4(a), ones).Masked())
	}
	return routes
}

// releaseLeases frees the addresses of sandboxes that are gone: those whose start was cut short by a crash. The plugin
// host-local keeps one file per address, whose first line is the sandbox's id.
func releaseLeases(dir string, sandboxes map[string]bool) error {
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.*.*.*"))
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(f) //nolint:gosec // the path is ours
		if err != nil {
			continue
		}
		id, _, _ := strings.Cut(string(b), "\n")
		if !sandboxes[strings.TrimSpace(id)] {
			if err := os.Remove(f); err != nil {
				return err
			}
		}
	}
	return nil
}
