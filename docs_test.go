package trysail_test

import (
	"bufio"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocs_BlocksAreRunOrSayWhyNot keeps the pages to the rules of their fences: sh is run by the end-to-end tests, in one shell for
// each page; sh run="SYSTEM" by test/package; sh norun="reason" is not; the language of everything else is named, and file=NAME makes a file for the commands.
func TestDocs_BlocksAreRunOrSayWhyNot(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join("docs", "*.md"))
	if err != nil || len(pages) < 15 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	run, told, elsewhere := 0, 0, 0
	for _, page := range append(pages, "README.md") {
		for _, info := range blocksOf(t, page) {
			switch reason, norun := strings.CutPrefix(info, "sh norun="); {
			case info == "sh":
				run++
			case strings.HasPrefix(info, "sh run=") && strings.Trim(strings.TrimPrefix(info, "sh run="), `"`) != "":
				elsewhere++ // test/package runs these where they belong: on a fresh system
			case norun && len(strings.Trim(reason, `"`)) >= 10:
				told++
			case strings.HasPrefix(info, "sh"), info == "":
				t.Errorf("%s: a block begins with \"```%s\": say sh, sh norun=\"why it is not run\", or what else it is (text, json, yaml)", page, info)
			case !slices.Contains([]string{"text", "json", "yaml", "toml", "ini", "sql", "nginx"}, strings.Fields(info)[0]):
				t.Errorf("%s: what is a block of %q?", page, info)
			}
		}
	}
	t.Logf("%d blocks of commands are run by the end-to-end tests and %d by those of the packages; %d are not run and say why", run, elsewhere, told)
}

// blocksOf is what stands behind the opening fences of a page.
func blocksOf(t *testing.T, page string) (infos []string) {
	t.Helper()
	f, err := os.Open(page)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	open := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if info, ok := strings.CutPrefix(strings.TrimSpace(lines.Text()), "```"); ok {
			if !open {
				infos = append(infos, strings.TrimSpace(info))
			}
			open = !open
		}
	}
	if open {
		t.Errorf("%s: the last block is not closed", page)
	}
	return infos
}

func TestDocs_LinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	var pages []string
	for _, pattern := range []string{"*.md", filepath.Join("docs", "*.md"), filepath.Join("docs", "*", "*.md")} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	links := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", page, m[1])
			}
		}
	}
	if links < 100 {
		t.Errorf("only %d links", links)
	}
}
