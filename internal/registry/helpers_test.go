package registry_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/registry"
	"github.com/trysail/trysail/internal/store"
)

const (
	password = "a-password-of-a-test"

	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaIndex    = "application/vnd.oci.image.index.v1+json"
	mediaConfig   = "application/vnd.oci.image.config.v1+json"
	mediaLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// bench is a registry and its parts. Its client calls the handler without a network.
type bench struct {
	*registry.Registry
	store *store.Store
	dir   string // of the registry
}

// openBench opens a registry for linux/amd64 in a data directory, with a login that is valid for years.
func openBench(ctx context.Context, dir string, cfg registry.Config) (*bench, error) {
	s, err := store.Open(ctx, dir)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256([]byte(password))
	err = s.Update(ctx, func(tx *store.Tx) error {
		if _, _, err := tx.Login(hash[:]); !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return errors.Join(tx.InsertKey(store.AccessKey{ID: "KEY", Name: "test", Secret: "secret", Role: trysail.RoleAdmin, CreatedAt: tx.Now()}),
			tx.InsertLogin(hash[:], "KEY", tx.Now().AddDate(50, 0, 0)))
	})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(dir, "registry")
	}
	cfg.Store = s
	if cfg.Platform == (registry.Platform{}) {
		cfg.Platform = registry.Platform{OS: "linux", Architecture: "amd64"}
	}
	r, err := registry.Open(ctx, cfg)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return &bench{r, s, cfg.Dir}, nil
}

func newBench(t *testing.T, cfg registry.Config) *bench {
	t.Helper()
	b, err := openBench(t.Context(), t.TempDir(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.store.Close() })
	return b
}

// serve serves the registry on a loopback address, host:port.
func (b *bench) serve(t *testing.T) (host string) {
	t.Helper()
	server := httptest.NewServer(b.Handler())
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// do sends a request with the login. path follows /v2/. headers are names and values in turn.
func (b *bench) do(method, path string, body []byte, headers ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, "/v2/"+path, bytes.NewReader(body))
	req.SetBasicAuth(registry.Username, password)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	b.Handler().ServeHTTP(w, req)
	return w
}

// refused checks that an answer is an error of the specification, and returns its message.
func refused(t *testing.T, w *httptest.ResponseRecorder, status int, code string) string {
	t.Helper()
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || len(e.Errors) != 1 {
		t.Fatalf("got %d %q, want one error in JSON", w.Code, w.Body)
	}
	if w.Code != status || e.Errors[0].Code != code || e.Errors[0].Message == "" {
		t.Errorf("got %d %+v, want %d %s", w.Code, e.Errors[0], status, code)
	}
	return e.Errors[0].Message
}

func digestOf(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }

// pushBlob pushes a blob in one request.
func (b *bench) pushBlob(content []byte) error {
	if w := b.do("POST", "sr/blobs/uploads/?digest="+digestOf(content), content); w.Code != 201 {
		return fmt.Errorf("pushing a blob: %d %s", w.Code, w.Body)
	}
	return nil
}

// pushManifest pushes a manifest by its digest, or by a tag if there is one.
func (b *bench) pushManifest(mediaType string, content []byte, tag string) (digest string, err error) {
	ref := tag
	if ref == "" {
		ref = digestOf(content)
	}
	w := b.do("PUT", "sr/manifests/"+ref, content, "Content-Type", mediaType)
	if w.Code != 201 {
		return "", fmt.Errorf("pushing a manifest: %d %s", w.Code, w.Body)
	}
	return w.Header().Get("Docker-Content-Digest"), nil
}

type object = map[string]any

func toJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only maps of plain values
	}
	return b
}

func descriptor(mediaType string, content []byte) object {
	return object{"mediaType": mediaType, "digest": digestOf(content), "size": len(content)}
}

// image is the manifest of an image for a platform, and its blobs.
func image(platform string, layers ...[]byte) (manifest []byte, blobs [][]byte) {
	os, arch, _ := strings.Cut(platform, "/")
	config := toJSON(object{"os": os, "architecture": arch, "rootfs": object{"type": "layers"}})
	list := []object{}
	for _, l := range layers {
		list = append(list, descriptor(mediaLayer, l))
	}
	m := object{"schemaVersion": 2, "mediaType": mediaManifest, "config": descriptor(mediaConfig, config), "layers": list}
	return toJSON(m), append([][]byte{config}, layers...)
}

// index is an index of manifests, each with the platform of the same place unless that is empty.
func index(manifests [][]byte, platforms ...string) []byte {
	list := []object{}
	for i, m := range manifests {
		d := descriptor(mediaManifest, m)
		if os, arch, ok := strings.Cut(platforms[i], "/"); ok {
			d["platform"] = object{"os": os, "architecture": arch}
		}
		list = append(list, d)
	}
	return toJSON(object{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": list})
}

// pushImage pushes an image with its blobs.
func (b *bench) pushImage(manifest []byte, blobs [][]byte, tag string) (digest string, err error) {
	for _, blob := range blobs {
		if err := b.pushBlob(blob); err != nil {
			return "", err
		}
	}
	return b.pushManifest(mediaManifest, manifest, tag)
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// files lists the files of the registry: blobs by their digests, everything else by its path.
func (b *bench) files(t *testing.T) (list []string) {
	t.Helper()
	err := filepath.WalkDir(b.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(b.dir, path)
		if parts := strings.Split(rel, "/"); parts[0] == "blobs" {
			rel = parts[1] + ":" + parts[3]
		}
		list = append(list, rel)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func fromJSON(t *testing.T, w *httptest.ResponseRecorder, v any) {
	t.Helper()
	if err := json.Unmarshal(w.Body.Bytes(), v); err != nil {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
}

func basic(user, password string) string {
	req := http.Request{Header: http.Header{}}
	req.SetBasicAuth(user, password)
	return req.Header.Get("Authorization")
}
