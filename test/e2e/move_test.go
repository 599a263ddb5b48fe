//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail/test/kit"
)

// account is a Trysail as an AWS account: it stands behind a proxy that passes on the operations of Lightsail and no others.
type account struct {
	*httptest.Server

	mu      sync.Mutex
	allowed map[string]int
	refused []string
}

func newAccount(t *testing.T, behind *kit.Server) *account {
	t.Helper()
	a := &account{allowed: map[string]int{}}
	to, err := url.Parse("http://" + behind.API)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host // it is signed
	}}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		operation, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "Lightsail_20161128.")
		a.mu.Lock()
		if ok {
			a.allowed[operation]++
		} else {
			a.refused = append(a.refused, r.Method+" "+r.URL.Path+" "+r.Header.Get("X-Amz-Target"))
		}
		a.mu.Unlock()
		if !ok {
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"__type":"UnknownOperationException"}`)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(a.Close)
	return a
}

// profile writes an AWS configuration with the account and returns what names it in the environment.
func (a *account) profile(t *testing.T, behind *kit.Server) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf("[profile account]\nregion = us-east-1\nendpoint_url = %s\naws_access_key_id = %s\naws_secret_access_key = %s\n",
		a.URL, behind.Vars["AWS_ACCESS_KEY_ID"], behind.Vars["AWS_SECRET_ACCESS_KEY"])
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"AWS_CONFIG_FILE=" + file, "AWS_SHARED_CREDENTIALS_FILE=" + file + ".none"}
}

// called are the operations since the last time, in order of their names.
func (a *account) called(t *testing.T) []string {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.refused) > 0 {
		t.Errorf("an AWS account was asked for what it does not have: %v", a.refused)
	}
	names := slices.Sorted(maps.Keys(a.allowed))
	a.allowed, a.refused = map[string]int{}, nil
	return names
}

// moved is what trysail import says with --output json.
type moved struct {
	Steps []struct {
		Text string `json:"text"`
		Done bool   `json:"done"`
	} `json:"steps"`
	Notes []string `json:"notes"`
}

func (s *stage) importFrom(t *testing.T, env []string, args ...string) (out moved) {
	t.Helper()
	cmd := s.command(t, env, append([]string{"import", "-o", "json"}, args...)...)
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("import: %v\n%s", err, text)
	}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return out
}

func (m moved) texts() (list []string) {
	for _, s := range m.Steps {
		list = append(list, s.Text)
	}
	return list
}

func TestMove_FromAnAccountAndBack(t *testing.T) {
	t.Parallel()
	flags := []string{"--activation-timeout", "30s", "--drain-timeout", "1s"}
	cloud := dedicated(t, kit.ServerOptions{Flags: flags})
	here := dedicated(t, kit.ServerOptions{Flags: flags})
	fillCloud(t, newStage(t, cloud))
	aws := newAccount(t, cloud)
	s, env := newStage(t, here), aws.profile(t, cloud)
	fromAWS := []string{"export", "--from-aws", "--profile", "account", "--dir"}

	// Out of the account, with its own operations only, and twice the same.
	said := s.trysailIn(t, env, 0, append(fromAWS, "one")...)
	for _, want := range []string{"shop: 2 versions\n", "off: 1 version\n", "own: 1 version\n", "empty: 0 versions\n", "own: not in the files, as they were pushed to the service: :own.box.1.", "environment variable"} {
		if !strings.Contains(said, want) {
			t.Errorf("export does not say %q:\n%s", want, said)
		}
	}
	want := []string{"GetCertificates", "GetContainerServiceDeployments", "GetContainerServices"}
	if diff := cmp.Diff(want, aws.called(t)); diff != "" {
		t.Errorf("what export asks for (-want +got):\n%s", diff)
	}
	s.trysailIn(t, env, 0, append(fromAWS, "two")...)
	if diff := cmp.Diff(files(t, filepath.Join(s.dir, "one")), files(t, filepath.Join(s.dir, "two"))); diff != "" {
		t.Errorf("the second export differs:\n%s", diff)
	}

	// First only looking, then in.
	plan := s.importFrom(t, nil, "--dir", "one", "--plan")
	for _, step := range []string{
		"create service shop: power micro, scale 2", "deploy version 2 of service shop", "ask for certificate shop-cert: shop.example.com, www.shop.example.com",
		"create service off: power nano, scale 1", "disable service off", "create service empty: power nano, scale 1", "create service own: power nano, scale 1",
	} {
		if !slices.Contains(plan.texts(), step) {
			t.Errorf("the plan has no %q: %v", step, plan.texts())
		}
	}
	if notes := strings.Join(plan.Notes, "\n"); !strings.Contains(notes, "own: :own.box.1 was pushed to the other side") || !strings.Contains(notes, "empty: no version served") {
		t.Errorf("the plan leaves to us:\n%s", notes)
	}
	if out := s.trysail(t, 0, "services"); !strings.Contains(out, "There is no service yet") {
		t.Errorf("--plan has made\n%s", out)
	}
	s.importFrom(t, nil, "--dir", "one", "--yes")
	if state := s.trysail(t, 0, "services", "off", "-o", "json"); !strings.Contains(state, `"state": "DISABLED"`) {
		t.Errorf("off is not disabled:\n%s", state)
	}

	err := kit.Until(t.Context(), time.Minute, func() error {
		if out := s.trysail(t, 0, "certs", "show", "shop-cert"); !strings.Contains(out, "is ISSUED") {
			return errors.New(out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}

	// What was in the way is done; the same command goes on from there.
	s.trysail(t, 0, "push", "box.tar", "--service", "own", "--label", "box")
	again := s.importFrom(t, nil, "--dir", "one", "--yes")
	if diff := cmp.Diff([]string{"deploy version 1 of service own", "let shop.example.com, www.shop.example.com lead to service shop"}, again.texts()); diff != "" {
		t.Errorf("the second import does (-want +got):\n%s", diff)
	}
	if last := s.importFrom(t, nil, "--dir", "one"); len(last.Steps) != 0 {
		t.Errorf("the third import does %v", last.texts())
	}
	s.trysail(t, 0, "export", "--dir", "copy")
	for _, service := range []string{"shop", "off", "own", "empty"} {
		file := filepath.Join(service, "service.json")
		if diff := cmp.Diff(withoutVersion(files(t, filepath.Join(s.dir, "one"))[file]), withoutVersion(files(t, filepath.Join(s.dir, "copy"))[file])); diff != "" {
			t.Errorf("%s came over differently (-there +here):\n%s", service, diff)
		}
	}

	// And back: what is there is left alone, what differs is changed, with the account's own operations.
	aws.called(t)
	if back := s.importFrom(t, env, "shop", "own", "--dir", "copy", "--to-aws", "--profile", "account"); len(back.Steps) != 0 {
		t.Errorf("the account has it all, and import does %v", back.texts())
	}
	s.trysail(t, 0, "update", "shop", "--scale", "1", "--wait")
	s.trysail(t, 0, "deploy", "shop", "-f", "one/shop/versions/1.json", "--wait")
	s.trysail(t, 0, "export", "shop", "--dir", "copy")
	s.trysailIn(t, env, 1, "import", "shop", "--dir", "copy", "--to-aws", "--profile", "account") // not without --yes
	back := s.importFrom(t, env, "shop", "--dir", "copy", "--to-aws", "--profile", "account", "--yes")
	if diff := cmp.Diff([]string{"change service shop: power micro → micro, scale 2 → 1", "deploy version 2 of service shop over its version 2"}, back.texts()); diff != "" {
		t.Errorf("back (-want +got):\n%s", diff)
	}
	if called := aws.called(t); !slices.Contains(called, "CreateContainerServiceDeployment") || !slices.Contains(called, "UpdateContainerService") {
		t.Errorf("back with %v", called)
	}
}

// fillCloud makes what a team has in its account.
func fillCloud(t *testing.T, s *stage) {
	t.Helper()
	deployment := func(name, image, more string) {
		text := `{"containers": {"web": {"image": "` + image + `", "ports": {"8080": "HTTP"}` + more + `}}, "publicEndpoint": {"containerName": "web", "containerPort": 8080}}`
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	deployment("1.json", image("web:1"), `, "environment": {"LEVEL": "info"}`)
	deployment("2.json", image("web:2"), `, "environment": {"LEVEL": "debug"}, "command": ["--flag"]`)
	deployment("own.json", ":own.box.1", "")
	s.trysail(t, 0, "create", "shop", "--power", "micro", "--scale", "2", "--tag", "team=a", "--tag", "live", "--wait")
	s.trysail(t, 0, "deploy", "shop", "-f", "1.json", "--wait")
	s.trysail(t, 0, "deploy", "shop", "-f", "2.json", "--wait")
	s.trysail(t, 0, "certs", "create", "shop-cert", "shop.example.com", "www.shop.example.com", "--wait")
	s.trysail(t, 0, "domains", "add", "shop", "shop.example.com", "www.shop.example.com")
	s.trysail(t, 0, "create", "off", "-f", "1.json", "--wait")
	s.trysail(t, 0, "update", "off", "--disable", "--wait")
	s.trysail(t, 0, "create", "own", "--wait")
	s.trysail(t, 0, "push", "box.tar", "--service", "own", "--label", "box")
	s.trysail(t, 0, "deploy", "own", "-f", "own.json", "--wait")
	s.trysail(t, 0, "create", "empty", "--wait")
}

// files are all files below a folder.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	names, err := filepath.Glob(filepath.Join(dir, "*", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	deeper, err := filepath.Glob(filepath.Join(dir, "*", "*", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(append(names, deeper...), filepath.Join(dir, "certificates.json")) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		short, err := filepath.Rel(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		all[short] = string(text)
	}
	return all
}

// withoutVersion takes the number of the version out of a service.json: numbers begin anew elsewhere.
func withoutVersion(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if !strings.Contains(line, `"currentVersion"`) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}
