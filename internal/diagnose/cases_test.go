package diagnose_test

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/diagnose"
)

// testCase is one broken version with its verdict.
type testCase struct {
	name       string
	change     func(*diagnose.Input, *trysail.PodEvidence)
	code       trysail.DiagnosisCode
	confidence trysail.Confidence
	container  string
	says       string // in the summary
	fix        string // in the fix
	also       trysail.DiagnosisCode
}

// input is a version whose only pod runs and is refused by the health check, with nothing else known.
func input() (diagnose.Input, *trysail.PodEvidence) {
	e := &trysail.PodEvidence{
		At: t0.Add(5 * time.Minute), LogTail: map[string][]string{},
		Containers: []trysail.ContainerStatus{
			{Name: "db", State: trysail.ContainerRunning, StartedAt: t0},
			{Name: "web", State: trysail.ContainerRunning, StartedAt: t0},
		},
		Health:  trysail.TargetHealth{Probes: 9, Last: trysail.Probe{Error: "connection refused"}},
		Details: map[string]trysail.ContainerEvidence{},
	}
	return diagnose.Input{
		Deployment: deployment(), Power: trysail.PowerNano, TookTooLong: true, Window: 5 * time.Minute, Version: &trysail.DeploymentEvidence{},
		Pods: []trysail.PodRecord{{ID: "p1", Version: 3, CreatedAt: t0, Failed: true, Evidence: e}},
	}, e
}

// ends makes a container end.
func ends(e *trysail.PodEvidence, name string, code int, after time.Duration, log ...string) *trysail.ContainerStatus {
	for i := range e.Containers {
		if c := &e.Containers[i]; c.Name == name {
			c.State, c.ExitCode, c.FinishedAt = trysail.ContainerExited, code, t0.Add(after)
			e.LogTail[name] = log
			return c
		}
	}
	return nil
}

func answers(e *trysail.PodEvidence, p trysail.Probe) { e.Health.Last = p }

func listens(e *trysail.PodEvidence, list ...string) {
	e.Listeners = []trysail.Listener{}
	for _, l := range list {
		e.Listeners = append(e.Listeners, trysail.Listener{Address: netip.MustParseAddrPort(l), Process: "node"})
	}
}

func image(code trysail.DiagnosisCode, final bool, err error) func(*diagnose.Input, *trysail.PodEvidence) {
	return func(in *diagnose.Input, _ *trysail.PodEvidence) {
		in.Pods, in.Image = nil, &trysail.ImageError{Code: code, Image: "shop:2", Message: "The message.", Fix: "The fix.", Final: final, Err: err}
	}
}

func autopsy(code trysail.DiagnosisCode, how trysail.Confidence) trysail.Autopsy {
	return trysail.Autopsy{Findings: []trysail.Finding{{Code: code, Confidence: how, Summary: "What the image says.", Fix: "What to do.", Evidence: []trysail.Evidence{{Kind: "image", Text: "bytes"}}}}}
}

func examined(code trysail.DiagnosisCode, startError string) func(*diagnose.Input, *trysail.PodEvidence) {
	return func(in *diagnose.Input, e *trysail.PodEvidence) {
		in.Version.Autopsies = map[string]trysail.Autopsy{"web": autopsy(code, trysail.Certain)}
		c := ends(e, "web", 128, 0)
		if c.StartError = startError; startError == "" {
			c.ExitCode = 255
			e.LogTail["web"] = []string{"exec /app: no such file or directory"}
		}
	}
}

// presumed is what an image says that was looked at without the machine that runs it.
func presumed(code trysail.DiagnosisCode, line, startError string) func(*diagnose.Input, *trysail.PodEvidence) {
	return func(in *diagnose.Input, e *trysail.PodEvidence) {
		a := autopsy(code, trysail.Certain)
		a.Presumed = true
		in.Version.Autopsies = map[string]trysail.Autopsy{"web": a}
		c := ends(e, "web", 128, 0)
		if c.StartError = startError; startError == "" {
			c.ExitCode = 255
		}
		if line != "" {
			e.LogTail["web"] = []string{line}
		}
	}
}

// refused is a health check that nobody takes.
func refused(e *trysail.PodEvidence) { answers(e, trysail.Probe{Error: "connection refused"}) }

const mb = 1 << 20

func cases() []testCase {
	return []testCase{
		{"malformed name", image("IMG-NAME", true, nil), "IMG-NAME", trysail.Certain, "web", "The message.", "The fix.", ""},
		{"no repository", image("IMG-REPO", true, errors.New("404")), "IMG-REPO", trysail.Certain, "web", "", "", ""},
		{"no tag", image("IMG-TAG", true, nil), "IMG-TAG", trysail.Certain, "web", "", "", ""},
		{"not registered", image("IMG-LOCAL", true, nil), "IMG-LOCAL", trysail.Certain, "web", "", "", ""},
		{"login", image("IMG-AUTH", true, nil), "IMG-AUTH", trysail.Certain, "web", "", "", ""},
		{"rate", image("IMG-RATE", false, nil), "IMG-RATE", trysail.Certain, "web", "", "", ""},
		{"name of the registry", image("IMG-DNS", false, nil), "IMG-DNS", trysail.Certain, "web", "", "", ""},
		{"registry refuses", image("IMG-NET", false, syscall.ECONNREFUSED), "IMG-NET", trysail.Certain, "web", "", "", ""},
		{"registry has a fault", image("IMG-NET", false, errors.New("odd")), "IMG-NET", trysail.Likely, "web", "", "", ""},
		{"certificate", image("IMG-TLS", false, nil), "IMG-TLS", trysail.Certain, "web", "", "", ""},
		{"platform", image("IMG-ARCH", true, nil), "IMG-ARCH", trysail.Certain, "web", "", "", ""},
		{"disk", image("IMG-DISK", false, nil), "IMG-DISK", trysail.Certain, "web", "", "", ""},
		{"damaged", image("IMG-CORRUPT", false, nil), "IMG-CORRUPT", trysail.Likely, "web", "", "", ""},
		{"slow pull", image("IMG-SLOW", false, nil), "IMG-SLOW", trysail.Likely, "web", "", "", ""},
		{"stored pull failure", func(in *diagnose.Input, _ *trysail.PodEvidence) {
			in.Pods, in.Version.Pull = nil, &trysail.PullFailure{Image: "redis:7", Code: "IMG-TAG", Message: "No tag.", Fix: "Pick one.", Final: true, Text: "404"}
		}, "IMG-TAG", trysail.Certain, "db", "No tag.", "Pick one.", ""},

		{"connections are neither taken nor refused", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			listens(e, "0.0.0.0:8080")
			answers(e, trysail.Probe{Error: "no connection within 2s"})
		}, "UNKNOWN", trysail.Likely, "web", "neither takes nor refuses", "firewall", ""},
		{"connections pile up", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			listens(e, "0.0.0.0:8080")
			answers(e, trysail.Probe{Error: "no connection within 2s"})
			e.Probes = trysail.Transcript{}.Add(trysail.Probe{Error: "timed out after 2s"}).Add(e.Health.Last)
		}, "HC-SLOW", trysail.Likely, "web", "does not accept", "stuck", ""},
		{"registry silent until the end", func(in *diagnose.Input, _ *trysail.PodEvidence) {
			in.Pods, in.Deployment.Digests = nil, map[string]string{"redis:7": "sha256:1"}
		}, "IMG-NET", trysail.Likely, "web", "had not answered", "firewall", ""},
		{"pull until the end", func(in *diagnose.Input, _ *trysail.PodEvidence) {
			in.Pods, in.Deployment.Digests = nil, map[string]string{"redis:7": "sha256:1", "shop:2": "sha256:2"}
		}, "IMG-SLOW", trysail.Likely, "", "still being pulled", "--activation-timeout", ""},

		{"program for another processor", examined("IMG-BIN-ARCH", ""), "IMG-BIN-ARCH", trysail.Certain, "web", "What the image says.", "", ""},
		{"no file", examined("RUN-NOFILE", `exec: "/x": stat /x: no such file or directory`), "RUN-NOFILE", trysail.Certain, "web", "", "", ""},
		{"one word", examined("RUN-ONEWORD", "exec"), "RUN-ONEWORD", trysail.Certain, "web", "", "", ""},
		{"Windows line ends", examined("RUN-CRLF", ""), "RUN-CRLF", trysail.Certain, "web", "", "", ""},
		{"Windows line ends, from the log", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 127, time.Second, "/usr/bin/env: ‘node\\r’: No such file or directory")
		}, "RUN-CRLF", trysail.Likely, "web", "`node`", "sed", ""},
		{"no #!", examined("RUN-NOSHEBANG", ""), "RUN-NOSHEBANG", trysail.Certain, "web", "", "", ""},
		{"no loader", examined("RUN-LOADER", ""), "RUN-LOADER", trysail.Certain, "web", "", "", ""},
		{"no library", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 127, time.Second, "/app: error while loading shared libraries: libpq.so.5: cannot open shared object file: No such file or directory")
		}, "RUN-LOADER", trysail.Likely, "web", "libpq.so.5", "Install", ""},
		{"not executable", examined("RUN-PERM", `exec: "/x": permission denied`), "RUN-PERM", trysail.Certain, "web", "", "", ""},
		{"user", examined("RUN-USER", "unable to find user x"), "RUN-USER", trysail.Certain, "web", "", "", ""},
		{"user without passwd", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 128, 0).StartError = "lstat etc: file does not exist"
		}, "RUN-USER", trysail.Certain, "web", "USER", "numeric", ""},
		{"working directory", examined("RUN-WORKDIR", "mkdir /x: not a directory"), "RUN-WORKDIR", trysail.Certain, "web", "", "", ""},
		{"working directory, from the runtime", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 128, 0).StartError = `mkdir /app/x: not a directory`
		}, "RUN-WORKDIR", trysail.Certain, "web", "WORKDIR", "", ""},
		{"no command", examined("RUN-NOCMD", "no command specified"), "RUN-NOCMD", trysail.Certain, "web", "", "", ""},
		{"systemd in the image", func(in *diagnose.Input, e *trysail.PodEvidence) {
			in.Version.Autopsies = map[string]trysail.Autopsy{"web": autopsy("RUN-SYSTEMD", trysail.Likely)}
			ends(e, "web", 255, time.Second, "Failed to mount cgroup at /sys/fs/cgroup/systemd: Operation not permitted")
		}, "RUN-SYSTEMD", trysail.Certain, "web", "", "", ""},
		{"systemd without privileges", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 255, time.Second, "Failed to mount tmpfs at /run: Operation not permitted", "[!!!!!!] Failed to mount API filesystems.", "Exiting PID 1...")
		}, "RUN-SYSTEMD", trysail.Likely, "web", "whole machine", "", ""},
		{"full disk, so that not even the log could be written", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 1, time.Second)
			e.Machine = &trysail.MachineState{DiskTotal: 8192 * mb, DiskPath: "/var/lib/trysail"}
		}, "FS-FULL", trysail.Likely, "web", "disk is full", "Remove files", ""},
		{"process limit, and words of something else", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 2, time.Second, "goroutine 4173 [syscall, locked to thread]:")
			e.Cgroup = &trysail.CgroupCounters{ProcessLimit: 4096, ProcessLimitHits: 3}
		}, "PIDS", trysail.Likely, "web", "4096", "fewer", ""},
		{"systemd in the log", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 1, time.Second, "System has not been booted with systemd as init system (PID 1). Can't operate.")
		}, "RUN-SYSTEMD", trysail.Likely, "web", "whole machine", "ExecStart", ""},
		{"variable removed", func(in *diagnose.Input, e *trysail.PodEvidence) {
			in.Previous = deployment()
			in.Previous.Version = 2
			in.Previous.Containers["web"] = trysail.Container{Image: "shop:1", Environment: map[string]string{"DATABASE_URL": "x"}}
			ends(e, "web", 1, time.Second, "Traceback (most recent call last):", `  File "/app/main.py", line 3, in <module>`, "KeyError: 'DATABASE_URL'")
		}, "RUN-ENV", trysail.Likely, "web", "it was set in version 2", "Restore DATABASE_URL", ""},
		{"variable empty", func(in *diagnose.Input, e *trysail.PodEvidence) {
			in.Deployment.Containers["web"] = trysail.Container{Image: "shop:2", Environment: map[string]string{"API_TOKEN": ""}, Ports: in.Deployment.Containers["web"].Ports}
			ends(e, "web", 1, time.Second, "API_TOKEN is required")
		}, "RUN-ENV", trysail.Likely, "web", "API_TOKEN is empty", "value", ""},
		{"secret", func(in *diagnose.Input, _ *trysail.PodEvidence) {
			in.Version.Missing = []trysail.Missing{{Kind: "secret", Name: "stripe", Container: "web"}}
		}, "RUN-SECRET", trysail.Certain, "web", "`stripe`", "", ""},
		{"volume", func(in *diagnose.Input, _ *trysail.PodEvidence) {
			in.Version.Missing = []trysail.Missing{{Kind: "volume", Name: "data", Container: "db"}}
		}, "RUN-MOUNT", trysail.Certain, "db", "`data`", "", ""},
		{"runtime", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			e.Containers, e.StartError = nil, "can't get final child's PID from pipe: EOF"
		}, "RUN-RUNTIME", trysail.Certain, "", "CAP_SYS_RESOURCE", "doctor", ""},

		{"exit code", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 1, time.Second, "/app/x.js:1", "", "Error: boom", "    at Object.<anonymous> (/app/x.js:1:7)", "    at node:internal/main/run_main_module:28:49", "", "Node.js v20.20.2")
		}, "EXIT-CODE", trysail.Certain, "web", "it last said: Error: boom", "x.js:1", ""},
		{"module missing", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 1, time.Second, "Error: Cannot find module 'express'", "Require stack:", "- /app/x.js", "    at Module._load (node:internal/modules/cjs/loader:1038:27)", "Node.js v20.20.2")
		}, "EXIT-CODE", trysail.Certain, "web", "Cannot find module 'express'", "`express` is not in the image", ""},
		{"command missing", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 127, time.Second, "sh: 1: gunicorn: not found")
		}, "RUN-NOFILE", trysail.Likely, "web", "`gunicorn` is not in the image", "Install", ""},
		{"finished", func(_ *diagnose.Input, e *trysail.PodEvidence) { ends(e, "web", 0, time.Second, "done") }, "EXIT-ZERO", trysail.Certain, "web", "has to keep running", "foreground", ""},
		{"forked, seen", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 0, time.Second)
			e.Details["web"] = trysail.ContainerEvidence{Daemons: []string{"nginx"}}
		}, "EXIT-FORKED", trysail.Certain, "web", "`nginx` in the background", "foreground", ""},
		{"forked, known", func(in *diagnose.Input, e *trysail.PodEvidence) {
			in.Deployment.Containers["web"] = trysail.Container{Image: "shop:2", Command: []string{"pm2", "start", "x.js"}, Ports: in.Deployment.Containers["web"].Ports}
			ends(e, "web", 0, time.Second)
		}, "EXIT-FORKED", trysail.Likely, "web", "pm2", "pm2-runtime", ""},
		{"illegal instruction", func(_ *diagnose.Input, e *trysail.PodEvidence) { ends(e, "web", 132, time.Second) }, "EXIT-SIGNAL", trysail.Certain, "web", "newer processor", "x86-64-v1", ""},
		{"killed by somebody", func(_ *diagnose.Input, e *trysail.PodEvidence) { ends(e, "web", 137, time.Second) }, "EXIT-SIGNAL", trysail.Certain, "web", "SIGKILL", "Trysail did not", ""},
		{"out of memory", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 137, 3*time.Second).OOMKilled = true
			e.Cgroup = &trysail.CgroupCounters{OOMKills: 1, LimitHits: 9, Peak: 512 * mb, Limit: 512 * mb}
		}, "MEM-OOM", trysail.Certain, "web", "512 MB (power nano)", "micro", ""},
		{"out of memory, by the counter alone", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 137, 3*time.Second)
			e.Cgroup = &trysail.CgroupCounters{OOMKills: 1, LimitHits: 9, Peak: 512 * mb, Limit: 512 * mb}
		}, "MEM-OOM", trysail.Certain, "web", "used up", "", ""},
		{"Node's heap", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 134, 3*time.Second, "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory")
		}, "MEM-OOM", trysail.Likely, "web", "heap out of memory", "--max-old-space-size=384", ""},
		{"a child was killed", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 5, 3*time.Second, "worker died")
			e.Details["web"] = trysail.ContainerEvidence{Cgroup: &trysail.CgroupCounters{OOMKills: 1}}
		}, "MEM-OOM", trysail.Likely, "web", "child process", "", ""},
		{"a child was killed and it ended well", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 0, 3*time.Second)
			e.Details["web"] = trysail.ContainerEvidence{Cgroup: &trysail.CgroupCounters{OOMKills: 1}}
		}, "EXIT-ZERO", trysail.Certain, "web", "", "", "MEM-OOM"},
		{"sibling", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 137, 3*time.Second).OOMKilled = true
			e.Details["web"] = trysail.ContainerEvidence{Cgroup: &trysail.CgroupCounters{OOMKills: 1, Peak: 60 * mb}}
			e.Details["db"] = trysail.ContainerEvidence{Cgroup: &trysail.CgroupCounters{Peak: 410 * mb}}
		}, "MEM-SIBLING", trysail.Certain, "db", "db used 410 MB of the node's 512 MB (power nano); web was the one", "larger power", ""},
		{"the machine", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 137, 3*time.Second)
			e.Cgroup = &trysail.CgroupCounters{OOMKills: 1, Peak: 90 * mb, Limit: 512 * mb}
			e.Machine = &trysail.MachineState{OOMKills: 3, MemoryTotal: 2048 * mb, MemoryFree: 20 * mb}
		}, "MEM-HOST", trysail.Certain, "web", "The machine itself", "fewer", ""},
		{"crawling", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			listens(e)
			e.Cgroup = &trysail.CgroupCounters{MemoryStall: 3 * time.Minute, Limit: 512 * mb}
		}, "MEM-CRAWL", trysail.Certain, "web", "60 %", "micro", ""},
		{"throttled", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			listens(e)
			e.Cgroup = &trysail.CgroupCounters{Periods: 3000, ThrottledPeriods: 2900, Throttled: 4 * time.Minute}
		}, "CPU-THROTTLE", trysail.Likely, "web", "96 % of the time on 0.25 vCPU", "power", ""},
		{"busy on a busy machine", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			listens(e)
			e.Cgroup = &trysail.CgroupCounters{Periods: 3000, ThrottledPeriods: 30, CPU: 20 * time.Second}
			e.Machine = &trysail.MachineState{CPUs: 2, Load: 24}
		}, "CPU-THROTTLE", trysail.Likely, "web", "load 24.0 on 2 CPUs", "fewer services", ""},
		{"idle on a busy machine", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			listens(e)
			e.Cgroup = &trysail.CgroupCounters{Periods: 3000, CPU: 2 * time.Second}
			e.Machine = &trysail.MachineState{CPUs: 2, Load: 24}
		}, "NET-NOLISTEN", trysail.Certain, "web", "", "", ""},
		{"processes", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 1, time.Second, "RuntimeError: can't start new thread")
			e.Cgroup = &trysail.CgroupCounters{ProcessLimit: 512, ProcessLimitHits: 4}
		}, "PIDS", trysail.Certain, "web", "512 processes", "fewer", ""},
		{"processes, from the log", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 1, time.Second, "/start.sh: fork: Resource temporarily unavailable")
		}, "PIDS", trysail.Likely, "web", "", "", ""},
		{"files", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 1, time.Second, "accept4: too many open files")
			e.Details["web"] = trysail.ContainerEvidence{OpenFiles: 1024, FileLimit: 1024}
		}, "FILES", trysail.Certain, "web", "1024", "ulimit", ""},
		{"read-only", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 1, time.Second, "OSError: [Errno 30] Read-only file system: '/app/cache'")
		}, "FS-RO", trysail.Likely, "web", "`/app/cache`", "temporary", ""},
		{"disk full", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 1, time.Second, "write /data/x: no space left on device")
			e.Machine = &trysail.MachineState{DiskPath: "/var/lib/trysail", DiskTotal: 20 << 30, DiskFree: 4096}
		}, "FS-FULL", trysail.Certain, "web", "disk is full", "trysail images", ""},
		{"dependency, measured", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 1, time.Second, "Error: getaddrinfo ENOTFOUND postgres", "    at GetAddrInfoReqWrap.onlookupall (node:dns:122:26)", "Node.js v20")
			e.Reaches = []trysail.Reach{{Host: "postgres", Result: trysail.ReachUnresolved}}
			e.LogTail["db"] = nil
		}, "DEP-DOWN", trysail.Certain, "web", "does not resolve", "service.local", ""},
		{"dependency that is a neighbor", func(in *diagnose.Input, e *trysail.PodEvidence) {
			in.Version.Neighbors = []trysail.Neighbor{{Service: "postgres", Ports: []int{5432}}}
			ends(e, "web", 1, time.Second, `could not translate host name "postgres" to address: Name or service not known`)
		}, "DEP-DOWN", trysail.Likely, "web", "postgres", "postgres.service.local", ""},
		{"container of the pod by name", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 1, time.Second, "Error 111 connecting to db:6379. Connection refused.")
		}, "DEP-DOWN", trysail.Likely, "web", "on localhost, not by name", "localhost:6379", ""},
		{"localhost", func(in *diagnose.Input, e *trysail.PodEvidence) {
			in.Version.Neighbors = []trysail.Neighbor{{Service: "pg", Ports: []int{5432}}}
			ends(e, "web", 1, time.Second, "dial tcp 127.0.0.1:5432: connect: connection refused")
			e.Reaches = []trysail.Reach{{Host: "127.0.0.1", Port: 5432, Result: trysail.ReachRefused}}
		}, "DEP-LOCAL", trysail.Certain, "web", "service pg has it at pg.service.local:5432", "pg.service.local:5432", ""},
		{"waits for a dependency", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			listens(e)
			e.LogTail["web"] = []string{"retrying", "dial tcp 10.0.0.9:5432: connect: connection refused"}
			e.Reaches = []trysail.Reach{{Host: "10.0.0.9", Port: 5432, Result: trysail.ReachRefused}}
		}, "DEP-DOWN", trysail.Certain, "web", "10.0.0.9:5432", "", ""},

		{"nothing listens", func(_ *diagnose.Input, e *trysail.PodEvidence) { listens(e) }, "NET-NOLISTEN", trysail.Certain, "web", "nothing in the pod listens", "0.0.0.0:8080", ""},
		{"only the other container listens", func(in *diagnose.Input, e *trysail.PodEvidence) {
			in.Deployment.Containers["db"] = trysail.Container{Image: "redis:7", Ports: map[string]trysail.Protocol{"6379": trysail.ProtocolTCP}}
			listens(e, "0.0.0.0:6379")
		}, "NET-NOLISTEN", trysail.Certain, "web", "container web listens on no TCP port", "", ""},
		{"wrong port", func(_ *diagnose.Input, e *trysail.PodEvidence) { listens(e, "127.0.0.1:9229", "0.0.0.0:3000") }, "NET-WRONGPORT", trysail.Certain, "web", "port 8080, but the pod listens on port 3000", `"containerPort": 3000`, ""},
		{"loopback", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			listens(e, "127.0.0.1:8080")
			e.LogTail["web"] = []string{"INFO:     Uvicorn running on http://127.0.0.1:8080 (Press CTRL+C to quit)"}
		}, "NET-LOOPBACK", trysail.Certain, "web", "127.0.0.1:8080", "--host 0.0.0.0", ""},
		{"tried: taken inside, refused outside", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			refused(e)
			e.Knocks = []trysail.Knock{{Port: 8080, Outside: trysail.ReachRefused, Inside: trysail.ReachOK}}
		}, "NET-LOOPBACK", trysail.Certain, "web", "127.0.0.1:8080 or [::1]:8080", "0.0.0.0:8080", ""},
		{"tried: says it listens inside, which may not be tried", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			refused(e)
			e.LogTail["web"] = []string{"listening on http://127.0.0.1:8080"}
			e.Knocks = []trysail.Knock{{Port: 8080, Outside: trysail.ReachRefused}}
		}, "NET-LOOPBACK", trysail.Likely, "web", "says that it listens on 127.0.0.1:8080", "0.0.0.0:8080", ""},
		{"tried: speaks of the inside, where it is refused", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			refused(e)
			e.LogTail["web"] = []string{"server will be at http://127.0.0.1:8080 soon"}
			e.Knocks = []trysail.Knock{{Port: 8080, Outside: trysail.ReachRefused, Inside: trysail.ReachRefused}}
		}, "NET-NOLISTEN", trysail.Likely, "web", "", "", ""},
		{"tried: another port of the only container", func(in *diagnose.Input, e *trysail.PodEvidence) {
			delete(in.Deployment.Containers, "db")
			refused(e)
			e.Knocks = []trysail.Knock{{Port: 8080, Outside: trysail.ReachRefused, Inside: trysail.ReachRefused, Container: "web"}, {Port: 3000, Outside: trysail.ReachOK, Container: "web"}}
		}, "NET-WRONGPORT", trysail.Certain, "web", "port 3000", `"containerPort": 3000`, ""},
		{"tried: another port, of whichever container", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			refused(e)
			e.Knocks = []trysail.Knock{{Port: 8080, Outside: trysail.ReachRefused, Inside: trysail.ReachRefused}, {Port: 3000, Outside: trysail.ReachOK}}
		}, "NET-WRONGPORT", trysail.Likely, "web", "port 3000", `"containerPort": 3000`, ""},
		{"tried: another port, that only the inside reaches", func(in *diagnose.Input, e *trysail.PodEvidence) {
			delete(in.Deployment.Containers, "db")
			refused(e)
			e.Knocks = []trysail.Knock{{Port: 8080, Outside: trysail.ReachRefused, Inside: trysail.ReachRefused, Container: "web"}, {Port: 3000, Outside: trysail.ReachTimeout, Inside: trysail.ReachOK, Container: "web"}}
		}, "NET-WRONGPORT", trysail.Certain, "web", "port 3000", `"containerPort": 3000`, ""},
		{"tried: nothing", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			refused(e)
			e.Knocks = []trysail.Knock{{Port: 8080, Outside: trysail.ReachRefused, Inside: trysail.ReachRefused}, {Port: 3000, Outside: trysail.ReachRefused, Inside: trysail.ReachRefused}}
		}, "NET-NOLISTEN", trysail.Likely, "web", "port 8080", "", ""},
		{"tried: nothing, and it has no socket", func(in *diagnose.Input, e *trysail.PodEvidence) {
			in.TookTooLong = true
			refused(e)
			e.Details = map[string]trysail.ContainerEvidence{"web": {NoSocketsAt: e.At.Add(-9 * time.Second)}}
			e.Knocks = []trysail.Knock{{Port: 8080, Outside: trysail.ReachRefused, Inside: trysail.ReachRefused}}
		}, "NET-NOLISTEN", trysail.Certain, "web", "no socket at all", "", ""},
		{"tried: nothing, and it has no socket, but is at work", func(in *diagnose.Input, e *trysail.PodEvidence) {
			in.TookTooLong = true
			refused(e)
			e.Details = map[string]trysail.ContainerEvidence{"web": {NoSocketsAt: e.At.Add(-9 * time.Second)}}
			e.Cgroup = &trysail.CgroupCounters{Sampled: true, CPU: 40 * time.Second}
			e.Knocks = []trysail.Knock{{Port: 8080, Outside: trysail.ReachRefused, Inside: trysail.ReachRefused}}
		}, "NET-NOLISTEN", trysail.Likely, "web", "no socket at all", "", ""},
		{"tried: it answered before", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			e.Probes = trysail.Transcript(nil).Add(trysail.Probe{At: t0.Add(5 * time.Second), Status: 503})
			refused(e)
			e.Knocks = []trysail.Knock{{Port: 8080, Outside: trysail.ReachRefused, Inside: trysail.ReachRefused}}
		}, "NET-NOLISTEN", trysail.Certain, "web", "stopped listening: port 8080 answered until 12:00:05", "", ""},
		{"presumed: no loader, and the start failed of that", presumed("RUN-LOADER", "exec /app: no such file or directory", ""), "RUN-LOADER", trysail.Certain, "web", "What the image says.", "", ""},
		{"presumed: no loader, and it ended without a word", presumed("RUN-LOADER", "", ""), "RUN-LOADER", trysail.Likely, "web", "What the image says.", "", ""},
		{"presumed: no loader, and it ran", presumed("RUN-LOADER", "listening", ""), "EXIT-CODE", trysail.Certain, "web", "code 255", "", "RUN-LOADER"},
		{"presumed: a directory, refused by the runtime", presumed("RUN-NOFILE", "", `exec: "/srv": permission denied`), "RUN-NOFILE", trysail.Certain, "web", "What the image says.", "", ""},
		{"presumed: a directory, and the runtime fails of something else", presumed("RUN-NOFILE", "", "unable to apply apparmor profile"), "RUN-RUNTIME", trysail.Certain, "web", "", "", ""},
		{"sampled: killed beside another container", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 137, 3*time.Second).OOMKilled = true
			e.Details = map[string]trysail.ContainerEvidence{"web": {Cgroup: &trysail.CgroupCounters{Sampled: true, OOMKills: 1}}}
		}, "MEM-OOM", trysail.Likely, "web", "", "", ""},
		{"sampled: another container had the memory", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 137, 30*time.Second).OOMKilled = true
			e.Details = map[string]trysail.ContainerEvidence{
				"web": {Cgroup: &trysail.CgroupCounters{Sampled: true, OOMKills: 1, Memory: 60 * mb}}, "db": {Cgroup: &trysail.CgroupCounters{Sampled: true, Memory: 400 * mb}},
			}
		}, "MEM-SIBLING", trysail.Likely, "db", "400 MB", "", ""},
		{"sampled: a child was killed", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 5, 3*time.Second)
			e.Details = map[string]trysail.ContainerEvidence{"web": {Cgroup: &trysail.CgroupCounters{Sampled: true, OOMKills: 1}}}
		}, "MEM-OOM", trysail.Likely, "web", "A child process", "", ""},
		{"a node cannot unpack the image", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			e.StartError = trysail.StartNoImage + `failed to pull and unpack image "x": failed to extract layer sha256:1: archive/tar: invalid tar header`
		}, "IMG-CORRUPT", trysail.Likely, "", "unpack", "push", ""},
		{"port in use", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 1, time.Second, "listen tcp :8080: bind: address already in use")
			e.Sockets = trysail.SocketHistory{{Listener: trysail.Listener{Address: netip.MustParseAddrPort("0.0.0.0:8080"), Process: "redis", Container: "db"}}}
		}, "NET-INUSE", trysail.Certain, "web", "db and web both want port 8080", "another port", ""},
		{"low port", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 1, time.Second, "2026/11/21 12:00:00 [emerg] 1#1: bind() to 0.0.0.0:80 failed (13: Permission denied)")
		}, "NET-LOWPORT", trysail.Likely, "web", "80", "8080", ""},
		{"TLS on a plain port", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			answers(e, trysail.Probe{Error: `not HTTP: "\x15\x03\x01\x00\x02\x02F"`})
		}, "NET-PROTO", trysail.Certain, "web", "TLS", `"8080": "HTTPS"`, ""},
		{"TLS server that says so", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			answers(e, trysail.Probe{Status: 400, Body: "Client sent an HTTP request to an HTTPS server."})
		}, "NET-PROTO", trysail.Certain, "web", "TLS", "HTTPS", ""},
		{"plain on a TLS port", func(_ *diagnose.Input, e *trysail.PodEvidence) { answers(e, trysail.Probe{Error: `not TLS: "HTTP/"`}) }, "NET-PROTO", trysail.Certain, "web", "does not speak TLS", `"HTTP"`, ""},
		{"gRPC", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			answers(e, trysail.Probe{Error: `not HTTP: "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05"`})
		}, "NET-PROTO", trysail.Certain, "web", "HTTP/2", "HTTP/1.1", ""},
		{"closes", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			answers(e, trysail.Probe{Error: "closed without an answer"})
		}, "NET-PROTO", trysail.Likely, "web", "closes them", "", ""},
		{"redirect", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			answers(e, trysail.Probe{Status: 301, Location: "https://shop.example.com/"})
		}, "HC-REDIRECT", trysail.Certain, "web", "https://shop.example.com/", "X-Forwarded-Proto", ""},
		{"redirect to a path", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			answers(e, trysail.Probe{Status: 302, Location: "/login"})
		}, "HC-REDIRECT", trysail.Certain, "web", "/login", `"path": "/login"`, ""},
		{"login page", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			answers(e, trysail.Probe{Status: 401})
			e.Trials = []trysail.Trial{{Path: "/health", Result: trysail.ProbeOutcome{Kind: trysail.ProbeAnswer, OK: true, Status: 200}}}
		}, "HC-AUTH", trysail.Certain, "web", "login (status 401); the success codes are 200; GET /health answers 200", `"path": "/health"`, ""},
		{"other path", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			answers(e, trysail.Probe{Status: 404})
			e.Trials = []trysail.Trial{{Path: "/up", Result: trysail.ProbeOutcome{Kind: trysail.ProbeAnswer, OK: true, Status: 200}}}
		}, "HC-404", trysail.Certain, "web", "GET /up answers 200", `"path": "/up"`, ""},
		{"host", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			answers(e, trysail.Probe{Status: 400})
			e.Trials = []trysail.Trial{{Host: "shop.example.com", Result: trysail.ProbeOutcome{Kind: trysail.ProbeAnswer, OK: true, Status: 200}}}
		}, "HC-HOST", trysail.Certain, "web", "`shop.example.com`", "ALLOWED_HOSTS", ""},
		{"host, from the answer", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			answers(e, trysail.Probe{Status: 403, Body: "Blocked host: 10.88.0.5"})
		}, "HC-HOST", trysail.Certain, "web", "refuses the Host header", "", ""},
		{"error of the app", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			answers(e, trysail.Probe{Status: 500, Body: "no db"})
			e.LogTail["web"] = []string{"dial tcp 10.0.0.9:5432: connect: connection refused"}
		}, "HC-5XX", trysail.Certain, "web", "500: no db", "", "DEP-DOWN"},
		{"odd status", func(_ *diagnose.Input, e *trysail.PodEvidence) { answers(e, trysail.Probe{Status: 418}) }, "HC-STATUS", trysail.Certain, "web", "418", "418", ""},
		{"slow answer", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			answers(e, trysail.Probe{Error: "timed out after 2s"})
			listens(e, "0.0.0.0:8080")
			e.Trials = []trysail.Trial{{}, {Timeout: 15 * time.Second, Result: trysail.ProbeOutcome{Kind: trysail.ProbeAnswer, OK: true, Status: 200, Took: 4200 * time.Millisecond}}}
		}, "HC-SLOW", trysail.Certain, "web", "answers in 4.2s; the timeout is 2 s", `"timeoutSeconds": 6`, ""},
		{"came up after the window", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			e.Trials = []trysail.Trial{{Result: trysail.ProbeOutcome{Kind: trysail.ProbeAnswer, OK: true, Status: 200, Last: e.At.Add(3 * time.Second)}}}
		}, "HC-NOTYET", trysail.Certain, "web", "3s after the window", "activation-timeout", ""},
		{"began to listen late", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			listens(e, "0.0.0.0:8080")
			e.Sockets = trysail.SocketHistory{}.See(e.At.Add(-2*time.Second), e.Listeners)
		}, "HC-NOTYET", trysail.Likely, "web", "2s before the window", "", ""},
		{"flapping", func(in *diagnose.Input, e *trysail.PodEvidence) {
			in.Pods[0].HealthyAt = t0.Add(10 * time.Second)
			e.Health.Since = t0.Add(30 * time.Second)
			answers(e, trysail.Probe{Status: 503})
		}, "HC-FLAP", trysail.Certain, "web", "Healthy for 20s, then: GET / fails with status 503", "", ""},

		{"endpoint of no container", func(in *diagnose.Input, _ *trysail.PodEvidence) { in.Deployment.PublicEndpoint.ContainerName = "api" }, "CFG-ENDPOINT", trysail.Certain, "api", "`api`", "", ""},
		{"endpoint of no port", func(in *diagnose.Input, _ *trysail.PodEvidence) { in.Deployment.PublicEndpoint.ContainerPort = 81 }, "CFG-ENDPOINT", trysail.Certain, "web", "81", `"ports": {"81": "HTTP"}`, ""},
		{"no room", func(in *diagnose.Input, _ *trysail.PodEvidence) {
			in.Pods, in.Version.Room = nil, &trysail.Room{Needed: trysail.Limits{Memory: 4 << 30}, Free: trysail.Limits{Memory: 700 * mb}, Later: trysail.Limits{Memory: 1 << 30}}
		}, "CAP-NOFIT", trysail.Certain, "", "700 MB", "smaller", ""},
		{"no room beside the other", func(in *diagnose.Input, _ *trysail.PodEvidence) {
			in.Pods, in.Version.Room = nil, &trysail.Room{Needed: trysail.Limits{Memory: 1 << 30}, Free: trysail.Limits{Memory: 700 * mb}, Later: trysail.Limits{Memory: 2 << 30}}
		}, "CAP-SURGE", trysail.Certain, "", "Alone it would fit", "downtime", ""},
		{"restarted", func(in *diagnose.Input, e *trysail.PodEvidence) {
			in.Version.RestartedAt, e.Lost = t0.Add(time.Minute), true
		}, "NODE-LOST", trysail.Certain, "", "restarted at 12:01:00", "", ""},
		{"lost", func(_ *diagnose.Input, e *trysail.PodEvidence) { e.Lost = true }, "NODE-LOST", trysail.Likely, "", "disappeared", "", ""},
		{"lost while a container was started", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			ends(e, "web", 128, 0).StartError = "failed to create containerd task: failed to create shim task: ttrpc: closed"
		}, "NODE-LOST", trysail.Likely, "", "disappeared", "", ""},
		{"canceled", func(in *diagnose.Input, e *trysail.PodEvidence) {
			in.Version.CanceledBy, in.Version.CanceledAt = "ci", t0
			ends(e, "web", 1, time.Second)
		}, "USER-CANCEL", trysail.Certain, "", "Canceled by `ci`", "", ""},
		{"replaced", func(in *diagnose.Input, _ *trysail.PodEvidence) { in.Version.ReplacedBy = 12 }, "SUPERSEDED", trysail.Certain, "", "version 12", "", ""},
		{"nothing known", func(_ *diagnose.Input, e *trysail.PodEvidence) {
			listens(e, "0.0.0.0:8080")
			answers(e, trysail.Probe{Error: "strange"})
			e.LogTail["web"] = []string{"something odd happened"}
		}, "UNKNOWN", trysail.Likely, "web", "something odd happened", "", ""},
	}
}

func TestDiagnose_EveryCode(t *testing.T) {
	seen := map[trysail.DiagnosisCode]bool{}
	for _, tc := range cases() {
		t.Run(tc.name, func(t *testing.T) {
			in, e := input()
			tc.change(&in, e)
			d := diagnose.Diagnose(in)
			seen[d.Code] = true
			if d.Code != tc.code || d.Confidence != tc.confidence || d.ContainerName != tc.container {
				t.Errorf("got %s (%s) of container %q, want %s (%s) of %q", d.Code, d.Confidence, d.ContainerName, tc.code, tc.confidence, tc.container)
			}
			if !strings.Contains(d.Summary, tc.says) || !strings.Contains(d.Fix, tc.fix) || d.Fix == "" || len(d.Evidence) == 0 {
				t.Errorf("summary %q\nfix %q\nevidence %q", d.Summary, d.Fix, d.Evidence)
			}
			also := trysail.DiagnosisCode("")
			for _, f := range d.Also {
				also = f.Code
			}
			if also != tc.also {
				t.Errorf("also %+v, want %q", d.Also, tc.also)
			}
		})
	}
	for _, tc := range warningCases() {
		seen[tc.code] = true
	}
	for _, g := range diagnose.Codes() {
		for _, c := range g.Codes {
			if !seen[c.Code] {
				t.Errorf("no case for %s", c.Code)
			}
		}
	}
}

type warningCase struct {
	code   trysail.DiagnosisCode
	change func(*diagnose.Input, *trysail.PodEvidence)
	says   string
	fix    string
}

func warningCases() []warningCase {
	ours := []netip.Addr{netip.MustParseAddr("198.51.100.4")}
	return []warningCase{
		{"HC-DEFAULT", func(in *diagnose.Input, e *trysail.PodEvidence) {
			in.Deployment.PublicEndpoint.HealthCheck.SuccessCodes = "200-499"
			answers(e, trysail.Probe{OK: true, Status: 404})
		}, "404 counts as success", "successCodes"},
		{"DRAIN-KILL", func(in *diagnose.Input, e *trysail.PodEvidence) {
			in.Version.Autopsies = map[string]trysail.Autopsy{"web": {Shell: true}}
			e.Stop = &trysail.StopEvidence{AskedAt: t0, Grace: 10 * time.Second, Killed: []string{"web"}, Cut: 3}
		}, "3 requests were cut", "`exec`"},
		{"CERT-DNS", func(in *diagnose.Input, _ *trysail.PodEvidence) {
			in.Version.Domains = []trysail.Domain{{Name: "shop.example.com", PointsTo: []netip.Addr{netip.MustParseAddr("203.0.113.9")}, Ours: ours}}
		}, "points to 203.0.113.9; this machine is 198.51.100.4", "shop.example.com. A 198.51.100.4"},
		{"CERT-CAA", func(in *diagnose.Input, _ *trysail.PodEvidence) {
			in.Version.Domains = []trysail.Domain{{Name: "shop.example.com", PointsTo: ours, Ours: ours, CAA: []string{"digicert.com"}, Issuer: "letsencrypt.org"}}
		}, "digicert.com only", `issue "letsencrypt.org"`},
		{"CERT-80", func(in *diagnose.Input, _ *trysail.PodEvidence) {
			in.Version.Domains = []trysail.Domain{{Name: "shop.example.com", PointsTo: ours, Ours: ours, Port80: trysail.ReachTimeout}}
		}, "Port 80 of 198.51.100.4", "Open port 80"},
	}
}

func TestWarnings(t *testing.T) {
	for _, tc := range warningCases() {
		in, e := input()
		in.Pods[0].Failed = false
		tc.change(&in, e)
		list := diagnose.Warnings(in)
		if len(list) != 1 || list[0].Code != tc.code || list[0].Confidence != trysail.Certain || !strings.Contains(list[0].Summary, tc.says) || !strings.Contains(list[0].Fix, tc.fix) {
			t.Errorf("%s: %+v", tc.code, list)
		}
	}
	in, e := input()
	answers(e, trysail.Probe{OK: true, Status: 404})
	in.Deployment.PublicEndpoint.HealthCheck.SuccessCodes = "200,404"
	if list := diagnose.Warnings(in); len(list) > 0 {
		t.Errorf("a code that was asked for is a warning: %+v", list)
	}
}
