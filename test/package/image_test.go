//go:build package

package packages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"golang.org/x/sys/unix"

	"github.com/trysail/trysail/test/kit"
)

// imageOf returns what a registry's client would take for this processor out of the archive.
func imageOf(t *testing.T, archive string) v1.Image {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "tar", "-xf", archive, "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("unpacking %s: %v\n%s", archive, err, out)
	}
	outer, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	list, err := outer.IndexManifest()
	if err != nil || len(list.Manifests) != 1 {
		t.Fatalf("index.json has %v, %v; want one index", list, err)
	}
	index, err := outer.ImageIndex(list.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if list, err = index.IndexManifest(); err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Manifests {
		if m.Platform.OS == "linux" && m.Platform.Architecture == runtime.GOARCH {
			img, err := index.Image(m.Digest)
			if err != nil {
				t.Fatal(err)
			}
			return img
		}
	}
	t.Fatalf("there is no image for %s in %v", runtime.GOARCH, list.Manifests)
	return nil
}

// unpackImage makes a root of the image's files.
func unpackImage(t *testing.T, img v1.Image) string {
	t.Helper()
	root, err := os.MkdirTemp("/var/tmp", "trysail-machine-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	files := mutate.Extract(img)
	defer files.Close()
	tar := exec.CommandContext(t.Context(), "tar", "-x", "-C", root)
	tar.Stdin = files
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("unpacking the image: %v\n%s", err, out)
	}
	return root
}

// The image, as the first and only thing on a machine: pods run, end when it is told to stop, and come back.
func TestImage_RunsPodsAndEndsThem(t *testing.T) {
	img := imageOf(t, one(t, releases.new, "*_oci.tar"))
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	root := unpackImage(t, img)
	argv := append(config.Config.Entrypoint, config.Config.Cmd...)
	m := bootMachine(t, root, argv...)
	ready(t, m)
	putHello(t, m)
	s := deployHello(t, m)
	before := pods(t, m)

	stopped := time.Now()
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	t.Logf("stopped after %.1f s", time.Since(stopped).Seconds())
	if left := webProcesses(t, m); len(left) > 0 {
		t.Errorf("there still are %q", left)
	}

	m = bootMachine(t, root, argv...)
	ready(t, m)
	s.addr = m.addr
	s.answers(t)
	if after := pods(t, m); fmt.Sprint(before) == fmt.Sprint(after) {
		t.Errorf("the pods %q outlived their machine", after)
	}
	if out := m.client(t, "logs", "hello"); strings.Count(out, "signal") == 0 && strings.Count(out, "terminated") == 0 {
		t.Logf("logs:\n%s", out)
	}
}

// ready waits until the server in a machine answers.
func ready(t *testing.T, m *machine) {
	t.Helper()
	err := kit.Until(t.Context(), 2*time.Minute, func() error {
		out, err := m.run(t.Context(), "/usr/bin/trysail", "doctor")
		if err == nil && !strings.Contains(out, "healthy at") {
			err = errors.New(out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// privileged are the flags that let a container run others. Where this process itself lacks a capability, as root of a
// machine in a sandbox does, Docker refuses --privileged; then they are what it stands for, as far as it can be given.
func privileged(t *testing.T) []string {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "CapEff:")
	have, err := strconv.ParseUint(strings.Fields(after)[0], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	const sysResource = 24 // of capability.h
	if have&(1<<sysResource) != 0 {
		return []string{"--privileged"}
	}
	t.Log("this machine cannot give a container CAP_SYS_RESOURCE, so it is run with all that --privileged stands for but that")
	flags := []string{
		"--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined", "--security-opt", "systempaths=unconfined",
		"--device-cgroup-rule", "a *:* rwm",
	}
	for _, c := range []string{"SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH", "SYS_CHROOT", "IPC_LOCK", "SYS_NICE", "SYSLOG", "SYS_MODULE", "MAC_ADMIN", "MAC_OVERRIDE", "LINUX_IMMUTABLE"} {
		flags = append(flags, "--cap-add", c)
	}
	return flags
}

// openCgroups makes the control groups of a container writable, as --privileged does. It is this program, started again:
// a thread that has joined a mount namespace is of no use for anything else.
func openCgroups(pid int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), openVariable+"="+strconv.Itoa(pid))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("making control groups writable: %w: %s", err, out)
	}
	return nil
}

const openVariable = "TRYSAIL_TEST_OPEN_CGROUPS"

// openIfAsked is that program.
func openIfAsked() {
	pid, found := os.LookupEnv(openVariable)
	if !found {
		return
	}
	runtime.LockOSThread()
	if err := openCgroupsOf(pid); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func openCgroupsOf(pid string) error {
	ns, err := os.Open("/proc/" + pid + "/ns/mnt")
	if err != nil {
		return err
	}
	defer ns.Close()
	mounts, err := os.ReadFile("/proc/" + pid + "/mountinfo")
	if err = errors.Join(err, unix.Unshare(unix.CLONE_FS), unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS)); err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if dir := strings.Fields(line)[4]; strings.HasPrefix(dir, "/sys/fs/cgroup/") {
			err = errors.Join(err, unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT, ""))
		}
	}
	return err
}

// The image under docker run --privileged, loaded with docker load.
func TestImage_InDocker(t *testing.T) {
	archive := one(t, releases.new, "*_oci.tar")
	dir, err := os.MkdirTemp("/var/tmp", "trysail-docker-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	bridge := fmt.Sprintf("trsd%d", os.Getpid()%100000)
	docker, err := kit.StartDocker(t.Context(), dir, kit.DockerOptions{Bridge: bridge, Address: fmt.Sprintf("10.232.%d.1/24", os.Getpid()%256)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := docker.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	run := func(args ...string) string {
		t.Helper()
		out, err := docker.Run(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	run("load", "--input", archive)
	image := "trysail:" + strings.TrimPrefix(newVersion, "v") + "-" + runtime.GOARCH
	if out := run("run", "--rm", image, "version"); !strings.Contains(out, strings.TrimPrefix(newVersion, "v")) {
		t.Errorf("docker run %s version says %q", image, out)
	}
	began := time.Now()
	flags := privileged(t)
	id := run(append([]string{"run", "--detach", "--name", "trysail", "--volume", "trysail:/var/lib/trysail"}, append(flags, image)...)...)
	m := &machine{name: id}
	look := func() {
		t.Helper()
		m.pid, err = strconv.Atoi(run("inspect", "--format", "{{.State.Pid}}", id))
		if err != nil {
			t.Fatal(err)
		}
		if flags[0] != "--privileged" {
			if err := openCgroups(m.pid); err != nil {
				t.Fatal(err)
			}
		}
		m.root, m.addr = fmt.Sprintf("/proc/%d/root", m.pid), run("inspect", "--format", "{{.NetworkSettings.IPAddress}}", id)
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, err := docker.Run(context.Background(), "logs", id)
			t.Logf("docker logs: %v\n%s", err, out)
		}
		_, _ = docker.Run(context.Background(), "rm", "--force", "--volumes", id)
	})
	look()
	ready(t, m)
	putHello(t, m)
	s := deployHello(t, m)
	t.Logf("from docker run to the first HTTPS answer: %.1f s", time.Since(began).Seconds())
	if out := run("exec", id, "trysail", "doctor"); !strings.Contains(out, "healthy at") {
		t.Errorf("docker exec trysail doctor:\n%s", out)
	}
	run("stop", "--time", "60", id)
	if status := run("inspect", "--format", "{{.State.ExitCode}}", id); status != "0" {
		t.Errorf("after docker stop the exit status is %s", status)
	}
	run("start", id)
	look()
	ready(t, m)
	s.addr = m.addr
	s.answers(t)
}
