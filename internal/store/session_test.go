package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail/internal/store"
)

func TestSessions_AreBoundedAndEnd(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		s := open(t, t.TempDir())
		start := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
		add := func(hash string, made, used time.Duration) {
			t.Helper()
			update(t, s, func(tx *store.Tx) error {
				return tx.InsertSession(store.Session{Hash: hash, KeyID: "AKIA", Token: "secret " + hash, MadeAt: start.Add(made), UsedAt: start.Add(used)},
					start.Add(-time.Hour), start.Add(-time.Minute), 2)
			})
		}
		there := func(hash string) (found store.Session, ok bool) {
			t.Helper()
			look(t, s, func(tx *store.Tx) (err error) {
				found, err = tx.Session(hash)
				ok = err == nil
				if errors.Is(err, store.ErrNotFound) {
					return nil
				}
				return err
			})
			return found, ok
		}
		add("too old", -2*time.Hour, 0)
		add("idle", 0, -time.Hour)
		add("a", 0, time.Second)
		for _, hash := range []string{"too old", "idle"} {
			if _, ok := there(hash); ok {
				t.Errorf("the session %q is still there", hash)
			}
		}
		add("b", 0, 2*time.Second)
		update(t, s, func(tx *store.Tx) error { return tx.UseSession("a", start.Add(time.Minute), "saved ü") })
		add("c", 0, 3*time.Second)
		if _, ok := there("b"); ok {
			t.Error("the session that was used least recently is still there")
		}
		want := store.Session{Hash: "a", KeyID: "AKIA", Token: "secret a", MadeAt: start, UsedAt: start.Add(time.Minute), Flash: "saved ü"}
		if got, _ := there("a"); !cmp.Equal(got, want) {
			t.Errorf("(-want +got):\n%s", cmp.Diff(want, got))
		}
		update(t, s, func(tx *store.Tx) error {
			return errors.Join(tx.DeleteSession("a"), tx.UseSession("a", start, ""))
		})
		if _, ok := there("a"); ok {
			t.Error("it was ended and is there")
		}
	})
}
