//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/google/go-cmp/cmp"
)

// fetched is what a pod says that has made requests; see test/programs/web/fetch.go.
type fetched struct {
	Answers, Failures map[string]int
	Addrs             []string
}

// addrs are those of the family that the name stands for.
func (f fetched) addrs(isFamily func(netip.Addr) bool) (list []string) {
	for _, text := range f.Addrs {
		if a, err := netip.ParseAddr(text); err == nil && isFamily(a) {
			list = append(list, text)
		}
	}
	return list
}

// fetchFrom makes a pod of the service request target, n times at most and for the time d.
func (c *client) fetchFrom(service, target string, n int, d time.Duration) (out fetched, err error) {
	h, err := c.server.HTTPClient(false)
	if err != nil {
		return out, err
	}
	defer h.CloseIdleConnections()
	q := url.Values{"url": {target}, "n": {fmt.Sprint(n)}, "d": {d.String()}}
	resp, err := h.Get(c.url(service, "/fetch?"+q.Encode()))
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, fmt.Errorf("%w: %s", err, b)
	}
	return out, nil
}

func (c *client) mustFetch(service, target string, n int) fetched {
	c.t.Helper()
	out, err := c.fetchFrom(service, target, n, 30*time.Second)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// private is webDeployment without a public endpoint.
func private(service, tagged string, env map[string]string) *lightsail.CreateContainerServiceDeploymentInput {
	in := webDeployment(service, tagged, env)
	in.PublicEndpoint = nil
	return in
}

// TestPrivateNetwork_ServicesCallEachOtherByName: while the called service is deployed again and again, no call fails, and
// as soon as a version is ACTIVE it alone answers.
func TestPrivateNetwork_ServicesCallEachOtherByName(t *testing.T) {
	c := clientOf(t, shared.server)
	c.create("caller", types.ContainerServicePowerNameNano, 1)
	c.create("called", types.ContainerServicePowerNameNano, 2)
	defer c.delete("caller")

	in := webDeployment("caller", "web:1", nil)
	in.Containers["side-car"] = types.Container{Image: aws.String(image("web:2")), Environment: map[string]string{"PORT": "8081", "HOST": "127.0.0.1"}}
	c.deploy(in)
	c.waitState("caller", types.ContainerServiceStateRunning)
	if got := c.mustFetch("caller", "http://side-car:8081/", 3); got.Answers["version 2"] != 3 {
		t.Errorf("the other container of the deployment, by its name: %+v", got)
	}
	if got := c.mustFetch("caller", "http://called.service.local:8080/", 1); len(got.Answers) != 0 || len(got.addrs(netip.Addr.Is4)) != 1 {
		t.Errorf("a service without a deployment: %+v, want its address and a refusal", got)
	}
	if got := c.mustFetch("caller", "http://nobody.service.local:8080/", 1); len(got.Answers) != 0 || len(got.Addrs) != 0 {
		t.Errorf("a service that does not exist: %+v", got)
	}

	const target = "http://called.service.local:8080/"
	c.deploy(private("called", "web:1", nil))
	c.waitState("called", types.ContainerServiceStateRunning)
	first := c.mustFetch("caller", target, 10)
	if diff := cmp.Diff(map[string]int{"version 1": 10}, first.Answers); diff != "" || len(first.Failures) > 0 {
		t.Fatalf("calls of the first version: %s%v", diff, first.Failures)
	}
	addr := first.addrs(netip.Addr.Is4)
	if len(addr) != 1 {
		t.Fatalf("the name stands for %v, want one IPv4 address", first.Addrs)
	}
	if six := c.awaitIPv6("caller", target); six != "" {
		if got := c.mustFetch("caller", "http://["+six+"]:8080/", 10); got.Answers["version 1"] != 10 {
			t.Errorf("by IPv6: %+v", got)
		}
	}

	stop, done := make(chan struct{}), make(chan []fetched)
	go func() {
		var all []fetched
		for {
			select {
			case <-stop:
				done <- all
				return
			default:
			}
			got, err := c.fetchFrom("caller", target, 1<<20, 2*time.Second)
			if err != nil {
				got.Failures = map[string]int{err.Error(): 1}
			}
			all = append(all, got)
		}
	}()
	for i := 2; i <= 4; i++ {
		tag := fmt.Sprintf("web:%d", i%3+1)
		c.waitVersion("called", c.deploy(private("called", tag, nil)), types.ContainerServiceDeploymentStateActive)
		got := c.mustFetch("caller", target, 20)
		if diff := cmp.Diff(map[string]int{fmt.Sprintf("version %d", i%3+1): 20}, got.Answers); diff != "" {
			t.Errorf("right after the switch to %s: %s%v", tag, diff, got.Failures)
		}
		if !slices.Equal(got.addrs(netip.Addr.Is4), addr) {
			t.Errorf("the name stands for %v now, and stood for %v", got.Addrs, addr)
		}
	}
	close(stop)
	answers := map[string]int{}
	for _, got := range <-done {
		for line, n := range got.Answers {
			answers[line] += n
		}
		for why, n := range got.Failures {
			t.Errorf("%d calls failed: %s", n, why)
		}
	}
	t.Logf("answers: %v", answers)
	if len(answers) != 3 {
		t.Errorf("answers of versions %v, want of three", answers)
	}

	c.delete("called")
	if got := c.mustFetch("caller", target, 1); len(got.Addrs) != 0 || len(got.Answers) != 0 {
		t.Errorf("a service that was deleted: %+v", got)
	}
}

// TestPrivateNetwork_PodsReachNothingElse: the real server and real containers. Every combination is in the test of
// package podnet.
func TestPrivateNetwork_PodsReachNothingElse(t *testing.T) {
	c := clientOf(t, shared.server)
	c.create("inside", types.ContainerServicePowerNameNano, 1)
	defer c.delete("inside")
	in := webDeployment("inside", "web:1", nil)
	in.Containers["hidden"] = types.Container{Image: aws.String(image("web:2")), Environment: map[string]string{"PORT": "9090"}}
	c.deploy(in)
	c.waitState("inside", types.ContainerServiceStateRunning)

	got := c.mustFetch("inside", "http://inside.service.local:8080/", 1)
	addr := got.addrs(netip.Addr.Is4)
	if got.Answers["version 1"] != 1 || len(addr) != 1 {
		t.Fatalf("its own service: %+v", got)
	}
	_, apiPort, _ := strings.Cut(shared.server.API, ":")
	gateway := gatewayOf(t, addr[0])
	targets := map[string]string{
		"a closed port":             "http://inside.service.local:9090/",
		"the API on loopback":       "http://127.0.0.1:" + apiPort + "/healthz",
		"the API at the gateway":    "http://" + gateway + ":" + apiPort + "/healthz",
		"the registry's HTTP port":  "http://" + shared.registry.Host + "/v2/",
		"the metadata of the cloud": "http://169.254.169.254/latest/meta-data/",
		"ssh":                       "http://" + gateway + ":22/",
	}
	if six := c.awaitIPv6("inside", "http://inside.service.local:8080/"); six != "" {
		gateway := gatewayOf(t, six)
		targets["a closed port by IPv6"] = "http://[" + six + "]:9090/"
		targets["the API at the gateway by IPv6"] = "http://[" + gateway + "]:" + apiPort + "/healthz"
		targets["ssh by IPv6"] = "http://[" + gateway + "]:22/"
		targets["the metadata of the cloud by IPv6"] = "http://[fd00:ec2::254]/latest/meta-data/"
	}
	for what, target := range targets {
		if got, err := c.fetchFrom("inside", target, 1, time.Second); err != nil || len(got.Answers) > 0 {
			t.Errorf("%s (%s): %+v, %v, want a refusal", what, target, got, err)
		}
	}
}

// awaitIPv6 waits until the host of the target has an IPv6 address as well, which the service sees, and returns it; empty
// where the machine has none.
func (c *client) awaitIPv6(service, target string) string {
	c.t.Helper()
	if shared.server.InCluster() {
		c.t.Log("the test cluster has no IPv6")
		return ""
	}
	off, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
	if err != nil || strings.TrimSpace(string(off)) != "0" {
		c.t.Log("this machine has no IPv6")
		return ""
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if list := c.mustFetch(service, target, 1).addrs(netip.Addr.Is6); len(list) == 1 {
			return list[0]
		}
	}
	c.t.Fatalf("%s has no IPv6 address", target)
	return ""
}

// gatewayOf is this machine's address in the network of a service's address.
func gatewayOf(t *testing.T, addr string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", "-o", "route", "get", addr).Output()
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(out), " src ")
	return strings.Fields(after)[0]
}
