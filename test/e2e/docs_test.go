//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/trysail/trysail/test/kit"
)

// A fence in the docs begins a block that is run (sh), unless it says why not (norun="reason"), or a file that the blocks
// use (file=NAME). docs_test.go beside go.mod keeps every page to this.
var fence = regexp.MustCompile("(?ms)^```([a-z]+)([^\n]*)\n(.*?)^```$")

// docsImages are what the images of the docs stand for here.
func docsImages() *strings.Replacer {
	return strings.NewReplacer("ghcr.io/acme/shop:1", image("web:1"), "ghcr.io/acme/shop:2", image("web:2"), "ghcr.io/acme/shop:broken", image("noprogram:1"),
		`s/shop:broken/shop:1/`, "s|"+image("noprogram:1")+"|"+image("web:1")+"|", "s|shop:2|shop:1|", "s|"+image("web:2")+"|"+image("web:1")+"|",
		`s/"image": "nginx:latest"/`, `s|"image": "`+image("nginx:1")+`"|`, `"deamon off;"]/'`, `"deamon off;"]|'`, "nginx:latest", image("nginx:1"))
}

// TestDocs runs the command blocks of README.md and of all pages in docs, in order and in one shell for each page, against a real
// server.
func TestDocs(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(kit.Root(), "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	pages = append([]string{filepath.Join(kit.Root(), "README.md")}, pages...)
	server := dedicated(t, kit.ServerOptions{Flags: []string{"--activation-timeout", "20s", "--drain-timeout", "5s"}})
	bin := t.TempDir()
	if err := os.Symlink(server.Binary, filepath.Join(bin, "trysail")); err != nil {
		t.Fatal(err)
	}
	env := slices.Concat(server.Environ(), []string{"PATH=" + bin + string(os.PathListSeparator) + os.Getenv("PATH"), "TERM=dumb"})
	run := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		script, blocks := docsScript(t, dir, docsImages().Replace(string(text)))
		run += blocks
		if blocks == 0 {
			continue
		}
		t.Run(filepath.Base(page), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "bash", "-euxo", "pipefail", "-c", script)
			cmd.Dir, cmd.Env = dir, env
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			t.Logf("%d blocks:\n%s", blocks, out)
			if err := server.DeleteServices(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	if run < 25 {
		t.Errorf("only %d blocks were run", run)
	}
}

// docsScript writes the files of a page and returns its commands, and how many blocks they are.
func docsScript(t *testing.T, dir, text string) (commands string, blocks int) {
	t.Helper()
	var script strings.Builder
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		kind, info, body := m[1], strings.TrimSpace(m[2]), m[3]
		if name, ok := strings.CutPrefix(info, "file="); ok {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if kind != "sh" {
			continue
		}
		switch reason, ok := strings.CutPrefix(info, "norun="); {
		case info == "":
			fmt.Fprintln(&script, body)
			blocks++
		case strings.HasPrefix(info, "run="): // by test/package
		case !ok || len(strings.Trim(reason, `"`)) < 5:
			t.Errorf("a block has %q behind its fence; say why it is not run: norun=\"…\"", info)
		}
	}
	return script.String(), blocks
}
