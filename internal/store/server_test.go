package store_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

func routeOf(service string, pods ...string) trysail.Route {
	r := trysail.Route{Service: service, ServiceID: "id-" + service, Host: service + ".example.com", Mode: trysail.RouteServe}
	for _, pod := range pods {
		r.Targets = append(r.Targets, trysail.Target{Pod: trysail.PodID(pod), Version: 1, Addr: netip.MustParseAddrPort("10.0.0.1:80"), Serving: true})
	}
	return r
}

func setRoute(t *testing.T, s *store.Store, r trysail.Route) (generation int64) {
	t.Helper()
	update(t, s, func(tx *store.Tx) (err error) {
		generation, err = tx.SetRoute(r)
		return err
	})
	return generation
}

func TestRoutes_AreReadFromAGenerationOn(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		s := open(t, t.TempDir())
		update(t, s, insert("a"))
		update(t, s, insert("b"))
		first := setRoute(t, s, routeOf("a", "a-1"))
		second := setRoute(t, s, routeOf("b", "b-1"))
		if second <= first || setRoute(t, s, routeOf("a", "a-1")) != first {
			t.Errorf("generations %d and %d, and another one for the same route", first, second)
		}
		look(t, s, func(tx *store.Tx) error {
			changed, all, newest, err := tx.Routes(first)
			if len(changed) != 1 || newest != second || !slices.Equal(all, []string{"id-a", "id-b"}) {
				t.Errorf("routes after %d: %+v, %v, %d", first, changed, all, newest)
			}
			if len(changed) == 1 {
				if d := cmp.Diff(routeOf("b", "b-1"), changed[0].Route, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
					t.Errorf("route (-want +got):\n%s", d)
				}
			}
			return err
		})
		update(t, s, func(tx *store.Tx) error { return tx.DeleteService("id-b") })
		look(t, s, func(tx *store.Tx) error {
			_, all, newest, err := tx.Routes(0)
			if newest != second || !slices.Equal(all, []string{"id-a"}) {
				t.Errorf("after the service is gone: %v, %d", all, newest)
			}
			return err
		})
		if third := setRoute(t, s, routeOf("a")); third <= second {
			t.Errorf("generation %d was used again", third)
		}
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			_, err := tx.SetRoute(routeOf("b"))
			return err
		})
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the route of a service that is not there: %v", err)
		}
	})
}

func TestServers_TellWhatHasChanged(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		s := open(t, t.TempDir())
		sub := s.Subscribe()
		defer sub.Close()
		beat := func(server store.Server) (forgotten, told bool) {
			t.Helper()
			update(t, s, func(tx *store.Tx) (err error) {
				forgotten, err = tx.Beat(server)
				return err
			})
			return forgotten, slices.Contains(sub.Take(), store.ServersChanged)
		}
		for i, step := range []struct {
			applied         int64
			draining        []trysail.PodID
			forgotten, told bool
		}{
			{0, nil, true, true},
			{0, nil, false, false},
			{3, []trysail.PodID{"b", "a"}, false, true},
			{3, []trysail.PodID{"a", "b"}, false, false},
			{3, nil, false, true},
		} {
			forgotten, told := beat(store.Server{ID: "one", Applied: step.applied, Draining: step.draining})
			if forgotten != step.forgotten || told != step.told {
				t.Errorf("step %d: forgotten %v, told %v", i, forgotten, told)
			}
		}
		look(t, s, func(tx *store.Tx) error {
			list, err := tx.Servers()
			if len(list) != 1 || list[0].Beat != 4 || list[0].Applied != 3 || len(list[0].Draining) != 0 {
				t.Errorf("servers %+v", list)
			}
			return err
		})
		update(t, s, func(tx *store.Tx) error { return tx.ForgetServer("one") })
		if forgotten, _ := beat(store.Server{ID: "one"}); !forgotten {
			t.Error("a server that was forgotten is not told so")
		}
	})
}

func TestSharedFiles_AreSealed(t *testing.T) {
	both(t, func(t *testing.T, open opener) {
		s := open(t, t.TempDir())
		update(t, s, func(tx *store.Tx) error {
			return errors.Join(tx.PutSharedFile("ca/key", []byte("one")), tx.PutSharedFile("ca/key", []byte("two\x00")), tx.PutSharedFile("x", nil))
		})
		look(t, s, func(tx *store.Tx) error {
			text, err := tx.SharedFile("ca/key")
			_, missing := tx.SharedFile("none")
			changed, all, newest, allErr := tx.SharedFiles(2)
			if string(text) != "two\x00" || !errors.Is(missing, store.ErrNotFound) || len(all) != 2 || len(changed) != 1 || newest != 3 {
				t.Errorf("%q, %v, %v, %v, %d", text, missing, all, changed, newest)
			}
			return errors.Join(err, allErr)
		})
		update(t, s, func(tx *store.Tx) error { return tx.DeleteSharedFile("ca/key") })
		look(t, s, func(tx *store.Tx) error {
			if _, err := tx.SharedFile("ca/key"); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("a file that was deleted: %v", err)
			}
			return nil
		})
	})
}
