package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trysail/trysail"
)

func TestPrintDiagnosis_ShowsWhatElseWasFound(t *testing.T) {
	var b bytes.Buffer
	printDiagnosis(screen{Writer: &b}, &trysail.Diagnosis{
		Code: "NET-WRONGPORT", Confidence: trysail.Certain, ContainerName: "web", Summary: "It listens elsewhere.", Fix: "Set the port.",
		Also:     []trysail.Finding{{Code: "DRAIN-KILL", Summary: "It ignores SIGTERM.", Fix: "Use exec."}},
		Warnings: []trysail.Finding{{Code: "HC-DEFAULT", Summary: "404 counts as healthy.\x1b[31m"}},
	})
	want := "Container web: It listens elsewhere.\nFix: Set the port.\nCode: NET-WRONGPORT (certain)\nMore: trysail explain NET-WRONGPORT\n" +
		"\nAlso:\n  DRAIN-KILL  It ignores SIGTERM. Use exec.\n" +
		"\nWarnings:\n  HC-DEFAULT  404 counts as healthy."
	if got := b.String(); len(got) < len(want) || got[:len(want)] != want || bytes.Contains(b.Bytes(), []byte{0x1b}) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}

func TestExplain_BundlesWhatIsKept(t *testing.T) {
	f := newFakeServer(t)
	f.do(func() {
		s := &fakeService{name: "web", state: "READY", power: "nano", scale: 1, version: 1}
		s.old = []map[string]any{{
			"version": 1, "state": "FAILED", "createdAt": 1.7e9,
			"containers": map[string]any{"app": map[string]any{"image": "nginx", "environment": map[string]any{"TOKEN": "s3cret-value"}}},
		}}
		s.diagnosis = map[string]any{"version": 1, "code": "EXIT-CODE", "summary": "It crashed.", "fix": "Read the log."}
		f.services["web"] = s
		f.logs["web/app"] = []fakeLine{{1.6e9, "from before"}, {1.7e9 + 1, "token s3cret-value is bad"}, {1.7e9 + 2, "[trysail] EXIT-CODE"}}
	})
	path := filepath.Join(t.TempDir(), "web.tar.gz")
	var out bytes.Buffer
	app := &App{Out: &out, Err: &out, Getenv: func(name string) string {
		return map[string]string{"AWS_ENDPOINT_URL_LIGHTSAIL": f.URL, "AWS_ACCESS_KEY_ID": "AKADMIN", "AWS_SECRET_ACCESS_KEY": "s3cret"}[name]
	}}
	if status := app.Execute(t.Context(), []string{"explain", "web", "--bundle", path}); status != ExitOK {
		t.Fatalf("exit status %d: %s", status, out.String())
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	files := unpack(t, path)
	if got := files["logs/app.log"]; got != "2023-11-14T22:13:21.000Z token $TOKEN is bad\n2023-11-14T22:13:22.000Z [trysail] EXIT-CODE\n" {
		t.Errorf("the log:\n%s", got)
	}
	for name, want := range map[string]string{"diagnosis.txt": "It crashed.\nFix: Read the log.\n", "record.json": `"serviceName": "web"`, "README.txt": "version 1 of service web"} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s has no %q:\n%s", name, want, files[name])
		}
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("left over: %v, %v", left, err)
	}
	if status := app.Execute(t.Context(), []string{"explain", "web", "--bundle", filepath.Join(path, "no")}); status != ExitFailed {
		t.Errorf("a path that cannot be: exit status %d", status)
	}
}

func unpack(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	compressed, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	archive := tar.NewReader(compressed)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(text)
	}
}

func TestExplain_KnowsTheCodesByThemselves(t *testing.T) {
	run := func(args ...string) (int, string) {
		var out bytes.Buffer
		app := &App{Out: &out, Err: &out, Getenv: func(string) string { return "" }}
		return app.Execute(t.Context(), append([]string{"explain"}, args...)), out.String()
	}
	for _, code := range failureCodes() {
		status, out := run(code)
		if status != ExitOK || !strings.HasPrefix(out, code+": ") || !strings.Contains(out, "\nFix: ") || !strings.Contains(out, "The verdict is ") {
			t.Errorf("%s: status %d\n%s", code, status, out)
		}
	}
	if status, out := run("RUN-ENF"); status != ExitFailed || !strings.Contains(out, "There is no code RUN-ENF. Did you mean RUN-ENV?") {
		t.Errorf("status %d: %s", status, out)
	}
	if status, out := run("MEM-OOM", "-o", "json"); status != ExitOK || !strings.Contains(out, `"code": "MEM-OOM"`) || !strings.Contains(out, `"page": "# MEM-OOM: `) {
		t.Errorf("status %d: %s", status, out)
	}
}
