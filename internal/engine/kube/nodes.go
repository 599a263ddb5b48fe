package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

var _ engine.Nodes = (*Engine)(nil)

// pressures are the conditions of a node that has too little of something, and our words for it.
var pressures = map[corev1.NodeConditionType]string{
	corev1.NodeMemoryPressure: "memory", corev1.NodeDiskPressure: "disk", corev1.NodePIDPressure: "processes", corev1.NodeNetworkUnavailable: "network",
}

// Nodes implements engine.Nodes. Of what others have in the cluster nothing is known.
func (e *Engine) Nodes(ctx context.Context) ([]trysail.NodeState, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	byNode := map[string][]trysail.NodePod{}
	for _, p := range e.watch.allPods() {
		if p.Spec.NodeName != "" && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			byNode[p.Spec.NodeName] = append(byNode[p.Spec.NodeName], trysail.NodePod{ID: trysail.PodID(p.Name), ServiceID: p.Labels[labelServiceID], Reserved: reservedFor(p)})
		}
	}
	var list []trysail.NodeState
	for _, n := range e.watch.allNodes() {
		s := nodeState(n)
		s.Pods = byNode[n.Name]
		slices.SortFunc(s.Pods, func(a, b trysail.NodePod) int { return cmp.Compare(a.ID, b.ID) })
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b trysail.NodeState) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// nodeState puts a node of the cluster into our words.
func nodeState(n *corev1.Node) trysail.NodeState {
	s := trysail.NodeState{
		Node: trysail.Node{
			Name: n.Name, OS: n.Status.NodeInfo.OperatingSystem, Architecture: n.Status.NodeInfo.Architecture,
			CPUs: int(n.Status.Allocatable.Cpu().Value()), Memory: n.Status.Allocatable.Memory().Value(),
		},
		Version: n.Status.NodeInfo.KubeletVersion, CreatedAt: n.CreationTimestamp.Time, Cordoned: n.Spec.Unschedulable, MaxPods: int(n.Status.Allocatable.Pods().Value()),
	}
	switch ready := condition(n.Status.Conditions, corev1.NodeReady); {
	case ready == nil:
		s.Message = "it has not reported yet"
	case ready.Status == corev1.ConditionTrue:
		s.Ready = true
	default:
		s.Message = cmp.Or(ready.Message, ready.Reason, "it is not ready")
	}
	for _, c := range n.Status.Conditions {
		if word := pressures[c.Type]; word != "" && c.Status == corev1.ConditionTrue {
			s.Pressures = append(s.Pressures, word)
		}
	}
	slices.Sort(s.Pressures)
	return s
}

// reservedFor is what the scheduler keeps for a pod.
func reservedFor(p *corev1.Pod) (l trysail.Limits) {
	if r := p.Spec.Resources; r != nil {
		l.Memory, l.MilliCPU = r.Requests.Memory().Value(), r.Requests.Cpu().MilliValue()
	}
	return l
}

// cordonTime bounds the wait until the watch shows what has been asked for.
const cordonTime = 30 * time.Second

// Cordon implements engine.Nodes: it is what kubectl cordon and uncordon do.
func (e *Engine) Cordon(ctx context.Context, node string, cordoned bool) error {
	n := e.watch.node(node)
	if n == nil {
		return trysail.ErrNoNode
	}
	if n.Spec.Unschedulable != cordoned {
		if err := e.patchNode(ctx, node, cordoned); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, cordonTime)
	defer cancel()
	err := e.watch.wait(ctx, "", func(*corev1.Pod) error {
		switch n := e.watch.node(node); {
		case n == nil:
			return trysail.ErrNoNode
		case n.Spec.Unschedulable == cordoned:
			return errEnough
		}
		return nil
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: the change to node %s is not seen", engine.ErrUnavailable, node)
	}
	return err
}

func (e *Engine) patchNode(ctx context.Context, node string, cordoned bool) error {
	value := any(nil) // leaves no trace
	if cordoned {
		value = true
	}
	body, err := json.Marshal(map[string]any{"spec": map[string]any{"unschedulable": value}})
	if err != nil {
		return err
	}
	err = e.api.core.Patch(types.StrategicMergePatchType).Resource("nodes").Name(node).Param("fieldManager", manager).Body(body).Do(ctx).Error()
	switch {
	case apierrors.IsNotFound(err):
		return trysail.ErrNoNode
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), `" cannot `):
		return fmt.Errorf("the cluster does not let Trysail change its nodes; packaging/kubernetes has the permissions that are needed: %w", err)
	case err != nil:
		return fmt.Errorf("changing node %s: %w", node, e.api.explain(err))
	}
	return nil
}
