package cli

import (
	"encoding/json"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/aws/smithy-go/middleware"
	"golang.org/x/term"
)

// screen is where output goes and what it can do.
type screen struct {
	io.Writer
	terminal bool
	colour   bool
	fd       int
}

func (a *App) screen(w io.Writer) screen {
	s := screen{Writer: w}
	if f, ok := w.(*os.File); ok {
		s.fd = int(f.Fd())
		s.terminal = term.IsTerminal(s.fd) && a.Getenv("TERM") != "dumb"
		s.colour = s.terminal && a.Getenv("NO_COLOR") == ""
	}
	return s
}

// width is the terminal's, in columns, at this moment.
func (s screen) width() int {
	if w, _, err := term.GetSize(s.fd); err == nil && w > 0 {
		return w
	}
	return 80
}

// The colours of a cell. All have the same length, so that coloured columns stay aligned.
const (
	plain  = "39"
	red    = "31"
	green  = "32"
	yellow = "33"
)

func (s screen) paint(colour, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// stateColour says how good a state is.
func stateColour(state string) string {
	switch state {
	case "RUNNING", "ACTIVE", "READY", "HEALTHY":
		return green
	case "FAILED":
		return red
	case "PENDING", "DEPLOYING", "UPDATING", "ACTIVATING", "DELETING", "STARTING", "STOPPING":
		return yellow
	}
	return plain
}

// state paints a state, or the title of a column of states.
func (s screen) state(text string) string { return s.paint(stateColour(text), text) }

// table prints rows in columns. A row may be shorter than the header. What does not fit on a terminal stands below its
// row, from the last column on, so that nothing is cut off and an address can be copied.
func (s screen) table(header []string, rows [][]string) error {
	all := append([][]string{header}, rows...)
	widths := make([]int, len(header))
	for _, row := range all {
		for i, cell := range row {
			widths[i] = max(widths[i], columns(cell))
		}
	}
	fits := len(header)
	if s.terminal {
		fits = sideBySide(widths, s.width())
	}
	below := func(i int) bool { // a column without content is left out there
		return slices.ContainsFunc(rows, func(r []string) bool { return i < len(r) && r[i] != "" && r[i] != "-" })
	}
	var text strings.Builder
	for _, row := range all {
		var line strings.Builder
		for i, cell := range row[:min(fits, len(row))] {
			line.WriteString(cell + strings.Repeat(" ", widths[i]-columns(cell)+gap))
		}
		text.WriteString(strings.TrimRight(line.String(), " ") + "\n")
		var rest []string
		for i := fits; i < len(row); i++ {
			if cell := row[i]; cell != "" && below(i) {
				rest = append(rest, cell)
			}
		}
		if more := strings.Join(rest, strings.Repeat(" ", gap)); more != "" && more != "-" {
			text.WriteString(wrap("  "+more, max(s.width(), 20)) + "\n")
		}
	}
	_, err := io.WriteString(s, text.String())
	return err
}

// gap is how many columns are between two columns of a table.
const gap = 3

// sideBySide is how many columns of those widths stand side by side within width, one at least.
func sideBySide(widths []int, width int) int {
	for i, w := range widths {
		if width -= w; width < 0 {
			return max(i, 1)
		}
		width -= gap
	}
	return len(widths)
}

// columns is how wide a cell is, its colour aside.
func columns(cell string) int {
	n, escape := 0, false
	for _, r := range cell {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r != 'm'
		default:
			n++
		}
	}
	return n
}

// printJSON prints v for programs. Types of the SDK must have gone through wire.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "    ")
	return e.Encode(v)
}

// wire turns a value of the SDK into what the AWS CLI prints for it: the members' names of the API, times in ISO 8601,
// nothing for absent members. The SDK's types have no JSON form of their own.
func wire(v any) any { return wireValue(reflect.ValueOf(v)) }

func wireValue(v reflect.Value) any {
	if t, ok := reflect.TypeAssert[time.Time](v); ok {
		return t.UTC().Format("2006-01-02T15:04:05.000000Z07:00")
	}
	switch v.Kind() {
	case reflect.Pointer:
		return wireValue(v.Elem())
	case reflect.Struct:
		return wireStruct(v)
	case reflect.Map:
		m := map[string]any{}
		for it := v.MapRange(); it.Next(); {
			m[it.Key().String()] = wireValue(it.Value())
		}
		return m
	case reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = wireValue(v.Index(i))
		}
		return list
	default: // numbers, strings, booleans
		return v.Interface()
	}
}

func wireStruct(v reflect.Value) map[string]any {
	m := map[string]any{}
	for field, value := range v.Fields() {
		if !field.IsExported() || field.Type == reflect.TypeFor[middleware.Metadata]() || isAbsent(value) {
			continue
		}
		m[strings.ToLower(field.Name[:1])+field.Name[1:]] = wireValue(value)
	}
	return m
}

// isAbsent reports whether the server did not send the member. An enumeration is a plain string in the SDK.
func isAbsent(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice:
		return v.IsNil()
	case reflect.String:
		return v.Len() == 0
	default:
		return false
	}
}

// clean takes control characters out of text that somebody else wrote, so that it cannot play with the terminal.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, text)
}

// when shows a time to people: in their zone, to the second.
func when(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// printLine prints v as one line of JSON.
func printLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func isTerminal(fd uintptr) bool { return term.IsTerminal(int(fd)) }
