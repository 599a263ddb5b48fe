package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrNotEmpty is returned by Copy for a target that holds something else.
var ErrNotEmpty = errors.New("the target is not empty")

// errOtherKey is returned by Copy when the target could not open the secrets.
var errOtherKey = errors.New("the secrets are sealed with another key than the target's seal.key")

// Table says how much a table holds.
type Table struct {
	Name string
	Rows int

	sum [sha256.Size]byte // of all rows, in any order
}

// Copy copies everything that is in one database to another, which must be empty, in one transaction. Before that is
// committed, it reads all of it back and compares. A target that holds the same already is left as it is, so that a copy
// whose success nobody saw can be repeated. Errors: ErrNotEmpty.
func Copy(ctx context.Context, from, to *Store) ([]Table, error) {
	if from.seal.fingerprint != to.seal.fingerprint {
		return nil, errOtherKey
	}
	in, err := from.db.begin(ctx, false)
	if err != nil {
		return nil, fmt.Errorf("beginning to read: %w", err)
	}
	defer in.Rollback()
	source, err := content(ctx, in)
	if err != nil {
		return nil, err
	}
	out, err := to.db.begin(ctx, true)
	if err != nil {
		return nil, fmt.Errorf("beginning to write: %w", err)
	}
	defer out.Rollback()
	target, err := content(ctx, out)
	if err != nil || slices.Equal(source, target) {
		return source, err
	}
	for _, t := range target {
		if t.Rows > 0 {
			return nil, fmt.Errorf("%w: table %s has %d rows", ErrNotEmpty, t.Name, t.Rows)
		}
	}
	for _, t := range source {
		if err := copyTable(ctx, in, out, t.Name); err != nil {
			return nil, fmt.Errorf("copying table %s: %w", t.Name, err)
		}
		if err := to.db.numberOn(ctx, out, t.Name); err != nil {
			return nil, fmt.Errorf("numbering the rows of table %s: %w", t.Name, err)
		}
	}
	copied, err := content(ctx, out)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(source, copied) {
		return nil, fmt.Errorf("the copy differs from the original: %+v, %+v", source, copied)
	}
	return source, out.Commit()
}

// tables lists all tables, those that others refer to first: that is the order in which they were made.
func tables() ([]string, error) {
	texts, err := migrationTexts(false)
	var list []string
	for _, m := range texts {
		for _, found := range regexp.MustCompile(`\nCREATE TABLE (\w+)`).FindAllStringSubmatch("\n"+m.sql, -1) {
			list = append(list, found[1])
		}
	}
	return list, err
}

// content says what all tables hold.
func content(ctx context.Context, tx *sql.Tx) ([]Table, error) {
	names, err := tables()
	if err != nil {
		return nil, err
	}
	list := make([]Table, len(names))
	for i, name := range names {
		columns, err := columnsOf(ctx, tx, name)
		if err != nil {
			return nil, fmt.Errorf("reading table %s: %w", name, err)
		}
		var sums [][sha256.Size]byte
		err = eachRow(ctx, tx, name, columns, func(values []any) error {
			sums = append(sums, sumOf(values))
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("reading table %s: %w", name, err)
		}
		slices.SortFunc(sums, func(a, b [sha256.Size]byte) int { return slices.Compare(a[:], b[:]) })
		all := sha256.New()
		for _, s := range sums {
			all.Write(s[:])
		}
		list[i] = Table{Name: name, Rows: len(sums), sum: [sha256.Size]byte(all.Sum(nil))}
	}
	return list, nil
}

func columnsOf(ctx context.Context, tx *sql.Tx, table string) ([]string, error) {
	rows, err := tx.QueryContext(ctx, "SELECT * FROM "+table+" LIMIT 0") //nolint:gosec // a name of ours
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	slices.Sort(columns)
	return columns, errors.Join(err, rows.Err())
}

// eachRow calls fn for each row of a table, with integers, text and bytes. What belongs to a database, and not to what it
// holds, it leaves out.
func eachRow(ctx context.Context, tx *sql.Tx, table string, columns []string, fn func([]any) error) error {
	query := "SELECT " + quoted(columns) + " FROM " + table //nolint:gosec // names of ours
	if table == "installation" {
		query += " WHERE key <> '" + sealFact + "'"
	}
	rows, err := tx.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		for i, v := range values {
			values[i] = plainValue(v)
		}
		if err := fn(values); err != nil {
			return err
		}
	}
	return rows.Err()
}

func quoted(columns []string) string { return `"` + strings.Join(columns, `", "`) + `"` }

// sumOf is the checksum of one row.
func sumOf(values []any) [sha256.Size]byte {
	h := sha256.New()
	add := func(kind byte, text []byte) {
		h.Write(binary.BigEndian.AppendUint64([]byte{kind}, uint64(len(text))))
		h.Write(text)
	}
	for _, v := range values {
		switch v := v.(type) {
		case int64:
			add('i', strconv.AppendInt(nil, v, 10))
		case string:
			add('s', []byte(v))
		case []byte:
			add('b', v)
		default:
			add('?', fmt.Append(nil, v))
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func copyTable(ctx context.Context, in, out *sql.Tx, table string) error {
	columns, err := columnsOf(ctx, in, table)
	if err != nil {
		return err
	}
	marks := make([]string, len(columns))
	for i := range columns {
		marks[i] = "$" + strconv.Itoa(i+1)
	}
	insert, err := out.PrepareContext(ctx, "INSERT INTO "+table+" ("+quoted(columns)+") VALUES ("+strings.Join(marks, ", ")+")") //nolint:gosec,sqlclosecheck // names of ours; it is closed below
	if err != nil {
		return err
	}
	defer insert.Close()
	return eachRow(ctx, in, table, columns, func(values []any) error {
		_, err := insert.ExecContext(ctx, values...)
		return err
	})
}

// numberOn is nothing: SQLite gives the number after the highest one.
func (d *sqliteDB) numberOn(context.Context, *sql.Tx, string) error { return nil }

func (d *postgresDB) numberOn(ctx context.Context, tx *sql.Tx, table string) error {
	var column string
	err := tx.QueryRowContext(ctx, "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = $1 AND is_identity = 'YES'", table).Scan(&column)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil {
		_, err = tx.ExecContext(ctx, "SELECT setval(pg_get_serial_sequence($1, $2), (SELECT COALESCE(MAX("+column+"), 0) + 1 FROM "+table+"), false)", table, column) //nolint:gosec // names of ours
	}
	return err
}

// movedName is that of the SQLite file after its content has moved to another database.
const movedName = databaseName + ".moved"

// MovedError is returned by Open for a directory whose state has moved to another database. Whoever began again with an empty
// one would stop everything that runs.
type MovedError struct{ File string }

func (e *MovedError) Error() string {
	return "the state has moved to another database; what was here then is " + e.File
}

// newName is that of a SQLite file while it is filled.
const newName = databaseName + ".new"

// OpenTarget opens the SQLite file in dir for Copy. Where there is none yet, it makes one that Open does not see before
// KeepTarget.
func OpenTarget(ctx context.Context, dir string) (*Store, error) {
	name := newName
	if _, err := os.Stat(filepath.Join(dir, databaseName)); err == nil {
		name = databaseName
	}
	return openSQLite(ctx, dir, name)
}

// KeepTarget makes the file of OpenTarget, which must be closed, the state of dir.
func KeepTarget(dir string) error {
	err := os.Rename(filepath.Join(dir, newName), filepath.Join(dir, databaseName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was one that is there already
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

// checkMoved refuses a directory whose state has moved away.
func checkMoved(dir string) error {
	moved := filepath.Join(dir, movedName)
	_, here := os.Stat(filepath.Join(dir, databaseName))
	_, away := os.Stat(moved)
	if errors.Is(here, fs.ErrNotExist) && away == nil {
		return &MovedError{moved}
	}
	return nil
}

// MarkMoved puts the SQLite file of dir, which nobody has open, out of the way after it was copied. It returns its new name.
func MarkMoved(dir string) (file string, err error) {
	name := filepath.Join(dir, databaseName)
	if _, err := os.Stat(name + "-wal"); err == nil {
		return "", fmt.Errorf("somebody has %s open", name)
	}
	file = filepath.Join(dir, movedName)
	if err := os.Rename(name, file); err != nil {
		return "", err
	}
	return file, syncDir(dir)
}
