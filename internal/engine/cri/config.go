package cri

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/trysail/trysail/internal/engine"
	"github.com/trysail/trysail/internal/engine/podnet"
)

// Config says where an engine keeps its files and what it uses of the machine. Zero values mean the defaults.
type Config struct {
	// Dir holds what must survive a reboot: images, containerd's database, the journal. It is made if need be, mode
	// 0700. It must be absolute; there is no default. Two engines cannot share it.
	Dir string
	// StateDir holds what must not survive a reboot: sockets, running containers, leases of addresses. It belongs on a
	// tmpfs. Default: /run/trysail/<8 characters of the hash of Dir>. It may have at most 38 characters, because the
	// shims' sockets are made below it.
	StateDir string
	// NodeName is what Node reports. Default: the host name.
	NodeName string
	// Executable is the binary that is started as containerd and as shim. Default: this program's own. The shim is
	// found by this path again after a restart, so it should stay the same over upgrades.
	Executable string
	// RuncPath is the OCI runtime. Default: "runc", looked up in $PATH and the usual sbin directories.
	RuncPath string
	// CNIBinDirs is where the CNI plugins bridge and host-local are looked up; the first directory that has both is
	// used. Default: /usr/lib/cni, /opt/cni/bin, /usr/libexec/cni, /usr/local/lib/cni, /usr/local/libexec/cni.
	CNIBinDirs []string
	// Subnet is where pods get their addresses from. It must be IPv4, /8 to /24. Default: a /20 between
	// 10.92.0.0 and 10.107.255.255 that is free on this machine; it is chosen once and then kept in Dir.
	Subnet netip.Prefix
	// Subnet6 is where pods get IPv6 addresses from: /96 or larger. Default: a /64 of addresses for local use, which is
	// chosen once and then kept in Dir.
	Subnet6 netip.Prefix
	// NoIPv6 leaves pods without IPv6. They also have none where the machine has none.
	NoIPv6 bool
	// Bridge is the name of the network bridge that connects the pods, at most 15 characters.
	// Default: "trysail" and 6 characters of the hash of Dir.
	Bridge string
	// DNS lists the name servers of the pods. Default: those of the host, as far as a pod can reach them.
	DNS []string
	// PrivateDNS makes the pods ask a name server at the host's address in their network, which the caller runs there
	// (see podnet.Network). It goes before DNS.
	PrivateDNS bool
	// NetworkOpen, if not nil, is called as soon as the pods' network is open, before containerd is started. An error of it
	// is one of Open.
	NetworkOpen func(*podnet.Network) error
	// Edge is where the load balancer listens. Pods may connect to it as to any server; to nothing else on the machine.
	Edge []netip.AddrPort
	// PIDs is how many processes and threads a pod may have. Default: 4096.
	PIDs int64
	// LogMaxBytes is the size at which the next file of a container's log is begun: <name>.log, <name>.1.log and so on.
	// Nobody here removes them. Default: 16 MiB.
	LogMaxBytes int64
	// Images supplies the content of images. Open needs it. Where its files are on Dir's file system they are not copied.
	Images engine.Images
	// PullTimeout bounds the pull of one image. Default: 30 minutes.
	PullTimeout time.Duration
}

// maxStateDir keeps the directory of the shims' sockets, <StateDir>/s, within containerd's limit of 42 characters: the
// name of a Unix socket may have 107, and the shim adds 65.
const maxStateDir = 38

// withDefaults fills in what was left out.
func (c Config) withDefaults() Config {
	id := c.id()
	c.StateDir = cmp.Or(c.StateDir, filepath.Join("/run/trysail", id))
	c.Bridge = cmp.Or(c.Bridge, "trysail"+id[:6])
	c.RuncPath = cmp.Or(c.RuncPath, "runc")
	if len(c.CNIBinDirs) == 0 {
		c.CNIBinDirs = []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni", "/usr/local/lib/cni", "/usr/local/libexec/cni"}
	}
	c.PIDs = cmp.Or(c.PIDs, 4096)
	c.LogMaxBytes = cmp.Or(c.LogMaxBytes, 16<<20)
	c.PullTimeout = cmp.Or(c.PullTimeout, 30*time.Minute)
	return c
}

// Validate reports what is wrong with the configuration, in words for its author.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	for what, dir := range map[string]string{"Dir": c.Dir, "StateDir": c.StateDir} {
		if !filepath.IsAbs(dir) || strings.ContainsAny(dir, "\"\\\n") {
			errs = append(errs, fmt.Errorf("engine: %s %q is not an absolute path", what, dir))
		}
	}
	if len(c.StateDir) > maxStateDir {
		errs = append(errs, fmt.Errorf("engine: StateDir %q is longer than %d characters, so that sockets cannot be made in it", c.StateDir, maxStateDir))
	}
	if len(c.Bridge) > 15 || strings.ContainsAny(c.Bridge, "/ \"\\") {
		errs = append(errs, fmt.Errorf("engine: %q cannot be the name of a network bridge", c.Bridge))
	}
	if c.Subnet.IsValid() && (!c.Subnet.Addr().Is4() || c.Subnet.Bits() < 8 || c.Subnet.Bits() > 24) {
		errs = append(errs, fmt.Errorf("engine: subnet %s is not an IPv4 network of /8 to /24", c.Subnet))
	}
	if c.Subnet6.IsValid() && (!c.Subnet6.Addr().Is6() || c.Subnet6.Bits() > 96) {
		errs = append(errs, fmt.Errorf("engine: subnet %s is not an IPv6 network of /96 or larger", c.Subnet6))
	}
	if c.LogMaxBytes < 4096 {
		errs = append(errs, errors.New("engine: a log file must have room for 4096 bytes"))
	}
	return errors.Join(errs...)
}

// id tells engines on one machine apart. It depends on Dir alone.
func (c Config) id() string {
	sum := sha256.Sum256([]byte(filepath.Clean(c.Dir)))
	return hex.EncodeToString(sum[:4])
}

func (c Config) socket() string          { return filepath.Join(c.StateDir, "c.sock") }
func (c Config) root() string            { return filepath.Join(c.Dir, "data") }
func (c Config) state() string           { return filepath.Join(c.StateDir, "state") }
func (c Config) configFile() string      { return filepath.Join(c.Dir, "containerd.toml") }
func (c Config) daemonLog() string       { return filepath.Join(c.Dir, "containerd.log") }
func (c Config) pidFile() string         { return filepath.Join(c.StateDir, "containerd.pid") }
func (c Config) shimLink() string        { return filepath.Join(c.Dir, "bin", "containerd-shim-runc-v2") }
func (c Config) linkDir() string         { return filepath.Join(c.Dir, "links") }
func (c Config) cniDir() string          { return filepath.Join(c.Dir, "cni") }
func (c Config) leaseDir() string        { return filepath.Join(c.StateDir, "ipam") }
func (c Config) servicesFile() string    { return filepath.Join(c.Dir, "services.json") }
func (c Config) journalFile() string     { return filepath.Join(c.Dir, "journal.json") }
func (c Config) lockFile() string        { return filepath.Join(c.Dir, "lock") }
func (c Config) podDir(id string) string { return filepath.Join(c.StateDir, "pods", id) }

// contentDir is where containerd keeps blobs, each in a file that has the hexadecimal part of its digest as its name.
func (c Config) contentDir() string {
	return filepath.Join(c.root(), "io.containerd.content.v1.content", "blobs", "sha256")
}

// bundles is where containerd and the shims keep one directory per container.
func (c Config) bundles() string {
	return filepath.Join(c.state(), "io.containerd.runtime.v2.task", "k8s.io")
}
