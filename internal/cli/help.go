package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// helpWidth is the most columns that a help text takes: lines that are longer are hard to read.
const helpWidth = 80

// groups are the chapters of the list of commands, and what stands in which.
func groups() []struct{ title, commands string } {
	return []struct{ title, commands string }{
		{"Services and deployments", "services create update delete up check deploy cancel rollback deployments diff open"},
		{"What runs, and why not", "ps explain logs metrics exec run"},
		{"Images", "push images registry"},
		{"Domains and rules", "domains certs settings"},
		{"Who may do what", "keys audit"},
		{"The server", "serve doctor env trust nodes database export import migrate"},
	}
}

// setHelp gives the commands their help: in chapters, and no wider than the terminal.
func (a *App) setHelp(root *cobra.Command) {
	for _, g := range groups() {
		root.AddGroup(&cobra.Group{ID: g.title, Title: g.title})
		for name := range strings.FieldsSeq(g.commands) {
			if cmd, _, err := root.Find([]string{name}); err == nil && cmd != root {
				cmd.GroupID = g.title
			}
		}
	}
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { a.printHelp(cmd) })
}

// printHelp prints what a command does, how it is called, examples, the commands below it and its flags.
func (a *App) printHelp(cmd *cobra.Command) {
	s := a.screen(a.Out)
	width := helpWidth
	if s.terminal {
		width = min(width, s.width())
	}
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	fmt.Fprintf(s, "%s\n\nUsage:\n", wrap(text, width))
	if cmd.Runnable() && cmd.HasParent() {
		fmt.Fprintf(s, "  %s\n", cmd.UseLine())
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(s, "  %s COMMAND\n", cmd.CommandPath())
	}
	if len(cmd.Aliases) > 0 {
		fmt.Fprintf(s, "\nAlso called: %s\n", strings.Join(cmd.Aliases, ", "))
	}
	if cmd.HasExample() {
		fmt.Fprintf(s, "\nExamples:\n%s\n", cmd.Example)
	}
	printCommands(s, cmd, width)
	if cmd.HasAvailableLocalFlags() {
		fmt.Fprintf(s, "\nFlags:\n%s", flagUsages(cmd.LocalFlags(), width))
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(s, "\nMore about a command: %s COMMAND --help\n", cmd.CommandPath())
	}
}

// flagUsages lists flags as pflag does, with texts that stay in their column.
func flagUsages(flags *pflag.FlagSet, width int) string { return flags.FlagUsagesWrapped(width) }

// printCommands lists the commands below one in their chapters.
func printCommands(w io.Writer, cmd *cobra.Command, width int) {
	titles := []string{}
	for _, g := range cmd.Groups() {
		titles = append(titles, g.ID)
	}
	rest := "More"
	if len(titles) == 0 {
		rest = "Commands"
	}
	longest := 0
	for _, sub := range cmd.Commands() {
		longest = max(longest, len(sub.Name()))
	}
	for _, title := range append(titles, "") {
		heading := title
		if title == "" {
			heading = rest
		}
		for _, sub := range inOrderOf(title, cmd.Commands()) {
			if heading != "" {
				fmt.Fprintf(w, "\n%s:\n", heading)
				heading = ""
			}
			indent := strings.Repeat(" ", longest+5)
			short := strings.TrimPrefix(wrap(indent+sub.Short, width), indent)
			fmt.Fprintf(w, "  %-*s   %s\n", longest, sub.Name(), short)
		}
	}
}

// inOrderOf are the commands of a chapter, as the chapter lists them.
func inOrderOf(title string, commands []*cobra.Command) (list []*cobra.Command) {
	var order []string
	for _, g := range groups() {
		if g.title == title {
			order = strings.Fields(g.commands)
		}
	}
	for _, name := range order {
		for _, c := range commands {
			if c.Name() == name && c.GroupID == title && c.IsAvailableCommand() {
				list = append(list, c)
			}
		}
	}
	for _, c := range commands {
		if c.GroupID == title && title == "" && (c.IsAvailableCommand() || c.Name() == "help") {
			list = append(list, c)
		}
	}
	return list
}

// wrap breaks lines that are longer than width columns between words. Lines of one paragraph flow together; a line that is
// indented stays as it is, unless it is too long, and then goes on with the same indent.
func wrap(text string, width int) string {
	var out []string
	flow := ""
	flush := func() {
		if flow != "" {
			out = append(out, fill(flow, "", width)...)
			flow = ""
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		indent := line[:len(line)-len(strings.TrimLeft(line, " "))]
		switch {
		case strings.TrimSpace(line) == "":
			flush()
			out = append(out, "")
		case indent != "" && utf8.RuneCountInString(line) <= width:
			flush()
			out = append(out, line)
		case indent != "":
			flush()
			out = append(out, fill(line, indent, width)...)
		default:
			flow = strings.TrimSpace(flow + " " + line)
		}
	}
	flush()
	return strings.Join(out, "\n")
}

// fill sets words into lines with an indent.
func fill(text, indent string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = indent + word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width:
			lines = append(lines, line)
			line = indent + word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
