package store_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

func TestStore_NumbersImagesPerServiceAndNeverTwice(t *testing.T) {
	both(t, testStoreNumbersImagesPerServiceAndNeverTwice)
}

func testStoreNumbersImagesPerServiceAndNeverTwice(t *testing.T, open opener) {
	s := open(t, t.TempDir())
	web, other := newService("web"), newService("other")
	update(t, s, func(tx *store.Tx) error { return errors.Join(tx.InsertService(web), tx.InsertService(other)) })
	err := s.Update(t.Context(), func(tx *store.Tx) error { _, err := tx.RegisterImage(web, "www", "sha256:aa"); return err })
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an image that was never pushed: %v", err)
	}
	update(t, s, func(tx *store.Tx) error {
		return tx.PutManifest(store.Manifest{Digest: "sha256:aa", MediaType: "m", Content: []byte("{}")}, nil, "")
	})
	register := func(svc *trysail.Service, label string) string {
		t.Helper()
		var name string
		update(t, s, func(tx *store.Tx) error {
			img, err := tx.RegisterImage(svc, label, "sha256:aa")
			name = img.Name()
			return err
		})
		return name
	}
	got := []string{register(web, "www"), register(web, "api"), register(other, "www")}
	update(t, s, func(tx *store.Tx) error { return tx.DeleteImage(web, 2) })
	got = append(got, register(web, "api"))
	if diff := cmp.Diff([]string{":web.www.1", ":web.api.2", ":other.www.1", ":web.api.3"}, got); diff != "" {
		t.Error(diff)
	}
	err = s.View(t.Context(), func(tx *store.Tx) error {
		list, err := tx.Images(web)
		if err != nil {
			return err
		}
		if len(list) != 2 || list[0].Name() != ":web.api.3" || list[1].Name() != ":web.www.1" {
			t.Errorf("images, newest first: %+v", list)
		}
		latest, err := tx.FindImage(trysail.StoredImage{Service: "web", Label: "api"})
		if err != nil || latest.Number != 3 {
			t.Errorf("latest: %+v, %v", latest, err)
		}
		if _, err := tx.FindImage(trysail.StoredImage{Service: "web", Label: "api", Number: 2}); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a deleted image: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	update(t, s, func(tx *store.Tx) error { return tx.DeleteService(web.ID) })
	err = s.View(t.Context(), func(tx *store.Tx) error {
		list, err := tx.AllImages()
		if len(list) != 1 {
			t.Errorf("after the service is gone: %+v", list)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestStore_LoginEndsWithItsKey(t *testing.T) { both(t, testStoreLoginEndsWithItsKey) }

func testStoreLoginEndsWithItsKey(t *testing.T, open opener) {
	s := open(t, t.TempDir())
	expires := time.Now().Add(time.Hour).Truncate(time.Nanosecond)
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(tx.InsertKey(store.AccessKey{ID: "AK", Secret: "s"}), tx.InsertLogin([]byte("hash"), "AK", expires))
	})
	find := func(hash string) error {
		return s.View(t.Context(), func(tx *store.Tx) error {
			key, until, err := tx.Login([]byte(hash))
			if err == nil && (key != "AK" || !until.Equal(expires)) {
				t.Errorf("login of %q until %v", key, until)
			}
			return err
		})
	}
	if err := find("hash"); err != nil {
		t.Error(err)
	}
	if err := find("other"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an unknown hash: %v", err)
	}
	update(t, s, func(tx *store.Tx) error { return tx.DeleteKey("AK") })
	if err := find("hash"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after the key was deleted: %v", err)
	}
}

func TestStore_SealsRegistrySecrets(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	want := trysail.Registry{Host: "ghcr.io", Username: "me", Secret: "very-secret-token", Mirrors: []string{"https://m.example.com"}, CA: "PEM", PlainHTTP: true}
	update(t, s, func(tx *store.Tx) error { return tx.PutRegistry(want) })
	update(t, s, func(tx *store.Tx) error {
		got, err := tx.Registry("ghcr.io")
		want.UpdatedAt = got.UpdatedAt
		if diff := cmp.Diff(want, got); diff != "" || got.UpdatedAt.IsZero() {
			t.Error(diff)
		}
		return err
	})
	files, err := filepath.Glob(filepath.Join(dir, "trysail.db*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no database: %v", err)
	}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(content, []byte(want.Secret)) {
			t.Errorf("%s holds the secret in clear", filepath.Base(f))
		}
	}
	update(t, s, func(tx *store.Tx) error { return tx.DeleteRegistry("ghcr.io") })
	err = s.View(t.Context(), func(tx *store.Tx) error { _, err := tx.Registry("ghcr.io"); return err })
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a deleted registry: %v", err)
	}
}
