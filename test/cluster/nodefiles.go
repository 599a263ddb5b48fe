package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const containerdConfig = `version = 3
root = "HOME/root"
state = "/run/containerd-state"
required_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.overlayfs"]
imports = []
oom_score = 0
[grpc]
  address = "HOME/c.sock"
[ttrpc]
  address = "HOME/c.sock.ttrpc"
[plugins."io.containerd.shim.v1.manager"]
  socket_dir = "/run/cs"
[plugins."io.containerd.internal.v1.opt"]
  path = "HOME/opt"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "REGISTRY/pause:1"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "CERTS"
[plugins."io.containerd.grpc.v1.cri"]
  disable_tcp_service = false
  stream_server_address = "127.0.0.1"
[plugins."io.containerd.cri.v1.runtime"]
  netns_mounts_under_state_dir = true
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  restrict_oom_score_adj = true
  enable_criu = false
  cdi_spec_dirs = []
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
    conf_dir = "HOME/cni"
    use_internal_loopback = true
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      runtime_path = "HOME/bin/containerd-shim-runc-v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        Root = "/run/runc"
`

const cniConfig = `{"cniVersion":"1.0.0","name":"pods","plugins":[
 {"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":false,"hairpinMode":true,
  "ipam":{"type":"host-local","dataDir":"/run/ipam","ranges":[[{"subnet":"CIDR"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}
`

// kubeletConfig turns off what needs a machine of its own (evictions by a disk that others fill, kernel settings) and
// makes the node report often, so that its loss is seen soon.
const kubeletConfig = `kind: KubeletConfiguration
apiVersion: kubelet.config.k8s.io/v1beta1
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: GROUP
containerRuntimeEndpoint: unix://HOME/c.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: PKI/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: PKI/NODE.crt
tlsPrivateKeyFile: PKI/NODE.key
failSwapOn: false
oomScoreAdj: 0
maxOpenFiles: 20000
makeIPTablesUtilChains: false
localStorageCapacityIsolation: false
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
nodeStatusUpdateFrequency: 1s
nodeLeaseDurationSeconds: 4
serializeImagePulls: false
registryPullQPS: 0
registryBurst: 0
eventRecordQPS: 0
kubeAPIQPS: 100
kubeAPIBurst: 200
volumePluginDir: HOME/volumeplugins
featureGates: {PodLogsQuerySplitStreams: true}
`

// proxyConfig makes the addresses of services work within the node's network alone.
const proxyConfig = `kind: KubeProxyConfiguration
apiVersion: kubeproxy.config.k8s.io/v1alpha1
mode: nftables
clientConnection: {kubeconfig: PKI/proxy.kubeconfig}
clusterCIDR: 10.88.0.0/16
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0}
nftables: {minSyncPeriod: 100ms, syncPeriod: 30s}
`

// nodeFiles writes the configuration of a node.
func nodeFiles(n int, trysail string) error {
	home := place(nodeName(n))
	fill := strings.NewReplacer("HOME", home, "REGISTRY", registry, "CERTS", place("certs.d"), "CIDR", podCIDR(n), "PKI", place("pki"), "GROUP", nodeGroup(n), "NODE", nodeName(n))
	shim := filepath.Join(home, "bin/containerd-shim-runc-v2")
	errs := []error{
		writeFile(home+"/containerd.toml", fill.Replace(containerdConfig)),
		writeFile(home+"/cni/10-pods.conflist", fill.Replace(cniConfig)),
		writeFile(home+"/kubelet.yaml", fill.Replace(kubeletConfig)),
		writeFile(home+"/proxy.yaml", fill.Replace(proxyConfig)),
		os.MkdirAll(filepath.Dir(shim), 0o755),
	}
	for _, old := range []string{shim, filepath.Join(home, "c.sock"), filepath.Join(home, "c.sock.ttrpc")} {
		if err := os.Remove(old); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, os.Symlink(trysail, shim), makeGroups(n))...)
}

// trust lets the nodes pull from a registry by HTTPS. Containerd reads the file with every pull.
func trust(host, ca string) error {
	text, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	at := place("certs.d", host)
	return errors.Join(
		writeFile(filepath.Join(at, "ca.crt"), string(text)),
		writeFile(filepath.Join(at, "hosts.toml"), fmt.Sprintf("server = \"https://%s\"\nca = \"%s\"\n", host, filepath.Join(at, "ca.crt"))),
	)
}

// hierarchies are the folders of control groups in which nodes have a group: one on version 2, one for each controller on
// version 1.
func hierarchies() ([]string, error) {
	const root = "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err == nil {
		return []string{root}, nil
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, e := range entries {
		if e.IsDir() {
			list = append(list, filepath.Join(root, e.Name()))
		}
	}
	return list, nil
}

// makeGroups makes the control groups below which everything of a node runs.
func makeGroups(n int) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range all {
		group := h
		for name := range strings.SplitSeq(strings.Trim(nodeGroup(n), "/"), "/") {
			parent := group
			group = filepath.Join(group, name)
			if controllers, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers")); err == nil {
				enable := "+" + strings.Join(strings.Fields(string(controllers)), " +")
				errs = append(errs, os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte(enable), 0))
			}
			errs = append(errs, os.MkdirAll(group, 0o755))
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // on version 1 they begin empty
				if value, err := os.ReadFile(filepath.Join(parent, file)); err == nil {
					errs = append(errs, os.WriteFile(filepath.Join(group, file), value, 0))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// removeGroups removes the groups of all nodes, whose processes have ended.
func removeGroups() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range all {
		var groupsOf []string
		_ = filepath.WalkDir(filepath.Join(h, groups), func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				groupsOf = append(groupsOf, path)
			}
			return nil
		})
		for _, g := range slices.Backward(groupsOf) {
			err := syscall.Rmdir(g)
			for try := 0; err != nil && !errors.Is(err, fs.ErrNotExist) && try < 300; try++ { // the last process may still be ending
				time.Sleep(10 * time.Millisecond)
				err = syscall.Rmdir(g)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("removing %s: %w", g, err))
			}
		}
	}
	return errors.Join(errs...)
}
