//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/trysail/trysail/test/kit"
)

// screensVar names a folder for pictures of all pages; without it none are made.
const screensVar = "TRYSAIL_TEST_SCREENS"

// browser is a headless Chromium that looks at the console of a server.
type browser struct {
	*testing.T
	ctx    context.Context //nolint:containedctx // chromedp keeps the browser in it
	server *kit.Server
	axe    string

	mu        sync.Mutex
	elsewhere map[string]bool // what pages asked for that is not the console's

	base string // address of the console, up to its root
	task string // page of one that has ended
}

func newBrowser(t *testing.T, s *kit.Server, base string, more ...chromedp.ExecAllocatorOption) *browser {
	t.Helper()
	quiet := newIsland(t)
	for _, address := range []string{s.API, s.HTTP, s.HTTPS} {
		quiet.show(address)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(quiet.chromium()),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("hide-scrollbars", true))
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), append(options, more...)...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	axe, err := os.ReadFile(filepath.Join(kit.Root(), "test/js/node_modules/axe-core/axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{T: t, ctx: ctx, server: s, axe: string(axe), elsewhere: map[string]bool{}, base: base + "/console/"}
	err = chromedp.Listen(ctx, func(e any) {
		r, ok := e.(*network.EventRequestWillBeSent)
		if ok && !strings.HasPrefix(r.Request.URL, b.base) && !strings.HasPrefix(r.Request.URL, "data:") {
			b.mu.Lock()
			b.elsewhere[r.Request.URL] = true
			b.mu.Unlock()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	return b
}

// act does something in the browser, within a time that is generous.
func act[T any](b *browser, a chromedp.Action[T]) T {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Minute)
	defer cancel()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string]("document.body.innerText"))
		b.Fatalf("%v; the page says:\n%s", err, text)
	}
	return v
}

// run does things one after the other.
func (b *browser) run(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	for _, a := range actions {
		act(b, a)
	}
}

// like sets what the reader prefers.
func (b *browser) like(scheme string) {
	b.Helper()
	features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}); err != nil {
		b.Fatal(err)
	}
}

// open goes to a page of the console.
func (b *browser) open(path string) {
	b.Helper()
	b.run(chromedp.Navigate(b.base + path))
}

// sees waits until the page says something.
func (b *browser) sees(text string) {
	b.Helper()
	quoted, err := json.Marshal(text)
	if err != nil {
		b.Fatal(err)
	}
	err = kit.Until(b.ctx, 100*time.Second, func() error {
		found, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool]("document.body !== null && document.body.innerText.includes("+string(quoted)+")"))
		if err == nil && !found {
			err = errors.New("it is not there")
		}
		return err
	})
	if err != nil {
		b.Fatalf("waiting for %q: %v; the page says:\n%s", text, err, act(b, chromedp.Evaluate[string]("document.body.innerText")))
	}
}

// press presses a button and waits for the page that follows.
func (b *browser) press(selector string) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Minute)
	defer cancel()
	if _, err := chromedp.RunResponse(ctx, chromedp.Click(selector)); err != nil {
		b.Fatalf("pressing %s: %v", selector, err)
	}
}

// fill types into a field what replaces its value.
func (b *browser) fill(selector, text string) {
	b.Helper()
	quoted, err := json.Marshal(selector)
	if err != nil {
		b.Fatal(err)
	}
	act(b, chromedp.Evaluate[int]("document.querySelector("+string(quoted)+").focus(), document.activeElement.select(), 0"))
	b.run(chromedp.KeyEvent(text))
}

func field(name string) string { return fmt.Sprintf("[name=%q]", name) }

func (b *browser) signIn() {
	b.Helper()
	b.open("")
	b.sees("Secret access key")
	b.fill("#key", b.server.Vars["AWS_ACCESS_KEY_ID"])
	b.fill("#secret", b.server.Vars["AWS_SECRET_ACCESS_KEY"])
	b.press("button.primary")
	b.sees("Sign out")
}

// violations asks axe-core about the page as it is now.
func (b *browser) violations(what string) {
	b.Helper()
	type violation struct {
		ID    string `json:"id"`
		Help  string `json:"help"`
		Nodes []struct {
			HTML    string `json:"html"`
			Summary string `json:"failureSummary"`
		} `json:"nodes"`
	}
	act(b, chromedp.Evaluate[int](b.axe+";0"))
	found := act(b, chromedp.Evaluate[[]violation]("axe.run(document, {resultTypes: ['violations']}).then(r => r.violations)", chromedp.EvalAwaitPromise))
	for _, v := range found {
		for _, n := range v.Nodes {
			b.Errorf("%s: axe says %s (%s): %s\n%s", what, v.ID, v.Help, n.HTML, n.Summary)
		}
	}
}

// look checks a page in every width and scheme: nothing sticks out of it, axe finds nothing, and pictures are taken.
func (b *browser) look(name, path string) {
	b.Helper()
	for _, width := range []int64{360, 768, 1280} {
		for _, scheme := range []string{"light", "dark"} {
			what := b.lookAt(name, path, width, scheme)
			if width == 360 && scheme == "dark" || width == 1280 && scheme == "light" {
				b.violations(what)
			}
		}
	}
	b.run(chromedp.ResetViewport())
}

// lookAt opens a page in a width and scheme, and says what it is.
func (b *browser) lookAt(name, path string, width int64, scheme string) (what string) {
	b.Helper()
	what = fmt.Sprintf("%s at %d, %s", name, width, scheme)
	b.run(chromedp.EmulateViewport(width, 900))
	b.like(scheme)
	b.open(path)
	if wide := act(b, chromedp.Evaluate[int64]("document.documentElement.scrollWidth")); wide > width {
		b.Errorf("%s: the page is %d wide", what, wide)
	}
	b.picture(fmt.Sprintf("%s-%d-%s.png", name, width, scheme))
	return what
}

func (b *browser) picture(name string) {
	b.Helper()
	dir := os.Getenv(screensVar)
	if dir == "" {
		return
	}
	png := act(b, chromedp.FullScreenshot(100))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), png, 0o644); err != nil {
		b.Fatal(err)
	}
}

// TestConsole goes through every page and form in a browser, on a server with real pods.
func TestConsole(t *testing.T) {
	s := dedicated(t, kit.ServerOptions{Flags: []string{"--activation-timeout", "30s", "--drain-timeout", "2s"}})
	b := newBrowser(t, s, "http://"+s.API)
	b.open("")
	b.look("sign-in", "sign-in")
	b.fill("#key", "AKIANOBODY")
	b.fill("#secret", "wrong")
	b.press("button.primary")
	b.sees("do not belong together")
	b.violations("a refused sign-in")
	b.signIn()
	b.sees("No service yet")
	b.look("empty", "")

	b.open("create")
	b.look("create", "create")
	b.fill("#name", "web")
	b.fill("#scale", "2")
	b.press("button.primary")
	b.sees("Service web is being created.")
	b.sees("Ready") // by itself

	b.consoleDeploys()
	b.consoleOtherForms()
	b.longNames()
	for name, path := range map[string]string{
		"services": "", "service": "services/web", "deployments": "services/web/deployments", "failed": "services/web/deployments/2",
		"deployment": "services/web/deployments/1", "diff": "services/web/diff?from=1&to=2", "deploy": "services/web/deploy?from=1",
		"logs": "services/web/logs", "access-log": "services/web/logs?container=access+log", "metrics": "services/web/metrics",
		"tasks": "services/web/tasks", "task": b.task,
		"images": "services/web/images", "manage": "services/web/settings", "domains": "domains", "settings": "settings",
		"audit": "audit", "audit-none": "audit?service=nothing", "audit-bad": "audit?from=soon", "not-found": "services/none",
	} {
		b.look(name, path)
	}
	b.refusedRules()
	b.consoleWithoutJavaScript()
	b.open("services/web/settings")
	b.fill("#confirm", "web")
	b.press("button.danger")
	b.sees("Service web is being deleted.")
	b.sees("No service yet") // by itself, when it is gone
	b.press(".who button")
	b.sees("Secret access key")
	for url := range b.elsewhere {
		t.Errorf("the pages asked for %s", url)
	}
}

// consoleDeploys deploys a version that works and one that does not.
func (b *browser) consoleDeploys() {
	b.Helper()
	b.open("services/web/deploy")
	b.fill(field("c0.image"), image("web:404"))
	b.sees("Problem:") // while typing
	b.violations("a deployment with a problem")
	b.fill(field("c0.image"), image("web:1"))
	b.fill(field("c0.port0.name"), "8080")
	b.fill("#port", "8080")
	b.fill("#path", "/health")
	b.fill("#codes", "200")
	b.fill(field("c0.env0.name"), "GREETING")
	b.fill(field("c0.env0.value"), "hello")
	b.sees("Nothing is known against this deployment.")
	b.press(`button[value="add-env:0"]`)
	b.fill(field("c0.env1.name"), "API_TOKEN")
	b.fill(field("c0.env1.value"), "a-secret-of-the-tests")
	b.press(`[value="deploy"]`)
	b.sees("Version 1 is being deployed")
	b.picture("deploying.png")
	b.sees("Running") // by itself
	b.sees("Healthy")
	b.visit()

	b.open("services/web/deploy?from=1")
	b.fill(field("c0.env2.name"), "HOST")
	b.fill(field("c0.env2.value"), "127.0.0.1")
	b.press(`[value="deploy"]`)
	b.sees("Version 2 is being deployed")
	b.sees("Version 2 failed") // by itself, with the reason
	b.sees("NET-LOOPBACK")
	b.sees("Version 1 goes on serving")
	b.open("services/web/diff?from=1&to=2")
	b.sees("containers.web.environment.HOST")
	b.open("services/web/deployments/1")
	b.press("#redeploy")
	b.sees("it is version 1 again")
	b.sees("Running")
	b.open("services/web/deployments")
	b.sees("Version 3")
}

// longNames looks at pages with the longest names that there can be: nothing may stick out.
func (b *browser) longNames() {
	b.Helper()
	name := "a-service-" + strings.Repeat("w", 53)
	container := strings.Repeat("c", 53)
	c := clientOf(b.T, b.server)
	c.create(name, types.ContainerServicePowerNameNano, 1)
	c.deploy(&lightsail.CreateContainerServiceDeploymentInput{ServiceName: &name, Containers: map[string]types.Container{container: {
		Image: aws.String(image("web:1")), Environment: map[string]string{strings.Repeat("VARIABLE_", 20): strings.Repeat("value", 60)},
		Command: []string{strings.Repeat("argument", 40)}, Ports: map[string]types.ContainerServiceProtocol{"8080": types.ContainerServiceProtocolHttp},
	}}})
	c.waitState(name, types.ContainerServiceStateRunning)
	for page, path := range map[string]string{
		"long-services": "", "long-service": "services/" + name, "long-deployment": "services/" + name + "/deployments/1", "long-deploy": "services/" + name + "/deploy",
		"long-settings": "services/" + name + "/settings", "long-images": "services/" + name + "/images", "long-audit": "audit?service=" + name,
	} {
		b.lookAt(page, path, 360, "light")
		b.lookAt(page, path, 768, "light")
	}
	b.run(chromedp.ResetViewport())
	if _, err := b.server.Run(b.Context(), "delete", name, "--yes", "--wait"); err != nil {
		b.Fatal(err)
	}
}

// visit makes requests to the service, so that there is something to see.
func (b *browser) visit() {
	b.Helper()
	h, err := b.server.HTTPClient(false)
	if err != nil {
		b.Fatal(err)
	}
	url := *clientOf(b.T, b.server).service("web").Url
	for range 20 {
		r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url, nil)
		if err != nil {
			b.Fatal(err)
		}
		resp, err := h.Do(r)
		if err != nil {
			b.Fatal(err)
		}
		resp.Body.Close()
	}
}

// consoleOtherForms goes through the forms that are not about deployments.
func (b *browser) consoleOtherForms() {
	b.Helper()
	b.open("services/web/settings")
	b.press(`[value="capacity"]`)
	b.sees("The service is being updated.")
	b.run(chromedp.Click(field("requests")))
	b.press("[aria-labelledby=access] button")
	b.sees("The access log is set.")
	b.visit()
	b.open("services/web/logs?container=access+log")
	b.sees("GET /")
	b.open("services/web/logs")
	b.sees("[deployment:")
	b.open("domains")
	b.fill("#name", "site")
	b.fill("#domains", "www.example.org")
	b.press(`form[action="/console/certificates"] button`)
	b.sees("Certificate site is asked for")
	b.sees("www.example.org")
	b.open("settings")
	b.fill("#key-name", "ci")
	b.press(`form[action="/console/keys"] button`)
	b.sees("now and never again")
	b.violations("a new key")
	b.run(chromedp.Click("#new-registry summary"))
	b.fill("#host", "ghcr.io")
	b.fill("#username", "me")
	b.fill("#reg-secret", "a-token-of-the-tests")
	b.press(`form[action="/console/registries"] button`)
	b.sees("Registry ghcr.io is set.")
	b.open("audit?service=web")
	b.sees("CreateContainerServiceDeployment")
	b.sees("version: 1")
	b.open("audit?key=AKIANOBODY&outcome=unauthenticated")
	b.sees("ConsoleSignIn")
	b.consoleRules()
	b.consoleTasks()
}

// consoleRules sets rules of the edge, which hold at once.
func (b *browser) consoleRules() {
	b.Helper()
	b.open("services/web/settings")
	b.fill("#max-body", "10")
	b.fill("#at-once", "500")
	b.fill("#deny", "192.0.2.0/24")
	b.fill("#hsts", "365")
	b.press(`form[action$="/edge-rules"] button.primary`)
	b.sees("The rules for requests are set.")
	h, err := b.server.HTTPClient(false)
	if err != nil {
		b.Fatal(err)
	}
	err = kit.Until(b.Context(), time.Minute, func() error {
		resp, err := h.Get(*clientOf(b.T, b.server).service("web").Url)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if got := resp.Header.Get("Strict-Transport-Security"); got != "max-age=31536000" {
			return fmt.Errorf("the header is %q", got)
		}
		return nil
	})
	if err != nil {
		b.Error(err)
	}
}

// refusedRules shows what is said to a form with a mistake in it, and that nothing that was typed is lost.
func (b *browser) refusedRules() {
	b.Helper()
	b.open("services/web/settings")
	b.fill("#allow", "not a network")
	b.press(`form[action$="/edge-rules"] button.primary`)
	b.sees("neither a network such as")
	if text := act(b, chromedp.Evaluate[string]("document.querySelector('#allow').value + document.querySelector('#hsts').value")); text != "not a network365" {
		b.Errorf("of what was typed there is %q", text)
	}
	b.violations("refused rules")
	b.picture("rules-refused.png")
}

// consoleTasks runs a command, reads what it writes as it comes, and stops it.
func (b *browser) consoleTasks() {
	b.Helper()
	b.open("services/web/tasks")
	b.violations("no task yet")
	b.fill("#command", `migrate 'to the end'`)
	b.press(`form[action$="/tasks"] button.primary`)
	b.sees("The task is being run.")
	b.sees("listening on") // by itself
	b.violations("a task that runs")
	b.picture("task-running.png")
	b.task = strings.TrimPrefix(act(b, chromedp.Evaluate[string]("location.href")), b.base)
	b.press("#stop")
	b.sees("Ended") // by itself
	b.open("audit?service=web")
	b.sees("command: migrate to the end")
}

// consoleWithoutJavaScript uses the pages as they come.
func (b *browser) consoleWithoutJavaScript() {
	b.Helper()
	script := func(off bool) {
		if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: off}); err != nil {
			b.Fatal(err)
		}
	}
	script(true)
	b.open("services/web/deploy")
	b.press(`button[value="add-port:0"]`)
	b.press(`button[value="check"]:not(.hidden)`)
	if text := act(b, chromedp.Text("#check")); !strings.Contains(text, "Nothing is known against") {
		b.Errorf("the check says %q", text)
	}
	script(false)
}

// focus goes on with the tabulator key until something has the focus, as people do who use no mouse. Everything on the way must
// show that it has it.
func (b *browser) focus(selector string) {
	b.Helper()
	type focused struct {
		Hit     bool   `json:"hit"`
		Visible bool   `json:"visible"`
		What    string `json:"what"`
	}
	quoted, err := json.Marshal(selector)
	if err != nil {
		b.Fatal(err)
	}
	var way []string
	for range 100 {
		b.run(chromedp.KeyEvent(kb.Tab))
		f := act(b, chromedp.Evaluate[focused](`(() => {
			const e = document.activeElement, style = getComputedStyle(e), box = e.getBoundingClientRect();
			const shown = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1 && box.width > 4 && box.height > 4;
			return {hit: e.matches(`+string(quoted)+`), visible: e === document.body || shown, what: e.outerHTML.slice(0, 120)};
		})()`))
		if !f.Visible {
			b.Errorf("on the way to %s: nobody sees the focus on %s", selector, f.What)
		}
		if f.Hit {
			return
		}
		way = append(way, f.What)
	}
	b.Fatalf("there is no way to %s with the keyboard; it leads over\n%s", selector, strings.Join(way, "\n"))
}

// enter presses the key on what has the focus, and waits for the page that follows.
func (b *browser) enter() {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Minute)
	defer cancel()
	if _, err := chromedp.RunResponse(ctx, chromedp.KeyEvent(kb.Enter)); err != nil {
		b.Fatalf("pressing Enter: %v", err)
	}
}

// TestConsole_AtItsOwnName uses the console as it is reached from elsewhere: over TLS, through the edge, under console.<domain>.
func TestConsole_AtItsOwnName(t *testing.T) {
	const domain = "console-e2e.test"
	s := dedicated(t, kit.ServerOptions{Flags: []string{"--domain", domain, "--drain-timeout", "2s"}})
	c := clientOf(t, s)
	c.create("web", types.ContainerServicePowerNameNano, 1)
	c.deploy(webDeployment("web", "web:1", nil))
	c.waitState("web", types.ContainerServiceStateRunning)
	_, port, err := net.SplitHostPort(s.HTTPS)
	if err != nil {
		t.Fatal(err)
	}
	address := "https://console." + domain + ":" + port

	visitor, err := s.SignIn(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	if k := visitor.Cookie; k.Name != "__Host-trysail-"+port || !k.Secure || !k.HttpOnly || k.SameSite != http.SameSiteStrictMode || k.Path != "/" || k.Domain != "" {
		t.Errorf("the cookie is %v", k)
	}
	size, err := visitor.Whole(t.Context(), "/console/")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the first page with all that it needs: %d bytes", size)
	if size > 60<<10 {
		t.Errorf("the first page needs %d bytes", size)
	}
	page, err := visitor.Get(t.Context(), "/console/audit")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"ConsoleSignIn", "127.0.0.1", "AWS SDK for Go"} {
		if !strings.Contains(page.Body, text) {
			t.Errorf("the audit trail does not say %s", text)
		}
	}
	if page.Header.Get("Strict-Transport-Security") == "" {
		t.Error("browsers may come without TLS the next time")
	}

	b := newBrowser(t, s, address, chromedp.Flag("host-resolver-rules", "MAP * 127.0.0.1"), chromedp.Flag("ignore-certificate-errors", true))
	b.withTheKeyboard()
	for url := range b.elsewhere {
		t.Errorf("the pages asked for %s", url)
	}
}

// withTheKeyboard signs in, looks at a service and a version of it, and signs out, without a mouse.
func (b *browser) withTheKeyboard() {
	b.Helper()
	b.open("")
	b.sees("Secret access key")
	b.focus("#key")
	b.run(chromedp.KeyEvent(b.server.Vars["AWS_ACCESS_KEY_ID"]))
	b.focus("#secret")
	b.run(chromedp.KeyEvent(b.server.Vars["AWS_SECRET_ACCESS_KEY"]))
	b.focus("button.primary")
	b.enter()
	b.sees("Sign out")
	b.focus(".skip")
	b.run(chromedp.KeyEvent(kb.Enter)) // to the content, past the navigation
	b.focus("#s-web")
	b.enter()
	b.sees("Endpoint")
	b.focus(`a[href$="/web/deployments"]`)
	b.enter()
	b.focus(`a[href$="/deployments/1"]`)
	b.enter()
	b.sees("Container web")
	b.focus(".who button")
	b.enter()
	b.sees("Secret access key")
}
