//go:build package

package packages

import "testing"

// The RPM package, on a Debian that has rpm: its files and scripts are what counts, as Debian's packages have other names
// than those that it depends on.
func TestRPM_InstallUpgradePurgeErase(t *testing.T) {
	m := bootDebian(t)
	m.put(t, one(t, releases.old, "*.rpm"), "old.rpm")
	m.put(t, one(t, releases.new, "*.rpm"), "new.rpm")
	putHello(t, m)
	m.must(t, "apt-get", "-qq", "update")
	m.must(t, "apt-get", "-qq", "-y", "--no-install-recommends", "install", "rpm", "runc", "containernetworking-plugins", "ca-certificates")
	m.must(t, "rpm", "--checksig", "--nosignature", "/old.rpm")
	m.must(t, "rpm", "--install", "--nodeps", "/old.rpm")
	active(t, m)
	s := deployHello(t, m)
	t.Run("upgrade", func(t *testing.T) { upgrade(t, m, s, "rpm", "--upgrade", "--nodeps", "/new.rpm") })
	t.Run("purge", func(t *testing.T) {
		if _, err := m.run(t.Context(), "/usr/lib/trysail/purge.sh"); err == nil {
			t.Error("it purged while the service was running")
		}
		s.answers(t)
		m.must(t, "systemctl", "disable", "--now", "trysail")
		m.must(t, "/usr/lib/trysail/purge.sh")
		gone(t, m)
		m.must(t, "rpm", "--erase", "trysail")
		if out, err := m.run(t.Context(), "test", "-e", "/usr/bin/trysail"); err == nil {
			t.Errorf("the program is still there: %s", out)
		}
	})
}
