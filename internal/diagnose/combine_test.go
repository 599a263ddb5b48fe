package diagnose_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/diagnose"
)

// pod makes the evidence of one more pod.
func pod(in *diagnose.Input, slot int, change func(*trysail.PodEvidence)) *trysail.PodRecord {
	_, e := input()
	n := len(in.Pods)
	e.At = t0.Add(time.Duration(n+1) * time.Minute)
	change(e)
	in.Pods = append(in.Pods, trysail.PodRecord{ID: trysail.PodID(fmt.Sprint("p", n)), Version: 3, Slot: slot, Attempt: n + 1, CreatedAt: t0.Add(time.Duration(n) * time.Minute), Failed: true, Evidence: e})
	return &in.Pods[n]
}

// TestDiagnose_CasesCombine: the first cause wins, and is right.
func TestDiagnose_CasesCombine(t *testing.T) {
	crash := func(log string) func(*trysail.PodEvidence) {
		return func(e *trysail.PodEvidence) { ends(e, "web", 1, time.Second, log) }
	}
	oom := func(e *trysail.PodEvidence) { ends(e, "web", 137, time.Second).OOMKilled = true }
	for _, tc := range []struct {
		name      string
		build     func(*diagnose.Input)
		code      trysail.DiagnosisCode
		container string
		also      string // codes of the further findings
	}{
		{"two containers fail, the first is the cause", func(in *diagnose.Input) {
			pod(in, 0, func(e *trysail.PodEvidence) {
				ends(e, "db", 1, time.Second, "Fatal error, can't open config file '/etc/redis.conf'")
				ends(e, "web", 1, 3*time.Second, "connect ECONNREFUSED 127.0.0.1:6379")
			})
		}, "EXIT-CODE", "db", ""},
		{"a pod that was only just started says nothing", func(in *diagnose.Input) {
			pod(in, 0, crash("TypeError: boom"))
			pod(in, 0, crash("TypeError: boom"))
			pod(in, 0, func(e *trysail.PodEvidence) {
				listens(e)
				e.At = t0.Add(2*time.Minute + 500*time.Millisecond)
				for i := range e.Containers {
					e.Containers[i].StartedAt = t0.Add(2 * time.Minute)
				}
			})
		}, "EXIT-CODE", "web", ""},
		{"a pod that has got over it says what is wrong now", func(in *diagnose.Input) {
			pod(in, 0, crash("TypeError: boom"))
			pod(in, 0, func(e *trysail.PodEvidence) { listens(e, "0.0.0.0:3000") })
		}, "NET-WRONGPORT", "web", ""},
		{"one node crashed three times while the other had still time", func(in *diagnose.Input) {
			in.TookTooLong = false
			for range 3 {
				pod(in, 0, crash("TypeError: boom"))
			}
			pod(in, 1, func(e *trysail.PodEvidence) { listens(e) })
		}, "EXIT-CODE", "web", ""},
		{"a start error comes before an exit", func(in *diagnose.Input) {
			pod(in, 0, func(e *trysail.PodEvidence) {
				ends(e, "db", 1, time.Millisecond, "boom")
				ends(e, "web", 128, time.Second).StartError = `exec: "/x": stat /x: no such file or directory`
			})
		}, "RUN-NOFILE", "web", ""},
		{"what we stopped did not crash", func(in *diagnose.Input) {
			pod(in, 0, func(e *trysail.PodEvidence) {
				listens(e, "0.0.0.0:3000")
				e.Stop = &trysail.StopEvidence{AskedAt: t0.Add(time.Minute), Grace: 5 * time.Second}
				ends(e, "web", 137, 70*time.Second)
				ends(e, "db", 0, 61*time.Second)
			})
		}, "NET-WRONGPORT", "web", ""},
		{"killed for memory once, crashed twice for a setting", func(in *diagnose.Input) {
			pod(in, 0, oom)
			pod(in, 0, crash("DATABASE_URL is not set"))
			pod(in, 0, crash("DATABASE_URL is not set"))
		}, "RUN-ENV", "web", "MEM-OOM"},
		{"three different ends: the first", func(in *diagnose.Input) {
			pod(in, 0, oom)
			pod(in, 0, crash("DATABASE_URL is not set"))
			pod(in, 0, crash("listen tcp :8080: bind: address already in use"))
		}, "MEM-OOM", "web", "RUN-ENV NET-INUSE"},
		{"crashed at first, then ran and is not found", func(in *diagnose.Input) {
			pod(in, 0, crash("connection refused"))
			pod(in, 0, func(e *trysail.PodEvidence) { answers(e, trysail.Probe{Status: 404}) })
			in.TookTooLong = true
		}, "HC-404", "web", ""},
		{"one slot is healthy, the other crashes", func(in *diagnose.Input) {
			r := pod(in, 0, func(e *trysail.PodEvidence) {
				e.Health = trysail.TargetHealth{Healthy: true, Probes: 3, Last: trysail.Probe{OK: true, Status: 200}}
			})
			r.Failed = false
			pod(in, 1, crash("boom: out of luck"))
		}, "EXIT-CODE", "web", ""},
		{"the pull fails after the pod had failed", func(in *diagnose.Input) {
			pod(in, 0, oom)
			in.Version.Pull = &trysail.PullFailure{Image: "shop:2", Code: "IMG-DISK", Message: "m", Fix: "f", At: t0.Add(time.Hour)}
		}, "MEM-OOM", "web", ""},
		{"the pull fails first", func(in *diagnose.Input) {
			pod(in, 0, oom)
			in.Version.Pull = &trysail.PullFailure{Image: "shop:2", Code: "IMG-DISK", Message: "m", Fix: "f", At: t0.Add(-time.Hour)}
		}, "IMG-DISK", "web", ""},
		{"killed by somebody while other pods run out of memory", func(in *diagnose.Input) {
			pod(in, 0, func(e *trysail.PodEvidence) {
				ends(e, "web", 137, time.Second)
				e.Cgroup = &trysail.CgroupCounters{Peak: 50 * mb, Limit: 512 * mb}
				e.Machine = &trysail.MachineState{OOMKills: 3}
			})
		}, "EXIT-SIGNAL", "web", ""},
		{"memory of the machine while images are pulled", func(in *diagnose.Input) {
			pod(in, 0, func(e *trysail.PodEvidence) {
				ends(e, "web", 137, time.Second)
				e.Cgroup = &trysail.CgroupCounters{OOMKills: 1, Peak: 50 * mb, Limit: 512 * mb}
				e.Machine = &trysail.MachineState{OOMKills: 1}
			})
		}, "MEM-HOST", "web", ""},
		{"crash after the switch", func(in *diagnose.Input) {
			in.TookTooLong = false
			pod(in, 0, func(e *trysail.PodEvidence) { ends(e, "web", 139, 30*time.Second) }).HealthyAt = t0.Add(10 * time.Second)
		}, "EXIT-SIGNAL", "web", ""},
		{"the autopsy does not explain a program that ran", func(in *diagnose.Input) {
			in.Version.Autopsies = map[string]trysail.Autopsy{"web": autopsy("RUN-LOADER", trysail.Certain)}
			pod(in, 0, func(e *trysail.PodEvidence) { ends(e, "web", 1, time.Second, "listening on 8080", "boom") })
		}, "EXIT-CODE", "web", "RUN-LOADER"},
		{"throttled, but it listens elsewhere", func(in *diagnose.Input) {
			pod(in, 0, func(e *trysail.PodEvidence) {
				listens(e, "0.0.0.0:3000")
				e.Cgroup = &trysail.CgroupCounters{Periods: 1000, ThrottledPeriods: 900}
			})
		}, "NET-WRONGPORT", "web", "CPU-THROTTLE"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in, _ := input()
			in.Pods, in.TookTooLong = nil, false
			tc.build(&in)
			d := diagnose.Diagnose(in)
			var also []string
			for _, f := range d.Also {
				also = append(also, string(f.Code))
			}
			if d.Code != tc.code || d.ContainerName != tc.container || strings.Join(also, " ") != tc.also {
				t.Errorf("got %s of %s, also %v; want %s of %s, also %q\n%s", d.Code, d.ContainerName, also, tc.code, tc.container, tc.also, d.Summary)
			}
		})
	}
}

func TestFinal_EndsWhatCannotWork(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*diagnose.Input, *trysail.PodEvidence)
		code   trysail.DiagnosisCode // "": it may still work
	}{
		"nothing known": {func(in *diagnose.Input, _ *trysail.PodEvidence) { in.Pods = nil }, ""},
		"autopsy before the start": {func(in *diagnose.Input, _ *trysail.PodEvidence) {
			in.Pods, in.Version.Autopsies = nil, map[string]trysail.Autopsy{"db": autopsy("RUN-CRLF", trysail.Certain)}
		}, "RUN-CRLF"},
		"autopsy of what runs all the same": {func(in *diagnose.Input, _ *trysail.PodEvidence) {
			in.Pods[0].Failed, in.Pods[0].Evidence = false, nil
			in.Version.Autopsies = map[string]trysail.Autopsy{"db": autopsy("RUN-CRLF", trysail.Certain)}
		}, ""},
		"likely autopsy": {func(in *diagnose.Input, _ *trysail.PodEvidence) {
			in.Pods, in.Version.Autopsies = nil, map[string]trysail.Autopsy{"db": autopsy("RUN-PERM", trysail.Likely)}
		}, ""},
		"start error": {func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 128, 0).StartError = `exec: "/x": stat /x: no such file or directory`
		}, "RUN-NOFILE"},
		"crash":                      {func(_ *diagnose.Input, e *trysail.PodEvidence) { ends(e, "web", 1, time.Second, "boom") }, ""},
		"wrong port":                 {func(_ *diagnose.Input, e *trysail.PodEvidence) { listens(e, "0.0.0.0:3000") }, ""},
		"tag absent":                 {image("IMG-TAG", true, nil), "IMG-TAG"},
		"rate limit, which may pass": {image("IMG-RATE", false, nil), ""},
		"login refused for now":      {image("IMG-AUTH", false, nil), ""},
		"no room": {func(in *diagnose.Input, _ *trysail.PodEvidence) {
			in.Pods, in.Version.Room = nil, &trysail.Room{Needed: trysail.Limits{Memory: 2}}
		}, "CAP-NOFIT"},
	} {
		in, e := input()
		in.TookTooLong = false
		tc.change(&in, e)
		d, ok := diagnose.Final(in)
		if ok != (tc.code != "") || d.Code != tc.code || ok && (d.Confidence != trysail.Certain || d.Summary == "" || d.Fix == "" || d.Version != 3) {
			t.Errorf("%s: %v, %+v", name, ok, d)
		}
	}
}

func TestTrials_FitTheAnswer(t *testing.T) {
	for name, tc := range map[string]struct {
		probe trysail.Probe
		want  func(trysail.Trial) bool
	}{
		"not found": {trysail.Probe{Status: 404}, func(x trysail.Trial) bool { return x.Path == "/healthz" }},
		"host":      {trysail.Probe{Status: 400}, func(x trysail.Trial) bool { return x.Host == "shop.example" }},
		"redirect":  {trysail.Probe{Status: 301}, func(x trysail.Trial) bool { return x.Proto == "https" }},
		"slow":      {trysail.Probe{Error: "timed out after 2s"}, func(x trysail.Trial) bool { return x.Timeout > 2*time.Second }},
		"TLS":       {trysail.Probe{Error: "connection reset"}, func(x trysail.Trial) bool { return x.TLS }},
		"refused":   {trysail.Probe{Error: "connection refused"}, func(x trysail.Trial) bool { return x == trysail.Trial{} }},
	} {
		_, e := input()
		answers(e, tc.probe)
		list := diagnose.Trials(deployment(), e, "shop.example")
		found := false
		for _, x := range list {
			found = found || tc.want(x)
		}
		if !found || len(list) > 16 {
			t.Errorf("%s: %+v", name, list)
		}
	}
}

func TestSuspects_AreWhatTheLogNames(t *testing.T) {
	_, e := input()
	e.LogTail["web"] = []string{"dial tcp 10.0.0.9:5432: connect: connection refused", "getaddrinfo ENOTFOUND redis"}
	e.LogTail["db"] = []string{"all is well"}
	got := diagnose.Suspects(e)
	if len(got) != 2 || got[0] != (trysail.Reach{Host: "redis"}) || got[1] != (trysail.Reach{Host: "10.0.0.9", Port: 5432}) {
		t.Errorf("%+v", got)
	}
}

func TestDiagnose_MasksEnvironmentValues(t *testing.T) {
	in, e := input()
	in.Deployment.Containers["web"] = trysail.Container{
		Image: "shop:2", Ports: in.Deployment.Containers["web"].Ports,
		Environment: map[string]string{
			"DATABASE_URL": "postgres://app:hunter22@db.internal:5432/app", "PIN_TOKEN": "4711x", "MODE": "fancy-mode", "SHORT": "abc", "HOST": "127.0.0.1",
			"TLS_KEY": "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n-----END KEY-----",
		},
	}
	ends(e, "web", 1, time.Second, "starting in fancy-mode with pin 4711x and abc", "key MIIEvQIBADANBgkq",
		`cannot use postgres://app:hunter22@db.internal:5432/app: password "hunter22" refused`, "other https://bob:topsecret@example.com/x")
	text := fmt.Sprint(diagnose.Diagnose(in))
	for _, hidden := range []string{"hunter22", "4711x", "fancy-mode", "MIIEvQIBADANBgkq", "topsecret"} {
		if strings.Contains(text, hidden) {
			t.Errorf("%q is shown: %s", hidden, text)
		}
	}
	for _, shown := range []string{"$DATABASE_URL", "$PIN_TOKEN", "$MODE", "abc", "https://bob:***@example.com/x"} {
		if !strings.Contains(text, shown) {
			t.Errorf("%q is missing: %s", shown, text)
		}
	}
}

// anyEvidence draws what a hostile or unlucky world may show.
func anyEvidence(t *rapid.T, secret string) *trysail.PodEvidence {
	line := rapid.OneOf(
		rapid.String(),
		rapid.SampledFrom([]string{
			"", "exec /x: exec format error", "KeyError: '" + secret + "'", "panic: " + secret, "Traceback (most recent call last):", "OSError: [Errno 98] Address already in use",
			"dial tcp 10.0.0.1:99999: connect: connection refused", "connect ECONNREFUSED " + secret + ":80", "open /x/" + secret + ": no space left on device",
			"FATAL:  " + secret, "nginx: [emerg] bind() to 0.0.0.0:80 failed (13: Permission denied)", secret, strings.Repeat("x", 3000) + secret,
			`{"msg":"` + secret + `","err":{"message":"` + secret + `"}}`,
		}),
	)
	lines := rapid.SliceOfN(line, 0, 20)
	when := rapid.Custom(func(t *rapid.T) time.Time { return t0.Add(time.Duration(rapid.Int64Range(-1e9, 4e11).Draw(t, "ns"))) })
	listener := rapid.Custom(func(t *rapid.T) trysail.Listener {
		addr := netip.AddrFrom4([4]byte{rapid.SampledFrom([]byte{0, 127, 10}).Draw(t, "a"), 0, 0, 1})
		return trysail.Listener{Address: netip.AddrPortFrom(addr, rapid.Uint16().Draw(t, "port")), Process: rapid.SampledFrom([]string{"", "node", secret}).Draw(t, "process"), UDP: rapid.Bool().Draw(t, "udp")}
	})
	probe := rapid.Custom(func(t *rapid.T) trysail.Probe {
		return trysail.Probe{
			At: when.Draw(t, "at"), OK: rapid.Bool().Draw(t, "ok"), Status: rapid.SampledFrom([]int{0, 0, 200, 301, 400, 401, 404, 500, 502, 999}).Draw(t, "status"),
			Location: rapid.SampledFrom([]string{"", "https://" + secret, ":%"}).Draw(t, "location"), Body: line.Draw(t, "body"),
			Error: rapid.SampledFrom([]string{"", "connection refused", "timed out after 2s", "not HTTP: \"" + secret, "not TLS: x", "closed without an answer", secret}).Draw(t, "error"),
		}
	})
	counters := rapid.Custom(func(t *rapid.T) *trysail.CgroupCounters {
		n := rapid.Int64Range(-1, 1<<40)
		return &trysail.CgroupCounters{
			OOMKills: n.Draw(t, "kills"), LimitHits: n.Draw(t, "hits"), Peak: n.Draw(t, "peak"), Limit: n.Draw(t, "limit"), MemoryStall: time.Duration(n.Draw(t, "stall")),
			Periods: n.Draw(t, "periods"), ThrottledPeriods: n.Draw(t, "throttled"), ProcessLimitHits: n.Draw(t, "pids"),
		}
	})
	e := &trysail.PodEvidence{
		Lost: rapid.Bool().Draw(t, "lost") && rapid.Bool().Draw(t, "really"), StartError: rapid.SampledFrom([]string{"", "", "", secret}).Draw(t, "start"), At: when.Draw(t, "seen"),
		LogTail: map[string][]string{"web": lines.Draw(t, "web log"), "db": lines.Draw(t, "db log")},
		Health:  trysail.TargetHealth{Probes: rapid.IntRange(0, 2).Draw(t, "probes"), Last: probe.Draw(t, "last"), Healthy: rapid.Bool().Draw(t, "healthy")},
		Details: map[string]trysail.ContainerEvidence{},
	}
	for _, name := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"web", "db", "ghost"}), rapid.ID).Draw(t, "containers") {
		c := trysail.ContainerStatus{
			Name: name, State: rapid.SampledFrom([]trysail.ContainerState{trysail.ContainerRunning, trysail.ContainerExited, trysail.ContainerCreated}).Draw(t, "state"),
			StartedAt: when.Draw(t, "started"), FinishedAt: when.Draw(t, "finished"), ExitCode: rapid.SampledFrom([]int{-1, 0, 1, 127, 132, 137, 139, 143, 255}).Draw(t, "exit"),
			OOMKilled: rapid.Bool().Draw(t, "oom"), StartError: rapid.SampledFrom([]string{"", "", `exec: "` + secret + `": permission denied`, secret + " no such file or directory"}).Draw(t, "container start"),
		}
		e.Containers = append(e.Containers, c)
		if rapid.Bool().Draw(t, "detailed") {
			e.Details[name] = trysail.ContainerEvidence{Cgroup: counters.Draw(t, "own"), OpenFiles: 9, FileLimit: 9, Daemons: []string{secret}}
		}
	}
	if rapid.Bool().Draw(t, "cgroup") {
		e.Cgroup = counters.Draw(t, "pod")
	}
	if rapid.Bool().Draw(t, "sockets") {
		e.Listeners = append([]trysail.Listener{}, rapid.SliceOfN(listener, 0, 4).Draw(t, "listeners")...)
		e.Sockets = e.Sockets.See(when.Draw(t, "socket"), e.Listeners)
	}
	for _, p := range rapid.SliceOfN(probe, 0, 4).Draw(t, "transcript") {
		e.Probes = e.Probes.Add(p)
		e.Trials = append(e.Trials, trysail.Trial{Path: rapid.SampledFrom([]string{"", "/" + secret}).Draw(t, "path"), TLS: rapid.Bool().Draw(t, "tls"), Host: rapid.SampledFrom([]string{"", secret}).Draw(t, "host"), Result: e.Probes[0]})
	}
	if rapid.Bool().Draw(t, "machine") {
		e.Machine = &trysail.MachineState{OOMKills: rapid.Int64Range(0, 2).Draw(t, "machine kills"), DiskTotal: 100, DiskFree: rapid.Int64Range(0, 100).Draw(t, "disk")}
		e.Reaches = []trysail.Reach{{Host: "10.0.0.1", Port: 80, Result: trysail.ReachRefused}, {Host: secret, Port: 80, Result: trysail.ReachOK}}
	}
	if rapid.Bool().Draw(t, "stopped") {
		e.Stop = &trysail.StopEvidence{AskedAt: when.Draw(t, "asked"), Killed: []string{"web"}}
	}
	return e
}

// TestDiagnose_AnyEvidence: one verdict for whatever is seen, bounded, without secrets, and certain only by hard evidence.
func TestDiagnose_AnyEvidence(t *testing.T) {
	const secret = "zq7SecretValue42"
	hard := map[string]bool{"exit": true, "image": true, "runtime": true, "counter": true, "socket": true, "probe": true, "trial": true, "reach": true, "machine": true, "record": true}
	codes := map[trysail.DiagnosisCode]bool{}
	for _, g := range diagnose.Codes() {
		for _, c := range g.Codes {
			codes[c.Code] = true
		}
	}
	check := func(t *rapid.T, code trysail.DiagnosisCode, how trysail.Confidence, summary, fix string, evidence []trysail.Evidence) {
		if !codes[code] || summary == "" || fix == "" || len(summary) > 800 || len(fix) > 800 || len(evidence) > 24 {
			t.Fatalf("%s: summary %q, fix %q, %d pieces of evidence", code, summary, fix, len(evidence))
		}
		if !utf8.ValidString(summary+fix) || strings.ContainsAny(summary+fix, "\n\x00\x1b") {
			t.Fatalf("%q %q", summary, fix)
		}
		proven := false
		for _, e := range evidence {
			proven = proven || hard[e.Kind]
			if len(e.Text) > 3000 || !utf8.ValidString(e.Text) {
				t.Fatalf("evidence of %d bytes", len(e.Text))
			}
		}
		if how != trysail.Likely && (how != trysail.Certain || !proven || code == "UNKNOWN") {
			t.Fatalf("%s is %q with %+v", code, how, evidence)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		in, _ := input()
		in.Deployment.Containers["web"] = trysail.Container{Image: "shop:2", Ports: in.Deployment.Containers["web"].Ports, Environment: map[string]string{"A_SETTING": secret}}
		in.Previous = deployment()
		in.TookTooLong = rapid.Bool().Draw(t, "took too long")
		in.Pods = nil
		for i := range rapid.IntRange(0, 4).Draw(t, "pods") {
			r := trysail.PodRecord{ID: "x", Version: 3, Slot: rapid.IntRange(0, 1).Draw(t, "slot"), Attempt: i + 1, CreatedAt: t0, Failed: rapid.Bool().Draw(t, "failed"), Evidence: anyEvidence(t, secret)}
			if rapid.Bool().Draw(t, "was healthy") {
				r.HealthyAt = t0.Add(time.Second)
			}
			in.Pods = append(in.Pods, r)
		}
		if rapid.Bool().Draw(t, "examined") {
			a := autopsy("RUN-LOADER", rapid.SampledFrom([]trysail.Confidence{trysail.Certain, trysail.Likely}).Draw(t, "how"))
			a.Findings[0].Summary += secret
			in.Version.Autopsies = map[string]trysail.Autopsy{"web": a}
		}
		d := diagnose.Diagnose(in)
		check(t, d.Code, d.Confidence, d.Summary, d.Fix, d.Evidence)
		for i, f := range d.Also {
			check(t, f.Code, f.Confidence, f.Summary, f.Fix, f.Evidence)
			if f.Code == d.Code {
				t.Fatalf("%s is below itself", f.Code)
			}
			for _, g := range d.Also[:i] {
				if g.Code == f.Code {
					t.Fatalf("%s twice", f.Code)
				}
			}
		}
		if text := fmt.Sprint(d); strings.Contains(text, secret) {
			t.Fatalf("a secret is shown: %s", text)
		}
		final, ok := diagnose.Final(in)
		if ok {
			check(t, final.Code, final.Confidence, final.Summary, final.Fix, final.Evidence)
		}
		for _, f := range diagnose.Warnings(in) {
			check(t, f.Code, f.Confidence, f.Summary, f.Fix, f.Evidence)
		}
		for _, r := range in.Pods {
			diagnose.Trials(in.Deployment, r.Evidence, "x")
			diagnose.Suspects(r.Evidence)
			r.Evidence.Trim()
		}
	})
}
