package enginetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/trysail/trysail"
)

// oomExitCode is 128 + SIGKILL.
const oomExitCode = 137

// memoryPod is a pod of a Memory engine. The engine's mutex guards it.
type memoryPod struct {
	engine     *Memory
	pod        trysail.Pod // without Containers
	node       string
	limits     trysail.Limits
	logDir     string
	containers map[string]*memoryContainer
}

// killLocked ends what runs, and returns the names of it.
func (p *memoryPod) killLocked() (names []string) {
	for _, name := range slices.Sorted(maps.Keys(p.containers)) {
		if c := p.containers[name]; c.status.State == trysail.ContainerRunning {
			c.endLocked(oomExitCode, false)
			names = append(names, name)
		}
	}
	return names
}

func (p *memoryPod) memoryLocked() (sum int64) {
	for _, c := range p.containers {
		if c.status.State == trysail.ContainerRunning {
			sum += c.memory
		}
	}
	return sum
}

// memoryContainer is a container of a Memory engine: a goroutine that runs a Program. The engine's mutex guards its
// status, memory and listeners.
type memoryContainer struct {
	pod       *memoryPod
	spec      trysail.ContainerSpec
	image     Image
	status    trysail.ContainerStatus
	memory    int64
	listeners []net.Listener
	term      chan struct{} // closed by the first SIGTERM
	termed    bool
	ended     chan struct{} // closed when the container has ended
	log       *criLog       // nil if the pod has no log directory
}

func newMemoryContainer(p *memoryPod, spec trysail.ContainerSpec, image Image) (*memoryContainer, error) {
	if image.Program == nil {
		image.Program = Wait
	}
	if image.Entrypoint == nil {
		image.Entrypoint = []string{"/program"}
	}
	c := &memoryContainer{
		pod: p, spec: spec, image: image,
		status: trysail.ContainerStatus{Name: spec.Name, State: trysail.ContainerRunning, StartedAt: time.Now()},
		term:   make(chan struct{}),
		ended:  make(chan struct{}),
	}
	if p.logDir != "" {
		log, err := openCRILog(filepath.Join(p.logDir, spec.Name+".log"))
		if err != nil {
			return nil, err
		}
		c.log = log
	}
	return c, nil
}

// run runs the program until it returns, or until somebody ends the container: its goroutine cannot be killed, but
// whatever it does next through its Process ends it.
func (c *memoryContainer) run() {
	done := make(chan int, 1)
	c.pod.engine.wg.Go(func() {
		code := oomExitCode
		defer func() { done <- code }() // also after runtime.Goexit
		code = c.image.Program(c.process())
	})
	select {
	case code := <-done:
		c.pod.engine.mu.Lock()
		if c.status.State == trysail.ContainerRunning {
			c.endLocked(code, false)
		}
		c.pod.engine.mu.Unlock()
	case <-c.ended:
	}
	if c.log != nil {
		c.log.Close()
	}
}

func (c *memoryContainer) process() *Process {
	command := c.spec.Command
	if len(command) == 0 {
		command = c.image.Command
	}
	p := &Process{
		Hostname: string(c.pod.pod.ID),
		Args:     slices.Concat(c.image.Entrypoint, command),
		Env:      c.spec.Environment,
		Term:     c.term,
		Killed:   c.ended,
		Stdout:   discard{},
		Stderr:   discard{},
		Listen:   c.listen,
		Dial:     c.dial,
		Alloc:    c.alloc,
	}
	if c.log != nil {
		p.Stdout, p.Stderr = c.log.stream("stdout"), c.log.stream("stderr")
	}
	return p
}

func (c *memoryContainer) terminateLocked() {
	if !c.termed {
		c.termed = true
		close(c.term)
	}
}

// endLocked ends a running container.
func (c *memoryContainer) endLocked(code int, oom bool) {
	c.status.State = trysail.ContainerExited
	c.status.FinishedAt = time.Now()
	c.status.ExitCode = code
	c.status.OOMKilled = oom
	for _, l := range c.listeners {
		l.Close()
	}
	close(c.ended)
	c.pod.engine.changedLocked()
}

func (c *memoryContainer) listen(port int) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", fmt.Sprintf("%s:%d", c.pod.pod.Addr, port))
	if err != nil {
		return nil, err
	}
	c.pod.engine.mu.Lock()
	defer c.pod.engine.mu.Unlock()
	if c.status.State != trysail.ContainerRunning {
		l.Close()
		return nil, net.ErrClosed
	}
	c.listeners = append(c.listeners, l)
	return l, nil
}

func (c *memoryContainer) dial(port int) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	return d.DialContext(context.Background(), "tcp", fmt.Sprintf("%s:%d", c.pod.pod.Addr, port))
}

// alloc accounts the bytes to the pod. The one that goes over the limit is killed, as the kernel would.
func (c *memoryContainer) alloc(n int64) {
	m := c.pod.engine
	m.mu.Lock()
	if c.status.State == trysail.ContainerRunning {
		c.memory += n
		if limit := c.pod.limits.Memory; limit > 0 && c.pod.memoryLocked() > limit {
			c.endLocked(oomExitCode, true)
		}
	}
	alive := c.status.State == trysail.ContainerRunning
	m.mu.Unlock()
	if !alive {
		runtime.Goexit()
	}
}

// criLog writes a container's output as CRI does: one line per write or line, with time, stream and tag.
type criLog struct {
	mu sync.Mutex // keeps lines whole
	f  *os.File
}

func openCRILog(path string) (*criLog, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // the pod says where its logs go
	if err != nil {
		return nil, err
	}
	return &criLog{f: f}, nil
}

func (l *criLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}

func (l *criLog) stream(name string) *criStream { return &criStream{log: l, name: name} }

// criStream is stdout or stderr of one container.
type criStream struct {
	log  *criLog
	name string
}

func (s *criStream) Write(p []byte) (int, error) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	var b bytes.Buffer
	for line := range bytes.Lines(p) {
		tag := "F"
		if !bytes.HasSuffix(line, []byte("\n")) {
			tag = "P"
		}
		fmt.Fprintf(&b, "%s %s %s %s\n", time.Now().UTC().Format(time.RFC3339Nano), s.name, tag, bytes.TrimSuffix(line, []byte("\n")))
	}
	if _, err := s.log.f.Write(b.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
