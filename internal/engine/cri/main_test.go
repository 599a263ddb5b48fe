package cri_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
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

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine/containerd"
	"github.com/trysail/trysail/internal/engine/cri"
	"github.com/trysail/trysail/internal/image"
)

// TestMain lets the test binary be containerd and the shim too, as the real binary is.
func TestMain(m *testing.M) {
	switch containerd.RoleOf(os.Args) {
	case containerd.RoleDaemon:
		if err := containerd.RunDaemon(context.Background(), os.Args); err != nil {
			fmt.Fprintln(os.Stderr, "containerd:", err)
			os.Exit(1)
		}
		os.Exit(0)
	case containerd.RoleShim:
		containerd.RunShim(context.Background())
		os.Exit(0)
	case containerd.RoleNone:
	}
	if dirs := os.Getenv(helperEnv); dirs != "" {
		if err := runHelper(dirs); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// programEnv names a file that holds the program that the tests run in containers, for machines without Go.
const programEnv = "TRYSAIL_TEST_PROGRAM"

// program compiles that program, once.
var program = sync.OnceValues(func() ([]byte, error) {
	if file := os.Getenv(programEnv); file != "" {
		return os.ReadFile(file)
	}
	dir, err := os.MkdirTemp("", "trysail-program-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "program")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, "./testdata/program")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the test program: %w\n%s", err, out)
	}
	return os.ReadFile(file)
})

// images are what the tests pull, from a registry in this process.
type images struct {
	host    string
	program string // by digest, as all
	broken  string
	missing string
	nouser  string // its user is not in its /etc/passwd
}

// serveImages starts the registry. It ends with the test.
func serveImages(tb testing.TB) images {
	tb.Helper()
	binary, err := program()
	if err != nil {
		tb.Fatal(err)
	}
	s := httptest.NewServer(registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	tb.Cleanup(s.Close)
	i := images{host: strings.TrimPrefix(s.URL, "http://")}
	i.program = push(tb, i.host+"/test/program:1", makeImage(tb, binary, "/program", "--entry"))
	i.broken = push(tb, i.host+"/test/broken:1", makeImage(tb, binary, "/nope"))
	i.nouser = push(tb, i.host+"/test/nouser:1", withUser(tb, makeImage(tb, binary, "/program", "--entry"), "nobody-knows"))
	i.missing = i.host + "/test/missing@sha256:" + strings.Repeat("0", 64)
	return i
}

func makeImage(tb testing.TB, binary []byte, entrypoint ...string) v1.Image {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	files := []struct {
		name string
		dir  bool
		data []byte
	}{{name: "program", data: binary}, {name: "tmp", dir: true}, {name: "etc", dir: true}, {name: "etc/passwd", data: []byte("root:x:0:0::/:\nuser:x:1000:1000::/:\n")}}
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o755, Size: int64(len(f.data)), Typeflag: tar.TypeReg}
		if f.dir {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(1))
	if err != nil {
		tb.Fatal(err)
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if image, err = mutate.AppendLayers(image, layer); err != nil {
		tb.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		tb.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint, config.Config.Cmd = entrypoint, []string{"wait"}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		tb.Fatal(err)
	}
	return image
}

func withUser(tb testing.TB, image v1.Image, user string) v1.Image {
	tb.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		tb.Fatal(err)
	}
	config = config.DeepCopy()
	config.Config.User = user
	if image, err = mutate.ConfigFile(image, config); err != nil {
		tb.Fatal(err)
	}
	return image
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// push uploads the image and returns its name by digest.
func push(tb testing.TB, ref string, image v1.Image) string {
	tb.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		tb.Fatal(err)
	}
	if err := remote.Write(tag, image); err != nil {
		tb.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		tb.Fatal(err)
	}
	return tag.Context().Digest(digest.String()).String()
}

// rig is an engine under test with its directories.
type rig struct {
	tb     testing.TB
	cfg    cri.Config
	engine *cri.Engine
}

// newRig opens an engine on fresh directories. When the test ends, everything it has made on the machine goes.
func newRig(tb testing.TB, change func(*cri.Config)) *rig {
	tb.Helper()
	dir := tb.TempDir()
	state, err := os.MkdirTemp("/run", "tst") //nolint:usetesting // its path must be short
	if err != nil {
		tb.Fatalf("these tests need root: %v", err)
	}
	r := &rig{tb: tb, cfg: cri.Config{Dir: filepath.Join(dir, "engine"), StateDir: state}}
	supply := newSupply(r.cfg.Dir)
	tb.Cleanup(supply.Close)
	r.cfg.Images = supply
	if change != nil {
		change(&r.cfg)
	}
	tb.Cleanup(func() { r.dispose() })
	r.open()
	return r
}

// newSupply makes what the engine in dir gets its images from: registries on this machine.
func newSupply(dir string) *image.Resolver { return image.New(image.Config{Dir: dir + "-images"}) }

func (r *rig) open() *cri.Engine {
	r.tb.Helper()
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelInfo
	}
	logger := slog.New(slog.NewTextHandler(r.tb.Output(), &slog.HandlerOptions{Level: level}))
	e, err := cri.Open(r.tb.Context(), r.cfg, logger)
	if err != nil {
		r.tb.Fatalf("opening the engine: %v", err)
	}
	r.engine = e
	return e
}

// close ends the engine as the end of its process would. The pods run on.
func (r *rig) close() {
	r.tb.Helper()
	if r.engine == nil {
		return
	}
	if err := r.engine.Close(); err != nil {
		r.tb.Errorf("closing the engine: %v", err)
	}
	r.engine = nil
}

// dispose stops all pods and removes what the engine leaves on a machine for ever.
func (r *rig) dispose() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if r.engine == nil { // the test has failed while it was closed
		r.engine, _ = cri.Open(ctx, r.cfg, quiet())
	}
	if r.engine != nil {
		pods, err := r.engine.Pods(ctx)
		if err != nil {
			r.tb.Errorf("listing pods at the end: %v", err)
		}
		for _, p := range pods {
			if _, err := r.engine.Stop(ctx, p.ID, 0); err != nil {
				r.tb.Errorf("stopping %s at the end: %v", p.ID, err)
			}
		}
	}
	r.close()
	if r.tb.Failed() {
		b, _ := os.ReadFile(filepath.Join(r.cfg.Dir, "containerd.log"))
		for line := range strings.Lines(string(b)) {
			if !strings.Contains(line, "level=info") {
				r.tb.Logf("containerd: %s", line)
			}
		}
	}
	if err := cri.Purge(context.Background(), r.cfg); err != nil {
		r.tb.Errorf("purging: %v", err)
	}
}

// podSpec is a pod with containers a, b, … that run the commands.
func podSpec(id trysail.PodID, image string, commands ...string) trysail.PodSpec {
	spec := trysail.PodSpec{
		ID: id, Service: "web", ServiceID: "11111111-2222-3333-4444-555555555555", Version: 1,
		Limits: trysail.Limits{MilliCPU: 1000, Memory: 256 << 20},
	}
	for i, c := range commands {
		spec.Containers = append(spec.Containers, trysail.ContainerSpec{
			Name: string(rune('a' + i)), Image: image, Command: strings.Fields(c),
		})
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

// start prepares the images and starts the pod, with its logs in a directory of the test.
func (r *rig) start(spec trysail.PodSpec) trysail.Pod {
	r.tb.Helper()
	for _, c := range spec.Containers {
		if err := r.engine.Prepare(r.tb.Context(), c.Image); err != nil {
			r.tb.Fatalf("Prepare: %v", err)
		}
	}
	if err := r.engine.Start(r.tb.Context(), spec); err != nil {
		r.tb.Fatalf("Start: %v", err)
	}
	return r.pod(spec.ID)
}

// wait polls until ok.
func (r *rig) wait(what string, ok func() bool) {
	r.tb.Helper()
	end := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(end) {
			r.tb.Fatalf("waited a minute in vain: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
