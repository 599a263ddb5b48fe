package cri

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/typeurl/v2"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

var _ engine.Witness = (*Engine)(nil)

// How often a pod is looked at. While it starts, things come and go quickly and what is missed cannot be seen
// afterwards; a pod that has settled must cost next to nothing.
const (
	firstPause   = 50 * time.Millisecond // after a container has started
	startPause   = 250 * time.Millisecond
	longestPause = time.Second
	latePause    = 2 * time.Second // lateAfter the last start
	lateAfter    = time.Minute
	settledPause = 15 * time.Second
	// thorough is how many looks at a settled pod there are to one that sees more than its sockets. The kernel goes on
	// counting, and when a container ends all is read.
	thorough = 20
)

// witness looks into pods and remembers what it has seen. Looks are taken by one goroutine for all pods, so that however
// many start at once they do not get the whole machine. Another one per container sleeps until its first process ends.
type witness struct {
	cgroups *cgroups
	bundles string // see Config.bundles
	wg      sync.WaitGroup
	wake    chan struct{} // holds one: somebody has become due

	mu         sync.Mutex // guards all below; nobody waits for a look while holding it
	closed     bool
	pods       map[trysail.PodID]*watchedPod
	addrs      map[netip.Addr]*watchedPod
	containers map[string]*watchedContainer // by container id
}

// schedule is when a pod is looked at. witness.mu guards it.
type schedule struct {
	settled bool
	began   time.Time // when a container of it was last started
	pause   time.Duration
	next    time.Time // zero: now
	looks   int       // from a random number on, so that not all thorough looks are taken at once
}

func newWitness(cgroups *cgroups, bundles string) *witness {
	return &witness{
		closed: !seeing, cgroups: cgroups, bundles: bundles, wake: make(chan struct{}, 1),
		pods: map[trysail.PodID]*watchedPod{}, addrs: map[netip.Addr]*watchedPod{}, containers: map[string]*watchedContainer{},
	}
}

// run takes looks until ctx ends.
func (w *witness) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		}
		for {
			p, through, wait := w.due(time.Now())
			if p == nil {
				timer.Reset(wait)
				break
			}
			p.look(w.cgroups, through)
			if ctx.Err() != nil {
				return
			}
		}
	}
}

// close lets go of everything and waits for what the witness has started.
func (w *witness) close() {
	w.mu.Lock()
	w.closed = true
	pods := w.pods
	w.pods, w.containers = map[trysail.PodID]*watchedPod{}, map[string]*watchedContainer{}
	w.mu.Unlock()
	for _, p := range pods {
		p.close()
	}
	w.wg.Wait()
}

// due returns the pod whose look is the longest overdue, after noting when the next one is; nil and how long to wait if
// there is none.
func (w *witness) due(now time.Time) (pod *watchedPod, through bool, wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.pods {
		if pod == nil || p.schedule.next.Before(pod.schedule.next) {
			pod = p
		}
	}
	if pod == nil {
		return nil, false, time.Hour
	}
	if wait = pod.schedule.next.Sub(now); wait > 0 {
		return nil, false, wait
	}
	return pod, pod.schedule.advance(now), 0
}

// advance plans the look after this one, and says whether this one is thorough.
func (s *schedule) advance(now time.Time) (through bool) {
	asked := s.next.IsZero()
	s.looks++
	if s.settled {
		// All at the same moments: to wake up costs more than a look.
		s.next = now.Truncate(settledPause).Add(settledPause)
		return asked || s.looks%thorough == 0
	}
	switch {
	case now.Sub(s.began) >= lateAfter:
		s.pause = latePause
	case s.pause < startPause:
		s.pause = min(2*s.pause, startPause)
	default:
		s.pause = min(s.pause*9/8, longestPause)
	}
	s.next = now.Add(s.pause)
	return true
}

// open begins to watch a pod, which need not have containers yet. A settled one is looked at rarely from the beginning.
func (w *witness) open(id trysail.PodID, sandbox string, settled bool) {
	w.mu.Lock()
	old := w.pods[id]
	if w.closed || old != nil && old.sandbox == sandbox {
		w.mu.Unlock()
		return
	}
	w.pods[id] = &watchedPod{
		id: id, sandbox: sandbox, containers: map[string]*watchedContainer{},
		schedule: schedule{settled: settled, began: time.Now(), pause: firstPause, looks: rand.IntN(thorough)}, //nolint:gosec // nothing secret
	}
	w.mu.Unlock()
	w.hurry(nil)
	if old != nil {
		old.close()
	}
}

// started begins to watch a container. A new one was started just now; the others were there before.
func (w *witness) started(id trysail.PodID, name, containerID string, isNew bool) {
	first := w.firstProcess(id, containerID)
	w.mu.Lock()
	p := w.pods[id]
	if w.closed || p == nil || w.containers[containerID] != nil {
		w.mu.Unlock()
		return
	}
	c := &watchedContainer{pod: p, id: containerID, name: name, first: first}
	w.containers[containerID] = c
	if isNew {
		p.schedule.began, p.schedule.pause = time.Now(), firstPause
	}
	w.mu.Unlock()
	p.add(c, isNew)
	if c.first == 0 {
		w.hurry(p)
		return
	}
	l, err := openLife(c.first)
	if err == nil && p.hold(c, l) {
		w.wg.Go(func() { w.await(c, l) })
	}
	w.hurry(p)
}

// firstProcess reads which process the runtime has started as the container's first; 0 if it has ended already.
func (w *witness) firstProcess(id trysail.PodID, containerID string) int {
	pids := parsePIDs(control(filepath.Join(w.bundles, containerID), "init.pid"))
	// A number alone may stand for another process by now.
	if len(pids) == 1 && slices.Contains(parsePIDs(control(w.cgroups.containerCounters(id, containerID).pids, "cgroup.procs")), pids[0]) {
		return pids[0]
	}
	return 0
}

// await takes the last look at a container when its first process ends. What is read first is what vanishes first.
func (w *witness) await(c *watchedContainer, l *life) {
	defer l.Close()
	if !l.wait() {
		return
	}
	status, known := l.status()
	now, ok := w.cgroups.containerCounters(c.pod.id, c.id).read()
	c.pod.ended(c, status, known, now, ok)
	w.hurry(c.pod)
}

// hurry makes the pod's look due; nil wakes the goroutine alone.
func (w *witness) hurry(p *watchedPod) {
	if p != nil {
		w.mu.Lock()
		p.schedule.next = time.Time{}
		w.mu.Unlock()
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// settle says that the pod has become healthy.
func (w *witness) settle(id trysail.PodID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.pods[id]; p != nil && !p.schedule.settled {
		p.schedule.settled = true // the look that is planned is the last of the old pace
	}
}

// forget ends watching a pod.
func (w *witness) forget(id trysail.PodID) {
	w.mu.Lock()
	p := w.pods[id]
	delete(w.pods, id)
	if p != nil && w.addrs[p.addr] == p {
		delete(w.addrs, p.addr)
	}
	for key, c := range w.containers {
		if c.pod == p {
			delete(w.containers, key)
		}
	}
	w.mu.Unlock()
	if p != nil {
		p.close()
	}
}

// located notes the pod's address.
func (w *witness) located(id trysail.PodID, addr netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.pods[id]; p != nil {
		p.addr, w.addrs[addr] = addr, p
	}
}

// listening is who listened in the pod with the address when it was last looked at.
func (w *witness) listening(addr netip.Addr) []trysail.Listener {
	w.mu.Lock()
	p := w.addrs[addr]
	w.mu.Unlock()
	if p == nil {
		return nil
	}
	if seen := p.listening.Load(); seen != nil {
		return *seen
	}
	return nil
}

func (w *witness) pod(id trysail.PodID) *watchedPod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pods[id]
}

func (w *witness) container(containerID string) *watchedContainer {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.containers[containerID]
}

// stopped notes what containerd says of the end of a container.
func (w *witness) stopped(event *runtimeapi.ContainerEventResponse) {
	c := w.container(event.ContainerId)
	if c == nil {
		return
	}
	for _, st := range event.ContainersStatuses {
		if st.Id == c.id && st.State == runtimeapi.ContainerState_CONTAINER_EXITED {
			c.pod.exited(c, timeOf(st.FinishedAt), int(st.ExitCode))
		}
	}
	w.hurry(c.pod)
}

// Observe implements engine.Witness. It takes a look at once, and answers from memory what can be seen no more.
func (e *Engine) Observe(ctx context.Context, id trysail.PodID) (trysail.PodEvidence, error) {
	if err := ctx.Err(); err != nil {
		return trysail.PodEvidence{}, err
	}
	p := e.witness.pod(id)
	if p == nil {
		return trysail.PodEvidence{}, fmt.Errorf("nothing is known of pod %s", id)
	}
	return p.observe(e.cgroups), nil
}

// Settle implements engine.Witness.
func (e *Engine) Settle(id trysail.PodID) { e.witness.settle(id) }

// followKills looks into a pod when the kernel has killed one of its processes for want of memory, until ctx ends.
// Containerd forgets who has asked for that when it ends.
func (e *Engine) followKills(ctx context.Context) {
	for ctx.Err() == nil {
		e.hearOfKills(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// hearOfKills follows the kills until containerd or ctx ends.
func (e *Engine) hearOfKills(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, ended := e.containerd.Subscribe(ctx, `topic=="/tasks/oom"`)
	for {
		select {
		case err := <-ended:
			e.log.DebugContext(ctx, "containerd tells of no more kills", "error", err)
			return
		case envelope := <-events:
			event, err := typeurl.UnmarshalAny(envelope.Event)
			if oom, ok := event.(*eventtypes.TaskOOM); ok && err == nil {
				if c := e.witness.container(oom.ContainerID); c != nil {
					e.witness.hurry(c.pod)
				}
			}
		}
	}
}

// errGone is for a pod whose network cannot be entered any more.
var errGone = errors.New("the pod's network is gone")
