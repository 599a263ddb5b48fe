package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	imageregistry "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/trysail/trysail/test/kit"
)

// supervisor runs everything. All of its children die with it, however it dies.
type supervisor struct {
	tools tools
	nodes []*child // by number - 1
	count int
	api   *child
	other []*child
	forks chan func()
}

type child struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
}

func (c *child) kill() {
	if c != nil {
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}

// supervise brings the cluster up and runs it until ctx ends.
func supervise(ctx context.Context, nodes int) (err error) {
	s := &supervisor{count: nodes, nodes: make([]*child, nodes), forks: make(chan func())}
	if s.tools, err = findTools(); err != nil {
		return err
	}
	syscall.CloseOnExec(3) // the lock: it is this process's alone
	// The signal that children get when their parent dies belongs to the thread that forked: this one forks all of them.
	forking := make(chan struct{})
	go func() {
		defer close(forking)
		runtime.LockOSThread()
		for do := range s.forks {
			do()
		}
	}()
	defer func() {
		s.end()
		close(s.forks)
		<-forking
		err = errors.Join(err, clean())
	}()
	if err := errors.Join(clean(), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	if err := s.network(); err != nil {
		return err
	}
	if err := makePKI(nodes); err != nil {
		return err
	}
	stopImages, err := serveImages(ctx)
	if err != nil {
		return err
	}
	defer stopImages()
	if err := s.start(ctx); err != nil {
		return err
	}
	return s.obey(ctx)
}

// network makes the bridge that connects the nodes with each other and with this machine.
func (s *supervisor) network() error {
	return shell(`ip link add %[1]s address %[2]s type bridge
ip addr add %[3]s/24 dev %[1]s
ip link set %[1]s up
iptables -I FORWARD -i %[1]s -o %[1]s -m comment --comment %[4]s -j ACCEPT`, bridge, bridgeMAC, gateway, comment)
}

// serveImages serves the one image that every pod needs.
func serveImages(ctx context.Context) (stop func(), err error) {
	image, err := kit.Pause(ctx)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", registry)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: imageregistry.New(imageregistry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	stop = func() { _ = server.Close() }
	tag, err := name.NewTag(registry+"/pause:1", name.Insecure)
	if err == nil {
		err = remote.Write(tag, image)
	}
	if err == nil {
		err = writeFile(place("certs.d", registry, "hosts.toml"), fmt.Sprintf("server = \"http://%[1]s\"\n[host.\"http://%[1]s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", registry))
	}
	if err != nil {
		stop()
	}
	return stop, err
}

// spawn starts a child from the thread that forks.
func (s *supervisor) spawn(name, logFile string, cmd *exec.Cmd, flags uintptr) (*child, error) {
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true, Cloneflags: flags}
	started := make(chan error)
	s.forks <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	c := &child{name, cmd, make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		slog.Info("ended", "program", name, "state", cmd.ProcessState)
		close(c.done)
	}()
	return c, nil
}

func (s *supervisor) program(name string, cmd *exec.Cmd) (*child, error) {
	c, err := s.spawn(name, place(name+".log"), cmd, 0)
	if err == nil {
		s.other = append(s.other, c)
	}
	return c, err
}

// start brings everything up. The controllers come after the API server: they would wait long for a permission that
// is not there yet.
func (s *supervisor) start(ctx context.Context) error {
	if _, err := s.program("etcd", exec.Command(s.tools.etcd, "--name=e", "--data-dir="+place("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls="+etcdURL, "--advertise-client-urls="+etcdURL, "--listen-peer-urls="+etcdPeer,
		"--initial-advertise-peer-urls="+etcdPeer, "--initial-cluster=e="+etcdPeer, "--log-level=warn")); err != nil {
		return err
	}
	if err := s.startAPI(); err != nil {
		return err
	}
	for n := 1; n <= s.count; n++ {
		if err := s.startNode(n); err != nil {
			return err
		}
	}
	api, err := newAPIClient()
	if err != nil {
		return err
	}
	if err := kit.Until(ctx, time.Minute, func() error { return api.get(ctx, "/readyz", nil) }); err != nil {
		return fmt.Errorf("waiting for the API server: %w", err)
	}
	pki := place("pki") + "/"
	_, err = s.program("kube-controller-manager", exec.Command(s.tools.hyperkube, "kube-controller-manager", "--kubeconfig="+pki+"controllers.kubeconfig",
		"--leader-elect=false", "--bind-address=127.0.0.1", "--use-service-account-credentials=true", "--service-account-private-key-file="+pki+"sa.key",
		"--root-ca-file="+pki+"ca.crt", "--allocate-node-cidrs=false", "--node-monitor-period=1s", "--node-monitor-grace-period="+lossAfter,
		"--node-startup-grace-period=20s", "--node-eviction-rate=10", "--profiling=false", "--kube-api-qps=2000", "--kube-api-burst=4000"))
	if err != nil {
		return err
	}
	_, err = s.program("kube-scheduler", exec.Command(s.tools.hyperkube, "kube-scheduler", "--kubeconfig="+pki+"scheduler.kubeconfig",
		"--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false", "--kube-api-qps=2000", "--kube-api-burst=4000"))
	if err != nil {
		return err
	}
	if err := kit.Until(ctx, time.Minute, func() error { return api.ready(ctx, s.count) }); err != nil {
		return fmt.Errorf("waiting for the nodes: %w", err)
	}
	return nil
}

// lossAfter is how long a node is silent before it counts as lost: short, so that tests see it, and long enough for a
// machine that is busy for some seconds.
const lossAfter = "12s"

func (s *supervisor) startAPI() (err error) {
	pki := place("pki") + "/"
	s.api, err = s.spawn("kube-apiserver", place("kube-apiserver.log"), exec.Command(s.tools.hyperkube, "kube-apiserver",
		"--etcd-servers="+etcdURL, "--bind-address="+gateway, "--advertise-address="+gateway, "--secure-port=6443",
		"--service-cluster-ip-range="+services, "--client-ca-file="+pki+"ca.crt", "--tls-cert-file="+pki+"apiserver.crt",
		"--tls-private-key-file="+pki+"apiserver.key", "--service-account-key-file="+pki+"sa.pub", "--service-account-signing-key-file="+pki+"sa.key",
		"--service-account-issuer=https://kubernetes.default.svc", "--kubelet-client-certificate="+pki+"admin.crt",
		"--kubelet-client-key="+pki+"admin.key", "--kubelet-certificate-authority="+pki+"ca.crt", "--kubelet-preferred-address-types=InternalIP",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--default-not-ready-toleration-seconds=5", "--default-unreachable-toleration-seconds=5", "--endpoint-reconciler-type=none",
		"--feature-gates=PodLogsQuerySplitStreams=true", "--profiling=false"), 0)
	return err
}

// startNode starts a node, for the first time or again.
func (s *supervisor) startNode(n int) error {
	if err := nodeFiles(n, s.tools.trysail); err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", "node", fmt.Sprint(n), s.tools.trysail, s.tools.hyperkube)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	const namespaces = syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC
	c, err := s.spawn(nodeName(n), place(nodeName(n), "node.log"), cmd, namespaces)
	if err != nil {
		return err
	}
	s.nodes[n-1] = c
	var routes strings.Builder
	for other := 1; other <= maxNodes; other++ {
		if other != n {
			fmt.Fprintf(&routes, "ip route add %s via %s; ", podCIDR(other), nodeIP(other))
		}
	}
	err = shell(`ip link add %[1]s type veth peer name eth0 address %[2]s netns %[3]d
ip link set %[1]s master %[4]s up
nsenter -t %[3]d -n sh -ec 'ip link set lo up; ip addr add %[5]s/24 dev eth0; ip link set eth0 up; ip route add default via %[6]s; %[7]s'
ip route replace %[8]s via %[5]s`, nodeLink(n), nodeMAC(n), cmd.Process.Pid, bridge, nodeIP(n), gateway, routes.String(), podCIDR(n))
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdin, "go\n")
	return err
}

// end kills all children.
func (s *supervisor) end() {
	for _, c := range append(append(s.other, s.api), s.nodes...) {
		if c != nil {
			_ = c.cmd.Process.Kill()
		}
	}
	for _, c := range append(append(s.other, s.api), s.nodes...) {
		c.kill()
	}
}

// obey does what the other commands ask for, until ctx ends.
func (s *supervisor) obey(ctx context.Context) error {
	l, err := net.Listen("unix", place(controlSocket))
	if err != nil {
		return err
	}
	work := make(chan func())
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{command}/{node}", func(w http.ResponseWriter, r *http.Request) {
		var n int
		_, _ = fmt.Sscan(r.PathValue("node"), &n)
		done := make(chan error, 1)
		work <- func() { done <- s.do(r.PathValue("command"), n) }
		if err := <-done; err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case do := <-work:
			do()
		}
	}
}

func (s *supervisor) do(command string, n int) error {
	if command == "restart-api" {
		s.api.kill()
		return s.startAPI()
	}
	if n < 1 || n > s.count {
		return fmt.Errorf("there is no node %d", n)
	}
	switch node := s.nodes[n-1]; command {
	case "kill":
		node.kill()
		return nil
	case "start":
		select {
		case <-node.done:
		default:
			return fmt.Errorf("node %d runs", n)
		}
		return s.startNode(n)
	case "cut":
		return shell("ip link set %s down", nodeLink(n))
	case "heal":
		return shell("ip link set %s up", nodeLink(n))
	}
	return fmt.Errorf("no such command: %s", command)
}

// clean removes what an earlier cluster has left, whose processes have ended: also one that was killed.
func clean() error {
	_ = shell("ip link del %s", bridge)
	for n := 1; n <= maxNodes; n++ {
		_ = shell("ip link del %s", nodeLink(n))
		_ = shell("ip route del %s", podCIDR(n))
	}
	for shell("iptables -D FORWARD -i %[1]s -o %[1]s -m comment --comment %[2]s -j ACCEPT", bridge, comment) == nil {
	}
	return errors.Join(removeGroups(), removeState())
}

// removeState empties the directory but for the logs of the programs, which tell what was wrong.
func removeState() error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".log") && e.Name() != lockFile {
			errs = append(errs, os.RemoveAll(place(e.Name())))
		}
	}
	return errors.Join(errs...)
}
