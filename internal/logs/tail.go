package logs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// maxTail is how far back Tail looks in a file, in bytes.
const maxTail = 4 * maxText

// Tail returns the last n lines that a container of a pod wrote, oldest first. It is empty when the container wrote
// nothing.
func (s *Store) Tail(serviceID, podID, container string, n int) ([]string, error) {
	sources, err := s.logOf(serviceID, podID, container)
	if err != nil {
		return nil, fmt.Errorf("reading the end of a log: %w", err)
	}
	slices.SortStableFunc(sources, func(a, b *source) int { return cmp.Compare(a.epoch, b.epoch) })
	var lines []string
	for _, src := range slices.Backward(sources) {
		if len(lines) >= n {
			break
		}
		older, err := s.tailSegment(src, n-len(lines))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading the end of a log: %w", err)
		}
		lines = append(older, lines...)
	}
	return lines, nil
}

// tailSegment reads ever larger ends of the segment until there are n lines in one.
func (s *Store) tailSegment(src *source, n int) ([]string, error) {
	c, err := s.open(src.seg)
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
		src.off = c.size() - want
		if !all {
			rest, _, _ := bytes.Cut(b, newline) // the first line is not whole
			b = b[min(len(rest)+1, len(b)):]
			src.off += int64(len(rest)) + 1
		}
		// The first line that comes out may lack its beginning, so one more than wanted is needed.
		if lines := src.joinLines(b); len(lines) > n || all || want == maxTail {
			return lines[max(0, len(lines)-n):], nil
		}
	}
}

// readFrom returns the content from off on, which need not be where a record begins, without what is damaged.
func readFrom(c content, off int64) ([]byte, error) { return readBetween(c, off, c.size()) }

// readBetween is readFrom up to an end.
func readBetween(c content, off, end int64) (b []byte, err error) {
	for off < end {
		chunk, err := c.next(off, nil)
		switch {
		case err != nil:
			return nil, err
		case chunk.gap != nil:
			off = chunk.off + chunk.gap.size
		case len(chunk.text) == 0:
			return b, nil
		default:
			b = append(b, chunk.text[:min(int64(len(chunk.text)), max(0, end-chunk.off))]...)
			off = chunk.off + int64(len(chunk.text))
		}
	}
	return b, nil
}

// joinLines makes lines out of the records that begin at s.off; unfinished ones count too.
func (s *source) joinLines(b []byte) []string {
	s.join = joiner{}
	var lines []string
	keep := func(at time.Time, text []byte) {
		if !s.superseded(at) {
			lines = append(lines, strings.ToValidUTF8(string(text), "\uFFFD"))
		}
	}
	for line := range bytes.Lines(b) {
		s.off += int64(len(line))
		if at, text, ok := s.join.add(bytes.TrimSuffix(line, newline), 0); ok {
			keep(at, text)
		}
	}
	for {
		at, text, ok := s.join.flush()
		if !ok {
			return lines
		}
		keep(at, text)
	}
}
