package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/trysail/trysail/test/kit"
)

const (
	controlSocket = "control.sock"
	lockFile      = "lock"
)

// findTools looks for the programs that scripts/setup.sh cluster has built.
func findTools() (tools, error) {
	cache, err := kit.Cache()
	if err != nil {
		return tools{}, err
	}
	trysail, err := kit.Binary()
	if err != nil {
		return tools{}, err
	}
	t := tools{hyperkube: filepath.Join(cache, "kube", "hyperkube"), etcd: filepath.Join(cache, "kube", "etcd")}
	for _, file := range []string{t.hyperkube, t.etcd} {
		if _, err := os.Stat(file); err != nil {
			return t, fmt.Errorf("run scripts/setup.sh cluster: %w", err)
		}
	}
	// The nodes run a copy: the program may be built anew while they run, and a shim is started from it for each pod.
	data, err := os.ReadFile(trysail)
	if err != nil {
		return t, err
	}
	t.trysail = filepath.Join(cache, "kube", fmt.Sprintf("trysail-%x", sha256.Sum256(data))[:len("trysail-")+12])
	if _, err := os.Stat(t.trysail); err == nil {
		return t, nil
	}
	old, _ := filepath.Glob(filepath.Join(cache, "kube", "trysail-*"))
	for _, file := range old {
		_ = os.Remove(file)
	}
	return t, os.WriteFile(t.trysail, data, 0o755)
}

// up starts a supervisor in the background and waits until the cluster works.
func up(ctx context.Context, nodes int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(place(lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	kubeconfig := place("pki", "admin.kubeconfig")
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if _, err := os.Stat(place(controlSocket)); err != nil {
			return errors.New("a cluster is being started or ended")
		}
		fmt.Println(kubeconfig)
		return nil
	}
	logFile, err := os.OpenFile(place("cluster.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "run", "-nodes", fmt.Sprint(nodes))
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = logFile, logFile, []*os.File{lock} // the lock is held as long as it lives
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := os.WriteFile(place(lockFile), fmt.Append(nil, cmd.Process.Pid), 0o600); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			text, _ := os.ReadFile(logFile.Name())
			return fmt.Errorf("the cluster did not come up (%w):\n%s", err, text)
		case <-ctx.Done():
			return errors.Join(ctx.Err(), cmd.Process.Signal(syscall.SIGTERM))
		case <-time.After(50 * time.Millisecond):
		}
		if _, err := os.Stat(place(controlSocket)); err == nil {
			fmt.Println(kubeconfig)
			return nil
		}
	}
}

// down ends the supervisor, or cleans up after one that was killed.
func down(ctx context.Context) error {
	lock, err := os.OpenFile(place(lockFile), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return errors.Join(clean(), os.RemoveAll(dir))
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	free := func() error { return syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
	if free() != nil {
		text, err := io.ReadAll(lock)
		var pid int
		if _, scanErr := fmt.Sscan(string(text), &pid); err != nil || scanErr != nil {
			return fmt.Errorf("reading %s: %w", lock.Name(), errors.Join(err, scanErr))
		}
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			return err
		}
		if err := kit.Until(ctx, time.Minute, free); err != nil {
			return fmt.Errorf("waiting for the supervisor (process %d): %w", pid, err)
		}
	}
	return errors.Join(clean(), os.RemoveAll(dir))
}

// tell asks the supervisor for something.
func tell(ctx context.Context, what string) error {
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", place(controlSocket))
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://cluster/"+what, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK || err != nil {
		return fmt.Errorf("%s%w", strings.TrimSpace(string(text)), err)
	}
	return nil
}

// apiClient asks the API server as its administrator.
type apiClient struct{ http.Client }

func newAPIClient() (*apiClient, error) {
	pair, err := tls.LoadX509KeyPair(place("pki/admin.crt"), place("pki/admin.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(place("pki/ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &apiClient{http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}},
	}}, nil
}

func (c *apiClient) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, apiServer+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// ready reports whether pods can be run on all nodes.
func (c *apiClient) ready(ctx context.Context, nodes int) error {
	var list struct {
		Items []struct {
			Status struct {
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if err := c.get(ctx, "/api/v1/nodes", &list); err != nil {
		return err
	}
	ready := 0
	for _, n := range list.Items {
		for _, condition := range n.Status.Conditions {
			if condition.Type == "Ready" && condition.Status == "True" {
				ready++
			}
		}
	}
	if ready < nodes {
		return fmt.Errorf("%d of %d nodes are ready", ready, nodes)
	}
	return c.get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
}
