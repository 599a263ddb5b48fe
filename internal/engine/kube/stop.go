package kube

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/trysail/trysail"
)

// overdue is how long after its grace a pod may still be there before it is taken out of the cluster's books without its
// node's word.
const overdue = 30 * time.Second

// Stop implements engine.Engine. A pod on a node that is not heard of is removed from the cluster at once: its node, if
// it still runs, ends the containers when it is back.
func (e *Engine) Stop(ctx context.Context, id trysail.PodID, grace time.Duration) (killed []string, err error) {
	release, err := e.acquire(ctx, id)
	if err != nil {
		return nil, err
	}
	defer release()
	p := e.watch.pod(id)
	if p == nil {
		// The watch may be behind a pod that was just made.
		return nil, e.removeUnseen(ctx, id)
	}
	e.mu.Lock()
	e.stopping[id] = true
	e.mu.Unlock()
	var running []string
	for _, c := range e.podOf(p).Containers {
		if c.State == trysail.ContainerRunning {
			running = append(running, c.Name)
		}
	}
	asked := time.Now()
	// Zero would not wait for the node.
	seconds := max(1, int64((grace+time.Second-1)/time.Second))
	if err := e.api.remove(ctx, e.api.core, "pods", p.Name, p.UID, &seconds); err != nil {
		return nil, err
	}
	last, forced := p, false
	err = e.watch.wait(ctx, id, func(now *corev1.Pod) error {
		if now == nil || now.UID != p.UID {
			return errEnough
		}
		last = now
		n := e.watch.node(now.Spec.NodeName)
		away := now.Spec.NodeName != "" && (n == nil || isAwayNode(n))
		if late := time.Since(asked) > grace+overdue; (away || late) && !forced {
			forced = true
			e.log.WarnContext(ctx, "a pod is removed without its node's word", "pod", id, "node", now.Spec.NodeName)
			zero := int64(0)
			return e.api.remove(ctx, e.api.core, "pods", now.Name, now.UID, &zero)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	// In this order: what the watch still tells of the pod must not make its logs be followed anew.
	e.forget(id)
	e.follow.finish(id)
	if grace <= 0 {
		return nil, nil
	}
	return killedAfter(last, running, asked.Add(grace)), nil
}

// removeUnseen removes a pod that the watch has not shown.
func (e *Engine) removeUnseen(ctx context.Context, id trysail.PodID) error {
	one := int64(1)
	if err := e.api.remove(ctx, e.api.core, "pods", string(id), "", &one); err != nil {
		return err
	}
	e.forget(id)
	return nil
}

// killedAfter names the containers that ran before and were killed when the grace was over. The cluster's times have no
// fractions of seconds.
func killedAfter(p *corev1.Pod, running []string, over time.Time) (names []string) {
	for _, s := range p.Status.ContainerStatuses {
		t := s.State.Terminated
		if t != nil && t.ExitCode == killedCode && t.Reason != "OOMKilled" && slices.Contains(running, s.Name) && t.FinishedAt.Add(time.Second).After(over) {
			names = append(names, s.Name)
		}
	}
	slices.Sort(names)
	return names
}
