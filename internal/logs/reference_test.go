package logs

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// world is a store that things happen to, and a slow reference of what it must say.
type world struct {
	t     *rapid.T
	store *Store
	arch  *archiver
	clock int // tenths of a second
	pods  []string
	tail  map[string]int     // by pod: the segment that is being written
	open  map[string]*string // by pod and stream: the beginning of a line
	lines []reference        // complete lines, as they were written
}

type reference struct {
	at   int // tenths of a second
	pod  string
	text string
}

func newWorld(t *rapid.T, dir string) *world {
	arch, err := newArchiver()
	if err != nil {
		t.Fatal(err)
	}
	arch.block = rapid.SampledFrom([]int{1, 150, 400, blockSize}).Draw(t, "block size")
	return &world{t: t, store: New(dir), arch: arch, pods: []string{"p1", "p2", "p3"}, tail: map[string]int{}, open: map[string]*string{}}
}

func (w *world) seg(pod string, number int) segment {
	return segment{dir: w.store.PodDir("svc", pod), container: "web", number: number}
}

var words = []string{"error", "warn", "item/", "10.0.0.1", "ab", "aab", "\xff\xfe", "\x00", "long" + strings.Repeat("er", 30), "0123456789abcdef"}

// emit writes a line or a part of one.
func (w *world) emit() {
	pod := rapid.SampledFrom(w.pods).Draw(w.t, "pod")
	stream := rapid.SampledFrom([]string{"stdout", "stderr"}).Draw(w.t, "stream")
	w.clock += rapid.IntRange(0, 2).Draw(w.t, "step")
	text := strings.Join(rapid.SliceOfN(rapid.SampledFrom(words), 0, 3).Draw(w.t, "words"), " ")
	tag := "F"
	if rapid.IntRange(0, 5).Draw(w.t, "partial") == 0 {
		tag = "P"
	} else {
		text += fmt.Sprint(" #", len(w.lines))
	}
	write(w.t, w.store, pod, w.seg(pod, w.tail[pod]).path()[len(w.store.PodDir("svc", pod))+1:], line(float64(w.clock)/10, stream+" "+tag+" "+text))
	if begin := w.open[pod+stream]; begin != nil {
		text = *begin + text
	}
	if tag == "P" {
		w.open[pod+stream] = &text
		return
	}
	w.open[pod+stream] = nil
	w.lines = append(w.lines, reference{w.clock, pod, text})
}

// roll begins the next segment of a pod, unless a line is in parts.
func (w *world) roll() {
	pod := rapid.SampledFrom(w.pods).Draw(w.t, "pod")
	if w.open[pod+"stdout"] != nil || w.open[pod+"stderr"] != nil {
		return
	}
	if _, err := os.Stat(w.seg(pod, w.tail[pod]).path()); err != nil {
		return
	}
	w.tail[pod]++
	write(w.t, w.store, pod, w.seg(pod, w.tail[pod]).path()[len(w.store.PodDir("svc", pod))+1:], "")
}

// archive archives a closed segment.
func (w *world) archive() {
	pod := rapid.SampledFrom(w.pods).Draw(w.t, "pod")
	for n := range w.tail[pod] {
		seg := stored{segment: w.seg(pod, n)}
		if _, err := os.Stat(seg.path()); err != nil {
			continue
		}
		seg.plain = true
		if err := w.store.archiveOne(w.arch, seg); err != nil {
			w.t.Fatal(err)
		}
		return
	}
}

// sorted is what a query must return.
func (w *world) sorted(pattern string, start, end int) []string {
	var list []reference
	for _, l := range w.lines {
		if slowMatch(pattern, l.text) && l.at >= start && (end == 0 || l.at < end) {
			list = append(list, l)
		}
	}
	slices.SortStableFunc(list, func(a, b reference) int { return cmp.Compare(a.at, b.at) })
	var out []string
	for _, l := range list {
		out = append(out, fmt.Sprintf("%d %s %s", l.at, l.pod, strings.ToValidUTF8(l.text, "\uFFFD")))
	}
	return out
}

var patterns = []string{"", "error", "error warn", "?error ?warn", "-error", "item/ -warn", `10.0.0.1 item/`, "0123456789abcdef", "absent-everywhere", "#1", "?item/ ?#2 -10.0.0.1", "longererer"}

// TestQuery_AgreesWithASlowReference reads a store that does not change in pages.
func TestQuery_AgreesWithASlowReference(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { checkQuery(rt, t.TempDir()) })
}

func FuzzQuery(f *testing.F) {
	dirs := 0
	base := f.TempDir()
	f.Fuzz(rapid.MakeFuzz(func(rt *rapid.T) {
		dirs++
		checkQuery(rt, fmt.Sprintf("%s/%d-%d", base, os.Getpid(), dirs))
	}))
}

func checkQuery(rt *rapid.T, dir string) {
	w := newWorld(rt, dir)
	for range rapid.IntRange(1, 60).Draw(rt, "actions") {
		switch rapid.IntRange(0, 9).Draw(rt, "action") {
		case 0:
			w.roll()
		case 1:
			w.archive()
		default:
			w.emit()
		}
	}
	pattern := rapid.SampledFrom(patterns).Draw(rt, "pattern")
	filter, err := ParseFilter(pattern)
	if err != nil {
		rt.Fatal(err)
	}
	q := Query{ServiceID: "svc", Container: "web", Filter: filter, Limit: rapid.IntRange(1, 10).Draw(rt, "limit")}
	var start, end int
	if rapid.Bool().Draw(rt, "from") {
		start = rapid.IntRange(0, 30).Draw(rt, "start")
		q.Start = second(float64(start) / 10)
	}
	if rapid.Bool().Draw(rt, "to") {
		end = start + rapid.IntRange(1, 30).Draw(rt, "end")
		q.End = second(float64(end) / 10)
	}
	var got []string
	for {
		events, next, err := w.store.Query(rt.Context(), q)
		if err != nil {
			rt.Fatal(err)
		}
		for _, e := range events {
			got = append(got, fmt.Sprintf("%d %s %s", (e.At.Sub(epoch)+time.Millisecond)/(100*time.Millisecond), e.Pod, e.Text))
		}
		if q.Token = next; next == "" {
			break
		}
	}
	wantLines := w.sorted(pattern, start, end)
	// The order of lines of the same time is the store's, but that of each pod's is as written.
	if !slices.IsSortedFunc(got, func(a, b string) int {
		return cmp.Compare(seconds(a), seconds(b))
	}) {
		rt.Fatalf("not in order:\n%s", strings.Join(got, "\n"))
	}
	for _, pod := range w.pods {
		of := func(lines []string) (out []string) {
			for _, l := range lines {
				if strings.Contains(l, " "+pod+" ") {
					out = append(out, l)
				}
			}
			return out
		}
		if d := gocmp.Diff(of(wantLines), of(got)); d != "" {
			rt.Fatalf("%s, pattern %q (-want +got):\n%s", pod, pattern, d)
		}
	}
	if len(got) != len(wantLines) {
		rt.Fatalf("%d lines, want %d", len(got), len(wantLines))
	}
}

func seconds(line string) (at int) {
	fmt.Sscan(line, &at)
	return at
}

// TestQuery_PagesNeitherRepeatNorLose reads pages while lines are written and segments begun and archived.
func TestQuery_PagesNeitherRepeatNorLose(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt, t.TempDir())
		pattern := rapid.SampledFrom([]string{"", "error", "-error"}).Draw(rt, "pattern")
		filter, err := ParseFilter(pattern)
		if err != nil {
			rt.Fatal(err)
		}
		q := Query{ServiceID: "svc", Container: "web", Filter: filter}
		seen := map[string]int{}
		page := func() {
			q.Limit = rapid.IntRange(1, 5).Draw(rt, "limit")
			events, next, err := w.store.Query(rt.Context(), q)
			if err != nil {
				rt.Fatal(err)
			}
			for _, e := range events {
				seen[e.Pod+" "+e.Text]++
			}
			q.Token = next
		}
		for range 10 {
			w.emit()
		}
		page()
		for range rapid.IntRange(0, 60).Draw(rt, "actions") {
			switch rapid.IntRange(0, 7).Draw(rt, "action") {
			case 0:
				w.roll()
			case 1:
				w.archive()
			case 2, 3:
				if q.Token != "" {
					page()
				}
			default:
				if _, err := os.Stat(w.store.PodDir("svc", "p3")); err != nil {
					w.clock++ // a pod that is new to a query has only lines that are younger than those of the page
				}
				w.emit()
			}
		}
		for q.Token != "" {
			page()
		}
		last := 0
		for i, l := range w.lines {
			key := l.pod + " " + strings.ToValidUTF8(l.text, "\uFFFD")
			if seen[key] > 1 {
				rt.Fatalf("%q was read %d times", key, seen[key])
			}
			if seen[key] > 0 {
				last = i
			}
		}
		// Lines may be missing only at the end: those that were written after the last page.
		for _, l := range w.lines[:last] {
			key := l.pod + " " + strings.ToValidUTF8(l.text, "\uFFFD")
			if seen[key] == 0 && slowMatch(pattern, l.text) {
				rt.Fatalf("%q was lost; read %v", key, slices.Sorted(maps.Keys(seen)))
			}
		}
	})
}

// TestLines_GoOnFromTheCursor follows a log whose clock is set back now and then.
func TestLines_GoOnFromTheCursor(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt, t.TempDir())
		var c Cursor
		got := map[string][]string{}
		read := func() {
			n := rapid.IntRange(0, 20).Draw(rt, "lines")
			for l, err := range w.store.Lines(rt.Context(), Selection{ServiceID: "svc"}, &c) {
				if err != nil {
					rt.Fatal(err)
				}
				got[l.Pod] = append(got[l.Pod], string(l.Text))
				if n--; n < 0 {
					// What the loop breaks at was not read to its end.
					got[l.Pod] = got[l.Pod][:len(got[l.Pod])-1]
					return
				}
			}
		}
		for range rapid.IntRange(1, 80).Draw(rt, "actions") {
			switch rapid.IntRange(0, 9).Draw(rt, "action") {
			case 0:
				w.roll()
			case 1:
				w.archive()
			case 2:
				read()
			case 3:
				for pod := range w.tail { // every writer begins a new segment then
					if w.open[pod+"stdout"] != nil || w.open[pod+"stderr"] != nil {
						return
					}
				}
				for _, pod := range w.pods {
					if w.open[pod+"stdout"] == nil && w.open[pod+"stderr"] == nil {
						w.tail[pod]++
					} else {
						return
					}
				}
				w.clock -= 36000
			default:
				w.emit()
			}
		}
		for l, err := range w.store.Lines(rt.Context(), Selection{ServiceID: "svc"}, &c) {
			if err != nil {
				rt.Fatal(err)
			}
			got[l.Pod] = append(got[l.Pod], string(l.Text))
		}
		expect := map[string][]string{}
		for _, l := range w.lines {
			expect[l.pod] = append(expect[l.pod], l.text)
		}
		// Each stream of a pod has its order; a line in parts may end after a younger one of the other stream, and does so
		// in both.
		if d := gocmp.Diff(expect, got); d != "" {
			rt.Fatalf("(-want +got):\n%s", d)
		}
	})
}
