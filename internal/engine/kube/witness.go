package kube

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/trysail/trysail"
)

// maxEvents bounds the events of a pod that are read.
const maxEvents = 100

// Observe implements engine.Witness. It sees what the cluster tells of a pod from outside: how it was scheduled, what its
// node did and what went wrong there, and what the node's kubelet has counted. Sockets are inside, where nobody looks.
func (e *Engine) Observe(ctx context.Context, id trysail.PodID) (trysail.PodEvidence, error) {
	var seen trysail.PodEvidence
	p := e.watch.pod(id)
	if p == nil {
		return seen, nil
	}
	if why := unschedulable(p); why != "" {
		seen.StartError = trysail.StartNoRoom + why
	} else if why := pulling(p); why != "" {
		seen.StartError = trysail.StartNoImage + why
	}
	e.sample.observe(ctx, p, &seen)
	events := &corev1.EventList{}
	asking, done, err := e.api.turn(ctx, "events")
	if err == nil {
		err = e.api.core.Get().Namespace(e.api.namespace).Resource("events").
			Param("fieldSelector", fields.OneTermEqualSelector("involvedObject.uid", string(p.UID)).String()).Param("limit", fmt.Sprint(maxEvents)).
			Do(asking).Into(events)
		done()
	}
	for _, ev := range events.Items {
		seen.Lost = seen.Lost || e.isEnding(p, ev.Reason)
		at := ev.LastTimestamp.Time
		if at.IsZero() {
			at = cmp.Or(ev.EventTime.Time, ev.FirstTimestamp.Time)
		}
		text := ev.Reason + ": " + ev.Message
		if ev.Count > 1 {
			text += fmt.Sprintf(" (%d times)", ev.Count)
		}
		seen.TimeLine = append(seen.TimeLine, trysail.Moment{At: at, Text: text})
	}
	if why := p.Status.Reason; why != "" {
		seen.TimeLine = append(seen.TimeLine, trysail.Moment{At: time.Now(), Text: why + ": " + p.Status.Message})
	}
	if n := e.watch.node(p.Spec.NodeName); n != nil {
		for _, c := range troubles(n) {
			seen.TimeLine = append(seen.TimeLine, trysail.Moment{At: c.LastTransitionTime.Time, Text: fmt.Sprintf("node %s: %s: %s", n.Name, c.Type, cmp.Or(c.Message, c.Reason))})
		}
	}
	slices.SortStableFunc(seen.TimeLine, func(a, b trysail.Moment) int { return a.At.Compare(b.At) })
	return seen, err
}

// isEnding reports whether an event says that the pod's node ends it, and not because of us: what holds its network was
// killed, say. Its containers are told to end then, and how they do so says nothing of them.
func (e *Engine) isEnding(p *corev1.Pod, reason string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return p.DeletionTimestamp == nil && !e.stopping[trysail.PodID(p.Name)] && (reason == "SandboxChanged" || reason == "Killing")
}

// troubles are the conditions of a node that are not as they should be.
func troubles(n *corev1.Node) (list []corev1.NodeCondition) {
	for _, c := range n.Status.Conditions {
		good := corev1.ConditionFalse
		if c.Type == corev1.NodeReady {
			good = corev1.ConditionTrue
		}
		if c.Status != good {
			list = append(list, c)
		}
	}
	return list
}

// Settle implements engine.Witness. The watch costs the same for every pod; what the kernel counts is not read any more.
func (e *Engine) Settle(id trysail.PodID) { e.sample.end(id) }

// Reach implements engine.Witness: nothing can be tried from inside a pod without running something in it.
func (e *Engine) Reach(context.Context, trysail.PodID, []trysail.Reach) ([]trysail.Reach, error) {
	return nil, nil
}

// Machine implements engine.Witness: the cluster as a whole.
func (e *Engine) Machine(ctx context.Context) (trysail.MachineState, error) {
	if err := ctx.Err(); err != nil {
		return trysail.MachineState{}, err
	}
	m := trysail.MachineState{At: time.Now()}
	for _, n := range e.watch.allNodes() {
		m.MemoryTotal += n.Status.Allocatable.Memory().Value()
		m.CPUs += int(n.Status.Allocatable.Cpu().Value())
	}
	return m, nil
}
