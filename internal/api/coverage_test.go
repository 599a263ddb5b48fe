package api

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/sigv4"
)

var update = flag.Bool("update", false, "write docs/api-coverage.md")

// TestCoverageTable_IsCurrent compares docs/api-coverage.md with the table of operations. After a change of the table:
// go test ./internal/api -run CoverageTable -update
func TestCoverageTable_IsCurrent(t *testing.T) {
	file := filepath.Join("..", "..", "docs", "api-coverage.md")
	want := coverageTable()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s is not current; run this test with -update (-want +got):\n%s", file, diff)
	}
}

func coverageTable() string {
	var b strings.Builder
	known, others := lightsailOperations(&fake{}, view{}), otherOperations()
	served := 0
	for _, op := range known {
		if op.since != "" {
			served++
		}
	}
	fmt.Fprintf(&b, `# API coverage

This file is written by a test from the table of operations in `+"`internal/api`"+` (`+"`go test ./internal/api -run CoverageTable -update`"+`),
so it cannot say anything else than the program does. "Since" is the version of Trysail that serves the operation first.

## Lightsail: container services and what belongs to them

%d of these %d operations are served, under the target %s.

| operation | served | since | answer |
|---|---|---|---|
`, served, len(known), "`"+lightsailPrefix+"<operation>`")
	for _, op := range known {
		writeRow(&b, op)
	}
	b.WriteString(`
## Trysail's own operations

The same endpoint, protocol and signature (service name ` + "`" + signingName + "`), under the target `" + trysailPrefix + "<operation>`" + `.
The AWS SDKs do not know them; the ` + "`trysail`" + ` command does.

| operation | served | since | answer |
|---|---|---|---|
`)
	for _, op := range ownOperations(&fake{}, view{}) {
		writeRow(&b, op)
	}
	fmt.Fprintf(&b, `
## Lightsail: everything else

The other %d operations of Lightsail (instances, disks, databases, …) answer %s, such as
"%s":

`, len(others), "`InvalidInputException`", refusal(others[0]))
	for _, op := range others {
		fmt.Fprintf(&b, "- %s\n", op.name)
	}
	b.WriteString("\n## Errors that every operation may answer\n\n| situation | exception | status |\n|---|---|---|\n")
	for _, row := range commonErrors() {
		e := exceptionOf(row.err)
		fmt.Fprintf(&b, "| %s | %s | %d |\n", row.situation, e.name, e.status)
	}
	return b.String()
}

func writeRow(b *strings.Builder, op operation) {
	if op.since == "" {
		fmt.Fprintf(b, "| %s | no | – | `InvalidInputException`: %s |\n", op.name, refusal(op))
		return
	}
	fmt.Fprintf(b, "| %s | yes | %s | 200 |\n", op.name, op.since)
}

// refusal is the text that an operation answers which is not served.
func refusal(op operation) string {
	_, err := op.serve(context.Background(), testCaller, members{})
	return exceptionOf(err).message
}

type commonError struct {
	situation string
	err       error
}

func commonErrors() []commonError {
	return []commonError{
		{"not POST /, or an unknown target", unknownOperation("")},
		{"another content type; a body that does not arrive completely", malformedRequest("")},
		{"no signature", &sigv4.Error{Reason: sigv4.ReasonMissing}},
		{"a signature that cannot be read; a presigned request", &sigv4.Error{Reason: sigv4.ReasonIncomplete}},
		{"signed for another service or day", &sigv4.Error{Reason: sigv4.ReasonScope}},
		{"more than 15 minutes off", &sigv4.Error{Reason: sigv4.ReasonTime}},
		{"host, content type or target not signed", &sigv4.Error{Reason: sigv4.ReasonHeaders}},
		{"a wrong secret; a changed request", &sigv4.Error{Reason: sigv4.ReasonMismatch}},
		{"an unknown access key", unknownKey()},
		{"a body above the limit of 1 MiB", tooLarge(0)},
		{"a body that is not JSON; a member of the wrong type", notReadable("")},
		{"a missing or forbidden value; the wrong state", &trysail.Error{Code: trysail.CodeInvalid}},
		{"an operation that is not served", &trysail.Error{Code: trysail.CodeUnsupported}},
		{"something named that does not exist", &trysail.Error{Code: trysail.CodeNotFound}},
		{"a caller who may not", &trysail.Error{Code: trysail.CodeAccessDenied}},
		{"not possible now, such as a full disk", &trysail.Error{Code: trysail.CodeUnavailable}},
		{"an internal error", errors.New("internal")},
		{"a bug that stopped the operation", &panicError{}},
	}
}
