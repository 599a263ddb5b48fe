package metrics

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

// Compact turns the minutes of days that are older than KeepMinutes into hours, and removes hours older than KeepHours,
// and points from the future that a clock which had gone wrong has left behind.
//
// A day's points are in one place at any time, whenever it is interrupted: as long as there is a file of its minutes,
// hours of that day do not count.
func (s *Store) Compact(ctx context.Context, now time.Time) error {
	dirs, err := s.dirs()
	errs := []error{err}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("compacting metrics: %w", err))
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := s.compactService(ctx, filepath.Join(dir, e.Name()), now); err != nil {
				errs = append(errs, fmt.Errorf("compacting metrics: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

func (s *Store) compactService(ctx context.Context, dir string, now time.Time) error {
	names, err := filesIn(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		from, to, _ := span(name)
		minutes := strings.HasSuffix(name, minutesExt)
		switch {
		case from.After(now.Add(day)):
			s.log.WarnContext(ctx, "metrics from the future are removed; the clock must have been wrong", "service_id", filepath.Base(dir), "file", name)
			err = s.remove(dir, name)
		case to.Before(now.Add(-KeepHours)):
			err = s.remove(dir, name)
		case minutes && to.Before(now.Add(-KeepMinutes)):
			err = s.rollUp(dir, name, from)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) remove(dir, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return os.Remove(filepath.Join(dir, name))
}

// rollUp makes hours of a day's minutes: they replace those of that day in the file of its month, if there are any.
func (s *Store) rollUp(dir, name string, begin time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	hours := filepath.Join(dir, begin.Format(monthForm)+hoursExt)
	var points []Point
	if err := s.readFile(hours, func(p *Point) {
		if !p.At.Truncate(day).Equal(begin) {
			points = append(points, *p)
		}
	}); err != nil {
		return err
	}
	merged := map[headKey]*Values{}
	if err := s.readFile(filepath.Join(dir, name), func(p *Point) {
		key := headKey{minute: p.At.Truncate(time.Hour).Unix() / 60, version: p.Version}
		if merged[key] == nil {
			merged[key] = &Values{}
		}
		merged[key].Merge(&p.Values)
	}); err != nil {
		return err
	}
	for key, v := range merged {
		points = append(points, Point{At: time.Unix(key.minute*60, 0).UTC(), Version: key.version, Values: *v})
	}
	slices.SortFunc(points, func(a, b Point) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Version, b.Version)) })
	text := []byte(magic)
	for i := range points {
		text = appendFrame(text, &points[i])
	}
	if err := replace(hours, text); err != nil {
		return err
	}
	return os.Remove(filepath.Join(dir, name))
}

// replace writes a file as a whole: after a crash it has either the old content or the new.
func replace(path string, content []byte) error {
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // made of our directory, an id and a date
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
