package podnet

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// installFirewalls lays the packages that scripts/setup.sh has unpacked over the files of the machine, for this process
// alone: firewalld and ufw look as if they were installed.
func installFirewalls(t *testing.T) {
	t.Helper()
	cache, err := os.UserCacheDir()
	root := filepath.Join(cache, "trysail-test", "firewalls")
	if _, statErr := os.Stat(filepath.Join(root, "usr/sbin/firewalld")); err != nil || statErr != nil {
		t.Skip("there are no firewalls; scripts/setup.sh test unpacks them")
	}
	room := t.TempDir()
	mount := func(source, target, kind, data string) {
		t.Helper()
		if err := unix.Mount(source, target, kind, 0, data); err != nil {
			t.Fatalf("mounting on %s: %v", target, err)
		}
	}
	mount("tmpfs", room, "tmpfs", "")
	for over, part := range map[string]string{"/etc": "etc", "/usr": "usr"} {
		for _, dir := range []string{"upper", "work"} {
			if err := os.MkdirAll(filepath.Join(room, part, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		mount("overlay", over, "overlay", "lowerdir="+filepath.Join(root, part)+":"+over+",upperdir="+filepath.Join(room, part, "upper")+",workdir="+filepath.Join(room, part, "work"))
	}
	mount("tmpfs", "/run", "tmpfs", "mode=755")
	// The namespaces of mounts go with this process; its temporary folder could not be removed while they are there.
	t.Cleanup(func() {
		for _, at := range []string{"/run", "/usr", "/etc", room} {
			_ = unix.Unmount(at, unix.MNT_DETACH)
		}
	})
}

// runDaemon runs a program until the test ends. What comes from the channel is why it ended before.
func runDaemon(t *testing.T, cmd *exec.Cmd, output *bytes.Buffer) (ended <-chan error) {
	t.Helper()
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	began, over := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the signal comes when the thread ends, not the process
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		began <- err
		if err == nil {
			over <- cmd.Wait()
		}
		close(over)
	}()
	if err := <-began; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		for range over {
		}
	})
	return over
}

// await waits until the condition is true.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came that %s", what)
		}
	}
}

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`

// openPorts are those of the lab that are reached from outside, as the owner of the machine would allow them.
var openPorts = []string{"80/tcp", "443/tcp", "4501/tcp", "4501/udp"}

// TestNetwork_LivesWithFirewalld: the matrix with a real firewalld, which rejects what no zone allows, and when it has
// forgotten what it was told.
func TestNetwork_LivesWithFirewalld(t *testing.T) { //nolint:tparallel // one network, whose circumstances change in turn
	if !inLab(t) {
		return
	}
	installFirewalls(t)
	x := newLab(t)
	cells := x.furnish(t)
	if err := errors.Join(os.Mkdir("/run/dbus", 0o755), os.WriteFile("/run/bus.conf", []byte(busConfig), 0o600)); err != nil {
		t.Fatal(err)
	}
	runDaemon(t, exec.Command("dbus-daemon", "--config-file=/run/bus.conf", "--nofork", "--nopidfile"), new(bytes.Buffer))
	await(t, "the bus answers", func() bool { _, err := os.Stat("/run/dbus/system_bus_socket"); return err == nil })
	runDaemon(t, exec.Command("/usr/bin/python3", "/usr/sbin/firewalld", "--nofork", "--nopid", "--log-target", "console"), new(bytes.Buffer))
	await(t, "firewalld runs", func() bool {
		out, err := exec.Command("firewall-cmd", "--state").CombinedOutput()
		return err == nil && strings.Contains(string(out), "running")
	})
	for _, p := range openPorts {
		run(t, "firewall-cmd", "--permanent", "--zone=public", "--add-port="+p)
	}
	run(t, "firewall-cmd", "--reload")
	inZone := func() bool {
		out, err := exec.Command("firewall-cmd", "--get-zone-of-interface="+x.cfg.Bridge).CombinedOutput()
		return err == nil && strings.TrimSpace(string(out)) == "trusted"
	}
	await(t, "the bridge is in the zone trusted", inZone)
	t.Run("firewalld runs", func(t *testing.T) { x.matrix(t, cells) })
	run(t, "firewall-cmd", "--complete-reload")
	await(t, "it is there again", inZone)
	t.Run("firewalld was reloaded", func(t *testing.T) { x.matrix(t, cells) })
	run(t, "nft", "flush", "ruleset")
	x.awaitRules(t)
	t.Run("all rules were flushed", func(t *testing.T) { x.matrix(t, cells) })
}

// TestNetwork_LivesWithUFW: the matrix with a real ufw, which drops what comes in and what is forwarded.
func TestNetwork_LivesWithUFW(t *testing.T) { //nolint:tparallel // one network, whose circumstances change in turn
	if !inLab(t) {
		return
	}
	installFirewalls(t)
	x := newLab(t)
	cells := x.furnish(t)
	// As the package's script does when it is installed.
	run(t, "sh", "-c", "cp /usr/share/ufw/iptables/*.rules /usr/share/ufw/*.init /usr/share/ufw/ufw.conf /etc/ufw")
	for _, p := range openPorts {
		run(t, "ufw", "allow", p)
	}
	run(t, "ufw", "--force", "enable")
	dropped := func() bool {
		out, err := exec.Command("iptables", "-S", "FORWARD").CombinedOutput()
		return err == nil && strings.HasPrefix(string(out), "-P FORWARD DROP")
	}
	if !dropped() {
		t.Fatal("ufw does not drop what is forwarded")
	}
	x.awaitAdmission(t, "iptables", "ip6tables")
	t.Run("ufw runs", func(t *testing.T) { x.matrix(t, cells) })
	run(t, "ufw", "reload")
	x.awaitAdmission(t, "iptables", "ip6tables")
	t.Run("ufw was reloaded", func(t *testing.T) { x.matrix(t, cells) })
	run(t, "iptables", "-F", "FORWARD")
	x.awaitAdmission(t, "iptables", "ip6tables")
	t.Run("ufw's way to us was flushed", func(t *testing.T) {
		x.matrix(t, slices.DeleteFunc(cells, func(c cell) bool { return c.from != "alpha" }))
	})
}

// awaitAdmission waits until the tools let the pods through.
func (x *lab) awaitAdmission(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		await(t, tool+" lets pods through", func() bool {
			out, err := exec.Command(tool, "-S", "FORWARD").CombinedOutput()
			return err == nil && strings.Contains(string(out), "-A FORWARD -i "+x.cfg.Bridge+" -j ACCEPT")
		})
	}
}

// TestObstacles_NamesTheRuleThatHelps: a chain of nftables that drops is found, and the command that is given lets pods
// through.
func TestObstacles_NamesTheRuleThatHelps(t *testing.T) {
	if !inLab(t) {
		return
	}
	x := newLab(t)
	cells := x.furnish(t)
	none := func() {
		t.Helper()
		if list, err := Obstacles(x.cfg.Bridge); err != nil || len(list) > 0 {
			t.Errorf("obstacles %v, %v; want none", list, err)
		}
	}
	run(t, "nft", "add table inet mine; add chain inet mine forward { type filter hook forward priority 0; policy accept; ct state established accept; }")
	run(t, "iptables", "-P", "FORWARD", "DROP")
	x.awaitAdmission(t, "iptables")
	none()
	run(t, "nft", "chain inet mine forward { policy drop; }")
	run(t, "nft", "add table ip filter2; add chain ip filter2 input { type filter hook input priority 0; }; add rule ip filter2 input iif lo accept; add rule ip filter2 input ct state established accept; add rule ip filter2 input tcp dport { 80, 443, 4501 } accept; add rule ip filter2 input counter reject")
	list, err := Obstacles(x.cfg.Bridge)
	if err != nil || len(list) != 2 {
		t.Fatalf("obstacles %v, %v; want two", list, err)
	}
	x.matrix(t, []cell{{"alpha", "tcp", internetAddr + ":80", "internet", denied}})
	for _, o := range list {
		run(t, "sh", "-c", o.Fix)
	}
	none()
	x.matrix(t, cells)
}
