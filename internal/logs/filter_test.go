package logs

import (
	"strings"
	"testing"
	"unicode"
)

func TestFilter_Match(t *testing.T) {
	for _, tc := range []struct {
		pattern, line string
		want          bool
	}{
		{"", "anything", true},
		{"", "", true},
		{`""`, "anything", true},
		{"ERROR", "an ERROR here", true},
		{"ERROR", "an error here", false},
		{"ERROR Exception", "Exception, then ERROR", true},
		{"ERROR Exception", "only ERROR", false},
		{"?ERROR ?Exception", "only Exception", true},
		{"?ERROR ?Exception", "neither", false},
		{"-ERROR", "fine", true},
		{"-ERROR", "an ERROR", false},
		{"GET -health", "GET /", true},
		{"GET -health", "GET /health", false},
		{"GET ?a ?b", "GET b", true},
		{"GET ?a ?b", "GET c", false},
		{`"in progress"`, "still in progress", true},
		{`"in progress"`, "progress in", false},
		{`-"in progress"`, "still in progress", false},
		{`?"a b" ?c`, "xa by", true},
		{`"say \"hi\" \\ \n"`, `say "hi" \ \n`, true},
		{`a"b`, `xa"b`, true},
		{`"[deployment:3]"`, "[deployment:3] Canceled", true},
		{"[deployment:3]", "[deployment:3] Canceled", true},
		{`"-x"`, "a -x", true},
		{"größe", "die größe", true},
	} {
		f, err := ParseFilter(tc.pattern)
		if err != nil {
			t.Errorf("ParseFilter(%q): %v", tc.pattern, err)
			continue
		}
		if got := f.Match([]byte(tc.line)); got != tc.want {
			t.Errorf("%q on %q: got %v, want %v", tc.pattern, tc.line, got, tc.want)
		}
	}
}

func TestParseFilter_RefusesWithAReason(t *testing.T) {
	for pattern, want := range map[string]string{
		`"open`:                   "the filter pattern has a double quote that is not closed",
		`a -"open\"`:              "the filter pattern has a double quote that is not closed",
		`"a"b`:                    "the filter pattern has text right after a closing quote; put a space between them",
		"a - b":                   "the filter pattern has a - without a term after it; put it in double quotes to search for it",
		"?":                       "the filter pattern has a ? without a term after it; put it in double quotes to search for it",
		`{ $.level = "error" }`:   `the filter pattern is a JSON pattern, which is not supported; put text that begins with "{" in double quotes`,
		"[ip, user, status=404]":  `the filter pattern is a column pattern, which is not supported; put text that begins with "[" in double quotes`,
		strings.Repeat("a", 1025): "the filter pattern is 1025 characters long; it can have up to 1024",
	} {
		if _, err := ParseFilter(pattern); err == nil || err.Error() != want {
			t.Errorf("ParseFilter(%q): got %v, want %s", pattern, err, want)
		}
	}
}

// slowMatch is a second reading of the rules, for patterns without quotes.
func slowMatch(pattern, line string) bool {
	some, found := false, false
	for _, term := range strings.FieldsFunc(pattern, unicode.IsSpace) {
		switch {
		case strings.HasPrefix(term, "?"):
			some = true
			found = found || strings.Contains(line, term[1:])
		case strings.HasPrefix(term, "-"):
			if strings.Count(line, term[1:]) > 0 {
				return false
			}
		case len(strings.SplitN(line, term, 2)) < 2:
			return false
		}
	}
	return !some || found
}

func FuzzFilter(f *testing.F) {
	for _, s := range [][2]string{{"a b", "ab"}, {"?a ?b -c", "b"}, {`"a b" -"c"`, "a b"}, {"-", "x"}, {"\x85é", "é"}, {`\"`, `\"`}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, line string) {
		filter, err := ParseFilter(pattern)
		if err != nil {
			return
		}
		got := filter.Match([]byte(line))
		if !strings.Contains(pattern, `"`) {
			if want := slowMatch(pattern, line); got != want {
				t.Errorf("%q on %q: got %v, want %v", pattern, line, got, want)
			}
			return
		}
		// Quoting every plain term changes nothing.
		var quoted []string
		for _, term := range filter.all {
			quoted = append(quoted, `"`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(string(term))+`"`)
		}
		for _, term := range filter.none {
			quoted = append(quoted, `-"`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(string(term))+`"`)
		}
		for _, term := range filter.some {
			quoted = append(quoted, `?"`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(string(term))+`"`)
		}
		again := strings.Join(quoted, " ")
		if len(again) > maxPattern {
			return
		}
		f2, err := ParseFilter(again)
		if err != nil || f2.Match([]byte(line)) != got {
			t.Errorf("%q and its quoted form %q disagree on %q (%v)", pattern, again, line, err)
		}
	})
}
