package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The log of a container is read from the cluster by the server that leads. When another one leads, it goes on behind the
// last line that it has a copy of. What the former leader had written beyond that, the new one reads once more: those lines
// are in two logs, and must count once. So who goes on with a log says so, in a file beside the segment that it begins:
//
//	epoch 7                             of the lead
//	end QJX3… 0 4711                    up to which segment and byte it knows what that server has written
//	first stdout 2026-11-21T10:00:01…   the first line that it has read itself, of each stream; written before the line
//
// Lines that a server with a lower epoch wrote beyond its end do not count where the new leader has them: from its first line
// to its last. Others count: then it did not get them, for instance because the cluster had them no more.

const afterSuffix = ".after"

// place is up to where a server's lines were known.
type place struct {
	number int
	off    int64
}

// cut is from where on lines of a segment do not count where another server has them.
type cut struct {
	place

	by *after
}

// superseded reports whether the line that was read last, which has that time, does not count.
func (s *source) superseded(at time.Time) bool {
	for _, c := range s.cuts {
		beyond := s.seg.number > c.number || s.seg.number == c.number && s.off > c.off
		if beyond && c.by.has(s.join.stream, at) {
			return true
		}
	}
	return false
}

// after is what such a file says.
type after struct {
	origin string // that began the segment
	number int    // of the segment
	epoch  int64
	ends   map[string]place // by origin
	first  [2]time.Time     // by stream; zero if none of it was read

	segs []*source     // what was written under that lead
	last *[2]time.Time // by stream; nil as long as nobody has asked
	open func(segment) (content, error)
}

// has reports whether the one who has begun the segment has the line of a stream with that time.
func (a *after) has(stream int, at time.Time) bool {
	if first := a.first[stream]; first.IsZero() || at.Before(first) {
		return false
	}
	if a.last == nil {
		a.last = a.readLast()
	}
	return !at.After(a.last[stream])
}

// readLast finds the last line of each stream. Where a segment is too long to be read as a whole, an absent stream is taken
// to go up to what was read.
func (a *after) readLast() *[2]time.Time {
	last := new([2]time.Time)
	for _, src := range slices.Backward(a.segs) {
		if !last[0].IsZero() && !last[1].IsZero() {
			break
		}
		c, err := a.open(src.seg)
		if err != nil {
			continue // it was removed
		}
		from := max(0, c.size()-endWindow)
		text, _ := readBetween(c, from, c.size())
		c.close()
		var seen [2]time.Time
		var oldest time.Time
		for line := range bytes.Lines(text) {
			r, ok := parseRecord(bytes.TrimSuffix(line, newline))
			if !ok {
				continue
			}
			if oldest.IsZero() {
				oldest = r.at
			}
			seen[r.stream] = r.at
		}
		for i := range last {
			if seen[i].IsZero() && from > 0 {
				seen[i] = oldest
			}
			last[i] = latest(last[i], seen[i])
		}
	}
	return last
}

func parseAfter(name string) (container string, number int, ok bool) {
	name, ok = strings.CutSuffix(name, afterSuffix)
	container, digits, numbered := strings.Cut(name, ".")
	number, err := strconv.Atoi(digits)
	return container, number, ok && numbered && container != "" && err == nil && number >= 0 && strconv.Itoa(number) == digits
}

func afterPath(dir, container string, number int) string {
	return filepath.Join(dir, container+"."+strconv.Itoa(number)+afterSuffix)
}

// isLeftOver reports whether a file says about a log of which there is nothing left.
func isLeftOver(name string, entries []fs.DirEntry) bool {
	container, _, ok := parseAfter(name)
	return ok && !slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		of, _, _, ok := parseName(e.Name())
		return ok && of == container
	})
}

// aftersOf reads what a server has said about a log, by segment.
func aftersOf(origin, dir, container string) (list []after, err error) {
	entries, err := readDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		of, number, ok := parseAfter(e.Name())
		if !ok || of != container {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name())) //nolint:gosec // from a listing of our directory
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, parseAfterText(after{origin: origin, number: number, ends: map[string]place{}}, text))
	}
	slices.SortFunc(list, func(a, b after) int { return a.number - b.number })
	return list, nil
}

// parseAfterText reads as much as is there: a copy may not be whole yet.
func parseAfterText(a after, text []byte) after {
	for line := range bytes.Lines(text) {
		if !bytes.HasSuffix(line, newline) {
			break
		}
		switch f := strings.Fields(string(line)); {
		case len(f) == 2 && f[0] == "epoch":
			a.epoch, _ = strconv.ParseInt(f[1], 10, 64)
		case len(f) == 4 && f[0] == "end":
			number, _ := strconv.Atoi(f[2])
			off, _ := strconv.ParseInt(f[3], 10, 64)
			a.ends[f[1]] = place{number, off}
		case len(f) == 3 && f[0] == "first":
			if at, ok := parseTime([]byte(f[2])); ok {
				a.first[streamOf(f[1])] = at
			}
		}
	}
	return a
}

func streamOf(name string) int {
	if name == "stderr" {
		return 1
	}
	return 0
}

// supersede finds out which lines of the sources do not count, where several servers have written the same log.
func (s *Store) supersede(sources []*source) error {
	if s.self == "" {
		return nil
	}
	type log struct{ pod, container string }
	byLog := map[log][]*source{}
	several := map[log]bool{}
	for _, src := range sources {
		if src.pod == "" || src.pod == AccessPod {
			continue
		}
		key := log{src.pod, src.seg.container}
		if have := byLog[key]; len(have) > 0 && have[0].origin != src.origin {
			several[key] = true
		}
		byLog[key] = append(byLog[key], src)
	}
	for key := range several {
		if err := s.supersedeLog(byLog[key]); err != nil {
			return fmt.Errorf("reading who has written a log: %w", err)
		}
	}
	return nil
}

func (s *Store) supersedeLog(sources []*source) error {
	var all []after
	read := map[string]bool{}
	for _, src := range sources {
		if read[src.seg.dir] {
			continue
		}
		read[src.seg.dir] = true
		list, err := aftersOf(src.origin, src.seg.dir, src.seg.container)
		if err != nil {
			return err
		}
		all = append(all, list...)
	}
	for i := range all {
		all[i].open = s.open
	}
	epochs := make([]int64, len(sources))
	for i, src := range sources {
		var of *after
		for j := range all {
			if a := &all[j]; a.origin == src.origin && a.number <= src.seg.number && (of == nil || a.number > of.number) {
				of = a
			}
		}
		if of != nil {
			epochs[i] = of.epoch
			of.segs = append(of.segs, src)
		}
		for j := range all {
			if a := &all[j]; a.origin != src.origin && a.epoch > epochs[i] {
				src.cuts = append(src.cuts, cut{a.ends[src.origin], a}) // all of it, if it was not known
			}
		}
	}
	for i, src := range sources {
		src.epoch = epochs[i]
		for j, o := range sources {
			if o.origin != src.origin && epochs[j] < epochs[i] {
				src.older = append(src.older, o)
			}
		}
	}
	return nil
}

// behind finds out up to when the lines of a segment are known that no page has come to: it goes on with what others had
// written, and they may have written more than its writer knew, which was read from theirs.
func (m *merge) behind(s *source) error {
	for _, o := range s.older {
		p, ok := m.token.positions[o.key]
		if !ok || p.off == 0 {
			continue
		}
		read, err := m.store.timesBefore(o.seg, p.off)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for i := range read {
			s.known[i] = latest(s.known[i], read[i])
		}
	}
	return nil
}

// timesBefore is the time of the last record of each stream that ends at off or before, but not long before.
func (s *Store) timesBefore(seg segment, off int64) (at [2]time.Time, err error) {
	c, err := s.open(seg)
	if err != nil {
		return at, err
	}
	defer c.close()
	text, err := readBetween(c, max(0, off-2*readSize), off)
	for line := range bytes.Lines(text) {
		if r, ok := parseRecord(bytes.TrimSuffix(line, newline)); ok {
			at[r.stream] = r.at
		}
	}
	return at, err
}

// LogEnd is where a stream of a log ends: the time of its last line, and how many lines have that time.
type LogEnd struct {
	Last  time.Time
	Count int
}

// Continuation is how a server goes on with the log of a container.
type Continuation struct {
	// Number is that of the segment to begin.
	Number int
	// Ends says by stream ("stdout", "stderr") up to where the log is known already.
	Ends map[string]LogEnd

	path string
	mu   sync.Mutex
	told map[string]bool
}

// Lead says that this server leads from now on.
func (s *Store) Lead(epoch int64) {
	s.shareMu.Lock()
	defer s.shareMu.Unlock()
	s.epoch = epoch
}

// Continue begins to go on with a log that other servers may have written before, and this one too. dir is what PodDir has
// said. Begin has to be called before the first line of each stream is written.
func (s *Store) Continue(dir, container string) (*Continuation, error) {
	c, err := s.goOn(filepath.Base(filepath.Dir(dir)), filepath.Base(dir), container)
	if err != nil {
		return nil, fmt.Errorf("going on with a log: %w", err)
	}
	return c, nil
}

// logOf finds the segments of a log, those of each server in order.
func (s *Store) logOf(serviceID, pod, container string) (sources []*source, err error) {
	roots, err := s.roots()
	if err != nil {
		return nil, err
	}
	for _, root := range roots {
		segs, err := segments(filepath.Join(root.dir, serviceID, pod), container)
		if err != nil {
			return nil, err
		}
		for _, seg := range segs {
			sources = append(sources, &source{origin: root.origin, pod: pod, seg: seg})
		}
	}
	return sources, s.supersede(sources)
}

func (s *Store) goOn(serviceID, pod, container string) (*Continuation, error) {
	sources, err := s.logOf(serviceID, pod, container)
	if err != nil {
		return nil, err
	}
	s.shareMu.Lock()
	text := fmt.Appendf(nil, "epoch %d\n", s.epoch)
	s.shareMu.Unlock()
	ends := ends{looked: map[string]int64{}}
	for _, src := range slices.Backward(sources) {
		at, err := ends.read(s, src)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if src.seg.last && src.origin != s.self {
			text = fmt.Appendf(text, "end %s %d %d\n", src.origin, src.seg.number, at)
		}
	}
	dir := s.PodDir(serviceID, pod)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	c := &Continuation{Ends: ends.known(), told: map[string]bool{}}
	if c.Number, err = nextNumber(dir, container); err != nil {
		return nil, err
	}
	c.path = afterPath(dir, container, c.Number)
	return c, os.WriteFile(c.path, text, 0o600)
}

// nextNumber is the number of the first segment that there never was.
func nextNumber(dir, container string) (number int, err error) {
	entries, err := readDir(dir)
	for _, e := range entries {
		of, n, _, ok := parseName(e.Name())
		if !ok {
			of, n, ok = parseAfter(e.Name())
		}
		if ok && of == container {
			number = max(number, n+1)
		}
	}
	return number, err
}

// Begin says that a line of a stream is about to be written.
func (c *Continuation) Begin(stream string, at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.told[stream] {
		return nil
	}
	f, err := os.OpenFile(c.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "first %s %s\n", stream, at.UTC().Format(timeFixed))
	if err = errors.Join(err, f.Close()); err == nil {
		c.told[stream] = true
	}
	return err
}

// endWindow is how much of the end of a log is read to find out where its streams end, in bytes.
const endWindow = 256 << 10

// ends gathers where the streams of a log end, from the ends of what each server has written.
type ends struct {
	streams [2]LogEnd
	// older is the time of the oldest line that was looked at, if there are older ones: all from before it are known.
	older  time.Time
	looked map[string]int64 // how many bytes were looked at, by server
}

// read looks at the end of a segment; those of a server come last first. It returns up to where its lines are whole.
func (e *ends) read(s *Store, src *source) (whole int64, err error) {
	if e.looked[src.origin] >= endWindow {
		return 0, nil
	}
	c, err := s.open(src.seg)
	if err != nil {
		return 0, err
	}
	defer c.close()
	from := src.lookFrom(c.size())
	text, err := readBetween(c, from, c.size())
	if err != nil {
		return 0, err
	}
	var j joiner
	var oldest time.Time
	first := from > 0 // it may be the rest of one
	src.off = from
	for line := range bytes.Lines(text[:bytes.LastIndexByte(text, '\n')+1]) {
		start := src.off
		src.off += int64(len(line))
		r, ok := parseRecord(bytes.TrimSuffix(line, newline))
		if first || !ok {
			first = false
			continue
		}
		j.add(bytes.TrimSuffix(line, newline), start)
		src.join.stream = r.stream
		if src.superseded(r.at) {
			continue
		}
		e.looked[src.origin] += int64(len(line))
		if oldest.IsZero() {
			oldest = r.at
		}
		if !r.partial {
			e.streams[r.stream].add(r.at, 1)
		}
	}
	if from > 0 || src.seg.number > 0 && e.looked[src.origin] >= endWindow {
		e.older = latest(e.older, oldest)
	}
	return src.off - j.back(src.off), nil
}

// add counts lines of a time, if there is no younger one.
func (l *LogEnd) add(at time.Time, count int) {
	switch {
	case at.After(l.Last):
		*l = LogEnd{at, count}
	case at.Equal(l.Last):
		l.Count += count
	}
}

// lookFrom is where to begin to look for the last lines that count.
func (s *source) lookFrom(size int64) int64 {
	for _, c := range s.cuts {
		if c.number == s.seg.number {
			size = min(size, c.off)
		}
		if c.number < s.seg.number {
			size = 0
		}
	}
	return max(0, size-endWindow)
}

// known is where the streams end.
func (e *ends) known() map[string]LogEnd {
	known := map[string]LogEnd{}
	for i, name := range [...]string{"stdout", "stderr"} {
		end := e.streams[i]
		if end.Last.Before(e.older) {
			end = LogEnd{Last: e.older}
		}
		if !end.Last.IsZero() {
			known[name] = end
		}
	}
	return known
}
