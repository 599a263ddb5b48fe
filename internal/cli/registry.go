package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// registryInfo is what the server knows of a registry elsewhere.
type registryInfo struct {
	Host      string   `json:"host"`
	Username  string   `json:"username"`
	HasSecret bool     `json:"hasSecret"`
	Mirrors   []string `json:"mirrors"`
	CA        string   `json:"ca"`
	PlainHTTP bool     `json:"plainHttp"`
	UpdatedAt float64  `json:"updatedAt"` // Unix seconds
}

// registryChange is a request of PutRegistry. Nil members stay as they are.
type registryChange struct {
	Host      string    `json:"host"`
	Username  *string   `json:"username,omitempty"`
	Secret    *string   `json:"secret,omitempty"`
	Mirrors   *[]string `json:"mirrors,omitempty"`
	CA        *string   `json:"ca,omitempty"`
	PlainHTTP *bool     `json:"plainHttp,omitempty"`
}

func (a *App) registryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "registry",
		Short: "Logins, mirrors and certificates of other registries",
		Long: `Logins, mirrors and certificates of registries that images come from. They are the server's, for all services.

Without a subcommand the registries are listed.`,
		Example: `  trysail registry login ghcr.io -u me
  trysail registry set docker.io --mirror https://mirror.example.com`,
	}
	list := &cobra.Command{
		Use: "list", Short: "List what is known of registries; secrets are not shown",
		Example: `  trysail registry list`, Args: exactArgs(),
	}
	return a.group(cmd, a.listRegistries, list,
		a.registryLoginCommand(), a.registryLogoutCommand(), a.registrySetCommand(), a.registryDeleteCommand())
}

// putRegistry sends a change and says what it was.
func (a *App) putRegistry(ctx context.Context, c *client, change registryChange, asJSON bool, format string, args ...any) error {
	if err := c.call(ctx, "PutRegistry", change, &struct{}{}); err != nil {
		return err
	}
	return a.done(asJSON, format, args...)
}

func (a *App) registryLoginCommand() *cobra.Command {
	var user string
	var fromStdin bool
	cmd := &cobra.Command{
		Use:   "login HOST -u USER",
		Short: "Keep a login for a registry",
		Long: `Keep a login for a registry. The secret (a password or a token) is asked for on the terminal, or read from standard
input. It is sealed on the server's disk and never shown again. Docker Hub is docker.io.`,
		Example: `  trysail registry login ghcr.io -u me
  printf %s "$TOKEN" | trysail registry login ghcr.io -u me --password-stdin`,
		Args:              exactArgs("HOST"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVarP(&user, "username", "u", "", "the user")
	cmd.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the secret from standard input")
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		if user == "" {
			return Usagef("the user is missing: -u USER")
		}
		secret, err := a.readSecret(fmt.Sprintf("Password or token of %s at %s: ", user, args[0]), fromStdin)
		if err != nil {
			return err
		}
		change := registryChange{Host: args[0], Username: &user, Secret: &secret}
		return a.putRegistry(ctx, c, change, asJSON, "Images of %s are pulled as %s.", clean(args[0]), clean(user))
	})
}

// readSecret reads a secret that must not be seen: without echo from a terminal, else the first line of the input.
func (a *App) readSecret(prompt string, fromStdin bool) (string, error) {
	if f, ok := a.In.(*os.File); ok && !fromStdin && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(a.Err, prompt)
		secret, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(a.Err)
		if err == nil && len(secret) == 0 {
			err = errors.New("no secret was given")
		}
		return string(secret), err
	}
	const most = 64 << 10 // bytes, as the server has it
	line, err := bufio.NewReader(io.LimitReader(a.In, most+2)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("reading the secret: %w", err)
	}
	secret := strings.TrimRight(line, "\r\n")
	if secret == "" {
		return "", WithHint(errors.New("no secret was given"), `Write it to standard input: printf %%s "$TOKEN" | trysail registry login …`)
	}
	return secret, nil
}

func (a *App) registryLogoutCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "logout HOST", Short: "Forget the login for a registry", Example: `  trysail registry logout ghcr.io`,
		Args: exactArgs("HOST"), ValidArgsFunction: inOrder(a.registryNames()),
	}
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		none := ""
		change := registryChange{Host: args[0], Username: &none, Secret: &none}
		return a.putRegistry(ctx, c, change, asJSON, "The login for %s is forgotten.", clean(args[0]))
	})
}

func (a *App) registrySetCommand() *cobra.Command {
	var ca string
	var mirrors []string
	var plainHTTP bool
	cmd := &cobra.Command{
		Use:   "set HOST",
		Short: "Set mirrors, CA certificates or plain HTTP for a registry",
		Long: `Set mirrors, CA certificates or plain HTTP for a registry. What is not given stays as it is; an empty value takes it back.

Mirrors are asked first, in the order given; what they cannot give comes from the registry itself. With plain HTTP anybody
between the server and the registry can read and change what is pulled.`,
		Example: `  trysail registry set docker.io --mirror https://mirror.example.com
  trysail registry set registry.lan:5000 --ca lan-ca.pem
  trysail registry set registry.lan:5000 --plain-http`,
		Args:              exactArgs("HOST"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringArrayVar(&mirrors, "mirror", nil, "base URL of a mirror; may be given several times")
	cmd.Flags().StringVar(&ca, "ca", "", "file with the CA certificates to trust for it, in PEM form")
	cmd.Flags().BoolVar(&plainHTTP, "plain-http", false, "speak HTTP to it instead of HTTPS")
	must(cmd.MarkFlagFilename("ca", "pem", "crt"))
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		change := registryChange{Host: args[0]}
		flags := cmd.Flags()
		if flags.Changed("mirror") {
			given := []string{}
			for _, m := range mirrors {
				if m != "" {
					given = append(given, m)
				}
			}
			change.Mirrors = &given
		}
		if flags.Changed("ca") {
			text := ""
			if ca != "" {
				raw, err := os.ReadFile(ca) //nolint:gosec // the path is the user's
				if err != nil {
					return fmt.Errorf("reading the CA certificates: %w", err)
				}
				text = string(raw)
			}
			change.CA = &text
		}
		if flags.Changed("plain-http") {
			change.PlainHTTP = &plainHTTP
		}
		if change.Mirrors == nil && change.CA == nil && change.PlainHTTP == nil {
			return Usagef("nothing to set: --mirror, --ca or --plain-http")
		}
		return a.putRegistry(ctx, c, change, asJSON, "Registry %s is set.", clean(args[0]))
	})
}

func (a *App) listRegistries(ctx context.Context, c *client, _ []string, asJSON bool) error {
	var out struct {
		Registries []registryInfo `json:"registries"`
	}
	if err := c.call(ctx, "ListRegistries", struct{}{}, &out); err != nil {
		return err
	}
	if asJSON {
		return printJSON(a.Out, out)
	}
	if len(out.Registries) == 0 {
		fmt.Fprintln(a.Err, "Nothing is kept about any registry. Keep a login with: trysail registry login HOST -u USER")
		return nil
	}
	var rows [][]string
	for _, r := range out.Registries {
		rows = append(rows, []string{clean(r.Host), orDash(clean(r.Username)), yesNo(r.CA != ""), yesNo(r.PlainHTTP), orDash(clean(strings.Join(r.Mirrors, " ")))})
	}
	return a.screen(a.Out).table([]string{"HOST", "USER", "OWN CA", "PLAIN HTTP", "MIRRORS"}, rows)
}

func (a *App) registryDeleteCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete HOST", Short: "Forget everything about a registry", Example: `  trysail registry delete registry.lan:5000`,
		Args: exactArgs("HOST"), ValidArgsFunction: inOrder(a.registryNames()),
	}
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		if err := c.call(ctx, "DeleteRegistry", map[string]string{"host": args[0]}, &struct{}{}); err != nil {
			return err
		}
		return a.done(asJSON, "Registry %s is forgotten.", clean(args[0]))
	})
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
