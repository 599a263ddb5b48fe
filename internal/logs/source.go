package logs

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"
)

const (
	// disorder is how far two neighbouring lines of a file may be out of order: the engine stamps stdout and stderr in
	// two threads.
	disorder = time.Second
	// quiet is how long a file must not have been written for an unfinished line in it to count as finished.
	quiet = time.Minute
	// readSize is the buffer per open file. It holds a record of the engine (16 KiB) as a whole.
	readSize = 32 << 10
)

// errRotated means that a file was renamed between finding and opening it.
var errRotated = errors.New("a log file was rotated")

// sourceKey names a file in a way that survives its rotation: the pod that wrote it and the time of its first record.
// It also orders lines of the same time.
type sourceKey struct {
	pod   uint64 // hash of the pod's ID; 0 for the system lines
	first int64  // Unix nanoseconds
}

func (k sourceKey) less(o sourceKey) bool {
	if k.pod != o.pod {
		return k.pod < o.pod
	}
	return k.first < o.first
}

// position is where the reading of a file stands: every line that ends before off has been read. Reading begins
// again at off-back, where the first of the lines begins that end behind off.
type position struct{ off, back int64 }

// span is the part of the lines that a source yields.
type span struct {
	start, end time.Time // end is exclusive; zero means unbounded
	// A source without a known position continues behind the line of time mark that was read from source markKey.
	mark    time.Time
	markKey sourceKey
	// began is when the query began. Lines written since are left for the next query, so that no file that is looked
	// at early in a query can lose a line against one that is looked at late.
	began time.Time
}

// source reads the lines of one file in order, one ahead.
type source struct {
	key  sourceKey
	path string
	info fs.FileInfo
	// complete is true when nothing more will be written to the file, so that even an unfinished line is a line.
	complete bool
	from     *position // where to continue, if known

	f    *os.File
	r    *bufio.Reader
	join joiner
	off  int64 // of the next record

	// The line that was read ahead: valid after next has returned true.
	at     time.Time
	text   []byte
	before position // to which to return in order to read the line again

	stopped *position // where next stopped before a line that is not wanted yet
}

// peek finds the file's first record, without which it has no lines. ok is false if there is none yet.
func (s *source) peek(pod uint64) (ok bool, err error) {
	f, err := os.Open(s.path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if s.info, err = f.Stat(); err != nil {
		return false, err
	}
	at, _, found := nextTime(f, 0, s.info.Size())
	s.key = sourceKey{pod, at.UnixNano()}
	return found, nil
}

// nextTime returns the time and offset of the first well-formed record that begins at or after off.
func nextTime(r io.ReaderAt, off, size int64) (at time.Time, offset int64, ok bool) {
	br := bufio.NewReaderSize(io.NewSectionReader(r, off, size-off), 256)
	for off < size {
		head, err := br.ReadSlice('\n')
		n := int64(len(head))
		// A record longer than the buffer is judged by its beginning, and skipped.
		rec, valid := parseRecord(bytes.TrimSuffix(head, newline))
		for errors.Is(err, bufio.ErrBufferFull) {
			var more []byte
			more, err = br.ReadSlice('\n')
			n += int64(len(more))
		}
		if valid {
			return rec.at, off, true
		}
		if err != nil {
			return time.Time{}, 0, false
		}
		off += n
	}
	return time.Time{}, 0, false
}

var newline = []byte("\n")

// open goes to the first line that may be wanted.
func (s *source) open(w *span) error {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && !os.SameFile(info, s.info) {
		err = errRotated
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	s.f, s.info = f, info
	s.off = 0
	switch {
	case s.from != nil && s.from.off <= info.Size():
		s.off = s.from.off - s.from.back
		s.join.last = w.mark // for what is malformed; the last line that was read is about as old
	case s.from != nil:
		s.from = nil // the file was emptied
		fallthrough
	default:
		from := w.start
		if w.mark.After(from) {
			from = w.mark
		}
		s.off = seekTime(f, info.Size(), from.Add(-disorder))
	}
	if _, err := f.Seek(s.off, io.SeekStart); err != nil {
		return errors.Join(err, s.close())
	}
	s.r = bufio.NewReaderSize(f, readSize)
	return nil
}

// seekTime returns the offset of a record such that all before it are older than t.
func seekTime(r io.ReaderAt, size int64, t time.Time) int64 {
	low, high := int64(0), size
	for high-low > 2*readSize {
		mid := low + (high-low)/2
		at, off, ok := recordAfter(r, mid, size)
		if ok && off < high && at.Before(t) {
			low = off
		} else {
			high = mid
		}
	}
	return low
}

// recordAfter returns the first record that begins after off.
func recordAfter(r io.ReaderAt, off, size int64) (time.Time, int64, bool) {
	br := bufio.NewReaderSize(io.NewSectionReader(r, off, size-off), 4096)
	for {
		skipped, err := br.ReadSlice('\n')
		off += int64(len(skipped))
		if err == nil {
			return nextTime(r, off, size)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return time.Time{}, 0, false
		}
	}
}

func (s *source) close() error {
	if s.f == nil {
		return nil
	}
	err := s.f.Close()
	s.f, s.r = nil, nil
	return err
}

// here is the position behind everything that was read.
func (s *source) here() position {
	if s.stopped != nil {
		return *s.stopped
	}
	return position{s.off, s.join.back(s.off)}
}

// next reads ahead to the next line in w. It returns false at the end of what can be read now; here is then the
// position from which to continue later.
func (s *source) next(w *span) (bool, error) {
	for {
		line, n, err := s.readLine()
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		ended := errors.Is(err, io.EOF)
		before := s.here()
		var at time.Time
		var text []byte
		var ok bool
		switch {
		case !ended || n > 0 && s.complete:
			at, text, ok = s.join.add(line, s.off)
			s.off += n
		case n > 0 || !s.complete:
			return false, nil // a record that is being written
		default:
			if at, text, ok = s.join.flush(); !ok {
				return false, nil
			}
		}
		if !ok || s.from != nil && s.off <= s.from.off && !ended {
			continue
		}
		switch s.judge(w, at) {
		case skip:
			continue
		case stop:
			s.stopped = &before
			return false, nil
		case take:
		}
		s.at, s.text, s.before = at, text, before
		return true, nil
	}
}

type verdict int

const (
	take verdict = iota
	skip
	stop
)

// judge says whether a line of that time is wanted.
func (s *source) judge(w *span, at time.Time) verdict {
	switch {
	case at.After(w.began) && at.Before(w.began.Add(5*time.Second)):
		return stop
	case !w.end.IsZero() && !at.Before(w.end.Add(disorder)):
		return stop
	case at.Before(w.start), !w.end.IsZero() && !at.Before(w.end):
		return skip
	case s.from == nil && !w.mark.IsZero() && (at.Before(w.mark) || at.Equal(w.mark) && !w.markKey.less(s.key)):
		return skip
	}
	return take
}

// readLine returns the next line of the file without its newline, and how many bytes it takes. Of a line longer than
// maxText only the beginning is returned: the engine never writes one. The line is valid until the next call.
func (s *source) readLine() (line []byte, n int64, err error) {
	line, err = s.r.ReadSlice('\n')
	n = int64(len(line))
	if errors.Is(err, bufio.ErrBufferFull) {
		line = bytes.Clone(line)
		for errors.Is(err, bufio.ErrBufferFull) {
			var more []byte
			more, err = s.r.ReadSlice('\n')
			n += int64(len(more))
			if room := maxText - len(line); room > 0 {
				line = append(line, more[:min(room, len(more))]...)
			}
		}
	}
	return bytes.TrimSuffix(line, newline), n, err
}
