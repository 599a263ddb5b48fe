package logs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// keepEvery is how often the files are looked through for what to archive and what to remove.
	keepEvery = 10 * time.Second
	// settled is how long the last segment of a container must not have been written before it is archived. It is
	// locked as long as the container lives, however quiet it is.
	settled = 10 * time.Minute
	// settledCopy is the same for copies, which nobody locks: by then their original goes on in the next segment.
	settledCopy = 25 * time.Hour
)

// Keep archives segments that are closed, and removes the oldest ones while all take more than maxBytes, until ctx ends.
// It takes half of a CPU at most.
func (s *Store) Keep(ctx context.Context, maxBytes int64) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		if err := s.keepOnce(ctx, maxBytes); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "cannot look after the logs; it is tried again", "after", keepEvery, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// keepOnce does what Keep does every time.
func (s *Store) keepOnce(ctx context.Context, maxBytes int64) error {
	all, err := s.all()
	if err != nil {
		return err
	}
	errs := []error{s.archiveAll(ctx, all)}
	if all, err = s.all(); err == nil {
		err = s.limit(all, maxBytes)
	}
	return errors.Join(append(errs, err)...)
}

// stored is a segment with what it takes on the disk.
type stored struct {
	segment
	system bool // of no pod: it goes on as long as the service
	copied bool // another server writes it
	size   int64
	at     time.Time // of its last line
}

// all lists all segments of all services, copies included.
func (s *Store) all() (list []stored, err error) {
	roots, err := s.roots()
	if err != nil {
		return nil, err
	}
	for _, root := range roots {
		if list, err = root.appendAll(list, root != s.own()); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (r root) appendAll(list []stored, copied bool) ([]stored, error) {
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
			segs, err := segments(filepath.Join(r.dir, service.Name(), pod.Name()), "")
			if err != nil {
				return nil, err
			}
			for _, seg := range segs {
				st := stored{segment: seg, system: pod.Name() == systemDir || pod.Name() == accessDir, copied: copied}
				for _, path := range []string{seg.path(), seg.archivePath()} {
					if info, err := os.Stat(path); err == nil {
						st.size += info.Size()
						st.at = latest(st.at, info.ModTime())
					}
				}
				list = append(list, st)
			}
		}
	}
	return list, nil
}

// archiveAll archives what is closed.
func (s *Store) archiveAll(ctx context.Context, all []stored) error {
	var a *archiver
	var errs []error
	for _, seg := range all {
		wait := settled
		if seg.copied {
			wait = settledCopy
		}
		if !seg.plain || seg.last && (seg.system || seg.size == 0 || time.Since(seg.at) < wait) {
			continue
		}
		if a == nil {
			var err error
			if a, err = newArchiver(); err != nil {
				return err
			}
		}
		began := time.Now()
		if err := s.archiveOne(a, seg); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("archiving %s: %w", seg.path(), err))
			if len(errs) > 10 {
				break
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Since(began)):
		}
	}
	return errors.Join(errs...)
}

func (s *Store) archiveOne(a *archiver, seg stored) error {
	f, ok, err := seg.lock()
	if err != nil || !ok {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if seg.archived && archiveHolds(seg.archivePath(), info.Size()) {
		return os.Remove(seg.path()) // only that was left to do
	}
	return a.archive(seg.segment, f)
}

// limit removes the oldest closed segments until the rest takes no more than maxBytes.
func (s *Store) limit(all []stored, maxBytes int64) error {
	total := int64(0)
	for _, seg := range all {
		total += seg.size
	}
	if total <= maxBytes || maxBytes <= 0 {
		return nil
	}
	slices.SortFunc(all, func(a, b stored) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.number, b.number)) })
	var errs []error
	removed := int64(0)
	for _, seg := range all {
		if total-removed <= maxBytes {
			break
		}
		ok, err := s.remove(seg)
		errs = append(errs, err)
		if ok {
			removed += seg.size
			s.noteRemoved(seg.at)
		}
	}
	s.log.Info("the oldest log lines were removed, because the logs took too much space", "bytes", removed, "limit", maxBytes)
	return errors.Join(errs...)
}

// remove removes a segment, unless it is being written. ok is false if it stays.
//
// The number of a segment is never used again, so an empty one with the next number takes the place of the last one of
// the system lines. The others of a pod end with the pod.
func (s *Store) remove(seg stored) (ok bool, err error) {
	if seg.plain {
		f, free, err := seg.lock()
		if errors.Is(err, fs.ErrNotExist) {
			return true, nil
		}
		if err != nil || !free {
			return false, err
		}
		defer f.Close()
	}
	if seg.last && seg.system && !seg.copied {
		s.appending.Lock()
		defer s.appending.Unlock()
		if seg.size == 0 {
			return false, nil
		}
		next := seg.segment
		next.number++
		f, err := os.OpenFile(next.path(), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return false, err
		}
		if err := f.Close(); err != nil {
			return false, err
		}
	}
	if !seg.copied {
		s.removing(seg.segment)
	}
	for _, path := range []string{seg.path(), seg.archivePath()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	s.forget(seg.segment)
	return true, nil
}

// Sweep removes the segments whose last line was written before the given time, and the directories that are empty
// then. What a live pod may still write to is never removed: its writer would not notice, and later lines would be lost.
func (s *Store) Sweep(before time.Time, live func(serviceID, podID string) bool) error {
	all, err := s.all()
	if err != nil {
		return fmt.Errorf("sweeping logs: %w", err)
	}
	var errs []error
	emptied := map[string]bool{} // directories from which something was removed
	for _, seg := range all {
		service, pod := filepath.Base(filepath.Dir(seg.dir)), filepath.Base(seg.dir)
		if !seg.at.Before(before) || seg.last && !seg.system && live(service, pod) {
			continue
		}
		ok, err := s.remove(seg)
		errs = append(errs, err)
		if ok {
			emptied[seg.dir] = true
		}
	}
	errs = append(errs, s.sweepDirs(before, emptied, live))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sweeping logs: %w", err)
	}
	return nil
}

// sweepDirs removes the directories of pods that have no log any more, and files that were not finished.
func (s *Store) sweepDirs(before time.Time, emptied map[string]bool, live func(serviceID, podID string) bool) error {
	roots, err := s.roots()
	errs := []error{err}
	for _, root := range roots {
		errs = append(errs, root.sweepDirs(before, emptied, live))
		if root != s.own() {
			errs = append(errs, removeEmpty(root.dir))
		}
	}
	return errors.Join(errs...)
}

func (r root) sweepDirs(before time.Time, emptied map[string]bool, live func(serviceID, podID string) bool) error {
	services, err := readDir(r.dir)
	errs := []error{err}
	for _, service := range services {
		pods, err := readDir(filepath.Join(r.dir, service.Name()))
		errs = append(errs, err)
		for _, pod := range pods {
			dir := filepath.Join(r.dir, service.Name(), pod.Name())
			entries, err := readDir(dir)
			errs = append(errs, err)
			left := 0
			for _, e := range entries {
				info, err := e.Info()
				unfinished := strings.HasSuffix(e.Name(), ".tmp") || isLeftOver(e.Name(), entries)
				if err == nil && unfinished && info.ModTime().Before(before) {
					errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
				} else {
					left++
				}
			}
			info, err := pod.Info()
			if left == 0 && pod.Name() != systemDir && pod.Name() != accessDir && !live(service.Name(), pod.Name()) && err == nil && (emptied[dir] || info.ModTime().Before(before)) {
				errs = append(errs, os.Remove(dir))
			}
		}
	}
	return errors.Join(errs...)
}
