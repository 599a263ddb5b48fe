package cli

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// progress shows what happens while a command waits. What happened stays, one line each; on a terminal a last line
// below says what is going on at this moment, and is erased at the end.
type progress struct {
	screen
	start time.Time
	live  bool // the last line is there
	turn  int  // of the spinner
}

func newProgress(s screen) *progress { return &progress{screen: s, start: time.Now()} }

// elapsed is the time since the start, as wide as it gets within 1000 s.
func (p *progress) elapsed() string {
	return fmt.Sprintf("%5.1fs", time.Since(p.start).Seconds())
}

// line prints something that happened.
func (p *progress) line(colour, text string) {
	p.erase()
	text = clean(text)
	if colour != plain {
		text = p.paint(colour, text)
	}
	fmt.Fprintf(p, "%s  %s\n", p.elapsed(), text)
}

// now shows what is going on. It does nothing unless on a terminal.
func (p *progress) now(text string) {
	if !p.terminal {
		return
	}
	const spinner = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
	frames := []rune(spinner)
	p.turn = (p.turn + 1) % len(frames)
	line := fmt.Sprintf("%s  %c %s", p.elapsed(), frames[p.turn], clean(text))
	fmt.Fprintf(p, "\r\x1b[K%s", cut(line, p.width()-1))
	p.live = true
}

// erase takes the last line away.
func (p *progress) erase() {
	if p.live {
		fmt.Fprint(p, "\r\x1b[K")
		p.live = false
	}
}

// cut shortens text to so many columns, as a line that wraps cannot be erased.
func cut(text string, columns int) string {
	if utf8.RuneCountInString(text) <= columns || columns < 1 {
		return text
	}
	return strings.TrimRight(string([]rune(text)[:columns-1]), " ") + "…"
}
