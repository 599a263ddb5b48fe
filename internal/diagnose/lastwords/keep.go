package lastwords

import (
	"fmt"
	"slices"
	"strings"
)

// Look is how many lines of a log Keep can make use of: more than a dump of a few hundred goroutines has.
const Look = 4000

// Of a dump Keep leaves keptHead lines from the beginning and keptEnd of the newest: few enough for Extract to take the
// beginning for the last words.
const keptHead, keptEnd = maxAfter - 10, 6

// heads begin dumps whose first lines say what happened, and that go on for longer than anybody keeps.
func heads() []string {
	return []string{"panic: ", "fatal error: ", "Exception in thread ", "Caused by: "}
}

// Keep chooses at most most of the last lines of a log, oldest first: the newest, unless they are the end of a dump whose
// beginning they leave out. Then they are the beginning and the very end, with a line between that tells how many are missing.
func Keep(lines []string, most int) []string {
	if len(lines) <= most {
		return lines
	}
	head := lastHead(lines)
	if head < 0 || head >= len(lines)-most || most < keptHead+keptEnd+1 {
		return lines[len(lines)-most:]
	}
	head = max(0, head-1) // what was being done
	kept := append([]string{}, lines[head:head+keptHead]...)
	kept = append(kept, fmt.Sprintf("[%d lines left out]", len(lines)-keptEnd-head-keptHead))
	return append(kept, lines[len(lines)-keptEnd:]...)
}

// lastHead finds the newest line that begins a dump, -1 if there is none.
func lastHead(lines []string) int {
	for i, line := range slices.Backward(lines) {
		for _, head := range heads() {
			if strings.HasPrefix(line, head) {
				return i
			}
		}
	}
	return -1
}
