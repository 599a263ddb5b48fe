package cri

import (
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"
)

func TestParseStat_SurvivesAnyName(t *testing.T) {
	const rest = " S 5 6 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1000 2 18446744073709551615 1 1 0 0 0 0 0 4096 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 9\n"
	for _, name := range []string{"sh", "", "a b", "x) S 1 2 3 (y", "(sd-pam)", "runc:[2:INIT]"} {
		p, status, ok := parseStat([]byte("42 (" + name + ")" + rest))
		want := process{pid: 42, parent: 5, session: 7, started: 4711, name: name}
		if !ok || p != want || status != -1 || p.starting() != (name == "runc:[2:INIT]") {
			t.Errorf("%q: %+v, %d, %v", name, p, status, ok)
		}
	}
	for _, bad := range []string{"", "42", "42 (sh", ") (", "42 (sh) S 1", "x (sh)" + rest} {
		if p, _, ok := parseStat([]byte(bad)); ok {
			t.Errorf("%q: %+v", bad, p)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (a b) Z 5 6 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, _, ok := parseStat(b); ok && len(p.name) > len(b) {
			t.Errorf("%+v", p)
		}
	})
}

func TestParseFileLimit(t *testing.T) {
	const limits = "Limit                     Soft Limit           Hard Limit           Units     \nMax processes             1                    2                    processes \nMax open files            1024                 524288               files     \n"
	if got := parseFileLimit([]byte(limits)); got != 1024 {
		t.Errorf("%d", got)
	}
	if got := parseFileLimit([]byte("Max open files            unlimited            unlimited            files\n")); got != 0 {
		t.Errorf("unlimited is %d", got)
	}
}

func TestFamily_KnowsWhatWentIntoTheBackground(t *testing.T) {
	const dumbInit = "/usr/bin/dumb-init"
	first := process{pid: 1, parent: 900, session: 1, started: 1, name: "first"}
	child := func(name string, pid, parent, session int) process {
		return process{pid: pid, parent: parent, session: session, started: uint64(pid), name: name}
	}
	for _, tt := range []struct {
		name    string
		program string
		looks   [][]process
		want    []string
	}{
		{"a worker", "/usr/sbin/nginx", [][]process{{child("nginx", 2, 1, 1)}}, nil},
		{"a worker's worker", "/usr/bin/npm", [][]process{{child("node", 3, 2, 1), child("sh", 2, 1, 1)}}, nil},
		{"the child of an init, in a session of its own", dumbInit, [][]process{{child("node", 2, 1, 2)}}, nil},
		{"the child of a shell, in a session of its own", "/bin/dash", [][]process{{child("nginx", 4, 1, 4)}}, []string{"nginx"}},
		{"whose parent was seen", dumbInit, [][]process{{child("app", 3, 2, 1), child("sh", 2, 1, 1)}, {child("app", 3, 1, 1)}, {child("app", 3, 1, 1)}}, []string{"app"}},
		{"of a session without a leader", dumbInit, [][]process{{child("postgres", 5, 1, 4)}}, []string{"postgres"}},
		{"another process with the number of one that was seen", dumbInit, [][]process{
			{child("app", 3, 2, 1)}, {{pid: 3, parent: 1, session: 1, started: 99, name: "new"}},
		}, nil},
		{"not a program yet", "/bin/sh", [][]process{{child("runc:[2:INIT]", 5, 1, 4)}}, nil},
	} {
		var f family
		for _, all := range tt.looks {
			f.see(first, tt.program, append([]process{first}, all...))
		}
		if !slices.Equal(f.daemons, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, f.daemons, tt.want)
		}
	}
}

func TestLife_TellsTheEndAndHow(t *testing.T) {
	for _, tt := range []struct {
		command string
		code    int
	}{{"read x; exit 3", 3}, {"read x; kill -9 $$", 137}, {"read x; exit 137", 137}} {
		cmd := exec.Command("/bin/sh", "-c", tt.command)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		l, err := openLife(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan bool, 1)
		go func() { ended <- l.wait() }()
		select {
		case <-ended:
			t.Errorf("%s: the end is told while it runs", tt.command)
		case <-time.After(20 * time.Millisecond):
		}
		if _, err := in.Write([]byte("\n")); err != nil {
			t.Fatal(err)
		}
		if !<-ended {
			t.Errorf("%s: the end is not told", tt.command)
		}
		status, ok := l.status() // nobody has waited for it yet
		if !ok || exitCode(status) != tt.code || status.Signaled() != (tt.command == "read x; kill -9 $$") {
			t.Errorf("%s: status %#x, %v", tt.command, status, ok)
		}
		_ = cmd.Wait()
		if later, ok := l.status(); ok && later != status {
			t.Errorf("%s: status %#x, before it was %#x", tt.command, later, status)
		}
		l.Close()
	}
}

func TestLife_CloseEndsTheWait(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Signal(syscall.SIGKILL)
	l, err := openLife(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan bool, 1)
	go func() { ended <- l.wait() }()
	l.Close()
	if <-ended {
		t.Error("the end of a process that runs was told")
	}
}

func TestSchedule_LooksOftenAtFirstAndRarelyWhenSettled(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := schedule{began: now, pause: firstPause}
	var last time.Duration
	looks := func(until time.Duration) (n int) {
		for end := now.Add(until); now.Before(end); n++ {
			if !s.advance(now) && !s.settled {
				t.Error("a look at a pod that starts is not thorough")
			}
			last = s.next.Sub(now)
			now = s.next
		}
		return n
	}
	if n := looks(time.Second); n < 5 || n > 8 {
		t.Errorf("%d looks in the first second", n)
	}
	if n := looks(29 * time.Second); n < 30 || n > 45 || last != longestPause {
		t.Errorf("%d looks in the next 29 s, the last pause is %v", n, last)
	}
	looks(31 * time.Second)
	if n := looks(time.Minute); n != 30 {
		t.Errorf("%d looks in the second minute", n)
	}
	s.settled = true
	if n := looks(time.Hour); n < 239 || n > 241 {
		t.Errorf("%d looks in an hour at a settled pod", n)
	}
	s.next = time.Time{}
	if !s.advance(now) {
		t.Error("a look for a reason is not thorough")
	}
}
