package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/dns"
	"github.com/trysail/trysail/internal/engine/cri"
	"github.com/trysail/trysail/internal/engine/podnet"
)

// hostResolvConf names the machine's resolvers.
const hostResolvConf = "/etc/resolv.conf"

// names is the private network as the reconciler sees it: addresses for each service, and the name for them.
type names struct {
	network *podnet.Network
	dns     *dns.Server

	mu        sync.Mutex // guards all below
	published map[string]trysail.PrivateService
}

// Publish implements reconcile.Names.
func (n *names) Publish(s trysail.PrivateService) error {
	addr, err := n.network.Publish(s)
	if err != nil {
		return fmt.Errorf("publishing the private name of %s: %w", s.Service, err)
	}
	n.mu.Lock()
	n.published[s.Service] = s
	n.mu.Unlock()
	n.set(s.Service, addr)
	return nil
}

// set makes the name stand for the service's addresses.
func (n *names) set(service string, addr netip.Addr) {
	addrs := []netip.Addr{addr}
	if six := n.network.Six(addr); six.IsValid() {
		addrs = append(addrs, six)
	}
	n.dns.Set(service, addrs...)
}

// Withdraw implements reconcile.Names.
func (n *names) Withdraw(service string) error {
	n.dns.Remove(service)
	n.mu.Lock()
	delete(n.published, service)
	n.mu.Unlock()
	if err := n.network.Withdraw(service); err != nil {
		return fmt.Errorf("withdrawing the private name of %s: %w", service, err)
	}
	return nil
}

// takesIPv6 reports whether clients of the service may be told its IPv6 address. It is not known before the service is
// published for the first time since the start.
func (n *names) takesIPv6(m machine, service string) bool {
	engine, able := m.(*cri.Engine)
	n.mu.Lock()
	s, known := n.published[service]
	n.mu.Unlock()
	return able && known && engine.TakesIPv6(s)
}

// openNames starts the pods' name server. It knows at once what was published before: pods ask while the rest of the
// server is still being started.
func (s *server) openNames(network *podnet.Network) error {
	n := &names{network: network, published: map[string]trysail.PrivateService{}}
	server, err := dns.Start(dns.Config{
		Addr: netip.AddrPortFrom(network.Gateway(), 53), Clients: network.Subnet(), Upstreams: dns.Resolvers(hostResolvConf), Log: s.log.With("part", "dns"),
		// Nothing is published before the engine is there.
		TakesIPv6: func(service string) bool { return n.takesIPv6(s.engine, service) },
	})
	if err != nil {
		return err
	}
	n.dns = server
	s.onClose(func(context.Context) error { return server.Close() })
	if err := network.ServeDNSAt(server.Port()); err != nil {
		return err
	}
	for service, addr := range network.Published() {
		n.set(service, addr)
	}
	s.names = n
	return nil
}

// edgeAddresses is where the edge will listen. One that cannot be told yet is left out: pods do not reach it.
func (c *config) edgeAddresses(ctx context.Context) (list []netip.AddrPort) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, address := range []string{c.http, c.https} {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			continue
		}
		number, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
		if err != nil || number == 0 {
			continue
		}
		ips := []netip.Addr{netip.IPv4Unspecified()}
		if host != "" {
			if ips, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
				continue
			}
		}
		for _, ip := range ips {
			if ip = ip.Unmap(); ip.IsUnspecified() {
				ip = netip.IPv4Unspecified() // which stands for all addresses, of IPv6 as well
			}
			list = append(list, netip.AddrPortFrom(ip, uint16(number))) //nolint:gosec // a port
		}
	}
	return list
}
