package cri_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine/cri"
)

// helperEnv makes the test binary a process that holds an engine open until it is killed. Its value is the engine's
// Dir and StateDir and an image to prepare, which may be empty, separated by colons.
const helperEnv = "TRYSAIL_TEST_ENGINE"

// runHelper is what that process does.
func runHelper(dirs string) error {
	dir, state, _ := strings.Cut(dirs, ":")
	state, image, _ := strings.Cut(state, ":")
	e, err := cri.Open(context.Background(), cri.Config{Dir: dir, StateDir: state, Images: newSupply(dir)}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if image != "" {
		if err := e.Prepare(context.Background(), image); err != nil {
			return err
		}
	}
	select {}
}

// helper starts another process that opens the engine and prepares an image, if one is named.
func (r *rig) helper(image string) *exec.Cmd {
	r.tb.Helper()
	self, err := os.Executable()
	if err != nil {
		r.tb.Fatal(err)
	}
	helper := exec.Command(self)
	helper.Env = append(os.Environ(), helperEnv+"="+r.cfg.Dir+":"+r.cfg.StateDir+":"+image)
	out, err := helper.StdoutPipe()
	if err != nil {
		r.tb.Fatal(err)
	}
	helper.Stderr = r.tb.Output()
	if err := helper.Start(); err != nil {
		r.tb.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 8)); err != nil {
		r.tb.Fatalf("the other process: %v", err)
	}
	return helper
}

// podPIDs lists the processes of the pod, seen from the host. Other engines may run pods of the same name.
func (r *rig) podPIDs(id trysail.PodID) (pids []int) {
	r.tb.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		r.tb.Fatal(err)
	}
	sum := sha256.Sum256([]byte(r.cfg.Dir))
	cgroup := fmt.Sprintf(":/trysail/%x/%s/", sum[:4], id)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(b), cgroup) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// daemonPID is the process id of the engine's containerd.
func (r *rig) daemonPID() int {
	r.tb.Helper()
	b, err := os.ReadFile(filepath.Join(r.cfg.StateDir, "containerd.pid"))
	if err != nil {
		r.tb.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		r.tb.Fatal(err)
	}
	return pid
}

// logNumbers reads all files of a log, oldest first, and fails unless they hold "line 0", "line 1" … without a gap. It
// returns the number of the last line.
func logNumbers(tb testing.TB, dir, container string) int {
	tb.Helper()
	n := 0
	for i := 0; ; i++ {
		name := filepath.Join(dir, container+".log")
		if i > 0 {
			name = filepath.Join(dir, container+"."+strconv.Itoa(i)+".log")
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return n
		}
		for line := range strings.Lines(string(b)) {
			if !strings.HasSuffix(line, "\n") {
				break // being written
			}
			if f := strings.Fields(line); len(f) != 5 || f[4] != strconv.Itoa(n) {
				tb.Fatalf("%s: after line %d comes %q", name, n-1, line)
			}
			n++
		}
	}
}

func TestEngine_SurvivesAKilledContainerd(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, nil)
	spec := podSpec("killed", images.program, "serve 8080", "print 1000000 1ms", "print 1000000 10us")
	spec.LogDir = t.TempDir()
	before := r.start(spec)
	awaitHTTP(t, before, 8080)
	pids, daemon := r.podPIDs(spec.ID), r.daemonPID()
	if len(pids) != 4 { // with pause
		t.Fatalf("processes of the pod: %v", pids)
	}
	changed := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var changes atomic.Int64
	go func() {
		defer close(changed)
		for range r.engine.Changes(ctx) {
			changes.Add(1)
		}
	}()
	lines := logNumbers(t, spec.LogDir, "b")
	if err := syscall.Kill(daemon, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killed, seen := time.Now(), changes.Load()
	r.wait("containerd is killed", func() bool { return syscall.Kill(daemon, 0) != nil })
	awaitHTTP(t, before, 8080)
	r.wait("the engine works again", func() bool { return r.engine.Check(t.Context()) == nil && r.daemonPID() != daemon })
	t.Logf("containerd was away for %v", time.Since(killed).Round(time.Millisecond))
	after := r.pod(spec.ID)
	if !after.Running(3) || after.Addr != before.Addr {
		t.Errorf("after: %+v, before: %+v", after, before)
	}
	for i, c := range after.Containers {
		if !c.StartedAt.Equal(before.Containers[i].StartedAt) {
			t.Errorf("container %s was started again", c.Name)
		}
	}
	if now := r.podPIDs(spec.ID); !slices.Equal(now, pids) {
		t.Errorf("processes of the pod: %v, before %v", now, pids)
	}
	r.wait("the log goes on", func() bool { return logNumbers(t, spec.LogDir, "b") > lines+2000 })
	logNumbers(t, spec.LogDir, "c")
	if changes.Load() == seen {
		t.Error("the restart was not announced as a change")
	}
	cancel()
	<-changed
}

func TestEngine_KnowsHowContainersEndedMeanwhile(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, nil)
	spec := podSpec("gap", images.program, "exit 5 1s", "alloc 200000000 1s", "serve 8080")
	spec.Limits.Memory = 100 << 20
	r.start(spec)
	n := len(r.podPIDs(spec.ID))
	r.close()
	if n != 4 {
		t.Fatalf("%d processes before the gap, want 4", n)
	}
	r.wait("two containers end, and their shims note it", func() bool {
		noted, err := filepath.Glob(filepath.Join(r.cfg.StateDir, "state", "io.containerd.runtime.v2.task", "k8s.io", "*", "exit.json"))
		return err == nil && len(noted) == 2 && len(r.podPIDs(spec.ID)) == 2
	})
	ended := time.Now()
	r.open()
	check := func() {
		t.Helper()
		p := r.pod(spec.ID)
		a, b, c := p.Containers[0], p.Containers[1], p.Containers[2]
		if a.State != trysail.ContainerExited || a.ExitCode != 5 || a.OOMKilled || a.FinishedAt.After(ended) {
			t.Errorf("container that ended with 5 at %v: %+v", ended, a)
		}
		if b.State != trysail.ContainerExited || b.ExitCode != 137 || !b.OOMKilled {
			t.Errorf("container that used too much memory: %+v", b)
		}
		if c.State != trysail.ContainerRunning {
			t.Errorf("container that runs on: %+v", c)
		}
	}
	check()
	r.close() // what the shims have left is gone now; the journal still knows
	r.open()
	check()
}

func TestEngine_SurvivesItsKilledProcess(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, nil)
	spec := podSpec("orphan", images.program, "serve 8080", "print 1000000 1ms")
	spec.LogDir = t.TempDir()
	before := r.start(spec)
	pids := r.podPIDs(spec.ID)
	r.close()

	helper := r.helper("")
	if _, err := cri.Open(t.Context(), r.cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("opening an engine that another process has open: %v", err)
	}
	if err := helper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = helper.Wait()
	r.open() // at once, while its containerd is still there
	after := r.pod(spec.ID)
	if !after.Running(2) || !after.CreatedAt.Equal(before.CreatedAt) {
		t.Errorf("after: %+v", after)
	}
	awaitHTTP(t, after, 8080)
	if now := r.podPIDs(spec.ID); !slices.Equal(now, pids) {
		t.Errorf("processes of the pod: %v, before %v", now, pids)
	}
	lines := logNumbers(t, spec.LogDir, "b")
	r.wait("the log goes on", func() bool { return logNumbers(t, spec.LogDir, "b") > lines })
}

func TestEngine_ReportsALostPod(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, nil)
	spec := podSpec("lost", images.program, "wait")
	r.start(spec)
	shims := r.shimPIDs()
	if len(shims) != 1 {
		t.Fatalf("shims %v, want one", shims)
	}
	if err := syscall.Kill(shims[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.wait("the pod is lost", func() bool { return r.pod(spec.ID).Lost })
	if p := r.pod(spec.ID); !p.Crashed() || p.Running(1) {
		t.Errorf("lost pod: %+v", p)
	}
	if err := r.engine.Start(t.Context(), spec); err != nil {
		t.Errorf("Start of a lost pod: %v", err)
	}
	if _, err := r.engine.Stop(t.Context(), spec.ID, time.Second); err != nil {
		t.Errorf("Stop of a lost pod: %v", err)
	}
	// Those that had to be killed may wait for init to look after them.
	r.wait("no process is left", func() bool { return len(r.podPIDs(spec.ID)) == 0 })
}

// TestOpen_EndsPodsThatContainerdHasForgotten: whoever loses containerd's records must not keep the pods' processes,
// which hold addresses that new pods get.
func TestOpen_EndsPodsThatContainerdHasForgotten(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, nil)
	spec := podSpec("forgotten", images.program, "serve 8080")
	r.start(spec)
	if len(r.podPIDs(spec.ID)) == 0 {
		t.Fatal("the pod has no processes")
	}
	shims := r.shimPIDs()
	r.close()
	for _, pid := range shims {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range slices.Backward(strings.Split(string(mounts), "\n")) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], r.cfg.StateDir+"/") {
			if err := syscall.Unmount(f[1], syscall.MNT_DETACH); err != nil {
				t.Fatalf("unmounting %s: %v", f[1], err)
			}
		}
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(r.cfg.StateDir, "state")), os.RemoveAll(filepath.Join(r.cfg.Dir, "data"))); err != nil {
		t.Fatal(err)
	}
	if len(r.podPIDs(spec.ID)) == 0 {
		t.Fatal("the pod's processes went with its shim")
	}
	r.open()
	if pods, err := r.engine.Pods(t.Context()); err != nil || len(pods) != 0 {
		t.Errorf("Pods: %+v, %v, want none", pods, err)
	}
	r.wait("no process is left", func() bool { return len(r.podPIDs(spec.ID)) == 0 })
	if err := r.engine.Prepare(t.Context(), images.program); err != nil {
		t.Fatal(err)
	}
	again := podSpec("again", images.program, "serve 8080")
	awaitHTTP(t, r.start(again), 8080)
}

// shimPIDs lists the processes of the engine's shims.
func (r *rig) shimPIDs() (pids []int) {
	r.tb.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		r.tb.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(b), "\x00-namespace\x00") && strings.Contains(string(b), r.cfg.StateDir) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestEngine_FinishesStartsThatACrashCutShort kills containerd at many moments of a start. Whatever is half done then,
// starting again makes one whole pod of it, and nothing is left when that is stopped.
func TestEngine_FinishesStartsThatACrashCutShort(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, nil)
	if err := r.engine.Prepare(t.Context(), images.program); err != nil {
		t.Fatal(err)
	}
	for delay := time.Duration(0); delay < 240*time.Millisecond; delay += 30 * time.Millisecond {
		spec := podSpec(trysail.PodID(fmt.Sprintf("cut-%d", delay.Milliseconds())), images.program, "serve 8080", "wait")
		daemon := r.daemonPID()
		first := make(chan error, 1)
		go func() { first <- r.engine.Start(t.Context(), spec) }()
		time.Sleep(delay)
		if err := syscall.Kill(daemon, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		t.Logf("killed after %v: %v", delay, <-first)
		var err error
		r.wait("start succeeds", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err = r.engine.Start(ctx, spec)
			return err == nil
		})
		pods, err := r.engine.Pods(t.Context())
		if err != nil || len(pods) != 1 || !pods[0].Running(2) {
			t.Fatalf("killed after %v: pods %+v, %v", delay, pods, err)
		}
		awaitHTTP(t, pods[0], 8080)
		if _, err := r.engine.Stop(t.Context(), spec.ID, 0); err != nil {
			t.Fatalf("Stop: %v", err)
		}
		// Those that had to be killed may wait for init to look after them.
		r.wait("no process is left", func() bool { return len(r.podPIDs(spec.ID)) == 0 })
	}
	r.close()
	r.open()
	r.wait("no shim is left", func() bool { return len(r.shimPIDs()) == 0 })
	leases, err := filepath.Glob(r.cfg.StateDir + "/ipam/trysail/10.*")
	if err != nil || len(leases) > 0 {
		t.Errorf("addresses that nobody has are still leased: %v, %v", leases, err)
	}
}

func TestOpen_SaysWhyContainerdFails(t *testing.T) {
	dir := t.TempDir()
	bolt := filepath.Join(dir, "data", "io.containerd.metadata.v1.bolt")
	if err := os.MkdirAll(bolt, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bolt, "meta.db"), make([]byte, 1<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := cri.Config{Dir: dir, StateDir: "/run/tst-broken", Images: newSupply(dir)}
	defer func() {
		if err := cri.Purge(context.WithoutCancel(t.Context()), cfg); err != nil {
			t.Errorf("purging: %v", err)
		}
	}()
	e, err := cri.Open(t.Context(), cfg, quiet())
	if err == nil {
		t.Error("a broken database is no error")
		_ = e.Close()
	} else if !strings.Contains(err.Error(), "invalid database") {
		t.Errorf("Open: %v", err)
	}
}
