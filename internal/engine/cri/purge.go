package cri

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Purge removes what an engine has left on the machine outside of Config.Dir: its rule in the packet filter, its
// bridge, its cgroup, and Config.StateDir. The engine must be closed and have no pods.
func Purge(cfg Config) error {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return err
	}
	groups, err := currentCgroups(cfg)
	if err != nil {
		return err
	}
	errs := []error{purgeTable(cfg), purgeBridge(cfg.Bridge)}
	for _, dir := range groups.allDirs() {
		errs = append(errs, removeTree(filepath.Join(dir, groups.parent)))
	}
	errs = append(errs, unmountBelow(cfg.StateDir), os.RemoveAll(cfg.StateDir))
	return errors.Join(errs...)
}

func purgeTable(cfg Config) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "trysail-" + cfg.id()}
	c.AddTable(table)
	c.DelTable(table)
	return c.Flush()
}

// purgeBridge deletes the bridge, if it is there.
func purgeBridge(name string) error {
	link, err := netlink.LinkByName(name)
	if _, absent := errors.AsType[netlink.LinkNotFoundError](err); absent {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
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
