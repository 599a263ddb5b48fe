package store_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
	"github.com/trysail/trysail/test/postgres"
)

// patience is how long a condition may take on a machine that is busy with other things.
const patience = time.Minute

// until waits for a condition.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v: %s", patience, what)
		}
	}
}

// hears waits until a subscriber was told of all the ids.
func hears(t *testing.T, sub *store.Subscription, want ...string) {
	t.Helper()
	missing := map[string]bool{}
	for _, id := range want {
		missing[id] = true
	}
	timeout := time.After(patience)
	for len(missing) > 0 {
		select {
		case <-timeout:
			t.Fatalf("nobody told of %v", missing)
		case <-sub.Wake():
		}
		for _, id := range sub.Take() {
			delete(missing, id)
		}
	}
}

// pair opens one database twice, as two servers do.
func pair(t *testing.T) (a, b *store.Store, databaseURL string) {
	t.Helper()
	databaseURL, dir := databases.make(t), t.TempDir()
	return openPostgres(t, store.Postgres{URL: databaseURL, Dir: dir}), openPostgres(t, store.Postgres{URL: databaseURL, Dir: dir}), databaseURL
}

func insert(name string) func(*store.Tx) error {
	return func(tx *store.Tx) error { return tx.InsertService(newService(name)) }
}

func remove(name string) func(*store.Tx) error {
	return func(tx *store.Tx) error { return tx.DeleteService("id-" + name) }
}

func TestPostgres_TellsOtherProcesses(t *testing.T) {
	a, b, _ := pair(t)
	subA, subB := a.Subscribe(), b.Subscribe()
	update(t, a, insert("web"))
	hears(t, subB, "id-web")
	hears(t, subA, "id-web")
	// More ids than one notification can carry.
	var want []string
	update(t, b, func(tx *store.Tx) error {
		for i := range 150 {
			svc := newService(strings.Repeat("many", 15) + fmt.Sprint(i))
			want = append(want, svc.ID)
			if err := tx.InsertService(svc); err != nil {
				return err
			}
		}
		return nil
	})
	hears(t, subA, want...)
	subA.Close()
	update(t, b, remove("web"))
	hears(t, subB, "id-web")
}

func TestPostgres_ServicesSeesTheCommitsOfOthers(t *testing.T) {
	a, b, _ := pair(t)
	for i := range 20 {
		update(t, a, insert(fmt.Sprint("s", i)))
		for range 2 {
			list, err := b.Services(t.Context())
			if err != nil || len(list) != i+1 {
				t.Fatalf("after %d commits of another process: %d services, %v", i+1, len(list), err)
			}
		}
	}
}

func TestPostgres_ABrokenConnectionWakesForEverything(t *testing.T) {
	databaseURL, dir := databases.make(t), t.TempDir()
	a := openPostgres(t, store.Postgres{URL: databaseURL, Dir: dir})
	network, through := behind(t, databaseURL)
	update(t, a, insert("before"))
	b := openPostgres(t, store.Postgres{URL: through, Dir: dir})
	sub := b.Subscribe()
	update(t, a, insert("known"))
	hears(t, sub, "id-known")
	network.disconnect()
	update(t, a, insert("meanwhile"))
	update(t, a, remove("known"))
	network.connect()
	hears(t, sub, "id-before", "id-meanwhile", "id-known", store.CertificatesChanged, store.RoutesChanged, store.ServersChanged, store.FilesChanged)
	update(t, a, insert("after"))
	hears(t, sub, "id-after")
}

func TestPostgres_WritersOfTwoProcessesLoseNothing(t *testing.T) {
	a, b, _ := pair(t)
	svc := newService("web")
	update(t, a, insert("web"))
	var wg sync.WaitGroup
	for _, s := range []*store.Store{a, a, b, b} {
		wg.Go(func() {
			for range 10 {
				if err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.InsertDeployment(svc.ID, newDeployment()) }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	look(t, a, func(tx *store.Tx) error {
		list, err := tx.Deployments(svc.ID)
		if len(list) != 40 || list[0].Version != 40 {
			t.Errorf("%d deployments, newest %d", len(list), list[0].Version)
		}
		return err
	})
}

// TestPostgres_ASecondTryWins has two processes read the same and both write: one must see what the other wrote.
func TestPostgres_ASecondTryWins(t *testing.T) {
	a, b, _ := pair(t)
	tries := 0
	update(t, a, func(tx *store.Tx) error {
		tries++
		n, err := tx.CountServices()
		if err != nil {
			return err
		}
		if tries == 1 {
			update(t, b, func(tx *store.Tx) error {
				n, err := tx.CountServices()
				return errors.Join(err, tx.InsertService(newService(fmt.Sprint("b", n))))
			})
		}
		return tx.InsertService(newService(fmt.Sprint("a", n)))
	})
	list, err := a.Services(t.Context())
	if err != nil || len(list) != 2 || list[1].Name != "a1" || tries < 2 {
		t.Errorf("%d tries: %+v, %v", tries, list, err)
	}
}

func TestPostgres_SurvivesCutConnections(t *testing.T) {
	a, _, databaseURL := pair(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			databases.sql(t, databaseURL, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
		}
	})
	acknowledged, unknown := map[string]bool{}, map[string]bool{}
	for i := range 60 {
		name := fmt.Sprint("s", i)
		switch err := a.Update(t.Context(), insert(name)); {
		case err == nil:
			acknowledged["id-"+name] = true
		case errors.Is(err, store.ErrUnavailable):
			unknown["id-"+name] = true
		default:
			t.Fatal(err)
		}
	}
	stop()
	wg.Wait()
	var list []trysail.Service
	until(t, "the services cannot be read", func() bool {
		var err error
		list, err = a.Services(t.Context())
		return err == nil
	})
	for _, s := range list {
		if !acknowledged[s.ID] && !unknown[s.ID] {
			t.Errorf("%s is there twice, or from nowhere", s.ID)
		}
		delete(acknowledged, s.ID)
	}
	if len(acknowledged) > 0 || len(unknown) == 60 {
		t.Errorf("%d services were acknowledged and are not there, of %d nothing is known", len(acknowledged), len(unknown))
	}
}

// ownServer starts a PostgreSQL for one test.
func ownServer(t *testing.T, settings ...string) *postgres.Server {
	t.Helper()
	databases.start(t) // or skip
	server, err := postgres.Start(t.Context(), settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server
}

func TestPostgres_ComesBackWithTheServer(t *testing.T) {
	server := ownServer(t, "fsync=on", "synchronous_commit=off")
	s := openPostgres(t, store.Postgres{URL: server.URL("postgres")})
	sub := s.Subscribe()
	acknowledged := 0
	for round := range 2 {
		killed := make(chan error, 1)
		for i := 0; ; i++ {
			if i == 10+round*5 {
				go func() { killed <- server.Kill() }()
			}
			err := s.Update(t.Context(), insert(fmt.Sprintf("s%d-%d", round, i)))
			if err == nil {
				acknowledged++
				continue
			}
			if e, ok := errors.AsType[*trysail.Error](err); !errors.Is(err, store.ErrUnavailable) || !ok || e.Code != trysail.CodeUnavailable {
				t.Fatalf("without a server: %v", err)
			}
			break
		}
		if err := <-killed; err != nil {
			t.Fatal(err)
		}
		if _, err := s.Services(t.Context()); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("reading without a server: %v", err)
		}
		if err := server.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		var list []trysail.Service
		until(t, "the store does not come back", func() (ok bool) {
			var err error
			list, err = s.Services(t.Context())
			return err == nil
		})
		if len(list) < acknowledged || len(list) > acknowledged+round+1 {
			t.Fatalf("%d were acknowledged, %d are there", acknowledged, len(list))
		}
		acknowledged = len(list)
	}
	hears(t, sub, "id-s0-0")
}

func TestPostgres_NamesAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	server := ownServer(t, "fsync=off")
	dir := filepath.Join(filepath.Dir(server.Data), "small")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("mounting: %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH) // the test is over
	owner(t, server, dir)
	if _, err := server.SQL(t.Context(), "postgres", "CREATE TABLESPACE small LOCATION '"+dir+"'", "CREATE DATABASE small TABLESPACE small"); err != nil {
		t.Fatal(err)
	}
	s := openPostgres(t, store.Postgres{URL: server.URL("small")})
	for i := range 100 {
		content := make([]byte, 1<<20)
		rand.Read(content)
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			return tx.PutManifest(store.Manifest{Digest: fmt.Sprint(i), MediaType: "m", Content: content}, nil, "")
		})
		if errors.Is(err, store.ErrFull) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("100 MB are on a disk of 24 MB")
}

// owner gives a file to whoever the server runs as.
func owner(t *testing.T, server *postgres.Server, path string) {
	t.Helper()
	fi, err := os.Stat(server.Data)
	if err != nil {
		t.Fatal(err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	if err := os.Chown(path, int(st.Uid), int(st.Gid)); err != nil {
		t.Fatal(err)
	}
}

func TestPostgres_ManyBeginAtTheSameTime(t *testing.T) {
	databaseURL, dir := databases.make(t), t.TempDir()
	open(t, dir).Close() // makes the key
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			s, err := store.OpenPostgres(t.Context(), store.Postgres{URL: databaseURL, Dir: dir, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Error(err)
				return
			}
			err = s.Update(t.Context(), insert(fmt.Sprint("s", i)))
			if err := errors.Join(err, s.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestPostgres_SchemasAreApart(t *testing.T) {
	databaseURL := databases.make(t)
	databases.sql(t, databaseURL, "CREATE SCHEMA one", "CREATE SCHEMA two")
	a := openPostgres(t, store.Postgres{URL: databaseURL + "?search_path=one"})
	b := openPostgres(t, store.Postgres{URL: databaseURL + "?search_path=two"})
	sub := b.Subscribe()
	update(t, a, insert("web"))
	update(t, b, insert("other"))
	<-sub.Wake()
	if ids := sub.Take(); !slices.Equal(ids, []string{"id-other"}) {
		t.Errorf("heard of %v", ids)
	}
	if list, err := b.Services(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestPostgres_WarnsOfFsync(t *testing.T) {
	var log bytes.Buffer
	openPostgres(t, store.Postgres{URL: databases.make(t), Log: slog.New(slog.NewTextHandler(&log, nil))}).Close()
	if !strings.Contains(log.String(), "fsync=off") {
		t.Errorf("logged: %s", &log)
	}
}

func TestPostgres_TextsThatPostgreSQLRefusesAreMended(t *testing.T) {
	s := openPostgres(t, store.Postgres{URL: databases.make(t)})
	svc := newService("web")
	svc.Detail.Message = "a\x00b\xffc"
	update(t, s, func(tx *store.Tx) error { return tx.InsertService(svc) })
	list, err := s.Services(t.Context())
	if err != nil || list[0].Detail.Message != "a\uFFFDb\uFFFDc" {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestPostgres_AllHaveTheSameKey(t *testing.T) {
	databaseURL, first, second := databases.make(t), t.TempDir(), t.TempDir()
	s := openPostgres(t, store.Postgres{URL: databaseURL, Dir: first})
	update(t, s, func(tx *store.Tx) error { return tx.InsertKey(store.AccessKey{ID: "AK", Secret: "very-secret-words"}) })
	refused := func(what string) {
		t.Helper()
		_, err := store.OpenPostgres(t.Context(), store.Postgres{URL: databaseURL, Dir: second, Log: slog.New(slog.DiscardHandler)})
		if p, ok := errors.AsType[*store.ProblemError](err); !ok || !strings.Contains(p.Text, "sealed") {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("without the key")
	if _, err := os.Stat(filepath.Join(second, "seal.key")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key was made that fits nothing: %v", err)
	}
	open(t, second).Close() // makes another key
	refused("with another key")
	s = openPostgres(t, store.Postgres{URL: databaseURL, Dir: second, SealKey: filepath.Join(first, "seal.key")})
	look(t, s, func(tx *store.Tx) error {
		k, err := tx.Key("AK")
		if k.Secret != "very-secret-words" {
			t.Errorf("the secret is %q", k.Secret)
		}
		return err
	})
	if dump := databases.sql(t, databaseURL, "SELECT secret, id, name FROM access_keys"); strings.Contains(dump, "very-secret") {
		t.Errorf("the secret is in clear: %s", dump)
	}
}
