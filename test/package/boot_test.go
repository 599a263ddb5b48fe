//go:build package

package packages

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The test program, started again with this in its environment, becomes the first process of a machine; see boot.
const bootVariable = "TRYSAIL_TEST_BOOT"

// bootNamespaces are what a machine has of its own, beside its control groups and its network.
const bootNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// boot makes this process the first of a machine: with root as its root, in a cgroup called name, running argv. It
// returns only with an error.
func boot(root, name string, argv []string) error {
	runtime.LockOSThread() // namespaces belong to threads
	groups, err := joinCgroup(name)
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("making a cgroup namespace: %w", err)
	}
	if err := unix.Sethostname([]byte("machine")); err != nil {
		return err
	}
	if err := mountAll(root, groups); err != nil {
		return err
	}
	if err := enter(root); err != nil {
		return err
	}
	env := []string{"container=trysail-test", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=dumb"}
	if err := unix.Exec(argv[0], argv, env); err != nil {
		return fmt.Errorf("starting %s: %w", argv[0], err)
	}
	return nil
}

// hierarchy is one of control groups: on cgroup v1 there are several.
type hierarchy struct {
	options string // of its mount; empty for cgroup v2
	dir     string // of the cgroup that this process is in, as it is mounted here
}

// hierarchies lists them, the cgroup v2 last.
func hierarchies() (list []hierarchy, err error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(own)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		mount := filepath.Join("/sys/fs/cgroup", strings.TrimPrefix(f[1], "name="))
		if f[1] == "" {
			if mount = "/sys/fs/cgroup/unified"; !isCgroup2(mount) {
				mount = "/sys/fs/cgroup"
			}
			if !isCgroup2(mount) {
				continue
			}
		}
		list = append(list, hierarchy{options: f[1], dir: filepath.Join(mount, f[2])})
	}
	return list, nil
}

func isCgroup2(dir string) bool {
	var s unix.Statfs_t
	return unix.Statfs(dir, &s) == nil && s.Type == unix.CGROUP2_SUPER_MAGIC
}

// joinCgroup puts this process into a new cgroup in each hierarchy.
func joinCgroup(name string) ([]hierarchy, error) {
	list, err := hierarchies()
	if err != nil {
		return nil, err
	}
	for _, h := range list {
		dir := filepath.Join(h.dir, name)
		if h.options == "" {
			// Where the controllers are with cgroup v1 there is nothing to pass on.
			_ = os.WriteFile(filepath.Join(h.dir, "cgroup.subtree_control"), []byte("+cpu +memory +pids"), 0o600)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		if strings.Contains(h.options, "cpuset") {
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				value, err := os.ReadFile(filepath.Join(h.dir, file))
				if err = errors.Join(err, os.WriteFile(filepath.Join(dir, file), value, 0o600)); err != nil {
					return nil, err
				}
			}
			if err := os.WriteFile(filepath.Join(dir, "cgroup.clone_children"), []byte("1"), 0o600); err != nil {
				return nil, err
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0o600); err != nil {
			return nil, fmt.Errorf("joining the cgroup %s: %w", dir, err)
		}
	}
	return list, nil
}

// mounting is one call of mount.
type mounting struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func mountAll(root string, groups []hierarchy) error {
	mounts := []mounting{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{root, root, "", unix.MS_BIND, ""},
		{"proc", "proc", "proc", 0, ""},
		// The kernel's settings are those of the machine that this runs on. Those of the network are its own.
		{"proc/sys", "proc/sys", "", unix.MS_BIND, ""},
		{"proc/sys/net", "proc/sys/net", "", unix.MS_BIND, ""},
		{"", "proc/sys", "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY, ""},
		{"sysfs", "sys", "sysfs", 0, ""},
		{"tmpfs", "run", "tmpfs", 0, "mode=755"},
		{"tmpfs", "tmp", "tmpfs", 0, "mode=1777"},
		{"tmpfs", "dev", "tmpfs", 0, "mode=755"},
		{"devpts", "dev/pts", "devpts", 0, "newinstance,ptmxmode=666,mode=620,gid=5"},
		{"tmpfs", "dev/shm", "tmpfs", 0, "mode=1777"},
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		mounts = append(mounts, mounting{"/dev/" + name, "dev/" + name, "", unix.MS_BIND, ""})
	}
	if len(groups) > 1 {
		mounts = append(mounts, mounting{"tmpfs", "sys/fs/cgroup", "tmpfs", 0, "mode=755"})
	}
	for _, h := range groups {
		m := mounting{"cgroup", filepath.Join("sys/fs/cgroup", strings.TrimPrefix(h.options, "name=")), "cgroup", 0, h.options}
		if h.options == "" {
			m.kind = "cgroup2"
			if len(groups) > 1 {
				m.target = "sys/fs/cgroup/unified"
			}
		}
		mounts = append(mounts, m)
	}
	for _, m := range mounts {
		if err := m.do(root); err != nil {
			return err
		}
	}
	return errors.Join(os.Symlink("pts/ptmx", filepath.Join(root, "dev/ptmx")), os.Symlink("/proc/self/fd", filepath.Join(root, "dev/fd")))
}

func (m mounting) do(root string) error {
	if !filepath.IsAbs(m.target) {
		m.target = filepath.Join(root, m.target)
		if m.flags&unix.MS_BIND != 0 && m.source != "" && !filepath.IsAbs(m.source) {
			m.source = filepath.Join(root, m.source)
		}
	}
	if err := m.prepare(); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", m.source, m.target, err)
	}
	return nil
}

// prepare makes what is mounted on.
func (m mounting) prepare() error {
	if _, err := os.Stat(m.target); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if info, err := os.Stat(m.source); m.flags&unix.MS_BIND != 0 && err == nil && !info.IsDir() {
		return os.WriteFile(m.target, nil, 0o600)
	}
	return os.MkdirAll(m.target, 0o755)
}

// enter makes root the root, and lets go of the one before.
func enter(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	// The old root lies over the new one now.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("letting go of the old root: %w", err)
	}
	return os.Chdir("/")
}

// removeCgroup removes the cgroups of a machine that has ended, with all below them.
func removeCgroup(name string) error {
	list, err := hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range list {
		var dirs []string
		err := filepath.WalkDir(filepath.Join(h.dir, name), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
		errs = append(errs, err)
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := syscall.Rmdir(dirs[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("removing the cgroup %s: %w", dirs[i], err))
			}
		}
	}
	return errors.Join(errs...)
}

// bootIfAsked is what main does first.
func bootIfAsked() {
	spec, found := os.LookupEnv(bootVariable)
	if !found {
		return
	}
	f := strings.Split(spec, "\n")
	// The network is put into this machine's namespace by the one that has started us, who then closes this pipe.
	var wait bytes.Buffer
	_, _ = wait.ReadFrom(os.NewFile(3, "wait"))
	fmt.Fprintln(os.Stderr, "machine:", boot(f[0], f[1], f[2:]))
	os.Exit(1)
}
