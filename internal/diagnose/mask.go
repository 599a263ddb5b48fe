package diagnose

import (
	"cmp"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
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

// masker takes the values of environment variables out of texts that come from outside: logs, answers, error messages.
type masker struct {
	secrets []secret // longest first
}

type secret struct{ value, name string }

// newMasker learns the values of the deployments.
func newMasker(all ...*trysail.Deployment) masker {
	found := map[string]string{}
	for _, d := range all {
		if d == nil {
			continue
		}
		for _, c := range d.Containers {
			for name, value := range c.Environment {
				learn(found, name, value)
			}
		}
	}
	var m masker
	for value, name := range found {
		m.secrets = append(m.secrets, secret{value, name})
	}
	slices.SortFunc(m.secrets, func(a, b secret) int {
		return cmp.Or(len(b.value)-len(a.value), strings.Compare(a.value, b.value))
	})
	return m
}

// learn adds what of a variable's value must not be shown.
func learn(found map[string]string, name, value string) {
	least := 8
	if looksSecret(name) {
		least = 4
	}
	add := func(v string) {
		before, known := found[v]
		// Of two variables with the same value the name is chosen so that the same input gives the same text.
		if len(v) >= least && (looksSecret(name) || !isHarmless(v)) && (!known || name < before) {
			found[v] = name
		}
	}
	add(value)
	for line := range strings.Lines(value) { // keys and certificates are logged line by line
		add(strings.TrimSpace(line))
	}
	if u, err := url.Parse(value); err == nil && u.User != nil {
		if password, ok := u.User.Password(); ok {
			least = 4
			add(password)
			add(url.QueryEscape(password))
		}
	}
}

func looksSecret(name string) bool {
	upper := strings.ToUpper(name)
	for _, word := range []string{"SECRET", "PASSW", "PASSPHRASE", "PWD", "TOKEN", "KEY", "CREDENTIAL", "PRIVATE", "AUTH", "DSN", "SALT", "COOKIE", "SESSION", "SIGNATURE", "CERT"} {
		if strings.Contains(upper, word) {
			return true
		}
	}
	return false
}

// isHarmless reports whether a value is so common that hiding it would hide the cause and protect nothing.
func isHarmless(v string) bool {
	switch strings.ToLower(v) {
	case "localhost", "127.0.0.1", "production", "development", "staging", "/usr/local/bin", "0.0.0.0:80", "0.0.0.0:8080", "0.0.0.0:3000":
		return true
	}
	return false
}

// userinfo is a password in a URL.
var userinfo = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(://[^/\s:@]*:)[^@/\s]+@`) })

// text masks a text from outside.
func (m masker) text(s string) string {
	for _, x := range m.secrets {
		if strings.Contains(s, x.value) {
			s = strings.ReplaceAll(s, x.value, "$"+x.name)
		}
	}
	if strings.Contains(s, "://") {
		s = userinfo().ReplaceAllString(s, "${1}***@")
	}
	return s
}

// show makes a text from outside fit for a sentence: masked, on one line, bounded.
func (m masker) show(s string) string { return short(oneLine(m.text(s)), maxValue) }

// variable shows the name of a variable that a program asked for, also if it happens to be another one's value: programs are
// told by settings which settings to ask for.
func (m masker) variable(name string) string {
	for _, x := range m.secrets {
		if x.value == name && looksSecret(x.name) {
			return m.show(name)
		}
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
