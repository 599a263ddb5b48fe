// Package logs keeps what containers write and what Trysail says about their deployments, and searches it.
//
// The lines are in files, not in a database, so that searching is about as fast as reading:
//
//	<dir>/<service id>/<pod id>/<container>.log     written by the engine, in CRI's format
//	<dir>/<service id>/<pod id>/<container>.log.1   the same after a rotation; .2 is older than .1
//	<dir>/<service id>/system/<container>.log       the system lines of that container, written by Append
//
// A log file is the only state: there is no index to rebuild or to lose.
package logs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	systemDir = "system"
	suffix    = ".log"
)

// Retention is how long lines are kept by default. AWS keeps them for three to four days.
const Retention = 14 * 24 * time.Hour

// Store is the log files under one directory. It is safe for concurrent use.
type Store struct {
	dir string

	// appending is held while system lines are written, although that is I/O: a half line that a crash left behind is
	// cut off first, and nobody else must write meanwhile.
	appending sync.Mutex
}

// New returns the Store of dir. The directory is made when it is first written to.
func New(dir string) *Store { return &Store{dir: dir} }

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
		if err := appendFile(filepath.Join(dir, name+suffix), b); err != nil {
			return fmt.Errorf("appending to the log: %w", err)
		}
	}
	return nil
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
	paths, err := filepath.Glob(filepath.Join(s.dir, serviceID, "*", "*"+suffix))
	if err != nil {
		return nil, err
	}
	for i, path := range paths {
		paths[i] = strings.TrimSuffix(filepath.Base(path), suffix)
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}

// Delete removes all logs of the service. Deleting what is not there is not an error.
func (s *Store) Delete(serviceID string) error {
	if serviceID == "." || !filepath.IsLocal(serviceID) || serviceID != filepath.Base(serviceID) {
		return fmt.Errorf("deleting logs: %q is not a service id", serviceID)
	}
	s.appending.Lock()
	defer s.appending.Unlock()
	return os.RemoveAll(filepath.Join(s.dir, serviceID))
}

// Sweep removes the files that were last written before the given time, and the directories that are empty then. The
// file that a live pod writes to is never removed: its writer would not notice, and later lines would be lost.
func (s *Store) Sweep(before time.Time, live func(serviceID, podID string) bool) error {
	services, err := readDir(s.dir)
	if err != nil {
		return fmt.Errorf("sweeping logs: %w", err)
	}
	var errs []error
	for _, service := range services {
		pods, err := readDir(filepath.Join(s.dir, service.Name()))
		errs = append(errs, err)
		for _, pod := range pods {
			if pod.Name() == systemDir {
				errs = append(errs, s.sweepSystem(s.PodDir(service.Name(), systemDir), before))
			} else {
				errs = append(errs, sweepDir(s.PodDir(service.Name(), pod.Name()), before, live(service.Name(), pod.Name())))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sweeping logs: %w", err)
	}
	return nil
}

func sweepDir(dir string, before time.Time, live bool) error {
	entries, err := readDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	left := 0
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || !info.ModTime().Before(before) || live && strings.HasSuffix(e.Name(), suffix) {
			left++
			errs = append(errs, err)
			continue
		}
		errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
	}
	if left == 0 && !live {
		if info, err := os.Stat(dir); err == nil && (len(entries) > 0 || info.ModTime().Before(before)) {
			errs = append(errs, os.Remove(dir))
		}
	}
	return errors.Join(errs...)
}

// sweepSystem cuts the old lines off the system logs, which live as long as the service.
func (s *Store) sweepSystem(dir string, before time.Time) error {
	s.appending.Lock()
	defer s.appending.Unlock()
	entries, err := readDir(dir)
	errs := []error{err}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasSuffix(path, suffix) {
			errs = append(errs, cutFile(path, before))
		} else {
			errs = append(errs, os.Remove(path)) // cutFile did not get to rename it
		}
	}
	return errors.Join(errs...)
}

// cutFile removes the lines of a system log that are older than the given time.
func cutFile(path string, before time.Time) error {
	text, err := os.ReadFile(path) //nolint:gosec // from a listing of our directory
	if err != nil {
		return err
	}
	rest := text
	for len(rest) > 0 {
		line, after, _ := bytes.Cut(rest, newline)
		if r, ok := parseRecord(line); ok && !r.at.Before(before) {
			break
		}
		rest = after
	}
	if len(rest) == len(text) {
		return nil
	}
	if len(rest) == 0 {
		return os.Remove(path)
	}
	// A crash leaves the old file or the new one. A name without the suffix is no log.
	part := path + ".new"
	if err := os.WriteFile(part, rest, 0o600); err != nil { //nolint:gosec // as above
		return errors.Join(err, os.Remove(part))
	}
	return os.Rename(part, path)
}

// readDir lists a directory; one that does not exist is empty.
func readDir(dir string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}

// files lists the log files of a container in a pod's directory, oldest first. The last one, if it ends in .log, is
// the one that is being written.
func files(dir, container string) ([]string, error) {
	entries, err := readDir(dir)
	if err != nil {
		return nil, err
	}
	type file struct {
		name string
		age  int
	}
	var list []file
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), container+suffix)
		if !ok {
			continue
		}
		number, rotated := strings.CutPrefix(rest, ".")
		age, err := strconv.Atoi(number)
		if rest == "" || rotated && err == nil && age > 0 {
			list = append(list, file{filepath.Join(dir, e.Name()), age})
		}
	}
	slices.SortFunc(list, func(a, b file) int { return cmp.Compare(b.age, a.age) })
	paths := make([]string, len(list))
	for i, f := range list {
		paths[i] = f.name
	}
	return paths, nil
}
