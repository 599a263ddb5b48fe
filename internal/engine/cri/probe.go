package cri

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trysail/trysail/internal/engine/podnet"
)

// Problem is something about the machine that keeps the engine from working, or from working well.
type Problem struct {
	Text  string // one sentence
	Fix   string // a command or a step
	Fatal bool   // Open fails
}

// ProblemError is the error of Open when the machine lacks something.
type ProblemError struct {
	Problems []Problem
}

// Error lists the fatal problems, one per line.
func (e *ProblemError) Error() string {
	var lines []string
	for _, p := range e.Problems {
		if p.Fatal {
			lines = append(lines, p.Text+" Fix: "+p.Fix)
		}
	}
	return strings.Join(lines, "\n")
}

// host is what the probe has found out about the machine and the configuration depends on.
type host struct {
	runc      string // path of the runtime
	cniBinDir string // directory that holds the plugins
	// restrictOOMScore is true where a negative oom_score_adj may not be set; runc would fail at every pod.
	restrictOOMScore bool
	snapshotter      string
}

// Probe reports what the engine would miss on this machine. It changes nothing.
func Probe(cfg Config) []Problem {
	cfg = cfg.withDefaults()
	_, problems := probe(context.Background(), cfg)
	obstacles, _ := podnet.Obstacles(cfg.Bridge) // who is not root is told of that already
	for _, o := range obstacles {
		problems = append(problems, Problem{
			Text: "A firewall drops what containers send: the chain " + o.Chain + " of nftables.", Fix: o.Fix + "; and add the same to the firewall's own rules",
		})
	}
	return problems
}

func probe(ctx context.Context, cfg Config) (h host, problems []Problem) {
	fatal := func(fix, format string, args ...any) {
		problems = append(problems, Problem{Text: fmt.Sprintf(format, args...), Fix: fix, Fatal: true})
	}
	warn := func(fix, format string, args ...any) {
		problems = append(problems, Problem{Text: fmt.Sprintf(format, args...), Fix: fix})
	}
	if err := cfg.Validate(); err != nil {
		fatal("Use a shorter, absolute path.", "The directories cannot be used: %v.", err)
	}
	root := os.Geteuid() == 0
	if !root {
		fatal("Run it with sudo, or as a systemd service.", "Running containers needs root, and this is user %d.", os.Geteuid())
	}
	h.restrictOOMScore = !hasCapability(unix.CAP_SYS_RESOURCE)
	probeRunc(ctx, cfg, &h, fatal)
	probeCNI(cfg, &h, fatal)
	if groups, err := currentCgroups(cfg); err != nil {
		fatal("Mount the cgroup hierarchies; on a usual distribution systemd does it.", "Control groups cannot be used: %v.", err)
	} else if missing := groups.missing(); len(missing) > 0 {
		fatal("Add cgroup_enable=memory to the kernel's command line.", "The kernel lacks the cgroup controllers %s.", strings.Join(missing, ", "))
	}
	h.snapshotter = "overlayfs"
	if root {
		if err := tryOverlay(cfg.Dir); err != nil {
			h.snapshotter = "native"
			warn("Put the data directory on ext4 or xfs, and load the kernel module overlay.",
				"Overlayfs does not work in %s (%v); images will be copied instead, which is slow and takes much space.", cfg.Dir, err)
		}
	}
	if dns, err := podDNS(cfg); err == nil && len(dns.Servers) == 0 && !cfg.PrivateDNS {
		warn("Name a server in /etc/resolv.conf that is not on a loopback address.", "Pods cannot resolve names: the machine's resolver is reachable from itself alone.")
	}
	return h, problems
}

func probeRunc(ctx context.Context, cfg Config, h *host, fatal func(fix, format string, args ...any)) {
	const fix = "apt-get install runc"
	path, err := lookPath(cfg.RuncPath)
	if err != nil {
		fatal(fix, "runc is not installed.")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput() //nolint:gosec // root says which runtime to use
	switch {
	case err != nil || !bytes.HasPrefix(out, []byte("runc version ")):
		fatal(fix, "%s is not a runc that works.", path)
	case !bytes.Contains(out, []byte("libseccomp")):
		fatal(fix, "%s was built without seccomp, so containers could not be confined.", path)
	case bytes.HasPrefix(out, []byte("runc version 1.0")):
		fatal(fix, "%s is older than version 1.1.", path)
	}
	h.runc = path
}

func probeCNI(cfg Config, h *host, fatal func(fix, format string, args ...any)) {
	for _, dir := range cfg.CNIBinDirs {
		if isExecutable(filepath.Join(dir, "bridge")) && isExecutable(filepath.Join(dir, "host-local")) {
			h.cniBinDir = dir
			return
		}
	}
	fatal("apt-get install containernetworking-plugins", "The CNI plugins bridge and host-local are in none of %s.", strings.Join(cfg.CNIBinDirs, ", "))
}

// lookPath finds a program also where root's $PATH may not lead.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || strings.Contains(name, "/") {
		return path, err
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin"} {
		if p := filepath.Join(dir, name); isExecutable(p) {
			return p, nil
		}
	}
	return "", err
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// hasCapability reports whether this process has the capability.
func hasCapability(number int) bool {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range bytes.Lines(b) {
		if value, ok := bytes.CutPrefix(line, []byte("CapEff:")); ok {
			mask, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64)
			return err == nil && mask&(1<<number) != 0
		}
	}
	return false
}

// tryOverlay mounts an overlay in dir, or in the nearest directory above it that exists.
func tryOverlay(dir string) (err error) {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	tmp, err := os.MkdirTemp(dir, ".overlay-probe-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	var paths []string
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		paths = append(paths, filepath.Join(tmp, name))
		if err := os.Mkdir(filepath.Join(tmp, name), 0o700); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", paths[0], paths[1], paths[2])
	if err := unix.Mount("overlay", paths[3], "overlay", 0, options); err != nil {
		return err
	}
	return unix.Unmount(paths[3], 0)
}

// currentCgroups finds the cgroups of this machine.
func currentCgroups(cfg Config) (*cgroups, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return findCgroups(b, "/trysail/"+cfg.id())
}

// missing lists the controllers that the kernel does not offer. On v1 findCgroups has seen them all.
func (g *cgroups) missing() (names []string) {
	if g.v2 == "" {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(g.v2, "cgroup.controllers"))
	if err != nil {
		return nil
	}
	have := strings.Fields(string(b))
	for _, c := range []string{"cpu", "memory", "pids"} {
		if !slices.Contains(have, c) {
			names = append(names, c)
		}
	}
	return names
}
