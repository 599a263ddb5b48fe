package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/trysail/trysail"
)

// Stop implements engine.Engine.
func (e *Engine) Stop(ctx context.Context, id trysail.PodID, grace time.Duration) (killed []string, err error) {
	unlock, err := e.locks.lock(ctx, string(id))
	if err != nil {
		return nil, err
	}
	defer unlock()
	e.setStopping(id, true)
	defer e.setStopping(id, false)
	sandboxes, err := e.list(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("stopping pod %s: %w", id, err)
	}
	var containers []string
	for _, s := range sandboxes {
		for _, c := range s.containers {
			containers = append(containers, c.Id)
		}
		containers = append(containers, s.Id)
		names, err := e.stopContainers(ctx, id, s, grace)
		killed = append(killed, names...)
		if err != nil {
			return killed, fmt.Errorf("stopping pod %s: %w", id, err)
		}
		if err := e.removeSandbox(ctx, s.Id); err != nil {
			return killed, fmt.Errorf("removing pod %s: %w", id, err)
		}
	}
	slices.Sort(killed)
	e.witness.forget(id)
	if err := e.removeCgroup(ctx, id); err != nil {
		// It costs a little memory of the kernel; the next start of the engine tries again.
		e.log.WarnContext(ctx, "cannot remove the cgroup of a stopped pod", "pod", id, "error", err)
	}
	if err := errors.Join(os.RemoveAll(e.cfg.podDir(string(id))), e.journal.forget(id, containers)); err != nil {
		return killed, fmt.Errorf("forgetting pod %s: %w", id, err)
	}
	e.watch.send()
	return killed, nil
}

func (e *Engine) setStopping(id trysail.PodID, stopping bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if stopping {
		e.stopping[id] = true
	} else {
		delete(e.stopping, id)
	}
}

// stopContainers ends all running containers of the pod at the same time: SIGTERM (or what the image asks for), and
// SIGKILL after the grace. It returns the names of those that it took.
func (e *Engine) stopContainers(ctx context.Context, id trysail.PodID, s *sandbox, grace time.Duration) (killed []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, grace+runtimeTime)
	defer cancel()
	// CRI counts whole seconds; a grace of less than one is still one.
	seconds := int64((grace + time.Second - 1) / time.Second)
	var wg sync.WaitGroup
	names, errs := make([]string, len(s.containers)), make([]error, len(s.containers))
	for i, c := range s.containers {
		if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING && c.State != runtimeapi.ContainerState_CONTAINER_UNKNOWN {
			continue
		}
		wg.Go(func() {
			asked := time.Now()
			_, err := e.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.Id, Timeout: seconds})
			if !isNotFound(err) {
				errs[i] = err
			}
			if over := asked.Add(time.Duration(seconds) * time.Second); err == nil && seconds > 0 && !time.Now().Before(over) {
				names[i] = e.killedAfter(ctx, id, c, over)
			}
		})
	}
	wg.Wait()
	return slices.DeleteFunc(names, func(name string) bool { return name == "" }), errors.Join(errs...)
}

// killedAfter returns the container's name if it was ended by SIGKILL and not before the time, else "". CRI does not say
// whether it had to kill.
func (e *Engine) killedAfter(ctx context.Context, id trysail.PodID, c *runtimeapi.Container, over time.Time) string {
	resp, err := e.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.Id})
	if err != nil {
		return ""
	}
	st := e.translate(id, c, resp.Status)
	if st.State != trysail.ContainerExited || st.ExitCode != signalExitCode || st.FinishedAt.Before(over) {
		return ""
	}
	return st.Name
}

// removalTime is how long the removal of a sandbox is tried. Containerd refuses it for a moment when a shim has just
// died, until it has cleaned up after it.
const removalTime = 10 * time.Second

// removeSandbox ends and removes a sandbox with all that is in it. An absent one is no error.
func (e *Engine) removeSandbox(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, runtimeTime)
	defer cancel()
	addr, _ := e.addr(ctx, id) // none is known of one that is gone
	defer func() {
		if err := e.network.Forget(addr); err != nil {
			e.log.WarnContext(ctx, "connections with a pod that is gone are still remembered", "address", addr, "error", err)
		}
	}()
	for end := time.Now().Add(removalTime); ; {
		_, err := e.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
		if err == nil || isNotFound(err) {
			_, err = e.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
		}
		if err == nil || isNotFound(err) {
			return nil
		}
		if time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// removeCgroup removes the pod's cgroup, which is busy until the kernel has seen the last process off.
func (e *Engine) removeCgroup(ctx context.Context, id trysail.PodID) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for {
		e.killLeftovers(id)
		err := e.cgroups.remove(id)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// killLeftovers kills the processes of the pod that containerd does not know: it died before it had noted what it
// started. The pod must have no sandbox.
func (e *Engine) killLeftovers(id trysail.PodID) {
	pids, err := e.cgroups.processes(id)
	if err != nil {
		return // the cgroup is not there
	}
	for _, pid := range pids {
		e.log.Info("killing a process that a crash has left", "pod", id, "pid", pid)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}
