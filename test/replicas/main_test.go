//go:build cluster

// Package replicas runs several servers of Trysail with one PostgreSQL on the cluster that make cluster starts, breaks what
// can break while requests come in through all of their edges, and counts those that fail.
package replicas

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/trysail/trysail/test/kit"
	"github.com/trysail/trysail/test/postgres"
)

const (
	clusterDir = "/var/tmp/trysail-cluster"
	gateway    = "10.77.0.1" // this machine, as the nodes see it
	apiServer  = "https://" + gateway + ":6443"
)

// fleet is several servers with one state, in a namespace of their own.
type fleet struct {
	t         *testing.T
	database  *postgres.Server
	registry  *kit.Registry
	namespace string
	system    string // namespace of the servers, if they are in the cluster
	servers   []*kit.Server
	admin     *http.Client
}

func newFleet(t *testing.T, count int) *fleet {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("these tests need root")
	}
	f := &fleet{t: t, namespace: fmt.Sprintf("replicas-%d", time.Now().UnixNano())}
	f.admin = administrator(t)
	var err error
	if f.database, err = postgres.Start(context.Background(), "fsync=off"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.database.Close() })
	url, err := f.database.NewDatabase(t.Context(), "trysail")
	if err != nil {
		t.Fatal(err)
	}
	if f.registry, err = kit.StartRegistry(t.Context(), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.registry.Close() })
	for _, version := range []string{"1", "2"} {
		img, err := kit.Web(t.Context(), version)
		if err == nil {
			_, err = f.registry.Push(t.Context(), "web:"+version, img)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	f.cluster("install", f.namespace)
	t.Cleanup(func() { f.cluster("remove", f.namespace) })
	key := filepath.Join(t.TempDir(), "seal.key")
	for range count {
		f.add(url, key)
	}
	t.Cleanup(f.end)
	return f
}

// add starts one more server.
func (f *fleet) add(database, key string) *kit.Server {
	f.t.Helper()
	port, err := kit.FreeAddr()
	if err != nil {
		f.t.Fatal(err)
	}
	images := gateway + port[strings.LastIndexByte(port, ':'):]
	api, err := kit.FreeAddr()
	if err != nil {
		f.t.Fatal(err)
	}
	s, err := kit.NewServer(kit.ServerOptions{API: api, Flags: []string{
		"--database", database, "--seal-key-file", key, "--advertise", api,
		"--engine", "kubernetes", "--kubeconfig", clusterDir + "/pki/trysail.kubeconfig", "--kube-namespace", f.namespace, "--kube-listen", images,
		"--activation-timeout", "90s", "--drain-timeout", "10s",
	}})
	if err != nil {
		f.t.Fatal(err)
	}
	if err := s.Start(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	f.servers = append(f.servers, s)
	f.cluster("trust", images, filepath.Join(s.DataDir, "ca", "root.pem"))
	return s
}

// end stops all servers, and shows what they have logged if the test has failed.
func (f *fleet) end() {
	for i, s := range f.servers {
		if f.t.Failed() {
			kept, _ := s.KeepLogs()
			f.t.Logf("the log of server %d is kept in %s", i, kept)
		}
		if err := s.Stop(); err != nil {
			f.t.Errorf("server %d: %v", i, err)
		}
		_ = os.RemoveAll(filepath.Dir(s.DataDir))
	}
}

// cluster runs a command of test/cluster.
func (f *fleet) cluster(args ...string) {
	f.t.Helper()
	cmd := exec.Command(filepath.Join(kit.Root(), "bin", "cluster"), args...)
	cmd.Dir = kit.Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		f.t.Errorf("cluster %v (has make cluster been run?): %v: %s", args, err, out)
	}
}

// leader is the number of the server that leads.
func (f *fleet) leader() int {
	f.t.Helper()
	number := -1
	f.until("somebody leads", func() error {
		out, err := f.database.SQL(f.t.Context(), "trysail", "SELECT address FROM servers WHERE epoch = (SELECT epoch FROM trysail_lease WHERE expires_at > clock_timestamp())")
		if err != nil {
			return err
		}
		for i, s := range f.servers {
			if s.API == strings.TrimSpace(out) {
				number = i
				return nil
			}
		}
		return fmt.Errorf("%q leads", out)
	})
	return number
}

// others counts the servers that the database knows.
func (f *fleet) known() (n int) {
	out, err := f.database.SQL(f.t.Context(), "trysail", "SELECT COUNT(*) FROM servers")
	if err == nil {
		_, _ = fmt.Sscan(out, &n)
	}
	return n
}

func (f *fleet) until(what string, ok func() error) {
	f.t.Helper()
	if err := kit.Until(f.t.Context(), 3*time.Minute, ok); err != nil {
		f.t.Fatalf("waiting until %s: %v", what, err)
	}
}

func administrator(t *testing.T) *http.Client {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(clusterDir+"/pki/admin.crt", clusterDir+"/pki/admin.key")
	if err != nil {
		t.Fatalf("these tests need the cluster that make cluster starts: %v", err)
	}
	ca, err := os.ReadFile(clusterDir + "/pki/ca.crt")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}}}
}

// ask asks the API server of the cluster.
func (f *fleet) ask(method, path, kind string, body string, into any) (status int, err error) {
	req, err := http.NewRequestWithContext(f.t.Context(), method, apiServer+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", kind)
	resp, err := f.admin.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && into != nil && resp.StatusCode < 300 {
		err = json.Unmarshal(text, into)
	}
	return resp.StatusCode, err
}

// podsOn lists the pods of ours on a node, all of ours for "".
func (f *fleet) podsOn(node string) (names []string, err error) {
	return f.podsIn(f.namespace, "app.kubernetes.io/managed-by%3Dtrysail", node)
}

// podsIn lists the pods with a label in a namespace and on a node.
func (f *fleet) podsIn(namespace, label, node string) (names []string, err error) {
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ NodeName string }
		}
	}
	status, err := f.ask(http.MethodGet, "/api/v1/namespaces/"+namespace+"/pods?labelSelector="+label, "", "", &list)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("listing pods: %d", status)
	}
	for _, p := range list.Items {
		if node == "" || p.Spec.NodeName == node {
			names = append(names, p.Metadata.Name)
		}
	}
	return names, err
}

func (f *fleet) cordon(node string, yes bool) {
	f.t.Helper()
	f.until("the node is marked", func() error {
		status, err := f.ask(http.MethodPatch, "/api/v1/nodes/"+node, "application/merge-patch+json", fmt.Sprintf(`{"spec":{"unschedulable":%v}}`, yes), nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		return err
	})
}

// drain empties a node as kubectl drain does: it takes no new pods, and those that it has are evicted, again and again.
func (f *fleet) drain(node string) (moved int) {
	f.t.Helper()
	f.cordon(node, true)
	first, err := f.podsOn(node)
	if err != nil {
		f.t.Fatal(err)
	}
	f.until("the node is empty", func() error {
		err := f.evict(f.namespace, "app.kubernetes.io/managed-by%3Dtrysail", node)
		if f.system != "" {
			err = errors.Join(err, f.evict(f.system, "app.kubernetes.io/component%3Dserver", node))
		}
		return err
	})
	return len(first)
}

// evict asks the pods of a namespace to leave a node. It is an error that there are some.
func (f *fleet) evict(namespace, label, node string) error {
	pods, err := f.podsIn(namespace, label, node)
	for _, name := range pods {
		body := fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":%q,"namespace":%q}}`, name, namespace)
		_, failed := f.ask(http.MethodPost, "/api/v1/namespaces/"+namespace+"/pods/"+name+"/eviction", "application/json", body, nil)
		err = errors.Join(err, failed)
	}
	if err == nil && len(pods) > 0 {
		err = fmt.Errorf("there are pods %v", pods)
	}
	return err
}

// ready waits until all nodes take pods.
func (f *fleet) ready() {
	f.t.Helper()
	f.until("all nodes are ready", func() error {
		var list struct {
			Items []struct {
				Metadata struct{ Name string }
				Spec     struct{ Taints []struct{ Key string } }
			}
		}
		if _, err := f.ask(http.MethodGet, "/api/v1/nodes", "", "", &list); err != nil {
			return err
		}
		for _, n := range list.Items {
			if len(n.Spec.Taints) > 0 {
				return fmt.Errorf("node %s has taints %v", n.Metadata.Name, n.Spec.Taints)
			}
		}
		return nil
	})
}
