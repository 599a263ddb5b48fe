package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

// checkAnswer is what the server says of a deployment before it is made.
type checkAnswer struct {
	Problems []string `json:"problems"`
	Warnings []string `json:"warnings"`
	Images   []struct {
		Container    string   `json:"container"`
		Image        string   `json:"image"`
		Digest       string   `json:"digest"`
		Architecture string   `json:"architecture"`
		ExposedPorts []string `json:"exposedPorts"`
	} `json:"images"`
}

func (a *App) checkCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "check [SERVICE] -f FILE",
		Short: "Say what is wrong with a deployment file without deploying it",
		Long: `Say what is wrong with a deployment file without deploying it: the server looks at every field, asks the registries
for the images, and compares the service's capacity with the machine. The file is that of trysail deploy.

The exit status is 0 when nothing is known against the deployment, warnings or not, and 1 when it would be refused or
would fail for certain.`,
		Example:           `  trysail check web -f web.json`,
		Args:              rangeArgs(0, "SERVICE"),
		ValidArgsFunction: a.completeService,
	}
	f := a.commonFlags(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "the deployment as JSON; - reads standard input")
	must(cmd.MarkFlagFilename("file", "json"))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if file == "" {
			return Usagef("the deployment file is missing: -f FILE")
		}
		service := ""
		if len(args) > 0 {
			service = args[0]
		}
		in, err := a.readDraft(file, service)
		if err != nil {
			return err
		}
		c, asJSON, err := a.begin(f)
		if err != nil {
			return err
		}
		var out checkAnswer
		if err := c.call(cmd.Context(), "CheckDeployment", wire(*in), &out); err != nil {
			return err
		}
		if asJSON {
			err = printJSON(a.Out, out)
		} else {
			a.printCheck(out)
		}
		if err == nil && len(out.Problems) > 0 {
			return errSilent // the problems are the command's output
		}
		return err
	}
	return cmd
}

func (a *App) printCheck(out checkAnswer) {
	s := a.screen(a.Out)
	for _, p := range out.Problems {
		fmt.Fprintf(s, "%s %s\n", s.paint(red, "problem:"), clean(p))
	}
	for _, w := range out.Warnings {
		fmt.Fprintf(s, "%s %s\n", s.paint(yellow, "warning:"), clean(w))
	}
	for _, img := range out.Images {
		fmt.Fprintf(s, "%s is %s@%s\n", clean(img.Container), clean(img.Image), clean(img.Digest))
	}
	if len(out.Problems) == 0 {
		fmt.Fprintln(s, s.paint(green, "Nothing is known against this deployment."))
	}
}
