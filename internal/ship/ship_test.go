package ship

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/logs"
)

// TestMain lets the test program be the process that TestShipper_SurvivesKill kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("TRYSAIL_TEST_SHIP_LOGS"); dir != "" {
		err := shipForEver(dir, os.Getenv("TRYSAIL_TEST_SHIP_DIR"), strings.Fields(os.Getenv("TRYSAIL_TEST_SHIP_TO")))
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func shipForEver(dir, state string, to []string) error {
	cfg := Config{
		Dir: state, Logs: logs.New(dir), Host: "node", Interval: time.Millisecond, Log: slog.New(slog.DiscardHandler),
		Services: func(context.Context) ([]trysail.Service, error) {
			return []trysail.Service{{ID: "id-web", Name: "web"}, {ID: "id-api", Name: "api"}}, nil
		},
		Version: func(context.Context, string) int { return 1 },
	}
	for _, text := range to {
		d, err := Parse(text)
		if err != nil {
			return err
		}
		cfg.Destinations = append(cfg.Destinations, d)
	}
	s, err := New(cfg)
	if err != nil {
		return err
	}
	s.Run(context.Background())
	return errors.New("it ended")
}

// TestShipper_SurvivesKill kills the shipping process again and again while lines are written.
func TestShipper_SurvivesKill(t *testing.T) {
	syslog := newSyslogServer(t, "127.0.0.1:0", nil, nil)
	otlp := newOTLPServer(t, nil)
	r := newRig(t)
	state := t.TempDir()
	most := 0 // lines that were under way when it was killed
	for round := range 8 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "TRYSAIL_TEST_SHIP_LOGS="+r.dir, "TRYSAIL_TEST_SHIP_DIR="+state,
			"TRYSAIL_TEST_SHIP_TO=syslog+tcp://"+syslog.Addr().String()+" "+otlp.destination(""))
		cmd.Stderr = t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		before := [2]int{len(syslog.all()), len(otlp.all())}
		for range 10 {
			r.write("id-web", fmt.Sprint("pod-", round%3), "app.log", 300)
			r.write("id-api", "pod-x", "app.log", 100)
			time.Sleep(time.Duration(round) * time.Millisecond) // it has to be killed at different moments
		}
		most += 2 * maxBatchLines
		r.wait("something has arrived", func() bool { return len(syslog.all()) > before[0] && len(otlp.all()) > before[1] })
		if round == 7 {
			r.wait("all has arrived", func() bool {
				a, _ := syslog.missing(r.written)
				b, _ := otlp.missing(r.written)
				return a+b == 0
			})
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
	}
	for name, box := range map[string]*inbox{"syslog": &syslog.inbox, "otlp": &otlp.inbox} {
		missing, twice := box.missing(r.written)
		t.Logf("%s: %d lines, %d of them twice", name, r.written, twice)
		if missing > 0 || twice > most {
			t.Errorf("%s: of %d lines %d are missing and %d came twice", name, r.written, missing, twice)
		}
	}
}

// TestShipper_GoesOnWhereItStopped never sends a line twice when nothing goes wrong.
func TestShipper_GoesOnWhereItStopped(t *testing.T) {
	server := newOTLPServer(t, nil)
	r := newRig(t)
	dir := t.TempDir()
	for i := range 5 {
		r.write("id-web", "pod", []string{"app.log", "app.1.log", "app.2.log"}[i/2], 1000)
		s, stop := r.start(r.config(dir, server.destination("")))
		r.wait("the lines are confirmed", func() bool { return s.Status()[0].Sent == 1000 })
		stop()
		if i == 1 {
			// The file is replaced by its archive meanwhile.
			r.write("id-web", "pod", "app.1.log", 1)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan bool)
			go func() { r.logs.Keep(ctx, 1<<40); close(done) }()
			r.wait("the first file is archived", func() bool {
				_, err := os.Stat(filepath.Join(r.dir, "id-web", "pod", "app.log"))
				return errors.Is(err, os.ErrNotExist)
			})
			cancel()
			<-done
			s, stop := r.start(r.config(dir, server.destination("")))
			r.wait("the line is confirmed", func() bool { return s.Status()[0].Sent == 1 })
			stop()
		}
	}
	if missing, twice := server.missing(r.written); missing+twice > 0 {
		t.Errorf("%d missing, %d twice", missing, twice)
	}
}

// TestShipper_DestinationsDoNotWaitForEachOther has one that is down, one that hangs and one that works.
func TestShipper_DestinationsDoNotWaitForEachOther(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := l.Addr().String()
	l.Close()
	hangs, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hangs.Close()
	server := newOTLPServer(t, nil)
	r := newRig(t)
	s, stop := r.start(r.config(t.TempDir(), "syslog+tcp://"+down, "otlp+http://"+hangs.Addr().String(), "syslog+tls://"+hangs.Addr().String(), server.destination("")))
	for range 3 {
		r.write("id-web", "pod", "app.log", 1000)
		n := r.written
		r.wait("the lines are there", func() bool { return len(server.all()) == n })
	}
	if st := s.Status(); st[0].Failing == "" || st[0].Sent+st[1].Sent+st[2].Sent > 0 || st[3].Failing != "" {
		t.Errorf("%+v", st)
	}
	stop() // at once, also where it hangs: nothing waits for a timeout
	back := newSyslogServer(t, down, nil, nil)
	if missing, _ := back.missing(r.written); missing != r.written {
		t.Fatal("it was not down")
	}
}

func TestShipper_CatchesUpAfterAnOutage(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	r := newRig(t)
	s, _ := r.start(r.config(t.TempDir(), "syslog+tcp://"+addr))
	r.write("id-web", "pod", "app.log", 20_000)
	r.wait("it fails", func() bool { return s.Status()[0].Failing != "" })
	server := newSyslogServer(t, addr, nil, nil)
	r.wait("the lines are confirmed", func() bool { return s.Status()[0].Sent == 20_000 })
	if missing, twice := server.missing(20_000); missing+twice > 0 || s.Status()[0].Failing != "" {
		t.Errorf("%d missing, %d twice, %+v", missing, twice, s.Status())
	}
}

// TestShipper_LoudServicesLeaveRoom lets one service write more than a batch and another one a line.
func TestShipper_LoudServicesLeaveRoom(t *testing.T) {
	server := newOTLPServer(t, nil)
	r := newRig(t)
	r.services = append(r.services, trysail.Service{ID: "id-quiet", Name: "quiet"})
	r.write("id-web", "pod", "app.log", 20*maxBatchLines)
	r.write("id-quiet", "pod", "app.log", 1)
	cfg := r.config(t.TempDir(), server.destination(""))
	w, err := newWorker(&cfg, cfg.Destinations[0])
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := w.round(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(strings.Join(server.all(), "\n"), fmt.Sprint("line ", 20*maxBatchLines)) {
		t.Error("the quiet service has to wait until the loud one is done")
	}
}

// TestShipper_SaysWhatWasLost lets retention remove what a destination that is down has not got.
func TestShipper_SaysWhatWasLost(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	r := newRig(t)
	dir := t.TempDir()
	first := newOTLPServer(t, nil)
	s, stop := r.start(r.config(dir, first.destination(""), "syslog+tcp://"+addr))
	l.Close()
	r.write("id-web", "old", "app.log", 700)
	r.write("id-web", "old", "app.1.log", 300)
	r.write("id-web", "new", "app.log", 10)
	r.wait("one of them has all", func() bool { return s.Status()[0].Sent == 1010 })
	r.wait("the other one is down", func() bool { return s.Status()[1].Failing != "" })
	past := time.Now().Add(-time.Hour)
	for _, file := range []string{"old/app.log", "old/app.1.log"} {
		if err := os.Chtimes(filepath.Join(r.dir, "id-web", file), past, past); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.logs.Sweep(time.Now().Add(-time.Minute), func(string, string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st[0].Lost != 0 || st[1].Lost != 1000 {
		t.Errorf("%+v", st)
	}
	stop() // the count outlives the process
	server := newSyslogServer(t, addr, nil, nil)
	r.start(r.config(dir, first.destination(""), "syslog+tcp://"+addr))
	r.wait("the rest is there", func() bool { return len(server.all()) == 11 })
	got := strings.Join(server.all(), "\n")
	if !strings.Contains(got, ` web - - [trysail@32473 kind="system" service="web"] [trysail] 1000 log lines were removed before they could be shipped`) || !strings.Contains(got, "line 1009") {
		t.Errorf("got\n%s", got)
	}
	r.write("id-web", "new", "app.log", 1)
	r.wait("it is said once", func() bool { return len(server.all()) == 12 })
	if n := strings.Count(strings.Join(server.all(), "\n"), "were removed"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
	// A service that is deleted is no different.
	stopped := r.config(t.TempDir(), "syslog+tcp://"+addr)
	s2, err := New(stopped)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.logs.Delete("id-web"); err != nil {
		t.Fatal(err)
	}
	if st := s2.Status(); st[0].Lost != 11 {
		t.Errorf("%+v", st)
	}
}

func TestShipper_DamagedPositions(t *testing.T) {
	server := newOTLPServer(t, nil)
	r := newRig(t)
	r.write("id-web", "pod", "app.log", 10)
	cfg := r.config(t.TempDir(), server.destination(""))
	if err := os.WriteFile(positionsFile(cfg.Dir, cfg.Destinations[0]), []byte(`{"services":{"id-web":`), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := r.start(cfg)
	r.wait("all is sent", func() bool { return s.Status()[0].Sent == 10 })
}

// TestShipper_KeepsSecrets looks for the token in everything that can be seen.
func TestShipper_KeepsSecrets(t *testing.T) {
	server := newOTLPServer(t, nil)
	server.Close()
	r := newRig(t)
	r.write("id-web", "pod", "app.log", 1)
	headers := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(headers, []byte("Authorization: Bearer s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cfg := r.config(t.TempDir(), server.destination("?headers="+headers))
	cfg.Log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, stop := r.start(cfg)
	r.wait("it fails", func() bool { return s.Status()[0].Failing != "" })
	if err := os.WriteFile(headers, []byte("Bearer s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.wait("it fails for another reason", func() bool { return strings.Contains(s.Status()[0].Failing, "is not a header") })
	stop()
	state, err := os.ReadFile(positionsFile(cfg.Dir, cfg.Destinations[0]))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, text := range []string{out.String(), s.Status()[0].Failing, string(state)} {
		if strings.Contains(text, "s3cret") {
			t.Errorf("a secret is in %q", text)
		}
	}
	if !strings.Contains(out.String(), "cannot ship logs") {
		t.Errorf("nothing is said: %s", out.String())
	}
}

func TestShipper_RefusesTheSameTwice(t *testing.T) {
	r := newRig(t)
	if _, err := New(r.config(t.TempDir(), "syslog+udp://a", "syslog+udp://a:514?facility=user")); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("New: %v", err)
	}
}
