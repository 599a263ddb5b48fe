package cli

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func (f *fakeServer) client(tb testing.TB) *client {
	tb.Helper()
	env := map[string]string{
		"AWS_ENDPOINT_URL_LIGHTSAIL": f.URL, "AWS_ACCESS_KEY_ID": "AKADMIN", "AWS_SECRET_ACCESS_KEY": "secret",
	}
	c, err := (&App{Getenv: func(name string) string { return env[name] }}).connect("")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.http.CloseIdleConnections)
	return c
}

// TestFollower_ShowsEveryLineOnce appends lines that share milliseconds and texts, also some that are a little older
// than the newest, while the server gives small pages and now and then breaks off.
func TestFollower_ShowsEveryLineOnce(t *testing.T) {
	f := newFakeServer(t)
	f.services["web"] = &fakeService{name: "web"}
	c := f.client(t)
	rapid.Check(t, func(t *rapid.T) {
		f.logs["web/app"] = []fakeLine{}
		f.pageSize = rapid.IntRange(1, 5).Draw(t, "page size")
		log := &follower{client: c, logQuery: logQuery{service: "web", container: "app"}}
		clock := 1_700_000_000_000 // milliseconds
		var written, shown []string
		fail := 0 // the call that breaks off; 0: none
		f.before = func(w http.ResponseWriter, _ string) bool {
			fail--
			if fail == 0 {
				w.WriteHeader(http.StatusNotImplemented) // not retried by the SDK
				fmt.Fprint(w, `{"__type":"Broken","message":"broken"}`)
			}
			return fail == 0
		}
		for range rapid.IntRange(1, 6).Draw(t, "rounds") {
			for range rapid.IntRange(0, 12).Draw(t, "lines") {
				clock += rapid.SampledFrom([]int{0, 0, 1, 500, 5000}).Draw(t, "step")
				late := rapid.SampledFrom([]int{0, 0, 1, 1500}).Draw(t, "late")
				at := float64(clock-late) / 1000
				message := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "message")
				f.logs["web/app"] = append(f.logs["web/app"], fakeLine{at, message})
				written = append(written, fmt.Sprintf("%.3f %s", at, message))
			}
			fail = rapid.IntRange(0, 4).Draw(t, "fail")
			for {
				err := log.next(context.Background(), func(e event) {
					shown = append(shown, fmt.Sprintf("%.3f %s", float64(e.time().UnixMilli())/1000, e.message))
				})
				if err == nil {
					break
				}
				if !isCode(err, "Broken") {
					t.Fatal(err)
				}
			}
			slices.Sort(written)
			slices.Sort(shown)
			if diff := cmp.Diff(written, shown); diff != "" {
				t.Fatalf("shown (-written +shown):\n%s", diff)
			}
		}
	})
}

func TestFollower_ReadsLittleAgain(t *testing.T) {
	f := newFakeServer(t)
	f.services["web"] = &fakeService{name: "web"}
	for i := range 10_000 {
		f.logs["web/app"] = append(f.logs["web/app"], fakeLine{1.7e9 + float64(i), "line"})
	}
	log := &follower{client: f.client(t), logQuery: logQuery{service: "web", container: "app"}}
	n := 0
	if err := log.next(t.Context(), func(event) { n++ }); err != nil || n != 10_000 {
		t.Fatalf("%d lines, %v", n, err)
	}
	if len(log.shown) > 3 {
		t.Errorf("%d lines are remembered", len(log.shown))
	}
	before := f.calls["GetContainerLog"]
	if err := log.next(t.Context(), func(e event) { t.Errorf("shown again: %v", e) }); err != nil {
		t.Fatal(err)
	}
	if calls := f.calls["GetContainerLog"] - before; calls != 1 {
		t.Errorf("%d calls for nothing new", calls)
	}
}

// TestFollower_WaitsForLateLinesAfterAnOutage: a server that comes back has to catch up, so lines may appear that are
// much older than the newest that was shown.
func TestFollower_WaitsForLateLinesAfterAnOutage(t *testing.T) {
	f := newFakeServer(t)
	f.services["web"] = &fakeService{name: "web"}
	f.logs["web/app"] = []fakeLine{{1.7e9, "before"}}
	log := &follower{client: f.client(t), logQuery: logQuery{service: "web", container: "app"}}
	var shown []string
	emit := func(e event) { shown = append(shown, e.message) }
	if err := log.next(t.Context(), emit); err != nil {
		t.Fatal(err)
	}
	f.do(func() { f.before = func(http.ResponseWriter, string) bool { panic(http.ErrAbortHandler) } })
	if err := log.next(t.Context(), emit); !isNetwork(err) {
		t.Fatalf("error %v is none of the network", err)
	}
	for _, l := range []fakeLine{{1.7e9 + 60, "newest"}, {1.7e9 + 1, "late"}} {
		f.do(func() {
			f.before = nil
			f.logs["web/app"] = append(f.logs["web/app"], l)
		})
		if err := log.next(t.Context(), emit); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"before", "newest", "late"}, shown); diff != "" {
		t.Errorf("shown (-want +got):\n%s", diff)
	}
}

func TestLogs_MergesContainersByTime(t *testing.T) {
	f := newFakeServer(t)
	web := &fakeService{name: "web", state: "RUNNING"}
	web.current = map[string]any{"version": 1, "containers": map[string]any{"app": map[string]any{}, "db": map[string]any{}}}
	f.services["web"] = web
	f.pageSize = 2
	f.logs["web/app"] = []fakeLine{{1, "[deployment:1] Creating your deployment"}, {2, "a2"}, {4, "a4"}, {5, "[trysail] x"}, {5, "a5"}, {5, "a5"}}
	f.logs["web/db"] = []fakeLine{{1, "[deployment:1] Creating your deployment"}, {3, "d3"}, {5, "[trysail] x"}}
	var out strings.Builder
	app := &App{Out: &out}
	app.fill()
	o := logOptions{tail: -1, noTime: true}
	if err := app.logs(t.Context(), f.client(t), o, []string{"web"}); err != nil {
		t.Fatal(err)
	}
	want := "app  [deployment:1] Creating your deployment\napp  a2\ndb   d3\napp  a4\napp  [trysail] x\napp  a5\napp  a5\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
	for tail := range 9 {
		out.Reset()
		o.tail = tail
		if err := app.logs(t.Context(), f.client(t), o, []string{"web"}); err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitAfter(want, "\n")
		lines = lines[:len(lines)-1]
		if diff := cmp.Diff(strings.Join(lines[max(0, len(lines)-tail):], ""), out.String()); diff != "" {
			t.Errorf("tail %d (-want +got):\n%s", tail, diff)
		}
	}
}

func TestParseTime_KnowsManyForms(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Time{
		"":                          {},
		"10m":                       now.Add(-10 * time.Minute),
		"2d":                        now.AddDate(0, 0, -2),
		"1763600000":                time.Unix(1763600000, 0),
		"2026-11-20T10:00:00Z":      time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC),
		"2026-11-20T10:00:00+01:00": time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC),
		"2026-11-20 10:00":          time.Date(2026, 11, 20, 10, 0, 0, 0, time.Local),
		"2026-11-20":                time.Date(2026, 11, 20, 0, 0, 0, 0, time.Local),
	} {
		got, err := parseTime("--since", s, now)
		if err != nil || !got.Equal(want) {
			t.Errorf("%q: got %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"-5m", "tomorrow", "-3", "d", "2026-13-01"} {
		if got, err := parseTime("--since", s, now); err == nil {
			t.Errorf("%q: got %v, want an error", s, got)
		}
	}
}
