// Package cli holds the commands that people type. They speak to any Trysail, or to AWS, through the official SDK, so
// every use of them is a test of compatibility.
//
// What goes where, for all commands:
//
//   - Results go to standard output: tables and sentences for people, JSON with --output json for programs.
//   - Errors go to standard error as one line that begins with "trysail: " and says what happened and what to try.
//   - What moves or is erased again (a spinner, a question) appears on a terminal only.
//   - Colour appears on a terminal only, and never when NO_COLOR is set.
//   - The exit status is 0 for done, 1 for failed, 2 for wrong usage, 3 for a deployment that FAILED.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// App is what the commands take from their surroundings. A nil field means the process's own.
type App struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
	// Getenv looks up an environment variable.
	Getenv func(string) string
	// Build is what `trysail version` prints.
	Build Build
	// Probe tells doctor what the machine has to offer to the engine. Nil: doctor leaves that out.
	Probe func(ctx context.Context, dataDir string) []Check

	// Root is where the system's files are, for trust; empty means /.
	Root string

	// client is the one that the command made last; nil: none.
	client *client
	// ran is set as soon as a command has accepted its flags and arguments: an error before that is wrong usage.
	ran bool
}

// Execute runs the command line args, the program's name excluded, and returns the exit status. extra are commands
// that the program has besides those of this package.
func (a *App) Execute(ctx context.Context, args []string, extra ...*cobra.Command) int {
	a.fill()
	root := a.root() //nolint:contextcheck // cobra hands the context to the commands
	root.AddCommand(extra...)
	a.setHelp(root)
	root.SetArgs(args)
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	cmd, err := root.ExecuteContextC(ctx)
	return a.finish(ctx, cmd, err)
}

func (a *App) fill() {
	if a.In == nil {
		a.In = os.Stdin
	}
	if a.Out == nil {
		a.Out = os.Stdout
	}
	if a.Err == nil {
		a.Err = os.Stderr
	}
	if a.Getenv == nil {
		a.Getenv = os.Getenv
	}
}

// finish prints the error, if any, and turns it into an exit status.
func (a *App) finish(ctx context.Context, cmd *cobra.Command, err error) int {
	if err == nil {
		return ExitOK
	}
	if errors.Is(err, errDeploymentFailed) {
		return ExitDeploymentFailed // its explanation is the command's output
	}
	if exit, ok := errors.AsType[*exitError](err); ok {
		return exit.code
	}
	if errors.Is(err, errSilent) {
		return ExitFailed
	}
	var usage *usageError
	if !a.ran || errors.As(err, &usage) {
		err = WithHint(err, "See: %s --help", cmd.CommandPath())
		a.complain(err)
		return ExitUsage
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	a.complain(a.suggest(ctx, err))
	return ExitFailed
}

func (a *App) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "trysail",
		Short: "Amazon Lightsail container services on your own machines",
		Long: `Trysail is Amazon Lightsail container services on your own machines.

  sudo trysail serve                      start the server
  eval "$(sudo trysail env)"              let AWS tools and these commands use it
  trysail create web                      make a service
  trysail deploy web -f web.json --wait   deploy to it, and say why if that fails

The file is the JSON of aws lightsail create-container-service-deployment --cli-input-json.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRun:  func(*cobra.Command, []string) { a.ran = true },
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
	}
	root.CompletionOptions.DisableDefaultCmd = true // ours has no powershell
	root.AddCommand(
		a.servicesCommand(), a.createCommand(), a.updateCommand(), a.deleteCommand(), a.upCommand(), a.checkCommand(),
		a.deployCommand(), a.cancelCommand(), a.rollbackCommand(), a.deploymentsCommand(), a.diffCommand(), a.openCommand(),
		a.psCommand(), a.explainCommand(), a.logsCommand(), a.metricsCommand(), a.execCommand(), a.runCommand(),
		a.pushCommand(), a.imagesCommand(), a.registryCommand(), a.domainsCommand(), a.certsCommand(), a.settingsCommand(),
		a.keysCommand(), a.auditCommand(), a.exportCommand(), a.importCommand(), a.nodesCommand(), a.migrateCommand(),
		a.envCommand(), a.doctorCommand(), a.trustCommand(), a.versionCommand(), a.completionCommand(), a.manCommand(),
	)
	return root
}

// common holds the flags that every client command has.
type common struct {
	dataDir string
	output  string
}

func (a *App) commonFlags(cmd *cobra.Command) *common {
	f := &common{}
	a.dataDirFlag(cmd, &f.dataDir)
	outputFlag(cmd, &f.output)
	return f
}

// DefaultDataDir is where the server keeps its state unless told otherwise.
const DefaultDataDir = "/var/lib/trysail"

func (a *App) dataDirFlag(cmd *cobra.Command, dir *string) {
	value := DefaultDataDir
	if v := a.Getenv("TRYSAIL_DATA_DIR"); v != "" {
		value = v
	}
	cmd.Flags().StringVar(dir, "data-dir", value,
		"where the server's admin key is, if AWS_ENDPOINT_URL_LIGHTSAIL is not set")
}

func outputFlag(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "table", "table or json")
	must(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp)))
}

// json reports whether the output shall be JSON. Errors: usage.
func (f *common) json() (bool, error) {
	switch f.output {
	case "json":
		return true, nil
	case "table", "text":
		return false, nil
	}
	return false, Usagef("--output must be table or json, not %q", f.output)
}

// action is what a command does with a server.
type action = func(ctx context.Context, c *client, args []string, asJSON bool) error

// onServer gives the command the flags that all clients have and makes it do its action with a client. The server is not
// called before. A command that looks at its own flags first calls begin itself.
func (a *App) onServer(cmd *cobra.Command, do action) *cobra.Command {
	f := a.commonFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, asJSON, err := a.begin(f)
		if err != nil {
			return err
		}
		return do(cmd.Context(), c, args, asJSON)
	}
	return cmd
}

// group makes cmd the name of several commands. Without one of them it does what the first does, list.
func (a *App) group(cmd *cobra.Command, list action, listCommand *cobra.Command, others ...*cobra.Command) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return nil
	}
	cmd.AddCommand(a.onServer(listCommand, list))
	cmd.AddCommand(others...)
	return a.onServer(cmd, list)
}

// begin is how a command begins whose flags are good: it makes the client and says whether the output shall be JSON. The
// server is not called yet. Errors: usage, and no Trysail is known.
func (a *App) begin(f *common) (c *client, asJSON bool, err error) {
	if asJSON, err = f.json(); err != nil {
		return nil, false, err
	}
	c, err = a.connect(f.dataDir)
	return c, asJSON, err
}

// done says that something was done that has no result: a sentence, or an empty object of JSON.
func (a *App) done(asJSON bool, format string, args ...any) error {
	if asJSON {
		return printJSON(a.Out, struct{}{})
	}
	_, err := fmt.Fprintf(a.Out, format+"\n", args...)
	return err
}

// must panics for an error that only a mistake in this package can cause.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
