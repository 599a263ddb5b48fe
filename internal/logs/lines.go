package logs

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Selection is whose lines Lines yields.
type Selection struct {
	ServiceID string
	Container string                  // empty means all
	Pod       func(podID string) bool // nil means all; it is asked with "" for the system lines
	Filter    Filter
}

// Cursor is how far the lines of a selection have been read. The zero Cursor is in front of the first line that is
// kept. It can be kept as JSON; it stays valid as long as the service is there.
//
// It knows a place in each log and no time, so it does not matter what the clock does.
type Cursor struct {
	// Places holds "<segment>:<offset>:<back>" by "<pod>/<container>".
	Places map[string]string `json:"places"`
}

// Line is a line as the container wrote it.
type Line struct {
	At        time.Time
	Pod       string // empty for system lines
	Container string
	Stderr    bool
	Text      []byte // without the newline; perhaps not valid UTF-8; valid until the next line
}

func (c *Cursor) place(pod, container string) (number int, p position) {
	part := strings.Split(c.Places[pod+"/"+container], ":")
	if len(part) != 3 {
		return 0, position{}
	}
	number, err0 := strconv.Atoi(part[0])
	off, err1 := strconv.ParseInt(part[1], 10, 64)
	back, err2 := strconv.ParseInt(part[2], 10, 64)
	if errors.Join(err0, err1, err2) != nil || back < 0 || off < back {
		return 0, position{}
	}
	return number, position{off, back}
}

func (c *Cursor) set(s *source, p position) {
	if c.Places == nil {
		c.Places = map[string]string{}
	}
	c.Places[s.pod+"/"+s.seg.container] = fmt.Sprintf("%d:%d:%d", s.seg.number, p.off, p.back)
}

// Lines yields the lines behind the cursor that are there now, by time, and moves the cursor with them: once the body of
// the loop is done with a line, the line counts as read. No line is lost and none comes twice, whatever is written,
// archived or restarted between two calls. Those that other servers have written are theirs to follow. Lines that retention removes before they were read are not missed.
// Errors: those of ctx and of the file system; the sequence ends with the first.
func (s *Store) Lines(ctx context.Context, sel Selection, c *Cursor) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		if err := s.lines(ctx, sel, c, func(l Line) bool { return yield(l, nil) }); err != nil {
			yield(Line{}, fmt.Errorf("following a log: %w", err))
		}
	}
}

func (s *Store) lines(ctx context.Context, sel Selection, c *Cursor, yield func(Line) bool) error {
	m := &merge{store: s, span: span{filter: &sel.Filter, began: time.Now()}}
	sources, err := s.sources(ctx, s.own(), sel.ServiceID, sel.Container, func(pod string) bool { return sel.Pod == nil || sel.Pod(pod) })
	if err != nil {
		return err
	}
	defer m.close()
	var before *source
	for _, src := range sources {
		number, p := c.place(src.pod, src.seg.container)
		switch {
		case src.seg.number < number:
			continue
		case src.seg.number > number:
			p = position{}
		}
		if src.complete && p.back == 0 && p.off > 0 {
			if size, err := s.fullSize(src); err == nil && p.off >= size {
				continue // nothing is left of it
			}
		}
		src.from = &p
		// What a log says has one order, also where the clock was set back in the middle of it.
		if before != nil && before.key.pod == src.key.pod {
			before.after = src
		} else {
			m.due = append(m.due, src)
		}
		before = src
	}
	heap.Init(&m.due)
	for src, err := range m.lines(ctx) {
		if err != nil {
			return err
		}
		if !yield(Line{At: src.at, Pod: src.pod, Container: src.seg.container, Stderr: src.stream == 1, Text: src.text}) {
			return nil
		}
		c.set(src, src.here())
	}
	return s.prune(sel.ServiceID, c)
}

// prune forgets the places in logs that were removed.
func (s *Store) prune(serviceID string, c *Cursor) error {
	pods, err := readDir(filepath.Join(s.dir, serviceID))
	if err != nil {
		return err
	}
	there := map[string]bool{"": true}
	for _, p := range pods {
		there[p.Name()] = true
	}
	for key := range c.Places {
		if pod, _, _ := strings.Cut(key, "/"); !there[pod] {
			delete(c.Places, key)
		}
	}
	return nil
}

// Follow is Lines that goes on with what is written later, until ctx ends. It looks for new lines every interval.
func (s *Store) Follow(ctx context.Context, sel Selection, c *Cursor, interval time.Duration) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		for {
			for l, err := range s.Lines(ctx, sel, c) {
				if !yield(l, err) || err != nil {
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(interval):
			}
		}
	}
}
