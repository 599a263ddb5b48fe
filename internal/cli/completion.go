package cli

import (
	"github.com/spf13/cobra"
)

func (a *App) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print the script that lets the shell complete commands, flags and names of services",
		Example: `  trysail completion bash > /etc/bash_completion.d/trysail
  trysail completion zsh > "${fpath[1]}/_trysail"
  trysail completion fish > ~/.config/fish/completions/trysail.fish`,
		Args:              exactArgs("the shell, bash, zsh or fish,"),
		ValidArgsFunction: cobra.FixedCompletions([]string{"bash", "zsh", "fish"}, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.Out, true)
			case "zsh":
				return root.GenZshCompletion(a.Out)
			case "fish":
				return root.GenFishCompletion(a.Out, true)
			}
			return Usagef("there is no completion for %q, only for bash, zsh and fish", args[0])
		},
	}
}
