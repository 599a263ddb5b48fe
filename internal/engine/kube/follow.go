package kube

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/trysail/trysail"
)

const (
	// followRetry is the first wait before a log is followed again after an error, and longestRetry the longest.
	followRetry  = 200 * time.Millisecond
	longestRetry = 10 * time.Second
	// finishTime is how long the end of a pod waits for the last lines of its logs.
	finishTime = 10 * time.Second
	// maxPart is the longest record of a log file, in bytes. Longer lines have several.
	maxPart = 16 << 10
)

// follower copies the logs of the pods into files on this machine as they are written: what the cluster has of them ends
// with the pod.
type follower struct {
	engine *Engine
	wg     sync.WaitGroup
	// whole is true when the cluster cannot tell standard output from standard error: all is written as output then. Only
	// clusters with the feature PodLogsQuerySplitStreams can.
	whole atomic.Bool

	mu     sync.Mutex      // guards all below
	ctx    context.Context //nolint:containedctx // of all that are followed; nil while they end
	cancel context.CancelFunc
	active map[trysail.PodID]map[string]chan struct{}
}

func newFollower(e *Engine) *follower {
	f := &follower{engine: e, active: map[trysail.PodID]map[string]chan struct{}{}}
	f.ctx, f.cancel = context.WithCancel(e.ctx)
	return f
}

func (f *follower) wait() { f.wg.Wait() }

// end ends following all logs.
func (f *follower) end() {
	f.mu.Lock()
	f.cancel()
	f.ctx = nil
	f.mu.Unlock()
	f.wg.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.active)
	f.ctx, f.cancel = context.WithCancel(f.engine.ctx)
}

// see looks whether a pod has containers whose logs are to be followed from now on.
func (f *follower) see(p *corev1.Pod) {
	if p == nil || f.engine.ctx.Err() != nil {
		return
	}
	id := trysail.PodID(p.Name)
	dir := f.engine.logDir(id)
	if dir == "" {
		return
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.ContainerID == "" || s.State.Running == nil && s.State.Terminated == nil {
			continue
		}
		f.begin(id, dir, s.Name)
	}
}

// begin follows a container, unless it is followed already.
func (f *follower) begin(id trysail.PodID, dir, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx == nil || f.active[id][name] != nil {
		return
	}
	if f.active[id] == nil {
		f.active[id] = map[string]chan struct{}{}
	}
	ctx, done := f.ctx, make(chan struct{})
	f.active[id][name] = done
	f.wg.Go(func() {
		defer close(done)
		f.container(ctx, id, dir, name)
	})
}

// finish waits, not for ever, until the logs of a pod that has ended are complete.
func (f *follower) finish(id trysail.PodID) {
	f.mu.Lock()
	containers := f.active[id]
	delete(f.active, id)
	f.mu.Unlock()
	timer := time.NewTimer(finishTime)
	defer timer.Stop()
	for _, done := range containers {
		select {
		case <-done:
		case <-timer.C:
			return
		}
	}
}

// container follows one container until it has ended and all of its log has been read.
func (f *follower) container(ctx context.Context, id trysail.PodID, dir, name string) {
	log := f.engine.log.With("pod", id, "container", name)
	file, err := f.open(dir, name)
	if err != nil {
		log.ErrorContext(ctx, "the log of a container cannot be written", "error", err)
		return
	}
	defer file.close()
	if !f.whole.Load() {
		var both sync.WaitGroup
		both.Go(func() { f.stream(ctx, id, name, stdout, file) })
		both.Go(func() { f.stream(ctx, id, name, stderr, file) })
		both.Wait()
	}
	if f.whole.Load() {
		f.stream(ctx, id, name, "", file)
	}
}

// open opens the log of a container, to go on with it.
func (f *follower) open(dir, name string) (*logFile, error) {
	if f.engine.cfg.Continue == nil {
		return openLog(dir, name)
	}
	c, err := f.engine.cfg.Continue(dir, name)
	if err != nil {
		return nil, err
	}
	return continueLog(dir, name, c)
}

// stream follows one stream, or all if it is "". It begins again where it was when the connection ends, and once more
// when the container has ended, to be sure that nothing is missing. The cluster has no logs of a pod that is gone.
func (f *follower) stream(ctx context.Context, id trysail.PodID, container, stream string, file *logFile) {
	log := f.engine.log.With("pod", id, "container", container)
	pause := followRetry
	for ctx.Err() == nil && f.engine.watch.pod(id) != nil {
		ended := f.hasEnded(id, container)
		read, err := f.read(ctx, id, container, stream, file, ended)
		switch {
		case apierrors.IsInvalid(err) && stream != "":
			if !f.whole.Swap(true) {
				log.InfoContext(ctx, "the cluster does not tell standard output from standard error")
			}
			return
		case apierrors.IsNotFound(err) || err == nil && ended:
			return
		case err != nil && ctx.Err() == nil:
			log.DebugContext(ctx, "following a log begins again", "error", err)
			if ended && pause >= longestRetry {
				return
			}
		}
		if read {
			pause = followRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		if err != nil {
			pause = min(2*pause, longestRetry)
		}
	}
}

func (f *follower) hasEnded(id trysail.PodID, container string) bool {
	p := f.engine.watch.pod(id)
	if p == nil {
		return true
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.Name == container {
			return s.State.Terminated != nil
		}
	}
	return false
}

// read copies what the cluster has beyond the end of the file, ended being whether the container has ended before. It
// reports whether anything came.
func (f *follower) read(ctx context.Context, id trysail.PodID, container, stream string, file *logFile, ended bool) (some bool, err error) {
	as := stream
	if stream == "" {
		as = stdout
	}
	end := file.end(as)
	options := &corev1.PodLogOptions{Container: container, Follow: true, Timestamps: true}
	if stream != "" {
		wire := map[string]string{stdout: corev1.LogStreamStdout, stderr: corev1.LogStreamStderr}[stream]
		options.Stream = &wire
	}
	if !end.last.IsZero() {
		options.SinceTime = &metav1.Time{Time: end.last.Truncate(time.Second)}
	}
	body, err := f.engine.api.logs.Get().Namespace(f.engine.api.namespace).Resource("pods").Name(string(id)).SubResource("log").
		VersionedParams(options, f.engine.api.codec).Stream(ctx)
	if err != nil {
		return false, err
	}
	defer body.Close()
	return copyLines(body, as, end, file, ended)
}

// copyLines appends to the file the lines of the form "time text" that come after its end. Unless the container has ended,
// a last line without its end was broken off and comes again; one of which parts have been written is cut there.
func copyLines(body io.Reader, stream string, end seen, file *logFile, ended bool) (some bool, err error) {
	lines := bufio.NewReaderSize(body, maxPart)
	old := 0 // lines read with the time of the last one that the file has
	var at time.Time
	skip, within := false, false
	for {
		part, err := lines.ReadSlice('\n')
		over := err != nil && !errors.Is(err, bufio.ErrBufferFull)
		if over && within && !skip {
			return some, errors.Join(beyondEOF(err), file.write(stream, at, part, true))
		}
		if over && (within || len(part) == 0 || !ended) {
			return some, beyondEOF(err)
		}
		whole := err == nil || over
		text := bytes.TrimSuffix(part, []byte("\n"))
		if !within {
			stamp, rest, _ := bytes.Cut(text, []byte(" "))
			if at, err = time.Parse(time.RFC3339Nano, string(stamp)); err != nil {
				return some, fmt.Errorf("the log has a line without a time: %w", err)
			}
			text = rest
			if skip = at.Before(end.last); at.Equal(end.last) {
				old++
				skip = old <= end.count
			}
		}
		within = !whole
		if skip {
			continue
		}
		some = true
		if err := file.write(stream, at, text, whole); err != nil || over {
			return some, err
		}
	}
}

// beyondEOF is the error but for the end of what was to be read.
func beyondEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
