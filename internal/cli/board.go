package cli

import (
	"fmt"
	"strings"
	"time"
)

// stageState is how far a stage of a deployment is.
type stageState int

const (
	stageAhead stageState = iota
	stageNow
	stageDone
	stageFailed
)

// stage is one line of a board.
type stage struct {
	name  string
	note  string // such as "2 of 3"
	state stageState
	at    time.Duration // when it was done
}

// board shows the stages of a deployment on a terminal: one line each, which stays in its place. Only lines that have
// changed are written again, so nothing flickers.
type board struct {
	*progress
	title  string
	stages []stage
	drawn  []string
	left   bool // nobody looks at it any more
}

// newBoard makes a board of the stages that every deployment goes through.
func newBoard(p *progress, title string) *board {
	b := &board{progress: p, title: title}
	for _, name := range []string{"pulled", "started", "healthy", "switched", "drained"} {
		b.stages = append(b.stages, stage{name: name})
	}
	return b
}

// reach says that all stages before the i-th are done, and what goes on in it.
func (b *board) reach(i int, note string) {
	for j := range b.stages {
		s := &b.stages[j]
		switch {
		case j < i && s.state != stageDone:
			s.state, s.note, s.at = stageDone, "", time.Since(b.start)
		case j == i && s.state != stageDone:
			s.state = stageNow
		}
	}
	if i < len(b.stages) && b.stages[i].state == stageNow {
		b.stages[i].note = note
	}
}

// fail marks the stage that the deployment has come to.
func (b *board) fail() {
	for j := range b.stages {
		if b.stages[j].state == stageNow {
			b.stages[j].state = stageFailed
		}
	}
}

// draw brings the lines on the terminal up to date.
func (b *board) draw() {
	b.turn++
	lines := b.lines()
	var out strings.Builder
	if b.drawn == nil {
		out.WriteString("\x1b[?25l") // a cursor that jumps about is flicker too
		for _, l := range lines {
			out.WriteString(l + "\n")
		}
	} else {
		for i, l := range lines {
			if l == b.drawn[i] {
				continue
			}
			up := len(lines) - i
			fmt.Fprintf(&out, "\x1b[%dA\r%s\x1b[K\x1b[%dB\r", up, l, up)
		}
	}
	b.drawn = lines
	fmt.Fprint(b, out.String())
}

// leave gives the cursor back, below the lines. What is not over goes on without us.
func (b *board) leave() {
	if b.drawn != nil {
		b.left = true
		b.draw()
		fmt.Fprint(b, "\x1b[?25h")
	}
}

func (b *board) lines() []string {
	frames := []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
	lines := []string{cut(b.title, b.width()-1)}
	for _, s := range b.stages {
		mark, colour, when := " ", plain, ""
		switch s.state {
		case stageAhead:
		case stageNow:
			mark, colour, when = string(frames[b.turn%len(frames)]), yellow, b.elapsed()
			if b.left {
				mark = "…"
			}
		case stageDone:
			mark, colour, when = "✓", green, fmt.Sprintf("%5.1fs", s.at.Seconds())
		case stageFailed:
			mark, colour, when = "✗", red, b.elapsed()
		}
		text := cut(fmt.Sprintf("%6s  %-9s %s", when, s.name, clean(s.note)), b.width()-4)
		lines = append(lines, b.paint(colour, mark)+" "+strings.TrimRight(text, " "))
	}
	return lines
}

// stagesOf is where a deployment is, as the pods tell it: the number of the stage that it is in, and how far it is there.
func stagesOf(version int, serves bool, scale int, message string, pods []podInfo) (at int, note string) {
	mine, healthy, old := 0, 0, 0
	for _, p := range pods {
		switch {
		case p.Version != version:
			old++
		case p.State == "HEALTHY":
			healthy++
			mine++
		case p.State != "FAILED":
			mine++
		}
	}
	switch {
	case serves && old == 0:
		return 5, ""
	case serves:
		return 4, plural(old, "pod") + " of the version before"
	case mine == 0:
		return 0, message
	case mine < scale:
		return 1, fmt.Sprintf("%d of %d", mine, scale)
	case healthy < scale:
		return 2, fmt.Sprintf("%d of %d", healthy, scale)
	}
	return 3, ""
}
