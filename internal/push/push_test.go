package push

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// newImage makes an image of two layers for a platform.
func newImage(t *testing.T, platform string) v1.Image {
	t.Helper()
	img, err := random.Image(4096, 2)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, _ = strings.Cut(platform, "/")
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

// split is the platform as an index has it.
func split(platform string) *v1.Platform {
	os, arch, _ := strings.Cut(platform, "/")
	return &v1.Platform{OS: os, Architecture: arch}
}

// newIndex makes an index of images for the platforms, and an attestation.
func newIndex(t *testing.T, platforms ...string) (v1.ImageIndex, map[string]v1.Image) {
	t.Helper()
	index, images := v1.ImageIndex(empty.Index), map[string]v1.Image{}
	for _, p := range platforms {
		images[p] = newImage(t, p)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: images[p], Descriptor: v1.Descriptor{Platform: split(p)}})
	}
	attestation := newImage(t, "unknown/unknown")
	return mutate.AppendManifests(index, mutate.IndexAddendum{Add: attestation, Descriptor: v1.Descriptor{Platform: split("unknown/unknown")}}), images
}

func newRegistry(t *testing.T) (host string) {
	t.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug))))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func options() Options { return Options{Getenv: func(string) string { return "" }} }

// send opens and pushes an image, and returns what arrived.
func send(t *testing.T, from string, o Options) (*remote.Descriptor, error) {
	t.Helper()
	src, err := Open(t.Context(), from, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		temp := src.temp
		if err := src.Close(); err != nil {
			t.Error(err)
		}
		for _, f := range temp {
			if _, err := os.Stat(f); err == nil {
				t.Errorf("%s is left behind", f)
			}
		}
	}()
	host := newRegistry(t)
	var last Progress
	digest, err := src.Push(t.Context(), Target{Repository: host + "/sr", Username: "AWS", Password: "p", Insecure: true}, func(p Progress) { last = p })
	if err != nil {
		return nil, err
	}
	if last.Total == 0 || last.Done != last.Total {
		t.Errorf("the last progress is %+v", last)
	}
	ref, err := name.ParseReference(host+"/sr@"+digest, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	if got.MediaType.IsIndex() {
		index, err := got.ImageIndex()
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Index(index); err != nil {
			t.Error(err)
		}
		return got, nil
	}
	img, err := got.Image()
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	return got, nil
}

func digestOf(t *testing.T, x interface{ Digest() (v1.Hash, error) }) v1.Hash {
	t.Helper()
	h, err := x.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// writeLayout writes an OCI layout, and the same as a tar file.
func writeLayout(t *testing.T, index v1.ImageIndex, img v1.Image) (dir, file string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "layout")
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if index != nil {
		err = path.AppendIndex(index)
	} else {
		err = path.AppendImage(img)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir, tarOf(t, dir)
}

func tarOf(t *testing.T, dir string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return file
}

// dockerArchive writes what docker save wrote before it knew OCI.
func dockerArchive(t *testing.T, img v1.Image) string {
	t.Helper()
	return uncompressLayers(t, craneArchive(t, img))
}

// craneArchive has compressed layers.
func craneArchive(t *testing.T, img v1.Image) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "crane.tar")
	tag, err := name.NewTag("localhost/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(file, tag, img); err != nil {
		t.Fatal(err)
	}
	return file
}

// uncompressLayers makes the layers plain: the library writes them compressed, docker save does not.
func uncompressLayers(t *testing.T, file string) string {
	t.Helper()
	a, err := indexTar(file)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := readSmall(a, "manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	var saved []savedImage
	if err := json.Unmarshal(raw, &saved); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "plain.tar")
	f, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	add := func(name string, data []byte) {
		t.Helper()
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	for i, l := range saved[0].Layers {
		r, err := a.open(l)
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		saved[0].Layers[i] = fmt.Sprintf("%d/layer.tar", i)
		if i == 0 {
			add("0/layer.tar", data)
			continue
		}
		// The second layer is where an older Docker put it, and a link leads there.
		add("shared/layer.tar", data)
		if err := w.WriteHeader(&tar.Header{Name: saved[0].Layers[i], Typeflag: tar.TypeSymlink, Linkname: "../shared/layer.tar"}); err != nil {
			t.Fatal(err)
		}
	}
	config, err := readSmall(a, saved[0].Config)
	if err != nil {
		t.Fatal(err)
	}
	add(saved[0].Config, config)
	manifest, err := json.Marshal(saved)
	if err != nil {
		t.Fatal(err)
	}
	add("manifest.json", manifest)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return out
}

func compressed(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+".gz", b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file + ".gz"
}

func TestSource_PushesAnImageFromEveryForm(t *testing.T) {
	img := newImage(t, "linux/amd64")
	dir, file := writeLayout(t, nil, img)
	saved := dockerArchive(t, img)
	config := func(h v1.Hash, got *remote.Descriptor) bool {
		arrived, err := got.Image()
		if err != nil {
			t.Fatal(err)
		}
		m, err := arrived.Manifest()
		return err == nil && m.Config.Digest == h
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]string{
		"layout": dir, "layout by name": "oci:" + dir, "archive": file, "archive by name": "oci-archive:" + file, "compressed archive": compressed(t, file),
		"docker save": saved, "docker save by name": "docker-archive:" + saved, "one of a docker save": "docker-archive:" + saved + ":localhost/app:1",
		"compressed docker save": compressed(t, saved), "compressed layers": craneArchive(t, img),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := send(t, from, options())
			if err != nil {
				t.Fatal(err)
			}
			if !config(m.Config.Digest, got) {
				t.Error("what arrived has another configuration")
			}
			if !strings.Contains(from, "plain") && !strings.Contains(from, "crane") && got.Digest != digestOf(t, img) {
				t.Errorf("what arrived has the digest %s", got.Digest)
			}
		})
	}
	t.Run("standard input", func(t *testing.T) {
		f, err := os.Open(saved)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		o := options()
		o.Stdin = f
		if _, err := send(t, "-", o); err != nil {
			t.Error(err)
		}
	})
	t.Run("twice the same digest", func(t *testing.T) {
		first, err := send(t, saved, options())
		if err != nil {
			t.Fatal(err)
		}
		second, err := send(t, saved, options())
		if err != nil || first.Digest != second.Digest {
			t.Errorf("%v and %v, %v", first.Digest, second.Digest, err)
		}
	})
}

func TestSource_IndexWholeOrOnePlatform(t *testing.T) {
	index, images := newIndex(t, "linux/amd64", "linux/arm64")
	dir, file := writeLayout(t, index, nil)
	for _, from := range []string{dir, file} {
		got, err := send(t, from, options())
		if err != nil || got.Digest != digestOf(t, index) {
			t.Errorf("whole: %v, %v", got, err)
		}
		o := options()
		o.Platform = "linux/arm64"
		if got, err = send(t, from, o); err != nil || got.Digest != digestOf(t, images["linux/arm64"]) {
			t.Errorf("arm64: %v, %v", got, err)
		}
		o.Platform = "linux/s390x"
		if _, err = send(t, from, o); err == nil || !strings.Contains(err.Error(), "not there for linux/s390x; it offers linux/amd64, linux/arm64") {
			t.Errorf("s390x: %v", err)
		}
	}
	// A daemon saves the index of all platforms with the content of one.
	if err := os.Remove(filepath.Join(dir, blobPath(digestOf(t, images["linux/arm64"])))); err != nil {
		t.Fatal(err)
	}
	got, err := send(t, dir, options())
	if err != nil || got.Digest != digestOf(t, images["linux/amd64"]) {
		t.Errorf("what is there: %v, %v", got, err)
	}
}

func TestOpen_Refuses(t *testing.T) {
	windows, _ := writeLayout(t, nil, newImage(t, "windows/amd64"))
	blank := filepath.Join(t.TempDir(), "empty")
	text := filepath.Join(t.TempDir(), "text.tar")
	other := tarOf(t, filepath.Join(windows, "blobs"))
	damaged := dockerArchive(t, newImage(t, "linux/amd64"))
	for path, data := range map[string]string{blank: "", text: strings.Repeat("no tar file ", 100)} {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	spoil(t, damaged)
	for name, tc := range map[string]struct{ from, want string }{
		"windows":      {windows, "the image is for windows/amd64; containers here run on Linux"},
		"empty file":   {blank, "it is empty"},
		"no tar":       {text, "is not a tar file, or it is damaged"},
		"no image":     {other, "is a tar file but no image: it has neither manifest.json (docker save) nor index.json (OCI)"},
		"no layout":    {filepath.Dir(windows), "is a folder but no OCI layout"},
		"no such file": {"./nope.tar", "no such file"},
		"damaged":      {damaged, "is damaged: its content has another digest"},
		"no daemon":    {"nope:1", `no image "nope:1" was found: it is neither a file nor a folder here; Docker at unix:///nope.sock: does not run; Podman at unix:///`},
		"remote":       {"docker-daemon:remote", "a Docker engine on another machine cannot be used"},
	} {
		t.Run(name, func(t *testing.T) {
			o := options()
			o.Getenv = func(v string) string {
				switch {
				case v == "DOCKER_HOST" && name == "remote":
					return "tcp://192.0.2.1:2375"
				case v == "DOCKER_HOST":
					return "unix:///nope.sock"
				}
				return t.TempDir()
			}
			src, err := Open(t.Context(), tc.from, o)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			for _, f := range src.temp {
				if _, err := os.Stat(f); err == nil {
					t.Errorf("%s is left behind", f)
				}
			}
		})
	}
}

// spoil changes a byte of the first layer in an archive.
func spoil(t *testing.T, file string) {
	t.Helper()
	a, err := indexTar(file)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("X"), a.entries["0/layer.tar"].offset+600); err != nil {
		t.Fatal(err)
	}
}

// fakeEngine is a Docker engine that has one image.
func fakeEngine(t *testing.T, image, file string) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "d.sock")
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/images/"+image+"/get" {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"message":"No such image"}`)
			return
		}
		http.ServeFile(w, r, file)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return socket
}

func TestOpen_AsksOneDaemonAfterTheOther(t *testing.T) {
	img := newImage(t, "linux/arm64")
	_, archive := writeLayout(t, nil, img)
	docker := fakeEngine(t, "ghcr.io/owner/app:1", archive)
	run := t.TempDir()
	podman := fakeEngine(t, "localhost/other:2", dockerArchive(t, img))
	if err := os.MkdirAll(filepath.Join(run, "podman"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(podman, filepath.Join(run, "podman", "podman.sock")); err != nil {
		t.Fatal(err)
	}
	o := options()
	o.Getenv = func(v string) string {
		return map[string]string{"DOCKER_HOST": "unix://" + docker, "XDG_RUNTIME_DIR": run}[v]
	}
	for _, name := range []string{"ghcr.io/owner/app:1", "docker-daemon:ghcr.io/owner/app:1", "localhost/other:2", "podman:localhost/other:2"} {
		if _, err := send(t, name, o); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := send(t, "absent:1", o); err == nil || !strings.Contains(err.Error(), "Docker at unix://"+docker+": does not have it") {
		t.Errorf("an absent image: %v", err)
	}
}
