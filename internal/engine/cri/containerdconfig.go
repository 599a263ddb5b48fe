package cri

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/trysail/trysail/internal/engine/podnet"
)

// daemonConfig is containerd's configuration. Every path is given: a default would share state with another containerd
// on the machine.
func daemonConfig(c Config, h host) string {
	q := strconv.Quote
	return fmt.Sprintf(`version = 4
root = %s
state = %s
required_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.%s"]
imports = []
oom_score = 0

[plugins."io.containerd.server.v1.grpc"]
  address = %s
[plugins."io.containerd.server.v1.ttrpc"]
  address = %s
[plugins."io.containerd.shim.v1.manager"]
  socket_dir = %s
[plugins."io.containerd.internal.v1.opt"]
  path = %s

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "%s"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = %s

[plugins."io.containerd.grpc.v1.cri"]
  disable_tcp_service = true

[plugins."io.containerd.cri.v1.runtime"]
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = %v
  # As with Docker, a program that is not root may listen on port 80 of its own pod, and ping.
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  enable_criu = false
  # Without this CRI would leave it to us to mask /proc/kcore and the like, and to make /proc/sys read-only.
  disable_proc_mount = true
  cdi_spec_dirs = []
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [%s]
    conf_dir = %s
    use_internal_loopback = true
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      runtime_path = %s
      # The shim learns from them where a container's output goes.
      container_annotations = ["trysail.*"]
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = %s
        Root = %s
`,
		q(c.root()), q(c.state()), h.snapshotter,
		q(c.socket()), q(c.socket()+".ttrpc"), q(filepath.Join(c.StateDir, "s")), q(filepath.Join(c.Dir, "opt")),
		h.snapshotter, q(pauseImage),
		h.restrictOOMScore,
		q(h.cniBinDir), q(c.cniDir()),
		q(c.shimLink()), q(h.runc), q(filepath.Join(c.state(), "runc")),
	)
}

// networkConfig is the CNI configuration of the pods' network. It does no masquerading: one rule for the whole subnet
// does that, where a rule per pod would make each pod start slower.
func networkConfig(c Config, network podnet.Config) ([]byte, error) {
	return json.MarshalIndent(map[string]any{
		"cniVersion": "1.0.0",
		"name":       "trysail",
		"plugins": []any{map[string]any{
			"type": "bridge", "bridge": c.Bridge, "isGateway": true, "forceAddress": true, "ipMasq": false, "hairpinMode": true, "promiscMode": false,
			"ipam": map[string]any{
				"type": "host-local", "dataDir": c.leaseDir(),
				"ranges": []any{[]any{map[string]string{"subnet": network.Subnet.String(), "rangeEnd": network.LastPod().String()}}},
				"routes": []any{map[string]string{"dst": "0.0.0.0/0"}},
			},
		}},
	}, "", "  ")
}

// writeConfig makes the directories and files that containerd needs.
func writeConfig(c Config, h host, network podnet.Config) error {
	for _, dir := range []string{filepath.Dir(c.shimLink()), c.cniDir(), filepath.Join(c.Dir, "opt"), filepath.Join(c.StateDir, "s"), c.leaseDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := linkShim(c); err != nil {
		return err
	}
	plugins, err := networkConfig(c, network)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(c.cniDir(), "10-trysail.conflist"), plugins); err != nil {
		return err
	}
	return writeFile(c.configFile(), []byte(daemonConfig(c, h)))
}

// linkShim makes the name under which containerd starts the shim. Containerd notes it for each container and uses it
// again to clean up, perhaps long after, so the name stays and only what it points to changes.
func linkShim(c Config) error {
	if old, err := os.Readlink(c.shimLink()); err == nil && old == c.Executable {
		return nil
	}
	next := c.shimLink() + ".new"
	if err := os.Remove(next); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Symlink(c.Executable, next); err != nil {
		return err
	}
	return os.Rename(next, c.shimLink())
}

// writeFile replaces a file so that after a crash either the old or the new content is there, whole.
func writeFile(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
