package kube

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// budgets keeps a PodDisruptionBudget for each service that forbids to evict any of its pods. Who drains a node makes it
// unschedulable first; its pods are then replaced elsewhere (see Pod.Leaving), and gone before an eviction succeeds.
type budgets struct{ *keeper } // of ids of services

func newBudgets(e *Engine) *budgets {
	b := &budgets{}
	b.keeper = newKeeper(e, "the disruption budget of a service", b.settle)
	return b
}

// see notes that a service's pods have become more or fewer.
func (b *budgets) see(before, now *corev1.Pod) {
	if before != nil && now != nil && (before.DeletionTimestamp == nil) == (now.DeletionTimestamp == nil) {
		return
	}
	for _, p := range []*corev1.Pod{before, now} {
		if p != nil && p.Labels[labelServiceID] != "" {
			b.queue.Add(p.Labels[labelServiceID])
		}
	}
}

// settle makes the budget of a service fit the pods that it has.
func (b *budgets) settle(ctx context.Context, id string) error {
	e := b.engine
	count, service := 0, ""
	for _, p := range e.watch.servicePods(id) {
		if p.DeletionTimestamp == nil {
			count, service = count+1, p.Labels[labelName]
		}
	}
	name := "service-" + id
	if count == 0 {
		return e.api.remove(ctx, e.api.policy, "poddisruptionbudgets", name, "", nil)
	}
	least, always := intstr.FromInt(count), policyv1.AlwaysAllow
	return e.api.apply(ctx, e.api.policy, "poddisruptionbudgets", &policyv1.PodDisruptionBudget{
		TypeMeta: metav1.TypeMeta{APIVersion: "policy/v1", Kind: "PodDisruptionBudget"},
		ObjectMeta: metav1.ObjectMeta{
			Name: name, OwnerReferences: e.owner.references(),
			Labels: map[string]string{labelName: service, labelManagedBy: manager, labelPartOf: manager, labelServiceID: id},
		},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: &least, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{labelServiceID: id}}, UnhealthyPodEvictionPolicy: &always,
		},
	})
}
