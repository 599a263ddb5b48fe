package kube

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/trysail/trysail"
)

// spreadTime is how long nodes have to learn that a name leads to other pods.
const spreadTime = time.Second

// publication is what the cluster has been told of a service, and the address that it gave.
type publication struct {
	service trysail.PrivateService
	addr    netip.Addr
}

// noPort names the port of a Service that opens none: it has to have one.
const noPort = "none"

// Publish makes the name of a service lead to its pods: <service>.<namespace>.svc.<cluster domain>, and just <service> for
// other services. It is a Service whose endpoints we set ourselves, since who is healthy is for the edge to say. Its
// address, which is returned, stays as long as the service does, so that it may be remembered. Publishing the same twice
// asks nothing of the cluster.
func (e *Engine) Publish(s trysail.PrivateService) (netip.Addr, error) {
	e.mu.Lock()
	have, known := e.published[s.Service]
	e.mu.Unlock()
	if known && slices.Equal(have.service.Pods, s.Pods) && slices.Equal(have.service.TCP, s.TCP) && slices.Equal(have.service.UDP, s.UDP) {
		return have.addr, nil
	}
	if !known || !slices.Equal(have.service.TCP, s.TCP) || !slices.Equal(have.service.UDP, s.UDP) {
		if err := e.isolation.open(e.ctx, s); err != nil {
			return netip.Addr{}, fmt.Errorf("opening the ports of %s: %w", s.Service, err)
		}
	}
	service, slice := e.nameObjects(s, e.watch.nodesByAddr())
	if err := e.api.apply(e.ctx, e.api.core, "services", service); err != nil {
		return netip.Addr{}, fmt.Errorf("publishing the private name of %s: %w", s.Service, err)
	}
	if err := e.api.apply(e.ctx, e.api.discovery, "endpointslices", slice); err != nil {
		return netip.Addr{}, fmt.Errorf("publishing the private name of %s: %w", s.Service, err)
	}
	addr, err := netip.ParseAddr(service.Spec.ClusterIP)
	if err != nil {
		return addr, fmt.Errorf("the cluster gave service %s no address: %w", s.Service, err)
	}
	if slices.ContainsFunc(s.Pods, func(a netip.Addr) bool { return !slices.Contains(have.service.Pods, a) }) {
		// Who learns that a version is ACTIVE shall find it by its name. Nobody tells when all nodes know a new address.
		select {
		case <-e.ctx.Done():
		case <-time.After(spreadTime):
		}
	}
	s.Pods, s.TCP, s.UDP = slices.Clone(s.Pods), slices.Clone(s.TCP), slices.Clone(s.UDP)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.published[s.Service] = publication{s, addr}
	return addr, nil
}

// Lead forgets what this server has published: another one may have changed it since. Logs are followed again from where
// the others have come, as soon as their pods are adopted.
func (e *Engine) Lead() {
	e.Standby()
	e.isolation.lead()
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.published)
}

// Standby ends following logs, where another server does that.
func (e *Engine) Standby() {
	if e.cfg.Continue == nil {
		return
	}
	e.mu.Lock()
	ids := slices.Collect(maps.Keys(e.records))
	clear(e.records)
	e.mu.Unlock()
	for _, id := range ids {
		_ = os.Remove(e.recordFile(id))
	}
	e.follow.end()
}

// nameOf is the name of a service in the cluster, where names begin with a letter and have at most 63 characters.
func nameOf(service string) string {
	name := strings.ToLower(service)
	if name[0] < 'a' || name[0] > 'z' {
		name = "s-" + name
	}
	return strings.TrimRight(name[:min(len(name), 63)], "-")
}

// nameObjects makes the objects. nodeOf is where the pods are: a node sends answers of a pod to itself through its own
// address, and knows by the name of the node which pods are its own.
func (e *Engine) nameObjects(s trysail.PrivateService, nodeOf map[netip.Addr]string) (*corev1.Service, *discoveryv1.EndpointSlice) {
	labels := map[string]string{labelName: s.Service, labelManagedBy: manager, labelPartOf: manager}
	service := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Name: nameOf(s.Service), Labels: labels, OwnerReferences: e.owner.references()},
	}
	slice := &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{
			Name: nameOf(s.Service) + "-trysail", OwnerReferences: e.owner.references(),
			Labels: map[string]string{
				labelName: s.Service, labelManagedBy: manager, labelPartOf: manager,
				discoveryv1.LabelServiceName: nameOf(s.Service), discoveryv1.LabelManagedBy: "trysail.dev",
			},
		},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{},
	}
	for _, open := range []struct {
		protocol corev1.Protocol
		ports    []uint16
	}{{corev1.ProtocolTCP, s.TCP}, {corev1.ProtocolUDP, s.UDP}} {
		for _, port := range open.ports {
			name, protocol, number := fmt.Sprintf("%s-%d", map[corev1.Protocol]string{corev1.ProtocolTCP: "tcp", corev1.ProtocolUDP: "udp"}[open.protocol], port), open.protocol, int32(port)
			service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{Name: name, Protocol: protocol, Port: number})
			slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &number})
		}
	}
	if len(service.Spec.Ports) == 0 {
		// A Service has to have a port. Without endpoints whoever asks is refused at once.
		service.Spec.Ports = []corev1.ServicePort{{Name: noPort, Protocol: corev1.ProtocolTCP, Port: 1}}
	}
	ready := true
	for _, addr := range s.Pods {
		if addr.Is6() && !addr.Is4In6() {
			slice.AddressType = discoveryv1.AddressTypeIPv6
		}
		endpoint := discoveryv1.Endpoint{Addresses: []string{addr.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
		if node := nodeOf[addr]; node != "" {
			endpoint.NodeName = &node
		}
		slice.Endpoints = append(slice.Endpoints, endpoint)
	}
	return service, slice
}

// Withdraw forgets the name of a service.
func (e *Engine) Withdraw(service string) error {
	e.mu.Lock()
	delete(e.published, service)
	e.mu.Unlock()
	if err := e.api.remove(e.ctx, e.api.discovery, "endpointslices", nameOf(service)+"-trysail", "", nil); err != nil {
		return fmt.Errorf("withdrawing the private name of %s: %w", service, err)
	}
	if err := e.api.remove(e.ctx, e.api.core, "services", nameOf(service), "", nil); err != nil {
		return fmt.Errorf("withdrawing the private name of %s: %w", service, err)
	}
	if err := e.isolation.close(e.ctx, service); err != nil {
		return fmt.Errorf("closing the ports of %s: %w", service, err)
	}
	return nil
}
