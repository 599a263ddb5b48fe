package logs

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// accessWriter starts a writer. stop waits until everything is written.
func accessWriter(t *testing.T, s *Store) (w *AccessWriter, stop func()) {
	t.Helper()
	w = s.NewAccessWriter()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return w, stop
}

// accessLines returns all lines of the service's access log.
func accessLines(t *testing.T, s *Store) []string {
	t.Helper()
	var lines []string
	for q := (Query{ServiceID: "s", Container: AccessLog}); ; {
		page, next, err := s.Query(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			if e.Pod != AccessPod {
				t.Errorf("line of pod %q", e.Pod)
			}
			lines = append(lines, e.Text)
		}
		if q.Token = next; next == "" {
			return lines
		}
	}
}

func TestAccessWriter_LinesAreReadableSoon(t *testing.T) {
	s := New(t.TempDir())
	w, _ := accessWriter(t, s)
	for i := range 3 {
		line := []byte(fmt.Sprintf(`{"n":%d}`, i))
		w.Write("s", time.Now(), line)
		copy(line, "overwritten")
		for deadline := time.Now().Add(20 * time.Second); len(accessLines(t, s)) <= i; {
			if time.Now().After(deadline) {
				t.Fatalf("line %d does not appear", i)
			}
			time.Sleep(time.Millisecond)
		}
	}
	if got := strings.Join(accessLines(t, s), " "); got != `{"n":0} {"n":1} {"n":2}` {
		t.Errorf("lines %s", got)
	}
	names, err := s.Containers("s")
	if err != nil || len(names) > 0 {
		t.Errorf("it counts as a container: %v, %v", names, err)
	}
}

func TestAccessWriter_GoesOnAfterACrashAndWhenFull(t *testing.T) {
	s := New(t.TempDir())
	file := filepath.Join(s.PodDir("s", accessDir), "ACCESS.log")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	if err := os.WriteFile(file, []byte(now.Format(timeFixed)+" stdout F whole\n"+now.Format(timeFixed)+" stdout F ha"), 0o600); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 100_000)
	want := []string{"whole"}
	w, stop := accessWriter(t, s)
	for i := range 3 * accessLimit / 100_000 {
		line := fmt.Sprint(i, long)
		want = append(want, line)
		for {
			w.mu.Lock()
			room := w.waiting < maxWaiting/2
			w.mu.Unlock()
			if room {
				break
			}
			time.Sleep(time.Millisecond)
		}
		w.Write("s", time.Now(), []byte(line))
	}
	stop()
	if got := accessLines(t, s); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%d lines, want %d", len(got), len(want))
	}
	segs, err := segments(filepath.Dir(file), AccessLog)
	if err != nil || len(segs) < 3 || segs[1].number != 1 {
		t.Errorf("segments %+v, %v", segs, err)
	}
}

func TestAccessWriter_NeverWaitsAndCountsWhatItDrops(t *testing.T) {
	s := New(t.TempDir())
	w := s.NewAccessWriter()
	line := []byte(strings.Repeat("x", 1000))
	w.writing.Lock() // the disk is slow
	const sent = 10_000
	for range sent {
		w.Write("s", time.Now(), line)
	}
	for i := range 100 { // others do not suffer from it, until all together are too many
		for range sent / 10 {
			w.Write(fmt.Sprint("other", i), time.Now(), line)
		}
	}
	w.writing.Unlock()
	if w.waiting > maxWaitingAll || w.logs["other0"].dropped > 0 || w.logs["other99"].dropped == 0 {
		t.Errorf("%d bytes wait, %d and %d dropped", w.waiting, w.logs["other0"].dropped, w.logs["other99"].dropped)
	}
	w.flush()
	got := accessLines(t, s)
	var last struct {
		Time    time.Time
		Dropped int
	}
	if err := json.Unmarshal([]byte(got[len(got)-1]), &last); err != nil || len(got)-1+last.Dropped != sent || last.Dropped == 0 || last.Time.IsZero() {
		t.Errorf("%d lines, the last %q, %v", len(got), got[len(got)-1], err)
	}
	if w.waiting != 0 {
		t.Errorf("%d bytes still wait", w.waiting)
	}
}

func TestAccessWriter_CountsWhatTheDiskDoesNotTake(t *testing.T) {
	s := New(t.TempDir())
	if err := os.WriteFile(filepath.Join(s.dir, "s"), nil, 0o600); err != nil { // in the way of the directory
		t.Fatal(err)
	}
	w := s.NewAccessWriter()
	for range 3 {
		w.Write("s", time.Now(), []byte("lost"))
		w.flush()
	}
	if err := os.Remove(filepath.Join(s.dir, "s")); err != nil {
		t.Fatal(err)
	}
	w.Write("s", time.Now(), []byte("kept"))
	w.flush()
	w.Write("s", time.Now(), []byte("kept too"))
	w.flush()
	got := accessLines(t, s)
	if len(got) != 3 || got[0] != "kept" || !strings.Contains(got[1], `"dropped":3`) || got[2] != "kept too" {
		t.Errorf("lines %q", got)
	}
}

func TestAccessWriter_DeletedServiceStaysDeleted(t *testing.T) {
	s := New(t.TempDir())
	w := s.NewAccessWriter()
	w.Write("s", time.Now(), []byte("a"))
	w.flush()
	w.Write("s", time.Now(), []byte("b"))
	if err := s.Delete("s"); err != nil {
		t.Fatal(err)
	}
	w.Write("s", time.Now(), []byte("c"))
	w.flush()
	if entries, err := os.ReadDir(s.dir); err != nil || len(entries) > 0 || w.waiting != 0 {
		t.Errorf("%v, %v, %d bytes wait", entries, err, w.waiting)
	}
}

func TestAccessWriter_RetentionLeavesTheOpenFileAndTheNumbers(t *testing.T) {
	s := New(t.TempDir())
	w := s.NewAccessWriter()
	w.Write("s", time.Now(), []byte("a"))
	w.flush()
	live := func(string, string) bool { return false }
	later := time.Now().Add(time.Hour)
	if err := s.Sweep(later, live); err != nil {
		t.Fatal(err)
	}
	w.Write("s", time.Now(), []byte("b"))
	w.flush()
	if got := accessLines(t, s); len(got) != 2 {
		t.Errorf("lines %q", got)
	}
	w.closeFiles(0)
	if err := s.Sweep(later, live); err != nil {
		t.Fatal(err)
	}
	if got := accessLines(t, s); len(got) != 0 {
		t.Errorf("swept, but still there: %q", got)
	}
	w.Write("s", time.Now(), []byte("c"))
	w.flush()
	segs, err := segments(s.PodDir("s", accessDir), AccessLog)
	if got := accessLines(t, s); err != nil || len(got) != 1 || len(segs) != 1 || segs[0].number != 1 {
		t.Errorf("lines %q, segments %+v, %v", got, segs, err)
	}
}

func BenchmarkAccessWriter_Write(b *testing.B) {
	s := New(b.TempDir())
	w := s.NewAccessWriter()
	line := []byte(strings.Repeat("x", 400))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.Write("s", time.Now(), line)
		if i%1000 == 999 {
			w.flush()
		}
	}
}
