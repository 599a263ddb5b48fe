package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func (a *App) envCommand() *cobra.Command {
	var dataDir, shell, output string
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Print what lets AWS tools use this machine's Trysail",
		Long: `Print the settings that let the AWS CLI, the AWS SDKs and these commands use this machine's Trysail: its address and
the admin access key, which the server makes at its first start. Whoever has the key may do everything with it.`,
		Example: `  eval "$(trysail env)"
  trysail env --shell fish | source`,
		Args: exactArgs(),
	}
	a.dataDirFlag(cmd, &dataDir)
	cmd.Flags().Lookup("data-dir").Usage = "the server's data directory"
	cmd.Flags().StringVar(&shell, "shell", "posix", "for which shell: posix or fish")
	cmd.Flags().StringVarP(&output, "output", "o", "shell", "shell or json")
	must(cmd.RegisterFlagCompletionFunc("shell", cobra.FixedCompletions([]string{"posix", "fish"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"shell", "json"}, cobra.ShellCompDirectiveNoFileComp)))
	cmd.RunE = func(*cobra.Command, []string) error {
		if shell != "posix" && shell != "fish" {
			return Usagef("--shell must be posix or fish, not %q", shell)
		}
		if output != "shell" && output != "json" {
			return Usagef("--output must be shell or json, not %q", output)
		}
		admin, err := readAdmin(dataDir)
		if err != nil {
			return err
		}
		vars := variables(admin)
		if output == "json" {
			m := map[string]string{}
			for _, v := range vars {
				m[v[0]] = v[1]
			}
			return printJSON(a.Out, m)
		}
		for _, v := range vars {
			if shell == "fish" {
				fmt.Fprintf(a.Out, "set -gx %s %s;\n", v[0], quoteFish(v[1]))
			} else {
				fmt.Fprintf(a.Out, "export %s=%s\n", v[0], quotePosix(v[1]))
			}
		}
		return nil
	}
	return cmd
}

// variables are the settings with their names.
func variables(admin Admin) [][2]string {
	vars := [][2]string{
		{"AWS_ACCESS_KEY_ID", admin.AccessKeyID},
		{"AWS_SECRET_ACCESS_KEY", admin.SecretAccessKey},
		{"AWS_REGION", admin.Region},
		{"AWS_DEFAULT_REGION", admin.Region},
		{"AWS_ENDPOINT_URL_LIGHTSAIL", admin.Endpoint},
		{"TRYSAIL_CA", admin.CA},
	}
	if strings.HasPrefix(admin.Endpoint, "https:") {
		// Else the AWS CLI and boto3 refuse the certificate. It replaces what they trust, also for calls to AWS, so it is
		// left out where it is not needed.
		vars = append(vars, [2]string{"AWS_CA_BUNDLE", admin.CA})
	}
	return vars
}

// quotePosix makes one word of s. Nothing is special between single quotes but the quote itself.
func quotePosix(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// quoteFish is quotePosix for fish, where the backslash is special too.
func quoteFish(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}
