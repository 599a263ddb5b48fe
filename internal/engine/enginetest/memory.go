package enginetest

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/trysail/trysail"
)

// Image says how the containers of one image behave in a Memory engine. The zero value is an image that is there at
// once and runs until it is told to stop.
type Image struct {
	PrepareTime time.Duration // how long Prepare takes; the image is present afterwards
	PrepareErr  error         // what Prepare returns, after PrepareTime; normally a *trysail.ImageError
	StartTime   time.Duration // how long Start waits for each container
	StartError  string        // not empty: containers cannot be started, and this is why
	Entrypoint  []string      // nil means "/program"
	Command     []string      // what a container without a command gets after the entrypoint
	Program     Program       // nil means Wait
}

// Call is one call of an engine's method that changes something.
type Call struct {
	Method string // "Prepare", "Start" or "Stop"
	Pod    trysail.PodID
	Image  string // of Prepare
	Grace  time.Duration
}

// String returns the call as it would be written.
func (c Call) String() string {
	switch c.Method {
	case "Prepare":
		return "Prepare(" + c.Image + ")"
	case "Stop":
		return fmt.Sprintf("Stop(%s, %v)", c.Pod, c.Grace)
	}
	return c.Method + "(" + string(c.Pod) + ")"
}

// Memory is an engine.Engine whose containers are goroutines. What they listen on is real, though: each pod has its
// own address in 127.0.0.0/8. Time passes by package time alone, so pods that do not listen work within
// testing/synctest. Make one with NewMemory.
type Memory struct {
	node trysail.Node
	base uint32 // of the pods' addresses
	wg   sync.WaitGroup

	mu       sync.Mutex // guards all below
	next     uint32     // counts the addresses handed out
	images   map[string]Image
	present  map[string]bool // images that were prepared
	pods     map[trysail.PodID]*memoryPod
	busy     map[trysail.PodID]chan struct{} // pods that a Start or Stop works on; closed when it is done
	watchers map[chan struct{}]bool
	calls    []Call
	failures []error // of the next calls of Start
	checkErr error
	podsErr  error
	others   []trysail.NodeState // besides node, by name; without Pods
	cordoned map[string]bool
}

// NewMemory makes an engine without pods, on a node with 2 CPUs and 4 GiB. Every image name is known to it; SetImage
// changes how an image behaves.
func NewMemory() *Memory {
	return &Memory{
		node: trysail.Node{Name: "memory", OS: "linux", Architecture: runtime.GOARCH, CPUs: 2, Memory: 4 << 30},
		// A random start keeps tests in other processes, which listen on the same ports, apart.
		base:     127<<24 | (rand.Uint32N(1<<24-1<<17) + 1<<16), //nolint:gosec // nothing secret
		images:   map[string]Image{},
		present:  map[string]bool{},
		pods:     map[trysail.PodID]*memoryPod{},
		busy:     map[trysail.PodID]chan struct{}{},
		watchers: map[chan struct{}]bool{},
		cordoned: map[string]bool{},
	}
}

// Close kills every pod and waits for its goroutines.
func (m *Memory) Close() error {
	m.mu.Lock()
	for _, p := range m.pods {
		p.killLocked()
	}
	m.mu.Unlock()
	m.wg.Wait()
	return nil
}

// SetImage says how containers of the image behave that are started from now on. image is either the full name by
// digest or the name without the digest; the full name wins.
func (m *Memory) SetImage(image string, i Image) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.images[image] = i
}

// FailStart makes the next n calls of Start fail with err and change nothing.
func (m *Memory) FailStart(n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for range n {
		m.failures = append(m.failures, err)
	}
}

// SetCheck makes Check return err from now on.
func (m *Memory) SetCheck(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.checkErr = err
}

// FailPods makes Pods and Usage return err from now on; nil ends it.
func (m *Memory) FailPods(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.podsErr = err
}

// SetNode changes what Node reports.
func (m *Memory) SetNode(n trysail.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.node = n
}

// Crash ends one running container with the exit code, as a crash would. It reports whether there was one.
func (m *Memory) Crash(id trysail.PodID, container string, code int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.pods[id]; p != nil {
		if c := p.containers[container]; c != nil && c.status.State == trysail.ContainerRunning {
			c.endLocked(code, false)
			return true
		}
	}
	return false
}

// Lose makes the pod's sandbox die, and its containers with it. It reports whether there was such a pod.
func (m *Memory) Lose(id trysail.PodID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pods[id]
	if p == nil {
		return false
	}
	p.pod.Lost = true
	p.killLocked()
	m.changedLocked()
	return true
}

// Calls lists what was called so far, in the order in which the calls began.
func (m *Memory) Calls() []Call {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.calls)
}

// Node implements engine.Engine.
func (m *Memory) Node(context.Context) (trysail.Node, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node, nil
}

// Pods implements engine.Engine.
func (m *Memory) Pods(ctx context.Context) ([]trysail.Pod, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.podsErr != nil {
		return nil, m.podsErr
	}
	pods := make([]trysail.Pod, 0, len(m.pods))
	for _, id := range slices.Sorted(maps.Keys(m.pods)) {
		p := m.pods[id]
		pod := p.pod
		pod.Leaving = !pod.Lost && m.cordoned[p.node]
		for _, name := range slices.Sorted(maps.Keys(p.containers)) {
			pod.Containers = append(pod.Containers, p.containers[name].status)
		}
		pods = append(pods, pod)
	}
	return pods, nil
}

// Prepare implements engine.Engine.
func (m *Memory) Prepare(ctx context.Context, image string) error {
	m.mu.Lock()
	m.calls = append(m.calls, Call{Method: "Prepare", Image: image})
	i, present := m.imageLocked(image), m.present[image]
	m.mu.Unlock()
	if present && i.PrepareErr == nil {
		return nil
	}
	if err := sleep(ctx, i.PrepareTime); err != nil {
		return err
	}
	if i.PrepareErr != nil {
		return i.PrepareErr
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.present[image] = true
	return nil
}

// Start implements engine.Engine.
func (m *Memory) Start(ctx context.Context, spec trysail.PodSpec) error {
	m.mu.Lock()
	m.calls = append(m.calls, Call{Method: "Start", Pod: spec.ID})
	m.mu.Unlock()
	release, err := m.acquire(ctx, spec.ID)
	if err != nil {
		return err
	}
	defer release()
	p, err := m.sandbox(spec)
	if err != nil {
		return err
	}
	for _, c := range spec.Containers {
		if err := m.startContainer(ctx, p, c); err != nil {
			return err
		}
	}
	return nil
}

// Stop implements engine.Engine.
func (m *Memory) Stop(ctx context.Context, id trysail.PodID, grace time.Duration) (killed []string, err error) {
	m.mu.Lock()
	m.calls = append(m.calls, Call{Method: "Stop", Pod: id, Grace: grace})
	m.mu.Unlock()
	release, err := m.acquire(ctx, id)
	if err != nil {
		return nil, err
	}
	defer release()
	m.mu.Lock()
	p := m.pods[id]
	m.mu.Unlock()
	if p == nil {
		return nil, nil
	}
	if err := m.terminate(ctx, p, grace); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	killed = p.killLocked()
	delete(m.pods, id)
	m.changedLocked()
	if grace <= 0 {
		return nil, nil
	}
	return killed, nil
}

// Changes implements engine.Engine. It yields once at the beginning.
func (m *Memory) Changes(ctx context.Context) iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		c := make(chan struct{}, 1)
		c <- struct{}{}
		m.mu.Lock()
		m.watchers[c] = true
		m.mu.Unlock()
		defer func() {
			m.mu.Lock()
			delete(m.watchers, c)
			m.mu.Unlock()
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case <-c:
				if !yield(struct{}{}) {
					return
				}
			}
		}
	}
}

// Usage implements engine.Engine. The CPU time is that of a pod that uses a tenth of its limit.
func (m *Memory) Usage(ctx context.Context) ([]trysail.Usage, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.podsErr != nil {
		return nil, m.podsErr
	}
	var usage []trysail.Usage
	now := time.Now()
	for _, id := range slices.Sorted(maps.Keys(m.pods)) {
		p := m.pods[id]
		if p.pod.Lost {
			continue
		}
		cpu := now.Sub(p.pod.CreatedAt) * time.Duration(p.limits.MilliCPU) / 10_000
		usage = append(usage, trysail.Usage{Pod: id, At: now, CPU: cpu, Memory: p.memoryLocked(), Limits: p.limits})
	}
	return usage, nil
}

// Check implements engine.Engine.
func (m *Memory) Check(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.checkErr
}

// acquire waits until no other call works on the pod, and returns the function that lets the next one in.
func (m *Memory) acquire(ctx context.Context, id trysail.PodID) (release func(), err error) {
	for {
		m.mu.Lock()
		other := m.busy[id]
		if other == nil {
			mine := make(chan struct{})
			m.busy[id] = mine
			m.mu.Unlock()
			return func() {
				m.mu.Lock()
				delete(m.busy, id)
				m.mu.Unlock()
				close(mine)
			}, nil
		}
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-other:
		}
	}
}

// sandbox returns the pod, made if need be.
func (m *Memory) sandbox(spec trysail.PodSpec) (*memoryPod, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.failures) > 0 {
		err := m.failures[0]
		m.failures = m.failures[1:]
		return nil, err
	}
	if p := m.pods[spec.ID]; p != nil {
		return p, nil
	}
	addr := m.base + m.next
	m.next++
	p := &memoryPod{
		engine: m, node: m.chooseLocked(),
		pod: trysail.Pod{
			ID: spec.ID, ServiceID: spec.ServiceID, Version: spec.Version, CreatedAt: time.Now(),
			Addr: netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, addr))),
		},
		limits:     spec.Limits,
		logDir:     spec.LogDir,
		containers: map[string]*memoryContainer{},
	}
	m.pods[spec.ID] = p
	m.changedLocked()
	return p, nil
}

// startContainer starts the container unless it was created before.
func (m *Memory) startContainer(ctx context.Context, p *memoryPod, spec trysail.ContainerSpec) error {
	m.mu.Lock()
	image, known := m.imageLocked(spec.Image), p.containers[spec.Name] != nil
	m.mu.Unlock()
	if known {
		return nil
	}
	if err := sleep(ctx, image.StartTime); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.pod.Lost {
		return nil
	}
	if image.StartError != "" {
		p.containers[spec.Name] = &memoryContainer{pod: p, status: trysail.ContainerStatus{
			Name: spec.Name, State: trysail.ContainerExited, FinishedAt: time.Now(), ExitCode: 128, StartError: image.StartError,
		}}
		m.changedLocked()
		return nil
	}
	c, err := newMemoryContainer(p, spec, image)
	if err != nil {
		return err
	}
	p.containers[spec.Name] = c
	m.changedLocked()
	m.wg.Go(c.run)
	return nil
}

// terminate tells all containers to end and waits for them, for at most grace.
func (m *Memory) terminate(ctx context.Context, p *memoryPod, grace time.Duration) error {
	m.mu.Lock()
	var ended []<-chan struct{}
	for _, c := range p.containers {
		if c.status.State == trysail.ContainerRunning {
			c.terminateLocked()
			ended = append(ended, c.ended)
		}
	}
	m.mu.Unlock()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	for _, e := range ended {
		select {
		case <-e:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (m *Memory) imageLocked(image string) Image {
	if i, ok := m.images[image]; ok {
		return i
	}
	name, _, _ := strings.Cut(image, "@")
	return m.images[name]
}

// changedLocked wakes all watchers.
func (m *Memory) changedLocked() {
	for c := range m.watchers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
