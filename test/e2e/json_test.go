//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/trysail/trysail/test/kit"
)

// TestJSON_IsWhatEveryCommandCanSay runs every command that has --output with JSON and looks whether standard output is JSON and
// nothing else, also where the command ends with an error: then there is JSON, or nothing.
func TestJSON_IsWhatEveryCommandCanSay(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("testdata", "transcript", "json.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range manualsWith(t, "--output") {
		if !strings.Contains(string(text), command+" ") && elsewhere[firstWords(command, 2)] == "" {
			t.Errorf("testdata/transcript/json.txt has no %q", command)
		}
	}
	s := newStage(t, dedicated(t, kit.ServerOptions{Flags: []string{"--activation-timeout", "30s", "--drain-timeout", "1s"}}))
	s.env = append(s.env, "ARCH="+runtime.GOARCH)
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		cmd := exec.CommandContext(t.Context(), "bash", "-o", "pipefail", "-c", line)
		cmd.Dir, cmd.Env = s.dir, s.env
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() == 2 || exit.ExitCode() == 1 && !strings.Contains(line, "doctor")) {
			t.Errorf("%s: %v\n%s%s", line, err, out, errs.String())
		}
		if !json.Valid(out) && (err == nil || len(out) > 0) {
			t.Errorf("%s: this is no JSON:\n%s", line, out)
		}
	}
}

// manualsWith are the commands whose manual pages name a flag.
func manualsWith(t *testing.T, flag string) (commands []string) {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command(shared.server.Binary, "man", "--dir", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(pages) < 40 {
		t.Fatalf("%d manual pages, %v", len(pages), err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(strings.ReplaceAll(string(text), `\-`, "-"), flag) {
			commands = append(commands, strings.ReplaceAll(strings.TrimSuffix(filepath.Base(page), ".1"), "-", " "))
		}
	}
	return commands
}

// TestKeys_OfCIAreEnough does what docs/ci.md tells, with a key that may deploy one service.
func TestKeys_OfCIAreEnough(t *testing.T) {
	t.Parallel()
	s := boxService(t, "pipeline")
	var made struct {
		AccessKey struct {
			ID     string `json:"accessKeyId"`
			Secret string `json:"secretAccessKey"`
		} `json:"accessKey"`
	}
	text := s.trysail(t, 0, "keys", "create", "--role", "deploy", "--service", "pipeline", "-o", "json")
	if err := json.Unmarshal([]byte(text), &made); err != nil || made.AccessKey.ID == "" {
		t.Fatalf("%v: %s", err, text)
	}
	defer s.trysail(t, 0, "keys", "delete", made.AccessKey.ID)
	env := []string{"AWS_ACCESS_KEY_ID=" + made.AccessKey.ID, "AWS_SECRET_ACCESS_KEY=" + made.AccessKey.Secret}
	for _, c := range []struct {
		status int
		line   string
	}{
		{0, "push box.tar --service pipeline --label box"},
		{0, "check pipeline -f two.json"},
		{0, "deploy pipeline -f two.json --wait --timeout 2m"},
		{3, "deploy pipeline -f broken.json --wait --timeout 2m"},
		{0, "explain pipeline"},
		{0, "rollback pipeline --wait --timeout 2m"},
		{0, "run pipeline -- true"},
		{0, "deploy pipeline -f slow.json"},
		{0, "cancel pipeline --wait"},
		{0, "services pipeline"},
		{0, "logs pipeline -n 3"},
		{0, "open pipeline"},
		{1, "exec pipeline -- true"},
		{1, "update pipeline --scale 3"},
		{1, "delete pipeline --yes"},
		{1, "create other"},
		{1, "keys"},
		{1, "audit"},
	} {
		out := s.trysailIn(t, env, c.status, strings.Fields(c.line)...)
		if c.status == 1 && !strings.Contains(out, "AccessDeniedException") {
			t.Errorf("trysail %s says\n%s", c.line, out)
		}
	}
}
