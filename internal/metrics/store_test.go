package metrics

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/trysail/trysail"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func openStore(tb testing.TB, dir string) *Store {
	tb.Helper()
	s, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// requests is a Values with so many requests.
func requests(n int64) *Values {
	v := &Values{Requests: [6]int64{2: n}}
	v.Latency[10] = n
	v.CPU.Observe(n * 1000)
	return v
}

func query(tb testing.TB, s *Store, q Query) []Bucket {
	tb.Helper()
	var all []Bucket
	if _, err := s.Query(tb.Context(), q, func(b *Bucket) { all = append(all, *b) }); err != nil {
		tb.Fatal(err)
	}
	return all
}

// counts is the number of requests of each bucket.
func counts(all []Bucket) map[string]int64 {
	m := map[string]int64{}
	for _, b := range all {
		m[b.At.Format("2006-01-02 15:04")] += b.ended()
	}
	return m
}

func flush(tb testing.TB, s *Store, now time.Time) {
	tb.Helper()
	if err := s.Flush(now); err != nil {
		tb.Fatal(err)
	}
}

// drawValues makes any values, often with groups of zeros.
func drawValues(t *rapid.T) Values {
	var v Values
	n := rapid.Int64Range(0, 1<<40)
	for _, s := range []*Summary{&v.CPU, &v.Memory, &v.Throttling} {
		for _, sample := range rapid.SliceOfN(rapid.Int64Range(0, Whole), 0, 5).Draw(t, "samples") {
			s.Observe(sample)
		}
	}
	if rapid.Bool().Draw(t, "traffic") {
		for i := range v.Requests {
			v.Requests[i] = n.Draw(t, "requests")
		}
		v.BytesIn, v.BytesOut = n.Draw(t, "in"), n.Draw(t, "out")
		for range rapid.IntRange(0, 4).Draw(t, "buckets") {
			v.Latency[rapid.IntRange(0, len(v.Latency)-1).Draw(t, "bucket")] += n.Draw(t, "count")
		}
	}
	v.Restarts, v.ProbeFailures = rapid.Int64Range(0, 3).Draw(t, "restarts"), rapid.Int64Range(0, 3).Draw(t, "failures")
	return v
}

func TestFrame_RoundTripOfAnyPoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Point{At: noon.Add(time.Duration(rapid.IntRange(0, 700).Draw(t, "minute")) * time.Minute), Version: rapid.IntRange(0, 1000).Draw(t, "version"), Values: drawValues(t)}
		content := appendFrame([]byte(magic), &p)
		var got []Point
		damaged := decode(content, noon.Truncate(day), noon.Add(day), hasAll, func(p *Point) { got = append(got, *p) })
		if damaged != 0 || len(got) != 1 {
			t.Fatalf("%d points, %d damaged bytes", len(got), damaged)
		}
		if diff := cmp.Diff(p, got[0]); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestStore_AgreesWithANaiveReference adds points at random minutes of some weeks, out of order and repeatedly, with
// restarts and compaction in between, and compares every kind of question with a plain list of everything that was added.
func TestStore_AgreesWithANaiveReference(t *testing.T) {
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		dir := filepath.Join(dir, fmt.Sprint(run))
		s, err := Open(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		now := noon
		var all []Point
		add := func(t *rapid.T) {
			p := Point{
				At:      now.Add(-time.Duration(rapid.IntRange(0, 30*24*60).Draw(t, "ago")) * time.Minute).Truncate(time.Minute),
				Version: rapid.IntRange(1, 3).Draw(t, "version"), Values: drawValues(t),
			}
			all = append(all, p)
			s.Add("svc", p.Version, p.At.Add(time.Duration(rapid.IntRange(0, 59).Draw(t, "second"))*time.Second), &p.Values)
		}
		compacted := time.Time{} // everything before is hours now
		write := func(t *rapid.T) {
			// Flush gives up what could not be written for an hour, and everything here can be.
			if err := s.Flush(now); err != nil {
				t.Fatal(err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"add":   add,
			"flush": write,
			"restart": func(t *rapid.T) {
				write(t)
				s, err = Open(dir, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
			},
			"compact": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 72).Draw(t, "hours")) * time.Hour)
				write(t)
				if err := s.Compact(t.Context(), now); err != nil {
					t.Fatal(err)
				}
				for i := range all {
					// The whole day becomes hours when its end is older than the minutes that are kept.
					if all[i].At.Truncate(day).Add(day).Before(now.Add(-KeepMinutes)) {
						all[i].At = all[i].At.Truncate(time.Hour)
						compacted = now
					}
				}
			},
			"": func(t *rapid.T) {
				step := rapid.SampledFrom([]int64{60, 300, 420, 3600, 7200, 50400, 86400}).Draw(t, "period")
				q := Query{
					ServiceID: "svc", Period: time.Duration(step) * time.Second, Version: rapid.IntRange(0, 3).Draw(t, "only"),
					From: now.Add(-time.Duration(rapid.IntRange(0, 40*24*60).Draw(t, "from")) * time.Minute),
				}
				q.To = q.From.Add(time.Duration(rapid.IntRange(1, 40*24*60).Draw(t, "span")) * time.Minute)
				var got []Bucket
				if _, err := s.Query(t.Context(), q, func(b *Bucket) { got = append(got, *b) }); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(naive(all, q), got); diff != "" {
					t.Fatalf("%+v, compacted %v (-want +got):\n%s", q, compacted, diff)
				}
			},
		})
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	})
}

// naive answers a question from a list of points.
func naive(all []Point, q Query) []Bucket {
	step := int64(q.Period / time.Second)
	from := q.From.Unix() / step * step
	m := map[int64]*Values{}
	for _, p := range all {
		at := p.At.Unix()
		if at < from || at >= q.To.Unix() || q.Version != 0 && p.Version != q.Version {
			continue
		}
		if m[at/step] == nil {
			m[at/step] = &Values{}
		}
		m[at/step].Merge(&p.Values)
	}
	var buckets []Bucket
	for _, i := range slices.Sorted(maps.Keys(m)) {
		buckets = append(buckets, Bucket{time.Unix(i*step, 0).UTC(), *m[i]})
	}
	return buckets
}

func TestStore_PointsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	s.Add("svc", 1, noon, requests(3))
	s.Add("svc", 2, noon.Add(10*time.Second), requests(4))
	flush(t, s, noon)
	// The rest of the same minute, after a restart.
	s = openStore(t, dir)
	s.Add("svc", 2, noon.Add(50*time.Second), requests(5))
	q := Query{ServiceID: "svc", From: noon, To: noon.Add(time.Hour), Period: time.Minute}
	for range 2 { // first from memory, then from the disk
		if diff := cmp.Diff(map[string]int64{"2026-11-20 12:00": 12}, counts(query(t, s, q))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		flush(t, s, noon)
	}
	q.Version = 1
	if diff := cmp.Diff(map[string]int64{"2026-11-20 12:00": 3}, counts(query(t, s, q))); diff != "" {
		t.Errorf("version 1 (-want +got):\n%s", diff)
	}
}

func TestStore_TellsWhenEachVersionWasFirstSeen(t *testing.T) {
	s := openStore(t, t.TempDir())
	s.Add("svc", 1, noon, requests(1))
	s.Add("svc", 2, noon.Add(5*time.Minute), requests(1))
	flush(t, s, noon)
	s.Add("svc", 2, noon.Add(9*time.Minute), requests(1))
	seen, err := s.Query(t.Context(), Query{ServiceID: "svc", From: noon, To: noon.Add(time.Hour), Period: time.Hour, Version: 1}, func(*Bucket) {})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[int]time.Time{1: noon, 2: noon.Add(5 * time.Minute)}, seen); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStore_DamageCostsNothingButWhatIsDamaged(t *testing.T) {
	write := func(t *testing.T) (dir, file string, content []byte) {
		t.Helper()
		dir = t.TempDir()
		s := openStore(t, dir)
		for i := range 10 {
			s.Add("svc", 1, noon.Add(time.Duration(i)*time.Minute), requests(int64(i+1)))
			s.Add("other", 1, noon, requests(1))
			flush(t, s, noon)
		}
		file = filepath.Join(dir, "svc", "2026-11-20.minutes")
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return dir, file, content
	}
	next := &Point{At: noon.Add(20 * time.Minute), Version: 1, Values: *requests(1)}
	for name, c := range map[string]struct {
		spoil func([]byte) []byte
		left  int
	}{
		"truncated":  {func(b []byte) []byte { return b[:len(b)-3] }, 9},
		"torn, then": {func(b []byte) []byte { return appendFrame(slices.Clone(b[:len(b)-3]), next) }, 10},
		"flipped":    {func(b []byte) []byte { b[len(b)/2] ^= 0x55; return b }, 9},
		"no magic":   {func(b []byte) []byte { b[0] = 'X'; return b }, 10},
		"garbage":    {func(b []byte) []byte { return append(bytes.Repeat([]byte{0xff, 0x80, 0x01}, 4000), b...) }, 10},
		"zeros":      {func(b []byte) []byte { return append(b, make([]byte, 4096)...) }, 10},
		"empty":      {func([]byte) []byte { return nil }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir, file, content := write(t)
			if err := os.WriteFile(file, c.spoil(content), 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			s, err := Open(dir, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			q := Query{ServiceID: "svc", From: noon, To: noon.Add(time.Hour), Period: time.Minute}
			got := query(t, s, q)
			query(t, s, q)
			if len(got) != c.left {
				t.Errorf("%d points are left, want %d", len(got), c.left)
			}
			lines := strings.Count(log.String(), "a file of metrics is damaged")
			if name == "empty" && lines != 0 || name != "empty" && (lines != 1 || !strings.Contains(log.String(), file)) {
				t.Errorf("the log should name the file once:\n%s", log.String())
			}
			if other := query(t, s, Query{ServiceID: "other", From: noon, To: noon.Add(time.Hour), Period: time.Hour}); len(other) != 1 || other[0].ended() != 10 {
				t.Errorf("another service has %v", counts(other))
			}
			// It goes on in the same file.
			s.Add("svc", 1, noon.Add(30*time.Minute), requests(77))
			flush(t, s, noon)
			if after := query(t, s, q); len(after) != len(got)+1 || after[len(after)-1].ended() != 77 {
				t.Errorf("after the next minute: %v", counts(after))
			}
		})
	}
}

func TestStore_ClockSetBackMergesAndLosesNothing(t *testing.T) {
	s := openStore(t, t.TempDir())
	now := noon
	for _, minute := range []int{0, 1, 2, 1, 2, 3} { // two minutes twice
		s.Add("svc", 1, now.Add(time.Duration(minute)*time.Minute), requests(1))
		flush(t, s, now)
	}
	want := map[string]int64{"2026-11-20 12:00": 1, "2026-11-20 12:01": 2, "2026-11-20 12:02": 2, "2026-11-20 12:03": 1}
	if diff := cmp.Diff(want, counts(query(t, s, Query{ServiceID: "svc", From: noon, To: noon.Add(day), Period: time.Minute}))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStore_ClockSetBackToADayThatIsHours(t *testing.T) {
	s := openStore(t, t.TempDir())
	s.Add("svc", 1, noon, requests(1))
	s.Add("svc", 1, noon.Add(time.Minute), requests(1))
	flush(t, s, noon)
	later := noon.Add(20 * day)
	if err := s.Compact(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	q := Query{ServiceID: "svc", From: noon.Add(-day), To: later, Period: time.Minute}
	if diff := cmp.Diff(map[string]int64{"2026-11-20 12:00": 2}, counts(query(t, s, q))); diff != "" {
		t.Errorf("as an hour (-want +got):\n%s", diff)
	}
	s.Add("svc", 1, noon.Add(2*time.Minute), requests(1)) // the clock is twenty days back
	flush(t, s, noon)
	if diff := cmp.Diff(map[string]int64{"2026-11-20 12:00": 2, "2026-11-20 12:02": 1}, counts(query(t, s, q))); diff != "" {
		t.Errorf("after the clock was set back (-want +got):\n%s", diff)
	}
	if err := s.Compact(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int64{"2026-11-20 12:00": 3}, counts(query(t, s, q))); diff != "" {
		t.Errorf("compacted again (-want +got):\n%s", diff)
	}
}

// TestStore_InterruptedCompactionDoublesNothing has both a day's minutes and its hours, as after a crash between the two
// steps.
func TestStore_InterruptedCompactionDoublesNothing(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	s.Add("svc", 1, noon, requests(5))
	flush(t, s, noon)
	minutes := filepath.Join(dir, "svc", "2026-11-20.minutes")
	content, err := os.ReadFile(minutes)
	if err != nil {
		t.Fatal(err)
	}
	later := noon.Add(20 * day)
	if err := s.Compact(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(minutes); !os.IsNotExist(err) {
		t.Fatalf("the minutes are still there: %v", err)
	}
	if err := os.WriteFile(minutes, content, 0o600); err != nil {
		t.Fatal(err)
	}
	q := Query{ServiceID: "svc", From: noon.Add(-day), To: later, Period: day}
	for range 2 {
		if diff := cmp.Diff(map[string]int64{"2026-11-20 00:00": 5}, counts(query(t, s, q))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if err := s.Compact(t.Context(), later); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStore_RetentionAndTheFuture(t *testing.T) {
	s := openStore(t, t.TempDir())
	for _, at := range []time.Time{noon.Add(-KeepHours - 40*day), noon.Add(-KeepHours + 40*day), noon.Add(-KeepMinutes - 2*day), noon, noon.Add(3 * day)} {
		s.Add("svc", 1, at, requests(1))
		flush(t, s, at)
	}
	for range 2 { // old minutes become hours first, and go as such
		if err := s.Compact(t.Context(), noon); err != nil {
			t.Fatal(err)
		}
	}
	got := query(t, s, Query{ServiceID: "svc", From: time.Unix(0, 0), To: noon.Add(365 * day), Period: time.Minute})
	want := map[string]int64{noon.Add(-KeepHours + 40*day).Format("2006-01-02 15:04"): 1, "2026-11-04 12:00": 1, "2026-11-20 12:00": 1}
	if diff := cmp.Diff(want, counts(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	names, err := filesIn(filepath.Join(s.dir, "svc"))
	if err != nil || len(names) != 3 {
		t.Errorf("files %v, %v", names, err)
	}
}

func TestStore_NothingIsLeftOfADeletedService(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	for _, id := range []string{"a", "b"} {
		s.Add(id, 1, noon, requests(1))
		flush(t, s, noon)
		s.Add(id, 1, noon.Add(time.Minute), requests(1))
	}
	if err := s.Retain([]string{"b"}); err != nil {
		t.Fatal(err)
	}
	flush(t, s, noon)
	q := Query{ServiceID: "a", From: noon, To: noon.Add(day), Period: time.Minute}
	if got := query(t, s, q); len(got) != 0 {
		t.Errorf("got %v", counts(got))
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); !os.IsNotExist(err) {
		t.Errorf("its directory: %v", err)
	}
	q.ServiceID = "b"
	if got := query(t, s, q); len(got) != 2 {
		t.Errorf("the other one has %v", counts(got))
	}
}

// TestStore_WhatCannotBeWrittenWaits puts a file where the service's directory has to be.
func TestStore_WhatCannotBeWrittenWaits(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	blocker := filepath.Join(dir, "svc")
	if err := os.WriteFile(blocker, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Add("svc", 1, noon, requests(1))
	s.Add("other", 1, noon, requests(1))
	if err := s.Flush(noon); err == nil {
		t.Fatal("no error")
	}
	if got := query(t, s, Query{ServiceID: "other", From: noon, To: noon.Add(day), Period: day}); len(got) != 1 {
		t.Error("another service has to wait too")
	}
	if err := os.Remove(blocker); err != nil {
		t.Fatal(err)
	}
	flush(t, s, noon.Add(30*time.Minute))
	s = openStore(t, dir)
	q := Query{ServiceID: "svc", From: noon, To: noon.Add(day), Period: day}
	if got := counts(query(t, s, q)); got["2026-11-20 00:00"] != 1 {
		t.Errorf("got %v", got)
	}
	// After an hour it is given up, and said.
	if err := os.WriteFile(filepath.Join(dir, "svc2"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Add("svc2", 1, noon, requests(1))
	if err := s.Flush(noon.Add(2 * time.Hour)); err == nil || !strings.Contains(err.Error(), "giving up 1 points") {
		t.Errorf("got %v", err)
	}
	flush(t, s, noon.Add(2*time.Hour))
}

func FuzzDecode(f *testing.F) {
	f.Add(appendFrame([]byte(magic), &Point{At: noon, Version: 3, Values: *requests(7)}))
	f.Fuzz(func(t *testing.T, content []byte) {
		// Whatever is read can be written and read again, and every byte is read or counted as damaged.
		var again []byte
		var first, second []Point
		from, to := noon.Truncate(day), noon.Truncate(day).Add(day)
		if damaged := decode(content, from, to, hasAll, func(p *Point) {
			first = append(first, *p)
			again = appendFrame(again, p)
		}); damaged > len(content) {
			t.Errorf("%d of %d bytes are damaged", damaged, len(content))
		}
		if damaged := decode(again, from, to, hasAll, func(p *Point) { second = append(second, *p) }); damaged != 0 {
			t.Errorf("%d bytes of what was written are damaged", damaged)
		}
		if len(first) != len(second) {
			t.Errorf("%d points were read and %d read again", len(first), len(second))
		}
	})
}

// TestStore_ReadsWhatIsWantedOfEachPoint asks for each metric alone and compares with an answer that has them all.
func TestStore_ReadsWhatIsWantedOfEachPoint(t *testing.T) {
	s := openStore(t, t.TempDir())
	rapid.Check(t, func(t *rapid.T) {
		for i := range 5 {
			v := drawValues(t)
			s.Add("svc", 1, noon.Add(time.Duration(i)*time.Minute), &v)
		}
		if err := s.Flush(noon); err != nil {
			t.Fatal(err)
		}
		q := Query{ServiceID: "svc", From: noon, To: noon.Add(time.Hour), Period: time.Minute}
		ask := func(metrics ...string) (all []Bucket) {
			q.Metrics = metrics
			if _, err := s.Query(context.Background(), q, func(b *Bucket) { all = append(all, *b) }); err != nil {
				t.Fatal(err)
			}
			return all
		}
		whole := ask()
		for _, metric := range trysail.Metrics() {
			for i, b := range ask(metric) {
				for _, statistic := range append(trysail.Statistics(trysail.MetricUnit(metric)), "p90") {
					got, ok := b.Statistic(metric, statistic)
					want, wantOK := whole[i].Statistic(metric, statistic)
					if got != want || ok != wantOK {
						t.Fatalf("%s of %s is %v, %v alone and %v, %v with the others", statistic, metric, got, ok, want, wantOK)
					}
				}
			}
		}
	})
}
