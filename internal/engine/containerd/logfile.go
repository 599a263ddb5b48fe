package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// logTime is the form of the times in log files. It has a fixed width, and is RFC 3339 as CRI wants it.
	logTime = "2006-01-02T15:04:05.000000000Z"
	// logBatch is how many bytes are written to a log file at once, about.
	logBatch = 64 << 10
	// maxOverhang is by how much a segment may exceed its size so that it does not end within a line.
	maxOverhang = 4 << 20
	// maxSegmentAge is how old the first line of a segment gets before the next one is begun, so that what a quiet
	// container wrote can be removed by age while it runs.
	maxSegmentAge = 24 * time.Hour
	// clockStep is how far the clock may be set back before a new segment is begun with the new time. Until then, the
	// time of the line before is used again.
	clockStep = 10 * time.Second
)

// logFile is where one container's output goes: a series of files, called segments, in CRI's format. The first is
// <name>.log, the next <name>.1.log, and so on. None is ever renamed or written again once the next one is there.
//
// The segment being written is locked (flock), so that others can tell whether it may still grow. The times of its
// lines never go backwards.
//
// What cannot be written, because the disk is full, is dropped and counted: the container must not stand still for it.
// As soon as there is room again a line says how much is missing.
type logFile struct {
	dir, name string
	limit     int64 // bytes at which the next segment is begun
	now       func() time.Time
	sleep     func(time.Duration)
	warn      func(msg string, err error)

	mu     sync.Mutex
	f      *os.File // nil while none could be opened
	number int      // of the segment
	size   int64
	first  time.Time // of the first line written to this segment
	last   time.Time // of the last line
	open   [2]bool   // by stream: the line is not complete yet
	out    []byte    // records of the batch
	lost   struct {
		lines, bytes int64
		why          error
	}
}

// openLog opens the log at path, which ends in .log, and goes on behind what is there. A log that cannot be opened is
// tried again with every write.
func openLog(path string, limit int64, warn func(string, error)) *logFile {
	l := &logFile{
		dir: filepath.Dir(path), name: strings.TrimSuffix(filepath.Base(path), ".log"), limit: limit, now: time.Now, sleep: time.Sleep, warn: warn,
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.openLast(); err != nil {
		l.warn("cannot open a log file", err)
	}
	return l
}

func (l *logFile) path(number int) string {
	if number == 0 {
		return filepath.Join(l.dir, l.name+".log")
	}
	return filepath.Join(l.dir, l.name+"."+strconv.Itoa(number)+".log")
}

// openLast opens the newest segment. It is there already if containerd died while it started the container before.
func (l *logFile) openLast() error {
	entries, err := os.ReadDir(l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	number, found := 0, false
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), l.name+".")
		if !ok {
			continue
		}
		// Of archived segments only the number counts.
		rest, archived := strings.CutSuffix(rest, ".zst")
		n := 0
		if rest != "log" {
			digits, isLog := strings.CutSuffix(rest, ".log")
			if n, err = strconv.Atoi(digits); err != nil || !isLog {
				continue
			}
		}
		if archived {
			n++
		}
		number, found = max(number, n), true
	}
	if found {
		return l.openSegment(number, os.O_CREATE)
	}
	return l.openSegment(0, os.O_CREATE)
}

// openSegment makes the segment of that number the current one.
func (l *logFile) openSegment(number, flags int) error {
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(l.path(number), os.O_RDWR|os.O_APPEND|flags, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if flags&os.O_EXCL == 0 && errors.Is(err, unix.EWOULDBLOCK) {
			return l.openSegment(number+1, os.O_CREATE) // it is being archived
		}
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Sys().(*syscall.Stat_t).Nlink == 0 { //nolint:errcheck,forcetypeassert // on Linux
		f.Close()
		return l.openSegment(number+1, os.O_CREATE) // it was archived since it was listed
	}
	if err != nil {
		f.Close()
		return err
	}
	if l.f != nil {
		_ = l.f.Close()
	}
	l.f, l.number, l.size, l.first = f, number, info.Size(), time.Time{}
	if l.size > 0 {
		l.repair()
	}
	return nil
}

// repair ends a last line that a crash cut short, so that the next one does not become a part of it.
func (l *logFile) repair() {
	var b [1]byte
	if _, err := l.f.ReadAt(b[:], l.size-1); err == nil && b[0] != '\n' {
		n, _ := l.f.Write([]byte("\n"))
		l.size += int64(n)
	}
}

// write appends text that consists of whole lines, except that the last may be unfinished: then more is to come of it,
// and it goes on with the next write for the stream. ended completes an unfinished line.
func (l *logFile) write(stream int, text []byte, ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.time()
	lines, raw := int64(0), int64(0)
	for len(text) > 0 {
		line, tag := text, byte('P')
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			line, text, tag = text[:i], text[i+1:], 'F'
		} else {
			text = nil
		}
		if ended && text == nil {
			tag = 'F'
		}
		l.append(at, stream, tag, line)
		l.open[stream] = tag == 'P'
		raw += int64(len(line)) + 1
		if tag == 'F' {
			lines++
		}
		if len(l.out) >= logBatch {
			l.flush(lines, raw)
			lines, raw = 0, 0
		}
	}
	if ended && l.open[stream] {
		l.append(at, stream, 'F', nil)
		l.open[stream] = false
		lines++
	}
	l.flush(lines, raw)
}

func (l *logFile) append(at string, stream int, tag byte, text []byte) {
	l.out = append(l.out, at...)
	if stream == 0 {
		l.out = append(l.out, " stdout "...)
	} else {
		l.out = append(l.out, " stderr "...)
	}
	l.out = append(l.out, tag, ' ')
	l.out = append(l.out, text...)
	l.out = append(l.out, '\n')
}

// time returns the time for the lines of a write, and begins the next segment if it is due.
func (l *logFile) time() string {
	now := l.now().UTC()
	if now.Before(l.last.Add(-clockStep)) {
		if l.f == nil || l.size == 0 || l.openSegment(l.number+1, os.O_CREATE|os.O_EXCL) == nil {
			l.last = time.Time{}
		}
	}
	full := l.size >= l.limit || l.size > 0 && !l.first.IsZero() && now.Sub(l.first) >= maxSegmentAge
	if full && (l.open == [2]bool{} || l.size >= l.limit+maxOverhang) {
		if err := l.openSegment(l.number+1, os.O_CREATE|os.O_EXCL); err != nil && !errors.Is(err, unix.ENOSPC) {
			l.warn("cannot begin a new log file", err)
		}
	}
	if now.Before(l.last) {
		now = l.last
	}
	l.last = now
	if l.first.IsZero() {
		l.first = now
	}
	return now.Format(logTime)
}

// flush writes the batch, which holds so many lines and bytes of text.
func (l *logFile) flush(lines, raw int64) {
	if len(l.out) == 0 {
		return
	}
	defer l.empty()
	if l.f == nil {
		if err := l.openLast(); err != nil {
			l.drop(lines, raw, err)
			return
		}
	}
	if l.lost.why == nil {
		if err := l.put(l.out); err != nil {
			l.drop(lines, raw, err)
		}
		return
	}
	// Where there is no room for both, the line would soon have to be written again.
	if err := l.put(append(l.notice(), l.out...)); err != nil {
		l.drop(lines, raw, err)
		return
	}
	l.warn("log lines were dropped", fmt.Errorf("%d lines (%d bytes): %w", l.lost.lines, l.lost.bytes, l.lost.why))
	l.lost.lines, l.lost.bytes, l.lost.why = 0, 0, nil
}

// empty begins the next batch. A buffer that had to grow for a burst is not kept.
func (l *logFile) empty() {
	if l.out = l.out[:0]; cap(l.out) > 4*logBatch {
		l.out = nil
	}
}

// put writes the whole of b or nothing.
func (l *logFile) put(b []byte) error {
	n, err := l.f.Write(b)
	if err != nil {
		if n > 0 {
			// What was written of it is cut off again, which needs no room.
			if terr := l.f.Truncate(l.size); terr != nil {
				l.size += int64(n)
				l.repair()
			}
		}
		return err
	}
	l.size += int64(n)
	return nil
}

func (l *logFile) drop(lines, raw int64, err error) {
	if l.lost.why == nil {
		l.warn("log lines are dropped", err)
	}
	l.lost.lines += lines
	l.lost.bytes += raw
	if l.lost.why == nil {
		l.lost.why = err
	}
}

// notice is the record that says what was dropped.
func (l *logFile) notice() []byte {
	reason := l.lost.why
	if errno, ok := errors.AsType[syscall.Errno](reason); ok {
		reason = errno
	}
	return fmt.Appendf(nil, "%s stdout F [trysail] %d lines (%s) dropped: %v\n", l.last.Format(logTime), l.lost.lines, byteSize(l.lost.bytes), reason)
}

func byteSize(n int64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d bytes", n)
}

// close ends the log. Nothing may be written any more.
func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return
	}
	if l.lost.why != nil {
		_ = l.put(l.notice())
	}
	_ = l.f.Close()
	l.f = nil
}
