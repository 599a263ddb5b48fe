package cli

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"
)

func (a *App) openCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "open SERVICE",
		Short: "Print the URL of a service, and open it in a browser",
		Long: `Print the URL of a service, and open it in a browser if there is one: that of $BROWSER, or of the desktop. Without a
desktop, in a pipe and with --output json it is only printed.`,
		Example:           `  trysail open web`,
		Args:              exactArgs("SERVICE"),
		ValidArgsFunction: a.completeService,
	}
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		s, err := c.service(ctx, args[0])
		if err != nil {
			return err
		}
		url := aws.ToString(s.Url)
		if url == "" {
			return errors.New("service " + args[0] + " has no URL yet")
		}
		if asJSON {
			return printJSON(a.Out, map[string]string{"url": url})
		}
		fmt.Fprintln(a.Out, clean(url))
		if a.screen(a.Out).terminal {
			return a.browse(ctx, url)
		}
		return nil
	})
}

// browse opens the URL, if this looks like a desktop.
func (a *App) browse(ctx context.Context, url string) error {
	program := a.Getenv("BROWSER")
	if program == "" {
		switch {
		case runtime.GOOS == "darwin":
			program = "open"
		case a.Getenv("DISPLAY") != "" || a.Getenv("WAYLAND_DISPLAY") != "":
			program = "xdg-open"
		default:
			return nil
		}
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return nil //nolint:nilerr // no browser: the URL is printed
	}
	if err := exec.CommandContext(ctx, path, url).Run(); err != nil { //nolint:gosec // the program is the user's choice
		return fmt.Errorf("opening %s with %s: %w", url, program, err)
	}
	return nil
}
