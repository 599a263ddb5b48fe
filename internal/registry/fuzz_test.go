package registry

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzParseManifest: whatever is accepted names content by digests that are paths inside the registry, and is accepted
// again in the same way.
func FuzzParseManifest(f *testing.F) {
	const digest = `"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0`
	f.Add("application/vnd.oci.image.manifest.v1+json", []byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json",`+digest+`},"layers":[{`+digest+`}],"subject":{`+digest+`}}`))
	f.Add("application/vnd.oci.image.index.v1+json; charset=utf-8", []byte(`{"schemaVersion":2,"manifests":[{"platform":{"os":"linux","architecture":"amd64"},`+digest+`}]}`))
	f.Add("", []byte(`{"schemaVersion":2,"mediaType":"`+dockerManifest+`","config":{`+digest+`}}`))
	f.Add(dockerIndex, []byte(`{"schemaVersion":2,"manifests":null,"Config":{}}`))
	r := &Registry{cfg: Config{Dir: "/registry"}}
	f.Fuzz(func(t *testing.T, mediaType string, content []byte) {
		m, err := parseManifest(mediaType, content)
		if err != nil {
			if e, ok := err.(*clientError); !ok || e.code.status() >= 500 { //nolint:errorlint // it is returned as it is
				t.Fatalf("not an error for the client: %v", err)
			}
			return
		}
		if isIndex(m.mediaType) == (m.config != nil) || m.config == nil && len(m.blobs)+len(m.optional) > 0 {
			t.Fatalf("neither an index nor a manifest: %+v", m)
		}
		for _, d := range append(append(m.children, m.blobs...), m.optional...) {
			checkPath(t, r, d.Digest.String())
		}
		if m.subject != "" {
			checkPath(t, r, m.subject)
		}
		if _, err := json.Marshal(m.annotations); err != nil {
			t.Fatal(err)
		}
		_ = (Platform{"linux", "amd64"}).check(m.platforms())
		if again, err := parseManifest(m.mediaType, content); err != nil || again.mediaType != m.mediaType {
			t.Fatalf("the second time: %+v, %v", again, err)
		}
	})
}

// FuzzReference: a reference is a tag, a digest that is a path inside the registry, or refused.
func FuzzReference(f *testing.F) {
	for _, s := range []string{"latest", "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "../x", "-a", "sha256:", "a:b"} {
		f.Add(s)
	}
	r := &Registry{cfg: Config{Dir: "/registry"}}
	f.Fuzz(func(t *testing.T, s string) {
		tag, d, err := parseReference(s)
		switch {
		case err != nil:
		case tag != "":
			if tag != s || strings.ContainsAny(tag, "/:\x00 ") || tag == ".." {
				t.Fatalf("tag %q of %q", tag, s)
			}
		case d.String() != s:
			t.Fatalf("digest %v of %q", d, s)
		default:
			checkPath(t, r, s)
		}
	})
}

func checkPath(t *testing.T, r *Registry, s string) {
	t.Helper()
	d, err := parseDigest(s)
	if err != nil {
		t.Fatalf("%q was accepted: %v", s, err)
	}
	rel, err := filepath.Rel("/registry/blobs/"+d.algorithm, disk{r.cfg.Dir}.path(d))
	if dir, file := filepath.Split(rel); err != nil || dir != d.hex[:2]+"/" || file != d.hex {
		t.Fatalf("%q leads to %s", s, disk{r.cfg.Dir}.path(d))
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"0-0", "5-9", "bytes 0-9/10", "9-5", "-1", "0-9223372036854775807"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if first, last, ok := parseContentRange(s); ok && (first < 0 || last < first || last-first+1 <= 0) {
			t.Fatalf("%q is %d to %d", s, first, last)
		}
	})
}
