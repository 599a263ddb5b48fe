package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/spf13/cobra"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/diagnose"
)

func (a *App) explainCommand() *cobra.Command {
	var version int
	var bundle string
	cmd := &cobra.Command{
		Use:   "explain SERVICE | CODE",
		Short: "Say why a deployment FAILED and how to fix it",
		Long: `Say why a deployment FAILED, or why a pod of an ACTIVE one crashed, and how to fix it.

With --bundle everything that is kept of the version is written into one archive (tar.gz): the verdict, its evidence,
pods, and logs. The values of environment variables are masked in it.

A CODE in capital letters, such as RUN-ENV, is explained for itself: what it means, what leads to it and how to get rid of
it. That needs no server.`,
		Example: `  trysail explain web
  trysail explain RUN-ENV
  trysail explain web --version 7 --output json
  trysail explain web --bundle web.tar.gz`,
		Args:              exactArgs("SERVICE"),
		ValidArgsFunction: a.completeExplain,
	}
	f := a.commonFlags(cmd)
	cmd.Flags().IntVar(&version, "version", 0, "version of the deployment; 0: the newest that something was wrong with")
	cmd.Flags().StringVar(&bundle, "bundle", "", "write all that is kept of the version into this archive; - writes to standard output")
	must(cmd.MarkFlagFilename("bundle", "gz", "tgz"))
	a.completeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if version < 0 {
			return Usagef("--version must be 1 or more")
		}
		if isFailureCode(args[0]) {
			return a.explainCode(f, args[0])
		}
		c, asJSON, err := a.begin(f)
		if err != nil {
			return err
		}
		if bundle != "" {
			return a.bundle(cmd.Context(), c, args[0], version, bundle)
		}
		d, err := c.diagnosis(cmd.Context(), args[0], version)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.Out, map[string]any{"diagnosis": d})
		}
		s := a.screen(a.Out)
		state, err := c.deploymentState(cmd.Context(), args[0], d.Version)
		if err != nil {
			return err
		}
		fmt.Fprintf(s, "Deployment %d of service %s is %s.\n\n", d.Version, args[0], s.state(state))
		if d.Code == trysail.DiagnosisOK {
			fmt.Fprintln(s, d.Summary)
			printFindings(s, "Warnings:", d.Warnings)
			return nil
		}
		printDiagnosis(s, d)
		return nil
	}
	return cmd
}

// deploymentState is the state of a version that is kept.
func (c *client) deploymentState(ctx context.Context, service string, version int) (string, error) {
	out, err := c.GetContainerServiceDeployments(ctx, &lightsail.GetContainerServiceDeploymentsInput{ServiceName: &service})
	if err != nil {
		return "", err
	}
	for _, d := range out.Deployments {
		if int(aws.ToInt32(d.Version)) == version {
			return string(d.State), nil
		}
	}
	return "", fmt.Errorf("service %q does not have version %d any more", service, version)
}

// printDiagnosis prints the cause, the fix and what they rest on. Evidence is made of what containers wrote, so it is
// cleaned.
func printDiagnosis(s screen, d *trysail.Diagnosis) {
	where := ""
	if d.ContainerName != "" {
		where = "Container " + clean(d.ContainerName) + ": "
	}
	fmt.Fprintf(s, "%s%s\n", where, clean(d.Summary))
	if d.Fix != "" {
		fmt.Fprintf(s, "%s %s\n", s.paint(green, "Fix:"), clean(d.Fix))
	}
	fmt.Fprintf(s, "Code: %s (%s)\n", clean(string(d.Code)), clean(string(d.Confidence)))
	if _, _, ok := diagnose.Lookup(d.Code); ok {
		fmt.Fprintf(s, "More: trysail explain %s\n", d.Code)
	}
	if len(d.Evidence) > 0 {
		fmt.Fprintln(s, "\nEvidence:")
		var rows [][2]string
		for _, e := range d.Evidence {
			rows = append(rows, [2]string{e.Kind, e.Text})
		}
		printPairs(s, rows)
	}
	printFindings(s, "Also:", d.Also)
	printFindings(s, "Warnings:", d.Warnings)
	if len(d.Diff) > 0 {
		fmt.Fprintln(s, "\nChanged since the last active version:")
		var rows [][2]string
		for _, c := range d.Diff {
			rows = append(rows, [2]string{c.Field, orNone(c.Before) + " → " + orNone(c.After)})
		}
		printPairs(s, rows)
	}
}

// printFindings prints what was found out besides the cause.
func printFindings(s screen, title string, findings []trysail.Finding) {
	if len(findings) == 0 {
		return
	}
	fmt.Fprintf(s, "\n%s\n", title)
	var rows [][2]string
	for _, f := range findings {
		rows = append(rows, [2]string{string(f.Code), strings.TrimSpace(f.Summary + " " + f.Fix)})
	}
	printPairs(s, rows)
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

// printPairs prints names and texts in two columns; a text of several lines stays in its column.
func printPairs(w io.Writer, rows [][2]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		name := clean(row[0])
		for text := range strings.Lines(row[1]) {
			fmt.Fprintf(t, "  %s\t%s\n", name, clean(text))
			name = ""
		}
	}
	_ = t.Flush() // as good as Fprintf
}

// isFailureCode reports whether an argument is a code such as RUN-ENV; names of services have no capital letters.
func isFailureCode(arg string) bool {
	return arg != "" && strings.ToUpper(arg) == arg && strings.ToLower(arg) != arg
}

// explainCode prints the page of a code.
func (a *App) explainCode(f *common, code string) error {
	asJSON, err := f.json()
	if err != nil {
		return err
	}
	c, page, ok := diagnose.Lookup(trysail.DiagnosisCode(code))
	if !ok {
		return WithHint(fmt.Errorf("there is no code %s", code), "%s", didYouMean(code, failureCodes(), "trysail explain --help"))
	}
	if asJSON {
		return printJSON(a.Out, map[string]any{
			"code": c.Code, "title": c.Title, "meaning": c.Meaning, "fix": c.Fix, "basis": c.Basis, "final": c.Final, "page": page,
		})
	}
	s := a.screen(a.Out)
	width := helpWidth
	if s.terminal {
		width = min(width, s.width())
	}
	_, err = fmt.Fprintln(s, strings.TrimRight(wrap(strings.TrimPrefix(page, "# "), width), "\n"))
	return err
}

func failureCodes() (codes []string) {
	for _, g := range diagnose.Codes() {
		for _, c := range g.Codes {
			codes = append(codes, string(c.Code))
		}
	}
	return codes
}

// completeExplain offers services, and codes to who types a capital letter.
func (a *App) completeExplain(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 && isFailureCode(word) {
		return failureCodes(), cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeService(cmd, args, word)
}
