//go:build e2e

package kit_test

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/trysail/trysail/test/kit"
)

// TestImages_RunWithoutAnEngine makes sure that an image that fails in a pod does not fail because of the image.
func TestImages_RunWithoutAnEngine(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("chroot needs root")
	}
	tests := []struct {
		name  string
		image func() (v1.Image, error)
		args  []string
		want  string
	}{
		{"nginx", func() (v1.Image, error) { return kit.Nginx("hello") }, []string{"-V"}, "nginx version: nginx/1."},
		{"redis", kit.Redis, []string{"--version"}, "Redis server v="},
		{"web", func() (v1.Image, error) { return kit.Web(t.Context(), "1") }, nil, "web: the environment variable PATIENCE is not set"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img, err := tt.image()
			if err != nil {
				t.Fatal(err)
			}
			config, err := img.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			root := t.TempDir()
			unpack(t, img, root)
			cmd := exec.Command(config.Config.Entrypoint[0], tt.args...)
			cmd.Dir = "/"
			cmd.Env = []string{"REQUIRE=PATIENCE"}
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
			out, err := cmd.CombinedOutput()
			if !strings.Contains(string(out), tt.want) {
				t.Errorf("%s printed %q (%v), want %q in it", tt.name, out, err, tt.want)
			}
		})
	}
}

func TestImages_AreReproducible(t *testing.T) {
	one, err := kit.Nginx("hello")
	if err != nil {
		t.Fatal(err)
	}
	two, err := kit.Nginx("hello")
	if err != nil {
		t.Fatal(err)
	}
	other, err := kit.Nginx("bye")
	if err != nil {
		t.Fatal(err)
	}
	if digest(t, one) != digest(t, two) {
		t.Error("the same page gave two digests")
	}
	if digest(t, one) == digest(t, other) {
		t.Error("two pages gave the same digest")
	}
}

func TestRegistries_KeepWhatIsPushed(t *testing.T) {
	start := map[string]func() (*kit.Registry, error){
		"Debian": func() (*kit.Registry, error) { return kit.StartRegistry(t.Context(), t.TempDir()) },
		"small":  func() (*kit.Registry, error) { return kit.StartSmallRegistry(t.Context()) },
	}
	for kind, start := range start {
		t.Run(kind, func(t *testing.T) {
			reg, err := start()
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := reg.Close(); err != nil {
					t.Error(err)
				}
			}()
			img, err := kit.WebFor(t.Context(), "1", runtime.GOARCH)
			if err != nil {
				t.Fatal(err)
			}
			full, err := reg.Push(t.Context(), "team/web:1", img)
			if err != nil {
				t.Fatal(err)
			}
			ref, err := name.ParseReference(full)
			if err != nil {
				t.Fatal(err)
			}
			got, err := remote.Head(ref)
			if err != nil {
				t.Fatal(err)
			}
			if want := digest(t, img); got.Digest != want {
				t.Errorf("%s has digest %s, want %s", full, got.Digest, want)
			}
		})
	}
}

func digest(t *testing.T, img v1.Image) v1.Hash {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func unpack(t *testing.T, img v1.Image, root string) {
	t.Helper()
	r := mutate.Extract(img)
	defer r.Close()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(root, h.Name)
		if h.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(path, h.FileInfo().Mode()); err != nil {
				t.Fatal(err)
			}
			continue
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, h.FileInfo().Mode()); err != nil {
			t.Fatal(err)
		}
	}
}
