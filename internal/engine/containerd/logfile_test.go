package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// readLog returns what the segments of a log say: the lines of each stream, with parts joined, and all times.
func readLog(t interface {
	Helper()
	Fatalf(format string, args ...any)
}, dir string,
) (streams [2]string, times [][]string) {
	t.Helper()
	for i := 0; ; i++ {
		name := "app.log"
		if i > 0 {
			name = fmt.Sprintf("app.%d.log", i)
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			return streams, times
		}
		if err != nil {
			t.Fatalf("%v", err)
		}
		times = append(times, nil)
		for line := range strings.Lines(string(b)) {
			part := strings.SplitN(line, " ", 4)
			if len(part) != 4 || len(part[0]) != len(logTime) || !strings.HasSuffix(line, "\n") {
				t.Fatalf("record %q in %s", line, name)
			}
			times[i] = append(times[i], part[0])
			text := strings.TrimSuffix(part[3], "\n")
			if part[2] == "F" {
				text += "\n"
			}
			streams[slices.Index([]string{"stdout", "stderr"}, part[1])] += text
		}
		if !slices.IsSorted(times[i]) {
			t.Fatalf("times in %s are not ascending", name)
		}
	}
}

func noWarning(t *testing.T) func(string, error) {
	t.Helper()
	return func(msg string, err error) { t.Errorf("%s: %v", msg, err) }
}

// TestCopyLog_KeepsEveryByte copies output that comes in pieces of any size.
func TestCopyLog_KeepsEveryByte(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir() // another one each time
		l := openLog(filepath.Join(dir, "app.log"), int64(rapid.IntRange(100, 10_000).Draw(rt, "limit")), noWarning(t))
		l.sleep = func(time.Duration) {}
		var text bytes.Buffer
		for range rapid.IntRange(0, 20).Draw(rt, "lines") {
			n := rapid.SampledFrom([]int{0, 1, 10, 200, 5000, maxRead - 1, maxRead, 3*maxRead + 7}).Draw(rt, "length")
			text.Write(bytes.Repeat([]byte{byte(rapid.SampledFrom([]int{'a', 0, 0xff, '\r', ' '}).Draw(rt, "byte"))}, n))
			text.WriteByte('\n')
		}
		if rapid.Bool().Draw(rt, "no newline") {
			text.WriteString("end")
		}
		want := text.String()
		if want != "" && !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		pieces := rapid.SliceOfN(rapid.SampledFrom([]int{100, 4096, 60_000}), 1, 5).Draw(rt, "pieces")
		copyLog(l, 0, &pieceReader{r: &text, pieces: pieces})
		copyLog(l, 1, strings.NewReader("err\n"))
		l.close()
		got, _ := readLog(rt, dir)
		if got[0] != want || got[1] != "err\n" {
			rt.Fatalf("got %d and %d bytes, want %d and 4", len(got[0]), len(got[1]), len(want))
		}
	})
}

// pieceReader reads in pieces of the given sizes, round and round.
type pieceReader struct {
	r      io.Reader
	pieces []int
	n      int
}

func (p *pieceReader) Read(b []byte) (int, error) {
	p.n++
	return p.r.Read(b[:min(len(b), p.pieces[p.n%len(p.pieces)])])
}

func TestLogFile_BeginsSegments(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	l := openLog(filepath.Join(dir, "app.log"), 1000, noWarning(t))
	l.now = func() time.Time { return now }
	say := func(text string) { l.write(0, []byte(text), false) }
	say("one\n" + strings.Repeat("x", 1000) + "\n" + "begin of a long ")
	say("line\n") // belongs to the first segment still
	say("two\n")
	now = now.Add(-time.Second)
	say("two, a little back\n")
	now = now.Add(-time.Hour)
	say("three, far back\n")
	now = now.Add(maxSegmentAge)
	say("four, a day later\n")
	l.close()
	l = openLog(filepath.Join(dir, "app.log"), 1000, noWarning(t))
	l.now = func() time.Time { return now }
	say("four, opened again\n")
	l.close()
	_, times := readLog(t, dir)
	var counts []int
	for _, s := range times {
		counts = append(counts, len(s))
	}
	if want := []int{4, 2, 1, 2}; !slices.Equal(counts, want) {
		t.Errorf("records in the segments: %v, want %v", counts, want)
	}
	if times[1][0] != times[1][1] || times[2][0] >= times[1][0] {
		t.Errorf("times %v, want that of a clock set back a little to stand still, and far back to go back", times)
	}
}

func TestLogFile_EndsAHalfLineOfACrash(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "app.log")
	if err := os.WriteFile(path, []byte("2026-11-20T10:00:00.000000000Z stdout F ha"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := openLog(path, 1000, noWarning(t))
	l.write(0, []byte("next\n"), false)
	l.close()
	if got, _ := readLog(t, dir); got[0] != "ha\nnext\n" {
		t.Errorf("got %q", got[0])
	}
}

func TestLogFile_GoesOnBehindWhatIsArchived(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"app.log.zst", "app.1.log.zst", "app.1.log.zst.tmp", "other.7.log"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := openLog(filepath.Join(dir, "app.log"), 1000, noWarning(t))
	l.write(0, []byte("x\n"), false)
	l.close()
	if _, err := os.Stat(filepath.Join(dir, "app.2.log")); err != nil {
		t.Error(err)
	}
}

// TestLogFile_SaysWhatAFullDiskTook fills a file system.
func TestLogFile_SaysWhatAFullDiskTook(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 40<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	var warnings []string
	l := openLog(filepath.Join(dir, "app.log"), 1<<20, func(msg string, err error) { warnings = append(warnings, fmt.Sprintf("%s: %v", msg, err)) })
	l.write(0, []byte("first\n"), false)
	line := strings.Repeat("x", 999) + "\n"
	for range 100 {
		l.write(0, []byte(line), false)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	l.write(1, []byte("last\n"), false)
	l.close()
	got, _ := readLog(t, dir)
	kept := strings.Count(got[0], line)
	want := "first\n" + strings.Repeat(line, kept) + fmt.Sprintf("[trysail] %d lines (%s) dropped: no space left on device\n", 100-kept, byteSize(int64(100-kept)*1000))
	if got[0] != want || got[1] != "last\n" || kept == 0 || kept == 100 {
		t.Errorf("%d lines were kept; got …%q and %q, want …%q", kept, got[0][max(0, len(got[0])-200):], got[1], want[len(want)-100:])
	}
	if len(warnings) != 2 || !strings.HasPrefix(warnings[1], "log lines were dropped: ") {
		t.Errorf("warnings %q", warnings)
	}
}
