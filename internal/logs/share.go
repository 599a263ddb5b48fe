package logs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// sharing is what a Store needs besides where several servers serve the same pods. Its zero value is that of one server.
type sharing struct {
	self   string // names this server; empty if it is the only one
	copies string // has <origin>/logs for each of the others

	shareMu sync.Mutex // guards all below
	epoch   int64      // of the lead, which this server had last
	begun   map[string]bool
	removed time.Time // lines as old as that were removed for want of space

	listing sync.Mutex // held while directories are listed, although that is I/O
	listed  map[root]map[string]listed
}

// listed is what was found in the directory of a pod. Files that are written to no more are not looked at again as long as
// the directory is the same.
type listed struct {
	at     time.Time // when the directory was changed last
	segs   []segment
	sizes  []int64 // of segs; -1: it may be written to
	afters []string
}

// Share says that there may be other servers. self names this one for ever, in letters and digits; copies is the directory
// of what the others have written. It has to come before the first use.
func (s *Store) Share(self, copies string) {
	s.self, s.copies, s.begun = self, copies, map[string]bool{}
}

// root is the directory of what one server has written.
type root struct{ origin, dir string }

// own is the root that this server writes to.
func (s *Store) own() root { return root{s.self, s.dir} }

func (s *Store) rootOf(origin string) root {
	if origin == s.self {
		return s.own()
	}
	return root{origin, filepath.Join(s.copies, origin, "logs")}
}

// roots lists all roots, our own first.
func (s *Store) roots() ([]root, error) {
	roots := []root{s.own()}
	if s.self == "" {
		return roots, nil
	}
	origins, err := s.Origins()
	for _, origin := range origins {
		roots = append(roots, s.rootOf(origin))
	}
	return roots, err
}

// Origins lists the other servers of whose lines there are copies.
func (s *Store) Origins() (list []string, err error) {
	entries, err := readDir(s.copies)
	for _, e := range entries {
		if e.IsDir() && e.Name() != s.self {
			list = append(list, e.Name())
		}
	}
	return list, err
}

// Services lists the ids of all services of which there are lines or copies of lines.
func (s *Store) Services() (ids []string, err error) {
	roots, err := s.roots()
	for _, root := range roots {
		entries, failed := readDir(root.dir)
		err = errors.Join(err, failed)
		for _, e := range entries {
			ids = append(ids, e.Name())
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), err
}

// begins reports, once per run and log, that a new segment has to be begun. Copies of the last one may be longer than it is
// here, after a loss of power: then what is written now must not have the same place.
func (s *Store) begins(dir, container string) bool {
	if s.self == "" {
		return false
	}
	s.shareMu.Lock()
	defer s.shareMu.Unlock()
	path := filepath.Join(dir, container)
	first := !s.begun[path]
	s.begun[path] = true
	return first
}

// noteRemoved keeps lines as old as that from coming back.
func (s *Store) noteRemoved(at time.Time) {
	s.shareMu.Lock()
	defer s.shareMu.Unlock()
	s.removed = latest(s.removed, at)
}

// maxCopy is how much Piece reads, in bytes, if the records are not longer.
const maxCopy = 1 << 20

// everything is the position of what is not wanted.
const everything = math.MaxInt64

// Files lists what there is of a server, by name: how far each has come. Segments are named as they are when they are not
// archived, and their positions are those in them.
func (s *Store) Files(origin string) (map[string]int64, error) {
	s.listing.Lock()
	defer s.listing.Unlock()
	r := s.rootOf(origin)
	files, now := map[string]int64{}, map[string]listed{}
	services, err := readDir(r.dir)
	if err != nil {
		return nil, err
	}
	for _, service := range services {
		pods, err := readDir(filepath.Join(r.dir, service.Name()))
		if err != nil {
			return nil, err
		}
		for _, pod := range pods {
			name := filepath.Join(service.Name(), pod.Name())
			if now[name], err = s.list(filepath.Join(r.dir, name), s.listed[r][name]); err != nil {
				return nil, err
			}
			if err := s.addFiles(files, r, name, now[name]); err != nil {
				return nil, err
			}
		}
	}
	if s.listed == nil {
		s.listed = map[root]map[string]listed{}
	}
	s.listed[r] = now
	return files, nil
}

// addFiles adds what was found in the directory of a pod.
func (s *Store) addFiles(files map[string]int64, r root, pod string, l listed) (err error) {
	for i, seg := range l.segs {
		size := l.sizes[i]
		if size < 0 {
			if size, err = s.written(seg); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if size > 0 {
			files[filepath.Join(pod, filepath.Base(seg.path()))] = size
		}
	}
	// After the segments: what is in them has to be known from these.
	for _, name := range l.afters {
		if info, err := os.Stat(filepath.Join(r.dir, pod, name)); err == nil && info.Size() > 0 {
			files[filepath.Join(pod, name)] = info.Size()
		}
	}
	return nil
}

// list lists a pod's directory, unless it is as it was before.
func (s *Store) list(dir string, before listed) (l listed, err error) {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, err
	}
	// A change may come within the same tick of the file system's clock.
	if before.at.Equal(info.ModTime()) && time.Since(before.at) > time.Minute {
		return before, nil
	}
	l = listed{at: info.ModTime()}
	if l.segs, err = segments(dir, ""); err != nil {
		return l, err
	}
	for _, seg := range l.segs {
		size := int64(-1)
		if !seg.plain {
			if size, err = s.written(seg); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return l, err
			}
		}
		l.sizes = append(l.sizes, size)
	}
	entries, err := readDir(dir)
	for _, e := range entries {
		if _, _, ok := parseAfter(e.Name()); ok {
			l.afters = append(l.afters, e.Name())
		}
	}
	return l, err
}

// Sort puts the files of a log in the order of their lines: who has some of them has all that are older. What is known of a
// segment comes before it.
func (s *Store) Sort(names []string) {
	type place struct {
		dir, container string
		number         int
		isSegment      int
	}
	places := make(map[string]place, len(names))
	for _, name := range names {
		dir, file := filepath.Split(name)
		container, number, isAfter := parseAfter(file)
		p := place{dir, container, number, 0}
		if !isAfter {
			p.container, p.number, _, _ = parseName(file)
			p.isSegment = 1
		}
		places[name] = p
	}
	slices.SortFunc(names, func(a, b string) int {
		p, q := places[a], places[b]
		return cmp.Or(cmp.Compare(p.dir, q.dir), cmp.Compare(p.container, q.container), cmp.Compare(p.number, q.number), cmp.Compare(p.isSegment, q.isSegment))
	})
}

// written is the size of a segment, as it was written.
func (s *Store) written(seg segment) (int64, error) {
	if seg.plain {
		info, err := os.Stat(seg.path())
		if !errors.Is(err, fs.ErrNotExist) {
			if err != nil {
				return 0, err
			}
			return info.Size(), nil
		}
	}
	path := seg.archivePath()
	s.mu.Lock()
	size, ok := s.sizes[path]
	s.mu.Unlock()
	if ok {
		return size, nil
	}
	size, err := s.archivedSize(path)
	if err == nil {
		s.mu.Lock()
		s.sizes[path] = size
		s.mu.Unlock()
	}
	return size, err
}

// archivedSize reads the size of the segment at the end of its archive.
func (s *Store) archivedSize(path string) (size int64, err error) {
	f, err := os.Open(path) //nolint:gosec // from a listing of our directory
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	trailer := make([]byte, trailerSize)
	if _, err := f.ReadAt(trailer, info.Size()-int64(trailerSize)); err == nil && string(trailer[20:]) == trailerTag {
		return readInt64(trailer[12:]), nil
	}
	a, err := s.openArchive(path)
	if err != nil {
		return 0, err
	}
	return a.size(), a.close()
}

// errName is what names are refused with that Files does not give.
var errName = errors.New("it is not the name of a log file")

// fileOf takes a name of Files apart. after is the path of a file that is no segment.
func (s *Store) fileOf(origin, name string) (seg segment, after string, err error) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || !filepath.IsLocal(name) || filepath.Clean(name) != name || !filepath.IsLocal(origin) || filepath.Base(origin) != origin {
		return seg, "", fmt.Errorf("%w: %q", errName, name)
	}
	dir := filepath.Join(s.rootOf(origin).dir, parts[0], parts[1])
	if _, _, ok := parseAfter(parts[2]); ok {
		return seg, filepath.Join(dir, parts[2]), nil
	}
	container, number, archived, ok := parseName(parts[2])
	if !ok || archived {
		return seg, "", fmt.Errorf("%w: %q", errName, name)
	}
	return segment{dir: dir, container: container, number: number}, "", nil
}

// Piece reads whole records of a file from a position on. next is the position behind them, at when the file was written
// last. What is damaged is read as empty lines.
func (s *Store) Piece(origin, name string, from int64) (data []byte, next int64, at time.Time, err error) {
	seg, after, err := s.fileOf(origin, name)
	if err != nil {
		return nil, 0, at, err
	}
	if after != "" {
		data, err = os.ReadFile(after) //nolint:gosec // fileOf has checked it
		data = data[min(from, int64(len(data))):]
		return data, from + int64(len(data)), time.Now(), err
	}
	info, err := seg.stat()
	if err != nil {
		return nil, 0, at, err
	}
	c, err := s.open(seg)
	if err != nil {
		return nil, 0, at, err
	}
	defer c.close()
	for off := from; int64(len(data)) < maxCopy; {
		chunk, err := c.next(off, nil)
		if err != nil {
			return nil, 0, at, err
		}
		text := chunk.text
		if chunk.gap != nil {
			text = bytes.Repeat(newline, int(min(chunk.gap.size, maxCopy)))
		}
		whole := bytes.LastIndexByte(text, '\n') + 1
		if whole == 0 {
			break
		}
		data = append(data, text[:whole]...)
		off = chunk.off + int64(whole)
	}
	return data, from + int64(len(data)), info.ModTime(), nil
}

// AddPiece adds to the copy of a file what Piece has read of the original, and returns how far the copy has come. Nothing is
// added that does not follow what is there.
func (s *Store) AddPiece(origin, name string, from, next int64, data []byte, at time.Time) (have int64, err error) {
	seg, after, err := s.fileOf(origin, name)
	switch {
	case err == nil && (from < 0 || next != from+int64(len(data))):
		err = fmt.Errorf("a piece of %s from %d to %d has %d bytes", name, from, next, len(data))
		fallthrough
	case err != nil:
		return 0, err
	case origin == s.self || s.self == "":
		return 0, fmt.Errorf("%w of another server: %q", errName, name)
	case s.isRemoved(at):
		return everything, nil
	}
	path := after
	if path == "" {
		path = seg.path()
		if err := s.unarchive(seg); err != nil {
			return 0, err
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return 0, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600) //nolint:gosec // fileOf has checked it
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// It must not be archived or removed meanwhile.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if here, err := os.Stat(path); err != nil || !os.SameFile(here, info) {
		return 0, errors.Join(err, errors.New("the file was archived at this moment")) // and the next try finds that
	}
	size := info.Size()
	if from > size || next <= size {
		return size, nil
	}
	if _, err := f.Write(data[size-from:]); err != nil {
		return 0, errors.Join(err, f.Truncate(size)) // whole records only
	}
	return next, os.Chtimes(path, at, at)
}

func (s *Store) isRemoved(at time.Time) bool {
	s.shareMu.Lock()
	defer s.shareMu.Unlock()
	return !at.After(s.removed)
}

// unarchive makes a copy plain that was archived, as its original is written to after all.
func (s *Store) unarchive(seg segment) error {
	if _, err := os.Stat(seg.path()); err == nil {
		return nil
	}
	c, err := s.openArchive(seg.archivePath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	text, err := readFrom(c, 0)
	if err := errors.Join(err, c.close()); err != nil {
		return err
	}
	tmp := seg.path() + ".tmp"
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, seg.path()); err != nil {
		return err
	}
	s.forget(seg)
	return os.Remove(seg.archivePath())
}

// removeEmpty removes what directories have nothing in them, two levels deep and the given one last.
func removeEmpty(dir string) error {
	services, err := readDir(dir)
	for _, service := range services {
		_ = os.Remove(filepath.Join(dir, service.Name())) // fails if there is something
	}
	_ = os.Remove(dir)
	_ = os.Remove(filepath.Dir(dir))
	return err
}
