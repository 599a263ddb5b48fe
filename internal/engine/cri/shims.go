package cri

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// strayTime is how long a shim must have been unknown to containerd to be killed while pods are being started. It is
// longer than any start takes.
const strayTime = 2 * runtimeTime

// shims lists the shims on the machine that were started by a containerd with this socket: process id → id of the
// sandbox.
func shims(socket string) map[int]string {
	found := map[int]string{}
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return found
	}
	for _, f := range files {
		b, err := os.ReadFile(f) //nolint:gosec // the path is ours
		if err != nil {
			continue // it has ended
		}
		args := bytes.Split(bytes.TrimSuffix(b, []byte{0}), []byte{0})
		if len(args) != 7 || string(args[1]) != "-namespace" || string(args[3]) != "-id" || string(args[5]) != "-address" || string(args[6]) != socket {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err == nil {
			found[pid] = string(args[4])
		}
	}
	return found
}

// killStrays kills the shims whose sandbox containerd does not know: it died before it had noted what it started.
// since holds when each was seen first, from call to call.
func (e *Engine) killStrays(ctx context.Context, since map[int]time.Time) error {
	running := shims(e.cfg.socket())
	sandboxes, err := e.listSandboxes(ctx, "")
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, s := range sandboxes {
		known[s.Id] = true
	}
	for pid := range since {
		if id, ok := running[pid]; !ok || known[id] {
			delete(since, pid)
		}
	}
	for pid, id := range running {
		if known[id] {
			continue
		}
		first, seen := since[pid]
		if !seen {
			since[pid] = time.Now()
		} else if time.Since(first) > strayTime {
			e.killShim(pid, id)
		}
	}
	return nil
}

func (e *Engine) killShim(pid int, sandboxID string) {
	e.log.Info("killing a shim that a crash has left", "pid", pid, "sandbox", sandboxID)
	_ = syscall.Kill(pid, syscall.SIGKILL)
}
