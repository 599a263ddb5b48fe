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
)

// tableName is the name of our two tables: one of the family inet, which filters packets, and one of the family bridge,
// which keeps frames from going directly from pod to pod. In nft's words they are:
//
//	table inet trysail-<id> {
//	  set open { ip . proto . port }              # open ports of pods that serve
//	  set self { ip . ip }                        # a pod that calls its own service
//	  map services { ip . proto . port : jump }   # open ports of services' addresses
//
//	  chain to-<service> { dnat ip to numgen random mod N map { 0 : <pod>, … } }
//	  chain prerouting  { nat dstnat-10   iif <bridge> · ports of DNS · vmap @services }
//	  chain output      { nat dstnat-10   vmap @services }
//	  chain postrouting { nat srcnat      to the outside, or to itself: masquerade }
//	  chain input       { filter-10       iif <bridge> · established, DNS and the edge: accept · jump refuse }
//	  chain forward     { filter-10       … see addForward }
//	  chain refuse      { tcp: reset · the rest: port unreachable }
//	}
//	table bridge trysail-<id> {
//	  chain prerouting  { a frame from a pod goes to the bridge itself, or is a broadcast that asks for an address }
//	  chain forward     { no broadcast goes from pod to pod }
//	}
func (c Config) tableName() string { return "trysail-" + c.ID }

// ruleset is the content of both tables under construction.
type ruleset struct {
	conn  *nftables.Conn
	cfg   Config
	table *nftables.Table
	open  *nftables.Set
	self  *nftables.Set
	// services maps the address of a service and an open port to the chain that chooses a pod.
	services *nftables.Set
	mark     mark
	err      error
}

// mark is what the rules of one installation are recognised by: a comment that each of them has, and how many there are.
type mark struct {
	comment []byte
	rules   map[place]int
	open    int // elements of the set
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
	r := &ruleset{conn: conn, cfg: cfg, mark: mark{rules: map[place]int{}}}
	r.mark.comment = userdata.AppendString(nil, userdata.TypeComment, "trysail puts this back: "+rand.Text()[:10])
	r.remove(nftables.TableFamilyIPv4) // of an earlier version
	r.table = r.fresh(nftables.TableFamilyINet)
	r.addSets(st)
	r.addServices(st)
	r.addRefuse()
	r.addNAT(dnsPort)
	r.addInput(dnsPort)
	r.addForward()
	r.addBridge()
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
	s.Table = r.table
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

// endpoint is the key of an address, a protocol and a port; each part has four bytes.
func endpoint(a netip.Addr, proto uint8, port uint16) []byte {
	b := make([]byte, 12)
	ip := a.As4()
	copy(b, ip[:])
	b[4] = proto
	copy(b[8:], binaryutil.BigEndian.PutUint16(port))
	return b
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
func (r *ruleset) addSets(st state) {
	var open, self []nftables.SetElement
	for _, name := range slices.Sorted(maps.Keys(st.Services)) {
		s := st.Services[name]
		for _, pod := range s.Pods {
			ip := pod.As4()
			self = append(self, nftables.SetElement{Key: append(ip[:], ip[:]...)})
			s.ports(func(proto uint8, port uint16) {
				open = append(open, nftables.SetElement{Key: endpoint(pod, proto, port)})
			})
		}
	}
	r.mark.open = len(open)
	r.open = r.set(&nftables.Set{Name: "open", KeyType: endpointType(), Concatenation: true}, open)
	r.self = r.set(&nftables.Set{
		Name: "self", KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr), Concatenation: true,
	}, self)
}

func endpointType() nftables.SetDatatype {
	return nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
}

// addServices makes one chain per service that has pods, and the map that leads there.
func (r *ruleset) addServices(st state) {
	var lead []nftables.SetElement
	for _, name := range slices.Sorted(maps.Keys(st.Services)) {
		s := st.Services[name]
		if len(s.Pods) == 0 {
			continue // the forward chain refuses what comes for it
		}
		chain := r.conn.AddChain(&nftables.Chain{Name: chainOf(name), Table: r.table})
		var pods []nftables.SetElement
		for i, pod := range s.Pods {
			ip := pod.As4()
			pods = append(pods, nftables.SetElement{Key: binaryutil.NativeEndian.PutUint32(uint32(i)), Val: ip[:]})
		}
		choice := r.set(&nftables.Set{
			Anonymous: true, Constant: true, IsMap: true, KeyType: nftables.TypeInteger, DataType: nftables.TypeIPAddr,
		}, pods)
		r.rule(chain, dnatTo(choice, len(pods)))
		s.ports(func(proto uint8, port uint16) {
			lead = append(lead, nftables.SetElement{
				Key: endpoint(s.Addr, proto, port), VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: chain.Name},
			})
		})
	}
	r.services = r.set(&nftables.Set{
		Name: "services", IsMap: true, KeyType: endpointType(), DataType: nftables.TypeVerdict, Concatenation: true,
	}, lead)
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
	if dnsPort != 0 && dnsPort != dnsStandard {
		for _, proto := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			r.rule(pre, iifname(r.cfg.Bridge), isIPv4(), daddr(single(r.cfg.Gateway())), l4(proto), dport(dnsStandard), redirectTo(dnsPort))
		}
	}
	r.rule(pre, iifname(r.cfg.Bridge), isIPv4(), service(), vmap(r.services))
	out := r.base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest+natBefore)
	r.rule(out, isIPv4(), service(), vmap(r.services))
	post := r.base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	r.rule(post, isIPv4(), saddr(r.cfg.Subnet), notDaddr(r.cfg.Subnet), notOifname(r.cfg.Bridge), masquerade())
	// A pod would not take a packet that seems to come from itself.
	r.rule(post, oifname(r.cfg.Bridge), isIPv4(), bothAddresses(), in(r.self), masquerade())
}

const filterBefore = -10

// addInput says what a pod reaches of this machine: DNS, and the edge as anybody does.
func (r *ruleset) addInput(dnsPort uint16) {
	c := r.base("input", nftables.ChainTypeFilter, nftables.ChainHookInput, *nftables.ChainPriorityFilter+filterBefore)
	r.rule(c, notIifname(r.cfg.Bridge), returns())
	r.rule(c, established(), accept())
	for _, proto := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		for _, server := range r.cfg.Resolvers {
			if server.Is4() {
				r.rule(c, isIPv4(), daddr(single(server)), l4(proto), dport(dnsStandard), accept())
			}
		}
		if dnsPort != 0 && dnsPort != dnsStandard {
			r.rule(c, isIPv4(), daddr(single(r.cfg.Gateway())), l4(proto), dport(dnsPort), accept())
		}
		for _, e := range r.cfg.Edge {
			switch at := e.Addr().Unmap(); {
			case at.IsLoopback():
			case at.IsUnspecified():
				r.rule(c, isIPv4(), l4(proto), dport(e.Port()), accept())
			case at.Is4():
				r.rule(c, isIPv4(), daddr(single(at)), l4(proto), dport(e.Port()), accept())
			}
		}
	}
	r.rule(c, toRefuse())
	// The machine does not tell pods of a shorter way to each other: it must not be taken.
	out := r.base("redirects", nftables.ChainTypeFilter, nftables.ChainHookOutput, *nftables.ChainPriorityFilter+filterBefore)
	const icmpRedirect = 5
	r.rule(out, oifname(r.cfg.Bridge), isIPv4(), l4(unix.IPPROTO_ICMP), match{
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{icmpRedirect}},
	}, drop())
}

// notOutside are networks that are not the internet: this machine, the link with the metadata of a cloud, and groups.
func notOutside() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
		netip.MustParsePrefix("224.0.0.0/3"),
	}
}

// addForward says what passes from pod to pod and between pods and the outside.
func (r *ruleset) addForward() {
	c := r.base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter+filterBefore)
	bridge := r.cfg.Bridge
	r.rule(c, notIifname(bridge), notOifname(bridge), returns())
	r.rule(c, iifname(bridge), isIPv6(), toRefuse()) // pods have no IPv6 address of ours
	r.rule(c, iifname(bridge), notSaddr(r.cfg.Subnet), drop())
	r.rule(c, established(), accept())
	r.rule(c, iifname(bridge), oifname(bridge), isIPv4(), service(), in(r.open), accept())
	r.rule(c, oifname(bridge), toRefuse())
	for _, p := range notOutside() {
		r.rule(c, isIPv4(), daddr(p), toRefuse())
	}
	// A port of this machine that somebody (Docker) forwards is still a port of this machine.
	r.rule(c, redirected(), toRefuse())
	r.rule(c, accept())
}

// addBridge makes pods reach each other only through the machine, where the other table sees them, whether the kernel
// shows bridged frames to it (bridge-nf-call-iptables) or not.
func (r *ruleset) addBridge() {
	table := r.fresh(nftables.TableFamilyBridge)
	priority := nftables.ChainPriority(-300) // NF_BR_PRI_NAT_DST_BRIDGED, before bridged frames are shown to IP's tables
	pre := r.conn.AddChain(&nftables.Chain{
		Name: "prerouting", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: &priority,
	})
	ours := r.cfg.group()
	r.rule(pre, group(expr.MetaKeyIIFGROUP, expr.CmpOpNeq, ours), returns())
	r.rule(pre, etherDestination(expr.CmpOpEq, nil, r.cfg.mac), returns())
	r.rule(pre, etherDestination(expr.CmpOpNeq, nil, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), drop())
	filter := nftables.ChainPriority(-200)
	fwd := r.conn.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: &filter,
	})
	r.rule(fwd, group(expr.MetaKeyIIFGROUP, expr.CmpOpEq, ours), etherDestination(expr.CmpOpEq, []byte{1}, []byte{1}), drop())
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
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: cfg.tableName()}
	open, err := conn.GetSetElements(&nftables.Set{Table: table, Name: "open", KeyType: endpointType()})
	return err == nil && len(open) == m.open, nil
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
