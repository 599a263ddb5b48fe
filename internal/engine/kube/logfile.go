package kube

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	// logTime is the form of the times in log files: RFC 3339 with a fixed width.
	logTime = "2006-01-02T15:04:05.000000000Z"
	// maxSegment and maxSegmentAge are when the next file of a log is begun, so that the older ones can be removed.
	maxSegment    = 16 << 20
	maxSegmentAge = 24 * time.Hour
	// tailSize is how much of a log is read to find out where it ends.
	tailSize = 256 << 10
)

// streams of a container's output.
const (
	stdout = "stdout"
	stderr = "stderr"
)

// seen is where a stream of a log ends: the time of its last line, and how many lines have that time.
type seen struct {
	last  time.Time
	count int
}

// logFile is where one container's output goes: files <name>.log, <name>.1.log … in CRI's format, the same that the shims
// of the one-machine engine write. The file being written is locked, so that others can tell.
type logFile struct {
	dir, name string
	begin     func(stream string, at time.Time) error // nil if nobody wants to know

	mu     sync.Mutex // guards all below
	f      *os.File
	number int
	size   int64
	first  time.Time
	ends   map[string]seen // by stream
}

// openLog opens a container's log, and finds out what it has already.
func openLog(dir, name string) (*logFile, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	l := &logFile{dir: dir, name: name, ends: map[string]seen{}}
	for {
		if _, err := os.Stat(l.path(l.number + 1)); err != nil {
			break
		}
		l.number++
	}
	// What is left of a file that had just been begun says too little.
	for n := max(0, l.number-1); n <= l.number; n++ {
		if err := l.readEnd(n); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return l, l.open()
}

// continueLog begins the file that a log goes on in.
func continueLog(dir, name string, c Continuation) (*logFile, error) {
	l := &logFile{dir: dir, name: name, begin: c.Begin, number: c.Number, ends: map[string]seen{}}
	for _, stream := range [...]string{stdout, stderr} {
		if last, count := c.End(stream); !last.IsZero() {
			l.ends[stream] = seen{last, count}
		}
	}
	return l, l.open()
}

func (l *logFile) path(number int) string {
	if number == 0 {
		return filepath.Join(l.dir, l.name+".log")
	}
	return filepath.Join(l.dir, l.name+"."+strconv.Itoa(number)+".log")
}

func (l *logFile) open() error {
	f, err := os.OpenFile(l.path(l.number), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.f, l.size, l.first = f, info.Size(), time.Now()
	return nil
}

// readEnd learns from the end of a file where the streams end.
func (l *logFile) readEnd(number int) error {
	f, err := os.Open(l.path(number))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	from := max(0, info.Size()-tailSize)
	text := make([]byte, info.Size()-from)
	n, err := f.ReadAt(text, from)
	if err != nil && n == 0 && len(text) > 0 {
		return err
	}
	for line := range bytes.Lines(text[:n]) {
		fields := bytes.SplitN(line, []byte(" "), 4)
		if len(fields) < 3 {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, string(fields[0]))
		if err == nil && bytes.Equal(fields[2], []byte("F")) {
			l.count(string(fields[1]), at)
		}
	}
	return nil
}

func (l *logFile) count(stream string, at time.Time) {
	if s := l.ends[stream]; at.Equal(s.last) {
		l.ends[stream] = seen{at, s.count + 1}
	} else {
		l.ends[stream] = seen{at, 1}
	}
}

// end is where the stream ends so far.
func (l *logFile) end(stream string) seen {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ends[stream]
}

// write appends a part of a line. last says that the line ends with it.
func (l *logFile) write(stream string, at time.Time, text []byte, last bool) error {
	tag := byte('P')
	if last {
		tag = 'F'
	}
	record := at.UTC().AppendFormat(make([]byte, 0, len(text)+64), logTime)
	record = append(append(append(append(record, ' '), stream...), ' ', tag, ' '), text...)
	record = append(record, '\n')
	if l.begin != nil {
		if err := l.begin(stream, at); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if last {
		l.count(stream, at)
	}
	n, err := l.f.Write(record)
	l.size += int64(n)
	if err != nil || !last || l.size < maxSegment && time.Since(l.first) < maxSegmentAge {
		return err
	}
	old := l.f
	l.number++
	if err := l.open(); err != nil {
		l.number--
		return err
	}
	return old.Close()
}

func (l *logFile) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}
