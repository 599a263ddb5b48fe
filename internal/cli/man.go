package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manCommand is hidden: it is for who makes packages.
func (a *App) manCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "man --dir DIR",
		Short: "Write the manual pages into a directory",
		Long: `Write the manual pages into a directory, one for each command. The same program writes the same pages; their date is
that of SOURCE_DATE_EPOCH, if it is set.`,
		Hidden: true,
		Args:   exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return Usagef("the directory is missing: --dir DIR")
			}
			date := ""
			if seconds, err := strconv.ParseInt(a.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
				date = time.Unix(seconds, 0).UTC().Format("2006-01-02")
			}
			return writeManual(cmd.Root(), dir, date, a.Build.Version)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "where to write them; must exist")
	return cmd
}

// writeManual writes the page of a command and of all below it.
func writeManual(cmd *cobra.Command, dir, date, version string) error {
	name := strings.ReplaceAll(cmd.CommandPath(), " ", "-")
	if err := os.WriteFile(filepath.Join(dir, name+".1"), []byte(manual(cmd, date, version)), 0o644); err != nil { //nolint:gosec // everybody may read it
		return fmt.Errorf("writing the manual pages: %w", err)
	}
	for _, sub := range cmd.Commands() {
		if !sub.IsAvailableCommand() {
			continue
		}
		if err := writeManual(sub, dir, date, version); err != nil {
			return err
		}
	}
	return nil
}

// manual is the page of a command, in the man macros.
func manual(cmd *cobra.Command, date, version string) string {
	var b strings.Builder
	name := strings.ReplaceAll(cmd.CommandPath(), " ", "-")
	fmt.Fprintf(&b, ".TH %s 1 %q %q Trysail\n", strings.ToUpper(name), date, strings.TrimSpace("trysail "+version))
	b.WriteString(".nh\n.ad l\n") // words stay whole: they are typed
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(name), roff(cmd.Short))
	b.WriteString(".SH SYNOPSIS\n")
	if cmd.Runnable() && cmd.HasParent() {
		fmt.Fprintf(&b, ".B %s\n", roff(cmd.UseLine()))
	}
	if cmd.HasAvailableSubCommands() {
		if cmd.Runnable() && cmd.HasParent() {
			b.WriteString(".br\n")
		}
		fmt.Fprintf(&b, ".B %s COMMAND\n", roff(cmd.CommandPath()))
	}
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	fmt.Fprintf(&b, ".SH DESCRIPTION\n%s", roffText(text))
	manualCommands(&b, cmd)
	if cmd.HasAvailableLocalFlags() {
		b.WriteString(".SH OPTIONS\n")
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) { manualFlag(&b, f) })
	}
	if cmd.HasExample() {
		fmt.Fprintf(&b, ".SH EXAMPLES\n.nf\n%s\n.fi\n", roffLines(cmd.Example))
	}
	manualEnd(&b, cmd)
	return b.String()
}

func manualCommands(b *strings.Builder, cmd *cobra.Command) {
	if !cmd.HasAvailableSubCommands() {
		return
	}
	b.WriteString(".SH COMMANDS\n")
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			fmt.Fprintf(b, ".TP\n.B %s\n%s\n", roff(sub.CommandPath()), roff(sub.Short))
		}
	}
}

func manualFlag(b *strings.Builder, f *pflag.Flag) {
	if f.Hidden {
		return
	}
	value, usage := pflag.UnquoteUsage(f)
	names := "--" + f.Name
	if f.Shorthand != "" {
		names = "-" + f.Shorthand + ", " + names
	}
	fmt.Fprintf(b, ".TP\n.B %s\n", roff(strings.TrimSpace(names+" "+value)))
	text := usage
	switch f.DefValue {
	case "", "[]", "0", "0s", "false":
	default:
		text += " (default " + f.DefValue + ")"
	}
	b.WriteString(roffLines(text) + "\n")
}

// manualEnd is what all pages have at their end.
func manualEnd(b *strings.Builder, cmd *cobra.Command) {
	b.WriteString(`.SH EXIT STATUS
.TP
.B 0
done
.TP
.B 1
failed; the reason is on standard error
.TP
.B 2
wrong usage
.TP
.B 3
the deployment FAILED; the explanation is on standard output
.SH ENVIRONMENT
.TP
.B AWS_ENDPOINT_URL_LIGHTSAIL
address of the server; without it, the server of this machine
.TP
.B AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION
the access key that signs the calls, and the region
.TP
.B TRYSAIL_CA
file with the certificates of the server's local CA
.TP
.B NO_COLOR
no colour on a terminal
`)
	var also []string
	if cmd.HasParent() {
		also = append(also, strings.ReplaceAll(cmd.Parent().CommandPath(), " ", "-"))
	}
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			also = append(also, strings.ReplaceAll(sub.CommandPath(), " ", "-"))
		}
	}
	if len(also) == 0 {
		return
	}
	b.WriteString(".SH SEE ALSO\n")
	for i, name := range also {
		comma := ","
		if i == len(also)-1 {
			comma = ""
		}
		fmt.Fprintf(b, ".BR %s (1)%s\n", roff(name), comma)
	}
}

// roffText sets paragraphs; what is indented stays as it is.
func roffText(text string) string {
	var b strings.Builder
	open, first := false, true
	for line := range strings.SplitSeq(text, "\n") {
		fixed := strings.HasPrefix(line, " ")
		if open && !fixed && line != "" {
			b.WriteString(".fi\n")
			open = false
		}
		switch {
		case line == "" && open:
			b.WriteString("\n")
		case line == "":
			first = false
		case fixed && !open:
			b.WriteString(".PP\n.nf\n" + roffLines(line) + "\n")
			open, first = true, true
		default:
			if !first {
				b.WriteString(".PP\n")
				first = true
			}
			b.WriteString(roffLines(line) + "\n")
		}
	}
	text = b.String()
	if open {
		text = strings.TrimRight(text, "\n") + "\n.fi\n"
	}
	return text
}

// roffLines is roff for lines of their own: a point or a quote at the start would be a request.
func roffLines(text string) string {
	lines := strings.Split(roff(text), "\n")
	for i, line := range lines {
		line = strings.TrimRight(strings.ReplaceAll(line, "\t", "    "), " ")
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			line = `\&` + line
		}
		lines[i] = line
	}
	return strings.Join(lines, "\n")
}

// roff writes text so that roff prints exactly it: hyphens that can be copied, backslashes that are shown.
func roff(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", "...", "–", `\(en`, "→", `\(->`).Replace(text)
}
