package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"strings"
)

// dialect is what SQLite and PostgreSQL do differently. Queries are one text for both: they number their parameters ($1),
// compare integers with integers, and use nothing that one of the two does not know.
type dialect interface {
	// begin starts a transaction, for writing or for reading one state that does not change.
	begin(ctx context.Context, write bool) (*sql.Tx, error)
	// bound limits how long a transaction may take.
	bound(ctx context.Context) (context.Context, context.CancelFunc)
	// args turns arguments into what the driver takes for a column of integers, text or bytes.
	args(args []any) ([]any, error)
	// again reports whether a transaction that met err before its commit may do better when it is run again.
	again(err error) bool
	// notCommitted reports whether err, of a commit, means that nothing was changed for certain.
	notCommitted(err error) bool
	// plain translates the errors that callers must tell apart. ctx is that of the caller.
	plain(ctx context.Context, err error) error
	// announce tells other processes, as part of the transaction, what it touches.
	announce(tx *Tx) error
	// state names the state that a query would see now, and is empty where only this process changes it.
	state(ctx context.Context, q querier) (string, error)
	// lead waits until this process may change the world, see Store.Lead.
	lead(ctx context.Context, standby func(holder string)) (context.Context, func(), error)
	// numberOn lets the numbers that the database gives to rows of a table go on after those that are there.
	numberOn(ctx context.Context, tx *sql.Tx, table string) error
	close() error
}

// querier is a database or a transaction.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// plainArgs makes integers, text and bytes of arguments: PostgreSQL takes nothing else for these columns, and no text with a
// zero or with broken UTF-8 in it.
func plainArgs(args []any) ([]any, error) {
	plain := make([]any, len(args))
	for i, arg := range args {
		v, err := driver.DefaultParameterConverter.ConvertValue(arg)
		if err != nil {
			return nil, fmt.Errorf("parameter %d: %w", i+1, err)
		}
		plain[i] = plainValue(v)
	}
	return plain, nil
}

func plainValue(v driver.Value) any {
	switch v := v.(type) {
	case bool:
		if v {
			return int64(1)
		}
		return int64(0)
	case string:
		return strings.ReplaceAll(strings.ToValidUTF8(v, "\uFFFD"), "\x00", "\uFFFD")
	}
	return v
}
