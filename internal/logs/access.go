package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Access logs are in <dir>/<service id>/access/ACCESS.log, in the form of a container's log. No container can have that
// name, since those are lower case.
const (
	accessDir = "access"
	// AccessLog is the name under which Query finds the lines of a service's access log.
	AccessLog = "ACCESS"
	// AccessPod is the pod that lines of the access log have.
	AccessPod = accessDir

	accessLimit = 16 << 20 // size in bytes at which the next file is begun
	accessAge   = 24 * time.Hour
	// accessWait is how long lines are collected before they are written. It is short, so that a reader hardly notices.
	accessWait = 20 * time.Millisecond
	// maxWaiting and maxWaitingAll bound the lines that wait, of one service and of all, in bytes.
	maxWaiting    = 2 << 20
	maxWaitingAll = 16 << 20
	// accessIdle is how long a file without new lines stays open.
	accessIdle = 10 * time.Minute
)

// AccessWriter writes the access logs of services. Who hands it a line never waits for the disk: lines that do not fit
// are dropped, and a line says how many.
type AccessWriter struct {
	store *Store
	log   *slog.Logger
	wake  chan struct{} // holds one token when lines wait

	// writing is held while files are written, although that is I/O: a service's files are deleted meanwhile by nobody.
	writing sync.Mutex

	// mu guards what follows. It is never held during I/O.
	mu      sync.Mutex
	logs    map[string]*accessFile // by service id
	gone    map[string]bool        // services that were deleted
	waiting int                    // bytes, of all
}

// accessFile is the access log of one service.
type accessFile struct {
	serviceID string
	// AccessWriter.mu guards these.
	waiting []byte
	dropped int64

	// AccessWriter.writing guards the rest.
	f       *os.File
	size    int64
	first   time.Time // when the file was begun
	last    time.Time // when it was written
	batch   []byte
	failing bool
}

// NewAccessWriter makes the writer of the store's access logs. There must be only one. Its Run does the writing.
func (s *Store) NewAccessWriter() *AccessWriter {
	w := &AccessWriter{store: s, log: s.log, wake: make(chan struct{}, 1), logs: map[string]*accessFile{}, gone: map[string]bool{}}
	s.access.Store(w)
	return w
}

// Write hands over a line, which has no newline in it. It does not keep it. Lines appear in the log in the order of
// the calls, with the time given.
func (w *AccessWriter) Write(serviceID string, at time.Time, line []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.logs[serviceID]
	if l == nil {
		if w.gone[serviceID] || serviceID == "" || serviceID != filepath.Base(serviceID) {
			return
		}
		l = &accessFile{serviceID: serviceID}
		w.logs[serviceID] = l
	}
	size := len(line) + len(timeFixed) + len(" stdout F \n")
	if len(l.waiting)+size > maxWaiting || w.waiting+size > maxWaitingAll {
		l.dropped++
		return
	}
	if len(l.waiting) == 0 {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	w.waiting += size
	l.waiting = appendAccess(l.waiting, at, line)
}

// timeFixed is timeLayout with all nine digits, which readers parse fastest.
const timeFixed = "2006-01-02T15:04:05.000000000Z"

// appendAccess is the one place that knows the form of a line in the file.
func appendAccess(b []byte, at time.Time, line []byte) []byte {
	b = at.UTC().AppendFormat(b, timeFixed)
	b = append(b, " stdout F "...)
	b = append(b, line...)
	return append(b, '\n')
}

// Run writes until ctx ends, and then what is left.
func (w *AccessWriter) Run(ctx context.Context) {
	idle := time.NewTicker(accessIdle)
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			w.flush()
			w.closeFiles(0)
			return
		case <-idle.C:
			w.closeFiles(accessIdle)
			continue
		case <-w.wake:
		}
		select {
		case <-ctx.Done():
		case <-time.After(accessWait):
		}
		w.flush()
	}
}

// flush writes everything that waits.
func (w *AccessWriter) flush() {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.mu.Lock()
	var due []*accessFile
	for _, l := range w.logs {
		if len(l.waiting) > 0 || l.dropped > 0 {
			due = append(due, l)
		}
	}
	w.mu.Unlock()
	for _, l := range due {
		w.mu.Lock()
		l.batch, l.waiting = l.waiting, l.batch[:0]
		dropped := l.dropped
		w.mu.Unlock()
		err := w.write(l, dropped)
		w.mu.Lock()
		w.waiting -= len(l.batch)
		if err == nil {
			l.dropped -= dropped
		} else {
			l.dropped += int64(bytes.Count(l.batch, newline))
		}
		w.mu.Unlock()
		if cap(l.batch) > maxWaiting/4 {
			l.batch = nil // a burst is over
		}
		switch {
		case err != nil && !l.failing:
			w.log.Error("cannot write an access log; its lines are dropped and counted", "service_id", l.serviceID, "error", err)
		case err == nil && l.failing:
			w.log.Info("the access log is written again", "service_id", l.serviceID)
		}
		l.failing = err != nil
	}
}

// write appends the batch to the service's file, and the line about those that were dropped. It writes all or nothing.
func (w *AccessWriter) write(l *accessFile, dropped int64) error {
	now := time.Now()
	if err := w.ready(l, now); err != nil {
		return err
	}
	b := l.batch
	if dropped > 0 {
		b = appendAccess(slices.Clip(b), now, fmt.Appendf(nil, `{"time":%q,"dropped":%d}`, now.UTC().Format("2006-01-02T15:04:05.000000Z"), dropped))
	}
	if _, err := l.f.Write(b); err != nil {
		// Half a line would spoil the next one.
		return errors.Join(err, l.f.Truncate(l.size), l.close())
	}
	l.size, l.last = l.size+int64(len(b)), now
	return nil
}

// ready opens the file that is written to, or the next one if that is full.
func (w *AccessWriter) ready(l *accessFile, now time.Time) error {
	if l.f != nil {
		if l.size < accessLimit && now.Sub(l.first) < accessAge {
			return nil
		}
		if err := l.close(); err != nil {
			return err
		}
	}
	dir := w.store.PodDir(l.serviceID, accessDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	segs, err := segments(dir, AccessLog)
	if err != nil {
		return err
	}
	seg := segment{dir: dir, container: AccessLog}
	if len(segs) > 0 {
		seg = segs[len(segs)-1]
	}
	if w.store.begins(dir, AccessLog) && len(segs) > 0 {
		seg = segment{dir: dir, container: AccessLog, number: seg.number + 1}
	}
	for {
		ok, err := w.open(l, seg, now)
		if ok || err != nil {
			return err
		}
		seg = segment{dir: dir, container: AccessLog, number: seg.number + 1}
	}
}

// open opens a segment to append to it. ok is false if it is full, archived or in somebody's hands.
func (w *AccessWriter) open(l *accessFile, seg segment, now time.Time) (ok bool, err error) {
	if seg.archived {
		return false, nil
	}
	f, err := os.OpenFile(seg.path(), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return false, err
	}
	defer func() {
		if !ok {
			err = errors.Join(err, f.Close())
		}
	}()
	// As long as it is held nobody archives or removes the file.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return false, err
	}
	// It may have been archived between listing and locking.
	if here, err := os.Stat(seg.path()); err != nil {
		return false, nil // then the next one is begun
	} else if info, err := f.Stat(); err != nil || !os.SameFile(here, info) {
		return false, err
	}
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	size, err := wholeLines(f, info.Size())
	if err != nil || size >= accessLimit {
		return false, err
	}
	first := now
	if at, _, found := nextTime(f, 0, size); found {
		if first = at; now.Sub(first) >= accessAge {
			return false, nil
		}
	}
	if size < info.Size() { // a crash left half a line
		if err := f.Truncate(size); err != nil {
			return false, err
		}
	}
	l.f, l.size, l.first, l.last = f, size, first, now
	return true, nil
}

func (l *accessFile) close() error {
	err := l.f.Close()
	l.f = nil
	return err
}

// closeFiles closes the files that have not been written to for so long.
func (w *AccessWriter) closeFiles(idle time.Duration) {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, l := range w.logs {
		if len(l.waiting) > 0 || l.dropped > 0 && idle > 0 || l.f != nil && time.Since(l.last) < idle {
			continue
		}
		if l.f != nil {
			if err := l.close(); err != nil {
				w.log.Error("closing an access log", "service_id", id, "error", err)
			}
		}
		delete(w.logs, id)
	}
}

// forget drops the lines of a service that is being deleted, also those that come later.
func (w *AccessWriter) forget(serviceID string) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone[serviceID] = true
	l := w.logs[serviceID]
	if l == nil {
		return nil
	}
	w.waiting -= len(l.waiting)
	delete(w.logs, serviceID)
	if l.f == nil {
		return nil
	}
	return l.close()
}
