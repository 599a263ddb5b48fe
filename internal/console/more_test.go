package console_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/store"
)

// id is that of a service.
func (b *bed) id(name string) string {
	b.Helper()
	services, err := b.control.GetContainerServices(b.Context(), b.admin, name)
	if err != nil {
		b.Fatal(err)
	}
	return services[0].ID
}

// write adds a line to the log of a pod of the service web, as the shim does.
func (b *bed) write(pod, container, stream, text string, at time.Time) {
	b.Helper()
	dir := b.logs.PodDir(b.id("web"), pod)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, container+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%s %s F %s\n", at.UTC().Format(time.RFC3339Nano), stream, text); err != nil {
		b.Fatal(err)
	}
}

// pod records a pod.
func (b *bed) pod(service string, id trysail.PodID, version int) {
	b.Helper()
	serviceID := b.id(service)
	b.update(func(tx *store.Tx) error {
		return tx.InsertPod(&trysail.PodRecord{ID: id, ServiceID: serviceID, Version: version, Power: "nano", Attempt: 1, CreatedAt: tx.Now()})
	})
}

func TestLogs_SearchRangeVersionAndContainer(t *testing.T) {
	b := newBed(t)
	b.signIn()
	b.create("web")
	two := func(d *trysail.Deployment) { d.Containers["side"] = trysail.Container{Image: "side:1"} }
	b.deploy("web", "nginx:1", trysail.DeploymentActive, two)
	b.deploy("web", "nginx:2", trysail.DeploymentActive, two)
	b.pod("web", "one", 1)
	b.pod("web", "two", 2)
	now := time.Now()
	b.write("one", "web", "stdout", "early bird", now.Add(-3*time.Hour))
	b.write("one", "web", "stdout", "from <version> one", now.Add(-10*time.Minute))
	b.write("two", "web", "stderr", "from version two", now.Add(-5*time.Minute))
	b.write("two", "side", "stdout", "beside it", now.Add(-4*time.Minute))
	if err := b.logs.Append(b.id("web"), []string{"web", "side"}, now.Add(-6*time.Minute), "[deployment:2] Started"); err != nil {
		t.Fatal(err)
	}
	page := b.page("/console/services/web/logs")
	b.has(page, "from &lt;version&gt; one", "from version two", "beside it", "[deployment:2] Started", "Live")
	b.lacks(page, "early bird")
	if n := strings.Count(page, "[deployment:2] Started"); n != 1 {
		t.Errorf("the system's line is there %d times", n)
	}
	if strings.Index(page, "from version two") > strings.Index(page, "beside it") {
		t.Error("the lines of two containers are not in the order of time")
	}
	b.has(b.page("/console/services/web/logs?range=6h"), "early bird")
	page = b.page("/console/services/web/logs?container=side")
	b.has(page, "beside it")
	b.lacks(page, "from version two")
	page = b.page("/console/services/web/logs?version=1")
	b.has(page, "&lt;version&gt; one", "early bird")
	b.lacks(page, "from version two", "[deployment:2]")
	page = b.page("/console/services/web/logs?q=from+-two")
	b.has(page, "&lt;version&gt; one")
	b.lacks(page, "from version two")
	page = b.page("/console/services/web/logs?range=6h&to=" + url.QueryEscape(now.Add(-time.Hour).UTC().Format("2006-01-02 15:04")))
	b.has(page, "early bird")
	b.lacks(page, "from version two", `data-live="`)
	b.has(b.page("/console/services/web/logs?container=access+log"), "The access log of this service is off.")
	for path, want := range map[string]string{"?version=x": "must be a number", "?range=9y": "not one of those offered", "?from=yesterday": "not valid", "?q=%7B+%24.x+%7D": "not supported", "?container=none": ""} {
		a := b.get("/console/services/web/logs" + path)
		if a.status != 400 && a.status != 404 {
			t.Errorf("%s: %d", path, a.status)
		}
		b.has(a.body, want)
	}
}

func TestLogs_Follow(t *testing.T) {
	b := newBed(t)
	b.signIn()
	b.create("web")
	b.deploy("web", "nginx:1", trysail.DeploymentActive, nil)
	b.pod("web", "one", 1)
	b.write("one", "web", "stdout", "shown already", time.Now().Add(-time.Second))
	page := b.page("/console/services/web/logs")
	b.has(page, "shown already")
	live := regexp.MustCompile(`data-live="([^"]+)"`).FindStringSubmatch(page)
	if live == nil {
		t.Fatal("the page is not live")
	}
	next := b.live(strings.ReplaceAll(live[1], "&amp;", "&"))
	for i := range 3 {
		b.write("one", "web", "stdout", fmt.Sprintf("line %d", i), time.Now())
		html := next()
		b.has(html, fmt.Sprintf("line %d</td>", i))
		b.lacks(html, "shown already", fmt.Sprintf("line %d</td>", i-1))
	}
}

func TestAccessLog_IsShownInColumns(t *testing.T) {
	b := newBed(t)
	b.signIn()
	b.create("web")
	b.deploy("web", "nginx:1", trysail.DeploymentActive, nil)
	at := time.Now().Add(-time.Minute)
	dir := filepath.Join(filepath.Dir(b.logs.PodDir(b.id("web"), "x")), "access")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	line := fmt.Sprintf(`%s stdout F {"time":"x","method":"GET","host":"h","path":"/shop","query":"page=","status":502,"duration":12.34,"client":"192.0.2.1","version":1}`, at.UTC().Format(time.RFC3339Nano))
	if err := os.WriteFile(filepath.Join(dir, "ACCESS.log"), []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	page := b.page("/console/services/web/logs?container=access+log")
	b.has(page, "GET /shop?page=", "12.3 ms", "502", "192.0.2.1", `class="err"`)
	b.lacks(b.page("/console/services/web/logs?container=access+log&version=2"), "/shop")
}

func TestMetrics_ChartsHaveMarkersAndATable(t *testing.T) {
	b := newBed(t)
	b.signIn()
	b.create("web")
	b.deploy("web", "nginx:1", trysail.DeploymentActive, nil)
	page := b.page("/console/services/web/metrics")
	b.has(page, "Requests by status", "Latency", "As a table", `role="img"`, "Version 1, active, deployed")
	b.lacks(page, "NaN", " style=")
	b.page("/console/services/web/metrics?range=30d&version=1")
	for _, query := range []string{"?range=x", "?version=0"} {
		if a := b.get("/console/services/web/metrics" + query); a.status != 400 {
			t.Errorf("%s: %d", query, a.status)
		}
	}
}

func TestImages_ListAndDelete(t *testing.T) {
	b := newBed(t)
	b.signIn()
	b.create("web")
	b.has(b.page("/console/services/web/images"), "Push an image", "trysail push myapp:latest --service web")
	b.update(func(tx *store.Tx) error {
		s, err := tx.Service("web")
		if err != nil {
			return err
		}
		m := store.Manifest{Digest: "sha256:" + strings.Repeat("cd", 32), MediaType: "application/vnd.oci.image.manifest.v1+json", Content: []byte("{}")}
		if err := tx.PutManifest(m, nil, ""); err != nil {
			return err
		}
		if _, err := tx.RegisterImage(s, "www", "sha256:"+strings.Repeat("cd", 32)); err != nil {
			return err
		}
		return tx.UpdateService(s)
	})
	b.has(b.page("/console/services/web/images"), ":web.www.1", "no version", "cdcdcdcdcdcd")
	b.has(b.done("/console/services/web/images/delete", "image", ":web.www.9"), `role="alert"`)
	b.has(b.done("/console/services/web/images/delete", "image", ":web.www.1"), "Image :web.www.1 is deleted.")
}

func TestSettings_KeysAndRegistries(t *testing.T) {
	b := newBed(t)
	b.signIn()
	a := b.post("/console/keys", "name", "ci", "role", "deploy", "services", "web, shop")
	if a.status != 200 {
		t.Fatalf("making a key: %d\n%s", a.status, a.body)
	}
	keys, err := b.control.ListAccessKeys(t.Context(), b.admin)
	if err != nil || len(keys) != 2 || keys[1].Role != trysail.RoleDeploy || strings.Join(keys[1].Services, " ") != "shop web" {
		t.Fatalf("the keys are %+v, %v", keys, err)
	}
	secret, _, _, _ := b.control.Identify(t.Context(), keys[1].ID)
	shown := strings.NewReplacer("&#43;", "+", "&#34;", `"`).Replace(a.body)
	b.has(shown, keys[1].ID, secret, "now and never again")
	page := b.page("/console/settings")
	b.has(page, "shop, web", "(yours)")
	b.lacks(page, secret)
	b.has(b.done("/console/keys", "name", ""), `role="alert"`)
	b.has(b.done("/console/keys/delete", "id", b.key.ID), "is the last", `role="alert"`)
	b.has(b.done("/console/keys/delete", "id", keys[1].ID), "is deleted.")
	b.has(b.done("/console/registries", "host", "ghcr.io", "username", "me", "secret", "hunter2-token", "mirrors", "https://m.example.com"), "Registry ghcr.io is set.", "with secret", "https://m.example.com")
	b.lacks(b.page("/console/settings"), "hunter2-token")
	b.has(b.done("/console/registries/delete", "host", "ghcr.io"), "Registry ghcr.io is forgotten.")
}

func TestAudit_ListsPagesAndFilters(t *testing.T) {
	b := newBed(t)
	b.signIn()
	b.create("web")
	for i := range 60 {
		if _, err := b.control.TagResource(t.Context(), b.admin, "web", nil, []trysail.Tag{{Key: fmt.Sprint("k", i%5), Value: "v"}}); err != nil {
			t.Fatal(err)
		}
	}
	page := b.page("/console/audit?service=web")
	b.has(page, "TagResource", "admin", "Older")
	next := regexp.MustCompile(`href="(/console/audit\?[^"]+)">Older`).FindStringSubmatch(page)
	b.has(b.page(strings.ReplaceAll(next[1], "&amp;", "&")), "CreateContainerService")
	b.has(b.page("/console/audit?to=2001-01-01"), "No such event")
	if a := b.get("/console/audit?from=soon"); a.status != 400 {
		t.Errorf("a time that is none: %d", a.status)
	}
}

func TestRoles_Apply(t *testing.T) {
	b := newBed(t)
	b.create("web")
	b.create("shop")
	b.deploy("web", "nginx:1", trysail.DeploymentActive, nil)
	key, err := b.control.CreateAccessKey(t.Context(), b.admin, control.CreateAccessKeyInput{Name: "reader", Role: trysail.RoleRead, Services: []string{"web"}})
	if err != nil {
		t.Fatal(err)
	}
	b.key = *key
	b.signIn()
	page := b.page("/console/")
	b.has(page, ">web</a>")
	b.lacks(page, ">shop</a>", "Create service", "Audit", "/console/settings")
	page = b.page("/console/services/web")
	b.lacks(page, "/deploy\"")
	for _, path := range []string{"/console/services/shop", "/console/services/shop/logs", "/console/settings", "/console/audit", "/console/create"} {
		if a := b.get(path); a.status != 403 && a.status != 404 {
			t.Errorf("GET %s: %d", path, a.status)
		}
	}
	for path, pairs := range map[string][]string{
		"/console/services/web/update":                 {"do", "disable"},
		"/console/services/web/delete":                 {"name", "web"},
		"/console/services/web/deployments/1/redeploy": nil,
		"/console/services/web/cancel":                 nil,
		"/console/keys":                                {"name", "x", "role", "admin"},
		"/console/registries":                          {"host", "ghcr.io"},
		"/console/certificates":                        {"name", "aa", "domains", "www.example.org"},
	} {
		a := b.post(path, pairs...)
		if a.status == 303 {
			a = b.get("/console/") // says why
		}
		b.has(a.body, "is not authorized to perform")
	}
	services, _ := b.control.GetContainerServices(t.Context(), b.admin, "web")
	if s := services[0]; s.Disabled || s.State != trysail.ServiceRunning || s.Next != nil {
		t.Errorf("the service is %+v", s)
	}
	for _, tab := range []string{"deployments", "deployments/1", "logs", "metrics", "images", "settings", "diff?from=1&to=1"} {
		b.page("/console/services/web/" + tab)
	}
	b.page("/console/domains")
}
