package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// maxTail is how far back Tail looks in a file, in bytes.
const maxTail = 4 * maxText

// Tail returns the last n lines that a container of a pod wrote, oldest first. It is empty when the container wrote
// nothing.
func (s *Store) Tail(serviceID, podID, container string, n int) ([]string, error) {
	paths, err := files(s.PodDir(serviceID, podID), container)
	if err != nil {
		return nil, fmt.Errorf("reading the end of a log: %w", err)
	}
	var lines []string
	for _, path := range slices.Backward(paths) {
		if len(lines) >= n {
			break
		}
		older, err := tailFile(path, n-len(lines))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading the end of a log: %w", err)
		}
		lines = append(older, lines...)
	}
	return lines, nil
}

// tailFile reads ever larger ends of the file until there are n lines in one.
func tailFile(path string, n int) ([]string, error) {
	f, err := os.Open(path) //nolint:gosec // from a listing of our directory
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	for want := int64(readSize); ; want *= 4 {
		want = min(want, info.Size(), maxTail)
		b := make([]byte, want)
		if _, err := f.ReadAt(b, info.Size()-want); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		all := want == info.Size()
		if !all {
			_, b, _ = bytes.Cut(b, newline) // the first line is not whole
		}
		// The first line that comes out may lack its beginning, so one more than wanted is needed.
		if lines := joinLines(b); len(lines) > n || all || want == maxTail {
			return lines[max(0, len(lines)-n):], nil
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
