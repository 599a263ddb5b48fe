package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/trysail/trysail/internal/store"
)

// look runs fn on what is stored.
func look(t *testing.T, s *store.Store, fn func(*store.Tx) error) {
	t.Helper()
	if err := s.View(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func TestStore_KeepsManifests(t *testing.T) { both(t, testStoreKeepsManifests) }

func testStoreKeepsManifests(t *testing.T, open opener) {
	s := open(t, t.TempDir())
	image := store.Manifest{Digest: "sha256:aa", MediaType: "image", Content: []byte("{}"), Size: 2}
	index := store.Manifest{Digest: "sha256:bb", MediaType: "index", Content: []byte("{ }"), Size: 3}
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(
			tx.PutManifest(image, []store.ManifestReference{{Digest: "sha256:01", Blob: true}, {Digest: "sha256:02", Blob: true}, {Digest: "sha256:02", Blob: true}}, "b"),
			tx.PutManifest(index, []store.ManifestReference{{Digest: "sha256:aa"}}, "a"),
			tx.PutManifest(image, nil, "c"))
	})
	look(t, s, func(tx *store.Tx) error {
		for _, get := range []func() (store.Manifest, error){
			func() (store.Manifest, error) { return tx.Manifest("sha256:aa") },
			func() (store.Manifest, error) { return tx.TaggedManifest("b") },
			func() (store.Manifest, error) { return tx.TaggedManifest("c") },
		} {
			got, err := get()
			if d := cmp.Diff(image, got, cmpopts.IgnoreFields(store.Manifest{}, "PushedAt")); d != "" || err != nil || time.Since(got.PushedAt) > time.Hour {
				t.Errorf("%v, pushed at %v (-want +got):\n%s", err, got.PushedAt, d)
			}
		}
		if _, err := tx.TaggedManifest("d"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a tag that is not there: %v", err)
		}
		tags, err := tx.ManifestTags("a", 1)
		if d := cmp.Diff([]string{"b"}, tags); d != "" || err != nil {
			t.Error(d, err)
		}
		needing, err := tx.ManifestsNeeding("sha256:aa")
		if d := cmp.Diff([]string{"sha256:bb"}, needing); d != "" || err != nil {
			t.Error(d, err)
		}
		blobs, err := tx.NeededBlobs([]string{"sha256:02", "sha256:aa", "sha256:03"})
		if d := cmp.Diff([]string{"sha256:02"}, blobs); d != "" || err != nil {
			t.Error(d, err)
		}
		refs, err := tx.ManifestReferences()
		if len(refs) != 3 || err != nil {
			t.Errorf("references: %+v, %v", refs, err)
		}
		return err
	})
	update(t, s, func(tx *store.Tx) error { return tx.DeleteManifest("sha256:aa") })
	look(t, s, func(tx *store.Tx) error {
		tags, err := tx.ManifestTags("", 10)
		if d := cmp.Diff([]string{"a"}, tags); d != "" || err != nil {
			t.Errorf("the tags of a deleted manifest: %s %v", d, err)
		}
		blobs, err := tx.NeededBlobs([]string{"sha256:01", "sha256:02"})
		if len(blobs) > 0 || err != nil {
			t.Errorf("what a deleted manifest needed: %v, %v", blobs, err)
		}
		found, err := tx.HasManifest("sha256:aa")
		if found {
			t.Error("it is still there")
		}
		return err
	})
	for name, fn := range map[string]func(*store.Tx) error{
		"manifest": func(tx *store.Tx) error { return tx.DeleteManifest("sha256:aa") },
		"touch":    func(tx *store.Tx) error { return tx.TouchManifest("sha256:aa") },
		"tag":      func(tx *store.Tx) error { _, err := tx.DeleteManifestTag("b"); return err },
	} {
		if err := s.Update(t.Context(), fn); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: got %v, want ErrNotFound", name, err)
		}
	}
	update(t, s, func(tx *store.Tx) error {
		digest, err := tx.DeleteManifestTag("a")
		if digest != "sha256:bb" {
			t.Errorf("the tag named %s", digest)
		}
		return err
	})
}

func TestStore_DeletesOldTagsOnly(t *testing.T) { both(t, testStoreDeletesOldTagsOnly) }

func testStoreDeletesOldTagsOnly(t *testing.T, open opener) {
	s := open(t, t.TempDir())
	put := func(tag string) (at time.Time) {
		update(t, s, func(tx *store.Tx) error {
			at = tx.Now()
			return tx.PutManifest(store.Manifest{Digest: "sha256:aa", MediaType: "m", Content: []byte("{}")}, nil, tag)
		})
		return at
	}
	first := put("old")
	put("young")
	update(t, s, func(tx *store.Tx) error { return tx.DeleteManifestTags(first) })
	look(t, s, func(tx *store.Tx) error {
		tags, err := tx.ManifestTags("", 10)
		if d := cmp.Diff([]string{"young"}, tags); d != "" {
			t.Error(d)
		}
		return err
	})
}

func TestStore_FindsReferrers(t *testing.T) { both(t, testStoreFindsReferrers) }

func testStoreFindsReferrers(t *testing.T, open opener) {
	s := open(t, t.TempDir())
	update(t, s, func(tx *store.Tx) error {
		for _, m := range []store.Manifest{
			{Digest: "sha256:03", ArtifactType: "x", Annotations: map[string]string{"k": "v"}},
			{Digest: "sha256:01", ArtifactType: "y"},
			{Digest: "sha256:02", ArtifactType: "x"},
		} {
			m.MediaType, m.Subject, m.Content = "m", "sha256:aa", []byte("{}")
			if err := tx.PutManifest(m, nil, ""); err != nil {
				return err
			}
		}
		return nil
	})
	for _, tc := range []struct {
		artifactType, after string
		limit               int
		want                []string
	}{
		{"", "", 10, []string{"sha256:01", "sha256:02", "sha256:03"}},
		{"", "sha256:01", 1, []string{"sha256:02"}},
		{"x", "", 10, []string{"sha256:02", "sha256:03"}},
	} {
		look(t, s, func(tx *store.Tx) error {
			var got []string
			err := tx.ManifestReferrers("sha256:aa", tc.artifactType, tc.after, func(m store.Manifest) bool {
				got = append(got, m.Digest)
				if m.Size != 2 || m.Digest == "sha256:03" && m.Annotations["k"] != "v" {
					t.Errorf("%+v", m)
				}
				return len(got) < tc.limit
			})
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("%+v (-want +got):\n%s", tc, d)
			}
			return err
		})
	}
}
