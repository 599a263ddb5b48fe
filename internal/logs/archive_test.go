package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// archived makes a log of several archived segments and returns what is in each.
func archived(t *testing.T, s *Store, segments, lines int) (contents [][]byte) {
	t.Helper()
	for n := range segments {
		seg := segment{dir: s.PodDir("svc", "p1"), container: "web", number: n}
		var b strings.Builder
		for i := range lines {
			b.WriteString(line(float64(n*lines+i), fmt.Sprintf("stdout F request %d-%d took %dms %s", n, i, i*7%977, strings.Repeat("pad", i%5))))
		}
		write(t, s, "p1", filepath.Base(seg.path()), b.String())
		contents = append(contents, []byte(b.String()))
	}
	write(t, s, "p1", fmt.Sprintf("web.%d.log", segments), "")
	if err := s.keepOnce(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	return contents
}

func TestArchive_IsTheSameBytesForZstd(t *testing.T) {
	s := New(t.TempDir())
	contents := archived(t, s, 2, 20_000)
	entries, _ := filepath.Glob(filepath.Join(s.PodDir("svc", "p1"), "*"))
	for i := range entries {
		entries[i] = filepath.Base(entries[i])
	}
	want(t, entries, "web.1.log.zst", "web.2.log", "web.log.zst")
	for n, content := range contents {
		seg := segment{dir: s.PodDir("svc", "p1"), container: "web", number: n}
		b, err := os.ReadFile(seg.archivePath())
		if err != nil {
			t.Fatal(err)
		}
		d, err := zstd.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if _, err := d.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), content) {
			t.Errorf("segment %d: %d bytes, %v, want the %d that were written", n, got.Len(), err, len(content))
		}
		d.Close()
	}
	f, err := ParseFilter("1-19999 took")
	if err != nil {
		t.Fatal(err)
	}
	if got := query(t, s, Query{Filter: f}); len(got) != 1 {
		t.Errorf("search: got %d lines", len(got))
	}
	if got, err := s.Tail("svc", "p1", "web", 20_001); err != nil || len(got) != 20_001 || !strings.HasPrefix(got[0], "request 0-19999 ") {
		t.Errorf("Tail: got %d lines, %v", len(got), err)
	}
}

func TestArchive_SkipsBlocksWithoutTheTerm(t *testing.T) {
	s := New(t.TempDir())
	archived(t, s, 1, 50_000)
	a, err := s.openArchive(segment{dir: s.PodDir("svc", "p1"), container: "web"}.archivePath())
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	for _, term := range []string{"request 0-33333 took", "OutOfMemoryError"} {
		f, err := ParseFilter(`"` + term + `"`)
		if err != nil {
			t.Fatal(err)
		}
		kept := 0
		for i := range a.blocks {
			if !a.blocks[i].grams.lack(&f) {
				kept++
			}
		}
		if len(a.blocks) < 10 || kept > len(a.blocks)/3 {
			t.Errorf("%q: %d of %d blocks may have it", term, kept, len(a.blocks))
		}
	}
}

// TestArchive_DamageHidesNothingElse breaks archives in many ways. What is left must come, with a line that tells of the
// rest, in the answer and in the server's own log.
func TestArchive_DamageHidesNothingElse(t *testing.T) {
	var log bytes.Buffer
	for name, damage := range map[string]func(b []byte, blocks []block) []byte{
		"a block": func(b []byte, blocks []block) []byte {
			b[blocks[2].at+blocks[2].packed/2] ^= 0xff
			return b
		},
		"a block and the index": func(b []byte, blocks []block) []byte {
			b[blocks[2].at+blocks[2].packed/2] ^= 0xff
			b[len(b)-30] ^= 0xff
			return b
		},
		"a header and the index": func(b []byte, blocks []block) []byte {
			b[blocks[2].at-10] ^= 0xff
			b[len(b)-1] ^= 0xff
			return b
		},
		"cut in a block":   func(b []byte, blocks []block) []byte { return b[:blocks[4].at+5] },
		"cut in the index": func(b []byte, _ []block) []byte { return b[:len(b)-100] },
		"zeros":            func(b []byte, _ []block) []byte { return make([]byte, len(b)) },
		"nothing":          func([]byte, []block) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			log.Reset()
			s := NewWithLog(t.TempDir(), slog.New(slog.NewTextHandler(&log, nil)))
			archived(t, s, 3, 30_000)
			seg := segment{dir: s.PodDir("svc", "p1"), container: "web", number: 1}
			b, err := os.ReadFile(seg.archivePath())
			if err != nil {
				t.Fatal(err)
			}
			blocks, _, ok := readIndex(bytes.NewReader(b), int64(len(b)))
			if !ok || len(blocks) < 6 {
				t.Fatal(ok, len(blocks))
			}
			if err := os.WriteFile(seg.archivePath(), damage(b, blocks), 0o600); err != nil {
				t.Fatal(err)
			}
			s = NewWithLog(s.dir, s.log) // nothing is remembered
			for _, limit := range []int{1000, 7919} {
				got := query(t, s, Query{Limit: limit})
				counts := map[string]int{}
				for _, l := range got {
					counts[l[:min(len(l), len("request 1"))]]++
				}
				if counts["request 0"] != 30_000 || counts["request 2"] != 30_000 {
					t.Errorf("lines of the other segments: %v", counts)
				}
				if !slices.ContainsFunc(got, func(l string) bool {
					return strings.HasPrefix(l, "[trysail] log lines of container web are missing here")
				}) {
					t.Error("no line tells of the damage")
				}
				if left := counts["request 1"]; name == "a block" && left < 20_000 || left >= 30_000 && name != "cut in the index" {
					t.Errorf("%d lines of the damaged segment", left)
				}
			}
			if n := strings.Count(log.String(), "a log file is damaged"); n != 1 {
				t.Errorf("%d reports in the log:\n%s", n, &log)
			}
		})
	}
}

// TestKeep_FinishesWhatACrashCutShort stops the archiving at each of its steps.
func TestKeep_FinishesWhatACrashCutShort(t *testing.T) {
	s := New(t.TempDir())
	content := archived(t, s, 1, 5000)[0]
	seg := segment{dir: s.PodDir("svc", "p1"), container: "web"}
	whole, err := os.ReadFile(seg.archivePath())
	if err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string]map[string][]byte{
		"before the rename": {seg.path(): content, seg.archivePath() + ".tmp": whole[:100]},
		"before the delete": {seg.path(): content, seg.archivePath(): whole},
		"a torn archive":    {seg.path(): content, seg.archivePath(): whole[:len(whole)/2]},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.Remove(seg.archivePath()); err != nil {
				t.Fatal(err)
			}
			for path, b := range files {
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if n := len(query(t, s, Query{})); n != 5000 {
				t.Errorf("before: %d lines", n)
			}
			if err := s.keepOnce(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			if n := len(query(t, s, Query{})); n != 5000 {
				t.Errorf("after: %d lines", n)
			}
			if _, err := os.Stat(seg.path()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the plain file: %v, want it gone", err)
			}
		})
	}
}

func TestKeep_RemovesTheOldestBeyondTheLimit(t *testing.T) {
	s := New(t.TempDir())
	now := time.Now()
	for i, pod := range []string{"old", "mid", "new"} {
		for n, name := range []string{"web.log", "web.1.log"} {
			write(t, s, pod, name, strings.Repeat(line(float64(i), "stdout F "+strings.Repeat("x", 900)), 100))
			at := now.Add(time.Duration(i*10+n-60) * time.Second)
			if err := os.Chtimes(filepath.Join(s.PodDir("svc", pod), name), at, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	f, ok, err := segment{dir: s.PodDir("svc", "old"), container: "web", number: 1}.lock() // it is being written
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	defer f.Close()
	all, err := s.all()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.limit(all, 4*90_000+50_000); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(s.dir, "svc", "*", "*"))
	for i := range left {
		left[i], _ = filepath.Rel(s.dir, left[i])
	}
	want(t, left, "svc/mid/web.1.log", "svc/new/web.1.log", "svc/new/web.log", "svc/old/web.1.log")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Keep(ctx, 0) // ends with its context
}

func FuzzArchive(f *testing.F) {
	a, err := newArchiver()
	if err != nil {
		f.Fatal(err)
	}
	a.block = 100
	dir := f.TempDir()
	path := filepath.Join(dir, "a.log")
	if err := os.WriteFile(path, []byte(strings.Repeat(line(1, "stdout F some text"), 20)), 0o600); err != nil {
		f.Fatal(err)
	}
	in, err := os.Open(path)
	if err != nil {
		f.Fatal(err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	if err := a.write(&b, &plain{f: in, end: info.Size()}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:b.Len()/2])
	f.Add([]byte{})
	s := New(dir)
	seg := segment{dir: s.PodDir("svc", "p"), container: "web"}
	if err := os.MkdirAll(seg.dir, 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s.forget(seg)
		if err := os.WriteFile(seg.archivePath(), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Query(t.Context(), Query{ServiceID: "svc", Container: "web", Limit: 10}); err != nil {
			t.Error(err)
		}
	})
}
