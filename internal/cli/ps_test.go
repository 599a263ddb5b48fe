package cli

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestPs_ListsPodsAndWhyTheyEnded(t *testing.T) {
	server := newFakeServer(t)
	answer := `{"pods":[{"id":"web-v2-0-abc","version":2,"state":"FAILED","createdAt":1800000000,"stoppedAt":1800000001,"endedAt":1800000002.5,` +
		`"reason":"container app exited with code 3\u001b[31m","exits":[{"name":"app","exitCode":3,"oomKilled":false}]},` +
		`{"id":"web-v1-0-xyz","version":1,"state":"HEALTHY","createdAt":1790000000,"reason":"","exits":[]}]}`
	server.before = func(w http.ResponseWriter, operation string) bool {
		if operation != "ListPods" {
			return false
		}
		fmt.Fprint(w, answer)
		return true
	}
	run := func(args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		app := &App{Out: &out, Err: &errs, Getenv: func(name string) string {
			return map[string]string{"AWS_ENDPOINT_URL_LIGHTSAIL": server.URL, "AWS_ACCESS_KEY_ID": "AKADMIN", "AWS_SECRET_ACCESS_KEY": "s"}[name]
		}}
		return app.Execute(t.Context(), args), out.String(), errs.String()
	}
	status, out, errs := run("ps", "web", "--all")
	if status != ExitOK || errs != "" {
		t.Fatalf("status %d: %s", status, errs)
	}
	for _, want := range []string{"web-v2-0-abc   2         FAILED", "2.5s", "container app exited with code 3", "web-v1-0-xyz   1         HEALTHY"} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Errorf("what a container wrote reaches the terminal uncleaned: %q", out)
	}
	if _, out, _ = run("ps", "web", "-o", "json"); !strings.Contains(out, `"exitCode": 3`) {
		t.Errorf("JSON: %s", out)
	}
	answer = `{"pods":[]}`
	if _, out, _ = run("ps", "web"); out != "No pod of service web is running. Those that have ended: trysail ps web --all\n" {
		t.Errorf("without pods: %q", out)
	}
	if status, _, errs = run("ps", "web", "--version", "-1"); status != ExitUsage || !strings.Contains(errs, "--version must be 1 or more") {
		t.Errorf("a bad version: %d %s", status, errs)
	}
}
