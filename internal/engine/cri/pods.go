package cri

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/trysail/trysail"
)

// What a sandbox carries, so that a pod can be told without any memory of ours.
const (
	labelPod       = "trysail.pod"
	labelService   = "trysail.service"
	labelServiceID = "trysail.service-id"
	labelVersion   = "trysail.version"
	labelContainer = "trysail.container" // of a container: its name
	noteMilliCPU   = "trysail.milli-cpu"
	noteMemory     = "trysail.memory"
	// Of a container, for the shim, which knows them by the same names: where its output goes, and the size of a file.
	noteLogPath  = "trysail.log-path"
	noteLogLimit = "trysail.log-limit"
)

const (
	// signalExitCode is what a process that SIGKILL has ended seems to exit with.
	signalExitCode = 137
	// startErrorCode is what CRI reports for a container that could not be started.
	startErrorCode = 128
	// settled is how long after its end CRI may still change what it says of a container: an OOM kill may be noticed late.
	settled = 10 * time.Second
)

// podCache keeps what does not change, so that a poll of pods that just run costs two calls. Engine.mu guards it.
type podCache struct {
	addrs    map[string]netip.Addr                  // by sandbox id
	statuses map[string]*runtimeapi.ContainerStatus // by container id; running, or ended for good
}

func newPodCache() podCache {
	return podCache{addrs: map[string]netip.Addr{}, statuses: map[string]*runtimeapi.ContainerStatus{}}
}

// forget drops what is kept of a sandbox or container.
func (c *podCache) forget(id string) {
	delete(c.addrs, id)
	delete(c.statuses, id)
}

// keep drops all that is about others than these sandboxes and containers.
func (c *podCache) keep(ids map[string]bool) {
	for id := range c.addrs {
		if !ids[id] {
			delete(c.addrs, id)
		}
	}
	for id := range c.statuses {
		if !ids[id] {
			delete(c.statuses, id)
		}
	}
}

// sandbox is a pod as CRI knows it.
type sandbox struct {
	*runtimeapi.PodSandbox
	containers []*runtimeapi.Container
}

func (s *sandbox) ready() bool { return s.State == runtimeapi.PodSandboxState_SANDBOX_READY }

// Pods implements engine.Engine.
func (e *Engine) Pods(ctx context.Context) ([]trysail.Pod, error) {
	sandboxes, err := e.list(ctx, "")
	if err != nil {
		return nil, err
	}
	pods := make([]trysail.Pod, 0, len(sandboxes))
	ids := map[string]bool{}
	for _, s := range sandboxes {
		ids[s.Id] = true
		for _, c := range s.containers {
			ids[c.Id] = true
		}
		if e.halfMade(s) {
			continue
		}
		p, err := e.pod(ctx, s)
		if isNotFound(err) {
			continue // removed since it was listed
		}
		if err != nil {
			return nil, err
		}
		pods = append(pods, p)
	}
	e.mu.Lock()
	e.cache.keep(ids)
	e.mu.Unlock()
	slices.SortFunc(pods, func(a, b trysail.Pod) int { return cmp.Compare(a.ID, b.ID) })
	return pods, nil
}

// halfMade reports whether the sandbox is the rest of a start that did not come to its containers. It is no pod: the
// next Start makes a new one.
func (e *Engine) halfMade(s *sandbox) bool {
	return !s.ready() && len(s.containers) == 0 && len(e.journal.startErrors(podID(s.PodSandbox))) == 0
}

// list asks for the sandboxes of one pod, or of all pods if id is empty, with their containers.
func (e *Engine) list(ctx context.Context, id trysail.PodID) ([]*sandbox, error) {
	listed, err := e.listSandboxes(ctx, id)
	if err != nil {
		return nil, err
	}
	filter := &runtimeapi.ContainerFilter{}
	if id != "" {
		filter.LabelSelector = map[string]string{labelPod: string(id)}
	}
	containers, err := e.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	var sandboxes []*sandbox
	byID := map[string]*sandbox{}
	for _, p := range listed {
		s := &sandbox{PodSandbox: p}
		sandboxes = append(sandboxes, s)
		byID[p.Id] = s
	}
	for _, c := range containers.Containers {
		if s := byID[c.PodSandboxId]; s != nil {
			s.containers = append(s.containers, c)
		}
	}
	return sandboxes, nil
}

func (e *Engine) listSandboxes(ctx context.Context, id trysail.PodID) ([]*runtimeapi.PodSandbox, error) {
	filter := &runtimeapi.PodSandboxFilter{}
	if id != "" {
		filter.LabelSelector = map[string]string{labelPod: string(id)}
	}
	resp, err := e.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("listing pods: %w", err)
	}
	return slices.DeleteFunc(resp.Items, func(p *runtimeapi.PodSandbox) bool { return podID(p) == "" }), nil
}

func podID(p *runtimeapi.PodSandbox) trysail.PodID { return trysail.PodID(p.Labels[labelPod]) }

// limitsOf reads back the limits that the pod was started with.
func limitsOf(p *runtimeapi.PodSandbox) trysail.Limits {
	cpu, _ := strconv.ParseInt(p.Annotations[noteMilliCPU], 10, 64)
	memory, _ := strconv.ParseInt(p.Annotations[noteMemory], 10, 64)
	return trysail.Limits{MilliCPU: cpu, Memory: memory}
}

// pod translates a sandbox.
func (e *Engine) pod(ctx context.Context, s *sandbox) (trysail.Pod, error) {
	version, _ := strconv.Atoi(s.Labels[labelVersion])
	p := trysail.Pod{
		ID: podID(s.PodSandbox), ServiceID: s.Labels[labelServiceID], Version: version,
		CreatedAt: time.Unix(0, s.CreatedAt), Lost: !s.ready(),
	}
	var err error
	if p.Addr, err = e.addr(ctx, s.Id); err != nil {
		return p, err
	}
	for _, c := range s.containers {
		st, err := e.containerStatus(ctx, c)
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return p, err
		}
		p.Containers = append(p.Containers, e.translate(p.ID, c, st))
	}
	for name, why := range e.journal.startErrors(p.ID) {
		p.Containers = append(p.Containers, trysail.ContainerStatus{
			Name: name, State: trysail.ContainerExited, FinishedAt: why.At, ExitCode: startErrorCode, StartError: why.Text,
		})
	}
	slices.SortFunc(p.Containers, func(a, b trysail.ContainerStatus) int { return cmp.Compare(a.Name, b.Name) })
	return p, nil
}

// addr returns the pod's address; invalid if it has none.
func (e *Engine) addr(ctx context.Context, sandboxID string) (netip.Addr, error) {
	e.mu.Lock()
	addr, ok := e.cache.addrs[sandboxID]
	e.mu.Unlock()
	if ok {
		return addr, nil
	}
	st, err := e.runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: sandboxID})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("asking for a pod's address: %w", err)
	}
	ip := st.GetStatus().GetNetwork().GetIp()
	if ip == "" {
		return netip.Addr{}, nil
	}
	if addr, err = netip.ParseAddr(ip); err != nil {
		return netip.Addr{}, err
	}
	e.mu.Lock()
	e.cache.addrs[sandboxID] = addr
	e.mu.Unlock()
	return addr, nil
}

// containerStatus returns what CRI says of a container, from the cache if that cannot have changed.
func (e *Engine) containerStatus(ctx context.Context, c *runtimeapi.Container) (*runtimeapi.ContainerStatus, error) {
	e.mu.Lock()
	st := e.cache.statuses[c.Id]
	e.mu.Unlock()
	if st != nil && st.State == c.State {
		return st, nil
	}
	resp, err := e.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.Id})
	if err != nil {
		return nil, fmt.Errorf("asking for a container's status: %w", err)
	}
	st = resp.Status
	running := st.State == runtimeapi.ContainerState_CONTAINER_RUNNING
	ended := st.State == runtimeapi.ContainerState_CONTAINER_EXITED && time.Since(time.Unix(0, st.FinishedAt)) > settled
	if running || ended {
		e.mu.Lock()
		e.cache.statuses[c.Id] = st
		e.mu.Unlock()
	}
	return st, nil
}

// translate says in our words how a container is, and corrects what CRI does not know.
func (e *Engine) translate(id trysail.PodID, c *runtimeapi.Container, st *runtimeapi.ContainerStatus) trysail.ContainerStatus {
	out := trysail.ContainerStatus{Name: c.Labels[labelContainer], StartedAt: timeOf(st.StartedAt)}
	switch st.State {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		out.State = trysail.ContainerCreated
		return out
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		out.State = trysail.ContainerRunning
		return out
	default: // also unknown: containerd has lost the container, and with it the means to run it
	}
	out.State = trysail.ContainerExited
	out.FinishedAt, out.ExitCode = timeOf(st.FinishedAt), int(st.ExitCode)
	if st.Reason == "StartError" {
		out.StartError = st.Message
		return out
	}
	if x, ok := e.journal.exit(c.Id); ok {
		out.FinishedAt, out.ExitCode, out.OOMKilled = x.At, x.Code, x.OOM && x.Code == signalExitCode
		return out
	}
	out.OOMKilled = out.ExitCode == signalExitCode && e.outOfMemory(id, c.Id, st.Reason)
	if out.StartedAt.After(out.FinishedAt) {
		out.StartedAt = out.FinishedAt // CRI notes the start when it has heard of it, which may be after the end
	}
	return out
}

// outOfMemory decides whether a container of the pod that SIGKILL has ended was killed for want of memory.
//
// What was seen when it ended is the best evidence: whether a signal has ended it or it has said 137 itself, as a shell
// does whose child was killed, and whether the kernel has killed in its own cgroup.
//
// Where its end was not seen: the first process of a container cannot be killed from within. So if we did not kill it,
// and the kernel has killed in this pod, the two are one. CRI's word for it is used only on cgroup v1, which does not
// count for the pod as a whole; there, CRI blames every container of a pod when one is killed, and the exit code tells
// the victim.
func (e *Engine) outOfMemory(id trysail.PodID, containerID, reason string) bool {
	e.mu.Lock()
	stopping := e.stopping[id]
	e.mu.Unlock()
	if stopping {
		return false
	}
	if c := e.witness.container(containerID); c != nil {
		if killed, known := c.pod.victim(c); known {
			return killed
		}
	}
	if e.cgroups.version() == 2 {
		return e.cgroups.oomKills(id) > 0
	}
	return reason == "OOMKilled"
}

// timeOf turns CRI's nanoseconds into a time; 0 is the zero time.
func timeOf(nanos int64) time.Time {
	if nanos <= 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos)
}

// Usage implements engine.Engine.
func (e *Engine) Usage(ctx context.Context) ([]trysail.Usage, error) {
	sandboxes, err := e.listSandboxes(ctx, "")
	if err != nil {
		return nil, err
	}
	var all []trysail.Usage
	for _, s := range sandboxes {
		if s.State != runtimeapi.PodSandboxState_SANDBOX_READY {
			continue
		}
		u := trysail.Usage{Pod: podID(s), At: time.Now(), Limits: limitsOf(s)}
		if u.CPU, u.Memory, err = e.cgroups.usage(u.Pod); err != nil {
			continue // stopped since it was listed
		}
		e.cgroups.throttling(&u)
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b trysail.Usage) int { return cmp.Compare(a.Pod, b.Pod) })
	return all, nil
}
