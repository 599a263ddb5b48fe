package diagnose

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/trysail/trysail"
)

// The bounds of what a diagnosis says, in bytes and entries.
const (
	maxSummary  = 700
	maxFix      = 700
	maxEvidence = 2500 // of one entry
	maxEntries  = 24   // of evidence
	maxAlso     = 6
	maxDiff     = 100
	maxValue    = 300 // of one value of a difference, or one text from outside in a sentence
)

// masker takes secrets out of texts that come from outside, and makes them fit for a sentence.
type masker struct{ trysail.Masker }

func newMasker(all ...*trysail.Deployment) masker { return masker{trysail.NewMasker(all...)} }

// text masks a text from outside.
func (m masker) text(s string) string { return m.Text(s) }

// show makes a text from outside fit for a sentence: masked, on one line, bounded.
func (m masker) show(s string) string { return short(oneLine(m.text(s)), maxValue) }

// variable shows the name of a variable that a program asked for, also if it happens to be another one's value: programs are
// told by settings which settings to ask for.
func (m masker) variable(name string) string {
	if m.IsSecret(name) {
		return m.show(name)
	}
	if strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == "" && len(name) <= maxValue {
		return name
	}
	return m.show(name)
}

// mark is show, set off from our own words.
func (m masker) mark(s string) string { return "`" + strings.ReplaceAll(m.show(s), "`", "'") + "`" }

// block makes several lines from outside fit for evidence.
func (m masker) block(lines []string) string {
	out := make([]string, 0, len(lines))
	for _, l := range lines {
		out = append(out, short(oneLine(m.text(l)), maxValue))
	}
	return strings.Join(out, "\n")
}

func oneLine(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError:
			return '?'
		case !unicode.IsPrint(r):
			return ' '
		}
		return r
	}, s))
}

// short bounds a text to n bytes without breaking a character.
func short(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const dots = "…"
	n -= len(dots)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + dots
}
