package kube

import (
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/trysail/trysail"
)

// The labels of what we have in the cluster: those that Kubernetes recommends, and the service's own ID.
const (
	labelName      = "app.kubernetes.io/name"
	labelVersion   = "app.kubernetes.io/version"
	labelManagedBy = "app.kubernetes.io/managed-by"
	labelPartOf    = "app.kubernetes.io/part-of"
	labelServiceID = "trysail.dev/service-id"
	// pullSecret is the name of the secret by which nodes may fetch images from us.
	pullSecret = "trysail-pull"
)

// cpuShare is which part of its limit of CPU a pod asks the scheduler for: a node may be promised out four times, as on
// one machine, where nothing of the CPU is kept for anybody. Memory is never promised twice.
const cpuShare = 4

func podLabels(spec trysail.PodSpec) map[string]string {
	return map[string]string{
		labelName: spec.Service, labelVersion: strconv.Itoa(spec.Version), labelManagedBy: manager, labelPartOf: manager, labelServiceID: spec.ServiceID,
	}
}

// podObject is the pod as the cluster shall have it. unprivileged says that no container's image runs as root: the pod
// then keeps to the cluster's level "restricted", and else to "baseline".
func (e *Engine) podObject(spec trysail.PodSpec, unprivileged bool) *corev1.Pod {
	yes, no, grace := true, false, int64(30)
	quantity := func(memory, milliCPU int64) corev1.ResourceList {
		return corev1.ResourceList{
			corev1.ResourceMemory: *resource.NewQuantity(memory, resource.BinarySI), corev1.ResourceCPU: *resource.NewMilliQuantity(milliCPU, resource.DecimalSI),
		}
	}
	p := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: string(spec.ID), Namespace: e.cfg.Namespace, Labels: podLabels(spec), OwnerReferences: e.owner.references()},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			// All containers share what the power gives.
			Resources: &corev1.ResourceRequirements{
				Limits: quantity(spec.Limits.Memory, spec.Limits.MilliCPU), Requests: quantity(spec.Limits.Memory, max(1, spec.Limits.MilliCPU/cpuShare)),
			},
			TerminationGracePeriodSeconds: &grace,
			AutomountServiceAccountToken:  &no,
			EnableServiceLinks:            &no,
			ImagePullSecrets:              []corev1.LocalObjectReference{{Name: pullSecret}},
			NodeSelector:                  map[string]string{corev1.LabelOSStable: "linux", corev1.LabelArchStable: runtime.GOARCH}, // as images are chosen
			SecurityContext:               &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		},
	}
	// Each node, and each zone, gets its share of a version as far as that is possible.
	for _, key := range []string{corev1.LabelHostname, corev1.LabelTopologyZone} {
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, corev1.TopologySpreadConstraint{
			MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: corev1.ScheduleAnyway,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{labelServiceID: spec.ServiceID, labelVersion: strconv.Itoa(spec.Version)}},
		})
	}
	if e.cfg.Resolver != "" {
		p.Spec.DNSPolicy, p.Spec.DNSConfig = corev1.DNSNone, &corev1.PodDNSConfig{Nameservers: []string{e.cfg.Resolver}}
	}
	if unprivileged {
		p.Spec.SecurityContext.RunAsNonRoot = &yes
	}
	// Containers find each other by name, as on one machine.
	local := corev1.HostAlias{IP: "127.0.0.1"}
	for _, c := range spec.Containers {
		local.Hostnames = append(local.Hostnames, strings.ToLower(c.Name))
	}
	p.Spec.HostAliases = []corev1.HostAlias{local}
	for _, c := range spec.Containers {
		o := corev1.Container{
			Name: c.Name, Image: e.pulls.name(c.Image), ImagePullPolicy: corev1.PullIfNotPresent,
			TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		}
		for _, word := range c.Command {
			o.Args = append(o.Args, literal(word)) // Command would replace the ENTRYPOINT
		}
		for _, name := range slices.Sorted(maps.Keys(c.Environment)) {
			o.Env = append(o.Env, corev1.EnvVar{Name: name, Value: literal(c.Environment[name])})
		}
		if unprivileged {
			o.SecurityContext = &corev1.SecurityContext{
				AllowPrivilegeEscalation: &no,
				Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_BIND_SERVICE"}},
			}
		}
		p.Spec.Containers = append(p.Spec.Containers, o)
	}
	return p
}

// literal keeps the cluster from replacing $(NAME) by a variable.
func literal(s string) string { return strings.ReplaceAll(s, "$", "$$") }
