package cli

import (
	"context"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/spf13/cobra"
)

func (a *App) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print the completion script for bash, zsh or fish",
		Long: `Print the script that lets the shell complete commands, flags, and the names of services, containers, versions, keys
and the like, which it asks the server for.`,
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

// completer is what cobra asks for what may stand at a place of the command line.
type completer = func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective)

// ask makes a completer that asks the server. A shell that hangs is worse than no completion, so it asks for a moment only.
func (a *App) ask(question func(ctx context.Context, c *client, args []string) ([]string, error)) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		dir, err := cmd.Flags().GetString("data-dir")
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		c, err := a.connect(dir)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		names, err := question(ctx, c, args)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// inOrder makes a completer of one for each argument.
func inOrder(places ...completer) completer {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(places) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return places[len(args)](cmd, args, word)
	}
}

// completeFiles leaves an argument to the shell, which knows the files.
func completeFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

// completeService offers the names of the services for the first argument.
func (a *App) completeService(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return inOrder(a.serviceNames())(cmd, args, word)
}

// completeContainer offers services, then the containers of the service.
func (a *App) completeContainer(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return inOrder(a.serviceNames(), a.containerNames())(cmd, args, word)
}

// completeVersion offers services, then the versions of the service, twice.
func (a *App) completeVersion(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return inOrder(a.serviceNames(), a.versionNames(), a.versionNames())(cmd, args, word)
}

// completeFlags registers what the server knows for the flags --container and --version.
func (a *App) completeFlags(cmd *cobra.Command) {
	if cmd.Flags().Lookup("container") != nil {
		must(cmd.RegisterFlagCompletionFunc("container", a.containerNames()))
	}
	if cmd.Flags().Lookup("version") != nil {
		must(cmd.RegisterFlagCompletionFunc("version", a.versionNames()))
	}
}

func (a *App) serviceNames() completer {
	return a.ask(func(ctx context.Context, c *client, _ []string) (names []string, err error) {
		out, err := c.GetContainerServices(ctx, &lightsail.GetContainerServicesInput{})
		if err != nil {
			return nil, err
		}
		for _, s := range out.ContainerServices {
			names = append(names, aws.ToString(s.ContainerServiceName)+"\t"+string(s.State))
		}
		return names, nil
	})
}

func (a *App) containerNames() completer {
	return a.ask(func(ctx context.Context, c *client, args []string) ([]string, error) {
		if len(args) == 0 {
			return nil, nil
		}
		return c.containers(ctx, args[0], logOptions{})
	})
}

func (a *App) versionNames() completer {
	return a.ask(func(ctx context.Context, c *client, args []string) (names []string, err error) {
		if len(args) == 0 {
			return nil, nil
		}
		list, err := c.deployments(ctx, args[0])
		for _, d := range list {
			names = append(names, strconv.Itoa(int(aws.ToInt32(d.Version)))+"\t"+string(d.State)+" "+when(d.CreatedAt))
		}
		return names, err
	})
}

func (a *App) keyNames() completer {
	return a.ask(func(ctx context.Context, c *client, _ []string) (names []string, err error) {
		keys, err := c.keys(ctx)
		for _, k := range keys {
			names = append(names, k.AccessKeyID+"\t"+clean(k.Name))
		}
		return names, err
	})
}

func (a *App) certificateNames() completer {
	return a.ask(func(ctx context.Context, c *client, _ []string) (names []string, err error) {
		all, err := c.certificates(ctx, "")
		for _, cert := range all {
			names = append(names, aws.ToString(cert.CertificateName)+"\t"+aws.ToString(cert.DomainName))
		}
		return names, err
	})
}

// imageNames offers the images of all services.
func (a *App) imageNames() completer {
	return a.ask(func(ctx context.Context, c *client, _ []string) (names []string, err error) {
		services, err := c.GetContainerServices(ctx, &lightsail.GetContainerServicesInput{})
		if err != nil {
			return nil, err
		}
		for _, s := range services.ContainerServices {
			out, err := c.GetContainerImages(ctx, &lightsail.GetContainerImagesInput{ServiceName: s.ContainerServiceName})
			if err != nil {
				return names, err
			}
			for _, img := range out.ContainerImages {
				names = append(names, aws.ToString(img.Image))
			}
		}
		return names, nil
	})
}

func (a *App) registryNames() completer {
	return a.ask(func(ctx context.Context, c *client, _ []string) (names []string, err error) {
		var out struct {
			Registries []struct {
				Host string `json:"host"`
			} `json:"registries"`
		}
		err = c.call(ctx, "ListRegistries", struct{}{}, &out)
		for _, r := range out.Registries {
			names = append(names, r.Host)
		}
		return names, err
	})
}
