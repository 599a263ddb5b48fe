package edge

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trysail/trysail"
)

// fakePod answers probes over in-memory connections, so that tests of their times run on a fake clock.
type fakePod struct {
	mu     sync.Mutex
	answer string // raw; empty: refuses connections; "silent": accepts and never answers
	asked  []time.Time
	last   *http.Request
}

func (f *fakePod) become(answer string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

// count returns how often the pod was asked so far.
func (f *fakePod) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked)
}

// gaps returns the times between the probes.
func (f *fakePod) gaps() []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	var gaps []time.Duration
	for i := 1; i < len(f.asked); i++ {
		gaps = append(gaps, f.asked[i].Sub(f.asked[i-1]))
	}
	return gaps
}

func (f *fakePod) dial(_ context.Context, network, _ string) (net.Conn, error) {
	f.mu.Lock()
	f.asked = append(f.asked, time.Now())
	answer := f.answer
	f.mu.Unlock()
	if answer == "" {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		req, err := http.ReadRequest(bufio.NewReader(theirs))
		if err != nil {
			return
		}
		f.mu.Lock()
		f.last = req
		f.mu.Unlock()
		if answer != "silent" {
			_, _ = io.WriteString(theirs, answer)
		} else {
			_, _ = theirs.Read(make([]byte, 1))
		}
	}()
	return ours, nil
}

const (
	answer200 = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	answer503 = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
)

// probing runs a prober against a fake pod, which is first what first says (see become), on a fake clock until body returns.
func probing(t *testing.T, check trysail.HealthCheck, activating, presumed bool, first string, body func(*prober, *fakePod, func() int)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		pod := &fakePod{}
		pod.become(first) // before the first probe
		flips := 0
		p := &prober{
			ask:     asker{addr: netip.MustParseAddrPort("172.26.0.9:8080"), dial: pod.dial},
			health:  &health{},
			poke:    make(chan struct{}, 1),
			log:     testLog(t),
			flipped: func() { flips++ },
		}
		if presumed {
			p.health.presume(time.Now())
		}
		p.settings.Store(newProbeSettings(check, activating, p.log))
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { p.run(ctx) })
		body(p, pod, func() int { synctest.Wait(); return flips })
		cancel()
		running.Wait()
	})
}

func check(healthy, unhealthy, timeout, interval int) trysail.HealthCheck {
	return trysail.HealthCheck{HealthyThreshold: healthy, UnhealthyThreshold: unhealthy, TimeoutSeconds: timeout, IntervalSeconds: interval}
}

func TestProber_ActivationIsFast(t *testing.T) {
	probing(t, check(3, 2, 2, 5), true, false, answer200, func(p *prober, pod *fakePod, flips func() int) {
		time.Sleep(100 * time.Millisecond)
		if flips() != 1 || !p.health.snapshot().Healthy {
			t.Errorf("three good answers in 100 ms: %+v", p.health.snapshot())
		}
		gaps := pod.gaps()
		if len(gaps) < 2 || gaps[0] != probeFirstGap || gaps[1] > 20*time.Millisecond {
			t.Errorf("gaps %v", gaps)
		}
	})
}

func TestProber_SlowStartIsNotFailing(t *testing.T) {
	probing(t, check(2, 2, 2, 5), true, false, "", func(p *prober, pod *fakePod, flips func() int) {
		time.Sleep(30 * time.Second)
		if h := p.health.snapshot(); flips() != 0 || h.Healthy || h.Last.Error != "connection refused" || h.Probes < 40 {
			t.Errorf("after 30 s of refusing: %+v", h)
		}
		gaps := pod.gaps()
		for i, gap := range gaps {
			if gap > probeLastGap || i > 0 && gap < gaps[i-1] {
				t.Errorf("gap %d is %v after %v", i, gap, gaps[i-1])
			}
		}
		if last := gaps[len(gaps)-1]; last != probeLastGap {
			t.Errorf("the gaps end at %v", last)
		}
		pod.become(answer503)
		time.Sleep(5 * time.Second)
		pod.become(answer200)
		time.Sleep(probeLastGap + probeFirstGap)
		if h := p.health.snapshot(); flips() != 1 || !h.Healthy {
			t.Errorf("1 s after it came up: %+v", h)
		}
	})
}

func TestProber_GapNeverAboveInterval(t *testing.T) {
	s := newProbeSettings(check(2, 2, 2, 5), true, testLog(t))
	s.check.IntervalSeconds = 0 // below what the API allows, above nothing
	var pace pace
	for range 100 {
		if gap := pace.next(s, trysail.Probe{}, false); gap > 0 {
			t.Fatalf("gap %v", gap)
		}
	}
}

func TestProber_ThresholdsExactly(t *testing.T) {
	probing(t, check(3, 4, 2, 10), false, true, answer200, func(p *prober, pod *fakePod, flips func() int) {
		time.Sleep(10 * time.Second) // somewhere in there is the first one
		synctest.Wait()
		if n := pod.count(); n != 1 {
			t.Fatalf("%d probes in the first interval", n)
		}
		await := func(n int) {
			t.Helper()
			for start := pod.count(); pod.count() < start+n; {
				time.Sleep(time.Second)
				synctest.Wait()
			}
			synctest.Wait()
		}
		pod.become(answer503)
		await(3)
		if flips() != 0 {
			t.Error("unhealthy too early")
		}
		pod.become(answer200)
		await(1)
		pod.become(answer503)
		await(3)
		if flips() != 0 {
			t.Error("the failures were not consecutive")
		}
		await(1)
		if h := p.health.snapshot(); flips() != 1 || h.Healthy || h.Last.Status != 503 || h.Last.Body != "busy" {
			t.Errorf("after four failures: %+v", h)
		}
		pod.become(answer200)
		await(2)
		if flips() != 1 {
			t.Error("healthy too early")
		}
		await(1)
		if h := p.health.snapshot(); flips() != 2 || !h.Healthy {
			t.Errorf("after three successes: %+v", h)
		}
		for _, gap := range pod.gaps() {
			if gap != 10*time.Second {
				t.Errorf("gaps %v", pod.gaps())
				break
			}
		}
	})
}

func TestProber_SlowsDownAfterActivation(t *testing.T) {
	probing(t, check(2, 2, 2, 30), true, false, answer200, func(p *prober, pod *fakePod, _ func() int) {
		time.Sleep(5 * time.Second)
		synctest.Wait()
		before := pod.count()
		p.configure(newProbeSettings(check(2, 2, 2, 30), false, p.log))
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if n := pod.count() - before; n != 1 {
			t.Errorf("%d probes in the first interval", n)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := pod.count() - before; n != 11 {
			t.Errorf("%d probes in eleven intervals", n)
		}
		if !p.health.snapshot().Healthy {
			t.Error("it lost its health on the way")
		}
	})
}

func TestProber_HealthyWhileActivatingCanFall(t *testing.T) {
	probing(t, check(2, 2, 2, 5), true, false, answer200, func(p *prober, pod *fakePod, flips func() int) {
		time.Sleep(time.Second)
		pod.become("")
		time.Sleep(3 * time.Second)
		if flips() != 2 || p.health.snapshot().Healthy {
			t.Errorf("%+v", p.health.snapshot())
		}
	})
}

func TestProber_TimesOutAsConfigured(t *testing.T) {
	probing(t, check(2, 2, 3, 10), false, true, "silent", func(p *prober, pod *fakePod, _ func() int) {
		time.Sleep(13 * time.Second)
		synctest.Wait()
		h := p.health.snapshot()
		if h.Probes != 1 || h.Last.Error != "timed out after 3s" || h.Last.Took != 3*time.Second || h.Last.OK {
			t.Errorf("%+v", h)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, gap := range pod.gaps() {
			if gap != 10*time.Second {
				t.Errorf("gaps %v: the interval is from start to start", pod.gaps())
				break
			}
		}
	})
}

func TestProber_StopsInTheMiddle(t *testing.T) {
	var stopped time.Time
	probing(t, check(2, 2, 60, 300), true, false, "silent", func(p *prober, pod *fakePod, _ func() int) {
		time.Sleep(time.Second)
		stopped = time.Now()
		t.Cleanup(func() {
			if p.health.snapshot().Probes != 0 {
				t.Error("a probe that was given up was counted")
			}
		})
	})
	if stopped.IsZero() {
		t.Error("did not run")
	}
}

func TestProber_AsksLikeAWS(t *testing.T) {
	c := check(1, 1, 2, 5)
	c.Path = "/up?x=1"
	probing(t, c, true, false, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 302 Found\r\nLocation: https://elsewhere/\r\nContent-Length: 0\r\n\r\n", func(p *prober, pod *fakePod, _ func() int) {
		time.Sleep(time.Millisecond)
		synctest.Wait()
		req := pod.last
		if req.Method != "GET" || req.RequestURI != "/up?x=1" || req.Host != "172.26.0.9:8080" || req.UserAgent() != probeAgent || !req.Close {
			t.Errorf("request %+v", req)
		}
		h := p.health.snapshot()
		if pod.count() != 1 || h.Last.Status != 302 || h.Last.Location != "https://elsewhere/" || !h.Healthy {
			t.Errorf("%d probes, %+v", pod.count(), h)
		}
	})
}

func TestProber_HostilePathStaysInItsLine(t *testing.T) {
	for path, want := range map[string]string{
		"/":                         "/",
		"/a b":                      "/a%20b",
		"/x HTTP/1.1\r\nX-Evil: 1":  "/x%20HTTP/1.1%0D%0AX-Evil:%201",
		"no-slash":                  "/no-slash",
		"http://169.254.169.254/x":  "/http://169.254.169.254/x",
		"/%zz":                      "/%25zz",
		"//evil.example/x":          "//evil.example/x",
		"/health?deep=1&also=%2Fok": "/health?deep=1&also=%2Fok",
	} {
		if got := probeURL(path).RequestURI(); got != want {
			t.Errorf("%q asks for %q, want %q", path, got, want)
		}
	}
}

func TestHealth_SinceIsTheLastChange(t *testing.T) {
	var h health
	c := check(2, 2, 2, 5)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	probe := func(ok bool) trysail.TargetHealth {
		at = at.Add(time.Second)
		h.record(trysail.Probe{At: at, OK: ok}, c)
		return h.snapshot()
	}
	first := probe(false).Since
	if first != at {
		t.Errorf("since %v, want the first probe", first)
	}
	if s := probe(true); s.Since != first || s.Healthy {
		t.Errorf("%+v", s)
	}
	if s := probe(true); s.Since != at || !s.Healthy || s.Probes != 3 {
		t.Errorf("%+v", s)
	}
}
