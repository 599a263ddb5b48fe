package kube

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/trysail/trysail"
)

// podOf puts a pod of the cluster into our words.
func (e *Engine) podOf(p *corev1.Pod) trysail.Pod {
	pod := trysail.Pod{
		ID: trysail.PodID(p.Name), ServiceID: p.Labels[labelServiceID], CreatedAt: p.CreationTimestamp.Time,
	}
	pod.Version, _ = strconv.Atoi(p.Labels[labelVersion])
	pod.Addr, _ = netip.ParseAddr(p.Status.PodIP)
	pod.Lost = e.lost(p)
	pod.Leaving = !pod.Lost && e.leaving(p)
	if pod.Lost {
		return pod // how its containers ended is not their doing
	}
	for _, s := range p.Status.ContainerStatuses {
		if c, created := containerOf(s); created {
			pod.Containers = append(pod.Containers, c)
		}
	}
	slices.SortFunc(pod.Containers, func(a, b trysail.ContainerStatus) int { return strings.Compare(a.Name, b.Name) })
	return pod
}

// lost reports whether the pod as a whole is gone or going without our doing: its node does not exist any more, the
// kubelet has given it up, or somebody deletes it.
func (e *Engine) lost(p *corev1.Pod) bool {
	e.mu.Lock()
	ours := e.stopping[trysail.PodID(p.Name)]
	e.mu.Unlock()
	switch {
	case p.DeletionTimestamp != nil && !ours:
		return true
	case p.Spec.NodeName != "" && e.watch.node(p.Spec.NodeName) == nil:
		return true
	case p.Status.Phase == corev1.PodFailed && p.Status.Reason != "":
		return true // Evicted, NodeShutdown, OutOfcpu …: containers that just end give no reason
	}
	return false
}

// leaving reports whether the pod should be replaced while it still serves: its node takes no new pods, or has not been
// heard of for a while.
func (e *Engine) leaving(p *corev1.Pod) bool {
	n := e.watch.node(p.Spec.NodeName)
	return n != nil && (n.Spec.Unschedulable || isAwayNode(n))
}

// isAwayNode reports whether the control plane has not heard of the node for so long that it counts as lost.
func isAwayNode(n *corev1.Node) bool {
	c := condition(n.Status.Conditions, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionUnknown
}

func condition(all []corev1.NodeCondition, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range all {
		if all[i].Type == kind {
			return &all[i]
		}
	}
	return nil
}

// cannotStart are the reasons of a container that waits, and will go on waiting, since it cannot be started.
var cannotStart = []string{"CreateContainerError", "CreateContainerConfigError", "RunContainerError", "InvalidImageName"}

// startErrorCode is the exit code of a container that never ran.
const startErrorCode = 128

// containerOf puts a container's status into our words. One that was not created yet is not there.
func containerOf(s corev1.ContainerStatus) (c trysail.ContainerStatus, created bool) {
	c.Name = s.Name
	switch {
	case s.State.Running != nil:
		c.State, c.StartedAt = trysail.ContainerRunning, s.State.Running.StartedAt.Time
	case s.State.Terminated != nil:
		t := s.State.Terminated
		c.State, c.FinishedAt, c.ExitCode = trysail.ContainerExited, t.FinishedAt.Time, int(t.ExitCode)
		switch t.Reason {
		case "StartError", "ContainerCannotRun":
			c.StartError = t.Message
			if c.StartError == "" {
				c.StartError = t.Reason
			}
		default:
			c.StartedAt = t.StartedAt.Time
			c.OOMKilled = t.Reason == "OOMKilled" && t.ExitCode == killedCode
		}
	case s.State.Waiting != nil && slices.Contains(cannotStart, s.State.Waiting.Reason):
		c.State, c.ExitCode, c.StartError = trysail.ContainerExited, startErrorCode, s.State.Waiting.Message
		if c.StartError == "" {
			c.StartError = s.State.Waiting.Reason
		}
	default:
		return c, false
	}
	return c, true
}

// killedCode is the exit code of a process that SIGKILL ended.
const killedCode = 137
