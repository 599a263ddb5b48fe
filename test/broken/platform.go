package broken

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/test/corpus"
	"github.com/trysail/trysail/test/kit"
)

// platform are deployments that the machine or a person puts an end to.
func platform() []corpus.Case {
	return []corpus.Case{
		{Name: "cfg-endpoint", Deployment: corpus.Web("serve").At(corpus.Endpoint{Port: 80}), Outcome: corpus.Refused, Code: "CFG-ENDPOINT", Says: "port", Quick: true},
		{Name: "cfg-container", Deployment: corpus.Web("serve").At(corpus.Endpoint{Container: "api"}), Outcome: corpus.Refused, Code: "CFG-ENDPOINT", Says: "api", Quick: true},
		{Name: "cap-nofit", Deployment: corpus.Web("serve"), Power: "xlarge", Scale: 20, Outcome: corpus.Refused, Code: "CAP-NOFIT", Says: "memory", Quick: true},
		{Name: "user-cancel", Before: good(), Deployment: corpus.Web("sleep 1h"), Code: "USER-CANCEL", Container: "-", Confidence: certain, Act: cancel, Quick: true},
		surge(),
		{Name: "drain-kill", Before: deaf(), Deployment: *good(), Outcome: corpus.Works, Warning: "DRAIN-KILL", WarnsBefore: true, Answer: "misbehave is well"},
		{Name: "unknown", Deployment: corpus.Web("sleep 1s", "serve"), Code: "UNKNOWN", Says: "neither takes nor refuses", Fix: "firewall", Confidence: likely, Act: cutOff},
		{Name: "node-lost", Deployment: corpus.Web("sleep 1h"), Code: "NODE-LOST", Container: "-", Act: killSandboxes, Confidence: likely},
	}
}

func cancel(ctx context.Context, r *corpus.Run) error {
	time.Sleep(time.Second)
	_, err := r.On.Run(ctx, "cancel", r.Service)
	return err
}

// surge is a service that fits on the machine once, and not twice.
func surge() corpus.Case {
	c := corpus.Case{
		Name: "cap-surge", Before: good(), Deployment: *good(), Outcome: corpus.Refused, Place: corpus.SmallDisk, Code: "CAP-SURGE", Says: "beside",
		Miss: "the room beside the version before is not looked at yet",
	}
	memory := corpus.MachineMemory()
	powers := trysail.Powers()
	for _, p := range slices.Backward(powers) {
		if scale := memory * 7 / 10 / p.Name.Limits().Memory; scale >= 1 {
			c.Power, c.Scale = string(p.Name), int32(min(scale, 20))
			break
		}
	}
	return c
}

// deaf is a version that works and does not end when it is told to.
func deaf() *corpus.Deployment {
	d := corpus.Web("deaf", "serve")
	return &d
}

// cutOff takes the network away from the case's pods, as a careless firewall does.
func cutOff(ctx context.Context, r *corpus.Run) error {
	return repeat(ctx, r, func() error {
		procs, err := kit.Processes(func(p kit.Proc) bool { return p.Args[0] == "/pause" && r.Owns(p) })
		for _, p := range procs {
			out, e := exec.CommandContext(ctx, "nsenter", "-t", fmt.Sprint(p.PID), "-n", "ip", "link", "set", "eth0", "down").CombinedOutput()
			if e != nil {
				err = errors.Join(err, fmt.Errorf("taking a pod's network away: %w: %s", e, out))
			}
		}
		return err
	})
}

// killAll kills the containers of the case that run a program with an argument, whenever one is there.
func killAll(argument string) func(context.Context, *corpus.Run) error {
	return func(ctx context.Context, r *corpus.Run) error {
		return repeat(ctx, r, func() error {
			return kill(func(p kit.Proc) bool { return slices.Contains(p.Args, argument) && r.Owns(p) })
		})
	}
}

// killSandboxes kills the first process of the case's pods, which holds their network, as a restart of the machine does.
func killSandboxes(ctx context.Context, r *corpus.Run) error {
	return repeat(ctx, r, func() error {
		return kill(func(p kit.Proc) bool { return p.Args[0] == "/pause" && r.Owns(p) })
	})
}

func kill(which func(kit.Proc) bool) error {
	procs, err := kit.Processes(which)
	for _, p := range procs {
		if e := syscall.Kill(p.PID, syscall.SIGKILL); e != nil && !errors.Is(e, syscall.ESRCH) {
			err = errors.Join(err, fmt.Errorf("killing %s: %w", p, e))
		}
	}
	return err
}

// repeat does something now and then until the version has settled.
func repeat(ctx context.Context, r *corpus.Run, do func() error) error {
	for {
		done, err := r.Settled(ctx)
		if done || err != nil {
			return err
		}
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := do(); err != nil {
			return err
		}
	}
}

// combined are deployments in which more than one thing happens. What came first is the cause.
func combined() []corpus.Case {
	return []corpus.Case{
		{Name: "both-fail", Deployment: corpus.Web("sleep 3s", "exit 4").With("worker", corpus.Steps("sleep 500ms", "cry no queue", "exit 7")), Container: "worker", Code: "EXIT-CODE", Says: "code 7", Confidence: certain, Quick: true},
		{Name: "both-fail-reverse", Deployment: corpus.Web("sleep 500ms", "cry no templates", "exit 4").With("worker", corpus.Steps("sleep 3s", "exit 7")), Code: "EXIT-CODE", Says: "code 4", Confidence: certain},
		{Name: "oom-beside-fine", Deployment: slowly(corpus.Web("sleep 10s", "serve")).With("worker", corpus.Steps("sleep 300ms", "alloc 700")), Container: "worker", Code: "MEM-OOM", Says: "worker", Confidence: certain, Quick: true},
		{Name: "bad-image-and-crash", Deployment: corpus.Web("exit 1").With("worker", corpus.Container{Image: "misbehave:none"}), Outcome: corpus.Refused, Code: "IMG-TAG", Says: "worker", Quick: true},
		{Name: "broken-image-and-crash", Deployment: corpus.Web("exit 1").With("worker", corpus.Container{Image: "armbinary:1"}), Container: "worker", Code: "IMG-BIN-ARCH", Confidence: certain, Quick: true},
		{
			Name: "crash-follows", Deployment: corpus.Web("sleep 1s", "dial 127.0.0.1:6379", "serve").With("cache", corpus.Container{
				Image: "misbehave:1", Command: []string{"cry cannot read /etc/cache.conf: no such file or directory", "exit 2"}, Ports: map[string]string{"6379": "TCP"},
			}),
			Container: "cache", Code: "EXIT-CODE", Confidence: certain,
		},
		{Name: "noisy-sidecar", Deployment: corpus.Web("serve", "addr=127.0.0.1:8080").With("agent", corpus.Steps("retry 127.0.0.1:4317")), Code: "NET-LOOPBACK", Says: "127.0.0.1:8080", Confidence: certain},
		{Name: "words-and-port", Deployment: corpus.Web("cry panic: out of memory is what this line talks about", "serve", "addr=:9000"), Code: "NET-WRONGPORT", Says: "9000", Confidence: certain},
		{Name: "crash-after-switch", Before: good(), Deployment: corpus.Web("serve", ".", "sleep 5s", "cry lost the database", "exit 3"), Outcome: corpus.Crashes, Code: "EXIT-CODE", Says: "lost the database", Confidence: certain},
		{Name: "oom-after-switch", Deployment: corpus.Web("serve", ".", "sleep 5s", "alloc 700"), Outcome: corpus.Crashes, Code: "MEM-OOM", Fix: "micro", Confidence: certain},
		{Name: "two-nodes", Deployment: corpus.Web("cry no license", "exit 5"), Scale: 2, Code: "EXIT-CODE", Says: "no license", Confidence: certain},
		{Name: "over-a-good-one", Deployment: corpus.Web("cry bad migration", "exit 5"), Before: good(), Code: "EXIT-CODE", Says: "bad migration", Confidence: certain},
	}
}
