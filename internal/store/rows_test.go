package store_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// exported is everything that moves from an installation, in small pages.
func exported(t *testing.T, s *store.Store) map[string][]store.Row {
	t.Helper()
	all := map[string][]store.Row{}
	for _, table := range store.MovingTables() {
		for more := true; more; {
			var page []store.Row
			err := s.View(t.Context(), func(tx *store.Tx) (err error) {
				page, more, err = tx.ExportRows(table, len(all[table]), 100)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			all[table] = append(all[table], page...)
		}
	}
	return all
}

func imported(t *testing.T, s *store.Store, all map[string][]store.Row) {
	t.Helper()
	for _, table := range store.MovingTables() {
		for _, row := range all[table] {
			copied := maps.Clone(row)
			update(t, s, func(tx *store.Tx) error {
				_, err := tx.ImportRow(table, copied)
				return err
			})
		}
	}
}

// TestRows_MoveToAnotherInstallation: everything arrives, whatever the databases, secrets open under another key, services
// disabled; twice is the same as once; and what has been enabled there is left alone.
func TestRows_MoveToAnotherInstallation(t *testing.T) {
	from := open(t, t.TempDir())
	fillAll(t, from)
	all := exported(t, from)
	both(t, func(t *testing.T, open opener) {
		to := open(t, t.TempDir())
		for table, rows := range all {
			if len(rows) == 0 {
				t.Errorf("table %s is empty: put something into it in fillAll", table)
			}
		}
		imported(t, to, all)
		imported(t, to, all)
		again := exported(t, to)
		for _, table := range []string{"access_keys", "registries", "registry_logins", "certificates", "certificate_domains", "certificate_tags", "domains", "tags", "images", "public_domains", "operations", "audit"} {
			if d := cmp.Diff(all[table], again[table], cmpopts.SortSlices(func(a, b store.Row) bool { return textOf(t, a) < textOf(t, b) })); d != "" {
				t.Errorf("table %s (-want +got):\n%s", table, d)
			}
		}
		view := func(fn func(*store.Tx) error) {
			t.Helper()
			if err := to.View(t.Context(), fn); err != nil {
				t.Fatal(err)
			}
		}
		view(func(tx *store.Tx) error {
			services, err := tx.Services()
			for _, s := range services {
				if !s.Disabled || s.State != trysail.ServiceDisabled || s.Next != nil {
					t.Errorf("service %+v", s)
				}
				pods, err := tx.Pods(s.ID, true)
				if err != nil || len(pods) != 1 || pods[0].EndedAt.IsZero() || pods[0].Evidence == nil {
					t.Errorf("pods %+v, %v", pods, err)
				}
			}
			return err
		})
		// It is enabled there, and something is changed that the old side does not know.
		update(t, to, func(tx *store.Tx) error {
			s, err := tx.Service("s1")
			if err != nil {
				return err
			}
			s.Disabled, s.Scale = false, 7
			return errors.Join(tx.UpdateService(s), tx.SetTags(s.ID, nil))
		})
		imported(t, to, all)
		view(func(tx *store.Tx) error {
			s, err := tx.Service("s1")
			if err != nil || s.Scale != 7 || len(s.Tags) != 0 || s.Disabled {
				t.Errorf("what was enabled is %+v", s)
			}
			return err
		})
	})
}

func textOf(t *testing.T, r store.Row) string {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(text)
}

func TestRows_RefuseWhatDoesNotFit(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		from, to := open(t, t.TempDir()), open(t, t.TempDir())
		fillAll(t, from)
		all := exported(t, from)
		update(t, to, func(tx *store.Tx) error {
			other := newService("s1")
			other.ID = "another"
			return tx.InsertService(other)
		})
		service := all["services"][1]
		if service["name"] != "s1" {
			service = all["services"][0]
		}
		for _, tt := range []struct {
			name, table string
			row         store.Row
			want        error
		}{
			{"a name in use", "services", service, store.ErrTaken},
			{"no such service", "tags", store.Row{"service_id": "nobody", "key": "k", "value": "v"}, store.ErrNotFound},
			{"no such table", "manifests", store.Row{}, store.ErrNotFound},
			{"another column", "domains", store.Row{"domain": "d", "token": "t", "surprise": int64(1)}, nil},
			{"no secret", "access_keys", store.Row{"id": "AK", "name": "n"}, nil},
		} {
			err := to.Update(t.Context(), func(tx *store.Tx) error {
				_, err := tx.ImportRow(tt.table, tt.row)
				return err
			})
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
	})
}
