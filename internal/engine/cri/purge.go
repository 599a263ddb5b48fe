package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/trysail/trysail/internal/engine/podnet"
)

// Purge removes what an engine has left on the machine outside of Config.Dir: its rules in the packet filter, its
// bridge, its cgroup, and Config.StateDir. The engine must be closed and have no pods.
func Purge(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return err
	}
	groups, err := currentCgroups(cfg)
	if err != nil {
		return err
	}
	errs := []error{podnet.Purge(ctx, podnet.Config{ID: cfg.id(), Bridge: cfg.Bridge})}
	for _, dir := range groups.allDirs() {
		errs = append(errs, removeTree(filepath.Join(dir, groups.parent)))
	}
	errs = append(errs, unmountBelow(cfg.StateDir), os.RemoveAll(cfg.StateDir))
	return errors.Join(errs...)
}

// unmountBelow undoes what containerd has mounted below dir for pods that are gone.
func unmountBelow(dir string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	lines := strings.Split(string(b), "\n")
	for _, line := range slices.Backward(lines) { // the innermost first
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil {
				errs = append(errs, fmt.Errorf("unmounting %s: %w", f[4], err))
			}
		}
	}
	return errors.Join(errs...)
}
