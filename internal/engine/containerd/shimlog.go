package containerd

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	runc "github.com/containerd/go-runc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

// Annotations of a container that tell the shim where its output goes. The engine sets them; containerd passes on what
// begins with "trysail.".
const (
	noteLogPath  = "trysail.log-path"  // the first segment: a path that ends in .log
	noteLogLimit = "trysail.log-limit" // bytes of a segment
)

const (
	defaultLogLimit = 16 << 20
	// pipeSize is the buffer of each of a container's output streams in the kernel. Only what is used takes memory.
	pipeSize = 1 << 20
	// drainTime is how long Delete waits for the last of a container's output.
	drainTime = 10 * time.Second
)

// logService is the shim's task service, with one difference: the output of a container does not go through a pipe to
// containerd, which would write it to the log, but from the container straight to the shim, which writes the log
// itself. A shim lives as long as its containers, so no line is lost when containerd or Trysail are killed.
//
// The pipes to containerd stay: it takes their end for the sign that all of a container's output was seen. So they are
// held open until the log is complete.
type logService struct {
	taskAPI.TTRPCTaskService

	mu    sync.Mutex
	tasks map[string]*loggedTask // by container id
}

// loggedTask is a container whose output the shim writes.
type loggedTask struct {
	stdout, stderr string      // containerd's pipes
	held           []*os.File  // the same, opened
	read, write    [2]*os.File // the container's pipes: stdout, stderr
	done           chan struct{}
}

// newLogService wraps a task service. It changes how runc is started, for the whole process.
func newLogService(inner taskAPI.TTRPCTaskService) *logService {
	s := &logService{TTRPCTaskService: inner, tasks: map[string]*loggedTask{}}
	runc.Monitor = outputMonitor{runc.Monitor, s}
	return s
}

// RegisterTTRPC implements shim.TTRPCService.
func (s *logService) RegisterTTRPC(server *ttrpc.Server) error {
	taskAPI.RegisterTTRPCTaskService(server, s)
	return nil
}

// Create makes a container. Without the annotation, or with a terminal or an input, it is as ever.
func (s *logService) Create(ctx context.Context, r *taskAPI.CreateTaskRequest) (*taskAPI.CreateTaskResponse, error) {
	path, limit := logNotes(ctx, r.Bundle)
	if path == "" || r.Terminal || r.Stdin != "" || r.Checkpoint != "" {
		return s.TTRPCTaskService.Create(ctx, r)
	}
	t, err := newLoggedTask(r.Stdout, r.Stderr)
	if err != nil {
		return nil, err
	}
	s.set(r.ID, t)
	r.Stdout, r.Stderr = "", "" // for the inner service it is a container without output
	resp, err := s.TTRPCTaskService.Create(ctx, r)
	t.closeWrite()
	if err != nil {
		s.set(r.ID, nil)
		t.closeRest()
		return nil, err
	}
	logger := log.G(ctx).WithField("container", r.ID)
	go t.run(openLog(path, limit, func(msg string, err error) { logger.WithError(err).Warn(msg) }))
	return resp, nil
}

// State names containerd's pipes, so that a new containerd finds them.
func (s *logService) State(ctx context.Context, r *taskAPI.StateRequest) (*taskAPI.StateResponse, error) {
	resp, err := s.TTRPCTaskService.State(ctx, r)
	if t := s.get(r.ID); err == nil && t != nil && r.ExecID == "" {
		resp.Stdout, resp.Stderr = t.stdout, t.stderr
	}
	return resp, err
}

// Delete removes an ended container, after the last of its output was written.
func (s *logService) Delete(ctx context.Context, r *taskAPI.DeleteRequest) (*taskAPI.DeleteResponse, error) {
	resp, err := s.TTRPCTaskService.Delete(ctx, r)
	t := s.get(r.ID)
	if err != nil || t == nil || r.ExecID != "" {
		return resp, err
	}
	select {
	case <-t.done:
	case <-time.After(drainTime):
		log.G(ctx).WithField("container", r.ID).Warn("a process outside of the container holds its output open")
	}
	s.set(r.ID, nil)
	return resp, nil
}

func (s *logService) get(id string) *loggedTask {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tasks[id]
}

func (s *logService) set(id string, t *loggedTask) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t == nil {
		delete(s.tasks, id)
	} else {
		s.tasks[id] = t
	}
}

// logNotes reads from a container's specification where its output goes; path is empty if that is not ours to write.
func logNotes(ctx context.Context, bundle string) (path string, limit int64) {
	b, err := os.ReadFile(filepath.Join(bundle, "config.json")) //nolint:gosec // containerd's directory
	if err != nil {
		log.G(ctx).WithError(err).Warn("cannot read a container's specification")
		return "", 0
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(b, &spec); err != nil {
		log.G(ctx).WithError(err).Warn("cannot read a container's specification")
		return "", 0
	}
	path = spec.Annotations[noteLogPath]
	if limit, err = strconv.ParseInt(spec.Annotations[noteLogLimit], 10, 64); err != nil || limit <= 0 {
		limit = defaultLogLimit
	}
	if !filepath.IsAbs(path) {
		path = ""
	}
	return path, limit
}

func newLoggedTask(stdout, stderr string) (*loggedTask, error) {
	t := &loggedTask{stdout: stdout, stderr: stderr, done: make(chan struct{})}
	for i := range t.read {
		// Not os.Pipe: the container's end must block when the pipe is full.
		var fds [2]int
		err := unix.Pipe2(fds[:], unix.O_CLOEXEC)
		if err == nil {
			t.write[i] = os.NewFile(uintptr(fds[1]), "output")
			err = unix.SetNonblock(fds[0], true)
			t.read[i] = os.NewFile(uintptr(fds[0]), "output")
		}
		if err != nil {
			t.closeWrite()
			t.closeRest()
			return nil, err
		}
		// Where that is too much for the machine's settings, the usual 64 KiB do.
		_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize)
	}
	for _, path := range slices.Compact([]string{stdout, stderr}) {
		if path == "" {
			continue
		}
		// Opened for both, a fifo does not wait for the other side.
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			t.closeWrite()
			t.closeRest()
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		t.held = append(t.held, os.NewFile(uintptr(fd), path))
	}
	return t, nil
}

// run writes the log until the container and all its processes have closed their output.
func (t *loggedTask) run(l *logFile) {
	defer close(t.done)
	var wg sync.WaitGroup
	for i, r := range t.read {
		wg.Go(func() { copyLog(l, i, r) })
	}
	wg.Wait()
	l.close()
	t.closeRest()
}

func (t *loggedTask) closeWrite() { closeAll(t.write[:]) }

func (t *loggedTask) closeRest() {
	closeAll(t.read[:])
	closeAll(t.held)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}

// outputMonitor starts runc. When that creates one of our containers, it gets the container's pipes as its output, which
// runc hands down to the container.
type outputMonitor struct {
	runc.ProcessMonitor
	service *logService
}

func (m outputMonitor) Start(c *exec.Cmd) (chan runc.Exit, error) {
	m.redirect(c)
	return m.ProcessMonitor.Start(c)
}

func (m outputMonitor) StartLocked(c *exec.Cmd) (chan runc.Exit, error) {
	m.redirect(c)
	return m.ProcessMonitor.StartLocked(c)
}

func (m outputMonitor) redirect(c *exec.Cmd) {
	// runc [global options] create --bundle … <id>
	if !slices.Contains(c.Args, "create") {
		return
	}
	if t := m.service.get(c.Args[len(c.Args)-1]); t != nil {
		c.Stdout, c.Stderr = t.write[0], t.write[1]
	}
}
