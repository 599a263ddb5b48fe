//go:build cluster

package kube_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	apiruntime "k8s.io/apimachinery/pkg/runtime"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine/kube"
	"github.com/trysail/trysail/internal/image"
)

const (
	root       = "../../.."
	clusterDir = "/var/tmp/trysail-cluster"
	gateway    = "10.77.0.1" // this machine, as the nodes see it
)

// program compiles the program that the tests run in containers, once.
var program = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "trysail-program-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "program")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, "../cri/testdata/program")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the test program: %w\n%s", err, out)
	}
	return os.ReadFile(file)
})

// images are in a registry of this process that the nodes cannot reach: they get them from the engine.
type images struct{ program, user, broken, missing string }

var serveImages = sync.OnceValues(func() (i images, err error) {
	binary, err := program()
	if err != nil {
		return i, err
	}
	s := httptest.NewServer(registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	host := strings.TrimPrefix(s.URL, "http://")
	for _, x := range []struct {
		to         *string
		name, user string
		entrypoint []string
	}{
		{&i.program, "program", "", []string{"/program", "--entry"}},
		{&i.user, "user", "1000:1000", []string{"/program", "--entry"}},
		{&i.broken, "broken", "", []string{"/nope"}},
	} {
		if *x.to, err = push(host+"/test/"+x.name+":1", binary, x.user, x.entrypoint...); err != nil {
			return i, err
		}
	}
	i.missing = host + "/test/missing@sha256:" + strings.Repeat("0", 64)
	return i, nil
})

func push(ref string, binary []byte, user string, entrypoint ...string) (string, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: "program", Mode: 0o755, Size: int64(len(binary)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write(binary)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return "", err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(1))
	if err != nil {
		return "", err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if img, err = mutate.AppendLayers(img, layer); err != nil {
		return "", err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return "", err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = v1.Config{Entrypoint: entrypoint, Cmd: []string{"wait"}, User: user}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return "", err
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		return "", err
	}
	if err := remote.Write(tag, img); err != nil {
		return "", err
	}
	digest, err := img.Digest()
	return tag.Context().Digest(digest.String()).String(), err
}

// rig is an engine in a namespace of its own, and the cluster's administrator.
type rig struct {
	tb     testing.TB
	admin  *rest.RESTClient
	cfg    kube.Config
	engine *kube.Engine
	images images
	pulls  atomic.Pointer[http.Handler]
}

func newRig(tb testing.TB, settings ...func(*kube.Config)) *rig {
	tb.Helper()
	r := &rig{tb: tb, admin: administrator(tb)}
	var err error
	if r.images, err = serveImages(); err != nil {
		tb.Fatal(err)
	}
	namespace := fmt.Sprintf("t%d", time.Now().UnixNano())
	r.cluster("install", namespace)
	resolver := image.New(image.Config{Dir: tb.TempDir()})
	tb.Cleanup(resolver.Close)
	r.cfg = kube.Config{
		Kubeconfig: filepath.Join(clusterDir, "pki/trysail.kubeconfig"), Namespace: namespace, Dir: tb.TempDir(),
		Images: resolver, Registry: r.servePulls(), RoomTime: 2 * time.Second, Resolver: gateway,
		Isolate: true, PodNetwork: netip.MustParsePrefix("10.88.0.0/16"),
	}
	for _, set := range settings {
		set(&r.cfg)
	}
	r.open()
	tb.Cleanup(r.dispose)
	return r
}

func administrator(tb testing.TB) *rest.RESTClient {
	tb.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(clusterDir, "pki/admin.kubeconfig"))
	if err != nil {
		tb.Fatalf("these tests need the cluster that make cluster starts: %v", err)
	}
	scheme := apiruntime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), networkingv1.AddToScheme(scheme)); err != nil {
		tb.Fatal(err)
	}
	config.APIPath, config.GroupVersion, config.NegotiatedSerializer = "/api", &schema.GroupVersion{Version: "v1"}, serializer.NewCodecFactory(scheme).WithoutConversion()
	config.QPS, config.Burst = 100, 200
	admin, err := rest.RESTClientFor(config)
	if err != nil {
		tb.Fatal(err)
	}
	return admin
}

// servePulls serves the engine's images to the nodes, by HTTPS with a certificate that they trust.
func (r *rig) servePulls() (host string) {
	r.tb.Helper()
	l, err := net.Listen("tcp", gateway+":0")
	if err != nil {
		r.tb.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if h := r.pulls.Load(); h != nil {
			(*h).ServeHTTP(w, req)
		}
	}))
	s.Listener.Close()
	s.Listener = l
	s.TLS = certificateFor(r.tb, gateway)
	s.StartTLS()
	r.tb.Cleanup(s.Close)
	host = l.Addr().String()
	ca := filepath.Join(r.tb.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.TLS.Certificates[0].Certificate[0]}), 0o600); err != nil {
		r.tb.Fatal(err)
	}
	r.cluster("trust", host, ca)
	return host
}

// cluster runs a command of test/cluster.
func (r *rig) cluster(args ...string) {
	r.tb.Helper()
	program, err := filepath.Abs(filepath.Join(root, "bin/cluster"))
	if err != nil {
		r.tb.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		r.tb.Fatalf("cluster %v: %v: %s", args, err, out)
	}
}

func (r *rig) open() *kube.Engine {
	r.tb.Helper()
	level := slog.LevelInfo
	e, err := kube.Open(r.tb.Context(), r.cfg, slog.New(slog.NewTextHandler(r.tb.Output(), &slog.HandlerOptions{Level: level})))
	if err != nil {
		r.tb.Fatalf("opening the engine: %v", err)
	}
	h := e.PullHandler()
	r.pulls.Store(&h)
	r.engine = e
	return e
}

func (r *rig) close() {
	r.tb.Helper()
	if err := r.engine.Close(); err != nil {
		r.tb.Errorf("closing the engine: %v", err)
	}
}

func (r *rig) dispose() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	pods, err := r.engine.Pods(ctx)
	if err != nil {
		r.tb.Errorf("listing pods at the end: %v", err)
	}
	for _, p := range pods {
		if _, err := r.engine.Stop(ctx, p.ID, 0); err != nil {
			r.tb.Errorf("stopping %s at the end: %v", p.ID, err)
		}
	}
	r.close()
	if err := r.admin.Delete().AbsPath("/api/v1/namespaces/" + r.cfg.Namespace).Do(ctx).Error(); err != nil {
		r.tb.Errorf("deleting the namespace: %v", err)
	}
}

// podSpec is a pod with containers a, b, … that run the commands.
func (r *rig) podSpec(id trysail.PodID, commands ...string) trysail.PodSpec {
	spec := trysail.PodSpec{
		ID: id, Service: "web", ServiceID: "11111111-2222-3333-4444-555555555555", Version: 1,
		Limits: trysail.Limits{MilliCPU: 250, Memory: 128 << 20}, LogDir: filepath.Join(r.tb.TempDir(), string(id)),
	}
	for i, c := range commands {
		spec.Containers = append(spec.Containers, trysail.ContainerSpec{Name: string(rune('a' + i)), Image: r.images.program, Command: strings.Fields(c)})
	}
	return spec
}

// pod returns the pod, which must be there.
func (r *rig) pod(id trysail.PodID) trysail.Pod {
	r.tb.Helper()
	pods, err := r.engine.Pods(r.tb.Context())
	if err != nil {
		r.tb.Fatalf("Pods: %v", err)
	}
	for _, p := range pods {
		if p.ID == id {
			return p
		}
	}
	r.tb.Fatalf("Pods does not list %s", id)
	return trysail.Pod{}
}

// wait polls until ok.
func (r *rig) wait(what string, ok func() bool) {
	r.tb.Helper()
	end := time.Now().Add(2 * time.Minute)
	for !ok() {
		if time.Now().After(end) {
			r.tb.Fatalf("waited two minutes in vain: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
