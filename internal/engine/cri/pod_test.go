package cri_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine/cri"
)

// get asks the pod and returns the answer.
func get(tb testing.TB, p trysail.Pod, path string) string {
	tb.Helper()
	awaitHTTP(tb, p, 8080)
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("http://%s:8080%s", p.Addr, path))
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		tb.Fatalf("GET %s: %s: %s (%v)", path, resp.Status, b, err)
	}
	return string(b)
}

// field returns what follows the key at the beginning of a line.
func field(text, key string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, key); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func TestEngine_ConfinesContainersLikeDocker(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, func(c *cri.Config) { c.DNS = []string{"192.0.2.53"} })
	p := r.start(podSpec("confined", images.program, "serve 8080"))
	status := get(t, p, "/file?path=/proc/self/status")
	for key, want := range map[string]string{
		"CapEff:": "00000000a80425fb", "CapBnd:": "00000000a80425fb", "CapAmb:": "0000000000000000", "Seccomp:": "2", "NoNewPrivs:": "0",
	} {
		if got := field(status, key); got != want {
			t.Errorf("%s %s, want %s", key, got, want)
		}
	}
	// What tells of the machine as a whole is masked by an empty file.
	masked := 0
	for _, file := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list"} {
		if _, err := os.Stat(file); err != nil {
			continue // not in this kernel
		}
		masked++
		if got := get(t, p, "/file?path="+file); got != "" {
			t.Errorf("%s can be read: %d bytes", file, len(got))
		}
	}
	if masked == 0 {
		t.Error("this kernel has none of the files that have to be masked")
	}
	if mounts := get(t, p, "/file?path=/proc/self/mountinfo"); !strings.Contains(mounts, " /proc/sys ro,") {
		t.Errorf("/proc/sys can be written:\n%s", mounts)
	}
	hosts := get(t, p, "/file?path=/etc/hosts")
	if !strings.Contains(hosts, p.Addr.String()+"\tconfined\n") || !strings.Contains(hosts, "127.0.0.1\tlocalhost") {
		t.Errorf("/etc/hosts:\n%s", hosts)
	}
	if resolv := get(t, p, "/file?path=/etc/resolv.conf"); !strings.Contains(resolv, "nameserver 192.0.2.53") {
		t.Errorf("/etc/resolv.conf:\n%s", resolv)
	}
	if name := strings.TrimSpace(get(t, p, "/hostname")); name != "confined" {
		t.Errorf("host name %q", name)
	}
}

func TestEngine_LimitsTheCPUOfThePodAsAWhole(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, nil)
	spec := podSpec("cpu", images.program, "burn", "burn")
	spec.Limits.MilliCPU = 200
	r.start(spec)
	sample := func() trysail.Usage {
		usage, err := r.engine.Usage(t.Context())
		if err != nil || len(usage) != 1 {
			t.Fatalf("Usage() = %v, %v", usage, err)
		}
		return usage[0]
	}
	first := sample()
	var last trysail.Usage
	r.wait("three seconds are sampled", func() bool { last = sample(); return last.At.Sub(first.At) > 3*time.Second })
	share := float64(last.CPU-first.CPU) / float64(last.At.Sub(first.At))
	if share < 0.05 || share > 0.25 {
		t.Errorf("two containers that burn used %.3f CPUs together, the limit is 0.200", share)
	}
}

func TestEngine_StopLeavesNothing(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, nil)
	spec := podSpec("gone", images.program, "wait", "wait")
	r.start(spec)
	find := func() (found []string) {
		for _, pattern := range []string{
			"/sys/fs/cgroup/*/trysail/*/gone", "/sys/fs/cgroup/trysail/*/gone", r.cfg.StateDir + "/ipam/trysail/10.*", r.cfg.StateDir + "/pods/*",
			r.cfg.StateDir + "/state/io.containerd.grpc.v1.cri/netns/*", r.cfg.StateDir + "/state/io.containerd.runtime.v2.task/k8s.io/*",
		} {
			files, err := filepath.Glob(pattern)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, files...)
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, r.cfg.StateDir+"/") || strings.Contains(line, r.cfg.Dir+"/") {
				found = append(found, line)
			}
		}
		return found
	}
	if before := find(); len(before) < 8 {
		t.Errorf("while the pod runs there are only %q: the test looks in the wrong places", before)
	}
	if _, err := r.engine.Stop(t.Context(), spec.ID, time.Second); err != nil {
		t.Fatal(err)
	}
	if after := find(); len(after) > 0 {
		t.Errorf("left behind: %q", after)
	}
}

func TestEngine_ReportsWhatCannotBeCreated(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, nil)
	spec := podSpec("nouser", images.nouser, "wait")
	spec.Containers = append(spec.Containers, trysail.ContainerSpec{Name: "b", Image: images.program})
	p := r.start(spec)
	check := func(p trysail.Pod) {
		t.Helper()
		if len(p.Containers) != 2 || p.Containers[0].State != trysail.ContainerExited || !strings.Contains(p.Containers[0].StartError, "user") {
			t.Errorf("container with an unknown user: %+v", p.Containers)
		}
		if p.Containers[len(p.Containers)-1].State != trysail.ContainerRunning {
			t.Errorf("the other container: %+v", p.Containers)
		}
	}
	check(p)
	r.close()
	r.open()
	check(r.pod(spec.ID))
	if err := r.engine.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	check(r.pod(spec.ID))
}

func TestEngine_RotatesLogsWithoutLosingLines(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, func(c *cri.Config) { c.LogMaxBytes = 4096 })
	spec := podSpec("logs", images.program, "print 1000000 1ms")
	spec.LogDir = t.TempDir()
	r.start(spec)
	file := filepath.Join(spec.LogDir, "a.1.log")
	r.wait("the third file was begun", func() bool {
		_, err := os.Stat(filepath.Join(spec.LogDir, "a.2.log"))
		return err == nil
	})
	n := logNumbers(t, spec.LogDir, "a")
	r.wait("the log goes on", func() bool { return logNumbers(t, spec.LogDir, "a") > n })
	info, err := os.Stat(file)
	if err != nil || info.Size() < 4096 {
		t.Errorf("%s: %v, %v", file, info, err)
	}
}

// TestEngine_LetsPodsReachTheOutside makes a neighbour that knows the host's address alone, not the pods' network.
func TestEngine_LetsPodsReachTheOutside(t *testing.T) {
	images := serveImages(t)
	r := newRig(t, nil)
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	const ns, link = "tst-outside", "tstout0"
	ip("netns", "add", ns)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", ns)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", link).Run() })
	ip("addr", "add", "198.51.100.1/24", "dev", link)
	ip("link", "set", link, "up")
	ip("-n", ns, "addr", "add", "198.51.100.2/24", "dev", "eth0")
	ip("-n", ns, "link", "set", "eth0", "up")
	file := filepath.Join(t.TempDir(), "program")
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, binary, 0o700); err != nil {
		t.Fatal(err)
	}
	outside := exec.Command("ip", "netns", "exec", ns, file, "serve", "80")
	if err := outside.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = outside.Process.Kill(); _ = outside.Wait() })

	a := r.start(podSpec("inside", images.program, "serve 8080"))
	b := r.start(podSpec("second", images.program, "serve 8080"))
	awaitHTTP(t, trysail.Pod{Addr: netip.MustParseAddr("198.51.100.2")}, 80)
	if got := strings.TrimSpace(get(t, a, "/fetch?url=http://198.51.100.2/remote")); got != "198.51.100.1" {
		t.Errorf("the outside sees the pod as %q, want the host's address 198.51.100.1", got)
	}
	awaitHTTP(t, b, 8080)
	if _, err := r.engine.Network().Publish(trysail.PrivateService{Service: "b", Pods: []netip.Addr{b.Addr}, TCP: []uint16{8080}}); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(get(t, a, "/fetch?url=http://"+b.Addr.String()+":8080/remote")); got != a.Addr.String() {
		t.Errorf("another pod sees the pod as %q, want its own address %s", got, a.Addr)
	}
}

func TestOpen_SaysWhatIsMissing(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  cri.Config
		want string
	}{
		{"no runc", cri.Config{RuncPath: "/nowhere/runc"}, "apt-get install runc"},
		{"no CNI", cri.Config{CNIBinDirs: []string{"/nowhere"}}, "apt-get install containernetworking-plugins"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Dir, tt.cfg.StateDir = t.TempDir(), "/run/tst-missing"
			tt.cfg.Images = newSupply(tt.cfg.Dir)
			_, err := cri.Open(t.Context(), tt.cfg, quiet())
			pe, ok := errors.AsType[*cri.ProblemError](err)
			if !ok || len(pe.Problems) != 1 || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Open: %v (%T)", err, err)
			}
			if problems := cri.Probe(tt.cfg); len(problems) != 1 || !problems[0].Fatal {
				t.Errorf("Probe: %+v", problems)
			}
		})
	}
	if problems := cri.Probe(cri.Config{Dir: t.TempDir()}); len(problems) > 0 {
		t.Errorf("this machine lacks something: %+v", problems)
	}
	if _, err := cri.Open(t.Context(), cri.Config{Dir: t.TempDir(), StateDir: "/run/" + strings.Repeat("x", 60)}, quiet()); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("Open with a long StateDir: %v", err)
	}
}
