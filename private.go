package trysail

import "net/netip"

// PrivateService is everything the private network has to know of one service. It is declarative: publishing it twice
// changes nothing.
type PrivateService struct {
	Service string
	// Pods are the addresses of those that get new connections: the healthy ones of the ACTIVE version, in order.
	Pods []netip.Addr
	// TCP and UDP are the ports that the ACTIVE version opens, in order. All else is closed to other services.
	TCP, UDP []uint16
}

// NotOutside are networks that are not the internet, whatever the network near a machine is: the machine itself, the link,
// groups, and where clouds tell a machine its secrets. Pods reach nothing there.
func NotOutside(ipv6 bool) (list []netip.Prefix) {
	networks := []string{
		"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3",
		"100.100.100.200/32", // Alibaba
		"168.63.129.16/32",   // Azure
		"192.0.0.192/32",     // Oracle
	}
	if ipv6 {
		networks = []string{
			"::/96", "::ffff:0:0/96", // this machine, and IPv4 addresses in the clothes of IPv6
			"fe80::/10", "ff00::/8",
			"64:ff9b::169.254.0.0/112", // the link in IPv4, by way of a translator
			"fd00:ec2::254/128",        // Amazon
			"fd20:ce::254/128",         // Google
		}
	}
	for _, n := range networks {
		list = append(list, netip.MustParsePrefix(n))
	}
	return list
}
