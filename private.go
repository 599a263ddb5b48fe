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
