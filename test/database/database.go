// Package database opens the state for tests of what is above the store: a file, or a database of its own in PostgreSQL when
// the environment variable TRYSAIL_TEST_DATABASE is postgres.
package database

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/trysail/trysail/internal/store"
	"github.com/trysail/trysail/test/postgres"
)

// Variable names the environment variable that chooses the database.
const Variable = "TRYSAIL_TEST_DATABASE"

// Server is the PostgreSQL of a test program, which starts with the first test that needs it.
type Server struct {
	start  sync.Once
	server *postgres.Server
	err    error
	made   atomic.Int64
}

// Main runs the tests and ends the server after them.
func (d *Server) Main(m *testing.M) (status int) {
	status = m.Run()
	if d.server == nil {
		return status
	}
	if err := d.server.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

// Open opens the state of a data directory.
func (d *Server) Open(t *testing.T, dir string) (*store.Store, error) {
	t.Helper()
	switch kind := os.Getenv(Variable); kind {
	case "", "sqlite":
		return store.Open(t.Context(), dir)
	case "postgres":
	default:
		return nil, fmt.Errorf("%s is %q; it can be sqlite or postgres", Variable, kind)
	}
	d.start.Do(func() { d.server, d.err = postgres.Start(context.Background(), "fsync=off") })
	if d.err != nil {
		return nil, d.err
	}
	url, err := d.server.NewDatabase(t.Context(), fmt.Sprintf("t%d", d.made.Add(1)))
	if err != nil {
		return nil, err
	}
	return store.OpenPostgres(t.Context(), store.Postgres{URL: url, Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
}
