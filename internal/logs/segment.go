package logs

import (
	"bytes"
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	systemDir     = "system"
	suffix        = ".log"
	archiveSuffix = ".zst"
)

// segment is one file of the log of a container of a pod: <container>.log, <container>.1.log and so on, in order of
// time; with .zst at the end once it is archived. It is only ever appended to, and only the last one of its log is.
type segment struct {
	dir       string
	container string
	number    int
	plain     bool // there is a file as it was written
	archived  bool // there is a compressed one; for a moment, or after a crash, there are both
	last      bool // there is none with a higher number
}

func (s segment) path() string {
	if s.number == 0 {
		return filepath.Join(s.dir, s.container+suffix)
	}
	return filepath.Join(s.dir, s.container+"."+strconv.Itoa(s.number)+suffix)
}

func (s segment) archivePath() string { return s.path() + archiveSuffix }

// parseName takes the name of a file apart. ok is false for files that are no segments.
func parseName(name string) (container string, number int, archived, ok bool) {
	name, archived = strings.CutSuffix(name, archiveSuffix)
	name, ok = strings.CutSuffix(name, suffix)
	if !ok || name == "" {
		return "", 0, false, false
	}
	container, digits, numbered := strings.Cut(name, ".")
	if !numbered {
		return container, 0, archived, true
	}
	number, err := strconv.Atoi(digits)
	return container, number, archived, err == nil && number > 0 && strconv.Itoa(number) == digits
}

// segments lists the segments in a pod's directory: those of the container, or all if that is empty. They are ordered
// by container and number.
func segments(dir, container string) ([]segment, error) {
	entries, err := readDir(dir)
	if err != nil {
		return nil, err
	}
	var list []segment
	for _, e := range entries {
		name, number, archived, ok := parseName(e.Name())
		if !ok || container != "" && name != container {
			continue
		}
		list = append(list, segment{dir: dir, container: name, number: number, plain: !archived, archived: archived})
	}
	slices.SortFunc(list, func(a, b segment) int {
		return cmp.Or(cmp.Compare(a.container, b.container), cmp.Compare(a.number, b.number))
	})
	out := list[:0]
	for _, s := range list {
		if n := len(out); n > 0 && out[n-1].container == s.container && out[n-1].number == s.number {
			out[n-1].plain, out[n-1].archived = true, true
			continue
		}
		s.last = true
		if n := len(out); n > 0 && out[n-1].container == s.container {
			out[n-1].last = false
		}
		out = append(out, s)
	}
	return out, nil
}

// readDir lists a directory; one that does not exist is empty.
func readDir(dir string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}

// stat returns the file that the segment is read from.
func (s segment) stat() (fs.FileInfo, error) {
	info, err := os.Stat(s.path())
	if errors.Is(err, fs.ErrNotExist) {
		return os.Stat(s.archivePath())
	}
	return info, err
}

// lock takes the lock that the writer of a segment holds. ok is false while it is being written. Closing the file
// releases it.
func (s segment) lock() (f *os.File, ok bool, err error) {
	f, err = os.OpenFile(s.path(), os.O_RDWR, 0)
	if err != nil {
		return nil, false, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = nil
		}
		return nil, false, err
	}
	return f, true, nil
}

// chunk is a piece of a segment that consists of whole records.
type chunk struct {
	off  int64 // of its first byte in the segment as it was written
	text []byte
	// single is true if no line of it is in parts: each can be looked at alone.
	single bool
	// before is the time of the last record among what was skipped; zero if that is not known.
	before time.Time
	// gap is set instead of text where the file is damaged.
	gap *gap
}

// gap is a damaged part of an archive.
type gap struct {
	first, last time.Time
	size        int64 // bytes of the segment
	err         error
}

// content reads a segment. There are two: the file as it was written, and the archive.
type content interface {
	// next returns the chunk that begins at off, which is where a record begins. It may skip what cannot match the
	// filter. The chunk is valid until the next call. After the last record there is an empty chunk.
	next(off int64, f *Filter) (chunk, error)
	// seek returns the offset of a record such that all before it are older than t, give or take disorder.
	seek(t time.Time) (int64, error)
	// size is up to where there is content.
	size() int64
	close() error
}

// open opens the segment, whichever of its files there is.
func (s *Store) open(seg segment) (content, error) {
	for try := 0; ; try++ {
		f, err := os.Open(seg.path())
		if err == nil {
			info, err := f.Stat()
			if err != nil {
				return nil, errors.Join(err, f.Close())
			}
			return &plain{f: f, end: info.Size()}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		a, err := s.openArchive(seg.archivePath())
		if !errors.Is(err, fs.ErrNotExist) || try > 0 {
			return a, err
		}
	}
}

const (
	firstRead = 32 << 10
	nextRead  = 256 << 10
	// maxRecord is how much is read at most to find the end of a record. The engine's are shorter by far.
	maxRecord = 2 * maxText
)

// plain is a segment as it was written.
type plain struct {
	f    *os.File
	end  int64 // what was written later is not looked at
	buf  []byte
	want int
}

func (p *plain) size() int64  { return p.end }
func (p *plain) close() error { return p.f.Close() }

func (p *plain) next(off int64, f *Filter) (chunk, error) {
	var before time.Time
	for {
		c, err := p.read(off)
		if err != nil || len(c.text) == 0 || !c.single || !f.absent(c.text) {
			c.before = before
			return c, err
		}
		if at, ok := lastTime(c.text); ok {
			before = at
		}
		whole := bytes.LastIndexByte(c.text, '\n') + 1
		off += int64(whole)
		if whole < len(c.text) { // a record that is being written
			return chunk{off: off, text: c.text[whole:], before: before}, nil
		}
	}
}

// read reads whole records.
func (p *plain) read(off int64) (chunk, error) {
	c := chunk{off: off}
	left := p.end - off
	if left <= 0 {
		return c, nil
	}
	p.want = max(p.want, firstRead)
	for {
		n := int(min(left, int64(p.want)))
		if cap(p.buf) < n {
			p.buf = make([]byte, n)
		}
		p.buf = p.buf[:n]
		if _, err := p.f.ReadAt(p.buf, off); err != nil {
			return c, err // it was cut meanwhile, which nobody does
		}
		c.text = p.buf
		if int64(n) < left {
			if i := bytes.LastIndexByte(c.text, '\n'); i >= 0 {
				c.text = c.text[:i+1]
			} else if n < maxRecord {
				p.want = min(2*p.want, maxRecord)
				continue
			}
		}
		p.want = max(p.want, nextRead)
		c.single = !hasParts(c.text)
		return c, nil
	}
}

// hasParts reports whether there may be a record in b that is a part of a line.
func hasParts(b []byte) bool {
	return bytes.Contains(b, []byte(" stdout P")) || bytes.Contains(b, []byte(" stderr P"))
}

func (p *plain) seek(t time.Time) (int64, error) { return seekTime(p.f, p.end, t), nil }
