package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheck_ShowsProblemsAndFails(t *testing.T) {
	server := newFakeServer(t)
	file := filepath.Join(t.TempDir(), "web.json")
	if err := os.WriteFile(file, []byte(`{"containers":{"app":{"image":"nginx","ports":{"80":"HTTP"}}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var sent map[string]any
	answer := `{"problems":["Service \"web\" not found."],"warnings":["w"],"images":[{"container":"app","image":"nginx","digest":"sha256:aa"}]}`
	server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = map[string]any{}
		if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
			t.Error(err)
		}
		fmt.Fprint(w, answer)
	})
	run := func(args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		app := &App{Out: &out, Err: &errs, Getenv: func(name string) string {
			return map[string]string{"AWS_ENDPOINT_URL_LIGHTSAIL": server.URL, "AWS_ACCESS_KEY_ID": "AKADMIN", "AWS_SECRET_ACCESS_KEY": "s"}[name]
		}}
		return app.Execute(t.Context(), args), out.String(), errs.String()
	}
	status, out, errs := run("check", "web", "-f", file)
	want := "problem: Service \"web\" not found.\nwarning: w\napp is nginx@sha256:aa\n"
	if status != ExitFailed || out != want || errs != "" {
		t.Errorf("status %d\n%s%s", status, out, errs)
	}
	if sent["serviceName"] != "web" || sent["containers"].(map[string]any)["app"].(map[string]any)["image"] != "nginx" {
		t.Errorf("sent %v", sent)
	}
	answer = `{"problems":[],"warnings":[],"images":[]}`
	if status, out, _ = run("check", "-f", file); status != ExitOK || out != "Nothing is known against this deployment.\n" {
		t.Errorf("status %d\n%s", status, out)
	}
	if _, has := sent["serviceName"]; has {
		t.Errorf("a service was sent: %v", sent)
	}
	if status, _, errs = run("check"); status != ExitUsage || !strings.Contains(errs, "-f FILE") {
		t.Errorf("without a file: %d %s", status, errs)
	}
}
