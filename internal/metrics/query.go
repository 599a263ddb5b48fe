package metrics

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Query is a question for the points of one service.
type Query struct {
	ServiceID string
	// From and To bound the points' times: From ≤ time < To, after From has been rounded down to a multiple of Period.
	From, To time.Time
	// Period is the span of an answer's point, a multiple of a minute; those older than KeepMinutes are an hour at least.
	Period time.Duration
	// Metrics are those that will be looked at; the buckets need not have others. None: all.
	Metrics []string
	// Version is the only one that counts; 0: all.
	Version int
}

// Bucket is a point of an answer: the values of the span that begins at At, a multiple of the period since 1970.
type Bucket struct {
	At time.Time
	Values
}

// Query calls each with every bucket that has values, by time. each must not keep the bucket. It returns when each
// version of the service has its first point in the range. Errors: those of the file system and of ctx.
func (s *Store) Query(ctx context.Context, q Query, each func(*Bucket)) (firstSeen map[int]time.Time, err error) {
	c := collect{period: int64(q.Period / time.Second), version: q.Version, to: q.To.Unix(), groups: groupsOf(q.Metrics), each: each, firstSeen: map[int]time.Time{}}
	c.from = floor(q.From.Unix(), c.period)
	s.mu.RLock()
	defer s.mu.RUnlock()
	files, err := s.inOrder(q.ServiceID, c.from, c.to)
	if err != nil {
		return nil, err
	}
	for key, v := range s.head {
		if key.service == q.ServiceID {
			c.add(&Point{At: time.Unix(key.minute*60, 0).UTC(), Version: key.version, Values: *v})
		}
	}
	s.addHeads(q.ServiceID, c.add)
	var buffer []byte
	for i, file := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if i > 0 {
			c.emit(file.from.Unix())
		}
		if buffer, err = s.readGroups(file.path, c.groups, buffer, func(p *Point) {
			if file.covers(p.At) {
				c.add(p)
			}
		}); err != nil {
			return nil, err
		}
	}
	c.emit(c.to)
	return c.firstSeen, nil
}

// floor rounds down to a multiple of step, also below zero.
func floor(n, step int64) int64 {
	r := n % step
	if r < 0 {
		r += step
	}
	return n - r
}

// file is a file to read, and what of it counts.
type file struct {
	path     string
	from, to time.Time
	except   []time.Time // days that have a file of minutes
}

func (f *file) covers(at time.Time) bool {
	return len(f.except) == 0 || !slices.Contains(f.except, at.Truncate(day))
}

// inOrder lists the files that may have points in the range, by time.
func (s *Store) inOrder(serviceID string, from, to int64) (files []file, err error) {
	dirs, err := s.dirs()
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		more, err := inRange(filepath.Join(dir, serviceID), from, to)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	// A month comes before its days.
	slices.SortStableFunc(files, func(a, b file) int {
		if c := a.from.Compare(b.from); c != 0 {
			return c
		}
		return b.to.Compare(a.to)
	})
	return files, nil
}

// inRange lists the files of one directory.
func inRange(dir string, from, to int64) (files []file, err error) {
	names, err := filesIn(dir)
	if err != nil {
		return nil, err
	}
	var days []time.Time
	for _, name := range names {
		begin, end, _ := span(name)
		if strings.HasSuffix(name, minutesExt) {
			days = append(days, begin)
		}
		if begin.Unix() < to && from < end.Unix() {
			files = append(files, file{path: filepath.Join(dir, name), from: begin, to: end})
		}
	}
	for i := range files {
		if strings.HasSuffix(files[i].path, hoursExt) {
			files[i].except = days
		}
	}
	return files, nil
}

// collect puts points into buckets, and hands on those that are complete, so that a long answer is never in memory as a
// whole.
type collect struct {
	period, from, to int64
	version          int
	groups           int64
	each             func(*Bucket)
	firstSeen        map[int]time.Time
	open             []*Bucket // by time
	free             []*Bucket
}

func (c *collect) add(p *Point) {
	at := p.At.Unix()
	if at < c.from || at >= c.to {
		return
	}
	if t, ok := c.firstSeen[p.Version]; !ok || p.At.Before(t) {
		c.firstSeen[p.Version] = p.At
	}
	if c.version != 0 && p.Version != c.version {
		return
	}
	c.bucket(floor(at, c.period)).merge(&p.Values, c.groups)
}

// bucket finds or makes a bucket; nearly always it is the last one.
func (c *collect) bucket(at int64) *Bucket {
	n := len(c.open)
	if n > 0 && c.open[n-1].At.Unix() == at {
		return c.open[n-1]
	}
	i, found := slices.BinarySearchFunc(c.open, at, func(b *Bucket, at int64) int { return int(b.At.Unix() - at) })
	if found {
		return c.open[i]
	}
	var b *Bucket
	if last := len(c.free) - 1; last >= 0 {
		b, c.free = c.free[last], c.free[:last]
	} else {
		b = new(Bucket)
	}
	*b = Bucket{At: time.Unix(at, 0).UTC()}
	c.open = slices.Insert(c.open, i, b)
	return b
}

// emit hands on the buckets that end by then: no later file can have more for them.
func (c *collect) emit(until int64) {
	n := 0
	for _, b := range c.open {
		if b.At.Unix()+c.period > until && until < c.to {
			break
		}
		c.each(b)
		n++
	}
	c.free = append(c.free, c.open[:n]...)
	c.open = slices.Delete(c.open, 0, n)
}
