package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/trysail/trysail/internal/cli"
	"github.com/trysail/trysail/internal/store"
)

// databaseConfig says where the state is.
type databaseConfig struct {
	url          string
	passwordFile string
	sealKeyFile  string
}

func (c *databaseConfig) flags(f *pflag.FlagSet) {
	f.StringVar(&c.url, "database", "",
		"PostgreSQL that has the state, postgres://USER@HOST:PORT/NAME, for several servers with one state; by default a file in --data-dir; see docs/database.md")
	f.StringVar(&c.passwordFile, "database-password-file", "",
		"file with the password of --database; PGPASSFILE and a password within TRYSAIL_DATABASE are taken, too")
	f.StringVar(&c.sealKeyFile, "seal-key-file", "",
		"file with the key that seals the secrets in --database, the same for all servers; by default seal.key in --data-dir")
}

// validate checks the values. onCommandLine says that the URL stood there, where every user of the machine can read it.
// Errors: usage; they do not repeat the URL, which may hold a password.
func (c *databaseConfig) validate(onCommandLine bool) error {
	switch {
	case c.url == "" && c.passwordFile != "":
		return cli.Usagef("--database-password-file is for --database, which is not given")
	case c.url == "" && c.sealKeyFile != "":
		return cli.Usagef("--seal-key-file is for --database, which is not given")
	case c.url == "":
		return nil
	case !isPostgres(c.url):
		return cli.Usagef("--database is not a URL such as postgres://trysail@db.example.com:5432/trysail")
	case onCommandLine && store.HasPassword(c.url):
		return errPasswordShown("--database")
	}
	return nil
}

func isPostgres(url string) bool {
	return strings.HasPrefix(url, "postgres://") || strings.HasPrefix(url, "postgresql://")
}

func errPasswordShown(flag string) error {
	return cli.Usagef("%s holds a password, which every user of this machine can read in the list of processes; put it into the file of --database-password-file, into PGPASSFILE or into the variable TRYSAIL_DATABASE", flag)
}

// password is that of the file; empty without one.
func (c *databaseConfig) password() (string, error) {
	if c.passwordFile == "" {
		return "", nil
	}
	text, err := readToken(c.passwordFile)
	if err != nil {
		return "", fmt.Errorf("reading the password of the database: %w", err)
	}
	if text == "" {
		return "", fmt.Errorf("reading the password of the database: %s is empty", c.passwordFile)
	}
	return text, nil
}

// openStore opens the state: in PostgreSQL if a URL is given, else in the file in dir.
func openStore(ctx context.Context, cfg databaseConfig, dir string, log *slog.Logger) (*store.Store, error) {
	where := store.ShowURL(cfg.url)
	if cfg.url == "" {
		where = dir
	}
	st, err := openState(ctx, cfg, dir, log)
	if err == nil {
		return st, nil
	}
	fix := ""
	if p, ok := errors.AsType[*store.ProblemError](err); ok {
		fix = p.Fix
	}
	if moved, ok := errors.AsType[*store.MovedError](err); ok {
		fix = "Start with --database; or, to go back to the state of then, rename " + moved.File + " to trysail.db."
	}
	if errors.Is(err, store.ErrNewerFormat) {
		fix = "Start the newer trysail, or restore a backup that fits this one."
	}
	err = fmt.Errorf("opening the state in %s: %w", where, err)
	if fix != "" {
		err = cli.WithHint(err, "%s", fix)
	}
	return nil, err
}

func openState(ctx context.Context, cfg databaseConfig, dir string, log *slog.Logger) (*store.Store, error) {
	if cfg.url == "" {
		return store.Open(ctx, dir)
	}
	password, err := cfg.password()
	if err != nil {
		return nil, err
	}
	return store.OpenPostgres(ctx, store.Postgres{URL: cfg.url, Password: password, Dir: dir, SealKey: cfg.sealKeyFile, Log: log})
}

// lead runs the parts whenever this server leads: they change the world, and of all servers with one state only one may do
// that. With the state in a file there is only one. standby is called with the name of another server that leads.
func (s *server) lead(ctx context.Context, standby func(holder string), parts ...func(context.Context) error) error {
	for {
		leading, release, err := s.store.Lead(ctx, standby)
		if err != nil {
			return nil //nolint:nilerr // it was told to stop
		}
		s.log.DebugContext(ctx, "this server leads")
		err = together(leading, parts)
		lost := context.Cause(leading)
		release()
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // it was told to stop
		case lost != nil:
			s.log.WarnContext(ctx, "this server does not lead any more", "error", lost)
		case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrNotLeader):
			s.log.WarnContext(ctx, "leading is begun again", "error", err)
		default:
			return err
		}
	}
}

// together runs the parts until one fails or ctx ends, and waits for all.
func together(ctx context.Context, parts []func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, part := range parts {
		group.Go(func() error { return part(ctx) })
	}
	return group.Wait()
}
