package podnet

import (
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

// Registers: the first is 16 bytes wide and begins where the four-byte ones do. Of a concatenation each part has four
// bytes.
const (
	reg       = unix.NFT_REG_1
	regSecond = unix.NFT_REG32_01
	regThird  = unix.NFT_REG32_02
)

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

func isIPv4() match { return meta(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{unix.NFPROTO_IPV4}) }

func isIPv6() match    { return meta(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{unix.NFPROTO_IPV6}) }
func l4(p uint8) match { return meta(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{p}) }
func returns() match   { return verdict(expr.VerdictReturn, "") }
func accept() match    { return verdict(expr.VerdictAccept, "") }
func drop() match      { return verdict(expr.VerdictDrop, "") }
func toRefuse() match  { return verdict(expr.VerdictJump, "refuse") }

func verdict(kind expr.VerdictKind, chain string) match {
	return match{&expr.Verdict{Kind: kind, Chain: chain}}
}

const (
	sourceOffset, destinationOffset = 12, 16 // in the IPv4 header
	destinationPortOffset           = 2      // in the headers of TCP and UDP
)

// address compares the address at the offset with a network. It reads IPv4 headers only.
func address(offset uint32, op expr.CmpOp, p netip.Prefix) match {
	network := p.Masked().Addr().As4()
	m := match{&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}}
	if p.Bits() < 32 {
		mask := binaryutil.BigEndian.PutUint32(^uint32(0) << (32 - p.Bits()))
		m = append(m, &expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: mask, Xor: make([]byte, 4)})
	}
	return append(m, &expr.Cmp{Op: op, Register: reg, Data: network[:]})
}

func saddr(p netip.Prefix) match    { return address(sourceOffset, expr.CmpOpEq, p) }
func notSaddr(p netip.Prefix) match { return address(sourceOffset, expr.CmpOpNeq, p) }
func daddr(p netip.Prefix) match    { return address(destinationOffset, expr.CmpOpEq, p) }
func notDaddr(p netip.Prefix) match { return address(destinationOffset, expr.CmpOpNeq, p) }

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
func service() match {
	return match{
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: destinationOffset, Len: 4},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regSecond},
		&expr.Payload{DestRegister: regThird, Base: expr.PayloadBaseTransportHeader, Offset: destinationPortOffset, Len: 2},
	}
}

// bothAddresses loads source and destination, which stand beside each other.
func bothAddresses() match {
	return match{
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: sourceOffset, Len: 4},
		&expr.Payload{DestRegister: regSecond, Base: expr.PayloadBaseNetworkHeader, Offset: destinationOffset, Len: 4},
	}
}

func in(s *nftables.Set) match {
	return match{&expr.Lookup{SourceRegister: reg, SetName: s.Name, SetID: s.ID}}
}

// vmap ends the rule with the verdict that the map has for what has been loaded.
func vmap(s *nftables.Set) match {
	return match{&expr.Lookup{SourceRegister: reg, DestRegister: 0, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}}
}

// dnatTo sends a new connection to one of the addresses in the map, whose keys are the numbers below n.
func dnatTo(s *nftables.Set, n int) match {
	return match{
		&expr.Numgen{Register: reg, Modulus: uint32(n), Type: unix.NFT_NG_RANDOM}, //nolint:gosec // a count of pods
		&expr.Lookup{SourceRegister: reg, DestRegister: reg, IsDestRegSet: true, SetName: s.Name, SetID: s.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg},
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
