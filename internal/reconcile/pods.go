package reconcile

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/trysail/trysail"
)

// What the planner asks about pods. Nothing here adds a step; looks at a later time are noted.

func (p *planner) newPod(version, slot, attempt int) trysail.PodRecord {
	return trysail.PodRecord{ServiceID: p.Service.ID, Version: version, Power: p.Service.Power, Slot: slot, Attempt: attempt}
}

func (p *planner) live() []trysail.PodRecord {
	var list []trysail.PodRecord
	for _, rec := range p.Pods {
		if rec.Live() && rec.EndedAt.IsZero() {
			list = append(list, rec)
		}
	}
	return list
}

func (p *planner) isCurrent(version int) bool {
	return p.Service.Current != nil && p.Service.Current.Version == version
}

func (p *planner) isNext(version int) bool {
	return p.Service.Next != nil && p.Service.Next.Version == version
}

// deployment returns the current or next deployment of that version, or nil.
func (p *planner) deployment(version int) *trysail.Deployment {
	switch {
	case p.isCurrent(version):
		return p.Service.Current
	case p.isNext(version):
		return p.Service.Next
	}
	return nil
}

func (p *planner) containers(version int) int {
	if d := p.deployment(version); d != nil {
		return len(d.Containers)
	}
	return 0
}

func (p *planner) crashed(id trysail.PodID) bool {
	o, ok := p.Observed[id]
	return ok && o.Crashed()
}

// everHealthy reports whether the pod runs and is healthy or was so before.
func (p *planner) everHealthy(rec trysail.PodRecord) bool {
	return p.ready(rec) || !rec.HealthyAt.IsZero() && !p.crashed(rec.ID)
}

// ready reports whether the pod runs and can serve at this moment.
func (p *planner) ready(rec trysail.PodRecord) bool {
	d := p.deployment(rec.Version)
	o, ok := p.Observed[rec.ID]
	if d == nil || !ok || !o.Running(len(d.Containers)) {
		return false
	}
	if d.PublicEndpoint != nil {
		h, probed := p.Health[rec.ID]
		return h.Healthy || !probed && !rec.HealthyAt.IsZero()
	}
	if !rec.HealthyAt.IsZero() {
		return true
	}
	var started time.Time
	for _, c := range o.Containers {
		if c.StartedAt.After(started) {
			started = c.StartedAt
		}
	}
	p.wakeAt(started.Add(settleTime))
	return !p.Now.Before(started.Add(settleTime))
}

// leaving reports whether the engine wants the pod to be replaced, however well it is.
func (p *planner) leaving(id trysail.PodID) bool { return p.Observed[id].Leaving }

// suspect reports whether a replacement of the pod should be started: it was healthy once, but has not been for so long, or
// it has to leave its node.
func (p *planner) suspect(rec trysail.PodRecord) bool {
	if p.leaving(rec.ID) {
		return true
	}
	h, probed := p.Health[rec.ID]
	if rec.HealthyAt.IsZero() || !probed || h.Healthy {
		return false
	}
	since := h.Since
	if since.Before(rec.HealthyAt) {
		since = rec.HealthyAt
	}
	p.wakeAt(since.Add(suspectAfter))
	return !p.Now.Before(since.Add(suspectAfter))
}

// best chooses the pod that fills a slot: a ready one before one that may become so, of the ready ones one that may stay,
// and then the oldest.
func (p *planner) best(live []trysail.PodRecord) (trysail.PodRecord, bool) {
	var found *trysail.PodRecord
	for i := range live {
		rec := &live[i]
		if p.crashed(rec.ID) {
			continue
		}
		if found == nil || p.ready(*rec) && (!p.ready(*found) || p.leaving(found.ID) && !p.leaving(rec.ID)) {
			found = rec
		}
	}
	if found == nil {
		return trysail.PodRecord{}, false
	}
	return *found, true
}

// slotPods are the pods of one version and power in one slot, oldest first.
type slotPods struct{ all, live []trysail.PodRecord }

func (p *planner) slot(version int, power trysail.Power, slot int) slotPods {
	var s slotPods
	for _, rec := range p.Pods {
		if rec.Version != version || rec.Power != power || rec.Slot != slot {
			continue
		}
		s.all = append(s.all, rec)
		if rec.Live() && rec.EndedAt.IsZero() {
			s.live = append(s.live, rec)
		}
	}
	return s
}

// lastEnd is when the newest stopped pod was stopped.
func (s slotPods) lastEnd() (t time.Time) {
	for _, rec := range s.all {
		if rec.StopAt.After(t) {
			t = rec.StopAt
		}
	}
	return t
}

// failuresSince counts the pods that were created after t and failed.
func (s slotPods) failuresSince(t time.Time) (n int) {
	for _, rec := range s.all {
		if rec.Failed && rec.CreatedAt.After(t) {
			n++
		}
	}
	return n
}

// retryAt is when the slot may be started again: at once after the first failure, then 1 s, 2 s, 4 s … up to 5 min
// after the last one.
func (s slotPods) retryAt() time.Time {
	failures := 0
	for _, rec := range slices.Backward(s.all) {
		if !rec.Failed || !rec.HealthyAt.IsZero() && rec.StopAt.Sub(rec.HealthyAt) > forgiveAfter {
			break
		}
		failures++
	}
	if failures < 2 {
		return time.Time{}
	}
	return s.lastEnd().Add(min(time.Second<<min(failures-2, 16), maxBackoff))
}

func crashReason(o trysail.Pod) string {
	for _, c := range o.Containers {
		switch {
		case c.State != trysail.ContainerExited:
		case c.StartError != "":
			return fmt.Sprintf("container %s could not be started", c.Name)
		case c.OOMKilled:
			return fmt.Sprintf("container %s ran out of memory", c.Name)
		default:
			return fmt.Sprintf("container %s exited with code %d", c.Name, c.ExitCode)
		}
	}
	return "the pod was gone"
}

func nodes(n int) string {
	if n == 1 {
		return "1 node"
	}
	return strconv.Itoa(n) + " nodes"
}
