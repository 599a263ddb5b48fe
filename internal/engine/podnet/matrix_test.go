package podnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/trysail/trysail"
)

// cell is one question: does who reach this?
type cell struct {
	from, network, addr, what string
	want                      string
}

// matrix asks all of them and reports what is not as it should be.
func (x *lab) matrix(t *testing.T, cells []cell) {
	t.Helper()
	for _, c := range cells {
		from := x.host
		if c.from == "internet" {
			from = x.internet
		} else if c.from != "host" {
			from = x.pods[c.from]
		}
		got := from.ask(t, c.network, c.addr, c.want != denied)
		mark := "ok  "
		if got != c.want {
			mark = "FAIL"
			t.Errorf("%s → %s (%s %s): got %q, want %q", c.from, c.what, c.network, c.addr, got, c.want)
		}
		t.Logf("%s %-8s → %-46s %s %-22s %s", mark, c.from, c.what, c.network, c.addr, got)
	}
}

// TestNetwork_IsolationMatrix asks who reaches whom: from a pod, from a pod of another service, from a second pod of the
// same service, from this machine and from outside, under each of the circumstances that a machine may be in.
func TestNetwork_IsolationMatrix(t *testing.T) { //nolint:tparallel // one network, whose circumstances change in turn
	if !inLab(t) {
		return
	}
	x := newLab(t)
	cells := x.furnish(t)
	gateway := x.cfg.Gateway().String()
	beta := x.network.Published()["beta"].String()
	b, alphaLink := x.pods["beta"], x.pods["alpha"].linkLocal(t, "eth0")
	for _, circumstance := range []struct {
		name string
		make func(t *testing.T)
	}{
		{"bridged frames are not shown to the packet filter", func(t *testing.T) { showBridged(t, "0") }},
		{"bridged frames are shown to the packet filter", func(t *testing.T) { showBridged(t, "1") }},
		{"Docker drops what is forwarded", func(t *testing.T) {
			run(t, "iptables", "-P", "FORWARD", "DROP")
			admitByHost(t.Context(), x.cfg)
		}},
		{"a Docker daemon runs, with its firewall", func(t *testing.T) {
			run(t, "iptables", "-P", "FORWARD", "ACCEPT")
			startDocker(t)
			admitByHost(t.Context(), x.cfg)
		}},
		{"ufw drops what comes in", func(t *testing.T) {
			run(t, "iptables", "-P", "INPUT", "DROP")
			run(t, "iptables", "-A", "INPUT", "-p", "tcp", "-m", "multiport", "--dports", "80,443,4500,4501", "-j", "ACCEPT")
			run(t, "iptables", "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")
			admitByHost(t.Context(), x.cfg)
		}},
		{"our table was deleted", func(t *testing.T) {
			run(t, "nft", "delete", "table", "inet", x.cfg.tableName())
			x.awaitRules(t)
		}},
		{"a rule of ours was replaced", func(t *testing.T) {
			run(t, "nft", "flush", "chain", "bridge", x.cfg.tableName(), "prerouting")
			run(t, "nft", "insert", "rule", "inet", x.cfg.tableName(), "input", "accept")
			x.awaitRules(t)
		}},
		{"all rules were flushed", func(t *testing.T) {
			run(t, "iptables", "-P", "FORWARD", "ACCEPT")
			run(t, "iptables", "-P", "INPUT", "ACCEPT")
			run(t, "nft", "flush", "ruleset")
			x.awaitRules(t)
		}},
		{"Trysail was started again", func(t *testing.T) {
			x.network.Close()
			x.open(t)
		}},
	} {
		t.Run(circumstance.name, func(t *testing.T) {
			circumstance.make(t)
			x.matrix(t, cells)
		})
	}

	t.Run("without our rules the same questions get other answers", func(t *testing.T) {
		x.network.Close()
		if err := uninstall(x.cfg); err != nil {
			t.Fatal(err)
		}
		x.matrix(t, []cell{
			{"alpha", "tcp", "10.99.0.20:9090", "closed TCP port of a sibling's pod", "beta to 10.99.0.10"},
			{"alpha", "udp", "10.99.0.20:5001", "closed UDP port of a sibling's pod", "beta to 10.99.0.10"},
			{"alpha", "tcp", gateway + ":4501", "API and registry, at the gateway", "api on all addresses to 10.99.0.10"},
			{"alpha", "tcp", hostAddr + ":4501", "API and registry, at the machine's address", "api on all addresses to 10.99.0.10"},
			{"alpha", "tcp", x.linkLocal(t, "trysail0") + "%eth0]:4501", "the machine by IPv6 on the link", "api on all addresses to " + strings.Trim(alphaLink, "[") + "%trysail0"},
			{"alpha", "tcp", b.linkLocal(t, "eth0") + "%eth0]:7070", "a sibling's pod by IPv6 on the link", "beta six to " + strings.Trim(alphaLink, "[") + "%eth0"},
			{"internet", "tcp", "10.99.0.20:8080", "a pod from outside", "beta to 203.0.113.2"},
			{"alpha", "tcp", beta + ":8080", "a service", denied},
		})
		x.open(t)
	})
	t.Run("the service is gone", func(t *testing.T) {
		if err := x.network.Withdraw("beta"); err != nil {
			t.Fatal(err)
		}
		x.matrix(t, []cell{
			{"alpha", "tcp", beta + ":8080", "a service that is gone", denied},
			{"alpha", "tcp", "10.99.0.20:8080", "its pod", denied},
		})
		out, err := exec.Command("nft", "list", "table", "inet", x.cfg.tableName()).CombinedOutput()
		if err != nil || strings.Contains(string(out), "beta") || strings.Contains(string(out), "10.99.0.20") {
			t.Errorf("rules of it are left (%v):\n%s", err, out)
		}
	})
	t.Run("all is gone", func(t *testing.T) {
		x.network.Close()
		run(t, "iptables", "-P", "FORWARD", "DROP")
		admitByHost(t.Context(), x.cfg)
		if err := Purge(t.Context(), x.cfg); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
		if err != nil || strings.Contains(string(out), "trysail") {
			t.Errorf("rules are left (%v):\n%s", err, out)
		}
		x.open(t) // for the cleanup
	})
}

// furnish puts pods with services on the machine, and says who reaches what.
func (x *lab) furnish(t *testing.T) []cell {
	t.Helper()
	a, a2, b := x.pod(t, "alpha", "10.99.0.10"), x.pod(t, "alpha2", "10.99.0.11"), x.pod(t, "beta", "10.99.0.20")
	for _, p := range []*space{a, a2, b} {
		p.serve(t, "tcp", "[::]:8080", p.name)
		p.serve(t, "tcp", "[::]:9090", p.name)
		p.serve(t, "udp", "[::]:5000", p.name)
		p.serve(t, "udp", "[::]:5001", p.name)
	}
	b.serve(t, "tcp", "[::]:7070", "beta six")
	gateway := x.cfg.Gateway().String()
	for _, proto := range []string{"tcp", "udp"} {
		x.internet.serve(t, proto, internetAddr+":80", "internet")
		x.internet.serve(t, proto, metadataAddr+":80", "metadata")
		x.internet.serve(t, proto, "["+internetAddr6+"]:80", "internet")
		x.internet.serve(t, proto, "["+metadataAddr6+"]:80", "metadata")
		x.host.serve(t, proto, "[::1]:4500", "api on loopback")
		x.host.serve(t, proto, "127.0.0.1:4500", "api on loopback")
		x.host.serve(t, proto, "[::]:4501", "api on all addresses")
		x.host.serve(t, proto, gateway+":53", "dns")
		x.host.serve(t, proto, "[::]:443", "edge")
	}
	x.host.serve(t, "tcp", "[::]:80", "edge")
	// A port of the machine that leads elsewhere, as Docker publishes one.
	run(t, "iptables", "-t", "nat", "-A", "PREROUTING", "-d", hostAddr, "-p", "tcp", "--dport", "8088", "-j", "DNAT", "--to-destination", internetAddr+":80")
	run(t, "ip6tables", "-t", "nat", "-A", "PREROUTING", "-d", hostAddr6, "-p", "tcp", "--dport", "8088", "-j", "DNAT", "--to-destination", "["+internetAddr6+"]:80")

	publish := func(s trysail.PrivateService) string {
		t.Helper()
		addr, err := x.network.Publish(s)
		if err != nil {
			t.Fatal(err)
		}
		return addr.String()
	}
	alpha := publish(trysail.PrivateService{Service: "alpha", Pods: addrs("10.99.0.10"), TCP: []uint16{8080}})
	beta := publish(trysail.PrivateService{Service: "beta", Pods: addrs("10.99.0.20"), TCP: []uint16{8080}, UDP: []uint16{5000}})
	empty := publish(trysail.PrivateService{Service: "empty", TCP: []uint16{8080}})

	cells := []cell{
		{"alpha", "tcp", beta + ":8080", "open TCP port of a sibling service", "beta to 10.99.0.10"},
		{"alpha", "udp", beta + ":5000", "open UDP port of a sibling service", "beta to 10.99.0.10"},
		{"alpha", "tcp", beta + ":9090", "closed TCP port of a sibling service", denied},
		{"alpha", "udp", beta + ":5001", "closed UDP port of a sibling service", denied},
		{"alpha", "udp", beta + ":8080", "TCP port of a sibling service over UDP", denied},
		{"alpha", "tcp", "10.99.0.20:8080", "open TCP port of a sibling's pod", "beta to 10.99.0.10"},
		{"alpha", "tcp", "10.99.0.20:9090", "closed TCP port of a sibling's pod", denied},
		{"alpha", "udp", "10.99.0.20:5001", "closed UDP port of a sibling's pod", denied},
		{"alpha", "tcp", alpha + ":8080", "its own service", "alpha to " + gateway},
		{"alpha2", "tcp", alpha + ":8080", "open port of its own service's other pod", "alpha to 10.99.0.11"},
		{"alpha2", "tcp", "10.99.0.10:9090", "closed port of its own service's other pod", denied},
		{"alpha", "tcp", "10.99.0.11:8080", "a pod that is not in service", denied},
		{"beta", "tcp", alpha + ":8080", "open TCP port the other way round", "alpha to 10.99.0.20"},
		{"alpha", "tcp", empty + ":8080", "a service without pods", denied},
		{"alpha", "tcp", internetAddr + ":80", "internet over TCP", "internet to " + hostAddr},
		{"alpha", "udp", internetAddr + ":80", "internet over UDP", "internet to " + hostAddr},
		{"alpha", "udp", gateway + ":53", "name server over UDP", "dns to 10.99.0.10"},
		{"alpha", "tcp", gateway + ":53", "name server over TCP", "dns to 10.99.0.10"},
		{"alpha", "tcp", hostAddr + ":443", "edge", "edge to 10.99.0.10"},
		{"alpha", "tcp", hostAddr + ":80", "edge, to be redirected", "edge to 10.99.0.10"},
		{"alpha", "tcp", gateway + ":4501", "API and registry, at the gateway", denied},
		{"alpha", "tcp", hostAddr + ":4501", "API and registry, at the machine's address", denied},
		{"alpha", "udp", hostAddr + ":4501", "UDP service of the machine", denied},
		{"alpha", "tcp", "127.0.0.1:4500", "the machine's loopback", denied},
		{"alpha", "tcp", hostAddr + ":8088", "a port that the machine publishes for another", denied},
		{"alpha", "tcp", metadataAddr + ":80", "metadata of the cloud", denied},
		{"alpha", "udp", metadataAddr + ":80", "metadata of the cloud over UDP", denied},
		{"alpha", "tcp", x.linkLocal(t, "trysail0") + "%eth0]:4501", "the machine by IPv6 on the link", denied},
		{"alpha", "tcp", b.linkLocal(t, "eth0") + "%eth0]:7070", "a sibling's pod by IPv6 on the link", denied},
		{"host", "tcp", "10.99.0.20:8080", "a pod (the edge does)", "beta to " + gateway},
		{"host", "tcp", beta + ":8080", "a service", "beta to " + gateway},
		{"host", "tcp", "127.0.0.1:4500", "its own loopback", "api on loopback to 127.0.0.1"},
		{"host", "tcp", hostAddr + ":4501", "its own services", "api on all addresses to " + hostAddr},
		{"internet", "tcp", "10.99.0.20:8080", "a pod from outside", denied},
		{"internet", "tcp", beta + ":8080", "a service from outside", denied},
		{"internet", "tcp", hostAddr + ":4501", "the machine's services from outside", "api on all addresses to 203.0.113.2"},
	}
	for _, c := range cells { // the same by IPv6; the name server is asked by IPv4
		if !strings.Contains(c.addr, "[") && !strings.HasPrefix(c.what, "name server") {
			cells = append(cells, cell{c.from, c.network, x.six(c.addr), c.what, x.six(c.want)})
		}
	}
	cells = append(cells,
		cell{"alpha", "tcp", "[fe80::1%eth0]:80", "the link by IPv6", denied},
		cell{"alpha", "tcp", "[64:ff9b::a9fe:a9fe]:80", "metadata of the cloud by way of a translator", denied},
	)
	x.internet.routeTo(t, x.cfg.Subnet, netip.MustParseAddr(hostAddr))
	x.internet.routeTo(t, x.cfg.Subnet6, netip.MustParseAddr(hostAddr6))
	return cells
}

// linkLocal is the first half of a literal IPv6 address of the interface on its link; empty brackets if it has none.
func (s *space) linkLocal(t *testing.T, link string) (addr string) {
	t.Helper()
	s.in(t, func() error {
		i, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		list, err := i.Addrs()
		for _, a := range list {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is6() {
				addr = "[" + p.Addr().String()
			}
		}
		return err
	})
	if addr == "" {
		t.Fatalf("%s of %s has no IPv6 address on the link", link, s.name)
	}
	return addr
}

func (x *lab) linkLocal(t *testing.T, link string) string { return x.host.linkLocal(t, link) }

func (s *space) routeTo(t *testing.T, to netip.Prefix, via netip.Addr) {
	t.Helper()
	s.in(t, func() error { return routeAdd(to, via) })
}

func addrs(list ...string) (all []netip.Addr) {
	for _, s := range list {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

// awaitRules waits until the rules are back.
func (x *lab) awaitRules(t *testing.T) {
	t.Helper()
	began := time.Now()
	for end := began.Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		x.network.mu.Lock()
		ok, err := intact(x.cfg, x.network.mark)
		x.network.mu.Unlock()
		if ok && err == nil {
			t.Logf("the rules were back after %s", time.Since(began).Round(time.Millisecond))
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the rules were not put back: %v", err)
		}
	}
}

// As soon as Publish returns, nothing new goes to the pods of before, over TCP and UDP, not even on a UDP socket that has
// been talking to one of them.
func TestNetwork_FirstPacketAfterASwitchGoesToALivePod(t *testing.T)         { switchPods(t, "0") }
func TestNetwork_FirstPacketAfterASwitchWithBridgedFramesShown(t *testing.T) { switchPods(t, "1") }

// switchPods goes back and forth between two versions. shown is the setting bridge-nf-call-iptables.
func switchPods(t *testing.T, shown string) {
	t.Helper()
	if !inLab(t) {
		return
	}
	x := newLab(t)
	showBridged(t, shown)
	caller := x.pod(t, "caller", "10.99.0.9")
	for i := range 4 {
		p := x.pod(t, fmt.Sprintf("p%d", i), fmt.Sprintf("10.99.0.%d", 10+i))
		p.serve(t, "tcp", "[::]:8080", p.name)
		p.serve(t, "udp", "[::]:5000", p.name)
	}
	pods := [][]string{{"p0", "p1"}, {"p2", "p3"}}
	flows := map[string]net.Conn{} // by address
	for turn := range 20 {
		live := pods[turn%2]
		addr, err := x.network.Publish(trysail.PrivateService{
			Service: "api", Pods: addrs(x.addrOf(live[0]), x.addrOf(live[1])), TCP: []uint16{8080}, UDP: []uint16{5000},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{addr.String(), "[" + x.network.Six(addr).String() + "]"} {
			if flows[host] == nil {
				caller.in(t, func() (err error) {
					flows[host], err = net.Dial("udp", host+":5000")
					return err
				})
				defer flows[host].Close()
			}
			if got := firstAnswer(t, flows[host]); !from(got, live) {
				t.Fatalf("turn %d: the first packet of an old UDP flow to %s: %q; want an answer of %v", turn, host, got, live)
			}
			for range 5 {
				if got := caller.ask(t, "tcp", host+":8080", true); !from(got, live) {
					t.Fatalf("turn %d: TCP to %s: %q, want an answer of %v", turn, host, got, live)
				}
				if got := caller.ask(t, "udp", host+":5000", true); !from(got, live) {
					t.Fatalf("turn %d: UDP to %s: %q, want an answer of %v", turn, host, got, live)
				}
			}
		}
	}
}

// firstAnswer sends one packet, and no second one, and returns the answer to it.
func firstAnswer(t *testing.T, flow net.Conn) string {
	t.Helper()
	buf := make([]byte, 100)
	_, err := flow.Write([]byte("?"))
	_ = flow.SetReadDeadline(time.Now().Add(patience))
	n, readErr := flow.Read(buf)
	if err != nil || readErr != nil {
		t.Fatalf("no answer to the first packet: %v, %v", err, readErr)
	}
	return string(buf[:n])
}

// TestNetwork_PodsHaveNoAddressesButTheirOwn: a pod that takes the addresses of another reaches nobody with them, and the
// other one is still reached.
func TestNetwork_PodsHaveNoAddressesButTheirOwn(t *testing.T) {
	if !inLab(t) {
		return
	}
	x := newLab(t)
	victim, thief := x.pod(t, "victim", "10.99.0.10"), x.pod(t, "thief", "10.99.0.11")
	victim.serve(t, "tcp", "[::]:8080", victim.name)
	var heard sync.Map // by what the internet has heard
	for _, host := range []string{internetAddr, "[" + internetAddr6 + "]"} {
		x.internet.hear(t, host+":7000", &heard)
	}
	mac := func(s *space) (addr string) {
		s.in(t, func() error {
			l, err := netlink.LinkByName("eth0")
			addr = l.Attrs().HardwareAddr.String()
			return err
		})
		return addr
	}
	theirs := x.six("10.99.0.10")
	own := map[string]string{internetAddr: "10.99.0.11", "[" + internetAddr6 + "]": "[" + x.six("10.99.0.11") + "]"}
	forged := map[string]string{internetAddr: "10.99.0.10", "[" + internetAddr6 + "]": "[" + theirs + "]"}
	honest := mac(thief)
	say := func(text, from, to string) {
		thief.in(t, func() error {
			local, err := net.ResolveUDPAddr("udp", from+":0")
			if err != nil {
				return err
			}
			c, err := (&net.Dialer{LocalAddr: local}).Dial("udp", to+":7000")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte(text))
			return err
		})
	}
	thief.in(t, func() error {
		l, err := netlink.LinkByName("eth0")
		for _, a := range []string{"10.99.0.10/32", theirs + "/128"} {
			addr, parseErr := netlink.ParseAddr(a)
			if err = errors.Join(err, parseErr); err == nil {
				if addr.IP.To4() == nil {
					addr.Flags = unix.IFA_F_NODAD
				}
				err = netlink.AddrAdd(l, addr)
			}
		}
		return err
	})
	setMAC := func(addr string) {
		thief.in(t, func() error {
			l, err := netlink.LinkByName("eth0")
			hw, parseErr := net.ParseMAC(addr)
			return errors.Join(err, parseErr, netlink.LinkSetHardwareAddr(l, hw))
		})
	}
	for to, from := range forged {
		say("forged address", from, to)
	}
	setMAC(mac(victim))
	for to, from := range own {
		say("forged hardware address", from, to)
	}
	setMAC(honest)
	x.admit(t, thief, "10.99.0.11") // a new hardware address makes it forget the gateway's
	for to, from := range own {
		say("true "+to, from, to)
	}
	for to := range own {
		await(t, "the internet hears of "+to, func() bool { _, ok := heard.Load("true " + to); return ok })
	}
	for _, text := range []string{"forged address", "forged hardware address"} {
		if from, ok := heard.Load(text); ok {
			t.Errorf("the internet has heard a %s, from %v", text, from)
		}
	}
	for _, host := range []string{"10.99.0.10", "[" + theirs + "]"} {
		if got := x.host.ask(t, "tcp", host+":8080", true); !strings.HasPrefix(got, "victim ") {
			t.Errorf("at %s answers %q, want the victim", host, got)
		}
	}
	x.network.Close()
	if err := uninstall(x.cfg); err != nil {
		t.Fatal(err)
	}
	x.internet.routeTo(t, x.cfg.Subnet, netip.MustParseAddr(hostAddr))
	say("forged without rules", "10.99.0.10", internetAddr)
	await(t, "without rules the internet hears it", func() bool { _, ok := heard.Load("forged without rules"); return ok })
	x.open(t)
}

// hear notes every packet that comes.
func (s *space) hear(t *testing.T, addr string, heard *sync.Map) {
	t.Helper()
	var c net.PacketConn
	s.in(t, func() (err error) {
		c, err = net.ListenPacket("udp", addr)
		return err
	})
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			heard.Store(string(buf[:n]), from.String())
		}
	}()
}

func (x *lab) addrOf(pod string) string { return "10.99.0.1" + strings.TrimPrefix(pod, "p") }

func from(answer string, pods []string) bool {
	who, _, _ := strings.Cut(answer, " ")
	return who == pods[0] || who == pods[1]
}

// TestNetwork_LeadsToTheNameServerAtAnotherPort: another program has the usual one.
func TestNetwork_LeadsToTheNameServerAtAnotherPort(t *testing.T) {
	if !inLab(t) {
		return
	}
	x := newLab(t)
	x.pod(t, "alpha", "10.99.0.10")
	gateway := x.cfg.Gateway().String()
	for _, proto := range []string{"tcp", "udp"} {
		x.host.serve(t, proto, gateway+":53", "another program")
		x.host.serve(t, proto, gateway+":5353", "dns")
	}
	if err := x.network.ServeDNSAt(5353); err != nil {
		t.Fatal(err)
	}
	x.matrix(t, []cell{
		{"alpha", "udp", gateway + ":53", "name server over UDP", "dns to 10.99.0.10"},
		{"alpha", "tcp", gateway + ":53", "name server over TCP", "dns to 10.99.0.10"},
	})
}

// showBridged sets whether frames from port to port of a bridge are shown to the packet filter, as Docker does.
func showBridged(t *testing.T, value string) {
	t.Helper()
	for _, name := range []string{"iptables", "ip6tables", "arptables"} {
		set(t, "/proc/sys/net/bridge/bridge-nf-call-"+name, value)
	}
}
