package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// fill makes some of everything.
func fillAll(t *testing.T, s *store.Store) {
	t.Helper()
	for i := range 3 {
		update(t, s, func(tx *store.Tx) error {
			svc := newService(fmt.Sprint("s", i))
			svc.Tags = append(svc.Tags, trysail.Tag{Key: "ü\"'", Value: "日本\n"})
			svc.PublicDomains = map[string][]string{"cert": {fmt.Sprintf("d%d.example.com", i)}}
			pod := trysail.PodRecord{ID: trysail.PodID("p" + svc.ID), ServiceID: svc.ID, Version: 1, CreatedAt: tx.Now(), Failed: true, Evidence: &trysail.PodEvidence{StartError: "x"}}
			content := []byte{0, 1, 2, 255, byte(i)}
			return errors.Join(
				tx.InsertService(svc), tx.InsertDeployment(svc.ID, newDeployment()), tx.InsertPod(&pod), tx.UpdatePod(&pod),
				tx.PutManifest(store.Manifest{Digest: fmt.Sprint("sha256:", i), MediaType: "m", Content: content}, []store.ManifestReference{{Digest: "b", Blob: true}}, fmt.Sprint("t", i)),
				tx.InsertKey(store.AccessKey{ID: fmt.Sprint("AK", i), Secret: "secret", CreatedAt: tx.Now()}),
				tx.Audit(trysail.AuditEvent{Caller: trysail.Caller{AccessKeyID: "AK0", Name: "n", Role: trysail.RoleAdmin}, Operation: "Op", Service: svc.Name, Resource: svc.Name, Outcome: trysail.AuditFailure, ErrorCode: "E", Origin: trysail.Origin{RequestID: "r", SourceAddress: "::1", UserAgent: "ü"}, Details: map[string]string{"message": "日本\n"}}),
				tx.InsertOperation(trysail.Operation{ID: fmt.Sprint("o", i), ResourceName: svc.Name, Type: "T", Status: trysail.OperationStarted, CreatedAt: tx.Now()}),
				tx.InsertCertificate(&trysail.Certificate{ID: fmt.Sprint(i), Name: fmt.Sprint("c", i), Tags: []trysail.Tag{{Key: "k"}}, Domains: []trysail.DomainCertificate{{Domain: fmt.Sprintf("d%d.example.com", i), Token: "t"}}}),
				tx.PutRegistry(trysail.Registry{Host: fmt.Sprint("h", i), Secret: "secret", PlainHTTP: i == 1}),
				tx.InsertTask(&trysail.Task{ID: trysail.PodID("task" + svc.ID), ServiceID: svc.ID, Version: 1, Command: []string{"a", ""}, CreatedAt: tx.Now()}),
				tx.InsertSession(store.Session{Hash: fmt.Sprint("s", i), KeyID: "AK0", Token: "t", MadeAt: tx.Now(), UsedAt: tx.Now(), Flash: "ü"}, time.Time{}, time.Time{}, 9),
				tx.InsertLogin([]byte{byte(i)}, "AK0", tx.Now().Add(1<<40)),
			)
		})
		update(t, s, func(tx *store.Tx) error {
			svc, err := tx.Service(fmt.Sprint("s", i))
			if err == nil {
				_, err = tx.RegisterImage(svc, "www", fmt.Sprint("sha256:", i))
			}
			_, factErr := tx.Fact("host_label", "abc")
			_, routeErr := tx.SetRoute(trysail.Route{Service: svc.Name, ServiceID: svc.ID, Mode: trysail.RouteServe})
			_, beatErr := tx.Beat(store.Server{ID: fmt.Sprint("server", i), Applied: 1, Draining: []trysail.PodID{"p"}})
			return errors.Join(err, factErr, routeErr, beatErr, tx.PutSharedFile(fmt.Sprint("ca/", i), []byte{0, 255}))
		})
	}
}

func TestCopy_ThereAndBack(t *testing.T) {
	dir, again := t.TempDir(), t.TempDir()
	from := open(t, dir)
	fillAll(t, from)
	want := everything(t, from)
	key, err := os.ReadFile(filepath.Join(dir, "seal.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(again, "seal.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	middle := openPostgres(t, store.Postgres{URL: databases.make(t), Dir: dir})
	back, err := store.OpenTarget(t.Context(), again)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { back.Close() })
	for _, step := range []struct{ from, to *store.Store }{{from, middle}, {from, middle}, {middle, back}, {middle, back}} { // each twice
		tables, err := store.Copy(t.Context(), step.from, step.to)
		if err != nil {
			t.Fatal(err)
		}
		for _, table := range tables {
			if table.Rows == 0 {
				t.Errorf("table %s is empty: this test does not show that it is copied; put something into it in fillAll", table.Name)
			}
		}
	}
	for name, s := range map[string]*store.Store{"PostgreSQL": middle, "SQLite": back} {
		if d := cmp.Diff(want, everything(t, s), exact); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		// The numbers that the database gives go on.
		update(t, s, func(tx *store.Tx) error {
			return errors.Join(tx.Audit(trysail.AuditEvent{Caller: trysail.Caller{Name: "new"}, Operation: "Op", Resource: "r"}), tx.InsertOperation(trysail.Operation{ID: "new", Type: "T", CreatedAt: tx.Now()}))
		})
		look(t, s, func(tx *store.Tx) error {
			trail, _, err := tx.AuditTrail(store.AuditQuery{Limit: 1})
			operations, _, opErr := tx.Operations("", 0, 1)
			if len(trail) != 1 || trail[0].Caller.Name != "new" || len(operations) != 1 || operations[0].ID != "new" {
				t.Errorf("%s: the newest are %+v and %+v", name, trail, operations)
			}
			return errors.Join(err, opErr)
		})
	}
	if err := errors.Join(back.Close(), store.KeepTarget(again), store.KeepTarget(again)); err != nil {
		t.Fatal(err)
	}
	if list, err := open(t, again).Services(t.Context()); err != nil || len(list) != 3 {
		t.Errorf("opened as usual: %v, %v", list, err)
	}
	if _, err := store.Copy(t.Context(), from, middle); !errors.Is(err, store.ErrNotEmpty) {
		t.Errorf("onto something else: %v", err)
	}
}

func TestCopy_NeedsTheSameKey(t *testing.T) {
	from, to := open(t, t.TempDir()), openPostgres(t, store.Postgres{URL: databases.make(t)})
	update(t, from, insert("web"))
	if _, err := store.Copy(t.Context(), from, to); err == nil {
		t.Error("secrets were copied that nobody can open")
	}
	if list, err := to.Services(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// TestCopy_ACutLeavesNothing ends a copy half way, and does it again.
func TestCopy_ACutLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	from := open(t, dir)
	for i := range 300 {
		update(t, from, insert(fmt.Sprint("s", i)))
	}
	databaseURL := databases.make(t)
	network, through := behind(t, databaseURL)
	to := openPostgres(t, store.Postgres{URL: through, Dir: dir})
	network.cutAfter(40_000)
	if _, err := store.Copy(t.Context(), from, to); err == nil {
		t.Fatal("the network was not cut")
	}
	if n := databases.sql(t, databaseURL, "SELECT count(*) FROM services"); n != "0" {
		t.Errorf("%s services are there", n)
	}
	network.connect()
	if _, err := store.Copy(t.Context(), from, to); err != nil {
		t.Error(err)
	}
	if n := databases.sql(t, databaseURL, "SELECT count(*) FROM services"); n != "300" {
		t.Errorf("%s services are there", n)
	}
}

func TestMarkMoved_NobodyBeginsAnewByMistake(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	update(t, s, insert("web"))
	if _, err := store.MarkMoved(dir); err == nil {
		t.Error("an open file was moved")
	}
	s.Close()
	file, err := store.MarkMoved(dir)
	if err != nil {
		t.Fatal(err)
	}
	target, err := store.OpenTarget(t.Context(), dir) // somebody began to move it back, but did not end
	if err != nil {
		t.Fatal(err)
	}
	target.Close()
	_, err = store.Open(t.Context(), dir)
	if moved, ok := errors.AsType[*store.MovedError](err); !ok || moved.File != file {
		t.Errorf("opened: %v", err)
	}
	if err := os.Rename(file, filepath.Join(dir, "trysail.db")); err != nil {
		t.Fatal(err)
	}
	if list, err := open(t, dir).Services(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("after going back: %v, %v", list, err)
	}
}
