// Package store is the truth: what shall be, in one SQLite file. A transaction that committed is on the disk.
//
// Writers use Update, readers View. Both see one consistent state. Update wakes the subscribers with the ids of the
// services that the transaction touched, after the commit.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"

	"github.com/trysail/trysail"
)

//go:embed migration/*.sql
var migrations embed.FS

// applicationID marks the file as ours: "TSL1" in ASCII.
const applicationID = 0x54534c31

// minSQLite is the first SQLite without the WAL-reset bug that can corrupt a database (sqlite.org/wal.html#walresetbug).
const minSQLite = 3051003

var (
	// ErrNotFound is returned for a service, deployment or key that does not exist.
	ErrNotFound = errors.New("not found")
	// ErrNewerFormat is returned by Open for a file that a newer Trysail wrote.
	ErrNewerFormat = errors.New("the data directory was written by a newer version of trysail")
	// ErrFull is returned by Update when the disk has no room. Nothing was changed.
	ErrFull = errors.New("the disk that holds the data directory is full")
)

// Store is the open database.
type Store struct {
	write *sql.DB // one connection: SQLite has one writer anyway, and waiting here is fair
	read  *sql.DB
	seal  *sealer

	dir, reserve string // see Reserve

	// services is the newest list of services, or nil when a commit has made it stale.
	services atomic.Pointer[[]trysail.Service]
	// generation counts commits, so that a list read before one is not kept after it.
	generation atomic.Uint64

	mu   sync.Mutex // guards subs
	subs []*Subscription
}

// Open opens or creates the database in dir, which must exist, and migrates it to the newest format.
// Errors: ErrNewerFormat, and those of the file system.
func Open(ctx context.Context, dir string) (*Store, error) {
	seal, err := openSealer(filepath.Join(dir, "seal.key"))
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "trysail.db")
	// SQLite would make it readable for all. Its helper files take the mode from it.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the path is configuration
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	write, err := openDB(path, 1)
	if err != nil {
		return nil, err
	}
	s := &Store{write: write, seal: seal, dir: dir, reserve: filepath.Join(dir, reserveName)}
	if err := s.migrate(ctx); err != nil {
		return nil, errors.Join(err, write.Close())
	}
	// Readers are opened after the migration, so that none has seen an older schema.
	if s.read, err = openDB(path, 4); err != nil {
		return nil, errors.Join(err, write.Close())
	}
	return s, nil
}

func openDB(path string, conns int) (*sql.DB, error) {
	q := url.Values{"_pragma": {
		"busy_timeout(10000)", "journal_mode(wal)", "synchronous(full)", "foreign_keys(1)",
		"cache_size(-1024)", // KiB per connection; the whole database is small
	}, "_txlock": {"immediate"}}
	if conns > 1 {
		q.Set("_txlock", "deferred")
		q.Add("_pragma", "query_only(1)")
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// migrate brings the file to the newest format, one transaction per step. The format's number is SQLite's user_version.
func (s *Store) migrate(ctx context.Context) error {
	var lib string
	if err := s.write.QueryRowContext(ctx, "SELECT sqlite_version()").Scan(&lib); err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	if n := versionNumber(lib); n < minSQLite {
		return fmt.Errorf("opening the database: SQLite %s may corrupt it, 3.51.3 or newer is needed", lib)
	}
	names, err := fs.Glob(migrations, "migration/*.sql")
	if err != nil {
		return err
	}
	slices.Sort(names)
	var have, app int
	if err := s.write.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return fmt.Errorf("reading the format of the database: %w", err)
	}
	if err := s.write.QueryRowContext(ctx, "PRAGMA application_id").Scan(&app); err != nil {
		return fmt.Errorf("reading the format of the database: %w", err)
	}
	if have > 0 && app != applicationID {
		return errors.New("trysail.db is not a database of trysail")
	}
	if have > len(names) {
		return fmt.Errorf("%w: it has format %d, this one knows up to %d", ErrNewerFormat, have, len(names))
	}
	for i, name := range names[have:] {
		if err := s.migrateStep(ctx, name, have+i+1); err != nil {
			return fmt.Errorf("migrating the database with %s: %w", name, err)
		}
	}
	return nil
}

func (s *Store) migrateStep(ctx context.Context, name string, format int) error {
	text, err := migrations.ReadFile(name)
	if err != nil {
		return err
	}
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, string(text)); err != nil {
		return err
	}
	// PRAGMA takes no parameters; both numbers are ours.
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d; PRAGMA application_id = %d", format, applicationID)); err != nil {
		return err
	}
	return tx.Commit()
}

// versionNumber turns "3.51.3" into 3051003, the form of SQLite's own version numbers.
func versionNumber(v string) int {
	var a, b, c int
	if _, err := fmt.Sscanf(v, "%d.%d.%d", &a, &b, &c); err != nil {
		return 0
	}
	return a*1_000_000 + b*1_000 + c
}

// Close waits for the transactions under way and closes the file.
func (s *Store) Close() error { return errors.Join(s.read.Close(), s.write.Close()) }

// Update runs fn in a transaction. When it returns nil the changes are durable; otherwise nothing has changed.
// Errors: fn's own, ErrFull.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) error {
	tx, err := s.begin(ctx, s.write)
	if err != nil {
		return err
	}
	defer tx.tx.Rollback()
	if err := fn(tx); err != nil {
		return plain(err)
	}
	if err := tx.tx.Commit(); err != nil {
		return plain(fmt.Errorf("committing: %w", err))
	}
	if len(tx.touched) > 0 {
		s.generation.Add(1)
		s.services.Store(nil)
		s.publish(tx.touched)
	}
	return nil
}

// View runs fn on a consistent state that does not change under it.
func (s *Store) View(ctx context.Context, fn func(*Tx) error) error {
	tx, err := s.begin(ctx, s.read)
	if err != nil {
		return err
	}
	defer tx.tx.Rollback()
	return plain(fn(tx))
}

func (s *Store) begin(ctx context.Context, db *sql.DB) (*Tx, error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, plain(fmt.Errorf("beginning a transaction: %w", err))
	}
	return &Tx{ctx: ctx, tx: tx, now: time.Now().UTC(), seal: s.seal}, nil
}

// Services lists all services by creation time. The list is shared between callers: they must not change it.
func (s *Store) Services(ctx context.Context) ([]trysail.Service, error) {
	if p := s.services.Load(); p != nil {
		return *p, nil
	}
	before := s.generation.Load()
	var list []trysail.Service
	err := s.View(ctx, func(tx *Tx) (err error) {
		list, err = tx.Services()
		return err
	})
	if err != nil {
		return nil, err
	}
	// Keep the list only if nothing was committed since; a commit between these two lines clears it again.
	if s.services.Store(&list); s.generation.Load() != before {
		s.services.Store(nil)
	}
	return list, nil
}

// plain translates the driver's errors that callers must tell apart.
func plain(err error) error {
	const full, ioerr = 13, 10 // SQLITE_FULL; SQLITE_IOERR is what a full WAL file gives
	if e, ok := errors.AsType[*sqlite.Error](err); ok && (e.Code()&0xff == full || e.Code()&0xff == ioerr) {
		return fmt.Errorf("%w (%w)", ErrFull, err)
	}
	return err
}

// Subscription collects the ids of services that were touched by commits.
type Subscription struct {
	wake chan struct{}

	mu      sync.Mutex // guards touched
	touched map[string]struct{}
}

// Subscribe begins to collect. There is no unsubscribe: the subscribers live as long as the store.
func (s *Store) Subscribe() *Subscription {
	sub := &Subscription{wake: make(chan struct{}, 1), touched: map[string]struct{}{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs = append(s.subs, sub)
	return sub
}

// Wake yields whenever there is something to Take.
func (s *Subscription) Wake() <-chan struct{} { return s.wake }

// Take returns the ids collected since the last call.
func (s *Subscription) Take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, 0, len(s.touched))
	for id := range s.touched {
		ids = append(ids, id)
	}
	clear(s.touched)
	return ids
}

func (s *Store) publish(ids map[string]struct{}) {
	s.mu.Lock()
	subs := s.subs
	s.mu.Unlock()
	for _, sub := range subs {
		sub.mu.Lock()
		for id := range ids {
			sub.touched[id] = struct{}{}
		}
		sub.mu.Unlock()
		select {
		case sub.wake <- struct{}{}:
		default:
		}
	}
}
