package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// enforcePolicies makes the node's kernel do what the network policies of the cluster say, for the node's pods, as the network
// plugins of real clusters do. It knows policies as the documentation of Kubernetes has them, and nothing of Trysail: IPv4,
// ports by number, TCP and UDP; anything else in a policy is an error, which its log has. It never ends.
//
// It runs in the node's network. What goes from a pod of this node to another one of it passes the packet filter as well, by the
// kernel's br_netfilter.
func enforcePolicies(ctx context.Context, node string) error {
	if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0); err != nil {
		return fmt.Errorf("packets between pods of one node cannot be filtered: %w", err)
	}
	e := enforcer{node: node, changed: make(chan struct{}, 1)}
	if err := e.watch(ctx); err != nil {
		return err
	}
	before := ""
	for {
		rules, err := e.rules()
		if err != nil {
			slog.ErrorContext(ctx, "a policy cannot be enforced", "error", err)
		}
		if rules != before {
			if err := load(ctx, rules); err != nil {
				return err
			}
			before = rules
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-e.changed:
			time.Sleep(20 * time.Millisecond) // what comes together is done together
		}
	}
}

// load replaces the rules in one step.
func load(ctx context.Context, rules string) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s\n%s", err, out, rules)
	}
	return nil
}

type enforcer struct {
	node                       string
	pods, namespaces, policies cache.SharedInformer
	changed                    chan struct{}
}

// watch follows everything that policies speak of.
func (e *enforcer) watch(ctx context.Context) error {
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), networkingv1.AddToScheme(scheme)); err != nil {
		return err
	}
	codecs := serializer.NewCodecFactory(scheme).WithoutConversion()
	follow := func(path string, version schema.GroupVersion, resource string, kind runtime.Object) (cache.SharedInformer, error) {
		config, err := clientcmd.BuildConfigFromFlags("", place("pki", "admin.kubeconfig"))
		if err != nil {
			return nil, err
		}
		config.APIPath, config.GroupVersion, config.NegotiatedSerializer = path, &version, codecs
		client, err := rest.RESTClientFor(config)
		if err != nil {
			return nil, err
		}
		i := cache.NewSharedInformer(cache.NewListWatchFromClient(client, resource, "", fields.Everything()), kind, 0)
		note := func() {
			select {
			case e.changed <- struct{}{}:
			default:
			}
		}
		_, err = i.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(any) { note() }, UpdateFunc: func(any, any) { note() }, DeleteFunc: func(any) { note() }})
		go i.RunWithContext(ctx)
		return i, err
	}
	var errs [3]error
	e.pods, errs[0] = follow("/api", corev1.SchemeGroupVersion, "pods", &corev1.Pod{})
	e.namespaces, errs[1] = follow("/api", corev1.SchemeGroupVersion, "namespaces", &corev1.Namespace{})
	e.policies, errs[2] = follow("/apis", networkingv1.SchemeGroupVersion, "networkpolicies", &networkingv1.NetworkPolicy{})
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	cache.WaitForCacheSync(ctx.Done(), e.pods.HasSynced, e.namespaces.HasSynced, e.policies.HasSynced)
	return ctx.Err()
}

// rules are the node's, in nft's words: each of its pods that a policy selects has a chain for what comes in, or goes out.
// A policy that cannot be put into rules allows nothing.
func (e *enforcer) rules() (text string, err error) {
	var dispatch, chains strings.Builder
	for _, pod := range sorted[*corev1.Pod](e.pods) {
		if pod.Spec.NodeName != e.node || !connected(pod) {
			continue
		}
		for _, way := range []struct {
			kind      networkingv1.PolicyType
			own, peer string // words for the pod's address and the other one's
		}{{networkingv1.PolicyTypeEgress, "saddr", "daddr"}, {networkingv1.PolicyTypeIngress, "daddr", "saddr"}} {
			var allowed []string
			isolated := false
			for _, p := range sorted[*networkingv1.NetworkPolicy](e.policies) {
				selected, failed := matches(&p.Spec.PodSelector, pod.Labels)
				err = errors.Join(err, failed)
				if p.Namespace != pod.Namespace || !selected || !slices.Contains(p.Spec.PolicyTypes, way.kind) {
					continue
				}
				isolated = true
				lines, failed := e.allowed(p, way.kind, way.peer)
				if failed != nil {
					err = errors.Join(err, fmt.Errorf("%s/%s: %w", p.Namespace, p.Name, failed))
				}
				allowed = append(allowed, lines...)
			}
			if !isolated {
				continue
			}
			chain := strings.ToLower(string(way.kind)) + "-" + strings.ReplaceAll(pod.Status.PodIP, ".", "-")
			fmt.Fprintf(&dispatch, "    ip %s %s jump %s\n", way.own, pod.Status.PodIP, chain)
			fmt.Fprintf(&chains, "  chain %s {\n    # %s/%s\n%s    drop\n  }\n", chain, pod.Namespace, pod.Name, strings.Join(allowed, ""))
		}
	}
	return fmt.Sprintf("table ip policies\ndelete table ip policies\ntable ip policies {\n  chain forward {\n    type filter hook forward priority -10; policy accept;\n"+
		"    ct state established,related accept\n%s  }\n%s}\n", dispatch.String(), chains.String()), err
}

// connected reports whether the pod has an address of its own.
func connected(p *corev1.Pod) bool {
	return p.Status.PodIP != "" && !p.Spec.HostNetwork && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

// rule is one of a policy, of either kind.
type rule struct {
	peers []networkingv1.NetworkPolicyPeer
	ports []networkingv1.NetworkPolicyPort
}

func rulesOf(p *networkingv1.NetworkPolicy, kind networkingv1.PolicyType) (list []rule) {
	if kind == networkingv1.PolicyTypeIngress {
		for _, r := range p.Spec.Ingress {
			list = append(list, rule{r.From, r.Ports})
		}
		return list
	}
	for _, r := range p.Spec.Egress {
		list = append(list, rule{r.To, r.Ports})
	}
	return list
}

// allowed are lines that let through what a policy allows.
func (e *enforcer) allowed(p *networkingv1.NetworkPolicy, kind networkingv1.PolicyType, peer string) (lines []string, err error) {
	for _, r := range rulesOf(p, kind) {
		from, err := e.peers(p.Namespace, r.peers, peer)
		if err != nil {
			return lines, err
		}
		ports, err := portMatches(r.ports)
		if err != nil {
			return lines, err
		}
		for _, f := range from {
			for _, port := range ports {
				lines = append(lines, strings.Join(strings.Fields("    "+f+" "+port+" return"), " ")+"\n")
			}
		}
	}
	return lines, nil
}

// peers are matches for the other side: one that matches everything if none is named.
func (e *enforcer) peers(namespace string, peers []networkingv1.NetworkPolicyPeer, word string) (list []string, err error) {
	if len(peers) == 0 {
		return []string{""}, nil
	}
	var pods []string
	for _, peer := range peers {
		if b := peer.IPBlock; b != nil {
			match, err := blockMatch(b, word)
			if err != nil {
				return nil, err
			}
			list = append(list, match...)
			continue
		}
		for _, pod := range sorted[*corev1.Pod](e.pods) {
			if !connected(pod) {
				continue
			}
			ok := pod.Namespace == namespace
			if peer.NamespaceSelector != nil {
				if ok, err = matches(peer.NamespaceSelector, e.namespaceLabels(pod.Namespace)); err != nil {
					return nil, err
				}
			}
			if ok && peer.PodSelector != nil {
				if ok, err = matches(peer.PodSelector, pod.Labels); err != nil {
					return nil, err
				}
			}
			if ok {
				pods = append(pods, pod.Status.PodIP)
			}
		}
	}
	if slices.Sort(pods); len(pods) > 0 {
		list = append(list, fmt.Sprintf("ip %s { %s }", word, strings.Join(slices.Compact(pods), ", ")))
	}
	return list, nil
}

func blockMatch(b *networkingv1.IPBlock, word string) ([]string, error) {
	network, err := netip.ParsePrefix(b.CIDR)
	if err != nil || network.Addr().Is6() {
		return nil, err // there is no IPv6 here
	}
	match := fmt.Sprintf("ip %s %s", word, network)
	if network.Bits() == 0 {
		match = "" // nft does not know that network
	}
	if len(b.Except) > 0 {
		match += fmt.Sprintf(" ip %s != { %s }", word, strings.Join(b.Except, ", "))
	}
	return []string{match}, nil
}

func portMatches(ports []networkingv1.NetworkPolicyPort) (list []string, err error) {
	if len(ports) == 0 {
		return []string{""}, nil
	}
	for _, p := range ports {
		protocol := "tcp"
		if p.Protocol != nil {
			protocol = strings.ToLower(string(*p.Protocol))
		}
		switch {
		case protocol != "tcp" && protocol != "udp":
			return nil, fmt.Errorf("protocol %s is not known here", protocol)
		case p.Port == nil:
			list = append(list, "meta l4proto "+protocol)
		case p.Port.Type == intstr.String:
			return nil, fmt.Errorf("port %q: names are not known here", p.Port.StrVal)
		case p.EndPort != nil:
			list = append(list, fmt.Sprintf("%s dport %d-%d", protocol, p.Port.IntVal, *p.EndPort))
		default:
			list = append(list, fmt.Sprintf("%s dport %d", protocol, p.Port.IntVal))
		}
	}
	return list, nil
}

func (e *enforcer) namespaceLabels(name string) map[string]string {
	for _, n := range sorted[*corev1.Namespace](e.namespaces) {
		if n.Name == name {
			return n.Labels
		}
	}
	return nil
}

func matches(s *metav1.LabelSelector, set map[string]string) (bool, error) {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return false, err
	}
	return selector.Matches(labels.Set(set)), nil
}

// sorted are the objects that an informer has, by namespace and name: the same objects make the same rules.
func sorted[T metav1.Object](i cache.SharedInformer) (list []T) {
	for _, o := range i.GetStore().List() {
		if o, ok := o.(T); ok {
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b T) int {
		return strings.Compare(a.GetNamespace()+"/"+a.GetName(), b.GetNamespace()+"/"+b.GetName())
	})
	return list
}
