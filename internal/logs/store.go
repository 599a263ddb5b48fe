// Package logs keeps what containers write and what Trysail says about their deployments, and searches it.
//
// The lines are in files, not in a database, so that searching is about as fast as reading:
//
//	<dir>/<service id>/<pod id>/<container>.log        written by the engine, in CRI's format
//	<dir>/<service id>/<pod id>/<container>.1.log      the same, later; and so on: these are the segments of a log
//	<dir>/<service id>/<pod id>/<container>.log.zst    a segment that was closed and is archived: compressed, with an index
//	<dir>/<service id>/system/<container>.log          the system lines of that container, written by Append
//	<dir>/<service id>/access/ACCESS.log               the requests of the service, written by AccessWriter
//	<dir>/<service id>/<pod id>/<container>.1.after    where the segment goes on that another server began (takeover.go)
//
// Where several servers serve the same pods, each has copies of what the others write, byte for byte, in a directory of the
// same form for each of them (share.go). Everything that reads looks at all of them.
//
// The files are the only state: nothing else has to be rebuilt, nothing else can be lost. A segment is archived without
// changing a byte of what it says, so a position in it stays what it is: its number and an offset.
//
// Query answers the API, by time. Lines is for what follows a log: it goes on from an exact position.
package logs

import (
	"bytes"
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
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	// Retention is how long lines are kept by default. AWS keeps them for three to four days.
	Retention = 14 * 24 * time.Hour
	// MaxBytes is how much space all logs may take by default.
	MaxBytes = 10_000_000_000
	// systemLimit is the size in bytes at which the next segment of system lines is begun.
	systemLimit = 1 << 20
	// systemAge is how old the oldest line of a segment of system lines gets before the next one is begun.
	systemAge = 24 * time.Hour
)

// Store is the log files under one directory. It is safe for concurrent use.
type Store struct {
	dir string
	log *slog.Logger
	sharing

	// appending is held while system lines are written, although that is I/O: a half line that a crash left behind is
	// cut off first, and nobody else must write meanwhile.
	appending sync.Mutex
	access    atomic.Pointer[AccessWriter] // nil if there is none
	onRemove  func(Removal)                // nil if nobody asks

	decoder func() *zstd.Decoder

	mu     sync.Mutex
	firsts map[string]time.Time // by path of a segment: the time of its first record
	bad    map[string]bool      // archives whose damage was reported
	sizes  map[string]int64     // by path of an archive: the size of the segment
}

// New returns the Store of dir. The directory is made when it is first written to.
func New(dir string) *Store { return NewWithLog(dir, slog.New(slog.DiscardHandler)) }

// NewWithLog is New with a place to report damaged files and the like.
func NewWithLog(dir string, log *slog.Logger) *Store {
	return &Store{
		dir: dir, log: log, firsts: map[string]time.Time{}, bad: map[string]bool{}, sizes: map[string]int64{},
		decoder: sync.OnceValue(func() *zstd.Decoder {
			d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(2*maxBlock))
			if err != nil {
				panic(err) // the options are wrong
			}
			return d
		}),
	}
}

// damaged reports an archive that cannot be read in full, once.
func (s *Store) damaged(path string, err error) {
	s.mu.Lock()
	known := s.bad[path]
	s.bad[path] = true
	s.mu.Unlock()
	if !known {
		s.log.Error("a log file is damaged; what is left of it is still served", "file", path, "error", err)
	}
}

// firstTime returns the time of the first record of a segment. ok is false if there is none yet.
func (s *Store) firstTime(seg segment) (at time.Time, ok bool, err error) {
	path := seg.path()
	s.mu.Lock()
	at, ok = s.firsts[path]
	s.mu.Unlock()
	if ok {
		return at, true, nil
	}
	c, err := s.open(seg)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, false, nil
	}
	if err != nil {
		return time.Time{}, false, err
	}
	switch c := c.(type) {
	case *plain:
		at, _, ok = nextTime(c.f, 0, c.end)
	case *archive:
		if len(c.blocks) > 0 {
			at, ok = time.Unix(0, c.blocks[0].first).UTC(), true
		}
	}
	if ok {
		s.mu.Lock()
		s.firsts[path] = at
		s.mu.Unlock()
	}
	return at, ok, c.close()
}

// forget drops what is known of a segment that was removed.
func (s *Store) forget(seg segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.firsts, seg.path())
	delete(s.sizes, seg.archivePath())
	delete(s.bad, seg.archivePath())
}

// PodDir is where the engine writes the logs of a pod's containers, to <container>.log each.
func (s *Store) PodDir(serviceID, podID string) string { return filepath.Join(s.dir, serviceID, podID) }

// Append writes a system line (or several, separated by newlines) to the log of each of the containers. It is in the
// kernel's hands when Append returns, so it survives the end of this process.
func (s *Store) Append(serviceID string, containers []string, at time.Time, text string) error {
	dir := s.PodDir(serviceID, systemDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("appending to the log: %w", err)
	}
	var b []byte
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		b = appendRecord(b, at, line[:min(len(line), maxText)])
	}
	s.appending.Lock()
	defer s.appending.Unlock()
	for _, name := range containers {
		path, err := s.systemFile(dir, name, at)
		if err == nil {
			err = appendFile(path, b)
		}
		if err != nil {
			return fmt.Errorf("appending to the log: %w", err)
		}
	}
	return nil
}

// systemFile returns the file that system lines are appended to. Now and then it is a new one, so that old ones can be
// removed.
func (s *Store) systemFile(dir, container string, at time.Time) (string, error) {
	segs, err := segments(dir, container)
	if err != nil || len(segs) == 0 {
		s.begins(dir, container)
		return segment{dir: dir, container: container}.path(), err
	}
	last := segs[len(segs)-1]
	if s.begins(dir, container) || !last.plain {
		last.number++
		return last.path(), nil
	}
	info, err := os.Stat(last.path())
	if err != nil {
		return "", err
	}
	first, ok, err := s.firstTime(last)
	if ok && (info.Size() >= systemLimit || at.Sub(first) >= systemAge) {
		last.number++
	}
	return last.path(), err
}

// appendFile adds whole lines to a file, after cutting off a last line that has no end.
func appendFile(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600) //nolint:gosec // in our directory, named by a valid container name
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	whole, err := wholeLines(f, info.Size())
	if err == nil && whole < info.Size() {
		err = f.Truncate(whole)
	}
	if err == nil {
		_, err = f.Write(b)
	}
	return errors.Join(err, f.Close())
}

// wholeLines returns where the last newline of the file ends.
func wholeLines(r io.ReaderAt, size int64) (int64, error) {
	block := make([]byte, 4096)
	for end := size; end > 0; {
		// Nearly always the last byte is the newline.
		n := int64(1)
		if end < size {
			n = min(end, int64(len(block)))
		}
		if _, err := r.ReadAt(block[:n], end-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(block[:n], '\n'); i >= 0 {
			return end - n + int64(i) + 1, nil
		}
		end -= n
	}
	return 0, nil
}

// Containers lists the names of all containers of the service that have a log, in order.
func (s *Store) Containers(serviceID string) ([]string, error) {
	roots, err := s.roots()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, root := range roots {
		pods, err := readDir(filepath.Join(root.dir, serviceID))
		if err != nil {
			return nil, err
		}
		for _, pod := range pods {
			if pod.Name() == accessDir {
				continue
			}
			segs, err := segments(filepath.Join(root.dir, serviceID, pod.Name()), "")
			if err != nil {
				return nil, err
			}
			for _, seg := range segs {
				names = append(names, seg.container)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Delete removes all logs of the service. Deleting what is not there is not an error.
func (s *Store) Delete(serviceID string) error {
	if serviceID == "." || !filepath.IsLocal(serviceID) || serviceID != filepath.Base(serviceID) {
		return fmt.Errorf("deleting logs: %q is not a service id", serviceID)
	}
	var err error
	if w := s.access.Load(); w != nil {
		err = w.forget(serviceID)
	}
	s.appending.Lock()
	defer s.appending.Unlock()
	err = errors.Join(err, s.removingService(serviceID))
	roots, failed := s.roots()
	err = errors.Join(err, failed)
	for _, root := range roots {
		err = errors.Join(err, os.RemoveAll(filepath.Join(root.dir, serviceID)))
	}
	return err
}
