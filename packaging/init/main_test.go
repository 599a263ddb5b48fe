package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFirstProcesses_AreTheFirstOfTheirNamespaces(t *testing.T) {
	proc := t.TempDir()
	for pid, status := range map[string]string{
		"1":   "State:\tS (sleeping)\nNSpid:\t1\n",        // ourselves
		"20":  "State:\tS (sleeping)\nNSpid:\t20\n",       // a shim
		"21":  "State:\tR (running)\nNSpid:\t21\t1\n",     // a container
		"22":  "State:\tS (sleeping)\nNSpid:\t22\t7\n",    // a child in it
		"23":  "State:\tZ (zombie)\nNSpid:\t23\t1\n",      // one that has ended
		"24":  "State:\tS (sleeping)\nNSpid:\t24\t9\t1\n", // a container in a container
		"25":  "State:\tS (sleeping)\nNSpid:\t25\t1\n",    // what holds a pod's namespaces
		"sys": "",
	} {
		if err := os.Mkdir(filepath.Join(proc, pid), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, pid, "status"), []byte(status), 0o600); err != nil {
			t.Fatal(err)
		}
		args := "/web\x00--port\x0080\x00"
		if pid == "25" {
			args = pause
		}
		if err := os.WriteFile(filepath.Join(proc, pid, "cmdline"), []byte(args), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := firstProcesses(proc)
	if diff := cmp.Diff([]int{21, 24}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if err := endPods(t.TempDir(), time.Hour); err != nil {
		t.Errorf("without pods: %v", err)
	}
}

func TestPrepareCgroups_MovesAllProcessesDown(t *testing.T) {
	root := t.TempDir()
	if err := prepareCgroups(root); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(root); len(entries) > 0 {
		t.Errorf("on cgroup v1 it made %v", entries)
	}
	for name, text := range map[string]string{"cgroup.controllers": "cpu memory pids\n", "cgroup.procs": "1\n17\n"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // a container that is started again has the cgroup already
		if err := prepareCgroups(root); err != nil {
			t.Fatal(err)
		}
	}
	moved, err := os.ReadFile(filepath.Join(root, "init", "cgroup.procs"))
	if err != nil || strings.TrimSpace(string(moved)) != "17" { // each write replaces the one before, outside of a kernel
		t.Errorf("moved %q, %v", moved, err)
	}
}
