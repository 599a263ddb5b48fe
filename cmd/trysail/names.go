package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/dns"
	"github.com/trysail/trysail/internal/engine/podnet"
)

// hostResolvConf names the machine's resolvers.
const hostResolvConf = "/etc/resolv.conf"

// names is the private network as the reconciler sees it: an address for each service, and the name for it.
type names struct {
	network *podnet.Network
	dns     *dns.Server
}

// Publish implements reconcile.Names.
func (n *names) Publish(s trysail.PrivateService) error {
	addr, err := n.network.Publish(s)
	if err != nil {
		return fmt.Errorf("publishing the private name of %s: %w", s.Service, err)
	}
	n.dns.Set(s.Service, addr)
	return nil
}

// Withdraw implements reconcile.Names.
func (n *names) Withdraw(service string) error {
	n.dns.Remove(service)
	if err := n.network.Withdraw(service); err != nil {
		return fmt.Errorf("withdrawing the private name of %s: %w", service, err)
	}
	return nil
}

// openNames starts the pods' name server. It knows at once what was published before: pods ask while the rest of the
// server is still being started.
func (s *server) openNames(network *podnet.Network) error {
	server, err := dns.Start(dns.Config{
		Addr: netip.AddrPortFrom(network.Gateway(), 53), Clients: network.Subnet(), Upstreams: dns.Resolvers(hostResolvConf), Log: s.log.With("part", "dns"),
	})
	if err != nil {
		return err
	}
	s.onClose(func(context.Context) error { return server.Close() })
	if err := network.ServeDNSAt(server.Port()); err != nil {
		return err
	}
	for service, addr := range network.Published() {
		server.Set(service, addr)
	}
	s.names = &names{network, server}
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
				ip = netip.IPv4Unspecified() // a socket for all addresses of IPv6 takes those of IPv4, too
			}
			list = append(list, netip.AddrPortFrom(ip, uint16(number))) //nolint:gosec // a port
		}
	}
	return list
}
