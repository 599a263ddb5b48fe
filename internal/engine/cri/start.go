package cri

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

// runtimeTime bounds each single step of a start or stop, beyond the grace, so that a runtime that hangs is noticed.
const runtimeTime = 2 * time.Minute

// Start implements engine.Engine.
func (e *Engine) Start(ctx context.Context, spec trysail.PodSpec) error {
	unlock, err := e.locks.lock(ctx, string(spec.ID))
	if err != nil {
		return err
	}
	defer unlock()
	s, err := e.usable(ctx, spec.ID)
	if err != nil {
		return err
	}
	if s != nil && !s.ready() {
		return nil // it ran and ended
	}
	config, err := e.sandboxConfig(spec)
	if err != nil {
		return err
	}
	if s == nil {
		if s, err = e.runSandbox(ctx, spec, config); err != nil {
			return fmt.Errorf("starting pod %s: %w", spec.ID, err)
		}
	}
	e.witness.open(spec.ID, s.Id, false)
	if err := e.admit(ctx, spec.ID, s.Id); err != nil {
		return fmt.Errorf("starting pod %s: %w", spec.ID, err)
	}
	if err := e.startContainers(ctx, spec, s, config); err != nil {
		return fmt.Errorf("starting pod %s: %w", spec.ID, err)
	}
	if err := e.cgroups.limitCPU(spec.ID, spec.Limits.MilliCPU); err != nil {
		return fmt.Errorf("limiting the CPU of pod %s: %w", spec.ID, err)
	}
	return nil
}

// usable finds the pod's sandbox, nil if there is none, and removes what is left of starts that got stuck.
func (e *Engine) usable(ctx context.Context, id trysail.PodID) (*sandbox, error) {
	sandboxes, err := e.list(ctx, id)
	if err != nil {
		return nil, err
	}
	var found *sandbox
	for _, s := range sandboxes {
		if e.halfMade(s) {
			if err := e.removeSandbox(ctx, s.Id); err != nil {
				return nil, fmt.Errorf("removing the rest of an earlier start of pod %s: %w", id, err)
			}
			continue
		}
		if found == nil || s.ready() {
			found = s
		}
	}
	if found == nil {
		e.killLeftovers(id)
	}
	return found, nil
}

// sandboxConfig describes the pod to CRI. It is the same at every call with the same spec.
func (e *Engine) sandboxConfig(spec trysail.PodSpec) (*runtimeapi.PodSandboxConfig, error) {
	dns, err := podDNS(e.cfg)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: string(spec.ID), Uid: string(spec.ID), Namespace: "trysail"},
		Hostname:     string(spec.ID),
		LogDirectory: spec.LogDir,
		DnsConfig:    dns,
		Labels: map[string]string{
			labelPod: string(spec.ID), labelService: spec.Service, labelServiceID: spec.ServiceID, labelVersion: strconv.Itoa(spec.Version),
		},
		Annotations: map[string]string{
			noteMilliCPU: strconv.FormatInt(spec.Limits.MilliCPU, 10), noteMemory: strconv.FormatInt(spec.Limits.Memory, 10),
		},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: e.cgroups.path(spec.ID),
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: namespaces(),
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			},
		},
	}, nil
}

// namespaces are those of every pod: the containers share the network and IPC, and each has its own processes.
func namespaces() *runtimeapi.NamespaceOption {
	return &runtimeapi.NamespaceOption{
		Network: runtimeapi.NamespaceMode_POD, Ipc: runtimeapi.NamespaceMode_POD, Pid: runtimeapi.NamespaceMode_CONTAINER,
	}
}

// runSandbox makes the pod without its containers.
func (e *Engine) runSandbox(ctx context.Context, spec trysail.PodSpec, config *runtimeapi.PodSandboxConfig) (*sandbox, error) {
	if spec.LogDir != "" {
		if err := os.MkdirAll(spec.LogDir, 0o700); err != nil {
			return nil, err
		}
	}
	if err := e.cgroups.create(spec.ID, spec.Limits, e.cfg.PIDs); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, runtimeTime)
	defer cancel()
	resp, err := e.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		return nil, err
	}
	return &sandbox{PodSandbox: &runtimeapi.PodSandbox{Id: resp.PodSandboxId, State: runtimeapi.PodSandboxState_SANDBOX_READY}}, nil
}

// startContainers creates and starts the containers that do not exist yet.
func (e *Engine) startContainers(ctx context.Context, spec trysail.PodSpec, s *sandbox, config *runtimeapi.PodSandboxConfig) error {
	existing := map[string]*runtimeapi.Container{}
	for _, c := range s.containers {
		existing[c.Labels[labelContainer]] = c
	}
	failed := e.journal.startErrors(spec.ID)
	hosts, err := e.writeHosts(ctx, spec, s.Id)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, len(spec.Containers))
	for i, c := range spec.Containers {
		if _, ok := failed[c.Name]; ok {
			continue
		}
		wg.Go(func() {
			errs[i] = e.startContainer(ctx, spec.ID, s.Id, existing[c.Name], c, config, hosts)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// startContainer creates and starts the container, unless that was done before.
func (e *Engine) startContainer(ctx context.Context, pod trysail.PodID, sandboxID string, existing *runtimeapi.Container,
	spec trysail.ContainerSpec, config *runtimeapi.PodSandboxConfig, hosts string,
) error {
	ctx, cancel := context.WithTimeout(ctx, runtimeTime)
	defer cancel()
	if existing != nil {
		tried, err := e.tried(ctx, existing)
		if err != nil || tried {
			e.witness.started(pod, spec.Name, existing.Id, false)
			return err
		}
		// Containerd died while it started this one. What is half made of it cannot be started again.
		if _, err := e.runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: existing.Id}); err != nil && !isNotFound(err) {
			return fmt.Errorf("removing the rest of container %s: %w", spec.Name, err)
		}
	}
	id, err := e.createContainer(ctx, pod, sandboxID, spec, config, hosts)
	if err != nil && containersFault(err) {
		// What a crash has left of a snapshot fails one attempt, which removes it.
		id, err = e.createContainer(ctx, pod, sandboxID, spec, config, hosts)
	}
	if err != nil {
		if !containersFault(err) {
			return fmt.Errorf("creating container %s: %w", spec.Name, err)
		}
		return e.journal.addStartError(pod, spec.Name, status.Convert(err).Message())
	}
	_, err = e.runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
	if err == nil {
		e.witness.started(pod, spec.Name, id, true)
		return nil
	}
	if !containersFault(err) {
		return fmt.Errorf("starting container %s: %w", spec.Name, err)
	}
	return nil
}

// tried reports whether a start of the container has come to an end: it has run, or it was found that it cannot.
func (e *Engine) tried(ctx context.Context, c *runtimeapi.Container) (bool, error) {
	switch c.State {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return false, nil
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return true, nil
	default:
	}
	st, err := e.containerStatus(ctx, c)
	if err != nil {
		return false, err
	}
	return st.StartedAt > 0 || st.Reason == "StartError", nil
}

func (e *Engine) createContainer(ctx context.Context, pod trysail.PodID, sandboxID string, spec trysail.ContainerSpec,
	config *runtimeapi.PodSandboxConfig, hosts string,
) (id string, err error) {
	c := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: spec.Name},
		Image:    &runtimeapi.ImageSpec{Image: spec.Image},
		Args:     spec.Command, // in CRI's words: Command would replace the ENTRYPOINT, Args replaces the CMD
		Labels:   map[string]string{labelPod: string(pod), labelContainer: spec.Name},
		Mounts:   []*runtimeapi.Mount{{ContainerPath: "/etc/hosts", HostPath: hosts}},
		Linux: &runtimeapi.LinuxContainerConfig{
			// Rather a container than what runs it, when the machine as a whole is out of memory.
			Resources: &runtimeapi.LinuxContainerResources{OomScoreAdj: 500},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: namespaces(),
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
				// As with Docker, setuid programs work (NoNewPrivs is off): images drop from root to a user and back with
				// them. The capabilities are Docker's default set; none is added.
			},
		},
	}
	if config.LogDirectory != "" {
		// Containerd is not told, because it is not in the way: the shim writes the log.
		c.Annotations = map[string]string{
			noteLogPath: filepath.Join(config.LogDirectory, spec.Name+".log"), noteLogLimit: strconv.FormatInt(e.cfg.LogMaxBytes, 10),
		}
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Environment)) {
		c.Envs = append(c.Envs, &runtimeapi.KeyValue{Key: name, Value: []byte(spec.Environment[name])})
	}
	req := &runtimeapi.CreateContainerRequest{PodSandboxId: sandboxID, Config: c, SandboxConfig: config}
	resp, err := e.runtime.CreateContainer(ctx, req)
	if isNotFound(err) {
		// The image is gone, or was never there.
		if err := e.Prepare(ctx, spec.Image); err != nil {
			return "", err
		}
		resp, err = e.runtime.CreateContainer(ctx, req)
	}
	if err != nil {
		return "", err
	}
	return resp.ContainerId, nil
}

// writeHosts writes the pod's /etc/hosts, so that the pod's own name and those of its
// containers resolve. CRI would show the host's.
func (e *Engine) writeHosts(ctx context.Context, spec trysail.PodSpec, sandboxID string) (path string, err error) {
	addr, err := e.addr(ctx, sandboxID)
	if err != nil {
		return "", err
	}
	dir := e.cfg.podDir(string(spec.ID))
	path = filepath.Join(dir, "hosts")
	if _, err := os.Stat(path); err == nil {
		return path, nil // containers may have it mounted
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	if addr.IsValid() {
		fmt.Fprintf(&b, "%s\t%s\n", addr, spec.ID)
	}
	// The containers share the network, so each finds the others where it finds itself.
	for _, c := range spec.Containers {
		if c.Name != "localhost" {
			fmt.Fprintf(&b, "127.0.0.1\t%s\n", c.Name)
		}
	}
	return path, os.WriteFile(path, []byte(b.String()), 0o644) //nolint:gosec // for every user in the containers
}

// containersFault reports whether an error of creating or starting a container lies in the container (its image, its
// command) and not in the machine: only then it is final.
func containersFault(err error) bool {
	if _, ok := errors.AsType[*trysail.ImageError](err); ok || errors.Is(err, engine.ErrUnavailable) {
		return false
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded, codes.ResourceExhausted, codes.NotFound, codes.Unimplemented:
		return false
	default:
	}
	text := err.Error()
	for _, machine := range []string{"no space left on device", "ttrpc: closed", "error reading from server", "too many open files", "resource temporarily unavailable", "read-only file system"} {
		if strings.Contains(text, machine) {
			return false
		}
	}
	return true
}

func isNotFound(err error) bool { return status.Code(err) == codes.NotFound }
