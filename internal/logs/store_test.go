package logs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var epoch = time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)

// second is the time n seconds after the epoch.
func second(n float64) time.Time { return epoch.Add(time.Duration(n * float64(time.Second))) }

// tester is a test, or a check of rapid's.
type tester interface {
	Helper()
	Fatal(args ...any)
}

// write appends raw text to a pod's log.
func write(tb tester, s *Store, pod, file, text string) {
	tb.Helper()
	dir := s.PodDir("svc", pod)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		tb.Fatal(err)
	}
	f.Close()
}

// line is a record at n seconds after the epoch.
func line(n float64, rest string) string {
	return second(n).Format(time.RFC3339Nano) + " " + rest + "\n"
}

// query returns the texts of all pages.
func query(tb testing.TB, s *Store, q Query) []string {
	tb.Helper()
	q.ServiceID = "svc"
	if q.Container == "" {
		q.Container = "web"
	}
	var texts []string
	for {
		events, next, err := s.Query(tb.Context(), q)
		if err != nil {
			tb.Fatal(err)
		}
		for _, e := range events {
			texts = append(texts, e.Text)
		}
		if q.Token = next; next == "" {
			return texts
		}
	}
}

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("lines (-want +got):\n%s", d)
	}
}

func TestQuery_MergesPodsAndSystemLinesByTime(t *testing.T) {
	s := New(t.TempDir())
	write(t, s, "p1", "web.log", line(1, "stdout F one")+line(4, "stderr F four"))
	write(t, s, "p2", "web.log", line(2, "stdout F two")+line(3, "stdout F three"))
	write(t, s, "p2", "webx.log", line(2, "stdout F other container"))
	write(t, s, "p2", "web.logx", line(2, "stdout F no log"))
	if err := s.Append("svc", []string{"web", "side"}, second(0), "[deployment:1] Creating your deployment"); err != nil {
		t.Fatal(err)
	}
	if err := s.Append("svc", []string{"web"}, second(5), "[trysail] a\n[trysail] b\n"); err != nil {
		t.Fatal(err)
	}
	all := []string{"[deployment:1] Creating your deployment", "one", "two", "three", "four", "[trysail] a", "[trysail] b"}
	want(t, query(t, s, Query{}), all...)
	want(t, query(t, s, Query{Limit: 1}), all...)
	want(t, query(t, s, Query{Limit: 3}), all...)
	want(t, query(t, s, Query{Container: "side"}), all[0])
	want(t, query(t, s, Query{Start: second(2), End: second(4)}), "two", "three")
	want(t, query(t, s, Query{Start: second(4)}), all[4:]...)
	f, err := ParseFilter("?o ?[trysail] -two")
	if err != nil {
		t.Fatal(err)
	}
	want(t, query(t, s, Query{Filter: f, Limit: 2}), "[deployment:1] Creating your deployment", "one", "four", "[trysail] a", "[trysail] b")
	names, err := s.Containers("svc")
	if err != nil {
		t.Fatal(err)
	}
	want(t, names, "side", "web", "webx")
}

func TestQuery_LeavesTheDirectoryToNobody(t *testing.T) {
	s := New(t.TempDir())
	write(t, s, "p1", "web.log", line(1, "stdout F one"))
	for _, name := range []string{"", "../p1/web", "..", "web.log", "web\x00", `a\b`} {
		events, _, err := s.Query(t.Context(), Query{ServiceID: "svc", Container: name})
		if err != nil || len(events) > 0 {
			t.Errorf("container %q: got %v, %v, want nothing", name, events, err)
		}
	}
	if err := s.Delete(".."); err == nil {
		t.Error("Delete of .. was not refused")
	}
}

func TestQuery_JoinsPartsAndRepairsText(t *testing.T) {
	s := New(t.TempDir())
	write(t, s, "p1", "web.log", line(1, "stdout P he")+line(1.1, "stderr F err")+line(1.2, "stdout P ll")+line(1.3, "stdout F o")+
		line(2, "stdout F ")+line(3, "stdout F a\xffb")+line(4, "stdout F  two  spaces ")+"garbage\n"+strings.Repeat("\x00", 20)+line(5, "stdout F after zeros")+
		line(6, "stdout F unfinished")[:30])
	want(t, query(t, s, Query{}), "err", "hello", "", "a\uFFFDb", " two  spaces ", "garbage", "after zeros")
	want(t, query(t, s, Query{Limit: 1}), "err", "hello", "", "a\uFFFDb", " two  spaces ", "garbage", "after zeros")
}

func TestQuery_UnfinishedLineOfADeadWriter(t *testing.T) {
	s := New(t.TempDir())
	write(t, s, "p1", "web.log", line(1, "stdout F one")+line(2, "stdout P last ")+strings.TrimSuffix(line(3, "stdout P words"), "\n"))
	want(t, query(t, s, Query{}), "one")
	old := time.Now().Add(-2 * quiet)
	if err := os.Chtimes(filepath.Join(s.PodDir("svc", "p1"), "web.log"), old, old); err != nil {
		t.Fatal(err)
	}
	want(t, query(t, s, Query{}), "one", "last words")
	want(t, query(t, s, Query{Limit: 1}), "one", "last words")
}

func TestQuery_LongLines(t *testing.T) {
	s := New(t.TempDir())
	var b strings.Builder
	part := strings.Repeat("x", 16<<10)
	for i := range 200 { // 3.1 MiB in one line
		tag := "P"
		if i == 199 {
			tag = "F"
		}
		b.WriteString(line(1+float64(i)/1000, "stdout "+tag+" "+part))
	}
	write(t, s, "p1", "web.log", b.String()+line(2, "stdout F end"))
	for _, limit := range []int{1, 1000} {
		got := query(t, s, Query{Limit: limit})
		if last := got[len(got)-1]; last != "end" {
			t.Fatalf("last line: got %.20q, want end", last)
		}
		total := 0
		for _, text := range got[:len(got)-1] {
			if len(text) > maxText {
				t.Errorf("a line of %d bytes", len(text))
			}
			total += len(text)
		}
		if total != 200*len(part) {
			t.Errorf("limit %d: got %d bytes, want %d", limit, total, 200*len(part))
		}
	}
}

func TestQuery_BoundsAPageInBytes(t *testing.T) {
	s := New(t.TempDir())
	for i := range 30 {
		write(t, s, "p1", "web.log", line(float64(i), "stdout F "+strings.Repeat("x", 100<<10)))
	}
	events, next, err := s.Query(t.Context(), Query{ServiceID: "svc", Container: "web"})
	if err != nil || next == "" || len(events) != 10 {
		t.Errorf("got %d lines, next %q, %v; want 10 lines and a next page", len(events), next, err)
	}
}

func TestQuery_NoTokenWhenNothingMatchesAnyMore(t *testing.T) {
	s := New(t.TempDir())
	for i := range 10 {
		write(t, s, "p1", "web.log", line(float64(i), fmt.Sprint("stdout F n", i)))
	}
	f, err := ParseFilter("?n1 ?n2")
	if err != nil {
		t.Fatal(err)
	}
	events, next, err := s.Query(t.Context(), Query{ServiceID: "svc", Container: "web", Filter: f, Limit: 2})
	if err != nil || len(events) != 2 || next != "" {
		t.Errorf("got %v, next %q, %v; want two lines and no next page", events, next, err)
	}
}

func TestQuery_RefusesBadTokens(t *testing.T) {
	s := New(t.TempDir())
	for i := range 3 {
		write(t, s, "p1", "web.log", line(float64(i), "stdout F x"))
	}
	_, good, err := s.Query(t.Context(), Query{ServiceID: "svc", Container: "web", Limit: 1})
	if err != nil || good == "" {
		t.Fatalf("got %q, %v, want a token", good, err)
	}
	other := "A"
	if strings.HasSuffix(good, other) {
		other = "Q"
	}
	for _, token := range []string{"x", "AAAA", good[1:], good[:len(good)-2], good + good, good[:10] + other + good[11:]} {
		if _, _, err := s.Query(t.Context(), Query{ServiceID: "svc", Container: "web", Token: token}); !errors.Is(err, ErrBadToken) {
			t.Errorf("token %q: got %v, want ErrBadToken", token, err)
		}
	}
	if _, _, err := s.Query(t.Context(), Query{ServiceID: "svc", Container: "other", Token: good}); !errors.Is(err, ErrBadToken) {
		t.Errorf("token of another container: got %v, want ErrBadToken", err)
	}
}

func TestQuery_FindsTheStartOfALargeFile(t *testing.T) {
	s := New(t.TempDir())
	var b strings.Builder
	for i := range 50_000 {
		b.WriteString(line(float64(i), fmt.Sprint("stdout F line ", i)))
	}
	write(t, s, "p1", "web.log", b.String())
	for _, n := range []int{0, 1, 777, 25_000, 49_998, 49_999} {
		got := query(t, s, Query{Start: second(float64(n)), End: second(float64(n + 2))})
		expect := []string{fmt.Sprint("line ", n)}
		if n < 49_999 {
			expect = append(expect, fmt.Sprint("line ", n+1))
		}
		want(t, got, expect...)
	}
	f, err := os.Open(filepath.Join(s.PodDir("svc", "p1"), "web.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if off := seekTime(f, int64(b.Len()), second(49_000)); off < int64(b.Len())*9/10 {
		t.Errorf("seekTime: got %d of %d, want near the end", off, b.Len())
	}
}

func TestAppend_CutsOffHalfALine(t *testing.T) {
	s := New(t.TempDir())
	for i := range 3 {
		if err := s.Append("svc", []string{"web"}, second(float64(i)), fmt.Sprint("line ", i)); err != nil {
			t.Fatal(err)
		}
		write(t, s, systemDir, "web.log", line(float64(i), "stdout F half "+strings.Repeat("x", 10_000))[:5000])
	}
	if err := s.Append("svc", []string{"web"}, second(3), "end"); err != nil {
		t.Fatal(err)
	}
	want(t, query(t, s, Query{}), "line 0", "line 1", "line 2", "end")
}

func TestTail_ReadsFromTheEnd(t *testing.T) {
	s := New(t.TempDir())
	tail := func(n int) []string {
		t.Helper()
		lines, err := s.Tail("svc", "p1", "web", n)
		if err != nil {
			t.Fatal(err)
		}
		return lines
	}
	want(t, tail(5))
	write(t, s, "p1", "web.log", line(0, "stdout F oldest")+line(1, "stdout F old"))
	write(t, s, "p1", "web.1.log", line(2, "stdout P ne")+line(2, "stdout F w")+line(3, "stderr P unfinished"))
	want(t, tail(1), "unfinished")
	want(t, tail(2), "new", "unfinished")
	want(t, tail(3), "old", "new", "unfinished")
	want(t, tail(9), "oldest", "old", "new", "unfinished")
	var b strings.Builder
	for i := range 5000 {
		b.WriteString(line(4, fmt.Sprint("stdout F number ", i)))
	}
	write(t, s, "p1", "web.1.log", b.String())
	if got := tail(3000); len(got) != 3000 || got[0] != "number 2000" || got[2999] != "number 4999" {
		t.Errorf("tail(3000): got %d lines, %q … %q", len(got), got[0], got[len(got)-1])
	}
}

func TestSweep_KeepsWhatIsYoungOrWritten(t *testing.T) {
	s := New(t.TempDir())
	old := time.Now().Add(-Retention - time.Hour)
	age := func(pod, name string) {
		t.Helper()
		if err := os.Chtimes(filepath.Join(s.PodDir("svc", pod), name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	for _, pod := range []string{"dead", "live", "young", "locked"} {
		write(t, s, pod, "web.log", line(0, "stdout F x"))
		write(t, s, pod, "web.1.log", line(1, "stdout F x"))
		if pod != "young" {
			age(pod, "web.log")
			age(pod, "web.1.log")
		}
	}
	f, ok, err := segment{dir: s.PodDir("svc", "locked"), container: "web", number: 1}.lock()
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	defer f.Close()
	if err := s.Append("svc", []string{"web", "gone"}, old, "old"); err != nil {
		t.Fatal(err)
	}
	age(systemDir, "web.log")
	age(systemDir, "gone.log")
	if err := s.Append("svc", []string{"web"}, time.Now(), "new"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Sweep(time.Now().Add(-Retention), func(_, pod string) bool { return pod == "live" }); err != nil {
			t.Fatal(err)
		}
	}
	var left []string
	filepath.WalkDir(s.dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(s.dir, path)
			left = append(left, rel)
		}
		return err
	})
	want(t, left, "svc/live/web.1.log", "svc/locked/web.1.log", "svc/system/gone.1.log", "svc/system/web.1.log", "svc/young/web.1.log", "svc/young/web.log")
	want(t, query(t, s, Query{Start: old}), "new")
	if _, err := os.Stat(s.PodDir("svc", "dead")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory of a pod without a log: %v, want it gone", err)
	}
	if err := s.Delete("svc"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "svc")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Delete: %v, want the directory gone", err)
	}
	if err := s.Delete("svc"); err != nil {
		t.Errorf("Delete again: %v", err)
	}
}

func FuzzToken(f *testing.F) {
	t := &token{mark: mark{epoch, sourceKey{1, 2}, 3}, positions: map[sourceKey]position{{3, 4}: {50, 6}, {0, 1}: {7, 0}}}
	f.Add(t.encode(9), uint32(9))
	f.Add("", uint32(0))
	f.Fuzz(func(t *testing.T, s string, scope uint32) {
		if got, err := decodeToken(s, scope); err == nil && got.encode(scope) != s {
			t.Errorf("%q decodes to %v, which encodes to %q", s, got, got.encode(scope))
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte("2026-01-02T15:04:05.999999999Z stdout F text"), []byte("2026-01-02T15:04:05Z stderr P x"))
	f.Add([]byte("\x00\x002026-01-02T15:04:05+01:00 stdout F:tag "), []byte(" "))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var j joiner
		in, out := 0, 0
		for i, line := range [][]byte{a, b, a} {
			in += len(line)
			if _, text, ok := j.add(line, int64(i)); ok {
				out += len(text)
			}
			if back := j.back(int64(i)); back < 0 || back > int64(i) {
				t.Errorf("back(%d): got %d", i, back)
			}
		}
		for _, text, ok := j.flush(); ok; _, text, ok = j.flush() {
			out += len(text)
		}
		if out > in {
			t.Errorf("%d bytes became %d", in, out)
		}
	})
}

func BenchmarkQuery_Search(b *testing.B) {
	s := New(b.TempDir())
	var text strings.Builder
	for i := range 1_000_000 {
		text.WriteString(line(float64(i)/1000, fmt.Sprintf("stdout F 10.0.0.1 GET /item/%d 200", i)))
	}
	write(b, s, "p1", "web.log", text.String())
	f, err := ParseFilter("item/999999")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(text.Len()))
	b.ResetTimer()
	for b.Loop() {
		if got := query(b, s, Query{Filter: f}); len(got) != 1 {
			b.Fatalf("got %d lines", len(got))
		}
	}
}
