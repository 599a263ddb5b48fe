package registry_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/registry"
	"github.com/trysail/trysail/internal/store"
)

func TestPutManifest_RefusesWhatIsWrong(t *testing.T) {
	b := newBench(t, registry.Config{})
	good, blobs := image("linux/amd64", []byte("layer"))
	for _, blob := range blobs {
		if err := b.pushBlob(blob); err != nil {
			t.Fatal(err)
		}
	}
	text := string(good)
	absent, _ := image("linux/amd64", []byte("absent"))
	before := b.files(t)
	for _, tc := range []struct {
		name, ref, mediaType, content string
		status                        int
		code, says                    string
	}{
		{name: "blob that is not here", content: string(absent), status: 404, code: "MANIFEST_BLOB_UNKNOWN", says: digestOf([]byte("absent"))},
		{name: "wrong digest", ref: digestOf([]byte("x")), status: 400, code: "DIGEST_INVALID", says: digestOf(good)},
		{name: "no digest", ref: "sha256:abc", status: 400, code: "DIGEST_INVALID"},
		{name: "no tag", ref: "-x", status: 400, code: "MANIFEST_UNKNOWN"},
		{name: "too large", content: text[:len(text)-1] + strings.Repeat(" ", 4<<20) + "}", status: 413, code: "SIZE_INVALID", says: "4194304"},
		{name: "unknown media type", mediaType: "application/json", status: 400, code: "MANIFEST_INVALID", says: "application/json"},
		{name: "another media type inside", mediaType: "application/vnd.docker.distribution.manifest.v2+json", status: 400, code: "MANIFEST_INVALID", says: "sent as"},
		{name: "not JSON", content: "{", status: 400, code: "MANIFEST_INVALID", says: "JSON"},
		{name: "no content", content: "null", status: 400, code: "MANIFEST_INVALID"},
		{name: "another version", content: strings.Replace(text, `"schemaVersion":2`, `"schemaVersion":1`, 1), status: 400, code: "MANIFEST_INVALID", says: "schemaVersion"},
		{name: "wrong size", content: strings.Replace(text, `"size":5`, `"size":6`, 1), status: 400, code: "MANIFEST_INVALID", says: "has 5"},
		{name: "negative size", content: strings.Replace(text, `"size":5`, `"size":-6`, 1), status: 400, code: "MANIFEST_INVALID"},
		{name: "path as a digest", content: strings.Replace(text, digestOf([]byte("layer")), "sha256:../../../etc/passwd", 1), status: 400, code: "MANIFEST_INVALID"},
		{name: "no config", content: `{"schemaVersion":2,"layers":[]}`, status: 400, code: "MANIFEST_INVALID", says: "config"},
		{name: "both image and index", content: text[:len(text)-1] + `,"manifests":[]}`, status: 400, code: "MANIFEST_INVALID"},
		{name: "index with layers", mediaType: mediaIndex, content: `{"schemaVersion":2,"manifests":[],"layers":[]}`, status: 400, code: "MANIFEST_INVALID"},
		{name: "index of a manifest that is not here", mediaType: mediaIndex, content: string(index([][]byte{good}, "linux/amd64")), status: 404, code: "MANIFEST_BLOB_UNKNOWN", says: digestOf(good)},
		{name: "schema 1", mediaType: "application/vnd.docker.distribution.manifest.v1+prettyjws", content: `{"schemaVersion":1,"architecture":"amd64"}`, status: 400, code: "UNSUPPORTED", says: "schema 1"},
		{name: "schema 1 for another machine", mediaType: "application/vnd.docker.distribution.manifest.v1+prettyjws", content: `{"schemaVersion":1,"architecture":"arm64"}`, status: 400, code: "UNSUPPORTED", says: "linux/arm64, and this machine is linux/amd64"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.ref == "" {
				tc.ref = "v1"
			}
			if tc.content == "" {
				tc.content = text
			}
			if tc.mediaType == "" {
				tc.mediaType = mediaManifest
			}
			w := b.do("PUT", "sr/manifests/"+tc.ref, []byte(tc.content), "Content-Type", tc.mediaType)
			if says := refused(t, w, tc.status, tc.code); !strings.Contains(says, tc.says) {
				t.Errorf("message: %q, want %q in it", says, tc.says)
			}
		})
	}
	refused(t, b.do("GET", "sr/manifests/v1", nil), 404, "MANIFEST_UNKNOWN")
	refused(t, b.do("GET", "sr/manifests/"+digestOf(good), nil), 404, "MANIFEST_UNKNOWN")
	if after := b.files(t); !slices.Equal(before, after) {
		t.Errorf("files before: %v, after: %v", before, after)
	}
}

func TestPutManifest_TakesWhatRunsHere(t *testing.T) {
	b := newBench(t, registry.Config{})
	push := func(platform string) []byte {
		t.Helper()
		m, blobs := image(platform, []byte("layer for "+platform))
		must(b.pushImage(m, blobs, ""))(t) // without a tag, as the parts of an index are pushed
		return m
	}
	amd, arm, windows, silent := push("linux/amd64"), push("linux/arm64"), push("windows/amd64"), push("")
	empty := []byte("{}")
	if err := b.pushBlob(empty); err != nil {
		t.Fatal(err)
	}
	artifact := toJSON(object{"schemaVersion": 2, "mediaType": mediaManifest, "config": descriptor("application/vnd.example", empty), "layers": []object{descriptor("a/b", empty)}})
	must(b.pushManifest(mediaManifest, artifact, "artifact"))(t)
	attested := toJSON(object{"schemaVersion": 2, "manifests": []object{
		withPlatform(descriptor(mediaManifest, arm), "linux", "arm64"), withPlatform(descriptor(mediaManifest, artifact), "unknown", "unknown"),
	}})
	cache := toJSON(object{"schemaVersion": 2, "manifests": []object{descriptor(mediaLayer, []byte("layer for linux/amd64")), descriptor("application/vnd.buildkit.cacheconfig.v0", empty)}})
	inner := index([][]byte{arm}, "")
	must(b.pushManifest(mediaIndex, inner, ""))(t)
	for _, tc := range []struct {
		name      string
		mediaType string
		content   []byte
		offers    string // empty: is taken
	}{
		{"image for here", mediaManifest, amd, ""},
		{"image for elsewhere", mediaManifest, arm, "linux/arm64"},
		{"image for another system", mediaManifest, windows, "windows/amd64"},
		{"image that does not say", mediaManifest, silent, ""},
		{"artifact", mediaManifest, artifact, ""},
		{"index with one for here", mediaIndex, index([][]byte{arm, amd}, "linux/arm64", "linux/amd64"), ""},
		{"index for elsewhere", mediaIndex, index([][]byte{windows, arm}, "windows/amd64", "linux/arm64"), "linux/arm64, windows/amd64"},
		{"index that does not say", mediaIndex, index([][]byte{arm}, ""), ""},
		{"index for elsewhere with an attestation", mediaIndex, attested, "linux/arm64"},
		{"index of an index", mediaIndex, index([][]byte{inner}, ""), ""},
		{"empty index", mediaIndex, index(nil), ""},
		{"build cache", mediaIndex, cache, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := b.do("PUT", "sr/manifests/tag", tc.content, "Content-Type", tc.mediaType)
			if tc.offers == "" {
				if w.Code != 201 || w.Header().Get("Docker-Content-Digest") != digestOf(tc.content) {
					t.Errorf("got %d %s, want 201", w.Code, w.Body)
				}
				return
			}
			says := refused(t, w, 400, "UNSUPPORTED")
			if !strings.Contains(says, "is for "+tc.offers+", and this machine is linux/amd64") {
				t.Errorf("message: %q", says)
			}
		})
	}
}

func withPlatform(d object, os, arch string) object {
	d["platform"] = object{"os": os, "architecture": arch}
	return d
}

func TestPutManifest_DoesNotNeedLayersOfOthers(t *testing.T) {
	b := newBench(t, registry.Config{})
	config := []byte(`{"os":"linux","architecture":"amd64"}`)
	if err := b.pushBlob(config); err != nil {
		t.Fatal(err)
	}
	m := toJSON(object{
		"schemaVersion": 2, "config": descriptor("application/vnd.docker.container.image.v1+json", config),
		"layers": []object{descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", []byte("elsewhere"))},
	})
	must(b.pushManifest("application/vnd.docker.distribution.manifest.v2+json", m, "v1"))(t)
}

func TestDelete_KeepsWhatIsNeeded(t *testing.T) {
	b := newBench(t, registry.Config{})
	m, blobs := image("linux/amd64", []byte("layer"))
	child := must(b.pushImage(m, blobs, "child"))(t)
	parent := must(b.pushManifest(mediaIndex, index([][]byte{m}, "linux/amd64"), "parent"))(t)
	img := b.register(t, parent)
	refuse := func(path, says string) {
		t.Helper()
		if got := refused(t, b.do("DELETE", path, nil), 403, "DENIED"); !strings.Contains(got, says) {
			t.Errorf("message: %q, want %q in it", got, says)
		}
	}
	remove := func(path, digest string) {
		t.Helper()
		if w := b.do("DELETE", path, nil); w.Code != 202 || w.Header().Get("Docker-Content-Digest") != digest {
			t.Errorf("DELETE %s: %d %s", path, w.Code, w.Body)
		}
		if w := b.do("HEAD", path, nil); w.Code != 404 {
			t.Errorf("HEAD %s after its deletion: %d", path, w.Code)
		}
	}
	refuse("sr/manifests/"+parent, ":web.www.1")
	refuse("sr/manifests/"+child, parent)
	refuse("sr/blobs/"+digestOf([]byte("layer")), child)
	remove("sr/manifests/parent", parent)
	update := func(fn func(*store.Tx, *trysail.Service) error) {
		t.Helper()
		err := b.store.Update(t.Context(), func(tx *store.Tx) error {
			s, err := tx.Service("web")
			if err != nil {
				return err
			}
			return fn(tx, s)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	update(func(tx *store.Tx, s *trysail.Service) error {
		d := &trysail.Deployment{State: trysail.DeploymentActive, CreatedAt: tx.Now(), Digests: map[string]string{":web.www.1": child}}
		return tx.InsertDeployment(s.ID, d)
	})
	update(func(tx *store.Tx, s *trysail.Service) error { return tx.DeleteImage(s, img.Number) })
	remove("sr/manifests/"+parent, parent)
	refuse("sr/manifests/"+child, "current version of web")
	update(func(tx *store.Tx, s *trysail.Service) error { return tx.DeleteService(s.ID) })
	remove("sr/manifests/"+child, child)
	refused(t, b.do("GET", "sr/manifests/child", nil), 404, "MANIFEST_UNKNOWN") // its tag went with it
	remove("sr/blobs/"+digestOf([]byte("layer")), digestOf([]byte("layer")))
	refused(t, b.do("DELETE", "sr/blobs/"+digestOf([]byte("layer")), nil), 404, "BLOB_UNKNOWN")
	refused(t, b.do("DELETE", "sr/manifests/"+child, nil), 404, "MANIFEST_UNKNOWN")
	refused(t, b.do("DELETE", "sr/manifests/child", nil), 404, "MANIFEST_UNKNOWN")
	if got := b.files(t); !slices.Equal(got, []string{digestOf(blobs[0])}) {
		t.Errorf("files at the end: %v", got)
	}
}
