package diagnose

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/trysail/trysail"
)

// maxPorts bounds the ports of a pod that are tried.
const maxPorts = 48

// usualPorts are those that servers and frameworks listen on unless they are told otherwise.
func usualPorts() []int {
	return []int{80, 3000, 8000, 8080, 5000, 8888, 443, 4000, 9000, 8081, 5173, 4200, 1337, 2368, 3001, 5001, 7000, 7860, 8001, 8008, 8090, 8443, 8501, 9090, 6379, 5432, 50051}
}

// portWords finds what looks like a port in words of a program or to it: ":8080", "port 8080", "port=8080".
var portWords = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)(?::|\bport\b["'\s:=]{0,4}|^)(\d{2,5})\b`)
})

// Ports lists the ports of a pod that are worth trying where sockets cannot be seen, that of the endpoint first: none
// unless its containers run and the health check is refused.
func Ports(d *trysail.Deployment, autopsies map[string]trysail.Autopsy, e *trysail.PodEvidence) (ports []int) {
	ep := d.PublicEndpoint
	if ep == nil || e == nil || e.Listeners != nil || e.Lost || len(e.Containers) == 0 {
		return nil
	}
	for _, s := range e.Containers {
		if s.State != trysail.ContainerRunning {
			return nil
		}
	}
	p := podCase{newCase(Input{Deployment: d}), trysail.PodRecord{}, e}
	if p.lastProbe().Kind() != trysail.ProbeRefused {
		return nil
	}
	add := func(list ...int) {
		for _, n := range list {
			if n > 1 && n < 1<<16 && !slices.Contains(ports, n) && len(ports) < maxPorts {
				ports = append(ports, n)
			}
		}
	}
	add(ep.ContainerPort)
	for _, name := range append([]string{ep.ContainerName}, d.ContainerNames()...) {
		c := d.Containers[name]
		add(sortedPorts(c)...)
		for _, exposed := range autopsies[name].Exposed {
			add(portsIn(exposed)...)
		}
		for _, variable := range slices.Sorted(maps.Keys(c.Environment)) {
			add(portsIn(c.Environment[variable])...)
		}
		for _, word := range c.Command {
			add(portsIn(word)...)
		}
		lines := e.LogTail[name]
		for _, line := range lines[max(0, len(lines)-20):] {
			add(portsIn(line)...)
		}
	}
	add(usualPorts()...)
	return ports
}

// portsIn finds what looks like a port in a text.
func portsIn(text string) (ports []int) {
	const most = 8
	for _, m := range portWords().FindAllStringSubmatch(text[:min(len(text), trysail.MaxEvidenceLine)], most) {
		if n, err := strconv.Atoi(m[1]); err == nil {
			ports = append(ports, n)
		}
	}
	return ports
}

// knocked are the listeners that the ports tell of which were tried: those that answer from outside, and those that only
// answer inside. What was not tried may be there all the same.
func (p podCase) knocked() (list []trysail.Listener) {
	for _, k := range p.e.Knocks {
		port := uint16(k.Port) //nolint:gosec // it was one
		switch {
		case k.Outside == trysail.ReachOK, k.Inside == trysail.ReachOK && k.Outside != trysail.ReachRefused: // a policy may be in the way
			list = append(list, trysail.Listener{Address: netip.AddrPortFrom(netip.IPv4Unspecified(), port), Container: k.Container})
		case k.Outside == trysail.ReachRefused && k.Inside == trysail.ReachOK:
			list = append(list, trysail.Listener{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port), Container: k.Container})
		}
	}
	return list
}

// knock is what came of trying a port.
func (p podCase) knock(port int) (k trysail.Knock, tried bool) {
	i := slices.IndexFunc(p.e.Knocks, func(k trysail.Knock) bool { return k.Port == port })
	if i < 0 {
		return k, false
	}
	return p.e.Knocks[i], true
}

// knockText says what came of trying a port.
func knockText(k trysail.Knock) string {
	if k.Inside == "" {
		return "from outside it " + reachText(k.Outside) + "; from inside of the pod nothing could be tried"
	}
	return "from outside it " + reachText(k.Outside) + ", and from inside of the pod it " + reachText(k.Inside)
}

// saidLoopback is about a program that says it listens on an address that only the pod itself can reach, where that could
// not be tried.
func (p podCase) saidLoopback(ep *trysail.PublicEndpoint) (f finding, ok bool) {
	k, _ := p.knock(ep.ContainerPort)
	if p.e.Listeners != nil || k.Outside != trysail.ReachRefused {
		return f, false
	}
	for _, line := range slices.Backward(p.e.LogTail[ep.ContainerName]) {
		m := loopbackWords().FindStringSubmatch(line[:min(len(line), trysail.MaxEvidenceLine)])
		if m == nil || m[2] != strconv.Itoa(ep.ContainerPort) {
			continue
		}
		// A node forwards to localhost by the addresses that it knows by that name itself, which are not always those of IPv6.
		if m[1] != "[::1]" && k.Inside == trysail.ReachRefused {
			return f, false
		}
		f = finding{code: "NET-LOOPBACK", confidence: trysail.Likely, rank: rankSocket}
		f.summary = fmt.Sprintf("The program says that it listens on %s:%d, which only the pod itself can reach.", m[1], ep.ContainerPort)
		addr, err := netip.ParseAddr(strings.Trim(m[1], "[]"))
		if err != nil {
			addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		f.fix = fmt.Sprintf("Make it listen on 0.0.0.0:%d%s.", ep.ContainerPort, p.bindHint(ep, trysail.Listener{Address: netip.AddrPortFrom(addr, uint16(ep.ContainerPort))})) //nolint:gosec // a port
		f.prove("log", "%s", p.show(line))
		f.prove("socket", "port %d: %s", ep.ContainerPort, knockText(k))
		return f, true
	}
	return f, false
}

// loopbackWords finds the address in what servers say when they have begun to listen.
var loopbackWords = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)\b(?:listen|serv|running|start|bound|bind|ready|available|local)[^\n]*?(127\.0\.0\.1|\[::1\]|localhost):(\d{2,5})\b`)
})
