package cri

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trysail/trysail"
)

// Machine implements engine.Witness. What this kernel does not tell is zero.
func (e *Engine) Machine(ctx context.Context) (trysail.MachineState, error) {
	if err := ctx.Err(); err != nil {
		return trysail.MachineState{}, err
	}
	m := trysail.MachineState{At: time.Now(), DiskPath: e.cfg.Dir, CPUs: runtime.NumCPU(), OOMKills: max(0, machineKills()-e.killsBefore)}
	var disk unix.Statfs_t
	if err := unix.Statfs(e.cfg.Dir, &disk); err != nil {
		return m, fmt.Errorf("asking for the room on the disk: %w", err)
	}
	m.DiskTotal = int64(disk.Blocks) * disk.Frsize //nolint:gosec // no disk has 8 EiB
	m.DiskFree = int64(disk.Bavail) * disk.Frsize  //nolint:gosec // the same
	m.MemoryTotal, m.MemoryFree = parseMemInfo(control("/proc", "meminfo"))
	m.Load = parseLoad(control("/proc", "loadavg"))
	m.BootID = string(bytes.TrimSpace(control("/proc/sys/kernel/random", "boot_id")))
	return m, nil
}

// parseMemInfo reads the bytes that there are and that programs can still get from the form of /proc/meminfo:
//
//	MemTotal:        8127160 kB
func parseMemInfo(b []byte) (total, available int64) {
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(string(f[1]), 10, 64)
		switch string(f[0]) {
		case "MemTotal:":
			total = n << 10
		case "MemAvailable:":
			available = n << 10
		}
	}
	return total, available
}

// parseLoad reads the mean of the last minute from the form of /proc/loadavg.
func parseLoad(b []byte) float64 {
	first, _, _ := bytes.Cut(b, []byte(" "))
	load, _ := strconv.ParseFloat(string(first), 64)
	return load
}

// machineKills is how many processes the kernel has killed for want of memory since the machine has started, be it the
// machine's or that of a cgroup.
func machineKills() int64 {
	return value(control("/proc", "vmstat"), "oom_kill")
}
