package diagnose

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/trysail/trysail"
)

// pages is what there is to say about each code besides the table: sections of Markdown, each below the code's name.
//
//go:embed pages.md
var pages string

// Lookup returns the description of a code, and its page in Markdown: the description, and how to find and mend the cause. ok is
// false if there is no such code.
func Lookup(code trysail.DiagnosisCode) (c Code, page string, ok bool) {
	if c, ok = known(code); !ok {
		return c, "", false
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# %s: %s\n\n%s\n\nFix: %s\n", c.Code, c.Title, c.Meaning, c.Fix)
	if more := section(code); more != "" {
		fmt.Fprintf(&b, "\n%s\n", more)
	}
	fmt.Fprintf(&b, "\nThe verdict is %s.", c.Basis)
	if c.Final {
		b.WriteString(" When it is certain, the deployment ends at once: no further start can work.")
	}
	b.WriteString("\n")
	return c, b.String(), true
}

// section is what pages has of a code.
func section(code trysail.DiagnosisCode) string {
	_, text, found := strings.Cut("\n"+pages, "\n## "+string(code)+"\n")
	if !found {
		return ""
	}
	text, _, _ = strings.Cut(text, "\n## ")
	return strings.TrimSpace(text)
}
