package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"
)

const (
	// disorder is how far two neighbouring lines of a file may be out of order. Our writers keep the order, others may
	// stamp stdout and stderr in two threads.
	disorder = time.Second
	// quiet is how long a file must not have been written for an unfinished line in it to count as finished.
	quiet = time.Minute
	// readSize is the buffer for looking at single records.
	readSize = 32 << 10
)

// sourceKey names a segment: the pod that wrote it and its number. It also orders lines of the same time.
type sourceKey struct {
	pod    uint64 // hash of the pod's ID and the container; 0 for the system lines
	number int64
}

func (k sourceKey) less(o sourceKey) bool {
	if k.pod != o.pod {
		return k.pod < o.pod
	}
	return k.number < o.number
}

// position is where the reading of a segment stands: every line that ends before off has been read. Reading begins
// again at off-back, where the first of the lines begins that end behind off.
type position struct{ off, back int64 }

// mark is the place of a line in the order of all lines.
type mark struct {
	at  time.Time
	key sourceKey
	off int64 // where the line ends
}

func (m mark) before(o mark) bool {
	if c := m.at.Compare(o.at); c != 0 {
		return c < 0
	}
	if m.key != o.key {
		return m.key.less(o.key)
	}
	return m.off < o.off
}

// span is the part of the lines that sources yield.
type span struct {
	start, end time.Time // end is exclusive; zero means unbounded
	filter     *Filter
	accept     func(text []byte, s *source) bool // nil: all
	mark       mark                              // of the last line that was read
	// began is when the query began. Lines written since are left for the next query, so that no file that is looked
	// at early in a query can lose a line against one that is looked at late.
	began time.Time
	// until is when the search breaks off, so that an answer comes in time; zero means never.
	until time.Time
}

// source reads the matching lines of one segment in order, one ahead.
type source struct {
	key    sourceKey
	origin string // the server that wrote it; empty where there is only one
	pod    string
	seg    segment
	info   fs.FileInfo
	cuts   []cut        // what of it others have read once more
	epoch  int64        // of the lead under which it was written, where several servers have written the log
	older  []*source    // what others had written of the same log before this was begun
	mark   mark         // without a position it continues behind it
	known  [2]time.Time // and behind these, by stream
	// complete is true when nothing more will be written to the file, so that even an unfinished line is a line.
	complete bool
	from     *position // where to continue, if known
	after    *source   // the next segment, if it must not be read before this one was

	c    content
	join joiner
	off  int64  // of the next record
	rest []byte // of the chunk: what begins at off
	sure bool   // the chunk has no lines in parts, so it may be searched as a whole

	// The line that was read ahead: valid after next has returned true.
	at     time.Time
	text   []byte
	stream int
	before position // to which to return in order to read the line again

	stopped *position // where next stopped before a line that is not wanted yet
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

// open goes to the first line that may be wanted. A segment that is gone by now has no lines.
func (s *source) open(store *Store, w *span) error {
	c, err := store.open(s.seg)
	if errors.Is(err, fs.ErrNotExist) {
		c, err = nothing{}, nil
	}
	if err != nil {
		return err
	}
	s.c, s.off = c, 0
	switch from := latest(w.start, s.mark.at); {
	case s.from != nil:
		s.off = s.from.off - s.from.back
		s.join.last = w.mark.at // for what is malformed; the last line that was read is about as old
	case !from.IsZero():
		if s.off, err = c.seek(from.Add(-disorder)); err != nil {
			return errors.Join(err, s.close())
		}
	}
	return nil
}

// nothing is the content of a segment that retention has removed.
type nothing struct{}

func (nothing) next(off int64, _ *Filter) (chunk, error) { return chunk{off: off}, nil }
func (nothing) seek(time.Time) (int64, error)            { return 0, nil }
func (nothing) size() int64                              { return 0 }
func (nothing) close() error                             { return nil }

func (s *source) close() error {
	if s.c == nil {
		return nil
	}
	err := s.c.close()
	s.c, s.rest = nil, nil
	return err
}

// here is the position behind everything that was read.
func (s *source) here() position {
	if s.stopped != nil {
		return *s.stopped
	}
	return position{s.off, s.join.back(s.off)}
}

var errTime = errors.New("the search takes long")

// next reads ahead to the next line in w. It returns false at the end of what can be read now; here is then the
// position from which to continue later. Errors: errTime, that of ctx, those of the file system.
func (s *source) next(ctx context.Context, w *span) (bool, error) {
	for {
		if len(s.rest) == 0 {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			if !w.until.IsZero() && time.Now().After(w.until) {
				return false, errTime
			}
			if found, ended, err := s.fill(w); found || err != nil {
				return found, err
			} else if ended {
				return s.finish(w)
			}
		}
		if s.sure && !s.join.unfinished() && s.jump(w.filter) {
			continue
		}
		line, whole := s.rest, false
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line, whole = line[:i], true
		}
		n := len(line)
		if whole {
			n++
		} else if s.off+int64(n) >= s.c.size() && !s.complete {
			return false, nil // a record that is being written
		}
		before := s.here()
		at, text, ok := s.join.add(line, s.off)
		s.off += int64(n)
		s.rest = s.rest[n:]
		if !ok || s.from != nil && s.off <= s.from.off {
			continue
		}
		switch s.judge(w, at, text) {
		case skip:
			continue
		case stop:
			s.stopped = &before
			return false, nil
		case take:
		}
		s.at, s.text, s.stream, s.before = at, text, s.join.stream, before
		return true, nil
	}
}

// fill reads the next chunk. found is true if there is a line that tells of a damaged part instead.
func (s *source) fill(w *span) (found, ended bool, err error) {
	filter := w.filter
	if s.join.unfinished() || s.from != nil && s.off < s.from.off {
		filter = nil
	}
	c, err := s.c.next(s.off, filter)
	if err != nil {
		return false, false, err
	}
	if !c.before.IsZero() {
		s.join.last = c.before
	}
	s.off = c.off
	if c.gap != nil {
		before := s.here()
		s.off += c.gap.size
		if s.from != nil && s.off <= s.from.off {
			return false, false, nil
		}
		at := latest(c.gap.first.UTC(), s.join.last)
		s.join = joiner{last: latest(at, c.gap.last.UTC())}
		// The filter is not asked: whoever searches must know that not all was searched.
		if s.inSpan(w, at) != take {
			return false, false, nil
		}
		s.at, s.stream, s.before = at, 0, before
		s.text = fmt.Appendf(nil, "[trysail] log lines of container %s are missing here, until %s: %v", s.seg.container, c.gap.last.UTC().Format(time.RFC3339), c.gap.err)
		return true, false, nil
	}
	s.rest, s.sure = c.text, c.single && filter != nil
	return false, len(c.text) == 0, nil
}

// finish returns an unfinished line at the end of what will not be written any more.
func (s *source) finish(w *span) (bool, error) {
	if !s.complete {
		return false, nil
	}
	for {
		before := s.here()
		at, text, ok := s.join.flush()
		if !ok {
			return false, nil
		}
		switch s.judge(w, at, text) {
		case skip:
			continue
		case stop:
			s.stopped = &before
			return false, nil
		case take:
		}
		s.at, s.text, s.stream, s.before = at, text, s.join.stream, before
		return true, nil
	}
}

// jump skips the lines in front of the first that may match, without looking at them. It reports whether that was all.
func (s *source) jump(f *Filter) bool {
	if f == nil || len(f.all) == 0 {
		return false
	}
	whole := bytes.LastIndexByte(s.rest, '\n') + 1
	i := bytes.Index(s.rest[:whole], f.all[0])
	to := whole
	if i >= 0 {
		to = bytes.LastIndexByte(s.rest[:i], '\n') + 1
	}
	if to == 0 {
		return false
	}
	if at, ok := lastTime(s.rest[:to]); ok {
		s.join.last = at
	}
	s.off += int64(to)
	s.rest = s.rest[to:]
	return len(s.rest) == 0
}

type verdict int

const (
	take verdict = iota
	skip
	stop
)

// judge says whether a line is wanted.
func (s *source) judge(w *span, at time.Time, text []byte) verdict {
	v := s.inSpan(w, at)
	if v == take && (s.superseded(at) || s.from == nil && !at.After(s.known[s.join.stream])) {
		return skip
	}
	if v == take && (w.filter != nil && !w.filter.Match(text) || w.accept != nil && !w.accept(text, s)) {
		return skip
	}
	return v
}

// inSpan says whether a line of that time is wanted, which ends at s.off.
func (s *source) inSpan(w *span, at time.Time) verdict {
	switch {
	case at.After(w.began) && at.Before(w.began.Add(5*time.Second)):
		return stop
	case !w.end.IsZero() && !at.Before(w.end.Add(disorder)):
		return stop
	case at.Before(w.start), !w.end.IsZero() && !at.Before(w.end):
		return skip
	case s.from == nil && !s.mark.at.IsZero() && !s.mark.before(mark{at, s.key, s.off}):
		return skip
	}
	return take
}
