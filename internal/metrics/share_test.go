package metrics

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func openShared(tb interface{ Fatal(args ...any) }, dir, self string) *Store {
	s, err := Open(filepath.Join(dir, self, "metrics"), slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	s.Share(self, filepath.Join(dir, self, "copies"))
	return s
}

// TestShare_NothingIsCountedTwice: several servers count, write, turn minutes into hours, end and begin again, and give each other
// what they have, in whatever order, again and again. None ever knows of more than there was, and in the end each knows all
// that was written.
func TestShare_NothingIsCountedTwice(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "trysail-points-") //nolint:usetesting // one for each of many runs
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		now := time.Now().UTC().Truncate(time.Minute)
		names := []string{"SERVERAAA", "SERVERBBB", "SERVERCCC"}
		stores := map[string]*Store{}
		for _, name := range names {
			stores[name] = openShared(rt, dir, name)
		}
		counted, unwritten := int64(0), map[string]int64{}
		draw := func(what string) string { return rapid.SampledFrom(names).Draw(rt, what) }
		sum := func(s *Store) (n int64) {
			_, err := s.Query(rt.Context(), Query{ServiceID: "svc", From: now.Add(-30 * day), To: now.Add(day), Period: time.Hour}, func(b *Bucket) { n += b.BytesIn })
			if err != nil {
				rt.Fatal(err)
			}
			return n
		}
		give := func(from, to, origin string, most int) {
			files, err := stores[from].Files(origin)
			if err != nil {
				rt.Fatal(err)
			}
			have, err := stores[to].Files(origin)
			if err != nil {
				rt.Fatal(err)
			}
			for _, name := range slices.Sorted(maps.Keys(files)) {
				if most--; most == -1 {
					return
				}
				if have[name] >= files[name] {
					continue
				}
				data, next, at, err := stores[from].Piece(origin, name, have[name])
				if err != nil {
					rt.Fatal(err)
				}
				if next <= have[name] {
					continue
				}
				if got, err := stores[to].AddPiece(origin, name, have[name], next, data, at); err != nil || got < next {
					rt.Fatalf("%s of %s from %d to %d: %d, %v", name, origin, have[name], next, got, err)
				}
			}
		}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "action") {
			case 0:
				name := draw("killed")
				counted -= unwritten[name]
				unwritten[name] = 0
				stores[name] = openShared(rt, dir, name)
				for _, other := range names { // what is known of it beyond is what has been lost
					if other != name {
						give(name, other, name, -1)
						stores[other].heads = map[string][]owned{}
					}
				}
			case 1:
				if err := stores[draw("compacted")].Compact(rt.Context(), now); err != nil {
					rt.Fatal(err)
				}
			case 2, 3:
				name := draw("written")
				if err := stores[name].Flush(now); err != nil {
					rt.Fatal(err)
				}
				unwritten[name] = 0
			case 4, 5:
				from, to, origin := draw("from"), draw("to"), draw("origin")
				if from != to && to != origin && (from == origin || rapid.Bool().Draw(rt, "second hand")) {
					give(from, to, origin, rapid.IntRange(0, 4).Draw(rt, "pieces"))
				}
			default:
				name, n := draw("counts"), int64(rapid.IntRange(1, 1000).Draw(rt, "bytes"))
				back := rapid.SampledFrom([]time.Duration{0, time.Minute, day, 13 * day}).Draw(rt, "back")
				stores[name].Add("svc", 1, now.Add(-back), &Values{BytesIn: n})
				counted += n
				unwritten[name] += n
			}
			for _, name := range names {
				if n := sum(stores[name]); n > counted {
					rt.Fatalf("%s knows of %d, there was %d", name, n, counted)
				}
			}
		}
		for _, from := range names {
			for _, to := range names {
				if from != to {
					give(from, to, from, -1)
				}
			}
		}
		for _, name := range names {
			if n := sum(stores[name]); n != counted {
				rt.Fatalf("%s knows of %d, there was %d", name, n, counted)
			}
		}
	})
}

// TestShare_OldDaysComeAsHours: who is new gets also what is hours already, and a day that is given once more does not count
// twice.
func TestShare_OldDaysComeAsHours(t *testing.T) {
	dir := t.TempDir()
	a, b := openShared(t, dir, "SERVERAAA"), openShared(t, dir, "SERVERBBB")
	now := time.Now()
	old := now.Add(-KeepMinutes - day)
	a.Add("svc", 1, old, &Values{BytesIn: 7})
	if err := a.Flush(old); err != nil {
		t.Fatal(err)
	}
	give := func() {
		t.Helper()
		files, err := a.Files("SERVERAAA")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range slices.Sorted(maps.Keys(files)) {
			data, next, at, err := a.Piece("SERVERAAA", name, 0)
			if err == nil {
				_, err = b.AddPiece("SERVERAAA", name, 0, next, data, at)
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	check := func(when string) {
		t.Helper()
		for i, s := range []*Store{a, b} {
			got := query(t, s, Query{ServiceID: "svc", From: old.Add(-day), To: now, Period: time.Hour})
			if len(got) != 1 || got[0].BytesIn != 7 {
				t.Errorf("%s: server %d has %v", when, i, got)
			}
		}
	}
	give() // as minutes
	check("as minutes")
	if err := a.Compact(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	give() // as hours
	check("as both")
	if err := b.Compact(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	give()
	check("as hours")
	c := openShared(t, dir, "SERVERCCC")
	b, c = c, b
	give()
	check("at who is new")
	_ = c
}

func TestShare_RefusesWhatIsNoCopy(t *testing.T) {
	s := openShared(t, t.TempDir(), "SERVERAAA")
	for _, name := range []string{"../2026-11-21.minutes", "svc/../2026-11-21.minutes", "svc/passwd", "2026-11-21.minutes", "a/b/2026-11-21.minutes", ""} {
		if _, err := s.AddPiece("SERVERBBB", name, 0, 1, []byte("x"), time.Now()); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
	name := "svc/" + time.Now().UTC().Format(time.DateOnly) + minutesExt
	for _, origin := range []string{"SERVERAAA", "..", "a/b"} {
		if _, err := s.AddPiece(origin, name, 0, 1, []byte("x"), time.Now()); err == nil {
			t.Errorf("files of %q are taken", origin)
		}
	}
	if _, err := s.AddPiece("SERVERBBB", name, 0, 5, []byte("x"), time.Now()); err == nil {
		t.Error("a piece of another length is taken")
	}
	if have, err := s.AddPiece("SERVERBBB", "svc/2020-01-01"+minutesExt, 0, 1, []byte("x"), time.Now()); err != nil || have < 1 {
		t.Errorf("a day of long ago: %d, %v", have, err)
	}
	for _, head := range []string{"svc", "svc\n", "svc\nxxxx", fmt.Sprint("\n", "\x05abc")} {
		if _, err := s.AddPiece("SERVERBBB", headName, 0, 1, []byte(head), time.Now()); err != nil {
			t.Errorf("what cannot be read of what is not written yet: %v", err)
		}
	}
}
