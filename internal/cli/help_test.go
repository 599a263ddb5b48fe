package cli

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// allCommands are the commands that people see, by what is typed.
func allCommands() map[string]*cobra.Command {
	a := &App{Out: io.Discard, Err: io.Discard}
	a.fill()
	root := a.root()
	a.setHelp(root)
	all := map[string]*cobra.Command{}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Hidden {
			return
		}
		all[cmd.CommandPath()] = cmd
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
	return all
}

func TestCommands_TellHowTheyAreUsed(t *testing.T) {
	// Their output is no result of a call: scripts for a shell, or what somebody else's command writes.
	noJSON := []string{"trysail", "trysail completion", "trysail env", "trysail trust", "trysail exec"}
	for path, cmd := range allCommands() {
		if path == "trysail" {
			continue
		}
		if n := utf8.RuneCountInString(cmd.Short); n == 0 || n > 66 || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: %d letters say in short what it does: %q", path, n, cmd.Short)
		}
		if !strings.Contains(cmd.Example, cmd.CommandPath()) {
			t.Errorf("%s: no example shows it", path)
		}
		for line := range strings.SplitSeq(cmd.Example, "\n") {
			if utf8.RuneCountInString(line) > 100 || !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: example %q", path, line)
			}
		}
		if cmd.Flags().Lookup("output") == nil && !slices.Contains(noJSON, path) {
			t.Errorf("%s has no --output json", path)
		}
		if cmd.Parent().CommandPath() == "trysail" && cmd.GroupID == "" && path != "trysail completion" && path != "trysail version" {
			t.Errorf("%s is in no chapter of the help", path)
		}
		if cmd.ValidArgsFunction == nil && strings.Contains(strings.TrimPrefix(cmd.UseLine(), path), "SERVICE") {
			t.Errorf("%s: nothing completes its arguments", path)
		}
	}
}

func TestHelp_FitsInEightyColumns(t *testing.T) {
	for path := range allCommands() {
		var out strings.Builder
		a := &App{In: strings.NewReader(""), Out: &out, Err: io.Discard, Getenv: func(string) string { return "" }}
		args := append(strings.Fields(path)[1:], "--help")
		if status := a.Execute(t.Context(), args); status != ExitOK {
			t.Errorf("%s --help ends with %d", path, status)
		}
		example := false
		for line := range strings.SplitSeq(out.String(), "\n") {
			example = line == "Examples:" || example && line != ""
			if n := utf8.RuneCountInString(line); n > helpWidth && !example && !strings.HasPrefix(line, "  "+path) {
				t.Errorf("%s: %d columns: %s", path, n, line)
			}
		}
	}
}

func TestWrap_KeepsWordsAndIndents(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"flows":     {"one two\nthree four", "one two\nthree four"},
		"joins":     {"a b\nc", "a b c"},
		"paragraph": {"a b\n\nc", "a b\n\nc"},
		"indented":  {"a\n  b  c\nd", "a\n  b  c\nd"},
		"too long":  {"  one two three four", "  one two\n  three four"},
		"one word":  {"https://example.com/long", "https://example.com/long"},
	} {
		if got := wrap(tc.in, 12); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestDidYouMean_NamesTheNearest(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		names      []string
	}{
		{"wbe", "Did you mean web?", []string{"shop", "web"}},
		{"shopp", "Did you mean shop?", []string{"shop", "web"}},
		{"billing", "There are: shop, web", []string{"web", "shop"}},
		{"billing", "There is only web", []string{"web"}},
		{"x", "See which there are with: trysail services", []string{"aa", "bb", "cc", "dd", "ee", "ff", "gg"}},
	} {
		if got := didYouMean(tc.name, tc.names, "trysail services"); got != tc.want {
			t.Errorf("%s of %v: %q, want %q", tc.name, tc.names, got, tc.want)
		}
	}
}

func TestTable_PutsBelowWhatDoesNotFit(t *testing.T) {
	widths := []int{10, 10, 30}
	for width, want := range map[int]int{200: 3, 56: 3, 55: 2, 23: 2, 22: 1, 3: 1} {
		if got := sideBySide(widths, width); got != want {
			t.Errorf("%d of %v fit into %d columns, want %d", got, widths, width, want)
		}
	}
	if n := columns("\x1b[32mRUNNING\x1b[0m"); n != 7 {
		t.Errorf("%d columns", n)
	}
}

// TestFlags_AreUsedByScripts looks for each flag in what the tests and the pages of the docs run.
func TestFlags_AreUsedByScripts(t *testing.T) {
	var lines []string
	for _, pattern := range []string{
		"testdata/*.txtar", "*_test.go", "../../docs/*.md", "../../README.md", "../../test/e2e/testdata/*.txtar", "../../test/e2e/testdata/transcript/[cj]*.txt", "../../test/e2e/*_test.go",
	} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, strings.Split(strings.NewReplacer(`", "`, " ", `"`, " ").Replace(string(text)), "\n")...)
		}
	}
	for path, cmd := range allCommands() {
		name := strings.TrimPrefix(path, "trysail ")
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if slices.Contains([]string{"help", "data-dir", "output"}, f.Name) { // --output json of all: TestJSON in test/e2e
				return
			}
			used := slices.ContainsFunc(lines, func(line string) bool {
				_, rest, ok := strings.Cut(line+" ", name+" ")
				return ok && (strings.Contains(rest, "--"+f.Name) || f.Shorthand != "" && strings.Contains(rest, "-"+f.Shorthand+" "))
			})
			if !used {
				t.Errorf("no test runs %s --%s", path, f.Name)
			}
		})
	}
}
