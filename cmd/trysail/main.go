// Command trysail is the one binary: command line, server, containerd and containerd's shim. How it is called decides.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/trysail/trysail/internal/cli"
	"github.com/trysail/trysail/internal/engine/containerd"
	"github.com/trysail/trysail/internal/engine/cri"
)

// version is set by release builds: -ldflags "-X main.version=v1.2.3".
var version string

func main() {
	// The roles come first: a shim is started twice for every pod, and whatever happens before this line happens there.
	switch containerd.RoleOf(os.Args) {
	case containerd.RoleShim:
		containerd.RunShim(context.Background())
	case containerd.RoleDaemon:
		if err := containerd.RunDaemon(context.Background(), os.Args); err != nil {
			fmt.Fprintf(os.Stderr, "containerd: %v\n", err)
			os.Exit(1)
		}
	case containerd.RoleNone:
		os.Exit(trysailMain(os.Args[1:]))
	}
}

// trysailMain is the command line and the server. It returns the exit status.
func trysailMain(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // whoever signals twice does not want to wait
	app := &cli.App{Build: cli.ReadBuild(version), Probe: probe}
	if filepath.Base(os.Args[0]) == cli.PluginName {
		return app.Plugin(ctx, args)
	}
	return app.Execute(ctx, args, serveCommand(app), databaseCommand())
}

func serveCommand(app *cli.App) *cobra.Command {
	var cfg config
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server: API, containers and HTTPS",
		Long: `Run the server: API, containers and HTTPS. It needs root.

It runs until it gets SIGTERM or SIGINT. Containers go on running without it, and the next start finds them again.
Every flag can also be given as an environment variable: --data-dir as TRYSAIL_DATA_DIR, and so on; a flag on the
command line goes first. trysail doctor says what this machine lacks.`,
		Example: `  sudo trysail serve
  sudo trysail serve --domain apps.example.com --acme-email ops@example.com`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return cli.Usagef("unexpected argument %q", args[0])
			}
			return nil
		},
	}
	cfg.flags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := environment(cmd.Flags(), os.Getenv); err != nil {
			return err
		}
		if err := cfg.validate(); err != nil {
			return err
		}
		if err := cfg.database.validate(cmd.Flags().Changed("database")); err != nil {
			return err
		}
		log, err := cfg.logger(os.Stderr)
		if err != nil {
			return err
		}
		for _, name := range unknownVariables(cmd.Flags(), os.Environ()) {
			log.Warn("an environment variable looks like a setting but is none", "name", name)
		}
		log.Info("starting", "version", app.Build.Version, "commit", app.Build.Commit, "data_dir", cfg.dataDir)
		return run(cmd.Context(), cfg, log, os.Stdout, os.Getenv("NOTIFY_SOCKET"))
	}
	return cmd
}

// probe tells doctor what the engine misses on this machine.
func probe(_ context.Context, dataDir string) []cli.Check {
	dir, err := filepath.Abs(dataDir)
	if err != nil {
		dir = dataDir
	}
	var checks []cli.Check
	for _, p := range cri.Probe(cri.Config{Dir: engineDir(dir), PrivateDNS: true}) { //nolint:contextcheck // it has time limits of its own
		level := cli.LevelWarn
		if p.Fatal {
			level = cli.LevelFail
		}
		checks = append(checks, cli.Check{Name: "engine", Level: level, Detail: p.Text, Fix: p.Fix})
	}
	if len(checks) == 0 {
		checks = append(checks, cli.Check{Name: "engine", Level: cli.LevelOK, Detail: "root, runc, the CNI plugins, control groups and overlayfs are there"})
	}
	return checks
}

// engineDir is the engine's part of the data directory.
func engineDir(dataDir string) string { return filepath.Join(dataDir, "engine") }
