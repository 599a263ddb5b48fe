package store_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// TestMain lets the test binary be the process that TestStore_SurvivesKill kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("TRYSAIL_TEST_WRITER"); dir != "" {
		writeForEver(dir)
	}
	status := m.Run()
	if err := databases.close(); err != nil {
		fmt.Println(err)
		status = 1
	}
	os.Exit(status)
}

func open(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newService(name string) *trysail.Service {
	return &trysail.Service{
		ID: "id-" + name, Name: name, HostLabel: "label-" + name, CreatedAt: time.Now().UTC(),
		Capacity: trysail.Capacity{Power: trysail.PowerNano, Scale: 2}, State: trysail.ServicePending,
		Detail: trysail.StateDetail{Code: trysail.DetailCreatingSystemResources, Message: "m"},
		Tags:   []trysail.Tag{{Key: "a", Value: "1"}, {Key: "b"}},
	}
}

func newDeployment() *trysail.Deployment {
	hc := trysail.DefaultHealthCheck()
	return &trysail.Deployment{
		State: trysail.DeploymentActivating, CreatedAt: time.Now().UTC(), Deadline: time.Now().UTC().Add(time.Minute),
		Containers: map[string]trysail.Container{"web": {
			Image: "nginx:1", Command: []string{"a", ""}, Environment: map[string]string{"K": "v"},
			Ports: map[string]trysail.Protocol{"80": trysail.ProtocolHTTP},
		}},
		PublicEndpoint: &trysail.PublicEndpoint{ContainerName: "web", ContainerPort: 80, HealthCheck: hc},
		Digests:        map[string]string{"nginx:1": "sha256:ab"},
	}
}

func update(t *testing.T, s *store.Store, fn func(*store.Tx) error) {
	t.Helper()
	if err := s.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func TestStore_KeepsEverythingOfAService(t *testing.T) { both(t, testStoreKeepsEverythingOfAService) }

func testStoreKeepsEverythingOfAService(t *testing.T, open opener) {
	dir := t.TempDir()
	s := open(t, dir)
	want := newService("web")
	want.Fallback = &trysail.Capacity{Power: trysail.PowerMicro, Scale: 3}
	want.Disabled, want.ECRPuller = true, true
	active, next := newDeployment(), newDeployment()
	active.State = trysail.DeploymentActive
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(tx.InsertService(want), tx.InsertDeployment(want.ID, active), tx.InsertDeployment(want.ID, next))
	})
	want.Current, want.Next = active, next
	if active.Version != 1 || next.Version != 2 {
		t.Errorf("versions: got %d and %d, want 1 and 2", active.Version, next.Version)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, dir)
	got, err := s.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]trysail.Service{*want}, got); d != "" {
		t.Errorf("after reopening (-want +got):\n%s", d)
	}
}

func TestStore_ServicesSeesEveryCommit(t *testing.T) { both(t, testStoreServicesSeesEveryCommit) }

func testStoreServicesSeesEveryCommit(t *testing.T, open opener) {
	s := open(t, t.TempDir())
	for i := range 20 {
		update(t, s, func(tx *store.Tx) error { return tx.InsertService(newService(fmt.Sprint("s", i))) })
		list, err := s.Services(t.Context())
		if err != nil || len(list) != i+1 {
			t.Fatalf("Services after %d inserts: got %d, %v", i+1, len(list), err)
		}
	}
}

func TestStore_FailedUpdateChangesNothing(t *testing.T) { both(t, testStoreFailedUpdateChangesNothing) }

func testStoreFailedUpdateChangesNothing(t *testing.T, open opener) {
	s := open(t, t.TempDir())
	boom := errors.New("boom")
	err := s.Update(t.Context(), func(tx *store.Tx) error {
		return errors.Join(tx.InsertService(newService("web")), boom)
	})
	if !errors.Is(err, boom) {
		t.Fatalf("Update: got %v, want %v", err, boom)
	}
	if list, err := s.Services(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("Services: got %v, %v, want none", list, err)
	}
}

func TestStore_RefusesNewerFormat(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.ExecForTest(t.Context(), "PRAGMA user_version = 999"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	before, _ := os.ReadFile(filepath.Join(dir, "trysail.db"))
	if _, err := store.Open(t.Context(), dir); !errors.Is(err, store.ErrNewerFormat) || !strings.Contains(err.Error(), "999") {
		t.Errorf("Open: got %v, want ErrNewerFormat naming 999", err)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, "trysail.db")); string(before) != string(after) {
		t.Error("the refused database was changed")
	}
}

func TestStore_Keeps50Versions(t *testing.T) { both(t, testStoreKeeps50Versions) }

func testStoreKeeps50Versions(t *testing.T, open opener) {
	s := open(t, t.TempDir())
	svc := newService("web")
	update(t, s, func(tx *store.Tx) error { return tx.InsertService(svc) })
	for i := range 60 {
		d := newDeployment()
		d.State = trysail.DeploymentFailed
		if i == 2 {
			d.State = trysail.DeploymentActive // version 3 is old, but serving
		}
		update(t, s, func(tx *store.Tx) error { return tx.InsertDeployment(svc.ID, d) })
	}
	var list []trysail.Deployment
	err := s.View(t.Context(), func(tx *store.Tx) (err error) { list, err = tx.Deployments(svc.ID); return err })
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 50 || list[0].Version != 60 || list[48].Version != 12 || list[49].Version != 3 {
		t.Errorf("kept %d versions, newest %d, oldest %d; want 50: 60…12 and 3", len(list), list[0].Version, list[len(list)-1].Version)
	}
}

func TestStore_SealsSecrets(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	key := store.AccessKey{ID: "AKIA1", Name: "admin", Secret: "very-secret-words", Role: trysail.RoleDeploy, Services: []string{"api", "web"}, CreatedAt: time.Now().UTC()}
	update(t, s, func(tx *store.Tx) error { return tx.InsertKey(key) })
	var got store.AccessKey
	if err := s.View(t.Context(), func(tx *store.Tx) (err error) { got, err = tx.Key("AKIA1"); return err }); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(key, got); d != "" {
		t.Errorf("Key (-want +got):\n%s", d)
	}
	s.Close()
	for _, name := range []string{"trysail.db", "trysail.db-wal"} {
		if b, _ := os.ReadFile(filepath.Join(dir, name)); strings.Contains(string(b), key.Secret) {
			t.Errorf("%s holds the secret in clear", name)
		}
	}
	for _, name := range []string{"seal.key", "trysail.db"} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v, want 0600", name, fi.Mode(), err)
		}
	}
}

func TestStore_PodsOutliveTheirEnd(t *testing.T) { both(t, testStorePodsOutliveTheirEnd) }

func testStorePodsOutliveTheirEnd(t *testing.T, open opener) {
	s := open(t, t.TempDir())
	svc := newService("web")
	p := trysail.PodRecord{ID: "p1", ServiceID: svc.ID, Version: 1, Power: trysail.PowerNano, Slot: 1, Attempt: 2, CreatedAt: time.Now().UTC()}
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(tx.InsertService(svc), tx.InsertDeployment(svc.ID, newDeployment()), tx.InsertPod(&p))
	})
	p.StopAt, p.EndedAt, p.Failed, p.Reason = p.CreatedAt.Add(1), p.CreatedAt.Add(2), true, "exited with code 3"
	p.Evidence = &trysail.PodEvidence{LogTail: map[string][]string{"web": {"boom"}}, Listeners: []trysail.Listener{{Address: netip.MustParseAddrPort("127.0.0.1:80")}}}
	update(t, s, func(tx *store.Tx) error { return tx.UpdatePod(&p) })
	err := s.View(t.Context(), func(tx *store.Tx) error {
		live, err := tx.Pods(svc.ID, false)
		if err != nil || len(live) != 0 {
			t.Errorf("live pods: got %v, %v", live, err)
		}
		all, err := tx.Pods(svc.ID, true)
		if d := cmp.Diff([]trysail.PodRecord{p}, all, cmpopts.EquateComparable(netip.AddrPort{})); err != nil || d != "" {
			t.Errorf("all pods (-want +got), %v:\n%s", err, d)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestStore_TellsSubscribersAfterTheCommit(t *testing.T) {
	both(t, testStoreTellsSubscribersAfterTheCommit)
}

func testStoreTellsSubscribersAfterTheCommit(t *testing.T, open opener) {
	s := open(t, t.TempDir())
	sub := s.Subscribe()
	update(t, s, func(tx *store.Tx) error {
		err := tx.InsertService(newService("a"))
		if ids := sub.Take(); len(ids) > 0 {
			t.Errorf("told before the commit: %v", ids)
		}
		return err
	})
	<-sub.Wake()
	if d := cmp.Diff([]string{"id-a"}, sub.Take()); d != "" {
		t.Errorf("Take (-want +got):\n%s", d)
	}
}

func TestStore_ConcurrentWritersLoseNothing(t *testing.T) {
	both(t, testStoreConcurrentWritersLoseNothing)
}

func testStoreConcurrentWritersLoseNothing(t *testing.T, open opener) {
	s := open(t, t.TempDir())
	svc := newService("web")
	update(t, s, func(tx *store.Tx) error { return tx.InsertService(svc) })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				d := newDeployment()
				if err := s.Update(context.WithoutCancel(t.Context()), func(tx *store.Tx) error { return tx.InsertDeployment(svc.ID, d) }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	err := s.View(t.Context(), func(tx *store.Tx) error {
		list, err := tx.Deployments(svc.ID)
		if len(list) != 40 || list[0].Version != 40 {
			t.Errorf("got %d deployments, newest %d, want 40", len(list), list[0].Version)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// writeForEver inserts services and prints each name once its commit was acknowledged.
func writeForEver(dir string) {
	s, err := store.Open(context.Background(), dir)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for i := 0; ; i++ {
		name := fmt.Sprint("s", i)
		if err := s.Update(context.Background(), func(tx *store.Tx) error { return tx.InsertService(newService(name)) }); err != nil {
			os.Exit(1)
		}
		fmt.Println(name)
	}
}

func TestStore_SurvivesKill(t *testing.T) {
	for round := range 5 {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "TRYSAIL_TEST_WRITER="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		acknowledged := 0
		for sc := bufio.NewScanner(out); sc.Scan(); acknowledged++ {
			if acknowledged == 10+round*7 {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		s := open(t, dir)
		list, err := s.Services(t.Context())
		if err != nil || acknowledged < 10 || len(list) < acknowledged || len(list) > acknowledged+1 {
			t.Errorf("round %d: %d were acknowledged, %d are there, %v", round, acknowledged, len(list), err)
		}
	}
}

func TestStore_SettingsOfServicesFromBefore(t *testing.T) {
	dir := t.TempDir()
	files, err := filepath.Glob("migration/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	before := slices.IndexFunc(files, func(f string) bool { return strings.HasSuffix(f, "_settings.sql") })
	db, err := sql.Open("sqlite", filepath.Join(dir, "trysail.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	exec := func(query string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range files[:before] {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		exec(string(text))
	}
	exec("INSERT INTO services (id, name, created_at, host_label, power, scale, state) VALUES ('id', 'web', 1, 'label', 'nano', 1, 'READY')")
	exec(fmt.Sprintf("PRAGMA user_version = %d; PRAGMA application_id = %d", before, 0x54534c31))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	update(t, s, func(tx *store.Tx) error {
		web, err := tx.Service("web")
		if err != nil {
			return err
		}
		if !cmp.Equal(web.Settings, trysail.ServiceSettings{}) {
			t.Errorf("settings %+v", web.Settings)
		}
		web.Settings.AccessLog = true
		return tx.UpdateService(web)
	})
	list, err := s.Services(t.Context())
	if err != nil || len(list) != 1 || !list[0].Settings.AccessLog {
		t.Errorf("services %+v, %v", list, err)
	}
}
