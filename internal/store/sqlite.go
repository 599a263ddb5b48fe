package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"modernc.org/sqlite"
)

// databaseName is that of the SQLite file in the data directory.
const databaseName = "trysail.db"

// applicationID marks the file as ours: "TSL1" in ASCII.
const applicationID = 0x54534c31

// minSQLite is the first SQLite without the WAL-reset bug that can corrupt a database (sqlite.org/wal.html#walresetbug).
const minSQLite = 3051003

// sqliteDB is the dialect of a file.
type sqliteDB struct {
	write *sql.DB // one connection: SQLite has one writer anyway, and waiting here is fair
	read  *sql.DB
}

// Open opens or creates the database in dir, which must exist, and migrates it to the newest format.
// Errors: ErrNewerFormat, *MovedError, and those of the file system.
func Open(ctx context.Context, dir string) (*Store, error) {
	if err := checkMoved(dir); err != nil {
		return nil, err
	}
	return openSQLite(ctx, dir, databaseName)
}

func openSQLite(ctx context.Context, dir, name string) (*Store, error) {
	seal, err := openSealer(filepath.Join(dir, sealName))
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name)
	// SQLite would make it readable for all. Its helper files take the mode from it.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the path is configuration
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	db := &sqliteDB{}
	if db.write, err = openFile(path, 1); err != nil {
		return nil, err
	}
	if err := db.migrate(ctx); err != nil {
		return nil, errors.Join(err, db.write.Close())
	}
	// Readers are opened after the migration, so that none has seen an older schema.
	if db.read, err = openFile(path, 4); err != nil {
		return nil, errors.Join(err, db.write.Close())
	}
	return &Store{db: db, seal: seal, dir: dir, reserve: filepath.Join(dir, reserveName)}, nil
}

func openFile(path string, conns int) (*sql.DB, error) {
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
func (d *sqliteDB) migrate(ctx context.Context) error {
	var lib string
	if err := d.write.QueryRowContext(ctx, "SELECT sqlite_version()").Scan(&lib); err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	if n := versionNumber(lib); n < minSQLite {
		return fmt.Errorf("opening the database: SQLite %s may corrupt it, 3.51.3 or newer is needed", lib)
	}
	var have, app int
	if err := d.write.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return fmt.Errorf("reading the format of the database: %w", err)
	}
	if err := d.write.QueryRowContext(ctx, "PRAGMA application_id").Scan(&app); err != nil {
		return fmt.Errorf("reading the format of the database: %w", err)
	}
	if have > 0 && app != applicationID {
		return errors.New("trysail.db is not a database of trysail")
	}
	steps, err := migrationsAfter(have, false)
	if err != nil {
		return err
	}
	for i, step := range steps {
		if err := d.migrateStep(ctx, step.sql, have+i+1); err != nil {
			return fmt.Errorf("migrating the database with %s: %w", step.name, err)
		}
	}
	return nil
}

func (d *sqliteDB) migrateStep(ctx context.Context, text string, format int) error {
	tx, err := d.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, text); err != nil {
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

func (d *sqliteDB) begin(ctx context.Context, write bool) (*sql.Tx, error) {
	if write {
		return d.write.BeginTx(ctx, nil)
	}
	return d.read.BeginTx(ctx, nil)
}

func (d *sqliteDB) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return ctx, func() {}
}

func (d *sqliteDB) args(args []any) ([]any, error) { return args, nil }

// again is never: the writers wait for each other.
func (d *sqliteDB) again(error) bool { return false }

func (d *sqliteDB) notCommitted(error) bool { return true }

func (d *sqliteDB) plain(_ context.Context, err error) error {
	const full, ioerr = 13, 10 // SQLITE_FULL; SQLITE_IOERR is what a full WAL file gives
	if e, ok := errors.AsType[*sqlite.Error](err); ok && (e.Code()&0xff == full || e.Code()&0xff == ioerr) {
		return fmt.Errorf("%w (%w)", ErrFull, err)
	}
	return err
}

func (d *sqliteDB) announce(*Tx) error { return nil }

func (d *sqliteDB) state(context.Context, querier) (string, error) { return "", nil }

// lead leads at once: whoever has the file open has the lock of its data directory.
func (d *sqliteDB) lead(ctx context.Context, _ func(string)) (context.Context, func(), error) {
	leading, cancel := context.WithCancel(ctx)
	return leading, cancel, ctx.Err()
}

func (d *sqliteDB) close() error { return errors.Join(d.read.Close(), d.write.Close()) }
