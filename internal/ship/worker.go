package ship

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/logs"
)

const (
	// A batch is what is sent at once and confirmed as a whole.
	maxBatchLines = 4096
	maxBatchBytes = 1 << 20
	// minBackoff and maxBackoff bound the time between two tries; maxRetryAfter is how long a destination may ask for.
	minBackoff    = 500 * time.Millisecond
	maxBackoff    = time.Minute
	maxRetryAfter = 10 * time.Minute
	// complainEvery is how often it is said again that a destination cannot be reached.
	complainEvery = 10 * time.Minute
	// maxVersions bounds the pods whose version is remembered.
	maxVersions = 10_000
)

// errRejected is returned by a sender for lines that the destination will never take as they are.
var errRejected = errors.New("the destination rejects the lines")

// busyError is returned by a sender for a destination that asks to be left alone for a while.
type busyError struct {
	after time.Duration
	err   error
}

func (e *busyError) Error() string { return e.err.Error() }
func (e *busyError) Unwrap() error { return e.err }

// worker serves one destination.
type worker struct {
	cfg  *Config
	dest Destination
	send sender
	file string
	log  *slog.Logger

	// Only run uses these.
	first      int // service to begin the next batch with
	versions   map[string]int
	failures   int
	complained time.Time

	// mu guards what follows.
	mu     sync.Mutex
	pos    positions
	names  map[string]string // services by id
	counts Status
}

func newWorker(cfg *Config, d Destination) (*worker, error) {
	w := &worker{
		cfg: cfg, dest: d, file: positionsFile(cfg.Dir, d), log: cfg.Log.With("destination", d.String()),
		versions: map[string]int{}, names: map[string]string{}, counts: Status{Destination: d.String()},
	}
	var err error
	if w.send, err = newSender(d, cfg.Host); err != nil {
		return nil, err
	}
	if w.pos, err = readPositions(w.file); errors.Is(err, errDamaged) {
		// To send lines twice is better than not at all.
		w.log.Error("logs are shipped from the beginning again", "error", err)
		err = nil
		w.pos = positions{Services: map[string]logs.Cursor{}, Lost: map[string]int64{}}
	}
	w.pos.Destination = d.String()
	return w, err
}

func newSender(d Destination, host string) (sender, error) {
	switch d.scheme {
	case "otlp+http", "otlp+https":
		return newOTLP(d, host)
	default:
		return newSyslog(d, host)
	}
}

func (w *worker) status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts
}

// run sends until ctx ends.
func (w *worker) run(ctx context.Context) {
	for ctx.Err() == nil {
		full, err := w.round(ctx)
		wait := w.cfg.Interval
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = w.failed(err)
		case full:
			wait = 0
			fallthrough
		default:
			w.recovered()
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// failed notes an error and returns how long to wait.
func (w *worker) failed(err error) time.Duration {
	w.failures++
	wait := min(minBackoff<<min(w.failures-1, 20), maxBackoff)
	wait = wait*3/4 + rand.N(wait/2) //nolint:gosec // spreads load, keeps no secret
	if busy, ok := errors.AsType[*busyError](err); ok {
		wait = max(wait, min(busy.after, maxRetryAfter))
	}
	w.mu.Lock()
	w.counts.Failing = err.Error()
	w.mu.Unlock()
	if time.Since(w.complained) >= complainEvery {
		w.complained = time.Now()
		w.log.Warn("cannot ship logs; they are kept as long as all logs are, and it is tried again", "error", err)
	}
	return wait
}

func (w *worker) recovered() {
	if w.failures > 0 {
		w.log.Info("logs are shipped again", "failures", w.failures)
	}
	w.failures, w.complained = 0, time.Time{}
	w.mu.Lock()
	w.counts.Failing = ""
	w.mu.Unlock()
}

// round sends a batch, if there are lines, and notes how far it has come. full reports whether there may be more.
func (w *worker) round(ctx context.Context) (full bool, err error) {
	services, err := w.cfg.Services(ctx)
	if err != nil {
		return false, fmt.Errorf("listing services: %w", err)
	}
	b, err := w.collect(ctx, services)
	if err != nil || len(b.lines) == 0 && len(b.lost) == 0 {
		return false, err
	}
	rejected, err := w.deliver(ctx, b.lines)
	if err != nil {
		return false, err
	}
	return b.full, w.passed(b, services, rejected)
}

// batch is lines and where their logs are then read on.
type batch struct {
	lines   []record
	size    int
	cursors map[string]logs.Cursor // by service id
	lost    map[string]int64       // that the batch tells of
	full    bool
}

func (b *batch) hasRoom(more int) bool {
	return len(b.lines) < maxBatchLines && (len(b.lines) == 0 || b.size+more <= maxBatchBytes)
}

// collect gathers the next lines of all services, each time beginning with another one, so that a loud one does not
// silence the others.
func (w *worker) collect(ctx context.Context, services []trysail.Service) (*batch, error) {
	b := &batch{cursors: map[string]logs.Cursor{}, lost: map[string]int64{}}
	w.mu.Lock()
	for _, s := range services {
		w.names[s.ID] = s.Name
	}
	for name, n := range w.pos.Lost {
		b.lost[name] = n
		b.lines = append(b.lines, record{
			at: time.Now(), service: name, kind: kindSystem,
			text: fmt.Appendf(nil, "[trysail] %d log lines were removed before they could be shipped", n),
		})
	}
	w.mu.Unlock()
	w.first++
	for i := range services {
		s := &services[(w.first+i)%len(services)]
		if err := w.collectService(ctx, s, b); err != nil {
			return nil, err
		}
		if b.full {
			break
		}
	}
	return b, nil
}

func (w *worker) collectService(ctx context.Context, s *trysail.Service, b *batch) error {
	w.mu.Lock()
	c := cloneCursor(w.pos.Services[s.ID])
	w.mu.Unlock()
	moved := false
	for line, err := range w.cfg.Logs.Lines(ctx, logs.Selection{ServiceID: s.ID}, c) {
		if err != nil {
			return fmt.Errorf("reading the logs of %s: %w", s.Name, err)
		}
		if !b.hasRoom(len(line.Text)) {
			b.full = true
			break
		}
		moved = true
		b.size += len(line.Text)
		b.lines = append(b.lines, w.record(ctx, s.Name, line))
	}
	if moved {
		b.cursors[s.ID] = *c
	}
	return nil
}

func (w *worker) record(ctx context.Context, service string, l logs.Line) record {
	r := record{at: l.At, service: service, pod: l.Pod, container: l.Container, kind: kindContainer, stderr: l.Stderr, text: bytes.Clone(l.Text)}
	switch l.Pod {
	case "":
		r.kind = kindSystem
	case logs.AccessPod:
		r.kind, r.pod, r.container = kindAccess, "", ""
	default:
		r.version = w.version(ctx, l.Pod)
	}
	return r
}

func (w *worker) version(ctx context.Context, pod string) int {
	v, ok := w.versions[pod]
	if !ok {
		if len(w.versions) >= maxVersions {
			clear(w.versions)
		}
		if v = w.cfg.Version(ctx, pod); v > 0 {
			w.versions[pod] = v
		}
	}
	return v
}

// deliver sends the lines. If the destination rejects them, it finds out which ones, and counts those.
func (w *worker) deliver(ctx context.Context, lines []record) (rejected int64, err error) {
	n, err := w.send.send(ctx, lines)
	switch {
	case err == nil:
		return int64(n), nil
	case !errors.Is(err, errRejected):
		return 0, err
	case len(lines) == 1:
		// Perhaps it takes nothing at all, because of a wrong path or key. That is no fault of this line.
		if _, err := w.send.send(ctx, nil); err != nil {
			return 0, err
		}
		w.log.WarnContext(ctx, "a log line is rejected and not sent again", "service", lines[0].service, "bytes", len(lines[0].text), "error", err)
		return 1, nil
	}
	for _, half := range [][]record{lines[:len(lines)/2], lines[len(lines)/2:]} {
		n, err := w.deliver(ctx, half)
		if err != nil {
			return 0, err
		}
		rejected += n
	}
	return rejected, nil
}

// passed notes that the destination has the batch.
func (w *worker) passed(b *batch, services []trysail.Service, rejected int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.Copy(w.pos.Services, b.cursors)
	there := make(map[string]bool, len(services))
	for _, s := range services {
		there[s.ID] = true
	}
	maps.DeleteFunc(w.pos.Services, func(id string, _ logs.Cursor) bool { return !there[id] })
	maps.DeleteFunc(w.names, func(id, _ string) bool { return !there[id] })
	for name, n := range b.lost {
		if w.pos.Lost[name] -= n; w.pos.Lost[name] <= 0 {
			delete(w.pos.Lost, name)
		}
	}
	w.counts.Sent += int64(len(b.lines)) - rejected
	w.counts.Rejected += rejected
	return w.pos.write(w.file)
}

// removed counts what the destination will never get.
func (w *worker) removed(r logs.Removal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.pos.Services[r.ServiceID]
	n, err := r.Missed(&c)
	if err != nil {
		w.log.Error("cannot count the log lines that are removed before they were shipped", "error", err)
	}
	if n == 0 {
		return
	}
	name, ok := w.names[r.ServiceID]
	if !ok {
		name = r.ServiceID
	}
	w.pos.Lost[name] += n
	w.counts.Lost += n
	w.log.Warn("log lines are removed before they could be shipped", "service", name, "lines", n)
	if err := w.pos.write(w.file); err != nil {
		w.log.Error("what was lost is not noted", "error", err)
	}
}
