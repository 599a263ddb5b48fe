//go:build cluster

package kube_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine/kube"
)

// address gives this machine an address more until the test ends.
func address(t *testing.T, addr string) string {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "ip", "addr", "add", addr+"/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("adding address %s: %v: %s", addr, err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "addr", "del", addr+"/32", "dev", "lo").CombinedOutput(); err != nil {
			t.Errorf("removing address %s: %v: %s", addr, err, out)
		}
	})
	return addr
}

// echoAt answers TCP and UDP at an address of this machine with what comes, and returns the port.
func echoAt(t *testing.T, addr string, port uint16) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", addr, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	u, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	go func() {
		b := make([]byte, 64)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(b[:n], from)
		}
	}()
	at, _ := netip.ParseAddrPort(l.Addr().String())
	return at.Port()
}

// reach reports whether something answers there: a try from within the pod.
func (r *rig) reach(from trysail.PodID, network, to string) bool {
	r.tb.Helper()
	var out bytes.Buffer
	code, err := r.engine.Exec(r.tb.Context(), from, "a", trysail.Command{Args: []string{"/program", "reach", network, to}, Stdout: &out, Stderr: &out})
	if err != nil {
		r.tb.Errorf("trying to reach %s from %s: %v", to, from, err)
	}
	return code == 0
}

// reachFrom is the same from an address of this machine.
func reachFrom(t *testing.T, addr, to string) bool {
	t.Helper()
	d := net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}
	c, err := d.DialContext(t.Context(), "tcp", to)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	_, err = c.Write([]byte("x"))
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	return err == nil
}

// TestEngine_IsolatesPods tries who reaches whom, on a cluster whose network enforces policies. A stranger is a pod of another
// namespace, without policies: what it reaches can be reached.
func TestEngine_IsolatesPods(t *testing.T) {
	number := rand.IntN(250)
	outside, link := address(t, fmt.Sprintf("10.78.251.%d", 1+number)), address(t, fmt.Sprintf("169.254.78.%d", 1+number))
	edgePort, otherPort := echoAt(t, gateway, 0), echoAt(t, gateway, 0)
	outsidePort, linkPort := echoAt(t, outside, 0), echoAt(t, link, 0)
	echoAt(t, outside, 53)

	r := newRig(t, func(c *kube.Config) { c.EdgePorts = []uint16{edgePort} })
	others := newRig(t, func(c *kube.Config) { c.Isolate = false })
	echo := func(r *rig, service string, id trysail.PodID) trysail.Pod {
		spec := r.podSpec(id, "echo 53 8080 9090")
		spec.Service, spec.ServiceID = service, "id-of-"+service
		return r.start(spec)
	}
	// There are more copies than nodes, so that two are on the same one.
	web := echo(r, "web", "web-v1-0")
	var copies []trysail.Pod
	var near, twin trysail.Pod
	seen := map[string]trysail.Pod{r.object(web.ID).Spec.NodeName: web}
	for i := 1; !twin.Addr.IsValid() || len(copies) < 2; i++ {
		p := echo(r, "web", trysail.PodID(fmt.Sprintf("web-v1-%d", i)))
		node := r.object(p.ID).Spec.NodeName
		if first, taken := seen[node]; taken {
			near, twin = first, p
		}
		seen[node] = p
		copies = append(copies, p)
	}
	api, task, stranger := echo(r, "api", "api-v1-0"), echo(r, "job", "job-1"), echo(others, "web", "stranger")
	service, err := r.engine.Publish(trysail.PrivateService{Service: "web", Pods: []netip.Addr{web.Addr}, TCP: []uint16{8080}, UDP: []uint16{8080}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.engine.Publish(trysail.PrivateService{Service: "api", Pods: []netip.Addr{api.Addr}}); err != nil {
		t.Fatal(err)
	}
	at := func(addr any, port uint16) string { return fmt.Sprintf("%v:%d", addr, port) }

	tries := []struct {
		what string
		want bool
		try  func() bool
	}{
		{"an open port of another service", true, func() bool { return r.reach(api.ID, "tcp", at(web.Addr, 8080)) }},
		{"the same, UDP", true, func() bool { return r.reach(api.ID, "udp", at(web.Addr, 8080)) }},
		{"the same, by the service's address", true, func() bool { return r.reach(api.ID, "tcp", at(service, 8080)) }},
		{"by the service's address, UDP", true, func() bool { return r.reach(api.ID, "udp", at(service, 8080)) }},
		{"an open port of its own service", true, func() bool { return r.reach(web.ID, "tcp", at(copies[0].Addr, 8080)) }},
		{"the internet", true, func() bool { return r.reach(web.ID, "tcp", at(outside, outsidePort)) }},
		{"the internet, UDP", true, func() bool { return r.reach(web.ID, "udp", at(outside, outsidePort)) }},
		{"a name server", true, func() bool { return r.reach(web.ID, "udp", at(outside, 53)) }},
		{"a name server in the cluster", true, func() bool { return r.reach(web.ID, "udp", at(stranger.Addr, 53)) }},
		{"the edge", true, func() bool { return r.reach(web.ID, "tcp", at(gateway, edgePort)) }},
		{"a task to a service", true, func() bool { return r.reach(task.ID, "tcp", at(web.Addr, 8080)) }},
		{"the edge to a pod", true, func() bool { return reachFrom(t, gateway, at(web.Addr, 8080)) }},
		{"the edge to a port that is closed to others", true, func() bool { return reachFrom(t, gateway, at(web.Addr, 9090)) }},
		{"a stranger to the link", true, func() bool { return others.reach(stranger.ID, "tcp", at(link, linkPort)) }},
		{"a stranger to another program beside the edge", true, func() bool { return others.reach(stranger.ID, "tcp", at(gateway, otherPort)) }},
		{"another machine to a stranger", true, func() bool { return reachFrom(t, outside, at(stranger.Addr, 8080)) }},

		{"a closed port of another service", false, func() bool { return r.reach(api.ID, "tcp", at(web.Addr, 9090)) }},
		{"the same, UDP", false, func() bool { return r.reach(api.ID, "udp", at(web.Addr, 9090)) }},
		{"a service without open ports", false, func() bool { return r.reach(web.ID, "tcp", at(api.Addr, 8080)) }},
		{"a closed port of its own service's copy", false, func() bool { return r.reach(web.ID, "tcp", at(copies[0].Addr, 9090)) }},
		{"an open port of a copy on the same node", true, func() bool { return r.reach(near.ID, "tcp", at(twin.Addr, 8080)) }},
		{"a copy on any node", false, func() bool { return r.reach(copies[0].ID, "tcp", at(copies[1].Addr, 9090)) }},
		{"a copy on the same node", false, func() bool { return r.reach(near.ID, "tcp", at(twin.Addr, 9090)) }},
		{"a task", false, func() bool { return r.reach(web.ID, "tcp", at(task.Addr, 8080)) }},
		{"a stranger", false, func() bool { return r.reach(web.ID, "tcp", at(stranger.Addr, 8080)) }},
		{"from a stranger", false, func() bool { return others.reach(stranger.ID, "tcp", at(web.Addr, 8080)) }},
		{"from a stranger, UDP", false, func() bool { return others.reach(stranger.ID, "udp", at(web.Addr, 8080)) }},
		{"from another machine", false, func() bool { return reachFrom(t, outside, at(web.Addr, 8080)) }},
		{"link-local addresses", false, func() bool { return r.reach(web.ID, "tcp", at(link, linkPort)) }},
		{"the API server's machine", false, func() bool { return r.reach(web.ID, "tcp", at(gateway, otherPort)) }},
	}
	var wrong []string
	defer func() {
		if t.Failed() {
			t.Logf("not as wanted: %q", wrong)
		}
	}()
	r.wait("rules are in force", func() bool {
		got := make([]bool, len(tries))
		var wg sync.WaitGroup
		for i := range tries {
			wg.Go(func() { got[i] = tries[i].try() })
		}
		wg.Wait()
		wrong = nil
		for i, tt := range tries {
			if got[i] != tt.want {
				wrong = append(wrong, tt.what)
			}
		}
		return len(wrong) == 0
	})

	// A version with other ports.
	if _, err := r.engine.Publish(trysail.PrivateService{Service: "web", Pods: []netip.Addr{web.Addr}, TCP: []uint16{9090}}); err != nil {
		t.Fatal(err)
	}
	r.wait("the new port is open", func() bool { return r.reach(api.ID, "tcp", at(web.Addr, 9090)) })
	r.wait("the old port is closed", func() bool { return !r.reach(api.ID, "tcp", at(web.Addr, 8080)) })

	// Without isolation, and with it again: what the services open is known although nobody has published it.
	r.close()
	r.cfg.Isolate = false
	r.open()
	if left := r.policies(); len(left) > 0 {
		t.Errorf("there are still policies %v", left)
	}
	r.wait("a stranger gets in", func() bool { return others.reach(stranger.ID, "tcp", at(web.Addr, 8080)) })
	r.close()
	r.cfg.Isolate = true
	r.open()
	r.wait("a stranger does not get in", func() bool { return !others.reach(stranger.ID, "tcp", at(web.Addr, 8080)) })
	r.wait("the open port is open", func() bool { return r.reach(api.ID, "tcp", at(web.Addr, 9090)) })
	if err := r.engine.Withdraw("web"); err != nil {
		t.Error(err)
	}
	if left := strings.Join(r.policies(), " "); left != "edge-"+gateway+" pods pods-out service-api" {
		t.Errorf("policies at the end: %s", left)
	}
}

// policies are the names of the network policies in the namespace.
func (r *rig) policies() (names []string) {
	r.tb.Helper()
	list := &networkingv1.NetworkPolicyList{}
	err := r.admin.Get().AbsPath("/apis/networking.k8s.io/v1/namespaces/" + r.cfg.Namespace + "/networkpolicies").Do(r.tb.Context()).Into(list)
	if err != nil {
		r.tb.Fatal(err)
	}
	for _, p := range list.Items {
		names = append(names, p.Name)
	}
	return names
}
