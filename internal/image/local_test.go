package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

// shelf is a Local of files.
type shelf struct {
	dir       string
	manifests map[string]string // media type by digest
	images    map[string]string // digest by name
}

func newShelf(t *testing.T) *shelf {
	return &shelf{dir: t.TempDir(), manifests: map[string]string{}, images: map[string]string{}}
}

func (s *shelf) put(t *testing.T, digest v1.Hash, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, digest.Hex), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// add stores an image or an index under a name.
func (s *shelf) add(t *testing.T, name string, img mutate.Appendable) {
	t.Helper()
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	mediaType, err := img.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	raw, ok := img.(interface{ RawManifest() ([]byte, error) })
	if !ok {
		t.Fatalf("%T has no manifest", img)
	}
	b, err := raw.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	s.put(t, digest, b)
	s.manifests[digest.String()] = string(mediaType)
	s.images[name] = digest.String()
	if img, ok := img.(v1.Image); ok {
		config, err := img.RawConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		name, err := img.ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		s.put(t, name, config)
	}
}

func (s *shelf) Digest(_ context.Context, image trysail.StoredImage) (string, error) {
	if d := s.images[image.Name()]; d != "" {
		return d, nil
	}
	return "", &trysail.ImageError{Code: trysail.CodeImageLocal, Final: true, Message: "Service `svc` has no image " + image.Name() + ".", Fix: "Push it."}
}

func (s *shelf) Manifest(_ context.Context, digest string) (string, []byte, error) {
	mediaType, ok := s.manifests[digest]
	if !ok {
		return "", nil, fs.ErrNotExist
	}
	b, err := os.ReadFile(filepath.Join(s.dir, strings.TrimPrefix(digest, "sha256:")))
	return mediaType, b, err
}

func (s *shelf) Blob(_ context.Context, digest string) (string, int64, error) {
	path := filepath.Join(s.dir, strings.TrimPrefix(digest, "sha256:"))
	info, err := os.Stat(path)
	if err != nil {
		return "", 0, err
	}
	return path, info.Size(), nil
}

func TestResolver_StoredImages(t *testing.T) {
	s := newShelf(t)
	single := build(t, "linux", "amd64", v1.Config{Cmd: []string{"one"}, ExposedPorts: map[string]struct{}{"80/tcp": {}}})
	s.add(t, ":svc.web.1", single)
	other := build(t, "linux", "amd64", v1.Config{Cmd: []string{"of two"}})
	arm := build(t, "linux", "arm64", v1.Config{})
	s.add(t, ":child.a.1", other)
	s.add(t, ":child.a.2", arm)
	s.add(t, ":svc.web.2", mutate.AppendManifests(empty.Index, add(arm, on("arm64", ""), nil), add(other, on("amd64", ""), nil)))
	s.images[":svc.web.latest"] = s.images[":svc.web.2"]
	r := newResolver(t, Config{Local: s})
	for name, img := range map[string]v1.Image{":svc.web.1": single, ":svc.web.2": other, ":svc.web.latest": other, trysail.StoredRepository + "@" + digestOf(t, single): single} {
		digest := digestOf(t, img)
		got, err := r.Resolve(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if got.Name != name || got.Digest != digest || got.Reference != trysail.StoredRepository+"@"+digest || len(got.Command) != 1 {
			t.Errorf("%s: %+v", name, got)
		}
		mediaType, manifest, err := r.Manifest(t.Context(), got.Reference)
		raw, rawErr := img.RawManifest()
		if err != nil || rawErr != nil || string(manifest) != string(raw) || !strings.Contains(mediaType, "manifest") {
			t.Errorf("%s: manifest %s %s, %v", name, mediaType, manifest, err)
		}
	}
	config, err := single.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	size, err := os.Stat(filepath.Join(s.dir, config.Hex))
	if err != nil {
		t.Fatal(err)
	}
	ref := trysail.StoredRepository + "@" + digestOf(t, single)
	f, err := r.Blob(t.Context(), ref, engine.Descriptor{Digest: config.String(), Size: size.Size()}, nil)
	if err != nil || f.Path != filepath.Join(s.dir, config.Hex) {
		t.Fatalf("Blob: %+v, %v", f, err)
	}
	f.Release()
	if _, err := os.Stat(f.Path); err != nil {
		t.Errorf("the registry's own file is gone: %v", err)
	}
}

func TestResolver_StoredImageThatCannotBeHad(t *testing.T) {
	s := newShelf(t)
	img := build(t, "linux", "amd64", v1.Config{})
	s.add(t, ":svc.arm.1", build(t, "linux", "arm64", v1.Config{}))
	s.add(t, ":svc.damaged.2", img)
	s.put(t, v1.Hash{Hex: strings.TrimPrefix(digestOf(t, img), "sha256:")}, []byte(`{"config":{}}`))
	lost := build(t, "linux", "amd64", v1.Config{Cmd: []string{"lost"}})
	s.add(t, ":svc.lost.3", lost)
	config, err := lost.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(s.dir, config.Hex)); err != nil {
		t.Fatal(err)
	}
	s.images[":svc.nothing.4"] = "sha256:" + strings.Repeat("0", 64)
	r := newResolver(t, Config{Local: s})
	for image, w := range map[string]want{
		":svc.arm.1":     {"IMG-ARCH", true, []string{"offers `linux/arm64`"}},
		":svc.damaged.2": {"IMG-CORRUPT", false, []string{"damaged on this machine's disk"}},
		":svc.lost.3":    {"IMG-LOCAL", true, []string{"a part of it is gone"}},
		":svc.nothing.4": {"IMG-LOCAL", true, nil},
		":svc.absent.5":  {"IMG-LOCAL", true, []string{"has no image :svc.absent.5"}},
		trysail.StoredRepository + "@sha256:" + strings.Repeat("1", 64): {"IMG-LOCAL", true, nil},
	} {
		w.check(t, resolveError(t, r, image))
	}
	want{"IMG-LOCAL", true, []string{"stored here"}}.check(t, resolveError(t, newResolver(t, Config{}), ":svc.web.1"))
	ref := trysail.StoredRepository + "@" + s.images[":svc.lost.3"]
	_, err = r.Blob(t.Context(), ref, engine.Descriptor{Digest: config.String(), Size: 7}, nil)
	if e, ok := errors.AsType[*trysail.ImageError](err); !ok || e.Code != "IMG-LOCAL" || e.Image != ref {
		t.Errorf("Blob that is gone: %v", err)
	}
	if diff := cmp.Diff([]string(nil), filesIn(t, r.cfg.Dir)); diff != "" {
		t.Error(diff)
	}
}

// filesIn lists what is in a directory that may not be there.
func filesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	if dir == "" {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
