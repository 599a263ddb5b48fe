package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trysail/trysail/internal/cli"
	"github.com/trysail/trysail/internal/store"
)

func databaseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "database",
		Short: "Look after the database of a server",
		Long:  "Look after the database of a server: one SQLite file, or PostgreSQL for several servers.",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(moveCommand())
	return cmd
}

// move is what trysail database move was told.
type move struct {
	to      string
	dataDir string
	source  databaseConfig
	// patience is how long another server may lead before the move is given up.
	patience time.Duration
}

func moveCommand() *cobra.Command {
	m := move{patience: leaderPatience}
	cmd := &cobra.Command{
		Use:   "move --to URL",
		Short: "Move the state of a stopped server to another database",
		Long: `Move the state of a stopped server to another database.

From the file in --data-dir to PostgreSQL, or with --to sqlite:DIR from the PostgreSQL of --database back to a file in
the data directory DIR. All servers that use either must be stopped. The target must be empty; everything is copied in
one transaction, read back and compared. A move that was cut short is begun again with the same command.

Only the state is moved. Logs, metrics, pushed images, certificates and keys are files and stay in --data-dir.`,
		Example: `  sudo systemctl stop trysail
  sudo trysail database move --to 'postgres://trysail@db.example.com/trysail' --database-password-file /etc/trysail/db-password`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.StringVar(&m.to, "to", "", "where the state shall be: postgres://USER@HOST:PORT/NAME, or sqlite:DIR")
	f.StringVar(&m.dataDir, "data-dir", cli.DefaultDataDir, "data directory of the server")
	m.source.flags(f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := environment(f, os.Getenv); err != nil {
			return err
		}
		if err := m.validate(f.Changed("to"), f.Changed("database")); err != nil {
			return err
		}
		log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
		return m.run(cmd.Context(), cmd.OutOrStdout(), log)
	}
	return cmd
}

// validate checks the flags; the two say which of them stood on the command line. Errors: usage.
func (m *move) validate(toShown, databaseShown bool) error {
	dir, isFile := strings.CutPrefix(m.to, "sqlite:")
	switch {
	case isPostgres(m.to) && databaseShown:
		return cli.Usagef("--database is for --to sqlite:DIR; to PostgreSQL, the state is moved from --data-dir")
	case isPostgres(m.to) && toShown && store.HasPassword(m.to):
		return errPasswordShown("--to")
	case isPostgres(m.to):
		return nil
	case !isFile || dir == "":
		return cli.Usagef("--to must be postgres://USER@HOST:PORT/NAME or sqlite:DIR")
	case m.source.url == "":
		return cli.Usagef("--to sqlite:DIR needs --database, which says where the state is now")
	}
	return m.source.validate(databaseShown)
}

func (m *move) run(ctx context.Context, out io.Writer, log *slog.Logger) (err error) {
	from, to := m.source, databaseConfig{url: m.to, passwordFile: m.source.passwordFile, sealKeyFile: m.source.sealKeyFile}
	fromDir, toDir := m.dataDir, m.dataDir
	if dir, ok := strings.CutPrefix(m.to, "sqlite:"); ok {
		to, toDir = databaseConfig{}, strings.TrimSuffix(dir, string(filepath.Separator)+"trysail.db")
		fromDir = toDir // the key there must be the one that the secrets are sealed with
		if _, err := os.Stat(filepath.Join(toDir, "seal.key")); err != nil {
			return cli.WithHint(fmt.Errorf("the key that the secrets are sealed with is missing: %w", err), "Copy seal.key there from the data directory of a server that used %s.", store.ShowURL(from.url))
		}
	} else {
		from = databaseConfig{}
		if _, err := os.Stat(filepath.Join(fromDir, "trysail.db")); errors.Is(err, os.ErrNotExist) {
			if _, err := os.Stat(filepath.Join(fromDir, "trysail.db.moved")); err != nil {
				return fmt.Errorf("there is no state in %s", fromDir)
			}
		}
	}
	lock, err := openDataDir(toDir) // one of the two is in a file there
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	tables, err := m.copy(ctx, from, to, fromDir, toDir, log)
	if err != nil {
		return err
	}
	rows := 0
	for _, t := range tables {
		rows += t.Rows
	}
	fmt.Fprintf(out, "Copied %d rows in %d tables; they are the same on both sides.\n", rows, len(tables))
	if to.url == "" {
		if err := store.KeepTarget(toDir); err != nil {
			return fmt.Errorf("keeping the new file: %w", err)
		}
		fmt.Fprintf(out, "Start the server without --database. What is in %s was left there.\n", store.ShowURL(from.url))
		return nil
	}
	kept, err := store.MarkMoved(fromDir)
	if err != nil {
		return fmt.Errorf("putting the old file out of the way: %w", err)
	}
	fmt.Fprintf(out, `The old file is kept as %s.
Logs, metrics, pushed images, certificates and keys are files and stay in %s.
Start the server with: trysail serve --database %s
`, kept, m.dataDir, store.ShowURL(m.to))
	return nil
}

// leaderPatience is longer than the lease of a server that has just died.
const leaderPatience = 15 * time.Second

// copy copies the state while nobody leads.
func (m *move) copy(ctx context.Context, from, to databaseConfig, fromDir, toDir string, log *slog.Logger) (_ []store.Table, err error) {
	source, err := openStore(ctx, from, fromDir, log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	open := func() (*store.Store, error) { return openStore(ctx, to, toDir, log) }
	if to.url == "" {
		open = func() (*store.Store, error) { return store.OpenTarget(ctx, toDir) }
	}
	target, err := open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	for _, s := range []*store.Store{source, target} {
		holder := "somebody"
		waiting, cancel := context.WithTimeout(ctx, m.patience)
		_, release, err := s.Lead(waiting, func(name string) { holder = name })
		cancel()
		if err != nil {
			return nil, cli.WithHint(fmt.Errorf("a server uses the database: %s", holder), "Stop all servers that use it first.")
		}
		defer release()
	}
	tables, err := store.Copy(ctx, source, target)
	if errors.Is(err, store.ErrNotEmpty) {
		return nil, cli.WithHint(fmt.Errorf("moving the state: %w", err), "Give an empty database; what is in this one is not overwritten.")
	}
	if err != nil {
		return nil, fmt.Errorf("moving the state: %w", err)
	}
	return tables, nil
}
