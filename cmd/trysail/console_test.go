package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestInstalled_SeesThatAnotherProgramIsThere(t *testing.T) {
	if i := installed(t.Context()); i.Changed || i.Path == "" {
		t.Errorf("of the program of the tests: %+v", i)
	}
	path := filepath.Join(t.TempDir(), "program")
	sleep, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, sleep, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait() // it is killed
	defer cmd.Process.Kill()
	link := fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid)
	if i := installedOf(t.Context(), link); i.Changed || i.Path != path {
		t.Errorf("as it was installed: %+v", i)
	}
	replace := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	replace("#!/bin/sh\n[ \"$*\" = 'version --output json' ] && echo '{\"version\": \"v9.9\"}'\n")
	if i := installedOf(t.Context(), link); !i.Changed || i.Path != path || i.Version != "v9.9" {
		t.Errorf("after an update: %+v", i)
	}
	replace("#!/bin/sh\nexit 1\n")
	if i := installedOf(t.Context(), link); !i.Changed || i.Version != "" {
		t.Errorf("after an update to something else: %+v", i)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if i := installedOf(t.Context(), link); i.Changed {
		t.Errorf("after it was removed: %+v", i)
	}
}
