package cri

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/trysail/trysail/internal/engine/podnet"
)

// network is the pods' network; the subnet has been chosen.
func (c Config) network(log *slog.Logger) (podnet.Config, error) {
	n := podnet.Config{ID: c.id(), Bridge: c.Bridge, Subnet: c.Subnet, File: c.servicesFile(), Edge: c.Edge, Log: log}
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

// chooseSubnet returns the network of the pods' addresses. What was chosen once is kept, as pods have addresses of it.
// One that the machine uses for something else is refused: packets for pods would go there.
func chooseSubnet(cfg Config) (netip.Prefix, error) {
	used, err := usedNetworks(cfg.Bridge)
	if err != nil {
		return netip.Prefix{}, err
	}
	if cfg.Subnet.IsValid() {
		return cfg.Subnet.Masked(), conflict(cfg.Subnet, used)
	}
	file := filepath.Join(cfg.Dir, "subnet")
	b, err := os.ReadFile(file) //nolint:gosec // the path is ours
	if err == nil {
		p, err := netip.ParsePrefix(strings.TrimSpace(string(b)))
		if err != nil {
			return p, fmt.Errorf("reading %s: %w", file, err)
		}
		return p, conflict(p, used)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return netip.Prefix{}, err
	}
	p, ok := freeSubnet(cfg, used)
	if !ok {
		return p, errors.New("no network in 10.92.0.0 to 10.107.255.255 is free for pods; set one with Subnet")
	}
	return p, writeFile(file, []byte(p.String()+"\n"))
}

// usedNetwork is a network that an interface has an address in or a route to.
type usedNetwork struct {
	netip.Prefix
	link string
}

// conflict refuses a subnet that is used already, whole or in part. That it lies within a larger network, such as the one
// of a company, is for whoever chose it to know: the pods' addresses go before the rest of that network.
func conflict(subnet netip.Prefix, used []usedNetwork) error {
	for _, u := range used {
		if u.Overlaps(subnet) && u.Bits() >= subnet.Bits() {
			return fmt.Errorf("the pods' network %s is in use on this machine: %s goes to the interface %s; choose another with --subnet, or remove that one (ip link delete %s) if it is left over from another data directory",
				subnet.Masked(), u.Prefix, u.link, u.link)
		}
	}
	return nil
}

// freeSubnet finds a /20 in 10.92.0.0–10.107.255.255 that overlaps no network in use. Where the search begins depends
// on the engine, so that two on one machine, started at the same moment, do not choose the same.
func freeSubnet(cfg Config, used []usedNetwork) (netip.Prefix, bool) {
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
func usedNetworks(bridge string) ([]usedNetwork, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var used []usedNetwork
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil || i.Name == bridge {
			continue
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
				used = append(used, usedNetwork{p.Masked(), i.Name})
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
func parseRoutes(text, bridge string) (routes []usedNetwork) {
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
		routes = append(routes, usedNetwork{netip.PrefixFrom(netip.AddrFrom4(a), ones).Masked(), f[0]})
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
