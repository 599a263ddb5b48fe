package kit

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
)

// EngineVariable names the environment variable that makes all servers run their pods in the cluster that make cluster has
// started: kubernetes.
const EngineVariable = "TRYSAIL_TEST_ENGINE"

// EdgeEngineVariable names the edge's engine that the servers of the tests use; without it, the default one.
const EdgeEngineVariable = "TRYSAIL_TEST_EDGE_ENGINE"

// testKubeconfig is the test cluster's, for a user who may do what packaging/kubernetes grants.
const testKubeconfig = "/var/tmp/trysail-cluster/pki/trysail.kubeconfig"

// podNetwork is what the pods of the test cluster have their addresses from.
const podNetwork = "10.88.0.0/16"

// inCluster is a server's part of the test cluster.
type inCluster struct {
	namespace string
	// address is one of this machine's, for the server alone: its name server must have port 53.
	address string
	images  string // host:port
}

// joinCluster makes a namespace and an address for the server and sets its flags.
func (s *Server) joinCluster() error {
	number := rand.IntN(250 * 250)
	c := &inCluster{namespace: fmt.Sprintf("e2e-%d-%d", os.Getpid(), number), address: fmt.Sprintf("10.78.%d.%d", number/250, 1+number%250)}
	if err := clusterCommand("install", c.namespace); err != nil {
		return err
	}
	s.cluster = c
	if out, err := exec.Command("ip", "addr", "add", c.address+"/32", "dev", "lo").CombinedOutput(); err != nil {
		return fmt.Errorf("adding address %s: %w: %s", c.address, err, out)
	}
	c.images = net.JoinHostPort(c.address, "4501")
	s.flags = append([]string{
		"--engine", "kubernetes", "--kubeconfig", testKubeconfig, "--kube-namespace", c.namespace, "--kube-listen", c.images,
		"--kube-dns", c.address, "--subnet", podNetwork,
	}, s.flags...)
	return nil
}

// trustServer lets the cluster's nodes fetch images from the server.
func (s *Server) trustServer() error {
	if s.cluster == nil {
		return nil
	}
	return clusterCommand("trust", s.cluster.images, filepath.Join(s.DataDir, "ca", "root.pem"))
}

// leaveCluster removes what joinCluster has made.
func (s *Server) leaveCluster() error {
	if s.cluster == nil {
		return nil
	}
	var err error
	if out, failed := exec.Command("ip", "addr", "del", s.cluster.address+"/32", "dev", "lo").CombinedOutput(); failed != nil {
		err = fmt.Errorf("removing address %s: %w: %s", s.cluster.address, failed, out)
	}
	err = errors.Join(err, clusterCommand("remove", s.cluster.namespace))
	s.cluster = nil
	return err
}

// LeaveCluster removes what the server has in the test cluster, if it is there: of one that is never removed otherwise.
func (s *Server) LeaveCluster() error { return s.leaveCluster() }

// InCluster reports whether the server's pods run in the test cluster.
func (s *Server) InCluster() bool { return s.cluster != nil }

// KillAPIServer kills the API server of the test cluster with SIGKILL, and starts it again.
func (s *Server) KillAPIServer() error { return clusterCommand("restart-api") }

func clusterCommand(args ...string) error {
	cmd := exec.Command(filepath.Join(Root(), "bin", "cluster"), args...)
	cmd.Dir = Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cluster %v (has make cluster been run?): %w: %s", args, err, out)
	}
	return nil
}
