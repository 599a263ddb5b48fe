package metrics

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// sharing is what a Store needs besides where several servers count. Its zero value is that of one server.
type sharing struct {
	self   string // names this server; empty if it is the only one
	copies string // has <origin>/metrics for each of the others

	// mu of the Store guards these.
	changes int64              // grows with everything that is added or written
	heads   map[string][]owned // by origin: what it has not written yet
}

// owned is a point of a service.
type owned struct {
	service string
	Point
}

// Share says that there may be other servers. self names this one for ever, in letters and digits; copies is the directory
// of what the others have written. It has to come before the first use.
func (s *Store) Share(self, copies string) {
	s.self, s.copies, s.heads = self, copies, map[string][]owned{}
	s.changes = time.Now().UnixNano() // so that it grows over restarts
}

func (s *Store) dirOf(origin string) string {
	if origin == s.self {
		return s.dir
	}
	return filepath.Join(s.copies, origin, "metrics")
}

// dirs lists the directories of all servers, our own first.
func (s *Store) dirs() ([]string, error) {
	dirs := []string{s.dir}
	if s.self == "" {
		return dirs, nil
	}
	origins, err := s.Origins()
	for _, origin := range origins {
		dirs = append(dirs, s.dirOf(origin))
	}
	return dirs, err
}

// Origins lists the other servers of whose points there are copies.
func (s *Store) Origins() (list []string, err error) {
	entries, err := os.ReadDir(s.copies)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading metrics: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != s.self {
			list = append(list, e.Name())
		}
	}
	return list, nil
}

// addHeads adds what other servers have not written yet. s.mu is held.
func (s *Store) addHeads(serviceID string, add func(*Point)) {
	for _, points := range s.heads {
		for i := range points {
			if points[i].service == serviceID {
				add(&points[i].Point)
			}
		}
	}
}

const (
	// headName is the name that Files gives to what has not been written yet. It comes after those of all files.
	headName = "~"
	// maxPiece bounds what Piece reads, in bytes; and a file of hours.
	maxPiece = 4 << 20
	// keepCopied is for how long after they should have become hours minutes are taken all the same: until then somebody may
	// have no hours of that day yet.
	keepCopied = KeepMinutes + 2*day
	// everything is the position of what is not wanted.
	everything = math.MaxInt64
)

// errName is what names are refused with that Files does not give.
var errName = errors.New("it is not the name of a file of points")

// Files lists what there is of a server, by name: how far each has come.
func (s *Store) Files(origin string) (map[string]int64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	files := map[string]int64{}
	if origin == s.self && len(s.head) > 0 {
		files[headName] = s.changes
	}
	dir := s.dirOf(origin)
	services, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading metrics: %w", err)
	}
	for _, service := range services {
		names, err := filesIn(filepath.Join(dir, service.Name()))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			info, err := os.Stat(filepath.Join(dir, service.Name(), name))
			if err != nil {
				return nil, fmt.Errorf("reading metrics: %w", err)
			}
			files[service.Name()+"/"+name] = info.Size()
		}
	}
	return files, nil
}

// Sort puts what has not been written last, so that it does not count beside what has been, and minutes before hours, which do
// not count beside them.
func (s *Store) Sort(names []string) { slices.Sort(names) }

// path is where a file is. hours reports whether it is one of hours, which are not added to but written as a whole.
func (s *Store) path(origin, name string) (path string, hours bool, err error) {
	service, file, ok := strings.Cut(name, "/")
	if _, _, known := span(file); !ok || !known || !filepath.IsLocal(service) || filepath.Base(service) != service || !filepath.IsLocal(origin) || filepath.Base(origin) != origin {
		return "", false, fmt.Errorf("%w: %q", errName, name)
	}
	return filepath.Join(s.dirOf(origin), service, file), strings.HasSuffix(file, hoursExt), nil
}

// Piece reads a file from a position on. next is the position behind what it has read, at when the file was written last.
func (s *Store) Piece(origin, name string, from int64) (data []byte, next int64, at time.Time, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if name == headName {
		return s.encodeHead(), s.changes, time.Now(), nil
	}
	path, hours, err := s.path(origin, name)
	if err != nil {
		return nil, 0, at, err
	}
	f, err := os.Open(path) //nolint:gosec // path has checked it
	if err != nil {
		return nil, 0, at, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, at, err
	}
	next = min(info.Size(), from+maxPiece)
	if hours && (from > 0 || info.Size() > maxPiece) || next <= from {
		return nil, info.Size(), info.ModTime(), nil
	}
	data = make([]byte, next-from)
	_, err = f.ReadAt(data, from)
	return data, next, info.ModTime(), err
}

// AddPiece adds to the copy of a file what Piece has read of the original, up to the position next, and returns how far the
// copy has come. Nothing is added that does not follow what is there.
func (s *Store) AddPiece(origin, name string, from, next int64, data []byte, _ time.Time) (have int64, err error) {
	switch {
	case origin == s.self || s.self == "":
		return 0, fmt.Errorf("%w of another server: %q", errName, name)
	case name != headName && (from < 0 || next-from != int64(len(data))):
		return 0, fmt.Errorf("a piece of %s from %d to %d has %d bytes", name, from, next, len(data))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == headName {
		s.heads[origin] = decodeHead(data)
		return next, nil
	}
	path, hours, err := s.path(origin, name)
	if err != nil {
		return 0, err
	}
	if _, end, _ := span(filepath.Base(path)); !hours && end.Before(time.Now().Add(-keepCopied)) {
		return everything, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return 0, err
	}
	if hours {
		if _, err := os.Stat(path); err == nil || from > 0 {
			return next, nil // it makes its own of the minutes
		}
		return next, replace(path, data)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600) //nolint:gosec // path has checked it
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Seek(0, 2)
	if err != nil || from > size || next <= size {
		return size, err
	}
	if _, err := f.Write(data[size-from:]); err != nil {
		return 0, errors.Join(err, f.Truncate(size))
	}
	delete(s.heads, origin) // what was in it is in the file now, or comes again
	return next, nil
}

// encodeHead is what has not been written yet, as frames of the points with the service before each.
func (s *Store) encodeHead() (text []byte) {
	keys := make([]headKey, 0, len(s.head))
	for key := range s.head {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b headKey) int {
		return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.minute, b.minute), cmp.Compare(a.version, b.version))
	})
	for _, key := range keys {
		text = append(append(text, key.service...), '\n')
		text = appendFrame(text, &Point{At: time.Unix(key.minute*60, 0), Version: key.version, Values: *s.head[key]})
	}
	return text
}

// decodeHead reads what encodeHead has written, as far as it can be read.
func decodeHead(text []byte) (list []owned) {
	for len(text) > 0 {
		service, rest, _ := strings.Cut(string(text[:min(len(text), 256)]), "\n")
		if rest == "" {
			return list
		}
		payload, rest2, err := frame(text[len(service)+1:])
		if err != nil {
			return list
		}
		p := owned{service: service}
		if decodePayload(payload, &p.Point, hasAll) != nil {
			return list
		}
		list, text = append(list, p), rest2
	}
	return list
}
