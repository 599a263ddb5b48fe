//go:build package

package packages

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail/test/kit"
)

// A Debian package's life: installed on a clean Debian, upgraded while requests come in, removed, installed again, purged.
func TestDeb_InstallUpgradeRemovePurge(t *testing.T) {
	m := bootDebian(t)
	m.put(t, one(t, releases.old, "*.deb"), "old.deb")
	m.put(t, one(t, releases.new, "*.deb"), "new.deb")
	putHello(t, m)

	began := time.Now()
	m.must(t, "apt-get", "-qq", "update")
	m.must(t, "apt-get", "-qq", "-y", "--no-install-recommends", "install", "/old.deb")
	installed := time.Since(began)
	active(t, m)
	s := deployHello(t, m)
	t.Logf("from nothing to the first HTTPS answer: %.1f s, of which %.1f s are apt-get and what it fetches", time.Since(began).Seconds(), installed.Seconds())
	t.Logf("doctor:\n%s", m.must(t, "trysail", "doctor"))
	if out, err := m.command(t.Context(), "systemd-analyze", "verify", "/lib/systemd/system/trysail.service").CombinedOutput(); err != nil || strings.Contains(string(out), "trysail") {
		t.Errorf("systemd finds fault with the unit: %v\n%s", err, out)
	}

	t.Run("upgrade", func(t *testing.T) { upgrade(t, m, s, "apt-get", "-qq", "-y", "install", "/new.deb") })
	t.Run("restart", func(t *testing.T) { restart(t, m, s) })
	t.Run("remove", func(t *testing.T) { remove(t, m, s) })
	t.Run("purge", func(t *testing.T) { purge(t, m) })
}

func bootDebian(t *testing.T) *machine {
	t.Helper()
	m := bootMachine(t, debian(t), "/lib/systemd/systemd")
	settled(t, m)
	return m
}

// settled waits until the machine has booted.
func settled(t *testing.T, m *machine) {
	t.Helper()
	err := kit.Until(t.Context(), 2*time.Minute, func() error {
		_, err := m.run(t.Context(), "systemctl", "is-system-running", "--wait")
		return err
	})
	if err != nil {
		t.Fatalf("booting: %v\n%s", err, m.must(t, "systemctl", "--failed", "--no-pager"))
	}
}

func active(t *testing.T, m *machine) {
	t.Helper()
	if _, err := m.run(t.Context(), "systemctl", "is-active", "--quiet", "trysail"); err != nil {
		out, _ := m.run(t.Context(), "journalctl", "--no-pager", "-u", "trysail")
		t.Fatalf("the service is not active: %v\n%s", err, out)
	}
}

// running is the version of the program that the service runs.
func running(t *testing.T, m *machine) string {
	t.Helper()
	pid := strings.TrimSpace(m.must(t, "systemctl", "show", "--property=MainPID", "--value", "trysail"))
	return strings.TrimSpace(m.must(t, "/proc/"+pid+"/exe", "version"))
}

// upgrade runs the command under load.
func upgrade(t *testing.T, m *machine, s *service, command ...string) {
	settings := filepath.Join(m.root, "etc/trysail/trysail.env")
	const changed = "TRYSAIL_LOG_LEVEL=debug\n"
	if err := os.WriteFile(settings, []byte(changed), 0o640); err != nil {
		t.Fatal(err)
	}
	before := pods(t, m)
	end := s.load(t.Context())
	m.must(t, command...)
	active(t, m)
	s.answers(t)
	total, failed := end()
	t.Logf("%d requests over the upgrade, %d failed", total, len(failed))
	if total == 0 || len(failed) > 0 {
		t.Logf("the service's log:\n%s", m.must(t, "journalctl", "--no-pager", "--output=short-precise", "--lines=300", "--unit=trysail"))
		t.Errorf("failed: %s", strings.Join(failed, "\n"))
	}
	if got := running(t, m); !strings.Contains(got, strings.TrimPrefix(newVersion, "v")) || strings.Contains(got, "rc") {
		t.Errorf("after the upgrade the service runs %s", got)
	}
	if diff := cmp.Diff(before, pods(t, m)); diff != "" {
		t.Errorf("the pods are others after the upgrade: %s", diff)
	}
	if got, err := os.ReadFile(settings); err != nil || string(got) != changed {
		t.Errorf("the settings are %q after the upgrade, %v", got, err)
	}
}

func restart(t *testing.T, m *machine, s *service) {
	before := pods(t, m)
	end := s.load(t.Context())
	for range 20 {
		m.must(t, "systemctl", "restart", "trysail")
		s.answers(t)
	}
	if total, failed := end(); total == 0 || len(failed) > 0 {
		t.Errorf("of %d requests over twenty restarts failed: %s", total, strings.Join(failed, "\n"))
		t.Logf("the service's log:\n%s", m.must(t, "journalctl", "--no-pager", "--output=short-precise", "--lines=300", "--unit=trysail"))
	} else {
		t.Logf("%d requests over twenty restarts, none failed", total)
	}
	if diff := cmp.Diff(before, pods(t, m)); diff != "" {
		t.Errorf("the pods are others after restarts: %s", diff)
	}
}

func remove(t *testing.T, m *machine, s *service) {
	before := pods(t, m)
	m.must(t, "apt-get", "-qq", "-y", "remove", "trysail")
	if out, err := m.run(t.Context(), "systemctl", "is-active", "trysail"); err == nil {
		t.Errorf("after the removal the service is %s", out)
	}
	if procs := webProcesses(t, m); len(procs) != 2 {
		t.Errorf("after the removal there are the processes %q; they shall run on", procs)
	}
	m.must(t, "apt-get", "-qq", "-y", "install", "/new.deb")
	active(t, m)
	s.answers(t)
	if diff := cmp.Diff(before, pods(t, m)); diff != "" {
		t.Errorf("installed again, it has other pods: %s", diff)
	}
}

func purge(t *testing.T, m *machine) {
	m.must(t, "apt-get", "-qq", "-y", "purge", "trysail")
	gone(t, m)
	for _, path := range []string{"usr/bin/trysail", "etc/trysail", "lib/systemd/system/trysail.service"} {
		if _, err := m.run(t.Context(), "test", "!", "-e", "/"+path); err != nil {
			t.Errorf("/%s is still there", path)
		}
	}
}

// gone checks that nothing is left of what the service has started and kept.
func gone(t *testing.T, m *machine) {
	t.Helper()
	if procs := webProcesses(t, m); len(procs) > 0 {
		t.Errorf("there still are %q", procs)
	}
	all, err := kit.Processes(func(p kit.Proc) bool {
		return m.has(p.PID) && len(p.Args) > 0 && (strings.Contains(p.Args[0], "trysail") || strings.Contains(p.Args[0], "pause"))
	})
	if err != nil || len(all) > 0 {
		t.Errorf("there still are %v, %v", all, err)
	}
	for _, path := range []string{"var/lib/trysail", "run/trysail"} {
		if _, err := m.run(t.Context(), "test", "!", "-e", "/"+path); err != nil {
			t.Errorf("/%s is still there", path)
		}
	}
	if out := m.must(t, "cat", "/proc/self/mountinfo"); strings.Contains(out, "/trysail/") {
		t.Errorf("there still are mounts:\n%s", out)
	}
	if out := m.must(t, "find", "/sys/fs/cgroup", "-type", "d", "-name", "trysail"); out != "" {
		t.Errorf("there still are cgroups:\n%s", out)
	}
	if out := m.must(t, "cat", "/proc/net/dev"); strings.Contains(out, "trysail") {
		t.Errorf("there still is a bridge:\n%s", out)
	}
}
