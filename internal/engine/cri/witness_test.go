package cri_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine/cri"
)

func (r *rig) observe(id trysail.PodID) trysail.PodEvidence {
	r.tb.Helper()
	e, err := r.engine.Observe(r.tb.Context(), id)
	if err != nil {
		r.tb.Fatalf("Observe: %v", err)
	}
	return e
}

// exited waits until the container has ended.
func (r *rig) exited(id trysail.PodID, name string) (st trysail.ContainerStatus) {
	r.tb.Helper()
	r.wait("container "+name+" ends", func() bool {
		p := r.pod(id)
		i := slices.IndexFunc(p.Containers, func(c trysail.ContainerStatus) bool { return c.Name == name })
		if i >= 0 {
			st = p.Containers[i]
		}
		return st.State == trysail.ContainerExited
	})
	return st
}

// told reports whether the time line has such an event.
func told(e trysail.PodEvidence, text string) bool {
	return slices.ContainsFunc(e.TimeLine, func(m trysail.Moment) bool { return strings.Contains(m.Text, text) })
}

func TestObserve_SeesWhoListensAndWho(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, nil)
	r.start(podSpec("listens", images.program, "listen 127.0.0.1:8080 [::1]:8081 udp:0.0.0.0:5353", "listen :9090"))
	want := map[string]string{"127.0.0.1:8080": "a", "[::1]:8081": "a", "[::]:5353 udp": "a", "[::]:9090": "b"}
	got := map[string]string{}
	var e trysail.PodEvidence
	r.wait("all sockets are seen", func() bool {
		e = r.observe("listens")
		for _, l := range e.Listeners {
			key := l.Address.String()
			if l.UDP {
				key += " udp"
			}
			if l.Process == "program" {
				got[key] = l.Container
			}
		}
		return len(got) >= len(want)
	})
	for addr, container := range want {
		if got[addr] != container {
			t.Errorf("%s belongs to %q, want %q", addr, got[addr], container)
		}
	}
	if len(got) != len(want) || len(e.Sockets) != len(want) {
		t.Errorf("sockets %v, history %+v", got, e.Sockets)
	}
	for _, text := range []string{"container a started (pid ", "container b started (pid ", "first socket: "} {
		if !told(e, text) {
			t.Errorf("%q is not in %+v", text, e.TimeLine)
		}
	}
	a := e.Details["a"]
	if a.Executable != "/program" || a.OpenFiles < 3 || a.FileLimit < a.OpenFiles || a.Cgroup == nil || a.Cgroup.Memory <= 0 || a.Cgroup.CPU <= 0 || len(a.Daemons) > 0 {
		t.Errorf("details %+v, counters %+v", a, a.Cgroup)
	}
	if c := e.Cgroup; c == nil || c.Limit != 256<<20 || c.Memory <= 0 || c.Peak < c.Memory || c.ProcessLimit != 4096 || c.CPU <= 0 {
		t.Errorf("counters of the pod: %+v", e.Cgroup)
	}
	if _, err := r.engine.Stop(t.Context(), "listens", time.Second); err != nil {
		t.Fatal(err)
	}
	if e, err := r.engine.Observe(t.Context(), "listens"); err == nil {
		t.Errorf("after Stop there is still %+v", e)
	}
}

func TestObserve_RemembersWhatHasEnded(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, nil)
	spec := podSpec("ended", images.program, "serve 8080", "exit 3 300ms")
	p := r.start(spec)
	awaitHTTP(t, p, 8080)
	r.wait("the socket is seen", func() bool { return len(r.observe(spec.ID).Sockets) == 1 })
	r.engine.Settle(spec.ID)
	get(t, p, "/exit?code=7")
	r.exited(spec.ID, "a")
	r.exited(spec.ID, "b")
	var e trysail.PodEvidence
	r.wait("both ends are told", func() bool {
		e = r.observe(spec.ID)
		return told(e, "container a exited with 7") && told(e, "container b exited with 3")
	})
	if len(e.Listeners) != 0 || len(e.Sockets) != 1 || e.Sockets[0].Address.Port() != 8080 || e.Sockets[0].Container != "a" {
		t.Errorf("listeners %+v, history %+v", e.Listeners, e.Sockets)
	}
	if a := e.Details["a"]; a.Executable != "/program" || a.Cgroup == nil || a.Cgroup.Peak <= 0 || a.OpenFiles == 0 {
		t.Errorf("details %+v", a)
	}
	if !slices.IsSortedFunc(e.TimeLine, func(a, b trysail.Moment) int { return a.At.Compare(b.At) }) {
		t.Errorf("time line %+v", e.TimeLine)
	}
	r.close()
	// Containerd is down as well now, but it is the new engine that is asked; it has seen nothing of these containers.
	r.open()
	if e := r.observe(spec.ID); e.Cgroup == nil || len(e.Details) != 0 || e.Listeners == nil {
		t.Errorf("after reopening: %+v", e)
	}
}

func TestObserve_TellsWhoWasKilledForWantOfMemory(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, nil)
	spec := podSpec("main", images.program, "alloc 20000000", "alloc 200000000 300ms")
	spec.Limits.Memory = 96 << 20
	r.start(spec)
	if b := r.exited(spec.ID, "b"); !b.OOMKilled || b.ExitCode != 137 {
		t.Errorf("the victim: %+v", b)
	}
	var e trysail.PodEvidence
	r.wait("the kill is told", func() bool {
		e = r.observe(spec.ID)
		return told(e, "container b: a process was killed for want of memory")
	})
	a, b := e.Details["a"].Cgroup, e.Details["b"].Cgroup
	if a == nil || b == nil || a.OOMKills != 0 || b.OOMKills != 1 || b.Peak < 40<<20 || a.Peak < 18<<20 || a.Peak > 60<<20 {
		t.Errorf("counters of a %+v and b %+v", a, b)
	}
	if c := e.Cgroup; c.OOMKills != 1 || c.LimitHits == 0 || c.Limit != 96<<20 || c.Peak < 80<<20 {
		t.Errorf("counters of the pod %+v", c)
	}
	// Whoever says 137 of its child has not been killed itself.
	spec = podSpec("child", images.program, "wait", "child alloc 200000000 300ms")
	spec.Limits.Memory = 96 << 20
	r.start(spec)
	if st := r.exited(spec.ID, "b"); st.ExitCode != 137 || st.OOMKilled {
		t.Errorf("the parent of the victim: %+v", st)
	}
	r.wait("the child's kill is told", func() bool {
		e = r.observe(spec.ID)
		return told(e, "container b: a process was killed for want of memory")
	})
	if b := e.Details["b"].Cgroup; b.OOMKills != 1 || e.Cgroup.OOMKills != 1 {
		t.Errorf("counters %+v, of the pod %+v", b, e.Cgroup)
	}
	for _, c := range r.pod(spec.ID).Containers {
		if c.OOMKilled {
			t.Errorf("no first process was killed, but %+v", c)
		}
	}
	m, err := r.engine.Machine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m.OOMKills < 2 || m.MemoryTotal < 64<<20 || m.MemoryFree <= 0 || m.MemoryFree > m.MemoryTotal || m.DiskTotal <= 0 ||
		m.DiskFree <= 0 || m.DiskPath != r.cfg.Dir || m.CPUs < 1 || len(m.BootID) != 36 || m.At.IsZero() {
		t.Errorf("machine %+v", m)
	}
}

func TestObserve_CountsWhatHoldsAPodBack(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, func(c *cri.Config) { c.PIDs = 60 })
	until := func(what, command string, milliCPU int64, ok func(e trysail.PodEvidence) bool) (e trysail.PodEvidence) {
		t.Helper()
		spec := podSpec(trysail.PodID(what), images.program, command)
		spec.Limits.MilliCPU = milliCPU
		r.start(spec)
		r.wait(what, func() bool { e = r.observe(spec.ID); return ok(e) })
		return e
	}
	e := until("throttled", "burn", 100, func(e trysail.PodEvidence) bool { return e.Cgroup.ThrottledPeriods >= 3 })
	if c := e.Cgroup; c.Throttled <= 0 || c.Periods < c.ThrottledPeriods {
		t.Errorf("counters %+v", c)
	}
	e = until("crowded", "fork 80", 1000, func(e trysail.PodEvidence) bool { return e.Cgroup.ProcessLimitHits > 0 })
	if c := e.Cgroup; c.ProcessLimit != 60 {
		t.Errorf("counters %+v", c)
	}
	e = until("open-files", "files 200", 1000, func(e trysail.PodEvidence) bool { return e.Details["a"].OpenFiles >= 200 })
	if a := e.Details["a"]; a.OpenFiles > 300 || a.FileLimit < 200 {
		t.Errorf("files %+v", a)
	}
}

func TestObserve_SeesWhatGoesIntoTheBackground(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, nil)
	spec := podSpec("daemon", images.program, "background 2s", "child wait")
	r.start(spec)
	if st := r.exited(spec.ID, "a"); st.ExitCode != 0 {
		t.Fatalf("%+v", st)
	}
	e := r.observe(spec.ID)
	if d := e.Details["a"].Daemons; !slices.Equal(d, []string{"program"}) {
		t.Errorf("went into the background: %q", d)
	}
	if d := e.Details["b"].Daemons; len(d) > 0 {
		t.Errorf("the child of the first process is called a daemon: %q", d)
	}
}

func TestReach_TriesFromInsideThePod(t *testing.T) {
	home := networks(t)
	images := serveImages(t)
	dns := serveDNS(t)
	r := newRig(t, func(c *cri.Config) { c.DNS = []string{dns.addr.String()} })
	inside := r.start(podSpec("inside", images.program, "listen 127.0.0.1:7000", "serve 8080"))
	outside := r.start(podSpec("outside", images.program, "serve 8080"))
	awaitHTTP(t, inside, 8080)
	awaitHTTP(t, outside, 8080)
	r.wait("the loopback socket is there", func() bool { return len(r.observe("inside").Listeners) == 2 })
	dns.set("db.test.", outside.Addr)
	dns.set("big.test.", outside.Addr)
	things := []trysail.Reach{
		{Host: "localhost", Port: 7000},
		{Host: "127.0.0.1", Port: 7001},
		{Host: outside.Addr.String(), Port: 8080},
		{Host: outside.Addr.String(), Port: 9},
		{Host: "db.test", Port: 8080},
		{Host: "db.test"},
		{Host: "big.test", Port: 8080},
		{Host: "unknown.test", Port: 1},
		{Host: "broken.test", Port: 1},
		{Host: "silent.test", Port: 1},
		{Host: "inside", Port: 8080},
		{Host: "192.0.2.1", Port: 80},
		{Host: "no..name", Port: 80},
	}
	want := []trysail.ReachResult{
		trysail.ReachOK, trysail.ReachRefused, trysail.ReachOK, trysail.ReachRefused, trysail.ReachOK, trysail.ReachOK, trysail.ReachOK,
		trysail.ReachUnresolved, trysail.ReachNoDNS, trysail.ReachNoDNS, trysail.ReachOK, "", trysail.ReachUnresolved,
	}
	open := trysail.PrivateService{Service: "outside", Pods: []netip.Addr{outside.Addr}, TCP: []uint16{8080}}
	if _, err := r.engine.Network().Publish(open); err != nil {
		t.Fatal(err)
	}
	try := func(id trysail.PodID, things []trysail.Reach, want []trysail.ReachResult) (got []trysail.Reach) {
		t.Helper()
		// On a machine that is busy, a second may be too short for what works.
		r.wait("the results are as expected", func() bool {
			var err error
			if got, err = r.engine.Reach(t.Context(), id, things); err != nil || len(got) != len(things) {
				t.Fatalf("Reach: %v, %v", got, err)
			}
			wrong := false
			for i, g := range got {
				// Where the machine's network ends decides what comes of an address that nobody has.
				if g.Result != want[i] && (want[i] != "" || g.Result == trysail.ReachOK) {
					t.Logf("%s:%d is %+v, want %s", things[i].Host, things[i].Port, g, want[i])
					wrong = true
				}
				if g.Host != things[i].Host || g.Port != things[i].Port || g.Took <= 0 {
					t.Errorf("%+v for %+v", g, things[i])
				}
			}
			return !wrong
		})
		return got
	}
	got := try("inside", things, want)
	if got[4].Addr != outside.Addr || got[5].Addr != outside.Addr {
		t.Errorf("db.test stands for %v and %v, want %v", got[4].Addr, got[5].Addr, outside.Addr)
	}
	if !dns.overTCP.Load() {
		t.Error("an answer that was cut was not asked for again over TCP")
	}
	// With no container left, the network is still there.
	r.start(podSpec("empty", images.program, "exit 0"))
	r.exited("empty", "a")
	try("empty", things[2:6], want[2:6])
	if many, err := r.engine.Reach(t.Context(), "inside", make([]trysail.Reach, 40)); err != nil || len(many) != 16 {
		t.Errorf("40 things: %d, %v", len(many), err)
	}
	if _, err := r.engine.Reach(t.Context(), "nobody", things); err == nil {
		t.Error("Reach from an unknown pod works")
	}
	r.wait("no thread is left in a pod's network", func() bool {
		for network := range networks(t) {
			if !home[network] {
				return false
			}
		}
		return true
	})
}

// networks are those that threads of this process are in.
func networks(t *testing.T) map[string]bool {
	t.Helper()
	links, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, link := range links {
		if at, err := os.Readlink(link); err == nil {
			found[at] = true
		}
	}
	return found
}

func TestEngine_ObservesAdoptedPods(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, nil)
	p := r.start(podSpec("adopted", images.program, "serve 8080"))
	awaitHTTP(t, p, 8080)
	r.close()
	r.open()
	var e trysail.PodEvidence
	r.wait("the socket is seen", func() bool { e = r.observe("adopted"); return len(e.Sockets) == 1 })
	if e.Sockets[0].Container != "a" || e.Details["a"].Executable != "/program" {
		t.Errorf("%+v, %+v", e.Sockets, e.Details)
	}
	get(t, p, "/exit?code=4")
	r.wait("the end is told", func() bool { return told(r.observe("adopted"), "container a exited with 4") })
}

// BenchmarkLook is one look into a pod with two containers.
func BenchmarkLook(b *testing.B) {
	images := serveImages(b)
	r := newRig(b, nil)
	p := r.start(podSpec("looked-at", images.program, "serve 8080", "wait"))
	awaitHTTP(b, p, 8080)
	r.engine.Settle("looked-at")
	for b.Loop() {
		if _, err := r.engine.Observe(b.Context(), "looked-at"); err != nil {
			b.Fatal(err)
		}
	}
}
