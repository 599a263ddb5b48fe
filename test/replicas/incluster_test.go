//go:build cluster

package replicas

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"sigs.k8s.io/yaml"

	"github.com/trysail/trysail/test/kit"
)

// resources are where the API server keeps the kinds of packaging/kubernetes/servers.
var resources = map[string]string{
	"Namespace":           "/api/v1/namespaces",
	"ServiceAccount":      "/api/v1/namespaces/%s/serviceaccounts",
	"ConfigMap":           "/api/v1/namespaces/%s/configmaps",
	"Secret":              "/api/v1/namespaces/%s/secrets",
	"Service":             "/api/v1/namespaces/%s/services",
	"Deployment":          "/apis/apps/v1/namespaces/%s/deployments",
	"PodDisruptionBudget": "/apis/policy/v1/namespaces/%s/poddisruptionbudgets",
	"RoleBinding":         "/apis/rbac.authorization.k8s.io/v1/namespaces/%s/rolebindings",
	"ClusterRoleBinding":  "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}

type manifest = map[string]any

func (f *fleet) apply(o manifest) {
	f.t.Helper()
	kind, _ := o["kind"].(string)
	meta, _ := o["metadata"].(manifest)
	path := resources[kind]
	if path == "" {
		f.t.Fatalf("a %q is not known here", kind)
	}
	if strings.Contains(path, "%s") {
		path = fmt.Sprintf(path, meta["namespace"])
	}
	body, err := json.Marshal(o)
	if err != nil {
		f.t.Fatal(err)
	}
	f.until(fmt.Sprintf("%s %s is applied", kind, meta["name"]), func() error {
		var answer manifest
		status, err := f.ask(http.MethodPatch, fmt.Sprintf("%s/%s?fieldManager=test&force=true", path, meta["name"]), "application/apply-patch+yaml", string(body), &answer)
		if err == nil && status >= 300 {
			err = fmt.Errorf("status %d", status)
		}
		return err
	})
}

// manifests reads packaging/kubernetes/servers, with namespaces of the test's own.
func (f *fleet) manifests(system string) (list []manifest) {
	f.t.Helper()
	for _, file := range []string{"namespace", "rbac", "settings", "deployment", "service"} {
		text, err := os.ReadFile(filepath.Join(kit.Root(), "packaging/kubernetes/servers", file+".yaml"))
		if err != nil {
			f.t.Fatal(err)
		}
		renamed := strings.NewReplacer("namespace: trysail-system", "namespace: "+system, "name: trysail-system", "name: "+system,
			"namespace: trysail\n", "namespace: "+f.namespace+"\n", "name: trysail-servers", "name: servers-"+f.namespace).Replace(string(text))
		for part := range strings.SplitSeq(renamed, "\n---\n") {
			var o manifest
			if err := yaml.Unmarshal([]byte(part), &o); err != nil {
				f.t.Fatalf("%s: %v", file, err)
			}
			list = append(list, o)
		}
	}
	return list
}

// image pushes an image with the program, where that of a release has it, to the cluster's own registry.
func (f *fleet) image(tag string) string {
	f.t.Helper()
	program, err := kit.Binary()
	if err != nil {
		f.t.Fatal(err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		f.t.Fatal(err)
	}
	img, err := kit.BuildImage(runtime.GOARCH, v1.Config{Labels: map[string]string{"tag": tag}}, map[string]kit.File{"/usr/bin/trysail": {Mode: 0o755, Data: data}})
	if err != nil {
		f.t.Fatal(err)
	}
	at := gateway + ":5000/trysail:" + tag + "-" + f.namespace // nodes remember what a tag was
	ref, err := name.NewTag(at, name.Insecure)
	if err == nil {
		err = remote.Write(ref, img, remote.WithContext(f.t.Context()))
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return at
}

// balancer knows the servers that are ready, as a load balancer does.
type balancer struct {
	mu    sync.Mutex
	addrs []string
}

// follow keeps the list, until ctx ends.
func (b *balancer) follow(ctx context.Context, f *fleet, system string) {
	for ctx.Err() == nil {
		var list struct {
			Items []struct {
				Endpoints []struct {
					Addresses  []string
					Conditions struct{ Ready *bool }
				}
			}
		}
		if status, err := f.ask(http.MethodGet, "/apis/discovery.k8s.io/v1/namespaces/"+system+"/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dtrysail", "", "", &list); err == nil && status == http.StatusOK {
			var addrs []string
			for _, slice := range list.Items {
				for _, e := range slice.Endpoints {
					if e.Conditions.Ready != nil && *e.Conditions.Ready {
						addrs = append(addrs, e.Addresses...)
					}
				}
			}
			slices.Sort(addrs)
			b.mu.Lock()
			b.addrs = addrs
			b.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (b *balancer) ready() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.addrs)
}

// dial connects to one of those that are ready.
func (b *balancer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(addr)
	addrs := b.ready()
	if err != nil || len(addrs) == 0 {
		return nil, errors.Join(err, errors.New("no server is ready"))
	}
	n, err := rand.Int(rand.Reader, big.NewInt(int64(len(addrs))))
	if err != nil {
		return nil, err
	}
	return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, net.JoinHostPort(addrs[n.Int64()], port))
}

// reach lets pods of the cluster use the database.
func (f *fleet) reachDatabase() {
	f.t.Helper()
	hba, err := os.OpenFile(filepath.Join(f.database.Data, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = hba.WriteString("\nhost all all 10.0.0.0/8 trust\n")
		err = errors.Join(err, hba.Close())
	}
	conf, confErr := os.OpenFile(filepath.Join(f.database.Data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if confErr == nil {
		_, confErr = conf.WriteString("\nlisten_addresses='127.0.0.1," + gateway + "'\n")
		confErr = errors.Join(confErr, conf.Close())
	}
	if err := errors.Join(err, confErr, f.database.Stop(), f.database.Run(f.t.Context())); err != nil {
		f.t.Fatal(err)
	}
}

// TestReplicas_InTheCluster: the manifests of packaging/kubernetes/servers make servers that serve; a rolling update and
// draining nodes drop no request.
func TestReplicas_InTheCluster(t *testing.T) {
	f := newFleet(t, 0)
	f.reachDatabase()
	system := f.namespace + "-system"
	defer func() { // whatever happens
		for _, node := range []string{"n1", "n2", "n3"} {
			f.cordon(node, false)
		}
	}()
	t.Cleanup(func() {
		for _, path := range []string{"/api/v1/namespaces/" + system, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/servers-" + f.namespace} {
			req, err := http.NewRequestWithContext(context.Background(), http.MethodDelete, apiServer+path, nil)
			if err == nil {
				var resp *http.Response
				if resp, err = f.admin.Do(req); err == nil {
					resp.Body.Close()
				}
			}
			if err != nil {
				t.Error(err)
			}
		}
	})
	database := fmt.Sprintf("postgres://trysail@%s:%d/trysail?sslmode=disable", gateway, f.database.Port)
	key := make([]byte, 32)
	rand.Read(key)
	registry := fmt.Sprintf("10.79.%d.%d", 100+time.Now().UnixNano()/1000%50, 1+time.Now().UnixNano()/100000%250)
	images := registry + ":4501"
	var deployment manifest
	for _, o := range f.manifests(system) {
		switch spec, _ := o["spec"].(manifest); o["kind"] {
		case "ConfigMap":
			o["data"] = manifest{"TRYSAIL_DOMAIN": "localhost", "TRYSAIL_KUBE_NAMESPACE": f.namespace, "TRYSAIL_KUBE_REGISTRY": images, "TRYSAIL_ACTIVATION_TIMEOUT": "90s"}
		case "Service": // there is nothing that balances load here, and the nodes need an address that is known now
			spec["type"], spec["clusterIP"] = "ClusterIP", registry
			delete(spec, "externalTrafficPolicy")
		case "Deployment":
			f.apply(manifest{"apiVersion": "v1", "kind": "Secret", "metadata": manifest{"name": "trysail", "namespace": system},
				"data": manifest{"seal.key": base64.StdEncoding.EncodeToString(key), "database": base64.StdEncoding.EncodeToString([]byte(database))}})
			pod, _ := spec["template"].(manifest)["spec"].(manifest)
			c, _ := pod["containers"].([]any)[0].(manifest)
			c["image"] = f.image("one")
			// The test cluster's own Service for its API has no endpoints.
			env, _ := c["env"].([]any)
			c["env"] = append(env, manifest{"name": "KUBERNETES_SERVICE_HOST", "value": gateway}, manifest{"name": "KUBERNETES_SERVICE_PORT", "value": "6443"})
			deployment = o
		}
		f.apply(o)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b := &balancer{}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { b.follow(ctx, f, system) })
	f.until("two servers are ready", func() error {
		if n := len(b.ready()); n != 2 {
			return fmt.Errorf("%d are ready: %s", n, f.why(system))
		}
		return nil
	})

	// One more server, outside of the cluster, is where this test has the root and the admin key from, and what the nodes have
	// to trust.
	seal := filepath.Join(t.TempDir(), "seal.key")
	if err := os.WriteFile(seal, key, 0o600); err != nil {
		t.Fatal(err)
	}
	outside := f.add(database, seal)
	defer func() {
		if err := outside.Stop(); err != nil {
			t.Error(err)
		}
		f.servers = nil
	}()
	f.cluster("trust", images, filepath.Join(outside.DataDir, "ca", "root.pem"))
	if _, err := outside.Run(t.Context(), "registry", "set", gateway+":5000", "--plain-http"); err != nil {
		t.Fatal(err)
	}
	if _, err := outside.Run(t.Context(), "create", "web", "--power", "nano", "--scale", "2"); err != nil {
		t.Fatal(err)
	}
	base, err := url.Parse(f.deployFromCluster(outside, "1"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := outside.HTTPClient(false)
	if err != nil {
		t.Fatal(err)
	}
	transport, _ := client.Transport.(*http.Transport)
	transport.DialContext = b.dial
	get := func() error {
		resp, err := client.Get(base.String() + "sleep?d=50ms") //nolint:noctx // the client has a timeout
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	}
	f.until("all edges serve", get)

	t1 := &tally{failed: map[string]int{}}
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				err := get()
				t1.note(time.Since(began), err)
				if ctx.Err() == nil {
					<-time.After(20 * time.Millisecond)
				}
			}
		})
	}
	during := func(what string, do func()) {
		t.Helper()
		t1.reset()
		do()
		sent, failed, refused, slowest, why := t1.read()
		fmt.Printf("%-44s %6d requests, %3d failed, slowest %5d ms\n", what, sent, failed+refused, slowest.Milliseconds())
		if failed+refused > 0 {
			t.Errorf("%s: %d requests failed, %d connections were refused: %s", what, failed, refused, why)
		}
	}
	before := b.ready()
	during("in the cluster: rolling update of Trysail", func() {
		pod, _ := deployment["spec"].(manifest)["template"].(manifest)["spec"].(manifest)
		c, _ := pod["containers"].([]any)[0].(manifest)
		c["image"] = f.image("two")
		f.apply(deployment)
		f.until("both servers are new", func() error {
			now := b.ready()
			for _, addr := range before {
				if slices.Contains(now, addr) {
					return fmt.Errorf("%s still serves", addr)
				}
			}
			if len(now) != 2 {
				return fmt.Errorf("%d are ready: %s", len(now), f.why(system))
			}
			return nil
		})
	})
	during("in the cluster: deployment of a new version", func() { f.deployFromCluster(outside, "2") })
	f.system = system
	during("in the cluster: each node drained in turn", func() {
		for _, node := range []string{"n1", "n2", "n3"} {
			f.drain(node)
			f.until("two servers are ready", func() error {
				if n := len(b.ready()); n < 2 {
					return fmt.Errorf("%d are ready: %s", n, f.why(system))
				}
				return nil
			})
			f.cordon(node, false)
		}
	})
	cancel()
	wg.Wait()
	if _, err := outside.Run(t.Context(), "delete", "web", "--yes", "--wait"); err != nil {
		t.Error(err)
	}
}

// deployFromCluster deploys an image that all servers reach.
func (f *fleet) deployFromCluster(s *kit.Server, version string) string {
	f.t.Helper()
	img, err := kit.Web(f.t.Context(), version)
	if err != nil {
		f.t.Fatal(err)
	}
	at := gateway + ":5000/web:" + version
	ref, err := name.NewTag(at, name.Insecure)
	if err == nil {
		err = remote.Write(ref, img, remote.WithContext(f.t.Context()))
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return f.deployImage(s, at)
}

// why says what keeps the servers' pods.
func (f *fleet) why(system string) string {
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				Phase             string
				Conditions        []struct{ Type, Status, Message string }
				ContainerStatuses []struct {
					State, LastState json.RawMessage
				}
			}
		}
	}
	if _, err := f.ask(http.MethodGet, "/api/v1/namespaces/"+system+"/pods", "", "", &list); err != nil {
		return err.Error()
	}
	text := ""
	for _, p := range list.Items {
		text += fmt.Sprintf("\n%s: %s", p.Metadata.Name, p.Status.Phase)
		for _, c := range p.Status.ContainerStatuses {
			text += fmt.Sprintf(" %s %s", c.State, c.LastState)
		}
		for _, c := range p.Status.Conditions {
			if c.Status != "True" && c.Message != "" {
				text += " " + c.Message
			}
		}
	}
	return text
}
