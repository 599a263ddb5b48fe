package diagnose

import (
	"cmp"
	"fmt"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/diagnose/lastwords"
)

// outOfMemory is about a container whose first process was killed for want of memory.
func (p podCase) outOfMemory(s trysail.ContainerStatus) (finding, bool) {
	own, pod := p.counters(s.Name), p.e.Cgroup
	killed := s.OOMKilled || own.OOMKills > 0 || pod != nil && pod.OOMKills > 0 && p.onlyEnd(s)
	if s.ExitCode != exitKill || !killed {
		return finding{}, false // the machine counts kills in other pods as well: they say nothing of this one
	}
	// The counters of a cgroup count kills by the machine's want too; only the limit's own counter tells the two apart.
	peak := int64(0)
	if pod != nil {
		peak = max(pod.Peak, own.Peak)
	}
	if peak > 0 && peak < pod.Limit*9/10 && pod.LimitHits == 0 && own.LimitHits == 0 && p.machineOOM() > 0 {
		return p.machineMemory(s, pod), true
	}
	if f, ok := p.sibling(s); ok {
		return f, true
	}
	f := finding{code: "MEM-OOM", confidence: trysail.Certain}
	if len(p.Deployment.Containers) > 1 && own.Sampled {
		f.confidence = trysail.Likely // another container may have used it up
	}
	limit := p.memoryLimit()
	f.summary = fmt.Sprintf("Container %s was killed after %s because the node's %s (power %s) were used up.", s.Name, lived(s), megabytes(limit), p.Power)
	f.fix = memoryFix(p.Power)
	p.proveMemory(&f, s.Name)
	return f, true
}

// onlyEnd reports whether s is the only container that a kill has ended.
func (p podCase) onlyEnd(s trysail.ContainerStatus) bool {
	for _, o := range p.e.Containers {
		if o.Name != s.Name && o.State == trysail.ContainerExited && o.ExitCode == exitKill {
			return false
		}
	}
	return true
}

// counters are those of a container; zero if they were not read.
func (p podCase) counters(container string) trysail.CgroupCounters {
	if c := p.e.Details[container].Cgroup; c != nil {
		return *c
	}
	return trysail.CgroupCounters{}
}

// machineOOM is how many processes the machine killed for want of memory during the pod's life.
func (p podCase) machineOOM() int64 {
	if p.e.Machine == nil {
		return 0
	}
	return p.e.Machine.OOMKills
}

func (p podCase) memoryLimit() int64 {
	if p.e.Cgroup != nil && p.e.Cgroup.Limit > 0 {
		return p.e.Cgroup.Limit
	}
	return p.Power.Limits().Memory
}

func megabytes(n int64) string { return fmt.Sprintf("%d MB", n>>20) }

// machineMemory is about the machine's own want of memory.
func (p podCase) machineMemory(s trysail.ContainerStatus, pod *trysail.CgroupCounters) finding {
	f := finding{code: "MEM-HOST", confidence: trysail.Certain}
	f.summary = fmt.Sprintf("The machine itself ran out of memory and killed container %s, which was within its limit of %s.", s.Name, megabytes(pod.Limit))
	f.fix = "Run fewer or smaller services on this machine, or give it more memory or swap."
	f.prove("counter", "the pod's memory: at most %s of %s; its limit was never reached", size(pod.Peak), size(pod.Limit))
	f.prove("machine", "%d processes were killed for want of memory on the machine", p.machineOOM())
	if m := p.e.Machine; m != nil && m.MemoryTotal > 0 {
		f.prove("machine", "%s of %s are free", size(m.MemoryFree), size(m.MemoryTotal))
	}
	return f
}

// sibling is about a container that was killed because another one had used up the pod's memory.
func (p podCase) sibling(s trysail.ContainerStatus) (finding, bool) {
	limit := p.memoryLimit()
	own := p.usedMost(s.Name)
	if limit <= 0 || own <= 0 {
		return finding{}, false
	}
	eater, most := "", int64(0)
	for _, name := range p.Deployment.ContainerNames() {
		if used := p.usedMost(name); name != s.Name && used > most {
			eater, most = name, used
		}
	}
	if most < limit/2 || most < 2*own {
		return finding{}, false
	}
	f := finding{code: "MEM-SIBLING", confidence: trysail.Certain, container: eater}
	f.summary = fmt.Sprintf("Container %s used %s of the node's %s (power %s); %s was the one that was killed.", eater, megabytes(most), megabytes(limit), p.Power, s.Name)
	f.fix = fmt.Sprintf("Make %s use less memory, run it as a service of its own, or choose a larger power.", eater)
	if p.counters(s.Name).Sampled {
		f.confidence = trysail.Likely // what they used at that moment is not known
	}
	p.proveMemory(&f, s.Name)
	p.proveMemory(&f, eater)
	return f, true
}

// usedMost is the most memory that a container was seen to use, 0 if unknown.
func (p podCase) usedMost(container string) int64 {
	c := p.counters(container)
	return cmp.Or(c.Peak, c.Memory)
}

func (p podCase) proveMemory(f *finding, container string) {
	c := p.counters(container)
	pod := p.e.Cgroup
	if c.Sampled {
		f.prove("counter", "container %s: %s of memory when its node last measured it, %d processes killed for want of it at least", container, size(c.Memory), c.OOMKills)
		return
	}
	if used := p.usedMost(container); used > 0 {
		f.prove("counter", "container %s: at most %s of memory, %d processes killed for want of it", container, size(used), c.OOMKills)
	}
	if pod != nil && !pod.Sampled {
		f.prove("counter", "pod: at most %s of %s, limit reached %d times, %d processes killed", size(pod.Peak), size(pod.Limit), pod.LimitHits, pod.OOMKills)
	}
}

// childOutOfMemory is about a container that ended by itself after one of its other processes had been killed.
func (p podCase) childOutOfMemory(s trysail.ContainerStatus) (finding, bool) {
	own := p.counters(s.Name)
	if own.OOMKills == 0 {
		return finding{}, false
	}
	f := finding{code: "MEM-OOM", confidence: trysail.Likely}
	f.summary = fmt.Sprintf("A child process of container %s was killed because the node's %s (power %s) were used up; then the container exited with code %d.", s.Name, megabytes(p.memoryLimit()), p.Power, s.ExitCode)
	f.fix = memoryFix(p.Power)
	p.proveMemory(&f, s.Name)
	return f, true
}

// languageMemory is about a program whose own runtime gave up for want of memory.
func (p podCase) languageMemory(container string, fact lastwords.Fact, words lastwords.Words) finding {
	f := finding{code: "MEM-OOM", confidence: trysail.Likely}
	f.summary = fmt.Sprintf("Container %s ran out of memory%s. The node has %s (power %s).", container, lastSentence(words), megabytes(p.memoryLimit()), p.Power)
	f.fix = memoryFix(p.Power)
	switch fact.Name {
	case "node":
		f.fix = fmt.Sprintf("Let Node use what the node has: NODE_OPTIONS=--max-old-space-size=%d. If that is not enough: %s", p.memoryLimit()>>20*3/4, f.fix)
	case "java":
		f.fix = "Let Java use what the node has: JAVA_TOOL_OPTIONS=-XX:MaxRAMPercentage=75 instead of a fixed -Xmx. If that is not enough: " + f.fix
	case "php":
		f.fix = "Raise memory_limit in php.ini. If that is not enough: " + f.fix
	case "gunicorn":
		f.fix = "Start fewer workers (--workers). If that is not enough: " + f.fix
	}
	p.proveMemory(&f, container)
	return f
}

func memoryFix(power trysail.Power) string {
	all := trysail.Powers()
	for i, s := range all {
		if s.Name != power {
			continue
		}
		for _, next := range all[i+1:] {
			if next.RAMGB > s.RAMGB {
				return fmt.Sprintf("Give the service more memory (power %s), or make the program use less (--max-old-space-size, -Xmx, GOMEMLIMIT).", next.Name)
			}
		}
	}
	return "Make the program use less memory (--max-old-space-size, -Xmx, GOMEMLIMIT)."
}

const (
	// crawl is the share of its life that a pod may wait for memory before that is called the cause.
	crawl = 0.3
	// throttled is the share of its periods in which a pod may use up its CPU before that is called the cause, and
	// throttledFor how many periods (of 100 ms) it takes to tell.
	throttled    = 0.5
	throttledFor = 50
	// overloaded is how many processes for each CPU want to run on a machine that counts as busy.
	overloaded = 2.0
)

// stalled is the share of the pod's life in which all of it waited for memory.
func (p podCase) stalled() (share float64, of time.Duration) {
	life := p.life()
	if p.e.Cgroup == nil || life < 5*time.Second {
		return 0, life
	}
	return float64(p.e.Cgroup.MemoryStall) / float64(life), life
}

// life is how long the pod has been there.
func (p podCase) life() time.Duration {
	at := p.e.At
	switch {
	case !at.IsZero():
	case p.TookTooLong:
		return p.Window
	default:
		return 0
	}
	began := p.rec.CreatedAt
	for _, s := range p.e.Containers {
		if !s.StartedAt.IsZero() && s.StartedAt.After(began) {
			began = s.StartedAt
		}
	}
	return max(0, at.Sub(began))
}

// memoryCrawl is about a pod that did hardly anything but wait for memory.
func (p podCase) memoryCrawl() (f finding, ok bool) {
	share, life := p.stalled()
	if share < crawl {
		return f, false
	}
	f = finding{code: "MEM-CRAWL", confidence: trysail.Certain, rank: rankTime}
	f.summary = fmt.Sprintf("It spent %.0f %% of its %s waiting for memory (%s, power %s).", min(share, 1)*100, span(life), megabytes(p.memoryLimit()), p.Power)
	f.fix = memoryFix(p.Power)
	f.prove("counter", "all processes waited for memory for %s", span(p.e.Cgroup.MemoryStall))
	return f, true
}

// cpuThrottle is about a pod that used up its share of the CPU nearly all the time.
func (p podCase) cpuThrottle() (f finding, ok bool) {
	c := p.e.Cgroup
	if c == nil || c.Periods < throttledFor || float64(c.ThrottledPeriods) < throttled*float64(c.Periods) {
		return p.busyMachine()
	}
	spec, _ := p.Power.Spec()
	f = finding{code: "CPU-THROTTLE", confidence: trysail.Likely, rank: rankTime}
	f.summary = fmt.Sprintf("It was held back in %d %% of the time on %.4g vCPU (power %s), and was still starting.", c.ThrottledPeriods*100/c.Periods, spec.VCPU, p.Power)
	f.fix = "Choose a larger power, or give it more time (--activation-timeout)."
	f.prove("counter", "held back in %d of %d periods, %s in all; %s of CPU used", c.ThrottledPeriods, c.Periods, span(c.Throttled), span(c.CPU))
	return f, true
}

// busyMachine is about a pod that used what CPU it could get, on a machine on which that was far less than its share.
func (p podCase) busyMachine() (f finding, ok bool) {
	c, m, life := p.e.Cgroup, p.machine(), p.life()
	if c == nil || m == nil || m.CPUs == 0 || c.CPU < time.Second || m.Load < overloaded*float64(m.CPUs) {
		return f, false
	}
	if fair := float64(m.CPUs) / m.Load * float64(life); float64(c.CPU) < throttled*fair {
		return f, false // it did not want more
	}
	f = finding{code: "CPU-THROTTLE", confidence: trysail.Likely, rank: rankTime}
	f.summary = fmt.Sprintf("The machine was busy (load %.1f on %d CPUs): the pod got %s of CPU in %s, and was still starting.", m.Load, m.CPUs, span(c.CPU), span(life))
	f.fix = "Run fewer services on this machine, choose a larger power, or give it more time (--activation-timeout)."
	f.prove("machine", "load %.1f on %d CPUs; %s of CPU used", m.Load, m.CPUs, span(c.CPU))
	return f, true
}
