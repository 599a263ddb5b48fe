package metrics

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// KeepMinutes is how long points of a minute are kept; then they become points of an hour.
	KeepMinutes = 14 * 24 * time.Hour
	// KeepHours is how long points of an hour are kept: fifteen months.
	KeepHours = 456 * 24 * time.Hour

	day = 24 * time.Hour
	// keepUnwritten is how far back points wait in memory when they cannot be written, for instance on a full disk.
	keepUnwritten = time.Hour

	minutesExt = ".minutes" // <service id>/2026-11-20.minutes
	hoursExt   = ".hours"   // <service id>/2026-11.hours
	monthForm  = "2006-01"
)

// Store is the points on the disk, in one directory per service: a file of minutes for each day and a file of hours for
// each month. Its methods are safe for concurrent use.
//
// Points of the minutes that are under way are in memory until Flush writes them, and are found by Query all the same.
// A minute may be written more than once, for instance before and after a restart, or when the clock is set back: its
// points are merged when they are read, so nothing is counted twice and nothing gets lost.
//
// Where several servers count, each has copies of the others' files, and what they have not written yet (share.go). Query
// merges all.
type Store struct {
	dir string
	log *slog.Logger
	sharing

	mu   sync.RWMutex // guards head, and the files against being read while they are written
	head map[headKey]*Values

	reportMu sync.Mutex
	reported map[string]bool // damaged files that the log knows of
}

type headKey struct {
	service string // id
	minute  int64  // Unix time / 60
	version int
}

// Open makes the directory if it is missing.
func Open(dir string, log *slog.Logger) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the metrics: %w", err)
	}
	return &Store{dir: dir, log: log, head: map[headKey]*Values{}, reported: map[string]bool{}}, nil
}

// Add adds to the minute of at. It does not write; times before 1970 are ignored.
func (s *Store) Add(serviceID string, version int, at time.Time, v *Values) {
	if at.Unix() < 0 || version < 0 {
		return
	}
	key := headKey{serviceID, at.Unix() / 60, version}
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.head[key]
	if have == nil {
		have = &Values{}
		s.head[key] = have
	}
	have.Merge(v)
	s.changes++
}

// Flush writes all that has been added. What it returned nil for is on the disk. What could not be written is tried again
// with the next Flush, for an hour.
func (s *Store) Flush(now time.Time) error {
	var errs []error
	var open []*os.File
	s.mu.Lock()
	for _, group := range s.groups() {
		files, err := s.write(group)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		open = append(open, files...)
		for _, key := range group.keys {
			delete(s.head, key)
		}
		s.changes++
	}
	waiting := len(s.head)
	for key := range s.head {
		if age := now.Sub(time.Unix(key.minute*60, 0)); age > keepUnwritten || age < -keepUnwritten {
			delete(s.head, key)
		}
	}
	if lost := waiting - len(s.head); lost > 0 {
		errs = append(errs, fmt.Errorf("giving up %d points that could not be written for an hour", lost))
	}
	s.mu.Unlock()
	// The data is with the kernel already; readers need not wait for the disk.
	for _, f := range open {
		errs = append(errs, f.Sync(), f.Close())
	}
	return errors.Join(errs...)
}

// group is what goes into one file.
type group struct {
	service, day string
	keys         []headKey
}

func (s *Store) groups() []group {
	keys := make([]headKey, 0, len(s.head))
	for key := range s.head {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b headKey) int {
		return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.minute, b.minute), cmp.Compare(a.version, b.version))
	})
	var groups []group
	for _, key := range keys {
		date := time.Unix(key.minute*60, 0).UTC().Format(time.DateOnly)
		if n := len(groups); n == 0 || groups[n-1].service != key.service || groups[n-1].day != date {
			groups = append(groups, group{service: key.service, day: date})
		}
		g := &groups[len(groups)-1]
		g.keys = append(g.keys, key)
	}
	return groups
}

// write appends the group to its file, and returns what has to be flushed and closed.
func (s *Store) write(g group) ([]*os.File, error) {
	dir := filepath.Join(s.dir, g.service)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("writing metrics: %w", err)
	}
	path := filepath.Join(dir, g.day+minutesExt)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600) //nolint:gosec // made of our directory, an id and a date
	if err != nil {
		return nil, fmt.Errorf("writing metrics: %w", err)
	}
	files, err := s.extend(f, dir, g)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("writing metrics: %w", err), f.Close())
	}
	return append(files, f), nil
}

// extend writes the group's frames at the end of f. It returns what has to be flushed besides.
func (s *Store) extend(f *os.File, dir string, g group) (besides []*os.File, err error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	var text []byte
	if size == 0 {
		if text, err = s.begin(dir, g.day); err != nil {
			return nil, err
		}
		if d, err := os.Open(dir); err == nil { //nolint:gosec // see above
			besides = append(besides, d) // the file's name is to be on the disk too
		}
	}
	for _, key := range g.keys {
		text = appendFrame(text, &Point{At: time.Unix(key.minute*60, 0), Version: key.version, Values: *s.head[key]})
	}
	if _, err := f.Write(text); err != nil {
		// Half a frame would cost its reader nothing but a line in the log; a whole one would be doubled by the next try.
		return nil, errors.Join(err, f.Truncate(size))
	}
	return besides, nil
}

// begin is how a new file of minutes begins. If the clock has been set back to a day whose minutes have become hours
// already, it begins with those hours: the file of minutes is what counts for its day.
func (s *Store) begin(dir, date string) ([]byte, error) {
	text := []byte(magic)
	from, err := time.Parse(time.DateOnly, date)
	if err != nil {
		return nil, err
	}
	err = s.readFile(filepath.Join(dir, date[:len(monthForm)]+hoursExt), func(p *Point) {
		if !p.At.Before(from) && p.At.Before(from.Add(day)) {
			text = appendFrame(text, p)
		}
	})
	return text, err
}

// span is the time that a file is about, by its name; ok is false for names that are not ours.
func span(name string) (from, to time.Time, ok bool) {
	if date, isMinutes := strings.CutSuffix(name, minutesExt); isMinutes {
		from, err := time.Parse(time.DateOnly, date)
		return from, from.Add(day), err == nil
	}
	if month, isHours := strings.CutSuffix(name, hoursExt); isHours {
		from, err := time.Parse(monthForm, month)
		return from, from.AddDate(0, 1, 0), err == nil
	}
	return from, to, false
}

// readFile calls each with every point of a file. An absent file is empty. Damage is logged, once.
func (s *Store) readFile(path string, each func(*Point)) error {
	_, err := s.readGroups(path, hasAll, nil, each)
	return err
}

// readGroups is readFile for some groups. It reads into buffer if that is large enough, and returns what it read into.
func (s *Store) readGroups(path string, wanted int64, buffer []byte, each func(*Point)) ([]byte, error) {
	from, to, _ := span(filepath.Base(path))
	content, err := readInto(path, buffer)
	if errors.Is(err, fs.ErrNotExist) {
		return buffer, nil
	}
	if err != nil {
		return buffer, fmt.Errorf("reading metrics: %w", err)
	}
	if damaged := decode(content, from, to, wanted, each); damaged > 0 && s.firstReport(path) {
		s.log.Warn("a file of metrics is damaged; what is readable is used", "file", path, "damaged_bytes", damaged, "bytes", len(content))
	}
	return content, nil
}

// readInto reads a file, which does not grow meanwhile.
func readInto(path string, buffer []byte) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // made of our directory, an id and a date
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	content := slices.Grow(buffer[:0], int(info.Size()))[:info.Size()]
	_, err = io.ReadFull(f, content)
	return content, err
}

func (s *Store) firstReport(path string) bool {
	s.reportMu.Lock()
	defer s.reportMu.Unlock()
	first := !s.reported[path]
	s.reported[path] = true
	return first
}

// filesIn lists the names of the files of a service's directory, by name.
func filesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading metrics: %w", err)
	}
	var names []string
	for _, e := range entries {
		if _, _, ok := span(e.Name()); ok {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Retain removes everything of services that are not among ids.
func (s *Store) Retain(ids []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.head {
		if !slices.Contains(ids, key.service) {
			delete(s.head, key)
		}
	}
	dirs, err := s.dirs()
	errs := []error{err}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("reading metrics: %w", err))
		}
		for _, e := range entries {
			if !slices.Contains(ids, e.Name()) {
				errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
			}
		}
	}
	return errors.Join(errs...)
}
