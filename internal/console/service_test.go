package console_test

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// fail lets a version fail for a reason.
func (b *bed) fail(name, image string) {
	b.Helper()
	d := b.deploy(name, image, trysail.DeploymentFailed, nil)
	b.update(func(tx *store.Tx) error {
		s, err := tx.Service(name)
		if err != nil {
			return err
		}
		return tx.SetDiagnosis(s.ID, &trysail.Diagnosis{
			Version: d.Version, Code: "NET-LOOPBACK", Confidence: trysail.Certain, ContainerName: "web",
			Summary: "The program listens on 127.0.0.1 <only>.", Fix: "Listen on 0.0.0.0.",
			Evidence: []trysail.Evidence{{Kind: "socket", Text: "127.0.0.1:80 of nginx"}},
			Diff:     []trysail.Difference{{Field: "containers.web.image", Before: "nginx:1", After: image}},
		})
	})
}

func TestServices_ShowStateAndVersion(t *testing.T) {
	b := newBed(t)
	b.signIn()
	b.create("web")
	b.create("empty")
	b.deploy("web", "nginx:1", trysail.DeploymentActive, nil)
	b.fail("web", "nginx:2")
	page := b.page("/console/")
	b.has(page, ">web</a>", ">empty</a>", "Running", "Ready", "nano × 2", "Version 2 failed", ".us-east-1.cs.example.com")
	page = b.page("/console/services/web")
	b.has(page, "Version 2 failed", "Version 1 goes on serving", "The program listens on 127.0.0.1 &lt;only&gt;.", "Listen on 0.0.0.0.", "127.0.0.1:80 of nginx", "web.service.local")
	for _, path := range []string{"/console/services/none", "/console/services/web/deployments/7", "/console/services/web/deployments/x", "/console/none"} {
		a := b.get(path)
		if a.status != 404 {
			t.Errorf("%s: %d", path, a.status)
		}
		b.has(a.body, "Not found", "Sign out")
	}
}

func TestService_ShowsTheNextDeploymentStageByStage(t *testing.T) {
	b := newBed(t)
	b.signIn()
	b.create("web")
	d := b.deploy("web", "nginx:1", trysail.DeploymentActivating, nil)
	next := b.live("/console/services/web")
	first := next()
	b.has(first, "Version 1 is being deployed", "fetch and examine", "Cancel")
	b.update(func(tx *store.Tx) error {
		s, err := tx.Service("web")
		if err != nil {
			return err
		}
		for slot := range 2 {
			p := trysail.PodRecord{ID: trysail.PodID("web-1-" + string(rune('a'+slot))), ServiceID: s.ID, Version: d.Version, Power: "nano", Slot: slot, Attempt: 1, CreatedAt: tx.Now()}
			if err := tx.InsertPod(&p); err != nil {
				return err
			}
			if slot == 0 {
				p.HealthyAt = tx.Now()
				if err := tx.UpdatePod(&p); err != nil {
					return err
				}
			}
		}
		return nil
	})
	second := next()
	b.has(second, "1 of 2 healthy", "web-1-a", "Starting", "Healthy")
	b.lacks(second, "<html", "Sign out")
	page := b.done("/console/services/web/cancel")
	b.has(page, "The deployment is being canceled.")
	b.lacks(b.page("/console/services/web"), "The deployment is being canceled.")
}

// live follows what changes on a page; each call waits for the next change.
func (b *bed) live(path string) func() string {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), "GET", b.server.URL+path, nil)
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	resp, err := b.browser.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		b.Fatalf("the stream of %s: %d %v", path, resp.StatusCode, resp.Header)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return func() string {
		b.Helper()
		var html []string
		for lines.Scan() {
			text, isData := strings.CutPrefix(lines.Text(), "data: ")
			switch {
			case isData:
				html = append(html, text)
			case lines.Text() == "" && html != nil:
				return strings.Join(html, "\n")
			}
		}
		b.Fatalf("the stream of %s ended: %v", path, lines.Err())
		return ""
	}
}

func TestLive_EndsWithTheSession(t *testing.T) {
	b := newBed(t)
	b.signIn()
	token := b.token()
	r, _ := http.NewRequestWithContext(t.Context(), "GET", b.server.URL+"/console/", nil)
	r.Header.Set("Accept", "text/event-stream")
	resp, err := b.browser.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if a := b.do("POST", "/console/sign-out", url.Values{"csrf": {token}}, nil); a.status != 303 {
		t.Fatal(a.status)
	}
	buffer := make([]byte, 4096)
	for { // it ends: the server closes it
		if _, err := resp.Body.Read(buffer); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if a := b.do("GET", "/console/", nil, func(r *http.Request) { r.Header.Set("Accept", "text/event-stream") }); a.status != 204 {
		t.Errorf("a stream without a session: %d", a.status)
	}
}

func TestDeployments_ListDiffAndRedeploy(t *testing.T) {
	b := newBed(t)
	b.signIn()
	b.create("web")
	b.deploy("web", "nginx:1", trysail.DeploymentActive, nil)
	b.deploy("web", "nginx:2", trysail.DeploymentActive, func(d *trysail.Deployment) {
		d.Containers["web"].Environment["DB_PASSWORD"] = "battery-staple"
	})
	b.fail("web", "nginx:3")
	page := b.page("/console/services/web/deployments")
	b.has(page, "Version 1", "Version 2", "Version 3", "Inactive", "Active", "Failed", "NET-LOOPBACK: The program listens")
	page = b.page("/console/services/web/diff?from=1&to=2")
	b.has(page, `<del class="before">nginx:1</del>`, `<ins class="after">nginx:2</ins>`, "containers.web.environment.DB_PASSWORD", "another value")
	b.lacks(page, "battery-staple", "correct-horse")
	if a := b.get("/console/services/web/diff?from=1&to=9"); a.status != 404 {
		t.Errorf("diff with what is not there: %d", a.status)
	}
	page = b.page("/console/services/web/deployments/3")
	b.has(page, "NET-LOOPBACK", "Changed since the last version", "GREETING=hello", "Listen on 0.0.0.0.")
	b.lacks(page, "correct-horse")
	page = b.done("/console/services/web/deployments/1/redeploy")
	b.has(page, "Version 4 is being deployed: it is version 1 again.")
	all, err := b.control.GetContainerServiceDeployments(t.Context(), b.admin, "web")
	if err != nil || all[0].Version != 4 || all[0].Containers["web"].Image != "nginx:1" || all[0].PublicEndpoint.HealthCheck.Path != "/" {
		t.Errorf("got %+v, %v", all[0], err)
	}
	page = b.done("/console/services/web/deployments/1/redeploy")
	b.has(page, `role="alert"`, "deployment 4 is in progress")
	// What the tag stood for, and not what it stands for now.
	b.create("moved")
	b.deploy("moved", "nginx:1", trysail.DeploymentActive, func(d *trysail.Deployment) { d.Digests["nginx:1"] = "sha256:" + strings.Repeat("cd", 32) })
	b.deploy("moved", "nginx:2", trysail.DeploymentActive, nil)
	b.done("/console/services/moved/deployments/1/redeploy")
	all, err = b.control.GetContainerServiceDeployments(t.Context(), b.admin, "moved")
	if want := "nginx@sha256:" + strings.Repeat("cd", 32); err != nil || all[0].Containers["web"].Image != want {
		t.Errorf("got %+v, %v, want %s", all[0], err, want)
	}
}
