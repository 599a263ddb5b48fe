package kube

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/trysail/trysail"
)

// The network policies that say who reaches whom, as podnet does on one machine. Policies add up: what one of them allows is
// allowed, and what none does is not. docs/adr/027-isolation-on-a-cluster.md has the reasons.
//
//	pods             all pods of ours: nothing comes in
//	pods-out         all pods of ours: out to each other, port 53, and what is outside of the cluster
//	service-<name>   pods of ours reach the open ports of the service
//	edge-<where>     one for each place where edges are: they reach all ports, and pods reach theirs

const (
	podsPolicy    = "pods"
	outPolicy     = "pods-out"
	servicePrefix = "service-"
	edgePrefix    = "edge-"
)

// allPods selects the pods that we run.
var allPods = metav1.LabelSelector{MatchLabels: map[string]string{labelManagedBy: manager}}

// namespaceName is the label by which the cluster itself names each namespace.
const namespaceName = corev1.LabelMetadataName

// dnsPort is open wherever it is: name servers are pods of the cluster, addresses of the node or machines elsewhere.
const dnsPort = 53

func (e *Engine) policy(name string, selected metav1.LabelSelector, spec networkingv1.NetworkPolicySpec) *networkingv1.NetworkPolicy {
	spec.PodSelector = selected
	return &networkingv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{labelManagedBy: manager, labelPartOf: manager}, OwnerReferences: e.owner.references()},
		Spec:       spec,
	}
}

// podsPolicy lets nothing in.
func (e *Engine) podsPolicy() *networkingv1.NetworkPolicy {
	return e.policy(podsPolicy, allPods, networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}})
}

// outPolicy is what all pods reach. Of the cluster's own addresses those are closed that are known. It is a policy of its own:
// kube-router takes what a policy lets out of one pod for what the same policy lets into another.
func (e *Engine) outPolicy(closed []netip.Prefix) *networkingv1.NetworkPolicy {
	dns := append(policyPorts(corev1.ProtocolUDP, dnsPort), policyPorts(corev1.ProtocolTCP, dnsPort)...)
	outside := []networkingv1.NetworkPolicyPeer{outsidePeer(netip.MustParsePrefix("0.0.0.0/0"), closed), outsidePeer(netip.MustParsePrefix("::/0"), closed)}
	return e.policy(outPolicy, allPods, networkingv1.NetworkPolicySpec{
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
		Egress: []networkingv1.NetworkPolicyEgressRule{
			{To: []networkingv1.NetworkPolicyPeer{{PodSelector: &allPods}}}, // which ports, the other side says
			{Ports: dns},
			{To: outside},
		},
	})
}

// outsidePeer is everything of a family but for what is closed.
func outsidePeer(all netip.Prefix, closed []netip.Prefix) networkingv1.NetworkPolicyPeer {
	block := &networkingv1.IPBlock{CIDR: all.String()}
	ipv6 := all.Addr().Is6()
	for _, p := range union(append(trysail.NotOutside(ipv6), closed...)) {
		// There is no word for IPv4 addresses in the clothes of IPv6 in a policy, and no way for them through a network.
		if p.Addr().Is6() == ipv6 && !p.Addr().Is4In6() && p.Bits() > 0 {
			block.Except = append(block.Except, p.String())
		}
	}
	return networkingv1.NetworkPolicyPeer{IPBlock: block}
}

// union sorts networks and leaves out those that lie within others.
func union(list []netip.Prefix) (out []netip.Prefix) {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	for _, p := range list {
		if n := len(out); n == 0 || !out[n-1].Contains(p.Addr()) || out[n-1].Bits() > p.Bits() {
			out = append(out, p)
		}
	}
	return out
}

// servicePolicyName is the name of the policy of a service.
func servicePolicyName(service string) string { return servicePrefix + nameOf(service) }

// servicePolicy lets pods reach the open ports of a service. One without open ports has a policy that allows nothing.
func (e *Engine) servicePolicy(s trysail.PrivateService) *networkingv1.NetworkPolicy {
	spec := networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}}
	if open := append(policyPorts(corev1.ProtocolTCP, s.TCP...), policyPorts(corev1.ProtocolUDP, s.UDP...)...); len(open) > 0 { // no ports would be all ports
		spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &allPods}}, Ports: open}}
	}
	p := e.policy(servicePolicyName(s.Service), metav1.LabelSelector{MatchLabels: map[string]string{labelManagedBy: manager, labelName: s.Service}}, spec)
	p.Labels[labelName] = s.Service
	return p
}

func policyPorts(protocol corev1.Protocol, numbers ...uint16) (list []networkingv1.NetworkPolicyPort) {
	for _, n := range numbers {
		port := intstr.FromInt32(int32(n))
		list = append(list, networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &port})
	}
	return list
}

// edgePlace is where edges are: a namespace of the cluster, or a network.
type edgePlace struct {
	namespace string
	network   netip.Prefix
}

// name is the name of the place's policy. It is that of an object in a cluster: letters, digits, dots and dashes.
func (p edgePlace) name() string {
	if p.namespace != "" {
		return edgePrefix + p.namespace
	}
	addr := strings.ReplaceAll(p.network.Addr().StringExpanded(), ":", "-")
	if p.network.IsSingleIP() {
		return edgePrefix + addr
	}
	return fmt.Sprintf("%s%s-%d", edgePrefix, addr, p.network.Bits())
}

// edgePolicy lets edges reach pods, and pods the ports of edges.
func (e *Engine) edgePolicy(place edgePlace) *networkingv1.NetworkPolicy {
	peer := networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{namespaceName: place.namespace}}}
	if place.namespace == "" {
		peer = networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: place.network.String()}}
	}
	spec := networkingv1.NetworkPolicySpec{
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{peer}}},
	}
	if open := append(policyPorts(corev1.ProtocolTCP, e.cfg.EdgePorts...), policyPorts(corev1.ProtocolUDP, e.cfg.EdgePorts...)...); len(open) > 0 {
		spec.PolicyTypes = append(spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{peer}, Ports: open}}
	}
	return e.policy(place.name(), allPods, spec)
}

// closedNetworks are the addresses of the cluster itself, as far as they are known: nodes, the API server, and pods, of which
// ours are allowed by their labels.
func closedNetworks(nodes []*corev1.Node, server string, pods netip.Prefix) (list []netip.Prefix) {
	if pods.IsValid() {
		list = append(list, pods)
	}
	single := func(text string) {
		if addr, err := netip.ParseAddr(text); err == nil {
			list = append(list, netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
	for _, n := range nodes {
		for _, a := range n.Status.Addresses {
			single(a.Address) // names are no addresses
		}
		for _, text := range append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...) {
			if p, err := netip.ParsePrefix(text); err == nil {
				list = append(list, p.Masked())
			}
		}
	}
	if u, err := url.Parse(server); err == nil {
		single(u.Hostname())
	}
	return union(list)
}

// sourceOf is this machine's address in packets to another one; invalid if there is no way.
func sourceOf(to netip.Addr) netip.Addr {
	if !to.IsValid() {
		return netip.Addr{}
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, dnsPort))) // sends nothing
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return local.Addr().Unmap().WithZone("")
}
