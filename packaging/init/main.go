// Command trysail-init is the first program of the OCI image. It starts trysail and does what an init has to do where
// there is none: it makes control groups that pods can be put below, takes in processes whose parents have ended, and when
// trysail has ended it asks the pods to end, too, as they cannot outlive the container that they run in.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	program = "/usr/bin/trysail"
	// podStop is how long pods may take to end. Docker waits for 10 s unless it is told otherwise, all in all.
	podStop = 30 * time.Second
)

func main() {
	status, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "trysail-init:", err)
		status = max(status, 1)
	}
	os.Exit(status)
}

func run(args []string) (status int, err error) {
	if os.Getpid() != 1 || len(args) == 0 || args[0] != "serve" {
		// There is another init, or nothing that has to be looked after.
		return 1, syscall.Exec(program, append([]string{program}, args...), os.Environ()) //nolint:gosec // the arguments are the user's
	}
	if err := errors.Join(prepareRun("/run"), prepareCgroups("/sys/fs/cgroup")); err != nil {
		return 1, fmt.Errorf("preparing the container (is it run with --privileged?): %w", err)
	}
	status, err = supervise(args)
	return status, errors.Join(err, endPods("/proc", podStop))
}

// prepareRun makes the folder one that is empty at every start, as it is on a machine.
func prepareRun(dir string) error {
	var own, parent syscall.Stat_t
	if err := errors.Join(syscall.Stat(dir, &own), syscall.Stat(filepath.Dir(dir), &parent)); err != nil {
		return err
	}
	if own.Dev != parent.Dev {
		return nil // it is a mount already
	}
	return os.NewSyscallError("mounting "+dir, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=0755"))
}

// prepareCgroups moves all processes into a cgroup of their own. On cgroup v2 one that has processes cannot pass its
// controllers on, and that of the container has us.
func prepareCgroups(root string) error {
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); errors.Is(err, fs.ErrNotExist) {
		return nil // cgroup v1
	}
	leaf := filepath.Join(root, "init")
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // as all cgroups have it
		return err
	}
	procs, err := os.ReadFile(filepath.Join(root, "cgroup.procs")) //nolint:gosec // a file of the kernel
	if err != nil {
		return err
	}
	for pid := range strings.FieldsSeq(string(procs)) {
		// One that has ended meanwhile is no loss.
		err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(pid), 0o600)
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

// supervise runs trysail until it ends. Signals go on to it. It returns its exit status.
func supervise(args []string) (int, error) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGCHLD)
	defer signal.Stop(signals)
	cmd := exec.CommandContext(context.Background(), program, args...) //nolint:gosec // the arguments are the user's
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	for {
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if pid == cmd.Process.Pid {
				if status.Signaled() {
					return 128 + int(status.Signal()), nil
				}
				return status.ExitStatus(), nil
			}
			if pid <= 0 || err != nil {
				break
			}
		}
		if s := <-signals; s != syscall.SIGCHLD {
			_ = cmd.Process.Signal(s) // it may be ending
		}
	}
}

// endPods sends SIGTERM to the first process of each pod's containers, and waits until all have ended.
func endPods(proc string, limit time.Duration) error {
	end := time.Now().Add(limit)
	asked := map[int]bool{}
	for {
		firsts, err := firstProcesses(proc)
		if err != nil || len(firsts) == 0 {
			return err
		}
		for _, pid := range firsts {
			if !asked[pid] {
				_ = syscall.Kill(pid, syscall.SIGTERM)
				asked[pid] = true
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("pods did not end within %v of SIGTERM: processes %v", limit, firsts)
		}
		var status syscall.WaitStatus
		_, _ = syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		time.Sleep(10 * time.Millisecond)
	}
}

// pause is the program that holds a pod's namespaces. It does nothing, and does not end when it is asked to.
const pause = "/pause\x00"

// firstProcesses lists the processes that are the first of a PID namespace below ours, zombies and pauses left out.
func firstProcesses(proc string) ([]int, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		status, err := os.ReadFile(filepath.Join(proc, e.Name(), "status")) //nolint:gosec // a file of the kernel
		if err != nil || !isFirst(string(status)) {
			continue
		}
		args, err := os.ReadFile(filepath.Join(proc, e.Name(), "cmdline")) //nolint:gosec // likewise
		if err == nil && string(args) != pause {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func isFirst(status string) bool {
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		switch {
		case key == "State" && len(fields) > 0 && fields[0] == "Z":
			return false
		case key == "NSpid":
			return len(fields) > 1 && fields[len(fields)-1] == "1"
		}
	}
	return false
}
