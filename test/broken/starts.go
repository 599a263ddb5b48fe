package broken

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/trysail/trysail/test/corpus"
)

// starts are containers that cannot be started.
func starts() []corpus.Case {
	return []corpus.Case{
		{Name: "run-nofile", Deployment: corpus.WebImage("noprogram:1"), Code: "RUN-NOFILE", Says: "/misbehaev", Confidence: certain, Quick: true},
		{Name: "run-nofile-command", Deployment: corpus.WebImage("busybox:1", "gunicorn", "app:app"), Before: good(), Code: "RUN-NOFILE", Says: "gunicorn", Confidence: certain},
		{Name: "run-directory", Deployment: corpus.WebImage("directory:1"), Code: "RUN-NOFILE", Says: "directory", Confidence: certain},
		{Name: "run-oneword", Deployment: corpus.WebImage("busybox:1", "sh -c 'echo hi'"), Code: "RUN-ONEWORD", Fix: `"sh"`, Confidence: certain, Quick: true},
		{Name: "run-crlf", Deployment: corpus.WebImage("crlf:1"), Code: "RUN-CRLF", Says: "/start.sh", Fix: "sed", Confidence: certain, Quick: true},
		{
			Name: "run-crlf-inner", Deployment: corpus.WebImage("crlflater:1"), Code: "RUN-CRLF", Confidence: likely,
			Miss: "the shell says 'not found' of a script that is there: only its own bytes would tell, and it is not the entrypoint",
		},
		{Name: "run-noshebang", Deployment: corpus.WebImage("noshebang:1"), Code: "RUN-NOSHEBANG", Says: "/start.sh", Fix: "#!/bin/sh", Confidence: certain, Quick: true},
		{Name: "run-text", Deployment: corpus.WebImage("text:1"), Code: "RUN-NOSHEBANG", Confidence: certain},
		{Name: "run-loader", Deployment: corpus.WebImage("dynamic:1"), Code: "RUN-LOADER", Says: "ld-linux", Fix: "static", Confidence: certain, Quick: true},
		{Name: "run-interpreter", Deployment: corpus.WebImage("nointerpreter:1"), Code: "RUN-LOADER", Says: "/usr/bin/python3", Confidence: certain},
		{Name: "run-interpreter-env", Deployment: corpus.WebImage("envinterpreter:1"), Code: "RUN-LOADER", Says: "node", Confidence: certain},
		{Name: "run-perm", Deployment: corpus.WebImage("noexec:1"), Code: "RUN-PERM", Says: "/app/server", Fix: "chmod +x", Confidence: certain, Quick: true},
		{Name: "run-perm-script", Deployment: corpus.WebImage("notexecutable:1"), Code: "RUN-PERM", Fix: "chmod +x /start.sh", Confidence: certain},
		{Name: "run-user", Deployment: corpus.WebImage("nouser:1"), Code: "RUN-USER", Says: "nodejs", Confidence: certain, Quick: true},
		{Name: "run-group", Deployment: corpus.WebImage("nogroup:1"), Code: "RUN-USER", Says: "nodejs", Confidence: certain},
		{Name: "run-workdir", Deployment: corpus.WebImage("noworkdir:1"), Code: "RUN-WORKDIR", Says: "/etc/passwd", Confidence: certain, Quick: true},
		{Name: "run-nocmd", Deployment: corpus.WebImage("nocommand:1"), Code: "RUN-NOCMD", Fix: "command", Confidence: certain, Quick: true},
		{Name: "run-systemd", Deployment: corpus.WebImage("systemd:1"), Code: "RUN-SYSTEMD", Says: "whole machine", Fix: "program itself", Confidence: certain, Quick: true},
		{
			Name: "run-env", Deployment: corpus.Web("need DATABASE_URL", "serve").Env("PGPASSWORD", "hunter2"), Before: before("DATABASE_URL", "postgres://shop:hunter2@db/shop"),
			Code: "RUN-ENV", Says: "DATABASE_URL", Fix: "version 1", Confidence: likely,
		},
		{Name: "run-env-python", Deployment: corpus.WebImage("python:1", "import os\nos.environ['DATABASE_URL']"), Code: "RUN-ENV", Says: "DATABASE_URL", Fix: "environment", Confidence: likely},
		{
			Name: "run-runtime", Deployment: *good(), Place: corpus.SmallDisk, Code: "RUN-RUNTIME", Container: "-", Fix: "doctor", Says: "not your app", Confidence: certain,
			Prepare: breakNetwork, Act: restoreNetwork,
		},
	}
}

// networks are the files that tell the engine of the network of pods.
func networks(r *corpus.Run) ([]string, error) {
	var found []string
	for _, pattern := range []string{"*/*.conflist", "*/*/*.conflist"} {
		paths, err := filepath.Glob(filepath.Join(r.On.DataDir, pattern))
		if err != nil {
			return nil, err
		}
		found = append(found, paths...)
	}
	if len(found) == 0 {
		return nil, errors.New("the network's configuration is not where it is looked for")
	}
	return found, nil
}

// breakNetwork makes the network's configuration name a plugin that is not there, as an upgrade of the machine does.
func breakNetwork(_ context.Context, r *corpus.Run) error {
	return rewrite(r, `"type": "bridge"`, `"type": "bridge-gone"`)
}

func restoreNetwork(ctx context.Context, r *corpus.Run) error {
	return errors.Join(repeat(ctx, r, func() error { return nil }), rewrite(r, `"type": "bridge-gone"`, `"type": "bridge"`))
}

func rewrite(r *corpus.Run, from, to string) error {
	paths, err := networks(r)
	if err != nil {
		return err
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("rewriting the network's configuration: %w", err)
		}
		changed := strings.ReplaceAll(string(text), from, to)
		if changed == string(text) {
			return fmt.Errorf("rewriting the network's configuration: %s has no %s", path, from)
		}
		if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
			return fmt.Errorf("rewriting the network's configuration: %w", err)
		}
	}
	return nil
}
