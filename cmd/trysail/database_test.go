package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
	"github.com/trysail/trysail/test/postgres"
)

// database starts a PostgreSQL and returns the URL of an empty database.
func database(t *testing.T) string {
	t.Helper()
	server, err := postgres.Start(t.Context(), "fsync=off")
	if errors.Is(err, postgres.ErrMissing) && testing.Short() {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server.URL("postgres")
}

func openedStore(t *testing.T, cfg databaseConfig, dir string) *store.Store {
	t.Helper()
	st, err := openStore(t.Context(), cfg, dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func TestServer_LeadsUntilAPartFails(t *testing.T) {
	s := &server{log: slog.New(slog.DiscardHandler), store: openedStore(t, databaseConfig{}, t.TempDir())}
	broken, runs := errors.New("broken"), 0
	err := s.lead(t.Context(), nil, func(ctx context.Context) error {
		<-ctx.Done() // the other one's end is this one's
		return nil
	}, func(context.Context) error {
		if runs++; runs < 3 {
			return store.ErrUnavailable // that passes
		}
		return broken
	})
	if !errors.Is(err, broken) || runs != 3 {
		t.Errorf("%v after %d runs", err, runs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.lead(ctx, nil); err != nil {
		t.Errorf("told to stop: %v", err)
	}
}

func TestServer_TheNextLeadsWhenOneStops(t *testing.T) {
	url, dir := database(t), t.TempDir()
	begin := func() (leads, standsBy chan string, stop func()) {
		s := &server{log: slog.New(slog.DiscardHandler), store: openedStore(t, databaseConfig{url: url}, dir)}
		leads, standsBy = make(chan string, 1), make(chan string, 1)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- s.lead(ctx, func(holder string) { standsBy <- holder }, func(ctx context.Context) error {
				leads <- ""
				<-ctx.Done()
				return nil
			})
		}()
		return leads, standsBy, func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	leads, _, stop := begin()
	<-leads
	next, standsBy, stopNext := begin()
	defer stopNext()
	if holder := <-standsBy; holder == "" {
		t.Error("nobody knows who leads")
	}
	stop()
	select {
	case <-next:
	case <-time.After(time.Minute):
		t.Error("nobody leads")
	}
}

func TestMove_ThereAndBack(t *testing.T) {
	url, dir := database(t), t.TempDir()
	from := openedStore(t, databaseConfig{}, dir)
	err := from.Update(t.Context(), func(tx *store.Tx) error {
		return tx.InsertService(&trysail.Service{ID: "id", Name: "web", CreatedAt: tx.Now()})
	})
	if err := errors.Join(err, from.Close()); err != nil {
		t.Fatal(err)
	}
	run := func(m move) string {
		t.Helper()
		var out bytes.Buffer
		if err := m.run(t.Context(), &out, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	there := move{to: url, dataDir: dir, patience: time.Minute}
	if out := run(there); !strings.Contains(out, "Copied 2 rows") && !strings.Contains(out, "Copied 1 rows") || !strings.Contains(out, "trysail serve --database "+url) {
		t.Errorf("printed: %s", out)
	}
	if _, err := openStore(t.Context(), databaseConfig{}, dir, nil); err == nil || !strings.Contains(err.Error(), "has moved") {
		t.Errorf("the old state can be opened: %v", err)
	}
	if err := there.run(t.Context(), &bytes.Buffer{}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("it was moved twice")
	}
	server := openedStore(t, databaseConfig{url: url}, dir)
	_, release, err := server.Lead(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	back := move{to: "sqlite:" + dir, dataDir: "/nowhere", source: databaseConfig{url: url}, patience: 100 * time.Millisecond}
	if err := back.run(t.Context(), &bytes.Buffer{}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "a server uses the database") {
		t.Errorf("while a server leads: %v", err)
	}
	release()
	back.patience = time.Minute
	run(back)
	run(back) // as if nobody had seen that it worked
	if list, err := openedStore(t, databaseConfig{}, dir).Services(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "trysail.db.new")); err == nil {
		t.Error("a file is left over")
	}
}
