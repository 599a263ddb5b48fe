package logs

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
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
)

// Query selects lines of one container name: all that its pods wrote and its system lines.
type Query struct {
	ServiceID string
	Container string
	Start     time.Time // inclusive; zero means from the first line
	End       time.Time // exclusive; zero means to the last line
	Filter    Filter
	Limit     int    // lines per page; zero means DefaultLimit
	Token     string // of the page before; empty for the first page
}

// Event is one line.
type Event struct {
	At   time.Time
	Text string // valid UTF-8, without the newline
}

// Query returns a page of lines in ascending order of time, and the token of the next page, which is empty when there
// is none. A line that is written between two pages is neither lost nor does it make another one appear twice. The
// other fields of q must be the same for each page. Errors: ErrBadToken, those of ctx and of the file system.
func (s *Store) Query(ctx context.Context, q Query) ([]Event, string, error) {
	const tries = 3
	for try := 1; ; try++ {
		events, next, err := s.query(ctx, q)
		// Files are renamed and removed at any time; then the list of files was stale.
		if (errors.Is(err, errRotated) || errors.Is(err, fs.ErrNotExist)) && try < tries {
			continue
		}
		if err != nil && !errors.Is(err, ErrBadToken) {
			err = fmt.Errorf("searching the log: %w", err)
		}
		return events, next, err
	}
}

func (s *Store) query(ctx context.Context, q Query) ([]Event, string, error) {
	m := &merge{
		span:  span{start: q.Start, end: q.End, began: time.Now()},
		token: token{positions: map[sourceKey]position{}},
	}
	scope := tokenScope(q.ServiceID, q.Container)
	if q.Token != "" {
		t, err := decodeToken(q.Token, scope)
		if err != nil {
			return nil, "", err
		}
		m.token = *t
		m.span.mark, m.span.markKey = t.mark, t.markKey
	}
	sources, err := s.sources(ctx, q)
	if err != nil {
		return nil, "", err
	}
	defer m.close()
	m.begin(sources)
	page, more, err := m.page(ctx, q)
	if err != nil || !more {
		return page, "", err
	}
	return page, m.next().encode(scope), nil
}

// sources finds the files that may have lines of the query.
func (s *Store) sources(ctx context.Context, q Query) ([]*source, error) {
	// A name with a slash would lead out of the service's directory.
	if q.Container == "" || strings.ContainsAny(q.Container, "/\\\x00.") || q.ServiceID == "" {
		return nil, nil
	}
	pods, err := readDir(filepath.Join(s.dir, q.ServiceID))
	if err != nil {
		return nil, err
	}
	var list []*source
	for _, pod := range pods {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		paths, err := files(s.PodDir(q.ServiceID, pod.Name()), q.Container)
		if err != nil {
			return nil, err
		}
		for i, path := range paths {
			src := &source{path: path, complete: i < len(paths)-1 || !strings.HasSuffix(path, suffix)}
			ok, err := src.peek(hashPod(pod.Name()))
			if err != nil {
				return nil, err
			}
			if ok && src.mayHave(&q) {
				list = append(list, src)
			}
		}
	}
	return list, nil
}

func hashPod(id string) uint64 {
	if id == systemDir {
		return 0
	}
	h := fnv.New64a()
	h.Write([]byte(id))
	return max(h.Sum64(), 1)
}

// mayHave reports whether the file may have lines between the query's start and end.
func (s *source) mayHave(q *Query) bool {
	s.complete = s.complete || time.Since(s.info.ModTime()) > quiet
	return !s.info.ModTime().Before(q.Start.Add(-disorder)) && (q.End.IsZero() || s.first().Before(q.End.Add(disorder)))
}

func (s *source) first() time.Time { return time.Unix(0, s.key.first) }

// merge reads several sources as one, ordered by time. Files are only open while their lines are due, so that memory
// does not grow with the number of files.
type merge struct {
	span    span
	token   token
	due     queue
	touched []*source // all that were opened
}

// begin queues the sources with the earliest time that they can have a line of.
func (m *merge) begin(sources []*source) {
	for _, s := range sources {
		if p, ok := m.token.positions[s.key]; ok {
			s.from = &p // its next line may be older than others that were read: then it was written late
			s.at = time.Time{}
		} else if s.info.ModTime().Before(m.span.mark.Add(-quiet)) {
			continue // all its lines were read
		} else {
			s.at = latest(s.first().Add(-disorder), m.span.start, m.span.mark)
		}
		m.due = append(m.due, s)
	}
	heap.Init(&m.due)
}

func latest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }

// page reads lines until the page is full and there is one more, or until there is none.
func (m *merge) page(ctx context.Context, q Query) (page []Event, more bool, err error) {
	limit := q.Limit
	if limit <= 0 {
		limit = DefaultLimit
	}
	size, lines := 0, 0
	for len(m.due) > 0 {
		s := m.due[0]
		if s.f != nil {
			if lines++; lines%1024 == 0 && ctx.Err() != nil {
				return nil, false, ctx.Err()
			}
			if q.Filter.Match(s.text) {
				if len(page) >= limit || len(page) > 0 && size+len(s.text) > maxPage {
					return page, true, nil
				}
				size += len(s.text)
				page = append(page, Event{s.at, strings.ToValidUTF8(string(s.text), "\uFFFD")})
			}
			m.passed(s)
		}
		if err := m.advance(s); err != nil {
			return nil, false, err
		}
	}
	return page, false, nil
}

// passed moves the mark to the line that was read.
func (m *merge) passed(s *source) {
	if s.at.After(m.token.mark) || s.at.Equal(m.token.mark) && m.token.markKey.less(s.key) {
		m.token.mark, m.token.markKey = s.at, s.key
	}
}

// advance reads the next line of the source that is due.
func (m *merge) advance(s *source) error {
	if s.f == nil {
		if err := s.open(&m.span); err != nil {
			return err
		}
		m.touched = append(m.touched, s)
	}
	ok, err := s.next(&m.span)
	switch {
	case err != nil:
		return err
	case ok:
		heap.Fix(&m.due, 0)
		return nil
	}
	s.before = s.here()
	heap.Pop(&m.due)
	return s.close()
}

// next is the token of the page after this one.
func (m *merge) next() *token {
	t := &token{mark: m.token.mark, markKey: m.token.markKey, positions: map[sourceKey]position{}}
	for _, s := range m.touched {
		// A file that was read to its end and is not written any more needs no position: all its lines are older than
		// the mark.
		if s.f != nil || s.info.ModTime().After(t.mark.Add(-quiet)) {
			t.positions[s.key] = s.before
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

// Push is part of heap.Interface; sources are never added later.
func (q *queue) Push(s any) { *q = append(*q, s.(*source)) } //nolint:errcheck,forcetypeassert // only heap calls it

// Pop is part of heap.Interface.
func (q *queue) Pop() any {
	old := *q
	s := old[len(old)-1]
	*q = old[:len(old)-1]
	return s
}
