package kube

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/trysail/trysail"
)

var update = flag.Bool("update", false, "write the golden files anew")

func prefixes(list ...string) (out []netip.Prefix) {
	for _, text := range list {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

// TestPolicies_AreWhatIsDocumented compares all kinds of policies with testdata/policies.yaml, which is to be read by people.
// The cluster's API server looks at the same objects in the tests on a cluster.
func TestPolicies_AreWhatIsDocumented(t *testing.T) {
	e := &Engine{owner: owner{"trysail", "uid"}, cfg: Config{EdgePorts: []uint16{80, 443}}}
	node := &corev1.Node{}
	node.Spec.PodCIDR, node.Spec.PodCIDRs = "10.244.1.0/24", []string{"10.244.1.0/24", "fd00:10:244:1::/64"}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "n1"}, {Type: corev1.NodeInternalIP, Address: "192.168.0.11"}, {Type: corev1.NodeInternalIP, Address: "fd00:1::11"}}
	closed := closedNetworks([]*corev1.Node{node}, "https://192.168.0.10:6443", netip.MustParsePrefix("10.244.0.0/16"))
	var texts []string
	for _, o := range []any{
		e.podsPolicy(),
		e.outPolicy(closed),
		e.servicePolicy(trysail.PrivateService{Service: "web", TCP: []uint16{80, 8080}, UDP: []uint16{53}}),
		e.servicePolicy(trysail.PrivateService{Service: "Worker"}),
		e.edgePolicy(edgePlace{namespace: "trysail-system"}),
		e.edgePolicy(edgePlace{network: netip.MustParsePrefix("192.168.0.5/32")}),
		e.edgePolicy(edgePlace{network: netip.MustParsePrefix("fd00:1::/64")}),
	} {
		text, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	got := strings.Join(texts, "---\n")
	file := filepath.Join("testdata", "policies.yaml")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("policies (-%s +got):\n%s", file, diff)
	}
}

func TestUnion_LeavesOutWhatLiesWithin(t *testing.T) {
	got := union(prefixes("10.0.0.7/32", "10.0.0.0/8", "192.168.0.1/32", "10.0.0.0/24", "192.168.0.1/32", "192.168.0.0/31", "192.168.0.2/32", "fd00::/8", "fd00:1::/64"))
	if diff := cmp.Diff(prefixes("10.0.0.0/8", "192.168.0.0/31", "192.168.0.2/32", "fd00::/8"), got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("union (-want +got):\n%s", diff)
	}
}

func TestSourceOf_IsTheAddressOnTheWay(t *testing.T) {
	loopback := netip.MustParseAddr("127.0.0.1")
	if got := sourceOf(loopback); got != loopback {
		t.Errorf("to %v packets come from %v", loopback, got)
	}
	if got := sourceOf(netip.Addr{}); got.IsValid() {
		t.Errorf("to nowhere packets come from %v", got)
	}
}

// TestIsolation_LearnsWhereTheEdgeSendsFrom: each address once, and none where others are set.
func TestIsolation_LearnsWhereTheEdgeSendsFrom(t *testing.T) {
	loopback := netip.MustParseAddr("127.0.0.1")
	outside := newIsolation(&Engine{cfg: Config{Kubeconfig: "there", Isolate: true}})
	if !outside.reach(loopback) || outside.reach(loopback) || len(outside.known()) != 1 || outside.known()[0].name() != "edge-127.0.0.1" {
		t.Errorf("it knows %+v", outside.known())
	}
	told := newIsolation(&Engine{cfg: Config{Kubeconfig: "there", Isolate: true, Edges: prefixes("10.0.0.0/24")}})
	if told.reach(loopback) || len(told.known()) != 1 || told.known()[0].name() != "edge-10.0.0.0-24" {
		t.Errorf("it knows %+v", told.known())
	}
}
