package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// maxTail is how far back Tail looks in a file, in bytes.
const maxTail = 4 * maxText

// Tail returns the last n lines that a container of a pod wrote, oldest first. It is empty when the container wrote
// nothing.
func (s *Store) Tail(serviceID, podID, container string, n int) ([]string, error) {
	segs, err := segments(s.PodDir(serviceID, podID), container)
	if err != nil {
		return nil, fmt.Errorf("reading the end of a log: %w", err)
	}
	var lines []string
	for _, seg := range slices.Backward(segs) {
		if len(lines) >= n {
			break
		}
		older, err := s.tailSegment(seg, n-len(lines))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading the end of a log: %w", err)
		}
		lines = append(older, lines...)
	}
	return lines, nil
}

// tailSegment reads ever larger ends of the segment until there are n lines in one.
func (s *Store) tailSegment(seg segment, n int) ([]string, error) {
	c, err := s.open(seg)
	if err != nil {
		return nil, err
	}
	defer c.close()
	for want := int64(readSize); ; want *= 4 {
		want = min(want, c.size(), maxTail)
		b, err := readFrom(c, c.size()-want)
		if err != nil {
			return nil, err
		}
		all := want == c.size()
		if !all {
			_, b, _ = bytes.Cut(b, newline) // the first line is not whole
		}
		// The first line that comes out may lack its beginning, so one more than wanted is needed.
		if lines := joinLines(b); len(lines) > n || all || want == maxTail {
			return lines[max(0, len(lines)-n):], nil
		}
	}
}

// readFrom returns the content from off on, which need not be where a record begins, without what is damaged.
func readFrom(c content, off int64) ([]byte, error) {
	var b []byte
	for {
		chunk, err := c.next(off, nil)
		switch {
		case err != nil:
			return nil, err
		case chunk.gap != nil:
			off = chunk.off + chunk.gap.size
		case len(chunk.text) == 0:
			return b, nil
		default:
			b = append(b, chunk.text...)
			off = chunk.off + int64(len(chunk.text))
		}
	}
}

// joinLines makes lines out of records; unfinished ones count too.
func joinLines(b []byte) []string {
	var j joiner
	var lines []string
	keep := func(text []byte) { lines = append(lines, strings.ToValidUTF8(string(text), "\uFFFD")) }
	for line := range bytes.Lines(b) {
		if _, text, ok := j.add(bytes.TrimSuffix(line, newline), 0); ok {
			keep(text)
		}
	}
	for {
		_, text, ok := j.flush()
		if !ok {
			return lines
		}
		keep(text)
	}
}
