package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

//go:embed postgres.sql
var postgresTables string

const (
	// minPostgres is the oldest version that gets fixes.
	minPostgres = 14_00_00
	// txTime is how long a transaction may take. A server that has stopped in its tracks keeps a connection up.
	txTime = 30 * time.Second
	// idleTime is after how long the server ends a transaction whose process says nothing: it may have lost its network, and
	// holds locks that its successor waits for.
	idleTime = 10 * time.Second
	// migrateLock is the advisory lock of those who change the tables.
	migrateLock = 0x54534c31
	// notifyBytes is how much one notification may carry; PostgreSQL takes 8,000.
	notifyBytes = 7000
)

// Postgres says how the state is reached when it is in PostgreSQL.
type Postgres struct {
	// URL is postgres://USER@HOST:PORT/DATABASE, with the options of libpq. Several hosts are tried in turn.
	URL string
	// Password of the user; empty takes that of the URL, or that of PGPASSWORD, or of the file PGPASSFILE.
	Password string
	// Dir is the data directory: what is in files stays there.
	Dir string
	// SealKey is the file with the key of the sealed secrets, the same for all servers; empty means seal.key in Dir.
	SealKey string
	Log     *slog.Logger
	// LeaseTime is how long a leader leads after it was last heard of; zero means 10 s.
	LeaseTime time.Duration

	minVersion int // for tests
}

// postgresDB is the dialect of a server.
type postgresDB struct {
	log    *slog.Logger
	config *pgx.ConnConfig
	write  *sql.DB // one connection, as with SQLite: the writers of a process do not get into each other's way
	read   *sql.DB
	leases *sql.DB // leading must not wait for those who read and write

	id        string // in notifications
	name      string // as a leader; others log it
	channel   string
	leaseTime time.Duration
	// minVersion is the oldest server that will do, as its server_version_num.
	minVersion int

	ends context.CancelFunc
	wg   sync.WaitGroup // the listener
}

// OpenPostgres opens the database, makes or migrates the tables in it, and listens to what other processes change.
// Errors: *ProblemError where the operator can do something, ErrNewerFormat.
func OpenPostgres(ctx context.Context, cfg Postgres) (*Store, error) {
	config, err := parsePostgres(cfg)
	if err != nil {
		return nil, err
	}
	id := rand.Text()
	db := &postgresDB{
		log: cfg.Log, config: config, id: id, name: processName(id), leaseTime: cmp.Or(cfg.LeaseTime, 10*time.Second), minVersion: cmp.Or(cfg.minVersion, minPostgres),
		write: openServer(config, 1), read: openServer(config, 8), leases: openServer(config, 1),
	}
	s := &Store{db: db}
	err = db.prepare(ctx)
	if err == nil {
		s.seal, err = db.openSealer(ctx, cmp.Or(cfg.SealKey, filepath.Join(cfg.Dir, sealName)))
	}
	if err == nil {
		err = db.listen(ctx, s)
	}
	if err != nil {
		return nil, errors.Join(problem(config, err), db.close())
	}
	return s, nil
}

func openServer(config *pgx.ConnConfig, conns int) *sql.DB {
	// Whatever the server's default, what was acknowledged must not be lost. Stricter settings stay.
	durable := func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'")
		return err
	}
	db := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(durable))
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	db.SetConnMaxIdleTime(5 * time.Minute)
	return db
}

// prepare looks whether the server will do, and brings the tables to the newest format.
func (d *postgresDB) prepare(ctx context.Context) error {
	var version int
	var text, encoding, fsync, schema string
	err := d.write.QueryRowContext(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_version'),
		current_setting('server_encoding'), current_setting('fsync'), COALESCE(current_schema(), '')`).Scan(&version, &text, &encoding, &fsync, &schema)
	switch {
	case err != nil:
		return err
	case version < d.minVersion:
		return &ProblemError{Text: fmt.Sprintf("the server is PostgreSQL %s; %d or newer is needed", text, d.minVersion/10_000), Fix: "Upgrade the database server."}
	case encoding != "UTF8":
		return &ProblemError{Text: fmt.Sprintf("database %s has encoding %s; UTF8 is needed", d.config.Database, encoding), Fix: "Make the database anew: createdb --encoding UTF8 --template template0"}
	case schema == "":
		return &ProblemError{Text: fmt.Sprintf("there is no schema for tables in database %s", d.config.Database), Fix: "Make the one that search_path names."}
	}
	if fsync != "on" {
		d.log.WarnContext(ctx, "the database server runs with fsync=off: a power failure may lose or destroy the state")
	}
	d.channel = pgx.Identifier{"trysail " + schema}.Sanitize()
	return d.migrate(ctx)
}

// migrate brings the tables to the newest format, in one transaction. Other processes wait.
func (d *postgresDB) migrate(ctx context.Context) error {
	tx, err := d.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", migrateLock); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, postgresTables); err != nil {
		return fmt.Errorf("making the tables: %w", err)
	}
	var have int
	if err := tx.QueryRowContext(ctx, "SELECT format FROM trysail_format").Scan(&have); err != nil {
		return fmt.Errorf("reading the format of the database: %w", err)
	}
	steps, err := migrationsAfter(have, true)
	if err != nil {
		return err
	}
	for _, step := range steps {
		if _, err := tx.ExecContext(ctx, step.sql); err != nil {
			return fmt.Errorf("migrating the database with %s: %w", step.name, err)
		}
	}
	if _, err := tx.ExecContext(ctx, "UPDATE trysail_format SET format = $1 WHERE format <> $1", have+len(steps)); err != nil {
		return err
	}
	return tx.Commit()
}

// sealFact is where the database has the fingerprint of the key that its secrets are sealed with.
const sealFact = "seal_key"

// openSealer opens the key, which the first process makes. All that use one database must have the same.
func (d *postgresDB) openSealer(ctx context.Context, path string) (*sealer, error) {
	var want string
	err := d.write.QueryRowContext(ctx, "SELECT value FROM installation WHERE key = $1", sealFact).Scan(&want)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	fix := "Copy seal.key from the data directory of a server that uses this database already, or name it with --seal-key-file."
	if _, err := os.Stat(path); want != "" && errors.Is(err, fs.ErrNotExist) {
		return nil, &ProblemError{Text: fmt.Sprintf("the secrets in database %s are sealed with a key that is not in %s", d.config.Database, path), Fix: fix}
	}
	seal, err := openSealer(path)
	if err != nil || want == seal.fingerprint {
		return seal, err
	}
	err = d.write.QueryRowContext(ctx, `INSERT INTO installation (key, value) VALUES ($1, $2)
		ON CONFLICT (key) DO UPDATE SET value = installation.value RETURNING value`, sealFact, seal.fingerprint).Scan(&want)
	if err == nil && want != seal.fingerprint {
		err = &ProblemError{Text: fmt.Sprintf("the secrets in database %s are sealed with another key than that in %s", d.config.Database, path), Fix: fix}
	}
	return seal, err
}

// begin asks once more for each connection that a restart of the server has left behind.
func (d *postgresDB) begin(ctx context.Context, write bool) (tx *sql.Tx, err error) {
	db, options := d.read, sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	if write {
		db, options = d.write, sql.TxOptions{Isolation: sql.LevelSerializable}
	}
	for range db.Stats().MaxOpenConnections + 1 {
		tx, err = db.BeginTx(ctx, &options)
		if _, refused := errors.AsType[*pgconn.ConnectError](err); err == nil || refused || !lost(err) {
			break
		}
	}
	return tx, err
}

func (d *postgresDB) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, txTime)
}

func (d *postgresDB) args(args []any) ([]any, error) { return plainArgs(args) }

func (d *postgresDB) announce(tx *Tx) error {
	text := d.id
	send := func() error {
		if text == d.id {
			return nil
		}
		return tx.exec("SELECT pg_notify($1, $2)", strings.Trim(d.channel, `"`), text)
	}
	for id := range tx.touched {
		if len(text)+1+len(id) > notifyBytes {
			if err := send(); err != nil {
				return err
			}
			text = d.id
		}
		text += " " + id
	}
	return send()
}

// state is the snapshot: as long as it is the same, so is everything that a query can see.
func (d *postgresDB) state(ctx context.Context, q querier) (state string, err error) {
	if q == nil {
		q = d.read
	}
	return state, q.QueryRowContext(ctx, "SELECT pg_current_snapshot()::text").Scan(&state)
}

func (d *postgresDB) close() error {
	if d.ends != nil {
		d.ends()
	}
	d.wg.Wait()
	return errors.Join(d.read.Close(), d.write.Close(), d.leases.Close())
}

// listen tells the subscribers of s what other processes change, until close.
func (d *postgresDB) listen(ctx context.Context, s *Store) error {
	conn, err := d.connectListener(ctx)
	if err != nil {
		return err
	}
	known, err := d.everything(ctx, nil)
	if err != nil {
		return errors.Join(err, conn.Close(ctx))
	}
	ctx, d.ends = context.WithCancel(context.WithoutCancel(ctx))
	d.wg.Go(func() {
		for conn != nil {
			err := d.hear(ctx, conn, s, known)
			_ = conn.Close(ctx) // it is broken, or nobody wants it any more
			if ctx.Err() != nil {
				return
			}
			d.log.WarnContext(ctx, "the connection to the database is lost", "error", err)
			conn = d.hearAgain(ctx, s, known)
		}
	})
	return nil
}

// connectListener makes a connection that hears everything that is announced from now on.
func (d *postgresDB) connectListener(ctx context.Context) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, d.config)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "LISTEN "+d.channel); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return conn, nil
}

// hear listens until the connection breaks.
func (d *postgresDB) hear(ctx context.Context, conn *pgx.Conn, s *Store, known map[string]struct{}) error {
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		ids := strings.Fields(n.Payload)
		if len(ids) < 2 {
			continue
		}
		touched := map[string]struct{}{}
		for _, id := range ids[1:] {
			known[id], touched[id] = struct{}{}, struct{}{}
		}
		if ids[0] != d.id { // its own subscribers know
			s.changed(touched)
		}
	}
}

// hearAgain connects again, however long that takes. Nobody says what has happened meanwhile, so it wakes the subscribers
// for everything that is there or was known to be: what was deleted must be looked at as well. It returns nil on close.
func (d *postgresDB) hearAgain(ctx context.Context, s *Store, known map[string]struct{}) *pgx.Conn {
	for pause(ctx, time.Second) == nil {
		conn, err := d.connectListener(ctx)
		if err != nil {
			d.log.DebugContext(ctx, "the database is not available", "error", err)
			continue
		}
		all, err := d.everything(ctx, known)
		if err != nil {
			_ = conn.Close(ctx) // the next one may be better
			continue
		}
		d.log.InfoContext(ctx, "the database is available again")
		s.changed(all)
		return conn
	}
	return nil
}

// everything is what subscribers can be told of: what is known, which it forgets, and what is there, which it adds.
func (d *postgresDB) everything(ctx context.Context, known map[string]struct{}) (map[string]struct{}, error) {
	rows, err := d.read.QueryContext(ctx, "SELECT id FROM services")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	there := map[string]struct{}{}
	for _, m := range markers {
		there[m] = struct{}{}
	}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		there[id] = struct{}{}
	}
	if err := rows.Err(); err != nil || known == nil {
		return there, err
	}
	all := map[string]struct{}{}
	for _, ids := range []map[string]struct{}{known, there} {
		for id := range ids {
			all[id] = struct{}{}
		}
	}
	clear(known)
	for id := range there {
		known[id] = struct{}{}
	}
	return all, nil
}

// processName is what people know this process by; the id tells apart what has the same name.
func processName(id string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	return fmt.Sprintf("%s, process %d (%.6s)", host, os.Getpid(), strings.ToLower(id))
}
