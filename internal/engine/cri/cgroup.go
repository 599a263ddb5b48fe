package cri

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trysail/trysail"
)

// cpuPeriod is the span in which a pod may use up its share of the CPU.
const cpuPeriod = 100 * time.Millisecond

// cgroups makes and reads the cgroups of pods. CRI accepts limits for a pod as a whole and does nothing with them, so
// each pod gets a cgroup of ours, and CRI is told to put the containers below it.
//
// The zero value is of no use; findCgroups makes one.
type cgroups struct {
	// v2 is the mount point of the unified hierarchy; empty on cgroup v1.
	v2 string
	// v1 maps a controller to its mount point; nil on cgroup v2.
	v1 map[string]string
	// parent is the path within each hierarchy below which the pods' cgroups are: /trysail/<id of the engine>.
	parent string
}

// v1Controllers are those whose hierarchies containers are put into and that we need.
var v1Controllers = [...]string{"memory", "cpu", "cpuacct", "pids"}

// findCgroups reads from mountinfo which version the machine uses and where. On a hybrid machine the controllers are
// with v1.
func findCgroups(mountinfo []byte, parent string) (*cgroups, error) {
	g := &cgroups{v1: map[string]string{}, parent: parent}
	var unified string
	s := bufio.NewScanner(bytes.NewReader(mountinfo))
	for s.Scan() {
		before, after, ok := strings.Cut(s.Text(), " - ")
		mount, fields := strings.Fields(before), strings.Fields(after)
		if !ok || len(mount) < 5 || len(fields) < 3 {
			continue
		}
		switch fields[0] {
		case "cgroup2":
			unified = mount[4]
		case "cgroup":
			for option := range strings.SplitSeq(fields[2], ",") {
				if slices.Contains(v1Controllers[:], option) && g.v1[option] == "" {
					g.v1[option] = mount[4]
				}
			}
		}
	}
	if len(g.v1) == 0 && unified != "" {
		g.v2, g.v1 = unified, nil
		return g, nil
	}
	for _, c := range v1Controllers {
		if g.v1[c] == "" {
			return nil, fmt.Errorf("the cgroup controller %q is not mounted", c)
		}
	}
	return g, nil
}

// version is the cgroup version, 1 or 2.
func (g *cgroups) version() int {
	if g.v2 != "" {
		return 2
	}
	return 1
}

// path is the pod's cgroup within each hierarchy, as CRI's cgroup_parent wants it.
func (g *cgroups) path(id trysail.PodID) string { return g.parent + "/" + string(id) }

// file returns the path of a control file of the pod. controller matters only on v1.
func (g *cgroups) file(id trysail.PodID, controller, name string) string {
	return filepath.Join(g.dir(controller), g.path(id), name)
}

func (g *cgroups) dir(controller string) string {
	if g.v2 != "" {
		return g.v2
	}
	return g.v1[controller]
}

// dirs lists the mount points of all hierarchies in use, each once.
func (g *cgroups) dirs() []string {
	if g.v2 != "" {
		return []string{g.v2}
	}
	var dirs []string
	for _, c := range v1Controllers {
		if !slices.Contains(dirs, g.v1[c]) {
			dirs = append(dirs, g.v1[c])
		}
	}
	return dirs
}

// create makes the pod's cgroup with its limits of memory and processes. The CPU is limited afterwards, by limitCPU:
// until the containers run, it is the runtime that computes here.
func (g *cgroups) create(id trysail.PodID, limits trysail.Limits, pids int64) error {
	if g.v2 != "" {
		if err := g.delegate(); err != nil {
			return err
		}
	}
	for _, dir := range g.dirs() {
		if err := os.MkdirAll(filepath.Join(dir, g.path(id)), 0o750); err != nil {
			return fmt.Errorf("making the pod's cgroup: %w", err)
		}
	}
	memory := strconv.FormatInt(limits.Memory, 10)
	if limits.Memory <= 0 {
		memory = "-1"
		if g.v2 != "" {
			memory = "max"
		}
	}
	if g.v2 != "" {
		return errors.Join(
			set(g.file(id, "", "memory.max"), memory),
			optional(set(g.file(id, "", "memory.swap.max"), "0")),
			set(g.file(id, "", "pids.max"), strconv.FormatInt(pids, 10)),
		)
	}
	return errors.Join(
		set(g.file(id, "memory", "memory.limit_in_bytes"), memory),
		optional(set(g.file(id, "memory", "memory.memsw.limit_in_bytes"), memory)),
		set(g.file(id, "pids", "pids.max"), strconv.FormatInt(pids, 10)),
	)
}

// delegate switches the controllers on from the root down to our parent. On v2 a cgroup has a controller only if its
// parent passes it on.
func (g *cgroups) delegate() error {
	if err := os.MkdirAll(filepath.Join(g.v2, g.parent), 0o750); err != nil {
		return err
	}
	dir := g.v2
	for part := range strings.SplitSeq(g.parent, "/") {
		dir = filepath.Join(dir, part)
		if err := set(filepath.Join(dir, "cgroup.subtree_control"), "+cpu +memory +pids"); err != nil {
			return fmt.Errorf("switching on cgroup controllers: %w", err)
		}
	}
	return nil
}

// limitCPU sets the pod's share of the CPU, also while it runs.
func (g *cgroups) limitCPU(id trysail.PodID, milliCPU int64) error {
	quota := milliCPU * cpuPeriod.Microseconds() / 1000
	if g.v2 != "" {
		value := "max"
		if milliCPU > 0 {
			value = fmt.Sprint(quota)
		}
		return set(g.file(id, "", "cpu.max"), fmt.Sprintf("%s %d", value, cpuPeriod.Microseconds()))
	}
	if milliCPU <= 0 {
		quota = -1
	}
	return errors.Join(
		set(g.file(id, "cpu", "cpu.cfs_period_us"), fmt.Sprint(cpuPeriod.Microseconds())),
		set(g.file(id, "cpu", "cpu.cfs_quota_us"), fmt.Sprint(quota)),
	)
}

// remove removes the pod's cgroup. CRI leaves it behind, in every hierarchy. An absent one is no error.
func (g *cgroups) remove(id trysail.PodID) error {
	var errs []error
	for _, dir := range g.allDirs() {
		errs = append(errs, removeTree(filepath.Join(dir, g.path(id))))
	}
	return errors.Join(errs...)
}

// allDirs lists all hierarchies of the machine: runc puts containers into those of controllers that we do not use too.
func (g *cgroups) allDirs() []string {
	if g.v2 != "" {
		return []string{g.v2}
	}
	root := filepath.Dir(g.v1["memory"])
	entries, err := os.ReadDir(root)
	if err != nil {
		return g.dirs()
	}
	dirs := g.dirs()
	for _, e := range entries {
		if dir := filepath.Join(root, e.Name()); e.IsDir() && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// removeTree removes a cgroup and those below it. The files in it are the kernel's and go with it.
func removeTree(dir string) error {
	if err := os.Remove(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	err = os.Remove(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// pods lists the pods that have a cgroup.
func (g *cgroups) pods() []trysail.PodID {
	entries, err := os.ReadDir(filepath.Join(g.dir("memory"), g.parent))
	if err != nil {
		return nil
	}
	var ids []trysail.PodID
	for _, e := range entries {
		if e.IsDir() {
			ids = append(ids, trysail.PodID(e.Name()))
		}
	}
	return ids
}

// processes lists the processes of the pod and of the cgroups below it.
func (g *cgroups) processes(id trysail.PodID) (pids []int, err error) {
	err = filepath.WalkDir(filepath.Join(g.dir("memory"), g.path(id)), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "cgroup.procs" {
			var b []byte
			b, err = os.ReadFile(path) //nolint:gosec // the path is ours
			pids = append(pids, parsePIDs(b)...)
		}
		return err
	})
	return pids, err
}

// oomKills is how many processes of the pod the kernel has killed for want of memory. Only v2 counts them for the pod
// as a whole.
func (g *cgroups) oomKills(id trysail.PodID) int64 {
	return keyed(g.file(id, "", "memory.events"), "oom_kill")
}

// containerOOM reports whether the kernel has killed a process of the container for want of memory. It is known as long
// as the container's cgroup is there, which the runtime removes some time after the container's end.
func (g *cgroups) containerOOM(containerID string) bool {
	name := "memory.oom_control"
	if g.v2 != "" {
		name = "memory.events"
	}
	files, err := filepath.Glob(filepath.Join(g.dir("memory"), g.parent, "*", containerID, name))
	return err == nil && len(files) == 1 && keyed(files[0], "oom_kill") > 0
}

// usage samples what the pod has used. Memory leaves out the page cache that the kernel could drop at once.
func (g *cgroups) usage(id trysail.PodID) (cpu time.Duration, memory int64, err error) {
	if g.v2 != "" {
		cpu = time.Duration(keyed(g.file(id, "", "cpu.stat"), "usage_usec")) * time.Microsecond
		memory, err = number(g.file(id, "", "memory.current"))
		return cpu, max(0, memory-keyed(g.file(id, "", "memory.stat"), "inactive_file")), err
	}
	nanos, err := number(g.file(id, "cpuacct", "cpuacct.usage"))
	if err != nil {
		return 0, 0, err
	}
	memory, err = number(g.file(id, "memory", "memory.usage_in_bytes"))
	return time.Duration(nanos), max(0, memory-keyed(g.file(id, "memory", "memory.stat"), "total_inactive_file")), err
}

func set(file, value string) error { return os.WriteFile(file, []byte(value), 0o600) }

// optional forgives that a control file is not there: not every kernel accounts swap.
func optional(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

// number reads a file that holds one number.
func number(file string) (int64, error) {
	b, err := os.ReadFile(file) //nolint:gosec // a control file of the kernel
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
}

// keyed reads the number after a word at the beginning of a line; 0 if there is none.
func keyed(file, key string) int64 {
	b, err := os.ReadFile(file) //nolint:gosec // a control file of the kernel
	if err != nil {
		return 0
	}
	return value(b, key)
}
