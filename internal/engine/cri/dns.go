package cri

import (
	"bufio"
	"net/netip"
	"os"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/trysail/trysail/internal/engine/podnet"
)

// resolvedConf is where systemd-resolved names the servers that it asks itself.
const resolvedConf = "/run/systemd/resolve/resolv.conf"

// podDNS says how pods resolve names. A resolver on the host's loopback address cannot be reached from a pod; then the
// servers behind it are used, if systemd-resolved tells them.
func podDNS(cfg Config) (*runtimeapi.DNSConfig, error) {
	b, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	dns := parseResolvConf(string(b))
	if cfg.PrivateDNS && cfg.Subnet.IsValid() {
		dns.Servers = []string{podnet.Config{Subnet: cfg.Subnet}.Gateway().String()}
		return dns, nil
	}
	if len(dns.Servers) == 0 {
		if b, err := os.ReadFile(resolvedConf); err == nil {
			dns = parseResolvConf(string(b))
		}
	}
	if len(cfg.DNS) > 0 {
		dns.Servers = slices.Clone(cfg.DNS)
	}
	return dns, nil
}

// parseResolvConf reads a resolv.conf without the servers on a loopback address.
func parseResolvConf(text string) *runtimeapi.DNSConfig {
	dns := &runtimeapi.DNSConfig{}
	s := bufio.NewScanner(strings.NewReader(text))
	for s.Scan() {
		fields := strings.Fields(s.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if addr, err := netip.ParseAddr(fields[1]); err == nil && !addr.IsLoopback() {
				dns.Servers = append(dns.Servers, fields[1])
			}
		case "search":
			dns.Searches = fields[1:]
		case "options":
			dns.Options = append(dns.Options, fields[1:]...)
		}
	}
	return dns
}
