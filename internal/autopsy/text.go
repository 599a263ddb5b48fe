package autopsy

import (
	"io/fs"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText bounds what is shown of a name, in bytes.
const maxText = 200

// clean makes a text from an image fit to be shown: bounded, and without what could forge a line.
func clean(s string) string {
	if len(s) > maxText {
		most := maxText
		for most > 0 && !utf8.RuneStart(s[most]) {
			most--
		}
		s = s[:most] + "…"
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError:
			return '?'
		case !unicode.IsPrint(r):
			return ' '
		}
		return r
	}, s)
}

func cleanAll(list []string) []string {
	var out []string
	for _, s := range list[:min(len(list), 32)] {
		out = append(out, clean(s))
	}
	return out
}

// mark sets a text from an image off from our own.
func mark(s string) string { return "`" + strings.ReplaceAll(clean(s), "`", "'") + "`" }

func kindOf(info fs.FileInfo) string {
	switch mode := info.Mode(); {
	case mode.IsDir():
		return "directory"
	case mode&fs.ModeNamedPipe != 0:
		return "named pipe"
	case mode&fs.ModeSocket != 0:
		return "socket"
	case mode&fs.ModeDevice != 0:
		return "device"
	}
	return "file"
}
