package logs

import (
	"bytes"
	"path/filepath"
)

// Removal is a part of a log that is about to be removed, because of its age, its size or with its service.
type Removal struct {
	ServiceID string
	Pod       string // empty for system lines
	store     *Store
	seg       segment
}

// OnRemove makes fn be called before lines are removed. It may be called once, before the store is used.
func (s *Store) OnRemove(fn func(Removal)) { s.onRemove = fn }

// Missed counts the lines of what is removed that the cursor has not come to.
func (r Removal) Missed(c *Cursor) (int64, error) {
	number, p := c.place(r.Pod, r.seg.container)
	switch {
	case r.seg.number < number:
		return 0, nil
	case r.seg.number > number:
		p = position{}
	}
	in, err := r.store.open(r.seg)
	if err != nil {
		return 0, err
	}
	missed, off := int64(0), p.off
	for {
		chunk, err := in.next(off, nil)
		if err != nil || chunk.gap == nil && len(chunk.text) == 0 {
			return missed, joinClose(err, in)
		}
		if chunk.gap != nil {
			off = chunk.off + chunk.gap.size
			continue
		}
		for line := range bytes.Lines(chunk.text) {
			if _, partial, _, ok := splitRecord(line); ok && !partial {
				missed++
			}
		}
		off = chunk.off + int64(len(chunk.text))
	}
}

func joinClose(err error, c content) error {
	if closeErr := c.close(); err == nil {
		err = closeErr
	}
	return err
}

// removing tells the listener about a segment.
func (s *Store) removing(seg segment) {
	if s.onRemove == nil {
		return
	}
	pod := filepath.Base(seg.dir)
	if pod == systemDir {
		pod = ""
	}
	s.onRemove(Removal{ServiceID: filepath.Base(filepath.Dir(seg.dir)), Pod: pod, store: s, seg: seg})
}

// removingService tells the listener about all segments of a service.
func (s *Store) removingService(serviceID string) error {
	if s.onRemove == nil {
		return nil
	}
	pods, err := readDir(filepath.Join(s.dir, serviceID))
	if err != nil {
		return err
	}
	for _, pod := range pods {
		segs, err := segments(s.PodDir(serviceID, pod.Name()), "")
		if err != nil {
			return err
		}
		for _, seg := range segs {
			s.removing(seg)
		}
	}
	return nil
}

// fullSize is how many bytes a closed segment had when it was written.
func (s *Store) fullSize(src *source) (int64, error) {
	if src.seg.plain {
		return src.info.Size(), nil
	}
	path := src.seg.archivePath()
	s.mu.Lock()
	size, ok := s.sizes[path]
	s.mu.Unlock()
	if ok {
		return size, nil
	}
	a, err := s.openArchive(path)
	if err != nil {
		return 0, err
	}
	size = a.size()
	s.mu.Lock()
	s.sizes[path] = size
	s.mu.Unlock()
	return size, a.close()
}
