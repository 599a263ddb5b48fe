package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// runNode is the first process of a node, in namespaces of its own. It ends when one of the node's programs does.
func runNode(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: cluster node N TRYSAIL HYPERKUBE")
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(nodeName(n))); err != nil {
		return err
	}
	if err := mountNode(place(nodeName(n))); err != nil {
		return err
	}
	// The supervisor says when the network is there.
	if line, _ := bufio.NewReader(os.Stdin).ReadString('\n'); strings.TrimSpace(line) != "go" {
		return errors.New("the supervisor has ended")
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return err
	}
	return runPrograms(n, args[1], args[2])
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := syscall.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", source, target, err)
	}
	return nil
}

// kernelSettings are what a kubelet insists on. It would change them for the whole machine, so it gets files in their
// place.
var kernelSettings = map[string]string{"kernel/panic": "10", "kernel/panic_on_oops": "1", "vm/overcommit_memory": "1", "vm/panic_on_oom": "0"}

// mountNode gives the node file systems of its own where programs insist on certain paths.
func mountNode(home string) error {
	errs := []error{
		mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""),
		mount("run", "/run", "tmpfs", 0, "mode=755"), // it vanishes with the node, as on a reboot
		os.MkdirAll("/run/groups", 0o755),
		mount("/sys/fs/cgroup", "/run/groups", "", syscall.MS_BIND|syscall.MS_REC, ""),
		mount("sysfs", "/sys", "sysfs", 0, ""), // one that shows the devices of this network
		mount("/run/groups", "/sys/fs/cgroup", "", syscall.MS_MOVE, ""),
		mount("proc", "/proc", "proc", 0, ""),
	}
	for name, value := range kernelSettings {
		file := "/run/settings/" + name
		errs = append(errs, writeFile(file, value+"\n"), mount(file, "/proc/sys/"+name, "", syscall.MS_BIND, ""))
	}
	for _, path := range []string{"/var/lib/kubelet", "/var/log", "/var/lib/cni"} {
		own := home + path
		errs = append(errs, os.MkdirAll(own, 0o755), os.MkdirAll(path, 0o755), mount(own, path, "", syscall.MS_BIND, ""))
	}
	return errors.Join(errs...)
}

// runPrograms starts containerd, the kubelet and what enforces services and policies in the node's network, and waits for the children of all processes of the node.
func runPrograms(n int, trysail, hyperkube string) error {
	home := place(nodeName(n))
	programs := map[int]string{}
	start := func(name, program string, argv ...string) error {
		log, err := os.OpenFile(filepath.Join(home, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer log.Close()
		cmd := exec.Command(program)
		cmd.Args, cmd.Stdout, cmd.Stderr = argv, log, log
		if err := cmd.Start(); err != nil {
			return err
		}
		programs[cmd.Process.Pid] = name
		return nil
	}
	if err := start("containerd", trysail, "containerd", "--config", filepath.Join(home, "containerd.toml")); err != nil {
		return err
	}
	socket := filepath.Join(home, "c.sock")
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Now().After(end) {
			return errors.New("containerd does not come up")
		}
	}
	// Where a kubelet looks for the names of containers to count for; /run is the node's own.
	if err := errors.Join(os.MkdirAll("/run/containerd", 0o755), os.Symlink(socket, "/run/containerd/containerd.sock")); err != nil {
		return err
	}
	err := start("kubelet", hyperkube, "hyperkube", "kubelet", "--config", filepath.Join(home, "kubelet.yaml"),
		"--kubeconfig", place("pki", nodeName(n)+".kubeconfig"), "--hostname-override", nodeName(n), "--node-ip", nodeIP(n),
		"--root-dir", filepath.Join(home, "kubelet"), "--cert-dir", filepath.Join(home, "kubelet/pki"), "--v=2")
	if err != nil {
		return err
	}
	if err := start("kube-proxy", hyperkube, "hyperkube", "kube-proxy", "--config", filepath.Join(home, "proxy.yaml"), "--hostname-override", nodeName(n)); err != nil {
		return err
	}
	if err := start("policies", "/proc/self/exe", "cluster", "policies", nodeName(n)); err != nil {
		return err
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err != nil {
			return err
		}
		if name := programs[pid]; name != "" {
			return fmt.Errorf("%s ended with status %d, signal %d", name, status.ExitStatus(), status.Signal())
		}
	}
}
