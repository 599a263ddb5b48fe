package metrics

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// bed is a Collector on a real store, with an engine and an edge that say what the test wants.
type bed struct {
	*testing.T
	*Collector
	store   *store.Store
	dir     string
	now     time.Time // the clock on the wall
	counted time.Time // the one of the engine's samples
	usage   map[trysail.PodID]trysail.Usage
	traffic []trysail.Traffic
	fails   error
	log     bytes.Buffer
}

func newBed(t *testing.T) *bed {
	t.Helper()
	st, err := store.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	b := &bed{T: t, store: st, dir: t.TempDir(), now: noon, counted: noon, usage: map[trysail.PodID]trysail.Usage{}}
	b.restart()
	return b
}

// restart makes a new collector on the same directory.
func (b *bed) restart() {
	b.Helper()
	c, err := New(b.Context(), Config{
		Dir: b.dir, Store: b.store, Build: "v1.2.3", Parts: map[string]string{"metrics": b.dir}, Log: slog.New(slog.NewTextHandler(&b.log, nil)), Now: func() time.Time { return b.now },
		Usage: func(context.Context) (all []trysail.Usage, err error) {
			for id, u := range b.usage {
				u.Pod, u.At = id, b.counted
				all = append(all, u)
			}
			return all, b.fails
		},
		Traffic: func() []trysail.Traffic { return b.traffic },
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Collector = c
}

func (b *bed) advance() { b.now, b.counted = b.now.Add(sampleEvery), b.counted.Add(sampleEvery) }

func (b *bed) update(fn func(*store.Tx) error) {
	b.Helper()
	if err := b.store.Update(b.Context(), fn); err != nil {
		b.Fatal(err)
	}
}

// webID is the id of the service that the tests have.
const webID = "id-of-web"

// service makes the service web whose active version is the given one.
func (b *bed) service(version int) {
	b.Helper()
	b.update(func(tx *store.Tx) error {
		s := &trysail.Service{ID: webID, Name: "web", HostLabel: "web", Capacity: trysail.Capacity{Power: trysail.PowerNano, Scale: 1}, State: trysail.ServiceRunning, CreatedAt: noon}
		if err := tx.InsertService(s); err != nil {
			return err
		}
		for v := 1; v <= version; v++ {
			state := trysail.DeploymentInactive
			if v == version {
				state = trysail.DeploymentActive
			}
			if err := tx.InsertDeployment(webID, &trysail.Deployment{State: state, CreatedAt: noon}); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *bed) pod(id trysail.PodID, version int) {
	b.Helper()
	b.update(func(tx *store.Tx) error {
		return tx.InsertPod(&trysail.PodRecord{ID: id, ServiceID: webID, Version: version, Power: trysail.PowerNano, CreatedAt: noon})
	})
}

// fail ends a pod because something was wrong with it.
func (b *bed) fail(id trysail.PodID) {
	b.Helper()
	b.update(func(tx *store.Tx) error {
		p, err := tx.Pod(id)
		if err != nil {
			return err
		}
		p.Failed, p.StopAt, p.EndedAt = true, noon, noon
		return tx.UpdatePod(&p)
	})
}

// all is everything that is kept of the service, by minute.
func (b *bed) all() []Bucket {
	b.Helper()
	return query(b, b.Store, Query{ServiceID: webID, From: noon.Add(-day), To: noon.Add(day), Period: time.Minute})
}

func (b *bed) values() (v Values) {
	b.Helper()
	for _, bucket := range b.all() {
		v.Merge(&bucket.Values)
	}
	return v
}

func TestCollector_SamplesArePercentOfTheLimit(t *testing.T) {
	b := newBed(t)
	b.service(1)
	b.pod("p", 1)
	limits := trysail.Limits{MilliCPU: 250, Memory: 512 << 20}
	for i := range 4 {
		// In ten seconds a quarter of a CPU is 2.5 s; half of it is used, and 30 of 100 periods were held back.
		b.usage["p"] = trysail.Usage{CPU: time.Duration(i) * 1250 * time.Millisecond, Memory: 128 << 20, Limits: limits, Periods: int64(1 + i*100), ThrottledPeriods: int64(i * 30)}
		b.Sample(t.Context())
		b.advance()
	}
	got := b.values()
	want := Values{
		CPU:        Summary{Whole / 2, Whole / 2, 3 * Whole / 2, 3}, // the first sample has nothing to compare with
		Memory:     Summary{Whole / 4, Whole / 4, Whole, 4},
		Throttling: Summary{3 * Whole / 10, 3 * Whole / 10, 9 * Whole / 10, 3},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCollector_TrafficIsTheDifferenceAndBeginsAnewAfterAReset(t *testing.T) {
	b := newBed(t)
	b.service(1)
	reading := func(requests, bytes int64) {
		b.traffic = []trysail.Traffic{{Service: "web", Version: 1, Requests: [6]int64{2: requests}, BytesOut: bytes}, {Service: "unknown", Version: 1, BytesIn: 5}}
		b.traffic[0].Latency[20] = requests
		b.Sample(t.Context())
		b.advance()
	}
	reading(5, 500) // all of it: the edge began with us
	reading(7, 700)
	reading(7, 700)
	reading(3, 300) // begun anew
	got := b.values()
	want := Values{Requests: [6]int64{2: 10}, BytesOut: 1000}
	want.Latency[20] = 10
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCollector_RestartsAreFailedPodsOfTheActiveVersion(t *testing.T) {
	b := newBed(t)
	b.service(2)
	for _, id := range []trysail.PodID{"before", "active", "again"} {
		b.pod(id, 2)
	}
	b.pod("old", 1)
	b.fail("before")
	b.restart() // what failed before was counted by the Trysail that ran then
	b.Sample(t.Context())
	b.fail("active")
	b.fail("old")
	b.Sample(t.Context())
	b.Sample(t.Context())
	if got := b.values().Restarts; got != 1 {
		t.Errorf("%d restarts, want 1", got)
	}
	b.fail("again")
	b.Sample(t.Context())
	if got := b.values().Restarts; got != 2 {
		t.Errorf("%d restarts, want 2", got)
	}
}

// Of several servers the one that leads counts what all of them see.
func TestCollector_WhoDoesNotLeadCountsItsEdgeOnly(t *testing.T) {
	b := newBed(t)
	b.service(1)
	b.pod("p", 1)
	b.pod("q", 1)
	leads := false
	b.cfg.Leads = func() bool { return leads }
	sample := func(cpu time.Duration, requests int64) {
		b.usage["q"] = trysail.Usage{CPU: cpu, Memory: 1 << 20, Limits: trysail.Limits{MilliCPU: 1000, Memory: 2 << 20}}
		b.traffic = []trysail.Traffic{{Service: "web", Version: 1, Requests: [6]int64{2: requests}}}
		b.Sample(t.Context())
		b.advance()
	}
	sample(0, 1)
	b.fail("p")
	sample(time.Second, 2)
	if got := b.values(); got.Restarts != 0 || got.Memory.Count != 0 || got.CPU.Count != 0 || got.Requests[2] != 2 {
		t.Errorf("it counts %+v", got)
	}
	leads = true
	sample(2*time.Second, 3)
	sample(3*time.Second, 4)
	b.fail("q")
	sample(4*time.Second, 5)
	if got := b.values(); got.Restarts != 1 || got.Memory.Count == 0 || got.CPU.Max != Whole/10 || got.Requests[2] != 5 {
		t.Errorf("leading it counts %+v", got)
	}
}

func TestCollector_DeletedServicesLeaveNothing(t *testing.T) {
	b := newBed(t)
	b.service(1)
	b.traffic = []trysail.Traffic{{Service: "web", Version: 1, BytesIn: 1}}
	b.Sample(t.Context())
	flush(t, b.Store, b.now)
	if len(b.all()) != 1 {
		t.Fatal("there was nothing to delete")
	}
	b.update(func(tx *store.Tx) error { return tx.DeleteService(webID) })
	b.Sample(t.Context())
	if got := b.all(); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	for _, f := range b.Families(t.Context()) {
		for _, s := range f.Samples {
			for _, l := range s.Labels {
				if l.Name == "service" {
					t.Errorf("%s still has %v", f.Name, s.Labels)
				}
			}
		}
	}
}

func TestCollector_AnEngineThatFailsCostsItsSamplesAndOneLine(t *testing.T) {
	b := newBed(t)
	b.service(1)
	b.fails = errors.New("containerd is away")
	for i := range 3 {
		b.traffic = []trysail.Traffic{{Service: "web", Version: 1, BytesIn: int64(i + 1)}}
		b.Sample(t.Context())
		b.advance()
	}
	if n := strings.Count(b.log.String(), "containerd is away"); n != 1 {
		t.Errorf("%d lines:\n%s", n, b.log.String())
	}
	if got := b.values().BytesIn; got != 3 {
		t.Errorf("traffic: %d", got)
	}
}

// TestCollector_AClockThatJumpsDoublesNothing sets the clock back and forward while requests go on: each is counted once.
func TestCollector_AClockThatJumpsDoublesNothing(t *testing.T) {
	b := newBed(t)
	b.service(1)
	b.pod("p", 1)
	const samples = 60
	for i := range samples {
		switch i {
		case 20:
			b.now = b.now.Add(-3 * time.Minute)
		case 40:
			b.now = b.now.Add(5 * time.Hour)
		}
		b.traffic = []trysail.Traffic{{Service: "web", Version: 1, Requests: [6]int64{2: int64(i + 1)}}}
		b.usage["p"] = trysail.Usage{CPU: time.Duration(i) * time.Second, Memory: 1, Limits: trysail.Limits{MilliCPU: 1000, Memory: 2}}
		b.Sample(t.Context())
		b.advance()
	}
	for range 2 {
		got := b.values()
		if got.Requests[2] != samples || got.Memory.Count != samples || got.CPU.Count != samples-1 {
			t.Errorf("%d requests, %d and %d samples", got.Requests[2], got.Memory.Count, got.CPU.Count)
		}
		// The engine's clock did not jump: it was a tenth of a CPU all the time.
		if got.CPU.Min != Whole/10 || got.CPU.Max != Whole/10 {
			t.Errorf("CPU: %+v", got.CPU)
		}
		seen := map[time.Time]bool{}
		for _, bucket := range b.all() {
			if seen[bucket.At] {
				t.Errorf("%v is there twice", bucket.At)
			}
			seen[bucket.At] = true
		}
		flush(t, b.Store, b.now)
		b.restart() // now from the disk
	}
	if n := strings.Count(b.log.String(), "the clock was set"); n != 2 {
		t.Errorf("the log tells of %d jumps:\n%s", n, b.log.String())
	}
}

// TestCollector_NothingIsRemovedWhileTheClockIsInDoubt lets a clock jump a year ahead, which would make everything old.
func TestCollector_NothingIsRemovedWhileTheClockIsInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		b.service(1)
		at := b.now
		b.Add(webID, 1, at, requests(1))
		flush(t, b.Store, b.now)
		b.Sample(t.Context())
		time.Sleep(2 * time.Hour)
		b.now = b.now.AddDate(2, 0, 0)
		b.Sample(t.Context())
		time.Sleep(2 * time.Hour)
		b.now = b.now.AddDate(-2, 0, 0).Add(4 * time.Hour)
		b.Sample(t.Context())
		if got := query(t, b.Store, Query{ServiceID: webID, From: at, To: at.Add(time.Minute), Period: time.Minute}); len(got) != 1 {
			t.Error("the point is gone")
		}
	})
}

// TestCollector_RunWritesEachMinuteAndTheRestAtTheEnd runs for two and a half minutes of fake time.
func TestCollector_RunWritesEachMinuteAndTheRestAtTheEnd(t *testing.T) {
	dir := t.TempDir()
	st, err := store.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if err := st.Update(t.Context(), func(tx *store.Tx) error {
		return tx.InsertService(&trysail.Service{ID: "id", Name: "web", HostLabel: "web", Capacity: trysail.Capacity{Power: trysail.PowerNano, Scale: 1}, State: trysail.ServiceReady})
	}); err != nil {
		t.Fatal(err)
	}
	var onDisk, atEnd []Bucket
	readings := 0
	synctest.Test(t, func(t *testing.T) {
		read := func() (all []Bucket) {
			// Another Store on the same files sees only what is written.
			return query(t, openStore(t, dir), Query{ServiceID: "id", From: time.Now().Add(-time.Hour), To: time.Now().Add(time.Hour), Period: time.Minute})
		}
		c, err := New(t.Context(), Config{
			Dir: dir, Store: st, Log: slog.New(slog.DiscardHandler),
			Usage: func(context.Context) ([]trysail.Usage, error) { return nil, nil },
			Traffic: func() []trysail.Traffic {
				readings++
				return []trysail.Traffic{{Service: "web", Version: 1, Requests: [6]int64{2: int64(readings)}}}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		time.Sleep(150*time.Second + time.Millisecond) // it is midnight when the bubble begins
		synctest.Wait()
		onDisk = read()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		atEnd = read()
	})
	// Fifteen samples, each about the ten seconds before it: two whole minutes are written, then the half one.
	if readings != 15 || len(onDisk) != 2 || onDisk[0].ended() != 6 || onDisk[1].ended() != 6 {
		t.Errorf("%d readings; on the disk while it runs: %v", readings, counts(onDisk))
	}
	if len(atEnd) != 3 || atEnd[2].ended() != 3 {
		t.Errorf("at the end: %v", counts(atEnd))
	}
}
