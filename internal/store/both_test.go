package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/trysail/trysail/internal/store"
	"github.com/trysail/trysail/test/postgres"
)

// opener opens the state of a data directory; the same one for the same directory.
type opener func(t *testing.T, dir string) *store.Store

// both runs a test on SQLite and on PostgreSQL.
func both(t *testing.T, test func(*testing.T, opener)) {
	t.Run("sqlite", func(t *testing.T) { test(t, open) })
	t.Run("postgres", func(t *testing.T) {
		byDir := map[string]string{}
		test(t, func(t *testing.T, dir string) *store.Store {
			t.Helper()
			if byDir[dir] == "" {
				byDir[dir] = databases.make(t)
			}
			return openPostgres(t, store.Postgres{URL: byDir[dir], Dir: dir})
		})
	})
}

func openPostgres(t *testing.T, cfg store.Postgres) *store.Store {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s, err := store.OpenPostgres(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// databases is the PostgreSQL of this test program, which starts with the first test that needs it.
var databases shared

type shared struct {
	mu     sync.Mutex
	server *postgres.Server
	missed error
	made   int
}

// start returns the server. The machine of a developer need not have one; where all must be tested it is an error.
func (s *shared) start(t *testing.T) *postgres.Server {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil && s.missed == nil {
		// A crash of the whole machine is not tested, and syncing would wear out its disk.
		s.server, s.missed = postgres.Start(context.Background(), "fsync=off")
	}
	if errors.Is(s.missed, postgres.ErrMissing) && testing.Short() {
		t.Skip(s.missed)
	}
	if s.missed != nil {
		t.Fatal(s.missed)
	}
	return s.server
}

// make returns the URL of a database of its own.
func (s *shared) make(t *testing.T) string {
	t.Helper()
	server := s.start(t)
	s.mu.Lock()
	s.made++
	name := fmt.Sprintf("t%d", s.made)
	s.mu.Unlock()
	u, err := server.NewDatabase(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// sql runs statements in the database of a URL.
func (s *shared) sql(t *testing.T, databaseURL string, statements ...string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.start(t).SQL(t.Context(), strings.TrimPrefix(u.Path, "/"), statements...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *shared) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil || os.Getenv("TRYSAIL_TEST_WRITER") != "" {
		return nil
	}
	return s.server.Close()
}
