package podnet

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/trysail/trysail"
)

// tableName is the name of our two tables: one of the family inet, which filters packets, and one of the family bridge,
// which keeps frames from going directly from pod to pod. In nft's words they are (what is marked with * is there a second
// time for IPv6, with a 6 at the end of its name):
//
//	table inet trysail-<id> {
//	  set open { ip . proto . port }              # * open ports of pods that serve
//	  set self { ip . ip }                        # * a pod that calls its own service
//	  map services { ip . proto . port : jump }   # * open ports of services' addresses
//
//	  chain to-<service> { dnat ip to numgen random mod N map { 0 : <pod>, … } }   # *
//	  chain prerouting  { nat dstnat-10   iif <bridge> · ports of DNS · vmap @services }
//	  chain output      { nat dstnat-10   vmap @services }
//	  chain postrouting { nat srcnat      to the outside, or to itself: masquerade }
//	  chain input       { filter-10       iif <bridge> · established, DNS and the edge: accept · jump refuse }
//	  chain forward     { filter-10       … see addForward }
//	  chain refuse      { tcp: reset · the rest: port unreachable }
//	}
//	table bridge trysail-<id> {
//	  set members { iif . mac . ip }              # * the pods
//	  chain prerouting  { a frame from a pod has its sender in @members, and goes to the bridge itself or asks for an address }
//	  chain forward     { no broadcast goes from pod to pod }
//	}
func (c Config) tableName() string { return "trysail-" + c.ID }

// ruleset is the content of both tables under construction.
type ruleset struct {
	conn  *nftables.Conn
	cfg   Config
	table *nftables.Table
	mark  mark
	err   error

	open, self map[family]*nftables.Set
	// services maps the address of a service and an open port to the chain that chooses a pod.
	services map[family]*nftables.Set
}

// mark is what the rules of one installation are recognised by: a comment that each of them has, and how many there are.
type mark struct {
	comment []byte
	rules   map[place]int
	sets    map[*nftables.Set]int // elements; of those with a name
	members map[family]*nftables.Set
}

// place is a chain of one of our tables.
type place struct {
	family nftables.TableFamily
	chain  string
}

// socketBuffer holds a whole transaction: the kernel takes it in one piece, and answers in pieces before it is read.
const socketBuffer = 16 << 20

func connect() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		if c.SetWriteBuffer(socketBuffer) == nil {
			_ = c.SetReadBuffer(socketBuffer)
		}
		return nil // a smaller buffer is enough for most
	}))
}

// install replaces both tables in one transaction: at every moment packets meet either the old rules or the new. It
// returns how the rules can be recognised.
func install(cfg Config, st state, dnsPort uint16) (*mark, error) {
	conn, err := connect()
	if err != nil {
		return nil, err
	}
	r := &ruleset{
		conn: conn, cfg: cfg, open: map[family]*nftables.Set{}, self: map[family]*nftables.Set{}, services: map[family]*nftables.Set{},
		mark: mark{rules: map[place]int{}, sets: map[*nftables.Set]int{}, members: map[family]*nftables.Set{}},
	}
	r.mark.comment = userdata.AppendString(nil, userdata.TypeComment, "trysail puts this back: "+rand.Text()[:10])
	r.remove(nftables.TableFamilyIPv4) // of an earlier version
	r.table = r.fresh(nftables.TableFamilyINet)
	for _, f := range cfg.families() {
		r.addSets(f, st)
	}
	r.addServices(st)
	r.addRefuse()
	r.addNAT(dnsPort)
	r.addInput(dnsPort)
	r.addForward()
	r.addBridge(st)
	if r.err != nil {
		return nil, r.err
	}
	if err := conn.Flush(); err != nil {
		return nil, err
	}
	return &r.mark, nil
}

// fresh makes an empty table in place of what there is.
func (r *ruleset) fresh(family nftables.TableFamily) *nftables.Table {
	return r.conn.AddTable(r.remove(family))
}

func (r *ruleset) remove(family nftables.TableFamily) *nftables.Table {
	t := &nftables.Table{Family: family, Name: r.cfg.tableName()}
	r.conn.AddTable(t) // so that it can be deleted
	r.conn.DelTable(t)
	return t
}

func (r *ruleset) rule(c *nftables.Chain, parts ...match) {
	r.conn.AddRule(&nftables.Rule{Table: c.Table, Chain: c, Exprs: rule(parts...), UserData: r.mark.comment})
	r.mark.rules[place{c.Table.Family, c.Name}]++
}

func (r *ruleset) base(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
	return r.conn.AddChain(&nftables.Chain{Name: name, Table: r.table, Type: kind, Hooknum: hook, Priority: &priority})
}

func (r *ruleset) set(s *nftables.Set, elements []nftables.SetElement) *nftables.Set {
	const chunk = 256 // one message holds 64 KiB
	if !s.Anonymous {
		r.mark.sets[s] = len(elements)
	}
	first := elements[:min(chunk, len(elements))]
	if err := r.conn.AddSet(s, first); err != nil && r.err == nil {
		r.err = fmt.Errorf("making set %s: %w", s.Name, err)
	}
	for part := range slices.Chunk(elements[len(first):], chunk) {
		if err := r.conn.SetAddElements(s, part); err != nil && r.err == nil {
			r.err = fmt.Errorf("filling set %s: %w", s.Name, err)
		}
	}
	return s
}

// endpoint is the key of an address, a protocol and a port; each part is filled up to four bytes.
func endpoint(a netip.Addr, proto uint8, port uint16) []byte {
	return append(a.AsSlice(), proto, 0, 0, 0, byte(port>>8), byte(port), 0, 0) //nolint:gosec // both halves of it
}

// ports calls do for each open port of s.
func (s *published) ports(do func(proto uint8, port uint16)) {
	for _, p := range s.TCP {
		do(unix.IPPROTO_TCP, p)
	}
	for _, p := range s.UDP {
		do(unix.IPPROTO_UDP, p)
	}
}

func chainOf(service string) string { return "to-" + service }

// addSets fills what rules look packets up in.
func (r *ruleset) addSets(f family, st state) {
	var open, self []nftables.SetElement
	for _, name := range slices.Sorted(maps.Keys(st.Services)) {
		s := st.Services[name]
		for _, p := range s.Pods {
			pod := r.cfg.in(f, p)
			self = append(self, nftables.SetElement{Key: append(pod.AsSlice(), pod.AsSlice()...)})
			s.ports(func(proto uint8, port uint16) {
				open = append(open, nftables.SetElement{Key: endpoint(pod, proto, port)})
			})
		}
	}
	r.open[f] = r.set(&nftables.Set{Table: r.table, Name: "open" + f.suffix, KeyType: endpointType(f), Concatenation: true}, open)
	r.self[f] = r.set(&nftables.Set{
		Table: r.table, Name: "self" + f.suffix, KeyType: nftables.MustConcatSetType(f.address, f.address), Concatenation: true,
	}, self)
}

func endpointType(f family) nftables.SetDatatype {
	return nftables.MustConcatSetType(f.address, nftables.TypeInetProto, nftables.TypeInetService)
}

// addServices makes one chain per service that has pods, and the maps that lead there.
func (r *ruleset) addServices(st state) {
	lead := map[family][]nftables.SetElement{}
	for _, name := range slices.Sorted(maps.Keys(st.Services)) {
		s := st.Services[name]
		if len(s.Pods) == 0 {
			continue // the forward chain refuses what comes for it
		}
		chain := r.conn.AddChain(&nftables.Chain{Name: chainOf(name), Table: r.table})
		for _, f := range r.cfg.families() {
			r.addChoice(f, chain, s.Pods)
			s.ports(func(proto uint8, port uint16) {
				lead[f] = append(lead[f], nftables.SetElement{
					Key: endpoint(r.cfg.in(f, s.Addr), proto, port), VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: chain.Name},
				})
			})
		}
	}
	for _, f := range r.cfg.families() {
		r.services[f] = r.set(&nftables.Set{
			Table: r.table, Name: "services" + f.suffix, IsMap: true, KeyType: endpointType(f), DataType: nftables.TypeVerdict, Concatenation: true,
		}, lead[f])
	}
}

// addChoice sends a connection to one of the pods.
func (r *ruleset) addChoice(f family, chain *nftables.Chain, pods []netip.Addr) {
	var elements []nftables.SetElement
	for i, pod := range pods {
		number := binaryutil.NativeEndian.PutUint32(uint32(i))
		elements = append(elements, nftables.SetElement{Key: number, Val: r.cfg.in(f, pod).AsSlice()})
	}
	choice := r.set(&nftables.Set{
		Table: r.table, Anonymous: true, Constant: true, IsMap: true, KeyType: nftables.TypeInteger, DataType: f.address,
	}, elements)
	r.rule(chain, is(f), dnatTo(f, choice, len(pods)))
}

// addRefuse makes the chain that tells a client at once that it gets nothing.
func (r *ruleset) addRefuse() {
	c := r.conn.AddChain(&nftables.Chain{Name: "refuse", Table: r.table})
	r.rule(c, l4(unix.IPPROTO_TCP), reset())
	r.rule(c, refuse())
}

const natBefore = -10 // the address of a service is ours whatever others do with addresses in general

func (r *ruleset) addNAT(dnsPort uint16) {
	pre := r.base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest+natBefore)
	out := r.base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest+natBefore)
	post := r.base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	if dnsPort != 0 && dnsPort != dnsStandard {
		for _, proto := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			r.rule(pre, iifname(r.cfg.Bridge), daddr(single(r.cfg.Gateway())), l4(proto), dport(dnsStandard), redirectTo(dnsPort))
		}
	}
	for _, f := range r.cfg.families() {
		r.rule(pre, iifname(r.cfg.Bridge), service(f), vmap(r.services[f]))
		r.rule(out, service(f), vmap(r.services[f]))
		own := r.cfg.network(f)
		r.rule(post, saddr(own), notDaddr(own), notOifname(r.cfg.Bridge), masquerade())
		// A pod would not take a packet that seems to come from itself.
		r.rule(post, oifname(r.cfg.Bridge), bothAddresses(f), in(r.self[f]), masquerade())
	}
}

const filterBefore = -10

// addInput says what a pod reaches of this machine: DNS, and the edge as anybody does.
func (r *ruleset) addInput(dnsPort uint16) {
	c := r.base("input", nftables.ChainTypeFilter, nftables.ChainHookInput, *nftables.ChainPriorityFilter+filterBefore)
	r.rule(c, notIifname(r.cfg.Bridge), returns())
	r.rule(c, established(), accept())
	for _, proto := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		for _, server := range r.cfg.Resolvers {
			r.rule(c, daddr(single(server.Unmap())), l4(proto), dport(dnsStandard), accept())
		}
		if dnsPort != 0 && dnsPort != dnsStandard {
			r.rule(c, daddr(single(r.cfg.Gateway())), l4(proto), dport(dnsPort), accept())
		}
		for _, e := range r.cfg.Edge {
			switch at := e.Addr().Unmap(); {
			case at.IsLoopback():
			case at.IsUnspecified():
				r.rule(c, l4(proto), dport(e.Port()), accept())
			default:
				r.rule(c, daddr(single(at)), l4(proto), dport(e.Port()), accept())
			}
		}
	}
	r.rule(c, toRefuse())
	// The machine does not tell pods of a shorter way to each other: it must not be taken.
	out := r.base("redirects", nftables.ChainTypeFilter, nftables.ChainHookOutput, *nftables.ChainPriorityFilter+filterBefore)
	const redirect, redirect6 = 5, 137
	r.rule(out, oifname(r.cfg.Bridge), is(ipv4), l4(unix.IPPROTO_ICMP), icmpType(redirect), drop())
	r.rule(out, oifname(r.cfg.Bridge), is(ipv6), l4(unix.IPPROTO_ICMPV6), icmpType(redirect6), drop())
}

// addForward says what passes from pod to pod and between pods and the outside.
func (r *ruleset) addForward() {
	c := r.base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter+filterBefore)
	bridge := r.cfg.Bridge
	r.rule(c, notIifname(bridge), notOifname(bridge), returns())
	for _, f := range r.cfg.families() {
		r.rule(c, iifname(bridge), notSaddr(r.cfg.network(f)), drop())
	}
	if !r.cfg.Subnet6.IsValid() {
		r.rule(c, isNot(ipv4), toRefuse()) // pods have no address of that kind
	}
	r.rule(c, established(), accept())
	for _, f := range r.cfg.families() {
		r.rule(c, iifname(bridge), oifname(bridge), service(f), in(r.open[f]), accept())
	}
	r.rule(c, oifname(bridge), toRefuse())
	for _, f := range r.cfg.families() {
		for _, p := range trysail.NotOutside(f == ipv6) {
			r.rule(c, daddr(p), toRefuse())
		}
	}
	// A port of this machine that somebody (Docker) forwards is still a port of this machine.
	r.rule(c, redirected(), toRefuse())
	r.rule(c, accept())
}

// addBridge makes pods reach each other only through the machine, where the other table sees them, whether the kernel
// shows bridged frames to it (bridge-nf-call-iptables) or not. What a pod sends has its own addresses: none takes another's
// place, neither for those whom it sends to nor in the tables of the bridge.
func (r *ruleset) addBridge(st state) {
	r.table = r.fresh(nftables.TableFamilyBridge)
	for _, f := range r.cfg.families() {
		var elements []nftables.SetElement
		for _, pod := range slices.SortedFunc(maps.Keys(st.Members), netip.Addr.Compare) {
			elements = append(elements, nftables.SetElement{Key: memberKey(r.cfg.in(f, pod), st.Members[pod])})
		}
		r.mark.members[f] = r.set(&nftables.Set{
			Table: r.table, Name: "members" + f.suffix, Concatenation: true,
			KeyType: nftables.MustConcatSetType(nftables.TypeIFIndex, nftables.TypeEtherAddr, f.address),
		}, elements)
	}
	const (
		beforeIP  = -300 // NF_BR_PRI_NAT_DST_BRIDGED, before bridged frames are shown to IP's tables
		filter    = -200
		arpSender = 14 // of the IPv4 address
	)
	pre := r.base("prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, beforeIP)
	r.rule(pre, group(expr.MetaKeyIIFGROUP, expr.CmpOpNeq, r.cfg.group()), returns())
	r.rule(pre, notEthertype(unix.ETH_P_ARP), notEthertype(unix.ETH_P_IP), notEthertype(unix.ETH_P_IPV6), drop())
	r.rule(pre, ethertype(unix.ETH_P_ARP), sender(ipv4.size, arpSender), notIn(r.mark.members[ipv4]), drop())
	r.rule(pre, ethertype(unix.ETH_P_IP), sender(ipv4.size, ipv4.source), notIn(r.mark.members[ipv4]), drop())
	if r.cfg.Subnet6.IsValid() {
		r.rule(pre, ethertype(unix.ETH_P_IPV6), sender(ipv6.size, ipv6.source), notIn(r.mark.members[ipv6]), drop())
	} else {
		r.rule(pre, ethertype(unix.ETH_P_IPV6), drop())
	}
	r.rule(pre, etherDestination(expr.CmpOpEq, nil, r.cfg.mac), returns())
	r.rule(pre, etherDestination(expr.CmpOpNeq, nil, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), drop())
	fwd := r.base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, filter)
	r.rule(fwd, group(expr.MetaKeyIIFGROUP, expr.CmpOpEq, r.cfg.group()), etherDestination(expr.CmpOpEq, []byte{1}, []byte{1}), drop())
}

// memberKey is the key of a pod's address on the bridge; each part is filled up to a multiple of four bytes.
func memberKey(pod netip.Addr, m member) []byte {
	key := binaryutil.NativeEndian.PutUint32(uint32(m.Link)) //nolint:gosec // the index of a network interface
	key = append(append(key, m.mac()...), 0, 0)
	return append(key, pod.AsSlice()...)
}

// addMember adds a pod to the rules in force. n.mu is held.
func (n *Network) addMember(pod netip.Addr, m member) error {
	conn, err := connect()
	if err != nil {
		return err
	}
	for f, set := range n.mark.members {
		if err := conn.SetAddElements(set, []nftables.SetElement{{Key: memberKey(n.cfg.in(f, pod), m)}}); err != nil {
			return err
		}
	}
	if conn.Flush() != nil {
		return n.install() // somebody has removed the rules
	}
	for _, set := range n.mark.members {
		n.mark.sets[set]++
	}
	return nil
}

// intact reports whether the rules are as install has left them.
func intact(cfg Config, m *mark) (bool, error) {
	conn, err := connect()
	if err != nil {
		return false, err
	}
	for at, want := range m.rules {
		table := &nftables.Table{Family: at.family, Name: cfg.tableName()}
		rules, err := conn.GetRules(table, &nftables.Chain{Name: at.chain, Table: table})
		if err != nil || len(rules) != want {
			return false, nil //nolint:nilerr // the chain is not there
		}
		for _, rule := range rules {
			if !bytes.Equal(rule.UserData, m.comment) {
				return false, nil
			}
		}
	}
	for set, want := range m.sets {
		elements, err := conn.GetSetElements(set)
		if err != nil || len(elements) != want {
			return false, nil //nolint:nilerr // the set is not there
		}
	}
	return true, nil
}

// uninstall removes our tables, of this version and of earlier ones.
func uninstall(cfg Config) error {
	conn, err := connect()
	if err != nil {
		return err
	}
	r := &ruleset{conn: conn, cfg: cfg}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge, nftables.TableFamilyIPv4} {
		r.remove(family)
	}
	return conn.Flush()
}
