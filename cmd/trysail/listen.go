package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/trysail/trysail/internal/cli"
	"github.com/trysail/trysail/internal/edge"
)

// isLoopback reports whether an address to listen on can be reached from this machine alone.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// listen is net.Listen with errors that say which flag to change.
func listen(ctx context.Context, flag, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, cli.WithHint(fmt.Errorf("%s: the address %s is in use by another program", flag, address),
			"Stop that program (ss -ltnp shows it), or choose another address with %s.", flag)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, cli.WithHint(fmt.Errorf("%s: this machine has no address %s", flag, address), "Choose another one with %s.", flag)
	}
	return nil, fmt.Errorf("listening on %s (%s): %w", address, flag, err)
}

// addresses lists what the server listens on: flag and address.
func (c *config) addresses() [][2]string {
	return [][2]string{{"--listen", c.listen}, {"--http", c.http}, {"--https", c.https}}
}

// checkPorts tries all addresses, so that one that is taken is told before anything has been started.
func checkPorts(ctx context.Context, cfg config, kept *sockets) error {
	for _, a := range cfg.addresses() {
		if kept.has(a[0], a[1]) {
			continue
		}
		l, err := listen(ctx, a[0], a[1])
		if err != nil {
			return err
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}

// apiHosts are the names and addresses under which the API can be reached.
func apiHosts(address, domain string) ([]string, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil && host != "":
		hosts = append(hosts, strings.ToLower(host))
	case err == nil && !ip.IsUnspecified():
		hosts = append(hosts, ip.WithZone("").String())
	default:
		all, err := net.InterfaceAddrs()
		if err != nil {
			return nil, fmt.Errorf("listing the addresses of this machine: %w", err)
		}
		for _, a := range all {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				hosts = append(hosts, n.IP.String())
			}
		}
	}
	if domain != "localhost" {
		hosts = append(hosts, domain)
	}
	return hosts, nil
}

// apiTLS is how the API speaks TLS on an address that others can reach. The machine's own name is added if the local
// CA may sign for it.
func apiTLS(ca *edge.CA, address, domain string) (*tls.Config, error) {
	hosts, err := apiHosts(address, domain)
	if err != nil {
		return nil, err
	}
	if name := hostname(); name != "" {
		if cfg, err := ca.ServerConfig(append(hosts, name)...); err == nil {
			return cfg, nil
		}
	}
	cfg, err := ca.ServerConfig(hosts...)
	if err != nil {
		return nil, fmt.Errorf("making the certificate of the API (--listen %s): %w", address, err)
	}
	return cfg, nil
}

// hostname is the machine's name if it can be a DNS name, else empty.
func hostname() string {
	name, err := os.Hostname()
	name = strings.ToLower(name)
	if err != nil || !isDNSName(name) {
		return ""
	}
	return name
}

// clientEndpoint is the address that clients on this machine call: the one that is listened on, or loopback if that is
// all of them.
func clientEndpoint(l net.Listener, address string) string {
	scheme := "https"
	if isLoopback(address) {
		scheme = "http"
	}
	host, _, err := net.SplitHostPort(address)
	if ip, parseErr := netip.ParseAddr(host); err != nil || host == "" || parseErr == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return scheme + "://" + net.JoinHostPort(host, port)
}
