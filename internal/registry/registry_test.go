package registry_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/registry"
	"github.com/trysail/trysail/internal/store"
)

func TestHandler_WantsALogin(t *testing.T) {
	b := newBench(t, registry.Config{})
	add := func(password, key string, expires time.Duration) {
		t.Helper()
		hash := sha256.Sum256([]byte(password))
		err := b.store.Update(t.Context(), func(tx *store.Tx) error { return tx.InsertLogin(hash[:], key, tx.Now().Add(expires)) })
		if err != nil {
			t.Fatal(err)
		}
	}
	add("of-a-deleted-key", "GONE", time.Hour)
	add("expired", "KEY", -time.Second)
	for _, tc := range []struct{ name, header, user, password, says string }{
		{name: "none", says: "a login is needed"},
		{name: "another scheme", header: "Bearer abc", says: "a login is needed"},
		{name: "wrong password", user: "AWS", password: "wrong", says: "wrong"},
		{name: "wrong user", user: "root", password: password, says: "wrong"},
		{name: "deleted key", user: "AWS", password: "of-a-deleted-key", says: "wrong"},
		{name: "expired", user: "AWS", password: "expired", says: "expired at"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, path := range []string{"", "sr/blobs/" + digestOf(nil), "other/tags/list"} {
				headers := []string{"Authorization", tc.header}
				if tc.user != "" {
					headers[1] = basic(tc.user, tc.password)
				}
				w := b.do("GET", path, nil, headers...)
				if says := refused(t, w, 401, "UNAUTHORIZED"); !strings.Contains(says, tc.says) || !strings.Contains(says, "create-container-service-registry-login") {
					t.Errorf("message: %q, want %q in it and how to get a login", says, tc.says)
				}
				if got := w.Header().Get("WWW-Authenticate"); !strings.HasPrefix(got, `Basic realm="`) {
					t.Errorf("WWW-Authenticate: %q", got)
				}
			}
		})
	}
	if w := b.do("GET", "", nil); w.Code != 200 || w.Header().Get("Docker-Distribution-Api-Version") != "registry/2.0" {
		t.Errorf("a valid login: %d %v", w.Code, w.Header())
	}
}

func TestHandler_HasOneRepository(t *testing.T) {
	b := newBench(t, registry.Config{})
	for _, path := range []string{"other/blobs/uploads/", "srx/tags/list", "sr2/manifests/latest", "nonsense"} {
		if says := refused(t, b.do("POST", path, nil), 404, "NAME_UNKNOWN"); !strings.Contains(says, `"sr"`) {
			t.Errorf("%s: the message %q does not tell the name", path, says)
		}
	}
	refused(t, b.do("POST", "sr/tags/list", nil), 405, "UNSUPPORTED")
	if w := b.do("GET", "_catalog", nil); w.Body.String() != `{"repositories":["sr"]}` {
		t.Errorf("catalog: %s", w.Body)
	}
}

func TestRegistry_ServesWhatWasPushed(t *testing.T) {
	b := newBench(t, registry.Config{})
	layer := bytes.Repeat([]byte("layer"), 100_000)
	manifest, blobs := image("linux/amd64", layer)
	digest := must(b.pushImage(manifest, blobs, "v1"))(t)
	for _, ref := range []string{"v1", digest} {
		for _, method := range []string{"GET", "HEAD"} {
			w := b.do(method, "sr/manifests/"+ref, nil)
			h := w.Header()
			if w.Code != 200 || h.Get("Docker-Content-Digest") != digest || h.Get("Content-Type") != mediaManifest || h.Get("Content-Length") == "" {
				t.Errorf("%s %s: %d %v", method, ref, w.Code, h)
			}
			if got := w.Body.String(); method == "GET" && got != string(manifest) || method == "HEAD" && got != "" {
				t.Errorf("%s %s: %q", method, ref, got)
			}
		}
	}
	path := "sr/blobs/" + digestOf(layer)
	if w := b.do("GET", path, nil); w.Code != 200 || !bytes.Equal(w.Body.Bytes(), layer) || w.Header().Get("Docker-Content-Digest") != digestOf(layer) {
		t.Errorf("blob: %d %v", w.Code, w.Header())
	}
	for _, tc := range []struct {
		header string
		want   []byte
	}{{"bytes=10-19", layer[10:20]}, {"bytes=499990-", layer[499990:]}, {"bytes=-5", layer[499995:]}} {
		if w := b.do("GET", path, nil, "Range", tc.header); w.Code != 206 || !bytes.Equal(w.Body.Bytes(), tc.want) {
			t.Errorf("Range %s: %d, %d bytes", tc.header, w.Code, w.Body.Len())
		}
	}
	if w := b.do("GET", path, nil, "Range", "bytes=500000-"); w.Code != 416 {
		t.Errorf("a range after the end: %d", w.Code)
	}
	refused(t, b.do("GET", "sr/manifests/other", nil), 404, "MANIFEST_UNKNOWN")
	refused(t, b.do("GET", "sr/manifests/"+digestOf(nil), nil), 404, "MANIFEST_UNKNOWN")
	refused(t, b.do("GET", "sr/blobs/"+digestOf(nil), nil), 404, "BLOB_UNKNOWN")
	refused(t, b.do("GET", "sr/blobs/sha256:ABC", nil), 400, "DIGEST_INVALID")
	refused(t, b.do("GET", "sr/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", nil), 400, "DIGEST_INVALID")
}

func TestRegistry_GivesTheEngineItsFiles(t *testing.T) {
	b := newBench(t, registry.Config{})
	ctx := t.Context()
	manifest, blobs := image("linux/amd64", []byte("layer"))
	digest := must(b.pushImage(manifest, blobs, "v1"))(t)
	name := trysail.StoredImage{Service: "web", Label: "www"}
	_, err := b.Digest(ctx, name)
	if e, ok := errors.AsType[*trysail.ImageError](err); !ok || e.Code != trysail.CodeImageLocal || !e.Final || e.Image != ":web.www.latest" {
		t.Errorf("an image that is not registered: %v", err)
	}
	b.register(t, digest)
	if got, err := b.Digest(ctx, name); err != nil || got != digest {
		t.Errorf("Digest: %s, %v", got, err)
	}
	mediaType, content, err := b.Manifest(ctx, digest)
	if err != nil || mediaType != mediaManifest || !bytes.Equal(content, manifest) {
		t.Errorf("Manifest: %s %s %v", mediaType, content, err)
	}
	path, size, err := b.Blob(ctx, digestOf([]byte("layer")))
	if err != nil || size != 5 {
		t.Fatalf("Blob: %d, %v", size, err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "layer" {
		t.Errorf("the blob's file: %q, %v", got, err)
	}
	if _, _, err := b.Manifest(ctx, digestOf(nil)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Manifest of nothing: %v", err)
	}
	for _, d := range []string{digestOf(nil), "", "sha256:../../../../etc/passwd"} {
		if _, _, err := b.Blob(ctx, d); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Blob %q: %v", d, err)
		}
	}
	sizes, total, err := b.StoredSizes(ctx)
	want := int64(len(blobs[0]) + 5)
	if err != nil || total != want || sizes[digest] != want {
		t.Errorf("StoredSizes: %v, %d, %v, want %d", sizes, total, err, want)
	}
}

// register puts an image on the service web, which is made if need be.
func (b *bench) register(t *testing.T, digest string) trysail.RegisteredImage {
	t.Helper()
	const service = "web"
	var img trysail.RegisteredImage
	err := b.store.Update(t.Context(), func(tx *store.Tx) error {
		s, err := tx.Service(service)
		if errors.Is(err, store.ErrNotFound) {
			s = &trysail.Service{ID: "id-" + service, Name: service, HostLabel: service, State: trysail.ServiceReady, Capacity: trysail.Capacity{Power: trysail.PowerNano, Scale: 1}}
			err = tx.InsertService(s)
		}
		if err != nil {
			return err
		}
		img, err = tx.RegisterImage(s, "www", digest)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestRegistry_ListsTagsByPages(t *testing.T) {
	b := newBench(t, registry.Config{})
	if w := b.do("GET", "sr/tags/list", nil); w.Body.String() != `{"name":"sr","tags":[]}` {
		t.Errorf("no tags: %s", w.Body)
	}
	manifest, blobs := image("linux/amd64")
	for _, tag := range []string{"b", "a", "c", "B", "d"} {
		must(b.pushImage(manifest, blobs, tag))(t)
	}
	for _, tc := range []struct{ query, want, next string }{
		{"", `["B","a","b","c","d"]`, ""},
		{"?n=2", `["B","a"]`, `</v2/sr/tags/list?last=a&n=2>; rel="next"`},
		{"?n=2&last=a", `["b","c"]`, `</v2/sr/tags/list?last=c&n=2>; rel="next"`},
		{"?n=2&last=c", `["d"]`, ""},
		{"?last=bb", `["c","d"]`, ""},
		{"?n=0", `[]`, ""},
	} {
		w := b.do("GET", "sr/tags/list"+tc.query, nil)
		if got := w.Body.String(); got != `{"name":"sr","tags":`+tc.want+`}` || w.Header().Get("Link") != tc.next {
			t.Errorf("%s: %s, Link %s", tc.query, got, w.Header().Get("Link"))
		}
	}
	refused(t, b.do("GET", "sr/tags/list?n=x", nil), 400, "UNSUPPORTED")
}

func TestRegistry_ListsReferrersByPages(t *testing.T) {
	b := newBench(t, registry.Config{})
	manifest, blobs := image("linux/amd64")
	digest := must(b.pushImage(manifest, blobs, "v1"))(t)
	empty := []byte("{}")
	if err := b.pushBlob(empty); err != nil {
		t.Fatal(err)
	}
	want := []string{}
	for i := range 5 {
		about := object{
			"schemaVersion": 2, "mediaType": mediaManifest, "artifactType": []string{"a/a", "b/b"}[i%2], "layers": []object{},
			"config": descriptor("application/vnd.oci.empty.v1+json", empty), "subject": descriptor(mediaManifest, manifest),
			"annotations": object{"n": strings.Repeat("x", 400_000+i)},
		}
		w := b.do("PUT", "sr/manifests/"+digestOf(toJSON(about)), toJSON(about), "Content-Type", mediaManifest)
		if w.Code != 201 || w.Header().Get("OCI-Subject") != digest {
			t.Fatalf("pushing an artifact: %d %v", w.Code, w.Header())
		}
		want = append(want, digestOf(toJSON(about)))
	}
	slices.Sort(want)
	got, pages := []string{}, 0
	for next := "sr/referrers/" + digest; next != ""; pages++ {
		w := b.do("GET", next, nil)
		var list struct {
			MediaType string
			Manifests []struct {
				Digest, ArtifactType string
				Annotations          map[string]string
			}
		}
		fromJSON(t, w, &list)
		for _, m := range list.Manifests {
			got = append(got, m.Digest)
			if len(m.Annotations["n"]) < 400_000 || m.ArtifactType == "" {
				t.Errorf("referrer without its description: %s", m.Digest)
			}
		}
		next, _, _ = strings.Cut(strings.TrimPrefix(w.Header().Get("Link"), "</v2/"), ">")
	}
	if d := cmp.Diff(want, got); d != "" || pages != 2 {
		t.Errorf("%d pages, (-want +got):\n%s", pages, d)
	}
	w := b.do("GET", "sr/referrers/"+digest+"?artifactType=b/b", nil)
	if strings.Count(w.Body.String(), `"artifactType":"b/b"`) != 2 || strings.Contains(w.Body.String(), "a/a") || w.Header().Get("OCI-Filters-Applied") != "artifactType" {
		t.Errorf("filtered: %v", w.Header())
	}
	if w := b.do("GET", "sr/referrers/"+digestOf([]byte("absent")), nil); w.Code != 200 || !strings.Contains(w.Body.String(), `"manifests":[]`) {
		t.Errorf("of nothing: %d %s", w.Code, w.Body)
	}
}
