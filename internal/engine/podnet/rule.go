package podnet

import (
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A match is a part of a rule: what a packet must be, or what becomes of it. The functions here have the names that nft
// has for the same.
type match []expr.Any

// rule puts matches together.
func rule(parts ...match) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// family is what differs between IPv4 and IPv6 in a rule.
type family struct {
	suffix              string // of the names of sets
	proto               byte
	size                uint32 // of an address, in bytes
	source, destination uint32 // of the addresses in the header
	address             nftables.SetDatatype
}

var (
	ipv4 = family{"", unix.NFPROTO_IPV4, 4, 12, 16, nftables.TypeIPAddr}
	ipv6 = family{"6", unix.NFPROTO_IPV6, 16, 8, 24, nftables.TypeIP6Addr}
)

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// reg is where one value is held: the first register, which is 16 bytes wide and begins where the one of four bytes does.
// A concatenation begins there too and goes on, each of its parts in as many registers of four bytes as it needs.
const reg = unix.NFT_REG_1

// after is the register after so many bytes of a concatenation.
func after(bytes uint32) uint32 {
	if bytes == 0 {
		return reg
	}
	return unix.NFT_REG32_00 + (bytes+3)/4
}

func meta(key expr.MetaKey, op expr.CmpOp, value []byte) match {
	return match{&expr.Meta{Key: key, Register: reg}, &expr.Cmp{Op: op, Register: reg, Data: value}}
}

func interfaceName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func iifname(name string) match { return meta(expr.MetaKeyIIFNAME, expr.CmpOpEq, interfaceName(name)) }

func oifname(name string) match { return meta(expr.MetaKeyOIFNAME, expr.CmpOpEq, interfaceName(name)) }

func notIifname(name string) match {
	return meta(expr.MetaKeyIIFNAME, expr.CmpOpNeq, interfaceName(name))
}

func notOifname(name string) match {
	return meta(expr.MetaKeyOIFNAME, expr.CmpOpNeq, interfaceName(name))
}

func group(key expr.MetaKey, op expr.CmpOp, number uint32) match {
	return meta(key, op, binaryutil.NativeEndian.PutUint32(number))
}

func is(f family) match { return meta(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{f.proto}) }

func isNot(f family) match { return meta(expr.MetaKeyNFPROTO, expr.CmpOpNeq, []byte{f.proto}) }

func l4(p uint8) match { return meta(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{p}) }
func returns() match   { return verdict(expr.VerdictReturn, "") }
func accept() match    { return verdict(expr.VerdictAccept, "") }
func drop() match      { return verdict(expr.VerdictDrop, "") }
func toRefuse() match  { return verdict(expr.VerdictJump, "refuse") }

func verdict(kind expr.VerdictKind, chain string) match {
	return match{&expr.Verdict{Kind: kind, Chain: chain}}
}

const destinationPortOffset = 2 // in the headers of TCP and UDP

// address compares the address at the offset with a network. It is for packets of the network's family.
func address(offset uint32, op expr.CmpOp, p netip.Prefix) match {
	f := familyOf(p.Addr())
	m := match{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size}}
	if !p.IsSingleIP() {
		mask := net.CIDRMask(p.Bits(), p.Addr().BitLen())
		m = append(m, &expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: f.size, Mask: mask, Xor: make([]byte, f.size)})
	}
	return append(m, &expr.Cmp{Op: op, Register: reg, Data: p.Masked().Addr().AsSlice()})
}

// saddr and daddr match packets of the network's family only.
func saddr(p netip.Prefix) match {
	f := familyOf(p.Addr())
	return append(is(f), address(f.source, expr.CmpOpEq, p)...)
}

func notSaddr(p netip.Prefix) match {
	f := familyOf(p.Addr())
	return append(is(f), address(f.source, expr.CmpOpNeq, p)...)
}

func daddr(p netip.Prefix) match {
	f := familyOf(p.Addr())
	return append(is(f), address(f.destination, expr.CmpOpEq, p)...)
}

func notDaddr(p netip.Prefix) match {
	f := familyOf(p.Addr())
	return append(is(f), address(f.destination, expr.CmpOpNeq, p)...)
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func dport(port uint16) match {
	return match{
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: destinationPortOffset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

// ct compares bits of what connection tracking knows: any of them set, or none.
func ct(key expr.CtKey, bits uint32, set bool) match {
	op := expr.CmpOpNeq
	if !set {
		op = expr.CmpOpEq
	}
	return match{
		&expr.Ct{Key: key, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: reg, Data: make([]byte, 4)},
	}
}

func established() match {
	return ct(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED, true)
}

// redirected is true of a connection whose destination was replaced, by whomever.
func redirected() match {
	const destinationNAT = 1 << 5 // IPS_DST_NAT
	return ct(expr.CtKeySTATUS, destinationNAT, true)
}

// service loads destination address, protocol and port, in the order of endpointType.
func service(f family) match {
	return append(is(f),
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: f.destination, Len: f.size},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: after(f.size)},
		&expr.Payload{DestRegister: after(f.size + 4), Base: expr.PayloadBaseTransportHeader, Offset: destinationPortOffset, Len: 2},
	)
}

// bothAddresses loads source and destination.
func bothAddresses(f family) match {
	return append(is(f),
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: f.source, Len: f.size},
		&expr.Payload{DestRegister: after(f.size), Base: expr.PayloadBaseNetworkHeader, Offset: f.destination, Len: f.size},
	)
}

// sender loads what a frame says of its sender, in the order of memberType: the port of the bridge that it came by, the
// hardware address, and the address at the offset behind the Ethernet header.
func sender(size, offset uint32) match {
	return match{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: reg},
		&expr.Payload{DestRegister: after(4), Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6},
		&expr.Payload{DestRegister: after(12), Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
	}
}

// ethertype says what is in a frame.
func ethertype(number uint16) match {
	return meta(expr.MetaKeyPROTOCOL, expr.CmpOpEq, binaryutil.BigEndian.PutUint16(number))
}

func notEthertype(number uint16) match {
	return meta(expr.MetaKeyPROTOCOL, expr.CmpOpNeq, binaryutil.BigEndian.PutUint16(number))
}

func notIn(s *nftables.Set) match {
	return match{&expr.Lookup{SourceRegister: reg, SetName: s.Name, SetID: s.ID, Invert: true}}
}

func in(s *nftables.Set) match {
	return match{&expr.Lookup{SourceRegister: reg, SetName: s.Name, SetID: s.ID}}
}

// vmap ends the rule with the verdict that the map has for what has been loaded.
func vmap(s *nftables.Set) match {
	return match{&expr.Lookup{SourceRegister: reg, DestRegister: 0, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}}
}

// dnatTo sends a new connection to one of the addresses in the map, whose keys are the numbers below n.
func dnatTo(f family, s *nftables.Set, n int) match {
	return match{
		&expr.Numgen{Register: reg, Modulus: uint32(n), Type: unix.NFT_NG_RANDOM}, //nolint:gosec // a count of pods
		&expr.Lookup{SourceRegister: reg, DestRegister: reg, IsDestRegSet: true, SetName: s.Name, SetID: s.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.proto), RegAddrMin: reg},
	}
}

func icmpType(number byte) match {
	return match{
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{number}},
	}
}

func masquerade() match { return match{&expr.Masq{}} }

// redirectTo sends to a port of this machine.
func redirectTo(port uint16) match {
	return match{
		&expr.Immediate{Register: reg, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: reg},
	}
}

func reset() match { return match{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}} }
func refuse() match {
	return match{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}
}

// etherDestination compares the first bytes of a frame's destination, under a mask.
func etherDestination(op expr.CmpOp, mask, want []byte) match {
	n := uint32(len(want)) //nolint:gosec // 6 at most
	m := match{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseLLHeader, Offset: 0, Len: n}}
	if mask != nil {
		m = append(m, &expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: n, Mask: mask, Xor: make([]byte, n)})
	}
	return append(m, &expr.Cmp{Op: op, Register: reg, Data: want})
}
