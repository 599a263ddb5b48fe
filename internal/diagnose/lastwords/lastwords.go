// Package lastwords finds in the last lines of a container's log the sentence that says why the program ended, and what
// can be known for sure from it: which port was taken, which variable was missing, what could not be reached. It knows the
// form in which the common languages and servers report their end.
//
// It is pure. Everything that it returns was written by the container and is to be treated so.
package lastwords

import (
	"strings"
	"unicode/utf8"
)

// The limits of what is read and returned.
const (
	MaxLines    = 200  // the last ones are read
	MaxLine     = 2048 // bytes of each line that are read
	MaxSentence = 300  // bytes
	maxFacts    = 8
	maxName     = 200 // bytes of a name in a fact
)

// Language is what wrote the last words; empty if it was not recognized.
type Language string

// The languages and programs that are recognized.
const (
	Go       Language = "go"
	Python   Language = "python"
	Node     Language = "node"
	Java     Language = "java"
	Ruby     Language = "ruby"
	PHP      Language = "php"
	DotNet   Language = "dotnet"
	Rust     Language = "rust"
	Perl     Language = "perl"
	CPP      Language = "c++"
	Elixir   Language = "elixir"
	Shell    Language = "shell"
	Nginx    Language = "nginx"
	Apache   Language = "apache"
	HAProxy  Language = "haproxy"
	Postgres Language = "postgres"
	MySQL    Language = "mysql"
	Redis    Language = "redis"
	Runtime  Language = "runtime" // the container runtime, in the name of the program
)

// Words are the last words of a program.
type Words struct {
	// Sentence says it, on one line of at most MaxSentence bytes. It is empty only if the program wrote nothing.
	Sentence string
	Language Language
	// Where is the place in the program's own source, such as main.go:12; empty if unknown.
	Where string
	// Told is true if the program said in a form of its language that it ends; else Sentence is only the likeliest line.
	Told bool
	// Facts are what the words say, the most important first. Those that are not Fatal are from before.
	Facts []Fact
}

// Fatal returns the first fact that belongs to the last words.
func (w *Words) Fatal() (f Fact, ok bool) {
	for _, f := range w.Facts {
		if f.Fatal {
			return f, true
		}
	}
	return Fact{}, false
}

// Has returns the first fact of a kind.
func (w *Words) Has(kind Kind) (f Fact, ok bool) {
	for _, f := range w.Facts {
		if f.Kind == kind {
			return f, true
		}
	}
	return Fact{}, false
}

// Extract reads the last lines of a log, oldest first.
func Extract(lines []string) Words {
	text := prepare(lines)
	if len(text) == 0 {
		return Words{}
	}
	b, told := lastBlock(text)
	if !told {
		b = likeliest(text)
	}
	w := Words{Language: b.language, Where: b.where, Told: told}
	w.Sentence = short(withoutTime(b.sentence), MaxSentence)
	w.Facts = facts(text, b)
	return w
}

// prepare makes plain lines of what a container wrote: without colours and empty lines at the end, and with the
// messages taken out of JSON.
func prepare(lines []string) []string {
	lines = lines[max(0, len(lines)-MaxLines):]
	var out []string
	for _, line := range lines {
		line = strings.TrimRight(plain(short(line, MaxLine)), " \t\n")
		if inner, ok := fromJSON(line); ok {
			out = append(out, inner...)
			continue
		}
		out = append(out, line)
	}
	for len(out) > 0 && strings.TrimSpace(out[len(out)-1]) == "" {
		out = out[:len(out)-1]
	}
	return out[max(0, len(out)-2*MaxLines):]
}

// plain removes escape sequences and control characters other than tabs, and carriage returns at the end. One inside
// stays: it may be what is wrong.
func plain(s string) string {
	s = strings.TrimSuffix(s, "\r")
	if strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == utf8.RuneError || r == 0x7f }) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] == 0x1b {
			i += escape(s[i:])
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError:
			b.WriteByte('?')
		case r == '\t' || r == '\r' || r >= ' ' && r != 0x7f:
			b.WriteRune(r)
		}
		i += n
	}
	return b.String()
}

// escape is the length of the escape sequence that s begins with.
func escape(s string) int {
	if len(s) < 2 || s[1] != '[' {
		return min(len(s), 2)
	}
	for i := 2; i < len(s); i++ {
		if s[i] >= 0x40 && s[i] <= 0x7e {
			return i + 1
		}
	}
	return len(s)
}

// short bounds a text without breaking a character.
func short(s string, most int) string {
	if len(s) <= most {
		return s
	}
	const dots = "…"
	most -= len(dots)
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + dots
}

// withoutTime removes the time at the beginning of a line, and makes it one clean line.
func withoutTime(s string) string {
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, s))
	if m := patterns().time.FindString(s); m != "" && len(m) < len(s) {
		s = s[len(m):]
	}
	return s
}
