package enginetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

// Fixture is an engine with what the conformance suite needs to try it.
type Fixture struct {
	Engine engine.Engine
	// Image is an image by digest that runs TestProgram. Its ENTRYPOINT is a program and the word "--entry", its CMD is
	// "wait".
	Image string
	// Missing is an image by digest that its registry does not have.
	Missing string
	// Broken is an image by digest whose ENTRYPOINT names a file that is not there.
	Broken string
	// Reopen closes the engine, as the end of its process would, and returns another one on the same state.
	Reopen func(t *testing.T) engine.Engine
}

// patience bounds every wait of the suite. It is generous: a wait ends when the awaited thing has happened.
const patience = 60 * time.Second

// Run is the conformance suite: what every engine.Engine does. open makes a fixture for one test; it registers its
// own clean-up.
func Run(t *testing.T, open func(t *testing.T) Fixture) {
	for _, tt := range []struct {
		name string
		test func(*suite)
	}{
		{"Node_ReportsTheMachine", (*suite).node},
		{"Prepare_KnowsPresentAndMissingImages", (*suite).prepare},
		{"Start_RunsAPodThatServes", (*suite).startServes},
		{"Start_TwiceChangesNothing", (*suite).startTwice},
		{"Start_OfAnEndedPodChangesNothing", (*suite).startEnded},
		{"Start_AtOnceFromManySidesMakesOnePod", (*suite).startConcurrently},
		{"Start_ReportsWhatCannotBeStarted", (*suite).startError},
		{"Containers_ShareLocalhost", (*suite).localhost},
		{"Containers_GetEnvironmentAndHostname", (*suite).environment},
		{"Command_ReplacesCmdAndKeepsEntrypoint", (*suite).command},
		{"Status_HasTheExitCode", (*suite).exitCode},
		{"Status_BlamesTheContainerThatUsedTooMuchMemory", (*suite).oom},
		{"Stop_LetsAPodFinishAndRemovesIt", (*suite).stopGrace},
		{"Stop_KillsAfterTheGraceAndSaysWhom", (*suite).stopKills},
		{"Stop_NamesOnlyWhoIgnoredTheGrace", (*suite).stopNames},
		{"Stop_OfAnAbsentPodIsNoError", (*suite).stopAbsent},
		{"Logs_HoldEveryLineAndStay", (*suite).logs},
		{"Changes_TellOfStartExitAndStop", (*suite).changes},
		{"Pods_AreStillThereAfterReopen", (*suite).reopen},
		{"Usage_CountsRunningPods", (*suite).usage},
		{"Check_IsNilWhenAllIsWell", (*suite).check},
		{"Context_EndsCalls", (*suite).cancelled},
		{"Nodes_ListEachPodOnce", (*suite).nodes},
		{"Cordon_MakesPodsLeaveForOtherNodes", (*suite).cordon},
		{"Exec_RunsACommandInTheContainer", (*suite).execRuns},
		{"Exec_PassesOnTheInputToItsEnd", (*suite).execStdin},
		{"Exec_HasATerminalThatChangesItsSize", (*suite).execTerminal},
		{"Exec_SaysWhatCannotBeRun", (*suite).execErrors},
		{"Exec_EndsWithItsContext", (*suite).execCancelled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.test(&suite{T: t, Fixture: open(t), logDir: t.TempDir()})
		})
	}
}

type suite struct {
	*testing.T
	Fixture
	logDir string
}

// podNumber makes the names of pods unique, also among tests that share an engine.
var podNumber atomic.Int64

// spec returns a pod with containers named a, b, … that run the commands.
func (s *suite) spec(commands ...string) trysail.PodSpec {
	id := trysail.PodID(fmt.Sprintf("pod-%d-%d", time.Now().UnixNano(), podNumber.Add(1)))
	p := trysail.PodSpec{
		ID: id, Service: "web", ServiceID: "11111111-2222-3333-4444-555555555555", Version: 7,
		Limits: trysail.Limits{MilliCPU: 1000, Memory: 256 << 20}, LogDir: filepath.Join(s.logDir, string(id)),
	}
	for i, c := range commands {
		p.Containers = append(p.Containers, trysail.ContainerSpec{
			Name: string(rune('a' + i)), Image: s.Image, Command: strings.Fields(c),
		})
	}
	return p
}

// start prepares the images and starts the pod, and stops it at the end of the test.
func (s *suite) start(spec trysail.PodSpec) trysail.Pod {
	s.Helper()
	for _, c := range spec.Containers {
		if err := s.Engine.Prepare(s.Context(), c.Image); err != nil {
			s.Fatalf("Prepare(%s): %v", c.Image, err)
		}
	}
	if err := s.Engine.Start(s.Context(), spec); err != nil {
		s.Fatalf("Start: %v", err)
	}
	s.Cleanup(func() {
		if _, err := s.Engine.Stop(context.WithoutCancel(s.Context()), spec.ID, 0); err != nil {
			s.Errorf("stopping the pod at the end: %v", err)
		}
	})
	return s.pod(spec.ID)
}

// pod returns the pod, which must be there.
func (s *suite) pod(id trysail.PodID) trysail.Pod {
	s.Helper()
	p, ok := s.find(id)
	if !ok {
		s.Fatalf("Pods does not list %s", id)
	}
	return p
}

func (s *suite) find(id trysail.PodID) (trysail.Pod, bool) {
	s.Helper()
	pods, err := s.Engine.Pods(s.Context())
	if err != nil {
		s.Fatalf("Pods: %v", err)
	}
	i := slices.IndexFunc(pods, func(p trysail.Pod) bool { return p.ID == id })
	if i < 0 {
		return trysail.Pod{}, false
	}
	return pods[i], true
}

// wait polls until ok, and fails the test when that takes too long.
func (s *suite) wait(what string, ok func() bool) {
	s.Helper()
	end := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(end) {
			s.Fatalf("waited %v in vain: %s", patience, what)
		}
		select {
		case <-s.Context().Done():
			s.Fatalf("%s: %v", what, s.Context().Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// exited waits until the container has ended and returns its status.
func (s *suite) exited(id trysail.PodID, name string) (st trysail.ContainerStatus) {
	s.Helper()
	s.wait("container "+name+" ends", func() bool {
		st = status(s.pod(id), name)
		return st.State == trysail.ContainerExited
	})
	return st
}

func status(p trysail.Pod, name string) trysail.ContainerStatus {
	for _, c := range p.Containers {
		if c.Name == name {
			return c
		}
	}
	return trysail.ContainerStatus{}
}

// get asks a pod on port 8080, again and again until it answers.
func (s *suite) get(p trysail.Pod, path string) (body string) {
	s.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	s.wait("pod "+string(p.ID)+" answers", func() bool {
		var err error
		body, err = fetch(s.Context(), client, fmt.Sprintf("http://%s:8080%s", p.Addr, path))
		return err == nil
	})
	return body
}

func fetch(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), err
}

func (s *suite) node() {
	n, err := s.Engine.Node(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	if n.OS != "linux" || n.Architecture == "" || n.CPUs < 1 || n.Memory < 64<<20 || n.Name == "" {
		s.Errorf("Node() = %+v", n)
	}
}

func (s *suite) prepare() {
	for range 2 {
		if err := s.Engine.Prepare(s.Context(), s.Image); err != nil {
			s.Fatalf("Prepare of an image that is there: %v", err)
		}
	}
	err := s.Engine.Prepare(s.Context(), s.Missing)
	ie, ok := errors.AsType[*trysail.ImageError](err)
	if !ok {
		s.Fatalf("Prepare of a missing image: %v (%T), want a *trysail.ImageError", err, err)
	}
	if !ie.Final || ie.Code == "" || ie.Message == "" || ie.Fix == "" || ie.Image == "" {
		s.Errorf("Prepare of a missing image: %+v", ie)
	}
}

func (s *suite) startServes() {
	spec := s.spec("serve 8080")
	before := time.Now().Add(-time.Second)
	p := s.start(spec)
	if !p.Running(1) || p.Crashed() {
		s.Errorf("after Start: %+v", p)
	}
	if p.ServiceID != spec.ServiceID || p.Version != spec.Version || !p.Addr.IsValid() {
		s.Errorf("after Start: %+v", p)
	}
	st := status(p, "a")
	for what, at := range map[string]time.Time{"CreatedAt": p.CreatedAt, "StartedAt": st.StartedAt} {
		if at.Before(before) || at.After(time.Now()) {
			s.Errorf("%s = %v, now is %v", what, at, time.Now())
		}
	}
	if !st.FinishedAt.IsZero() || st.OOMKilled || st.StartError != "" {
		s.Errorf("status of a running container: %+v", st)
	}
	s.get(p, "/hostname")
}

func (s *suite) startTwice() {
	spec := s.spec("serve 8080", "wait")
	first := s.start(spec)
	if err := s.Engine.Start(s.Context(), spec); err != nil {
		s.Fatalf("second Start: %v", err)
	}
	second := s.pod(spec.ID)
	if first.Addr != second.Addr || !first.CreatedAt.Equal(second.CreatedAt) || len(second.Containers) != 2 {
		s.Errorf("second Start made %+v out of %+v", second, first)
	}
	for i, c := range second.Containers {
		if !c.StartedAt.Equal(first.Containers[i].StartedAt) {
			s.Errorf("container %s was started again", c.Name)
		}
	}
}

func (s *suite) startEnded() {
	spec := s.spec("exit 3")
	s.start(spec)
	first := s.exited(spec.ID, "a")
	if err := s.Engine.Start(s.Context(), spec); err != nil {
		s.Fatalf("Start of an ended pod: %v", err)
	}
	if again := status(s.pod(spec.ID), "a"); again.State != trysail.ContainerExited || !again.FinishedAt.Equal(first.FinishedAt) {
		s.Errorf("Start of an ended pod made %+v out of %+v", again, first)
	}
}

func (s *suite) startConcurrently() {
	spec := s.spec("serve 8080")
	if err := s.Engine.Prepare(s.Context(), s.Image); err != nil {
		s.Fatal(err)
	}
	errs := make(chan error)
	const n = 4
	for range n {
		go func() { errs <- s.Engine.Start(s.Context(), spec) }()
	}
	for range n {
		if err := <-errs; err != nil {
			s.Errorf("Start: %v", err)
		}
	}
	p := s.start(spec)
	pods, err := s.Engine.Pods(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	count := 0
	for _, q := range pods {
		if q.ID == spec.ID {
			count++
		}
	}
	if count != 1 || !p.Running(1) {
		s.Errorf("%d pods, %+v", count, p)
	}
}

func (s *suite) startError() {
	spec := s.spec("wait", "wait")
	spec.Containers[0].Image = s.Broken
	p := s.start(spec)
	broken, well := status(p, "a"), status(p, "b")
	if broken.State != trysail.ContainerExited || broken.StartError == "" || !broken.StartedAt.IsZero() {
		s.Errorf("container that cannot be started: %+v", broken)
	}
	if well.State != trysail.ContainerRunning {
		s.Errorf("the other container: %+v", well)
	}
	if !p.Crashed() || p.Running(2) {
		s.Errorf("Crashed() = %v, Running(2) = %v", p.Crashed(), p.Running(2))
	}
}

func (s *suite) localhost() {
	p := s.start(s.spec("serve 8080", "serve 8081"))
	if got := s.get(p, "/get?port=8081&path=/args"); !strings.Contains(got, "serve\n8081\n") {
		s.Errorf("one container asked the other through localhost and got %q", got)
	}
}

func (s *suite) environment() {
	spec := s.spec("serve 8080")
	want := map[string]string{"GREETING": "hello world", "EMPTY": "", "UNICODE": "grüß dich", "EQ": "a=b=c", "DOLLAR": "$GREETING"}
	spec.Containers[0].Environment = maps.Clone(want)
	p := s.start(spec)
	got := strings.Split(s.get(p, "/env"), "\n")
	for k, v := range want {
		if !slices.Contains(got, k+"="+v) {
			s.Errorf("%s is not %q in the container: %q", k, v, got)
		}
	}
	if name := strings.TrimSpace(s.get(p, "/hostname")); name == "" {
		s.Error("the container has no host name")
	}
}

func (s *suite) command() {
	p := s.start(s.spec("serve 8080 one two"))
	args := strings.Fields(s.get(p, "/args"))
	if want := []string{"--entry", "serve", "8080", "one", "two"}; len(args) == 0 || !slices.Equal(args[1:], want) {
		s.Errorf("arguments %q, want the program and %q", args, want)
	}
	// Without a command the image's CMD applies: "wait".
	if q := s.start(s.spec("")); !q.Running(1) {
		s.Errorf("pod without a command: %+v", q)
	}
}

func (s *suite) exitCode() {
	spec := s.spec("exit 0", "exit 7", "serve 8080")
	p := s.start(spec)
	if zero := s.exited(spec.ID, "a"); zero.ExitCode != 0 || zero.OOMKilled || zero.StartError != "" {
		s.Errorf("after exit 0: %+v", zero)
	}
	if seven := s.exited(spec.ID, "b"); seven.ExitCode != 7 || seven.OOMKilled || seven.FinishedAt.Before(seven.StartedAt) {
		s.Errorf("after exit 7: %+v", seven)
	}
	s.get(p, "/exit?code=42")
	if st := s.exited(spec.ID, "c"); st.ExitCode != 42 {
		s.Errorf("after exit 42: %+v", st)
	}
	if p := s.pod(spec.ID); !p.Crashed() || p.Lost {
		s.Errorf("pod whose containers have ended: %+v", p)
	}
}

// oom lets the containers together go over the pod's limit, which neither does alone.
func (s *suite) oom() {
	spec := s.spec("alloc 20000000", "alloc 80000000 300ms")
	spec.Limits.Memory = 80 << 20
	s.start(spec)
	b := s.exited(spec.ID, "b")
	if b.ExitCode != 137 || !b.OOMKilled {
		s.Errorf("the container that used too much: %+v", b)
	}
	if a := status(s.pod(spec.ID), "a"); a.State != trysail.ContainerRunning || a.OOMKilled {
		s.Errorf("the container that did nothing wrong: %+v", a)
	}
}

func (s *suite) stopGrace() {
	spec := s.spec("serve 8080", "wait")
	p := s.start(spec)
	s.get(p, "/hostname")
	began := time.Now()
	if _, err := s.Engine.Stop(s.Context(), spec.ID, patience); err != nil {
		s.Fatalf("Stop: %v", err)
	}
	if took := time.Since(began); took > patience/2 {
		s.Errorf("Stop took %v although the containers end on SIGTERM", took)
	}
	if p, ok := s.find(spec.ID); ok {
		s.Errorf("after Stop there is still %+v", p)
	}
}

func (s *suite) stopKills() {
	spec := s.spec("ignore", "wait", "ignore")
	s.start(spec)
	for _, name := range []string{"a", "c"} {
		s.wait("container "+name+" ignores SIGTERM", func() bool {
			return slices.Contains(s.logLines(filepath.Join(spec.LogDir, name+".log")), "stdout F ignoring")
		})
	}
	began := time.Now()
	const grace = 4 * time.Second // on a busy machine it takes some time to die of SIGTERM, too
	killed, err := s.Engine.Stop(s.Context(), spec.ID, grace)
	if err != nil {
		s.Fatalf("Stop: %v", err)
	}
	if took := time.Since(began); took < grace {
		s.Errorf("a container that ignores SIGTERM was given only %v of %v", took, grace)
	}
	if !slices.Equal(killed, []string{"a", "c"}) {
		s.Errorf("Stop had to kill %q; the containers that ignore SIGTERM are a and c", killed)
	}
	if _, ok := s.find(spec.ID); ok {
		s.Error("the pod is still there")
	}
}

// stopNames: only who was given time and did not use it has been killed in that sense.
func (s *suite) stopNames() {
	ended := s.spec("exit 3", "wait")
	s.start(ended)
	s.exited(ended.ID, "a")
	at := s.spec("ignore")
	s.start(at)
	for _, tt := range []struct {
		id    trysail.PodID
		grace time.Duration
	}{{ended.ID, patience}, {at.ID, 0}, {"pod-that-never-was", time.Second}} {
		if killed, err := s.Engine.Stop(s.Context(), tt.id, tt.grace); err != nil || len(killed) > 0 {
			s.Errorf("Stop(%s, %v) = %q, %v", tt.id, tt.grace, killed, err)
		}
	}
}

func (s *suite) stopAbsent() {
	if _, err := s.Engine.Stop(s.Context(), "pod-that-never-was", time.Second); err != nil {
		s.Errorf("Stop of a pod that never was: %v", err)
	}
	spec := s.spec("wait")
	s.start(spec)
	for range 2 {
		if _, err := s.Engine.Stop(s.Context(), spec.ID, time.Second); err != nil {
			s.Errorf("Stop: %v", err)
		}
	}
}

func (s *suite) logs() {
	spec := s.spec("print 1000 0", "serve 8080")
	p := s.start(spec)
	s.get(p, "/print?text=grüße")
	file := filepath.Join(spec.LogDir, "a.log")
	s.wait("all lines are in the log", func() bool { return len(s.logLines(file)) >= 1000 })
	s.wait("both streams of the other container are in its log", func() bool {
		other := s.logLines(filepath.Join(spec.LogDir, "b.log"))
		return slices.Contains(other, "stdout F grüße") && slices.Contains(other, "stderr F err grüße")
	})
	if _, err := s.Engine.Stop(s.Context(), spec.ID, 0); err != nil {
		s.Fatal(err)
	}
	lines := s.logLines(file)
	for i, l := range lines {
		if want := fmt.Sprintf("stdout F line %d", i); l != want {
			s.Fatalf("line %d of the log is %q, want %q", i, l, want)
		}
	}
	if len(lines) != 1000 {
		s.Errorf("%d lines after Stop, want 1000", len(lines))
	}
}

// logLines reads a log file and returns its lines without their times, which it checks.
func (s *suite) logLines(file string) (lines []string) {
	s.Helper()
	b, err := os.ReadFile(file) //nolint:gosec // a file of the test
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.Fatal(err)
	}
	for l := range strings.Lines(string(b)) {
		at, rest, _ := strings.Cut(strings.TrimSuffix(l, "\n"), " ")
		if _, err := time.Parse(time.RFC3339Nano, at); err != nil {
			s.Fatalf("line %q: %v", l, err)
		}
		lines = append(lines, rest)
	}
	return lines
}

func (s *suite) changes() {
	ctx, cancel := context.WithCancel(s.Context())
	changed := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range s.Engine.Changes(ctx) {
			select {
			case changed <- struct{}{}:
			case <-ctx.Done():
			}
		}
	}()
	// until waits for changes until ok, looking only when there was one.
	until := func(what string, ok func() bool) {
		s.Helper()
		timeout := time.After(patience)
		for !ok() {
			select {
			case <-changed:
			case <-timeout:
				s.Fatalf("no change was announced: %s", what)
			}
		}
	}
	spec := s.spec("serve 8080", "wait")
	p := s.start(spec)
	until("start", func() bool { q, ok := s.find(spec.ID); return ok && q.Running(2) })
	s.get(p, "/exit?code=1")
	until("exit", func() bool { return status(s.pod(spec.ID), "a").State == trysail.ContainerExited })
	if _, err := s.Engine.Stop(s.Context(), spec.ID, time.Second); err != nil {
		s.Fatal(err)
	}
	until("stop", func() bool { _, ok := s.find(spec.ID); return !ok })
	cancel()
	select {
	case <-done:
	case <-time.After(patience):
		s.Error("Changes goes on after its context has ended")
	}
}

func (s *suite) reopen() {
	running, ended := s.spec("serve 8080", "wait"), s.spec("exit 5")
	before := s.start(running)
	s.start(ended)
	s.exited(ended.ID, "a")
	s.Engine = s.Reopen(s.T)
	after := s.pod(running.ID)
	if after.Addr != before.Addr || !after.CreatedAt.Equal(before.CreatedAt) || !after.Running(2) || after.ServiceID != before.ServiceID || after.Version != before.Version {
		s.Errorf("after reopening: %+v, before: %+v", after, before)
	}
	for i, c := range after.Containers {
		if !c.StartedAt.Equal(before.Containers[i].StartedAt) {
			s.Errorf("container %s was started again", c.Name)
		}
	}
	s.get(after, "/hostname")
	if st := status(s.pod(ended.ID), "a"); st.State != trysail.ContainerExited || st.ExitCode != 5 {
		s.Errorf("ended container after reopening: %+v", st)
	}
	if err := s.Engine.Start(s.Context(), running); err != nil {
		s.Errorf("Start after reopening: %v", err)
	}
	if _, err := s.Engine.Stop(s.Context(), running.ID, time.Second); err != nil {
		s.Errorf("Stop after reopening: %v", err)
	}
	if _, ok := s.find(running.ID); ok {
		s.Error("the pod is still there")
	}
}

func (s *suite) usage() {
	spec := s.spec("alloc 30000000")
	s.start(spec)
	var u trysail.Usage
	s.wait("the pod's memory is counted", func() bool {
		all, err := s.Engine.Usage(s.Context())
		if err != nil {
			s.Fatal(err)
		}
		slices.SortFunc(all, func(a, b trysail.Usage) int { return cmp.Compare(a.Pod, b.Pod) })
		i := slices.IndexFunc(all, func(u trysail.Usage) bool { return u.Pod == spec.ID })
		if i < 0 {
			s.Fatal("the pod has no usage")
		}
		u = all[i]
		return u.Memory >= 30_000_000
	})
	if u.Limits != spec.Limits || u.CPU <= 0 || time.Since(u.At) > time.Minute || u.Memory > spec.Limits.Memory {
		s.Errorf("usage %+v", u)
	}
}

func (s *suite) check() {
	if err := s.Engine.Check(s.Context()); err != nil {
		s.Errorf("Check: %v", err)
	}
}

func (s *suite) cancelled() {
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	spec := s.spec("wait")
	if err := s.Engine.Start(ctx, spec); err == nil {
		s.Error("Start with an ended context succeeded")
	}
	if _, err := s.Engine.Pods(ctx); err == nil {
		s.Error("Pods with an ended context succeeded")
	}
	if _, err := s.Engine.Stop(s.Context(), spec.ID, 0); err != nil {
		s.Errorf("Stop: %v", err)
	}
}
