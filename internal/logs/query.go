package logs

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// DefaultLimit is how many lines a page has at most, if the query does not say.
	DefaultLimit = 1000
	// maxPage bounds the text of a page in bytes. A page has at least one line.
	maxPage = 1 << 20
	// clockError is by how much the clocks of two servers may differ. It is less than quiet.
	clockError = 50 * time.Second
	// searchTime is how long a page is searched for. What was found until then is a page too, perhaps an empty one.
	searchTime = 5 * time.Second
)

// Query selects lines of one container name: all that its pods wrote and its system lines.
type Query struct {
	ServiceID string
	Container string
	// Accept says of which pods lines are wanted; nil means of all. The system lines have the pod "", and are asked for
	// one by one; for others text is nil.
	Accept func(podID, text string) bool
	Start  time.Time // inclusive; zero means from the first line
	End    time.Time // exclusive; zero means to the last line
	Filter Filter
	Limit  int    // lines per page; zero means DefaultLimit
	Token  string // of the page before; empty for the first page
	// Late are servers that did not give their latest lines, by their names for ever: when they did last, zero if that is not
	// known. Their lines may come later and be older than those that are read now; pages after this one have them.
	Late map[string]time.Time
}

// Event is one line.
type Event struct {
	At     time.Time
	Text   string // valid UTF-8, without the newline
	Pod    string // that wrote it; empty for system lines
	Stderr bool
}

// Query returns a page of lines in ascending order of time, and the token of the next page, which is empty when there
// is none. A line that is written between two pages is neither lost nor does it make another one appear twice. The
// other fields of q must be the same for each page. A page of a search that takes long may be empty and have a next.
// Errors: ErrBadToken, those of ctx and of the file system.
func (s *Store) Query(ctx context.Context, q Query) ([]Event, string, error) {
	events, next, err := s.query(ctx, q)
	if err != nil && !errors.Is(err, ErrBadToken) {
		err = fmt.Errorf("searching the log: %w", err)
	}
	return events, next, err
}

func (s *Store) query(ctx context.Context, q Query) ([]Event, string, error) {
	now := time.Now()
	m := &merge{
		store: s,
		span:  span{start: q.Start, end: q.End, filter: &q.Filter, began: now, until: now.Add(searchTime)},
		token: token{positions: map[sourceKey]position{}, late: map[uint64]time.Time{}},
	}
	if q.Accept != nil {
		m.span.accept = func(text []byte, s *source) bool { return s.pod != "" || q.Accept("", string(text)) }
	}
	scope := tokenScope(q.ServiceID, q.Container)
	if q.Token != "" {
		t, err := decodeToken(q.Token, scope)
		if err != nil {
			return nil, "", err
		}
		m.token = *t
		m.span.mark = t.mark
	}
	m.expect(q.Late)
	// A name with a slash would lead out of the service's directory.
	if q.Container == "" || strings.ContainsAny(q.Container, "/\\\x00.") || q.ServiceID == "" {
		return nil, "", nil
	}
	roots, err := s.roots()
	if err != nil {
		return nil, "", err
	}
	wanted := func(pod string) bool { return pod == "" || q.Accept == nil || q.Accept(pod, "") }
	var sources []*source
	for _, root := range roots {
		list, err := s.sources(ctx, root, q.ServiceID, q.Container, wanted)
		if err != nil {
			return nil, "", err
		}
		sources = append(sources, list...)
	}
	if err := s.supersede(sources); err != nil {
		return nil, "", err
	}
	defer m.close()
	if err := m.begin(sources); err != nil {
		return nil, "", err
	}
	page, more, err := m.page(ctx, q.Limit)
	if err != nil || !more {
		return page, "", err
	}
	return page, m.next().encode(scope), nil
}

// sources finds the segments of a container, or of all containers if that is empty, in a server's directories of the pods
// that are wanted.
func (s *Store) sources(ctx context.Context, root root, serviceID, container string, wanted func(pod string) bool) ([]*source, error) {
	pods, err := readDir(filepath.Join(root.dir, serviceID))
	if err != nil {
		return nil, err
	}
	var list []*source
	for _, pod := range pods {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name := pod.Name()
		if name == systemDir {
			name = ""
		}
		if !wanted(name) {
			continue
		}
		segs, err := segments(filepath.Join(root.dir, serviceID, pod.Name()), container)
		if err != nil {
			return nil, err
		}
		for _, seg := range segs {
			src := &source{origin: root.origin, pod: name, seg: seg, key: sourceKey{hashPod(root.origin, name, seg.container), int64(seg.number)}}
			if src.info, err = seg.stat(); errors.Is(err, fs.ErrNotExist) {
				continue // removed since it was listed
			} else if err != nil {
				return nil, err
			}
			src.complete = !seg.last || !seg.plain || time.Since(src.info.ModTime()) > quiet
			list = append(list, src)
		}
	}
	return list, nil
}

// hashOrigin names a server in a token.
func hashOrigin(origin string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(origin))
	return h.Sum64()
}

// hashPod names a log. It is the same on all servers, so that tokens are: origin is the server that wrote it, empty where
// there is only one.
func hashPod(origin, id, container string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(container))
	if origin != "" {
		h.Write([]byte("@" + origin))
	}
	if id == "" {
		return h.Sum64() >> 1 // in front of what the pods wrote at the same time
	}
	h.Write([]byte("/" + id))
	return h.Sum64()>>1 | 1<<63
}

// merge reads several sources as one, ordered by time. Files are only open while their lines are due, so that memory
// does not grow with the number of files.
type merge struct {
	store   *Store
	span    span
	token   token
	due     queue
	touched []*source // all that may be written to or were opened
	// absent are the positions in segments that are not here, but at the server that the page before came from.
	absent map[sourceKey]position
}

// begin queues the sources with the earliest time that they can have a line of.
func (m *merge) begin(sources []*source) error {
	newest := map[uint64]int64{} // by pod: the segment with a position
	for k := range m.token.positions {
		newest[k.pod] = max(newest[k.pod], k.number)
	}
	if m.store.self != "" {
		m.absent = maps.Clone(m.token.positions)
	}
	for _, s := range sources {
		delete(m.absent, s.key)
		s.mark = m.span.mark
		if at, late := m.token.late[hashOrigin(s.origin)]; late && at.Before(s.mark.at) {
			s.mark = mark{at: at}
		}
		n, positioned := newest[s.key.pod]
		p, ok := m.token.positions[s.key]
		if !ok && !positioned {
			if err := m.behind(s); err != nil {
				return err
			}
		}
		switch {
		case ok:
			s.from = &p // its next line may be older than others that were read: then it was written late
		case positioned && s.key.number > n:
			s.from = &position{} // it was begun since
		case s.info.ModTime().Before(latest(m.span.start, s.mark.at).Add(-quiet)):
			continue // all its lines are too old
		}
		first, ok, err := m.store.firstTime(s.seg)
		if err != nil {
			return err
		}
		if ok && !m.span.end.IsZero() && !first.Before(m.span.end.Add(disorder)) {
			continue // all its lines are too young
		}
		if !ok && s.from == nil {
			s.from = &position{} // a line may come that is older than others that are being read now
		}
		if s.from == nil {
			s.at = latest(first.Add(-disorder), m.span.start, s.mark.at)
		}
		m.due = append(m.due, s)
	}
	heap.Init(&m.due)
	return nil
}

// expect notes that lines of some servers come late. What they had written by the last line of the page before is here, or
// was where that page was made.
func (m *merge) expect(late map[string]time.Time) {
	for origin, at := range late {
		key := hashOrigin(origin)
		if _, known := m.token.late[key]; known {
			continue
		}
		if !at.IsZero() {
			at = at.Add(-clockError)
		}
		m.token.late[key] = latest(at, m.token.mark.at)
	}
}

func latest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }

// page reads lines until the page is full and there is one more, or until there is none.
func (m *merge) page(ctx context.Context, limit int) (page []Event, more bool, err error) {
	if limit <= 0 {
		limit = DefaultLimit
	}
	size := 0
	for s, err := range m.lines(ctx) {
		if errors.Is(err, errTime) {
			return page, true, nil
		}
		if err != nil {
			return nil, false, err
		}
		if len(page) >= limit || len(page) > 0 && size+len(s.text) > maxPage {
			return page, true, nil
		}
		size += len(s.text)
		page = append(page, Event{At: s.at, Text: strings.ToValidUTF8(string(s.text), "\uFFFD"), Pod: s.pod, Stderr: s.stream == 1})
		m.passed(s)
	}
	return page, false, nil
}

// lines yields the sources with the next line, in the order of the lines.
func (m *merge) lines(ctx context.Context) func(yield func(*source, error) bool) {
	return func(yield func(*source, error) bool) {
		for len(m.due) > 0 {
			s := m.due[0]
			if s.c != nil && !yield(s, nil) {
				return
			}
			if err := m.advance(ctx, s); err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// passed moves the mark to the line that was read.
func (m *merge) passed(s *source) {
	if here := (mark{s.at, s.key, s.off}); m.token.mark.before(here) {
		m.token.mark = here
	}
}

// advance reads the next line of the source that is due.
func (m *merge) advance(ctx context.Context, s *source) error {
	if s.c == nil {
		if err := s.open(m.store, &m.span); err != nil {
			return err
		}
		m.touched = append(m.touched, s)
	}
	ok, err := s.next(ctx, &m.span)
	switch {
	case err != nil:
		s.before = s.here()
		return err
	case ok:
		heap.Fix(&m.due, 0)
		return nil
	}
	s.before = s.here()
	heap.Pop(&m.due)
	if s.after != nil && s.complete && s.stopped == nil {
		heap.Push(&m.due, s.after)
	}
	return s.close()
}

// next is the token of the page after this one.
func (m *merge) next() *token {
	t := &token{mark: m.token.mark, positions: map[sourceKey]position{}, late: m.token.late}
	maps.Copy(t.positions, m.absent)
	for _, s := range m.touched {
		since := t.mark.at
		if at, late := t.late[hashOrigin(s.origin)]; late && at.Before(since) {
			since = at
		}
		// A segment that was read to its end and is not written any more needs no position: all its lines are older than
		// the mark, or do not match.
		if s.c != nil || s.seg.last && s.seg.plain || s.info.ModTime().After(since.Add(-quiet)) {
			t.positions[s.key] = s.before
		}
	}
	for _, s := range m.due { // not opened yet
		switch {
		case s.c != nil:
		case s.from != nil:
			t.positions[s.key] = *s.from
		case len(s.older) > 0:
			t.positions[s.key] = position{} // all its lines are younger, and it was taken into account
		}
	}
	return t
}

func (m *merge) close() {
	for _, s := range m.touched {
		s.close()
	}
}

// queue is a heap of sources by the time of their next line.
type queue []*source

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if c := q[i].at.Compare(q[j].at); c != 0 {
		return c < 0
	}
	return q[i].key.less(q[j].key)
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push is part of heap.Interface.
func (q *queue) Push(s any) { *q = append(*q, s.(*source)) } //nolint:errcheck,forcetypeassert // only heap calls it

// Pop is part of heap.Interface.
func (q *queue) Pop() any {
	old := *q
	s := old[len(old)-1]
	*q = old[:len(old)-1]
	return s
}
