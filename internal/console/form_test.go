package console_test

import (
	"cmp"
	"errors"
	"fmt"
	"html"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

var (
	inputs    = regexp.MustCompile(`<input[^>]* name="([^"]+)"[^>]*>`)
	valueOf   = regexp.MustCompile(` value="([^"]*)"`)
	textareas = regexp.MustCompile(`(?s)<textarea[^>]* name="([^"]+)"[^>]*>\n?(.*?)</textarea>`)
	selects   = regexp.MustCompile(`(?s)<select[^>]* name="([^"]+)"[^>]*>(.*?)</select>`)
	selected  = regexp.MustCompile(`<option(?: value="([^"]*)")? selected>([^<]*)</option>`)
)

// fields is what a browser would send of the form on a page.
func fields(page string) url.Values {
	v := url.Values{}
	for _, m := range inputs.FindAllStringSubmatch(page, -1) {
		if value := valueOf.FindStringSubmatch(m[0]); value != nil {
			v.Set(m[1], strings.NewReplacer("\r", "", "\n", "").Replace(html.UnescapeString(value[1]))) // one line
		}
	}
	for _, m := range textareas.FindAllStringSubmatch(page, -1) {
		v.Set(m[1], strings.NewReplacer("\r\n", "\r\n", "\r", "\r\n", "\n", "\r\n").Replace(html.UnescapeString(m[2])))
	}
	for _, m := range selects.FindAllStringSubmatch(page, -1) {
		if chosen := selected.FindStringSubmatch(m[2]); chosen != nil {
			v.Set(m[1], html.UnescapeString(cmp.Or(chosen[1], chosen[2])))
		}
	}
	return v
}

func TestDeployForm_WorksWithoutJavaScript(t *testing.T) {
	b := newBed(t)
	b.signIn()
	b.create("web")
	const path = "/console/services/web/deploy"
	form := fields(b.page(path))
	press := func(do string) string {
		t.Helper()
		form.Set("do", do)
		a := b.do("POST", path, form, nil)
		if a.status != 200 {
			t.Fatalf("%s: %d\n%s", do, a.status, a.body)
		}
		form = fields(a.body)
		return a.body
	}
	form.Set("c0.image", "nginx:1")
	form.Set("c0.env0.name", "GREETING")
	form.Set("c0.env0.value", "say \"hello\"\nand <bye>")
	form.Set("c0.command", "nginx\n-g\ndaemon off;")
	press("add-env:0")
	form.Set("c0.env1.name", "GONE")
	press("add-port:0")
	form.Set("c0.port1.name", "8443")
	form.Set("c0.port1.value", "TCP")
	press("add-container")
	press("remove-env:0:1")
	form.Set("c1.name", "side")
	form.Set("c1.image", "missing:1")
	page := press("check")
	b.has(page, "Problem:", "IMG-NOTFOUND", `role="status"`)
	form.Set("do", "deploy")
	if a := b.do("POST", path, form, nil); a.status != 400 {
		t.Fatalf("a deployment of an image that is not there: %d", a.status)
	} else {
		b.has(a.body, `role="alert"`, "missing:1", "GREETING", "daemon off;")
	}
	press("remove-container:1")
	form.Set("timeout", "3")
	form.Set("path", "/healthz")
	b.has(press("check"), "Nothing is known against this deployment.", "abababababab")
	form.Set("do", "deploy")
	a := b.do("POST", path, form, nil)
	if a.status != 303 {
		t.Fatalf("deploying: %d\n%s", a.status, a.body)
	}
	b.has(b.page(a.header.Get("Location")), "Version 1 is being deployed")
	services, err := b.control.GetContainerServices(t.Context(), b.admin, "web")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]trysail.Container{"web": {
		Image: "nginx:1", Command: []string{"nginx", "-g", "daemon off;"}, Environment: map[string]string{"GREETING": "say \"hello\"\nand <bye>"},
		Ports: map[string]trysail.Protocol{"80": trysail.ProtocolHTTP, "8443": trysail.ProtocolTCP},
	}}
	if diff := gocmp.Diff(want, services[0].Next.Containers); diff != "" {
		t.Error(diff)
	}
	check := services[0].Next.PublicEndpoint.HealthCheck
	if check.Path != "/healthz" || check.TimeoutSeconds != 3 || check.SuccessCodes != "200-499" {
		t.Errorf("the health check is %+v", check)
	}
}

func TestDeployForm_BeginsWithAVersionAndKeepsItAll(t *testing.T) {
	b := newBed(t)
	b.signIn()
	b.create("web")
	d := b.deploy("web", "nginx:1", trysail.DeploymentActive, nil)
	form := fields(b.page("/console/services/web/deploy?from=1"))
	form.Set("do", "deploy")
	if a := b.do("POST", "/console/services/web/deploy", form, nil); a.status != 303 {
		t.Fatalf("got %d\n%s", a.status, a.body)
	}
	services, _ := b.control.GetContainerServices(t.Context(), b.admin, "web")
	next := services[0].Next
	if diff := gocmp.Diff(d.Containers, next.Containers); diff != "" {
		t.Error(diff)
	}
	if diff := gocmp.Diff(d.PublicEndpoint, next.PublicEndpoint); diff != "" {
		t.Error(diff)
	}
}

// TestDeployForm_DeploymentsComeBackAsTheyWere opens the form of any deployment, and deploys it as it is.
func TestDeployForm_DeploymentsComeBackAsTheyWere(t *testing.T) {
	b := newBed(t)
	b.signIn()
	b.create("web")
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.StringOfN(rapid.RuneFrom([]rune("ab=\"'\\ \t<>&;+%\u00e4\u65e5\u200b\x01")), 0, 12, -1), rapid.SampledFrom([]string{"", " ", "\n", "\r\n", "a\nb", "\n\na\r\nb\r", `"`, `"a"`, "</textarea>"}))
		name := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?`)
		variable := rapid.SampledFrom([]string{"A", "b.c", "WITH SPACE", " OUTER ", "LINE\nBREAK", "<X>", "\u00dc", "Q\"", "A'B"})
		container := rapid.Custom(func(t *rapid.T) trysail.Container {
			c := trysail.Container{Image: rapid.SampledFrom([]string{"nginx:1", "ghcr.io/a/b@sha256:" + strings.Repeat("0", 64)}).Draw(t, "image")}
			if words := rapid.SliceOfN(text, 0, 4).Draw(t, "command"); len(words) > 0 {
				c.Command = words
			}
			if env := rapid.MapOfN(variable, text, 0, 5).Draw(t, "environment"); len(env) > 0 {
				c.Environment = env
			}
			port := rapid.Map(rapid.IntRange(1, 65535), strconv.Itoa)
			protocol := rapid.SampledFrom([]trysail.Protocol{trysail.ProtocolHTTP, trysail.ProtocolHTTPS, trysail.ProtocolTCP, trysail.ProtocolUDP})
			if ports := rapid.MapOfN(port, protocol, 0, 3).Draw(t, "ports"); len(ports) > 0 {
				c.Ports = ports
			}
			return c
		})
		d := &trysail.Deployment{State: trysail.DeploymentActive, Containers: rapid.MapOfN(name, container, 1, 4).Draw(t, "containers")}
		taken := map[string]bool{} // the containers share one network
		for _, name := range d.ContainerNames() {
			maps.DeleteFunc(d.Containers[name].Ports, func(port string, _ trysail.Protocol) bool {
				defer func() { taken[port] = true }()
				return taken[port]
			})
			if c := d.Containers[name]; len(c.Ports) == 0 {
				c.Ports = nil
				d.Containers[name] = c
			}
		}
		public := rapid.SampledFrom(d.ContainerNames()).Draw(t, "public")
		for _, port := range slices.Sorted(maps.Keys(d.Containers[public].Ports)) {
			protocol := d.Containers[public].Ports[port]
			if n, _ := strconv.Atoi(port); protocol == trysail.ProtocolHTTP || protocol == trysail.ProtocolHTTPS {
				check := trysail.HealthCheck{
					HealthyThreshold: rapid.IntRange(2, 10).Draw(t, "up"), UnhealthyThreshold: rapid.IntRange(2, 10).Draw(t, "down"), TimeoutSeconds: rapid.IntRange(2, 4).Draw(t, "timeout"),
					IntervalSeconds: rapid.IntRange(5, 300).Draw(t, "interval"), Path: rapid.StringMatching(`/[a-z0-9/._-]{0,10}`).Draw(t, "path"), SuccessCodes: rapid.SampledFrom([]string{"200", "200-299", "200,202"}).Draw(t, "codes"),
				}
				d.PublicEndpoint = &trysail.PublicEndpoint{ContainerName: public, ContainerPort: n, HealthCheck: check}
				break
			}
		}
		b.deploy("web", "", trysail.DeploymentActive, func(made *trysail.Deployment) {
			made.Containers, made.PublicEndpoint, made.Digests = d.Containers, d.PublicEndpoint, nil
			d = made
		})
		form := fields(b.page(fmt.Sprint("/console/services/web/deploy?from=", d.Version)))
		form.Set("do", "deploy")
		if a := b.do("POST", "/console/services/web/deploy", form, nil); a.status != 303 {
			t.Fatalf("got %d\n%s", a.status, a.body)
		}
		b.update(func(tx *store.Tx) error {
			s, err := tx.Service("web")
			if err != nil {
				return err
			}
			if diff := gocmp.Diff(d.Containers, s.Next.Containers); diff != "" {
				t.Errorf("(-before +after the form):\n%s", diff)
			}
			if diff := gocmp.Diff(d.PublicEndpoint, s.Next.PublicEndpoint); diff != "" {
				t.Errorf("(-before +after the form):\n%s", diff)
			}
			s.Next.State, s.State = trysail.DeploymentFailed, trysail.ServiceRunning
			return errors.Join(tx.UpdateDeployment(s.ID, s.Next), tx.UpdateService(s))
		})
	})
}

func TestDeployForm_RefusesWhatCannotBeMeant(t *testing.T) {
	b := newBed(t)
	b.signIn()
	b.create("web")
	begin := fields(b.page("/console/services/web/deploy"))
	begin.Set("c0.image", "nginx:1")
	for want, change := range map[string]map[string]string{
		"Container 1 has no name.":                          {"c0.name": ""},
		"Two containers have the name &#34;web&#34;.":       {"c1.name": "web", "c1.image": "x"},
		"Variable &#34;A&#34; of container":                 {"c0.env0.name": "A", "c0.env1.name": "A"},
		"has a value and no name":                           {"c0.env0.value": "x"},
		"Port 80 of container &#34;web&#34; is given twice": {"c0.port1.name": "80", "c0.port1.value": "HTTP"},
		"The timeout must be a number.":                     {"timeout": "soon"},
		"The port of the public endpoint must be a number.": {"port": "http"},
		"&#34;other&#34;":                                   {"endpoint": "other"},
	} {
		form := url.Values{}
		maps.Copy(form, begin)
		for k, v := range change {
			form.Set(k, v)
		}
		form.Set("do", "deploy")
		a := b.do("POST", "/console/services/web/deploy", form, nil)
		if a.status != 400 {
			t.Errorf("%s: %d", want, a.status)
		}
		b.has(a.body, want)
		a = b.do("POST", "/console/services/web/check", form, nil)
		if a.status != 200 {
			t.Errorf("checking, %s: %d", want, a.status)
		}
		b.has(a.body, want)
		b.lacks(a.body, "<html")
	}
}

func TestCreateUpdateDisableDelete(t *testing.T) {
	b := newBed(t)
	b.signIn()
	b.has(b.page("/console/create"), "nano: 0.25 CPU, 0.5 GB")
	if a := b.post("/console/create", "name", "Not Good", "power", "nano", "scale", "1"); a.status != 400 {
		t.Errorf("a bad name: %d", a.status)
	} else {
		b.has(a.body, `role="alert"`, "Not Good")
	}
	b.has(b.done("/console/create", "name", "fresh", "power", "micro", "scale", "3"), "Service fresh is being created.", "micro × 3")
	b.create("web")
	b.deploy("web", "nginx:1", trysail.DeploymentActive, nil)
	const update = "/console/services/web/update"
	b.has(b.done(update, "do", "capacity", "power", "small", "scale", "0"), `role="alert"`)
	b.has(b.done(update, "do", "capacity", "power", "small", "scale", "many"), "The scale must be a number.")
	b.has(b.done(update, "do", "capacity", "power", "small", "scale", "2"), "The service is being updated.")
	b.create("idle")
	b.has(b.done("/console/services/idle/update", "do", "disable"), "The service is being disabled.", "Enable")
	if services, _ := b.control.GetContainerServices(t.Context(), b.admin, "idle"); !services[0].Disabled {
		t.Error("it is not disabled")
	}
	b.has(b.done("/console/services/web/access-log", "requests", "on"), "The access log is set.")
	if set, _ := b.control.GetServiceSettings(t.Context(), b.admin, "web"); !set.AccessLog || set.AccessLogHealthChecks {
		t.Errorf("the settings are %+v", set)
	}
	b.create("old")
	b.has(b.done("/console/services/old/delete", "name", "olt"), "Nothing was deleted", `role="alert"`)
	b.has(b.done("/console/services/old/delete", "name", "old"), "Service old is being deleted.")
	if services, _ := b.control.GetContainerServices(t.Context(), b.admin, "old"); services[0].State != trysail.ServiceDeleting {
		t.Errorf("it is %s", services[0].State)
	}
}

func TestDomains_CertificateRecordsAndService(t *testing.T) {
	b := newBed(t)
	b.signIn()
	b.create("web")
	b.has(b.done("/console/certificates", "name", "site", "domains", "www.example.org\nshop.example.org"), "Certificate site is asked for", "www.example.org", "shop.example.org")
	b.has(b.done("/console/certificates", "name", "bad", "domains", "192.0.2.1"), `role="alert"`)
	b.has(b.page("/console/services/web/settings"), "site|www.example.org")
	page := b.done("/console/services/web/update", "do", "domains", "offered", "site|www.example.org")
	b.has(page, "The domains of the service are set.")
	b.has(b.done("/console/certificates/delete", "name", "site"), "Certificate site is deleted.")
	if a := b.get("/console/domains?check=not+a+name"); a.status != 303 {
		t.Errorf("a look at what is no name: %d", a.status)
	}
	b.has(b.page("/console/domains"), `role="alert"`)
}
