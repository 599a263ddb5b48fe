//go:build package

package packages

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/trysail/trysail/test/kit"
)

// machine is a machine of its own in all but the kernel: root, processes, control groups and a network from which it
// reaches the internet and we reach it.
type machine struct {
	root string
	name string // of its cgroup, its end of the network outside, and its firewall table
	addr string // under which it is reached from here
	pid  int    // of its first process
	cmd  *exec.Cmd
	log  string
}

// bootMachine starts argv as the first process of a machine with the files of root. The test ends it.
func bootMachine(t *testing.T, root string, argv ...string) *machine {
	t.Helper()
	id := make([]byte, 4)
	if _, err := rand.Read(id); err != nil {
		t.Fatal(err)
	}
	m := &machine{root: root, name: "trsp" + hex.EncodeToString(id), log: filepath.Join(t.TempDir(), "console")}
	t.Cleanup(func() {
		if t.Failed() {
			if log, err := os.ReadFile(m.log); err == nil && len(log) > 0 {
				t.Logf("console:\n%s", log)
			}
		}
		if err := m.end(); err != nil {
			t.Errorf("ending the machine: %v", err)
		}
	})
	if err := m.boot(t.Context(), argv, id[0], id[1]); err != nil {
		t.Fatalf("booting: %v", err)
	}
	return m
}

func (m *machine) boot(ctx context.Context, argv []string, subnet ...byte) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.Create(m.log)
	if err != nil {
		return err
	}
	defer log.Close()
	wait, ready, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	m.cmd = exec.Command(self)
	m.cmd.Env = append(os.Environ(), bootVariable+"="+strings.Join(append([]string{m.root, m.name}, argv...), "\n"))
	m.cmd.ExtraFiles = []*os.File{wait}
	m.cmd.Stdout, m.cmd.Stderr = log, log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: bootNamespaces | syscall.CLONE_NEWNET}
	err = m.cmd.Start()
	if err = errors.Join(err, wait.Close()); err != nil {
		return err
	}
	// One of the 16,384 networks of four addresses in 10.231.0.0/16.
	network := netOf(subnet[0], subnet[1]&^3)
	host, own := network(1), network(2)
	m.addr = own
	m.pid = m.cmd.Process.Pid
	pid := strconv.Itoa(m.pid)
	inside := []string{"nsenter", "--net", "--target", pid}
	for _, args := range [][]string{
		{"ip", "link", "add", m.name, "type", "veth", "peer", "name", "eth0", "netns", pid},
		{"ip", "address", "add", host + "/30", "dev", m.name},
		{"ip", "link", "set", m.name, "up"},
		append(inside, "ip", "address", "add", own+"/30", "dev", "eth0"),
		append(inside, "ip", "link", "set", "eth0", "up"),
		append(inside, "ip", "link", "set", "lo", "up"),
		append(inside, "ip", "route", "add", "default", "via", host),
		{"sysctl", "--quiet", "net.ipv4.ip_forward=1"},
		{"nft", fmt.Sprintf("table ip %s { chain out { type nat hook postrouting priority srcnat; ip saddr %s/30 oifname != %s masquerade; }; }", m.name, network(0), m.name)},
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

func netOf(third, fourth byte) func(host byte) string {
	return func(host byte) string { return net.IPv4(10, 231, third, fourth+host).String() }
}

// end kills whatever runs in the machine, and removes what it has outside. The root stays.
func (m *machine) end() error {
	var errs []error
	if m.cmd != nil && m.cmd.Process != nil {
		// The kernel kills the others of its namespace. It may have ended by itself.
		if err := m.cmd.Process.Kill(); !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
		_ = m.cmd.Wait()
	}
	_ = exec.Command("ip", "link", "delete", m.name).Run()
	if out, err := exec.Command("nft", "delete", "table", "ip", m.name).CombinedOutput(); err != nil {
		errs = append(errs, fmt.Errorf("removing the firewall table: %w: %s", err, out))
	}
	return errors.Join(append(errs, kit.Until(context.Background(), time.Minute, func() error { return removeCgroup(m.name) }))...)
}

// command prepares a program in the machine.
func (m *machine) command(ctx context.Context, argv ...string) *exec.Cmd {
	args := append([]string{"--target", strconv.Itoa(m.pid), "--all", "--root", "--wd=/"}, argv...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "NO_COLOR=1",
	}
	return cmd
}

// run runs a program in the machine and returns its standard output.
func (m *machine) run(ctx context.Context, argv ...string) (string, error) {
	cmd := m.command(ctx, argv...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(argv, " "), err, &stdout, &stderr)
	}
	return stdout.String(), nil
}

// must is run for what cannot fail.
func (m *machine) must(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := m.run(t.Context(), argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// client runs trysail as somebody on the machine does after eval "$(trysail env)".
func (m *machine) client(t *testing.T, args ...string) string {
	t.Helper()
	env := m.must(t, "/usr/bin/trysail", "env")
	cmd := m.command(t.Context(), append([]string{"/usr/bin/trysail"}, args...)...)
	for line := range strings.Lines(env) {
		if assignment, ok := strings.CutPrefix(strings.TrimSpace(line), "export "); ok {
			k, v, _ := strings.Cut(assignment, "=")
			cmd.Env = append(cmd.Env, k+"="+strings.Trim(v, `'"`))
		}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("trysail %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// put copies a file into the root of the machine.
func (m *machine) put(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(filepath.Join(m.root, to), content, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
