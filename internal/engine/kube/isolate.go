package kube

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/trysail/trysail"
)

// isolation keeps the network policies (policy.go) as they shall be: those of all pods and of the edges here, those of services
// when they are published. Every server does so for itself; what they apply is the same, or, of the places of edges, its own.
type isolation struct {
	*keeper // of names of policies; "" is that there shall be none

	home string // namespace that this server runs in; empty if it is outside of the cluster

	mu     sync.Mutex // guards all below
	places []edgePlace
}

// namespaceFile says in which namespace a pod is.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

func newIsolation(e *Engine) *isolation {
	i := &isolation{}
	i.keeper = newKeeper(e, "a network policy", i.settle)
	switch {
	case len(e.cfg.Edges) > 0:
		for _, network := range e.cfg.Edges {
			i.places = append(i.places, edgePlace{network: network})
		}
	case e.cfg.Kubeconfig == "":
		text, err := os.ReadFile(namespaceFile)
		if err == nil {
			i.home = strings.TrimSpace(string(text))
			i.places = []edgePlace{{namespace: i.home}}
		}
	}
	return i
}

// establish makes all policies before anything depends on them. Errors: what the cluster says, in a form for the operator.
func (i *isolation) establish(ctx context.Context) error {
	e := i.engine
	if !e.cfg.Isolate {
		return i.removeAll(ctx)
	}
	for _, n := range e.watch.allNodes() {
		for _, a := range n.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
				i.reach(addr)
			}
		}
	}
	for _, p := range e.watch.allPods() {
		if addr, err := netip.ParseAddr(p.Status.PodIP); err == nil {
			i.reach(addr)
		}
	}
	err := i.applyAll(ctx)
	if err != nil {
		return fmt.Errorf("making the network policies that isolate pods; packaging/kubernetes has the permissions that are needed, and --kube-isolation=false does without: %w", err)
	}
	return nil
}

// applyAll applies what allows something first: at no moment pods are cut off from what they use.
func (i *isolation) applyAll(ctx context.Context) error {
	for _, place := range i.known() {
		if err := i.settle(ctx, place.name()); err != nil {
			return err
		}
	}
	there := &networkingv1.NetworkPolicy{}
	err := i.engine.api.networking.Get().Namespace(i.engine.api.namespace).Resource("networkpolicies").Name(podsPolicy).Do(ctx).Into(there)
	if apierrors.IsNotFound(err) {
		err = i.adopt(ctx)
	}
	if err != nil {
		return i.engine.api.explain(err)
	}
	return errors.Join(i.settle(ctx, outPolicy), i.settle(ctx, podsPolicy))
}

// adopt makes policies for the services that are there already: of an installation that had none before.
func (i *isolation) adopt(ctx context.Context) error {
	e := i.engine
	list := &corev1.ServiceList{}
	ours := &metav1.ListOptions{LabelSelector: labelManagedBy + "=" + manager}
	if err := e.api.core.Get().Namespace(e.api.namespace).Resource("services").VersionedParams(ours, e.api.codec).Do(ctx).Into(list); err != nil {
		return err
	}
	for _, o := range list.Items {
		s := trysail.PrivateService{Service: o.Labels[labelName]}
		for _, port := range o.Spec.Ports {
			switch {
			case port.Name == noPort:
			case port.Protocol == corev1.ProtocolUDP:
				s.UDP = append(s.UDP, uint16(port.Port)) //nolint:gosec // a port
			default:
				s.TCP = append(s.TCP, uint16(port.Port)) //nolint:gosec // a port
			}
		}
		if err := e.api.apply(ctx, e.api.networking, "networkpolicies", e.servicePolicy(s)); err != nil {
			return err
		}
	}
	return nil
}

func (i *isolation) known() []edgePlace {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.places)
}

// settle applies a policy, or removes all.
func (i *isolation) settle(ctx context.Context, name string) error {
	e := i.engine
	if !e.cfg.Isolate {
		return i.removeAll(ctx)
	}
	var o *networkingv1.NetworkPolicy
	switch name {
	case podsPolicy:
		o = e.podsPolicy()
	case outPolicy:
		o = e.outPolicy(closedNetworks(e.watch.allNodes(), e.api.config.Host, e.cfg.PodNetwork))
	}
	for _, place := range i.known() {
		if place.name() == name {
			o = e.edgePolicy(place)
		}
	}
	if o == nil {
		return nil
	}
	return e.api.apply(ctx, e.api.networking, "networkpolicies", o)
}

// removeAll removes every policy of ours.
func (i *isolation) removeAll(ctx context.Context) error {
	e := i.engine
	list := &networkingv1.NetworkPolicyList{}
	ours := &metav1.ListOptions{LabelSelector: labelManagedBy + "=" + manager}
	err := e.api.networking.Get().Namespace(e.api.namespace).Resource("networkpolicies").VersionedParams(ours, e.api.codec).Do(ctx).Into(list)
	if apierrors.IsForbidden(err) {
		return nil // who may not see them has never made any
	}
	if err != nil {
		return e.api.explain(err)
	}
	var errs []error
	// What forbids most goes first, and the edges' way to the pods last.
	rank := func(o networkingv1.NetworkPolicy) int {
		switch {
		case o.Name == podsPolicy, o.Name == outPolicy:
			return 0
		case strings.HasPrefix(o.Name, edgePrefix):
			return 2
		}
		return 1
	}
	slices.SortFunc(list.Items, func(a, b networkingv1.NetworkPolicy) int { return rank(a) - rank(b) })
	for _, o := range list.Items {
		errs = append(errs, e.api.remove(ctx, e.api.networking, "networkpolicies", o.Name, o.UID, nil))
	}
	return errors.Join(errs...)
}

// reach notes that the edge sends requests to an address. It reports whether they come from an address that is new.
func (i *isolation) reach(to netip.Addr) bool {
	if i.home != "" || len(i.engine.cfg.Edges) > 0 {
		return false
	}
	from := sourceOf(to)
	if !from.IsValid() {
		return false
	}
	place := edgePlace{network: netip.PrefixFrom(from, from.BitLen())}
	i.mu.Lock()
	defer i.mu.Unlock()
	if slices.Contains(i.places, place) {
		return false
	}
	i.places = append(i.places, place)
	i.queue.Add(place.name())
	return true
}

// see looks whether the way to a pod is a new one.
func (i *isolation) see(before, now *corev1.Pod) {
	if now == nil || now.Status.PodIP == "" || before != nil && before.Status.PodIP == now.Status.PodIP {
		return
	}
	if addr, err := netip.ParseAddr(now.Status.PodIP); err == nil {
		i.reach(addr)
	}
}

// seeNode notes that the addresses of the cluster have changed.
func (i *isolation) seeNode(before, now *corev1.Node) {
	same := before != nil && now != nil && slices.Equal(before.Status.Addresses, now.Status.Addresses) && slices.Equal(before.Spec.PodCIDRs, now.Spec.PodCIDRs)
	if !same {
		i.queue.Add(outPolicy)
	}
}

// lead makes sure that it is so once more: another server may have had other settings.
func (i *isolation) lead() {
	for _, place := range i.known() {
		i.queue.Add(place.name())
	}
	i.queue.Add(outPolicy)
	i.queue.Add(podsPolicy)
}

// open lets other services reach the open ports of a service.
func (i *isolation) open(ctx context.Context, s trysail.PrivateService) error {
	if !i.engine.cfg.Isolate {
		return nil
	}
	return i.engine.api.apply(ctx, i.engine.api.networking, "networkpolicies", i.engine.servicePolicy(s))
}

// close forgets a service.
func (i *isolation) close(ctx context.Context, service string) error {
	if !i.engine.cfg.Isolate {
		return nil
	}
	return i.engine.api.remove(ctx, i.engine.api.networking, "networkpolicies", servicePolicyName(service), "", nil)
}
