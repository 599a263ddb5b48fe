package diagnose_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/diagnose"
)

var update = flag.Bool("update", false, "write docs/diagnosis.md and docs/failures")

// TestCodes_AreDocumented compares docs/diagnosis.md and docs/failures with the table of codes and its pages. After a change of
// them: go test ./internal/diagnose -run Documented -update
func TestCodes_AreDocumented(t *testing.T) {
	docs := filepath.Join("..", "..", "docs")
	want := map[string]string{filepath.Join(docs, "diagnosis.md"): document()}
	for _, g := range diagnose.Codes() {
		for _, c := range g.Codes {
			want[filepath.Join(docs, "failures", string(c.Code)+".md")] = page(t, c.Code)
		}
	}
	old, err := filepath.Glob(filepath.Join(docs, "failures", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range old {
		if want[file] == "" {
			t.Errorf("%s is of no code", file)
		}
	}
	for file, text := range want {
		if *update {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(text, string(got)); diff != "" {
			t.Errorf("%s is not current; run this test with -update (-want +got):\n%s", file, diff)
		}
	}
}

// page is the page of a code, with an example of its message.
func page(t *testing.T, code trysail.DiagnosisCode) string {
	t.Helper()
	c, text, ok := diagnose.Lookup(code)
	if !ok || strings.Count(text, "\n\n") < 3 {
		t.Errorf("%s: there is too little to read: %s", code, text)
	}
	text = strings.Replace(text, ": "+c.Title, ": "+upper(c.Title), 1) + example(code)
	return text + "\n[All codes](../diagnosis.md) · `trysail explain " + string(code) + "` prints this page.\n"
}

// example is what trysail explain says in one of the cases of the tests; empty if none has a message of its own.
func example(code trysail.DiagnosisCode) string {
	for _, tc := range cases() {
		in, e := input()
		tc.change(&in, e)
		d := diagnose.Diagnose(in)
		said := d.Summary + d.Fix
		if d.Code != code || strings.Contains(said, "The message.") || strings.Contains(said, "What the image says.") || strings.Contains(said, "No tag.") {
			continue
		}
		var b strings.Builder
		b.WriteString("\n## What it looks like\n\n```text\n")
		if d.ContainerName != "" {
			fmt.Fprintf(&b, "Container %s: ", d.ContainerName)
		}
		fmt.Fprintf(&b, "%s\nFix: %s\nCode: %s (%s)\n", d.Summary, d.Fix, d.Code, d.Confidence)
		b.WriteString("```\n")
		return b.String()
	}
	return ""
}

func document() string {
	var b strings.Builder
	n := 0
	for _, g := range diagnose.Codes() {
		n += len(g.Codes)
	}
	fmt.Fprintf(&b, `# Why a deployment failed: the %d codes

This file is written by a test from the table of codes in `+"`internal/diagnose`"+` (`+"`go test ./internal/diagnose -run Documented -update`"+`).

Every deployment that fails ends with one cause: a code, the container, one sentence, a fix and the evidence.
`+"`trysail explain SERVICE`"+` prints it; so do the lines that begin with `+"`[trysail]`"+` in the container's log and the operation's errorCode and errorDetails.
Codes do not change: search for them. Each has a page of its own, which `+"`trysail explain CODE`"+` prints, too.

*Certain* causes rest on bytes, counters, sockets and the answers of others; *likely* ones on what the program wrote. Codes
marked with ⏹ end the deployment at once when they are certain, because no further start can work. Of several causes the
first one in time is named, and what the runtime says counts for more than exit codes, those for more than sockets, then answers,
then time. Further findings stand below the cause. The values of environment variables are never shown: `+"`$NAME`"+` stands for the value of NAME.

Causes that rest on a secret, a volume or a certificate cannot occur yet, as Trysail has none of them. "make diagnose" runs 140 deployments that
are broken in known ways, and 46 that only look so, and prints how right the verdicts are.
`, n)
	for _, g := range diagnose.Codes() {
		fmt.Fprintf(&b, "\n## %s\n\n| code | what happened | fix | when certain |\n|---|---|---|---|\n", g.Title)
		for _, c := range g.Codes {
			mark := ""
			if c.Final {
				mark = " ⏹"
			}
			fmt.Fprintf(&b, "| **[%s](failures/%s.md)**%s | %s. %s | %s | %s |\n", c.Code, c.Code, mark, upper(c.Title), c.Meaning, c.Fix, c.Basis)
		}
	}
	return b.String()
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func TestCodes_AreCompleteAndUnique(t *testing.T) {
	seen := map[trysail.DiagnosisCode]bool{}
	for _, g := range diagnose.Codes() {
		for _, c := range g.Codes {
			if seen[c.Code] || c.Title == "" || c.Meaning == "" || c.Fix == "" || c.Basis == "" || strings.Contains(c.Title+c.Meaning+c.Fix, "|") {
				t.Errorf("%+v", c)
			}
			seen[c.Code] = true
		}
	}
	if len(seen) < 69 {
		t.Errorf("%d codes", len(seen))
	}
}
