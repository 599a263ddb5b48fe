package console_test

import (
	"html"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/store"
)

func TestTasks_RunFollowAndStop(t *testing.T) {
	b := newBed(t)
	b.signIn()
	b.create("web")
	b.has(b.page("/console/services/web/tasks"), "Nothing deployed yet")
	b.deploy("web", "nginx:1", trysail.DeploymentActive, nil)
	b.has(b.page("/console/services/web/tasks"), "No task yet", "trysail run web -- COMMAND")

	a := b.post("/console/services/web/tasks", "command", `sh -c 'echo "a  b"' ""`, "timeout", "10m")
	if a.status != 303 {
		t.Fatalf("got %d\n%s", a.status, a.body)
	}
	path := a.header.Get("Location")
	tasks, err := b.control.ListTasks(t.Context(), b.admin, "web")
	if err != nil || len(tasks) != 1 || path != "/console/services/web/tasks/"+string(tasks[0].ID) {
		t.Fatalf("led to %s; tasks %+v, %v", path, tasks, err)
	}
	k := tasks[0]
	if d := cmp.Diff([]string{"sh", "-c", `echo "a  b"`, ""}, k.Command); d != "" || k.Deadline.Sub(k.CreatedAt) != 10*time.Minute {
		t.Errorf("the task is %+v\n%s", k, d)
	}
	page := b.page(path)
	b.has(page, "The task is being run.", "Running now", "Nothing so far.", ">Stop<", `data-live="`)
	dir := b.logs.PodDir(b.id("web"), string(k.ID))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	line := time.Now().UTC().Format(time.RFC3339Nano) + " stdout F a <b>\n"
	if err := os.WriteFile(filepath.Join(dir, "web.log"), []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	b.has(b.page(path), "a &lt;b&gt;")
	b.has(b.done(path+"/stop"), "The task is being stopped.", "Stopping")
	b.update(func(tx *store.Tx) error {
		k.StopAt, k.EndedAt, k.Reason = tx.Now(), tx.Now(), "It was stopped."
		return tx.UpdateTask(&k)
	})
	page = b.page(path)
	b.has(page, "Stopped", "It was stopped.", "a &lt;b&gt;", "Run again")
	b.lacks(page, ">Stop<", `data-live="`)
	again := page[strings.Index(page, `href="/console/services/web/tasks?command=`)+6:]
	again, _, _ = strings.Cut(again, `"`)
	again = html.UnescapeString(again)
	b.has(b.page(again), `value="sh -c &#39;echo &#34;a  b&#34;&#39; &#39;&#39;"`, "It was stopped.")

	for form, want := range map[[2]string]string{
		{"", "1h"}: "The command is empty.", {"echo 'a", "1h"}: "a quote is open", {`echo \`, "1h"}: "backslash", {"echo", "9y"}: "not one of those offered",
	} {
		a := b.post("/console/services/web/tasks", "command", form[0], "timeout", form[1])
		if a.status != 400 {
			t.Errorf("%q: %d", form, a.status)
		}
		b.has(a.body, want, `role="alert"`)
	}
	for _, path := range []string{"/console/services/web/tasks/none", "/console/services/none/tasks"} {
		if a := b.get(path); a.status != 404 {
			t.Errorf("%s: %d", path, a.status)
		}
	}
}

func TestTasks_AreForTheRoleDeploy(t *testing.T) {
	b := newBed(t)
	b.create("web")
	b.deploy("web", "nginx:1", trysail.DeploymentActive, nil)
	key, err := b.control.CreateAccessKey(t.Context(), b.admin, control.CreateAccessKeyInput{Name: "reader", Role: trysail.RoleRead})
	if err != nil {
		t.Fatal(err)
	}
	b.key = *key
	b.signIn()
	b.lacks(b.page("/console/services/web/tasks"), "Run a command once")
	if a := b.post("/console/services/web/tasks", "command", "true", "timeout", "1h"); a.status != 403 {
		t.Errorf("running: %d", a.status)
	}
}

func TestEdgeRules_AreSetAndKeptAsTyped(t *testing.T) {
	b := newBed(t)
	b.signIn()
	b.create("web")
	const path = "/console/services/web/edge-rules"
	rules := func() trysail.EdgeRules {
		t.Helper()
		s, err := b.control.GetServiceSettings(t.Context(), b.admin, "web")
		if err != nil {
			t.Fatal(err)
		}
		return s.EdgeRules
	}
	page := b.done(path, "max-body", "10", "max-body-unit", "MB", "rate", "5", "rate-unit", "a second", "burst", "40", "at-once", "100", "per-client", "8",
		"allow", "192.0.2.0/24\r\n 2001:db8::/32", "deny", "192.0.2.7", "hsts", "365", "hsts-unit", "days", "hsts-subdomains", "on", "page-503", "<p>sorry</p>\r\n")
	b.has(page, "The rules for requests are set.", `value="365"`, "1 of its own", "&lt;p&gt;sorry&lt;/p&gt;")
	want := trysail.EdgeRules{
		MaxBody: 10_000_000, RequestsPerMinute: 300, RequestBurst: 40, MaxRequestsAtOnce: 100, MaxRequestsAtOncePerClient: 8,
		AllowClients: []string{"192.0.2.0/24", "2001:db8::/32"}, DenyClients: []string{"192.0.2.7/32"},
		HSTSMaxAge: 31_536_000, HSTSIncludeSubdomains: true, ErrorPages: map[string]string{"503": "<p>sorry</p>\n"},
	}
	if d := cmp.Diff(want, rules()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	form := fields(page)
	form.Del("hsts-preload") // not ticked
	form.Set("allow", "not a network")
	a := b.do("POST", path, form, nil)
	if a.status != 400 {
		t.Errorf("a network that is none: %d", a.status)
	}
	b.has(a.body, "neither a network such as", `role="alert"`, "not a network</textarea>", `value="365"`)
	if d := cmp.Diff(want, rules()); d != "" {
		t.Errorf("after what was refused (-want +got):\n%s", d)
	}
	b.done(path) // everything empty
	if d := cmp.Diff(trysail.EdgeRules{}, rules()); d != "" {
		t.Errorf("after taking all away (-want +got):\n%s", d)
	}
}

func TestSettings_SayWhatRuns(t *testing.T) {
	b := newBed(t)
	b.signIn()
	page := b.page("/console/settings")
	b.has(page, "This Trysail", "1.2.3", "asks nobody")
	b.lacks(page, "is installed, but does not run yet")
	b.installed.Changed, b.installed.Version, b.installed.Path = true, "9.9", "/usr/bin/trysail"
	b.has(b.page("/console/settings"), "Version 9.9 is installed, but does not run yet", "/usr/bin/trysail")
}
