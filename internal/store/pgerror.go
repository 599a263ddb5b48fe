package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trysail/trysail"
)

// sqlState is PostgreSQL's code of an error; empty if it is none of PostgreSQL's.
func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// again is for transactions that others got in the way of, or whose connection broke before they were committed.
func (d *postgresDB) again(err error) bool {
	switch sqlState(err) {
	case "40001", "40P01": // serialization_failure, deadlock_detected
		return true
	}
	_, refused := errors.AsType[*pgconn.ConnectError](err)
	return lost(err) && !refused
}

// notCommitted is for an answer of the server: without one, nobody knows.
func (d *postgresDB) notCommitted(err error) bool {
	return errors.Is(err, pgx.ErrTxCommitRollback) || sqlState(err) != "" && !lost(err)
}

// lost reports whether the database does not answer, or the connection to it has ended.
func lost(err error) bool {
	if state := sqlState(err); state != "" {
		// Connection exceptions, an administrator's shutdown, a crash, a start under way, an idle transaction.
		return strings.HasPrefix(state, "08") || slices.Contains([]string{"57P01", "57P02", "57P03", "25P03", "25P04", "57P05"}, state)
	}
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	_, network := errors.AsType[net.Error](err)
	_, refused := errors.AsType[*pgconn.ConnectError](err)
	return network || refused || pgconn.SafeToRetry(err) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, pgconn.ErrConnClosed)
}

func (d *postgresDB) plain(ctx context.Context, err error) error {
	state := sqlState(err)
	switch {
	case err == nil || ctx.Err() != nil: // a caller who left knows why
		return err
	case state == "53100": // disk_full
		return fmt.Errorf("%w (%w)", ErrFull, err)
	case lost(err), d.again(err),
		strings.HasPrefix(state, "53"), // insufficient_resources: too many connections, no memory
		state == "25006",               // read_only_sql_transaction: it has become a standby
		errors.Is(err, context.DeadlineExceeded):
		return &unavailable{err}
	}
	return err
}

// unavailable is ErrUnavailable with its cause. A client sees a sentence, and may try again.
type unavailable struct{ cause error }

func (e *unavailable) Error() string { return ErrUnavailable.Error() + ": " + e.cause.Error() }

// Unwrap gives the cause.
func (e *unavailable) Unwrap() error { return e.cause }

// Is makes it ErrUnavailable.
func (e *unavailable) Is(target error) bool { return target == ErrUnavailable }

// As makes errors.As see a *trysail.Error.
func (e *unavailable) As(target any) bool {
	t, ok := target.(**trysail.Error)
	if ok {
		*t = &trysail.Error{Code: trysail.CodeUnavailable, Message: "The database of this Trysail is not available at the moment. Please try again."}
	}
	return ok
}

// problem says what is wrong with a database that cannot be opened. Errors that tell nothing to its operator stay.
func problem(config *pgx.ConnConfig, err error) error {
	if _, done := errors.AsType[*ProblemError](err); done || errors.Is(err, ErrNewerFormat) {
		return err
	}
	where := fmt.Sprintf("%s:%d", config.Host, config.Port)
	made := func(text, fix string, args ...any) error {
		return &ProblemError{Text: fmt.Sprintf(text, args...), Fix: fix, err: err}
	}
	message := ""
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		message = e.Message
	}
	switch sqlState(err) {
	case "28P01":
		return made("the database at %s refuses the password of user %s", "Give the right one in the file of --database-password-file, in PGPASSFILE or in TRYSAIL_DATABASE.", where, config.User)
	case "28000":
		fix := "Allow this user from this address in the server's pg_hba.conf."
		if strings.Contains(message, "does not exist") {
			fix = "Make the user: createuser --pwprompt " + config.User
		}
		if strings.Contains(message, "no encryption") {
			fix = "The server wants TLS: put sslmode=verify-full, or at least sslmode=require, into the URL; or allow this user from this address in the server's pg_hba.conf."
		}
		return made("the database at %s refuses user %s: %s", fix, where, config.User, message)
	case "3D000":
		return made("there is no database %q at %s", "Make it: createdb --owner "+config.User+" "+config.Database, config.Database, where)
	case "42501":
		return made("user %s may not make tables in database %s: %s", "Let it own the database or a schema: ALTER DATABASE "+config.Database+" OWNER TO "+config.User, config.User, config.Database, message)
	case "42P07":
		return made("database %s has tables of something else: %s", "Give trysail a database of its own, or a schema of its own with search_path in the URL.", config.Database, message)
	case "53300":
		return made("the database at %s has no connection to spare: %s", "Raise max_connections there; each server of trysail needs up to 11.", where, message)
	}
	if text := err.Error(); strings.Contains(text, "server refused TLS") {
		return made("the database at %s does not speak TLS", "Turn ssl on there; or, if nobody can listen on the way to it, put sslmode=disable into the URL.", where)
	} else if strings.Contains(text, "read only connection") {
		return made("the database at %s is a standby, which takes no writes", "Name the primary in the URL, or all hosts separated by commas.", where)
	}
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, misnamed := errors.AsType[x509.HostnameError](err)
	_, bad := errors.AsType[*tls.CertificateVerificationError](err)
	if unknown || misnamed || bad {
		return made("the certificate of the database at %s is not to be trusted: %v", "Name the authority that signed it with sslrootcert=FILE in the URL.", where, rootCause(err))
	}
	if lost(err) || errors.Is(err, context.DeadlineExceeded) {
		return made("the database at %s is not reachable: %v", "Is it running, is the address right, and is there a way to it?", where, rootCause(err))
	}
	return fmt.Errorf("opening the database at %s: %w", where, err)
}

// rootCause is the innermost error: the layers above it repeat the address.
func rootCause(err error) error {
	for {
		switch e := err.(type) { //nolint:errorlint // it goes down by itself
		case interface{ Unwrap() error }:
			inner := e.Unwrap()
			if inner == nil {
				return err
			}
			err = inner
		case interface{ Unwrap() []error }:
			all := e.Unwrap()
			if len(all) == 0 {
				return err
			}
			err = all[len(all)-1]
		default:
			return err
		}
	}
}
