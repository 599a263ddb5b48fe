package logs

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxPattern is the longest filter pattern in bytes, that of CloudWatch Logs.
const maxPattern = 1024

// Filter decides which lines Query returns. The zero Filter takes all.
//
// It is the part of CloudWatch Logs' patterns for unstructured text: a line matches if it contains every plain term, at
// least one of the terms after ? if there are any, and none of the terms after -. Terms are case sensitive; a term in
// double quotes may have spaces, and \" and \\ stand for a quote and a backslash in it.
type Filter struct {
	all, some, none [][]byte
}

// ParseFilter reads a filter pattern. The error is one sentence for the user.
func ParseFilter(pattern string) (Filter, error) {
	var f Filter
	if len(pattern) > maxPattern {
		return f, fmt.Errorf("the filter pattern is %d characters long; it can have up to %d", len(pattern), maxPattern)
	}
	if kind := structured(pattern); kind != "" {
		return f, fmt.Errorf("the filter pattern is a %s pattern, which is not supported; put text that begins with %q in double quotes", kind, strings.TrimSpace(pattern)[:1])
	}
	for rest := skipSpace(pattern); rest != ""; rest = skipSpace(rest) {
		list, sign := &f.all, ""
		switch rest[0] {
		case '?':
			list, sign = &f.some, "?"
		case '-':
			list, sign = &f.none, "-"
		}
		term, after, err := parseTerm(rest[len(sign):])
		if err != nil {
			return Filter{}, err
		}
		if term == "" && sign != "" && !strings.HasPrefix(rest[1:], `"`) {
			return Filter{}, fmt.Errorf("the filter pattern has a %s without a term after it; put it in double quotes to search for it", sign)
		}
		*list = append(*list, []byte(term))
		rest = after
	}
	return f, nil
}

// structured names CloudWatch's other kinds of patterns, which would mean something else than their text.
func structured(pattern string) string {
	p := strings.TrimSpace(pattern)
	switch {
	case strings.HasPrefix(p, "{"):
		return "JSON"
	case strings.HasPrefix(p, "[") && strings.HasSuffix(p, "]") && strings.ContainsAny(p, ",=."):
		return "column"
	}
	return ""
}

func skipSpace(s string) string { return strings.TrimLeftFunc(s, unicode.IsSpace) }

// parseTerm cuts one term off s.
func parseTerm(s string) (term, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		i := strings.IndexFunc(s, unicode.IsSpace)
		if i < 0 {
			i = len(s)
		}
		return s[:i], s[i:], nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\'):
			i++
			b.WriteByte(s[i])
		case c == '"':
			rest = s[i+1:]
			if r, _ := utf8.DecodeRuneInString(rest); rest != "" && !unicode.IsSpace(r) {
				return "", "", fmt.Errorf("the filter pattern has text right after a closing quote; put a space between them")
			}
			return b.String(), rest, nil
		default:
			b.WriteByte(c)
		}
	}
	return "", "", fmt.Errorf("the filter pattern has a double quote that is not closed")
}

// absent reports whether no line in text can match, which may hold anything besides.
func (f *Filter) absent(text []byte) bool {
	if f == nil {
		return false
	}
	for _, term := range f.all {
		if !bytes.Contains(text, term) {
			return true
		}
	}
	return false
}

// Match reports whether the line matches.
func (f Filter) Match(line []byte) bool {
	for _, term := range f.all {
		if !bytes.Contains(line, term) {
			return false
		}
	}
	for _, term := range f.none {
		if bytes.Contains(line, term) {
			return false
		}
	}
	if len(f.some) == 0 {
		return true
	}
	for _, term := range f.some {
		if bytes.Contains(line, term) {
			return true
		}
	}
	return false
}
