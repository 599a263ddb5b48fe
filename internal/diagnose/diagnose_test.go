package diagnose_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/diagnose"
)

var t0 = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func deployment() *trysail.Deployment {
	hc := trysail.DefaultHealthCheck()
	hc.SuccessCodes = "200"
	return &trysail.Deployment{
		Version: 3, Containers: map[string]trysail.Container{
			"web": {Image: "shop:2", Ports: map[string]trysail.Protocol{"8080": trysail.ProtocolHTTP}},
			"db":  {Image: "redis:7"},
		},
		PublicEndpoint: &trysail.PublicEndpoint{ContainerName: "web", ContainerPort: 8080, HealthCheck: hc},
	}
}

func exited(name string, code int, after time.Duration) trysail.ContainerStatus {
	return trysail.ContainerStatus{Name: name, State: trysail.ContainerExited, ExitCode: code, StartedAt: t0, FinishedAt: t0.Add(after)}
}

func crashed(log string, statuses ...trysail.ContainerStatus) *trysail.PodEvidence {
	return &trysail.PodEvidence{Containers: statuses, LogTail: map[string][]string{"web": strings.Split(log, "\n")}}
}

func startError(text string) *trysail.PodEvidence {
	c := exited("web", 128, 0)
	c.StartError = text
	return &trysail.PodEvidence{Containers: []trysail.ContainerStatus{c}}
}

func probed(p trysail.Probe, listeners ...string) *trysail.PodEvidence {
	e := &trysail.PodEvidence{
		Containers: []trysail.ContainerStatus{{Name: "web", State: trysail.ContainerRunning}},
		Health:     trysail.TargetHealth{Probes: 9, Last: p},
	}
	if listeners != nil {
		e.Listeners = []trysail.Listener{}
	}
	for _, l := range listeners {
		if l != "" {
			e.Listeners = append(e.Listeners, trysail.Listener{Address: netip.MustParseAddrPort(l), Process: "node"})
		}
	}
	return e
}

func TestDiagnose_NamesTheCause(t *testing.T) {
	oom := exited("web", 137, 2*time.Second)
	oom.OOMKilled = true
	refused := trysail.Probe{Error: "connection refused"}
	for _, tc := range []struct {
		name       string
		evidence   *trysail.PodEvidence
		code       trysail.DiagnosisCode
		confidence trysail.Confidence
		container  string
		summary    string // a part of it
		fix        string
	}{
		{"exit code", crashed("starting\nboom: no database", exited("web", 3, time.Second)), "EXIT-CODE", trysail.Certain, "web", "exited with code 3 after 1s; it last said: boom: no database", "last lines"},
		{"exit zero", crashed("bye", exited("web", 0, time.Second)), "EXIT-ZERO", trysail.Certain, "web", "has to keep running", "foreground"},
		{"first of two wins", crashed("", exited("web", 1, 5*time.Second), exited("db", 7, time.Second)), "EXIT-CODE", trysail.Certain, "db", "db exited with code 7", ""},
		{"segfault", crashed("", exited("web", 139, time.Second)), "EXIT-SIGNAL", trysail.Certain, "web", "SIGSEGV", ""},
		{"out of memory", crashed("", oom), "MEM-OOM", trysail.Certain, "web", "512 MB (power nano)", "power micro"},
		{"killed is not out of memory", crashed("", exited("web", 137, time.Second)), "EXIT-SIGNAL", trysail.Certain, "web", "SIGKILL", ""},
		{"no such file", startError(`failed to create task: exec: "/nope": stat /nope: no such file or directory`), "RUN-NOFILE", trysail.Certain, "web", "`/nope` is not in the image", ""},
		{"not in path", startError(`exec: "serve": executable file not found in $PATH`), "RUN-NOFILE", trysail.Certain, "web", "`serve`", ""},
		{"one word", startError(`exec: "sh -c 'x'": executable file not found in $PATH`), "RUN-ONEWORD", trysail.Certain, "web", "a list of words", `"sh", "-c"`},
		{"not executable", startError(`exec: "/app": permission denied`), "RUN-PERM", trysail.Certain, "web", "`/app` is not executable", "chmod"},
		{"unknown user", startError(`unable to find user nobody2: no matching entries`), "RUN-USER", trysail.Certain, "web", "USER", ""},
		{"port in use", crashed("Error: listen EADDRINUSE: address already in use :::80", exited("web", 1, time.Second)), "NET-INUSE", trysail.Likely, "web", "share their ports", ""},
		{"low port", crashed("listen tcp :80: bind: permission denied", exited("web", 1, time.Second)), "NET-LOWPORT", trysail.Likely, "web", "may not open", "8080"},
		{"wrong architecture", crashed("exec /app: exec format error", exited("web", 255, 0)), "IMG-BIN-ARCH", trysail.Likely, "web", "`/app`", "platform"},
		{"missing loader", crashed("exec /app: no such file or directory", exited("web", 255, 0)), "RUN-LOADER", trysail.Likely, "web", "loader", ""},
		{"missing variable", crashed("panic: DATABASE_URL is not set", exited("web", 2, 0)), "RUN-ENV", trysail.Likely, "web", "DATABASE_URL", "DATABASE_URL"},
		{"dependency", crashed("dial tcp 10.0.0.5:5432: connect: connection refused", exited("web", 1, 0)), "DEP-DOWN", trysail.Likely, "web", "connection refused", ""},
		{"runtime", &trysail.PodEvidence{StartError: "runc: something"}, "RUN-RUNTIME", trysail.Certain, "", "Not your app", "doctor"},
		{"wrong port", probed(refused, "0.0.0.0:3000"), "NET-WRONGPORT", trysail.Certain, "web", "endpoint is port 8080, but the pod listens on port 3000", "containerPort"},
		{"loopback", probed(refused, "127.0.0.1:8080"), "NET-LOOPBACK", trysail.Certain, "web", "127.0.0.1:8080", "0.0.0.0:8080"},
		{"nobody listens", probed(refused, ""), "NET-NOLISTEN", trysail.Certain, "web", "nothing in the pod listens", ""},
		{"refused, sockets unknown", probed(refused), "NET-NOLISTEN", trysail.Likely, "web", "Nothing listens on port 8080", ""},
		{"too slow", probed(trysail.Probe{Error: "timed out after 2s"}, "0.0.0.0:8080"), "HC-SLOW", trysail.Certain, "web", "no answer within 2 s", "timeoutSeconds"},
		{"redirect", probed(trysail.Probe{Status: 301, Location: "https://x/"}), "HC-REDIRECT", trysail.Certain, "web", "https://x/", ""},
		{"login", probed(trysail.Probe{Status: 401}), "HC-AUTH", trysail.Certain, "web", "login", ""},
		{"not found", probed(trysail.Probe{Status: 404}), "HC-404", trysail.Certain, "web", "404", "path"},
		{"app error", probed(trysail.Probe{Status: 500, Body: "no db"}), "HC-5XX", trysail.Certain, "web", "500: no db", ""},
		{"odd status", probed(trysail.Probe{Status: 429}), "HC-STATUS", trysail.Certain, "web", "429", "successCodes"},
		{"not HTTP", probed(trysail.Probe{Error: `not HTTP: "-ERR"`}, "0.0.0.0:8080"), "NET-PROTO", trysail.Certain, "web", "not in HTTP", ""},
		{"unknown", probed(trysail.Probe{Error: "strange"}, "0.0.0.0:8080"), "UNKNOWN", trysail.Likely, "web", "did not become healthy", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := diagnose.Diagnose(diagnose.Input{
				Deployment: deployment(), Power: trysail.PowerNano, TookTooLong: true, Window: 5 * time.Minute,
				Pods: []trysail.PodRecord{{Version: 3, Failed: true, Evidence: tc.evidence}},
			})
			if d.Code != tc.code || d.Confidence != tc.confidence || d.ContainerName != tc.container {
				t.Errorf("got %s (%s) of container %q, want %s (%s) of %q", d.Code, d.Confidence, d.ContainerName, tc.code, tc.confidence, tc.container)
			}
			if !strings.Contains(d.Summary, tc.summary) || !strings.Contains(d.Fix, tc.fix) || d.Fix == "" || d.Version != 3 {
				t.Errorf("summary %q, fix %q, version %d; want %q, %q, 3", d.Summary, d.Fix, d.Version, tc.summary, tc.fix)
			}
		})
	}
}

func TestDiagnose_ImageErrorNamesItsContainer(t *testing.T) {
	cause := errors.New("404")
	d := diagnose.Diagnose(diagnose.Input{
		Deployment: deployment(),
		Image:      &trysail.ImageError{Code: "IMG-TAG", Image: "redis:7", Message: "m", Fix: "f", Final: true, Err: cause},
	})
	want := trysail.Diagnosis{
		Version: 3, Code: "IMG-TAG", Confidence: trysail.Certain, ContainerName: "db", Summary: "m", Fix: "f",
		Evidence: []trysail.Evidence{{Kind: "image", Text: "404"}}, Diff: []trysail.Difference{},
	}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDiff_MasksEnvironmentValues(t *testing.T) {
	before, after := deployment(), deployment()
	before.Containers["web"] = trysail.Container{Image: "shop:1", Environment: map[string]string{"GONE": "s3cret", "SAME": "x", "CHANGED": "s3cret"}}
	after.Containers["web"] = trysail.Container{Image: "shop:2", Command: []string{"run"}, Environment: map[string]string{"NEW": "s3cret", "SAME": "x", "CHANGED": "other"}}
	after.PublicEndpoint = nil
	got := diagnose.Diff(before, after)
	want := []trysail.Difference{
		{Field: "containers.web.command", After: `["run"]`},
		{Field: "containers.web.environment.CHANGED", Before: "(set)", After: "(set)"},
		{Field: "containers.web.environment.GONE", Before: "(set)"},
		{Field: "containers.web.environment.NEW", After: "(set)"},
		{Field: "containers.web.image", Before: "shop:1", After: "shop:2"},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreSliceElements(func(d trysail.Difference) bool { return strings.HasPrefix(d.Field, "publicEndpoint") })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := len(got) - len(want); n != 3 {
		t.Errorf("%d differences of the endpoint, want 3", n)
	}
	if diagnose.Diff(nil, after) != nil {
		t.Error("a difference to nothing")
	}
}

func TestDiff_ShowsAMovedTag(t *testing.T) {
	before, after := deployment(), deployment()
	before.Digests, after.Digests = map[string]string{"shop:2": "sha256:a", "redis:7": "sha256:r"}, map[string]string{"shop:2": "sha256:b", "redis:8": "sha256:s"}
	after.Containers["db"] = trysail.Container{Image: "redis:8"}
	want := []trysail.Difference{
		{Field: "containers.db.image", Before: "redis:7", After: "redis:8"},
		{Field: "containers.web.digest", Before: "sha256:a", After: "sha256:b"},
	}
	if diff := cmp.Diff(want, diagnose.Diff(before, after)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzDiagnose(f *testing.F) {
	f.Add("exec: \"a b\": executable file not found in $PATH", "KeyError: 'A'", 1, 200)
	f.Add("", "", 0, 0)
	f.Fuzz(func(t *testing.T, start, log string, code, status int) {
		c := exited("web", code, time.Second)
		c.StartError = start
		for _, e := range []*trysail.PodEvidence{crashed(log, c), probed(trysail.Probe{Status: status, Error: log, Body: log})} {
			d := diagnose.Diagnose(diagnose.Input{Deployment: deployment(), Pods: []trysail.PodRecord{{Evidence: e}}})
			if d.Code == "" || d.Summary == "" || d.Fix == "" || d.Confidence == "" {
				t.Errorf("incomplete: %+v", d)
			}
		}
	})
}
