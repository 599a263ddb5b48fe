package cri

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// openNetwork lets pods reach the outside: their addresses are replaced by the host's on the way out, and the host's
// firewall lets them through. It can be repeated.
func openNetwork(ctx context.Context, cfg Config, subnet netip.Prefix, log *slog.Logger) error {
	if err := masquerade(cfg, subnet); err != nil {
		return fmt.Errorf("setting up the pods' way to the outside (nftables): %w", err)
	}
	if err := acceptForward(ctx, cfg.Bridge); err != nil {
		log.WarnContext(ctx, "cannot let pods through the host's firewall", "error", err)
	}
	return nil
}

// masquerade replaces our table of the packet filter in one transaction. It holds one rule:
//
//	ip saddr <subnet> ip daddr != <subnet> oifname != <bridge> masquerade
func masquerade(cfg Config, subnet netip.Prefix) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "trysail-" + cfg.id()}
	c.AddTable(table) // so that it can be deleted
	c.DelTable(table)
	c.AddTable(table)
	chain := c.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	network := subnet.Masked().Addr().As4()
	mask := binaryutil.BigEndian.PutUint32(^uint32(0) << (32 - subnet.Bits()))
	bridge := make([]byte, 16)
	copy(bridge, cfg.Bridge)
	const sourceAddress, destinationAddress = 12, 16 // offsets in the IPv4 header
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: sourceAddress, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: network[:]},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: destinationAddress, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: network[:]},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: bridge},
		&expr.Masq{},
	}})
	return c.Flush()
}

// acceptForward lets packets from and to the bridge pass where the host's policy is to drop what it forwards, as Docker
// sets it. That would hit even packets between two pods. An accept in a table of ours would not help: the packet still
// passes the other table. Without iptables on the machine, nobody has set that policy with it.
func acceptForward(ctx context.Context, bridge string) error {
	iptables, err := lookPath("iptables")
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	run := func(args ...string) ([]byte, error) {
		return exec.CommandContext(ctx, iptables, append([]string{"-w", "5"}, args...)...).CombinedOutput() //nolint:gosec // fixed arguments
	}
	rules, err := run("-S", "FORWARD")
	if err != nil || !strings.HasPrefix(string(rules), "-P FORWARD DROP") {
		return nil // no such chain in this kernel, or nothing is dropped
	}
	for _, direction := range []string{"-i", "-o"} {
		rule := []string{"FORWARD", direction, bridge, "-j", "ACCEPT"}
		if strings.Contains(string(rules), strings.Join(rule, " ")+"\n") {
			continue
		}
		if out, err := run(append([]string{"-I"}, rule...)...); err != nil {
			return fmt.Errorf("iptables: %w: %s", err, out)
		}
	}
	return nil
}

// chooseSubnet returns the network of the pods' addresses. What was chosen once is kept, as pods have addresses of it.
func chooseSubnet(cfg Config) (netip.Prefix, error) {
	if cfg.Subnet.IsValid() {
		return cfg.Subnet.Masked(), nil
	}
	file := filepath.Join(cfg.Dir, "subnet")
	b, err := os.ReadFile(file) //nolint:gosec // the path is ours
	if err == nil {
		p, err := netip.ParsePrefix(strings.TrimSpace(string(b)))
		if err != nil {
			return p, fmt.Errorf("reading %s: %w", file, err)
		}
		return p, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return netip.Prefix{}, err
	}
	used, err := usedNetworks(cfg.Bridge)
	if err != nil {
		return netip.Prefix{}, err
	}
	p, ok := freeSubnet(cfg, used)
	if !ok {
		return p, errors.New("no network in 10.92.0.0 to 10.107.255.255 is free for pods; set one with Subnet")
	}
	return p, writeFile(file, []byte(p.String()+"\n"))
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
