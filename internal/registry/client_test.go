package registry_test

import (
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/stream"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/trysail/trysail/internal/registry"
)

// randomImage is an image for Linux.
func randomImage(t *testing.T, arch string) v1.Image {
	t.Helper()
	img := must(random.Image(100_000, 3))(t)
	config := must(img.ConfigFile())(t).DeepCopy()
	config.OS, config.Architecture = "linux", arch
	return must(mutate.ConfigFile(img, config))(t)
}

func TestClient_PushesAndPullsImages(t *testing.T) {
	b := newBench(t, registry.Config{})
	host := b.serve(t)
	auth := remote.WithAuth(&authn.Basic{Username: "AWS", Password: password})
	tag := must(name.NewTag(host + "/sr:v1"))(t)

	img := randomImage(t, "amd64")
	if err := remote.Write(tag, img, auth); err != nil {
		t.Fatal(err)
	}
	got := must(remote.Image(tag, auth))(t)
	if err := validate.Image(got); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff(must(img.Digest())(t), must(got.Digest())(t)); d != "" {
		t.Error(d)
	}

	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: randomImage(t, "arm64"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}})
	if err := remote.WriteIndex(tag, index, auth); err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(must(remote.Index(tag, auth))(t)); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff([]string{"v1"}, must(remote.List(tag.Repository, auth))(t)); d != "" {
		t.Error(d)
	}
	if err := remote.Delete(tag, auth); err != nil {
		t.Error(err)
	}
	if _, err := remote.Head(tag, auth); err == nil {
		t.Error("the tag is still there after its deletion")
	}
}

func TestClient_PushesAStream(t *testing.T) {
	b := newBench(t, registry.Config{})
	tag := must(name.NewTag(b.serve(t) + "/sr:stream"))(t)
	auth := remote.WithAuth(&authn.Basic{Username: "AWS", Password: password})
	img := must(mutate.AppendLayers(randomImage(t, "amd64"), stream.NewLayer(io.NopCloser(io.LimitReader(zeros{}, 20<<20)))))(t)
	if err := remote.Write(tag, img, auth); err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(must(remote.Image(tag, auth))(t)); err != nil {
		t.Error(err)
	}
}

func TestClient_IsToldWhy(t *testing.T) {
	b := newBench(t, registry.Config{})
	host := b.serve(t)
	auth := remote.WithAuth(&authn.Basic{Username: "AWS", Password: password})
	for _, tc := range []struct {
		name, ref string
		img       v1.Image
		says      string
	}{
		{"platform", "/sr:v1", randomImage(t, "arm64"), "this image is for linux/arm64, and this machine is linux/amd64"},
		{"repository", "/web:v1", randomImage(t, "amd64"), `there is only one repository here, and its name is "sr"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := remote.Write(must(name.NewTag(host+tc.ref))(t), tc.img, auth)
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %q in it", err, tc.says)
			}
		})
	}
	_, err := remote.List(must(name.NewRepository(host+"/sr"))(t), remote.WithAuth(&authn.Basic{Username: "AWS", Password: "x"}))
	if err == nil || !strings.Contains(err.Error(), "this login is wrong") {
		t.Errorf("a wrong login: %v", err)
	}
}
