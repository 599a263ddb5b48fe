package diagnose

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/diagnose/lastwords"
)

// unhealthy explains why a pod whose containers run did not become, or stay, healthy.
func (p podCase) unhealthy() finding {
	ep := p.Deployment.PublicEndpoint
	if ep == nil {
		f := finding{code: "UNKNOWN", rank: rankNone, summary: "The containers were running, but did not settle.", fix: "Look at the containers' logs."}
		for _, name := range p.Deployment.ContainerNames() {
			p.proveLog(&f, name)
		}
		return f
	}
	f := p.healthCause(ep)
	if f.container == "" {
		f.container = ep.ContainerName
	}
	f = p.flapped(f)
	p.proveProbes(&f, ep)
	for _, l := range p.e.Listeners {
		f.prove("socket", "%s", p.listenerText(l))
	}
	p.proveLog(&f, f.container)
	return f
}

// healthCause goes from answers to sockets to time.
func (p podCase) healthCause(ep *trysail.PublicEndpoint) finding {
	last := p.lastProbe()
	if f, ok := p.cameLate(ep); ok {
		return f
	}
	switch last.Kind() {
	case trysail.ProbeAnswer:
		return p.status(ep, last)
	case trysail.ProbeTLS, trysail.ProbeNotHTTP:
		return p.protocol(ep, last)
	case trysail.ProbeReset, trysail.ProbeEOF:
		if f, ok := p.cut(ep); ok {
			return f
		}
	default:
	}
	if f, ok := p.sockets(ep); ok {
		return f
	}
	switch last.Kind() {
	case trysail.ProbeTimeout:
		return p.slow(ep, last)
	case trysail.ProbeRefused:
		if f, ok := p.stuck(ep); ok {
			return f
		}
		if f, ok := p.starving(); ok {
			return f
		}
		f := finding{code: "NET-NOLISTEN", confidence: trysail.Likely, rank: rankSocket}
		f.summary = fmt.Sprintf("Nothing listens on port %d of container %s.", ep.ContainerPort, ep.ContainerName)
		f.fix = fmt.Sprintf("Make the program listen on 0.0.0.0:%d, or set containerPort to the port that it uses.", ep.ContainerPort)
		if at := p.e.Details[ep.ContainerName].NoSocketsAt; !at.IsZero() && p.e.At.Sub(at) < freshSockets && p.TookTooLong {
			if c, life := p.e.Cgroup, p.life(); c != nil && float64(c.CPU) > atWork*float64(life) {
				// It may be about to listen, on a node that has little time for it.
				f.prove("counter", "%s of CPU used in %s", span(c.CPU), span(life))
			} else {
				f.confidence = trysail.Certain
			}
			f.summary = fmt.Sprintf("After %s nothing listens on port %d of container %s: it had no socket at all.", p.Window, ep.ContainerPort, ep.ContainerName)
			f.prove("counter", "%s before the end the processes of container %s had no socket", span(p.e.At.Sub(at)), ep.ContainerName)
		}
		if k, tried := p.knock(ep.ContainerPort); tried {
			f.prove("socket", "port %d: %s", ep.ContainerPort, knockText(k))
			f.prove("socket", "%d further ports were tried, and none of them is one of this container", len(p.e.Knocks)-1)
		}
		return f
	case trysail.ProbeUnreachable:
		if f, ok := p.full(ep); ok {
			return f
		}
	default:
	}
	if f, ok := p.stuck(ep); ok {
		return f
	}
	f := finding{code: "UNKNOWN", rank: rankNone, fix: "The last health check and the container's log are below."}
	if last.Kind() == trysail.ProbeUnreachable {
		f.summary = fmt.Sprintf("Port %d of the pod neither takes nor refuses connections (%s): they are lost on the way, or the program drops them.", ep.ContainerPort, p.show(last.Error))
		f.fix = "Look for a firewall, in the container or on this machine; run `trysail doctor`."
		return f
	}
	f.summary = fmt.Sprintf("Container %s was running, but did not become healthy within %s%s.", ep.ContainerName, p.Window, lastSentence(p.words(ep.ContainerName)))
	return f
}

// freshSockets is how long a count of sockets is believed. Nodes of a cluster count every ten seconds or so.
const freshSockets = 20 * time.Second

// atWork is the share of its life for which a pod that has not begun to listen must have used a CPU to count as one that does
// something, instead of waiting.
const atWork = 0.1

// lastProbe is the newest outcome of the health check.
func (p podCase) lastProbe() trysail.Probe {
	if p.e.Health.Probes > 0 || len(p.e.Probes) == 0 {
		return p.e.Health.Last
	}
	o, _ := p.e.Probes.Newest()
	return trysail.Probe{At: o.Last, Took: o.Took, OK: o.OK, Status: o.Status, Location: o.Location, Body: o.Body, Error: o.Error}
}

// slow is about a port that takes connections and does not answer in time.
func (p podCase) slow(ep *trysail.PublicEndpoint, last trysail.Probe) finding {
	f := finding{code: "HC-SLOW", confidence: trysail.Certain, rank: rankHTTP}
	f.summary = fmt.Sprintf("Port %d accepts connections, but GET %s gives no answer within %d s.", ep.ContainerPort, p.show(ep.HealthCheck.Path), ep.HealthCheck.TimeoutSeconds)
	f.fix = "Raise healthCheck.timeoutSeconds, or give the health check a path that answers quickly."
	for _, t := range p.e.Trials {
		if t.Result.Kind == trysail.ProbeAnswer && t.Result.Took > time.Duration(ep.HealthCheck.TimeoutSeconds)*time.Second && t.Port == 0 {
			f.summary = fmt.Sprintf("GET %s answers in %s; the timeout is %d s.", p.show(ep.HealthCheck.Path), span(t.Result.Took), ep.HealthCheck.TimeoutSeconds)
			seconds := int(t.Result.Took/time.Second) + 2
			if seconds <= 60 {
				f.fix = fmt.Sprintf(`Set "healthCheck": {"timeoutSeconds": %d}, or give the health check a path that answers quickly.`, seconds)
			}
			p.proveTrial(&f, ep, t)
			return f
		}
	}
	if p.e.Listeners == nil && len(p.e.Sockets) == 0 {
		f.summary = fmt.Sprintf("GET %s on port %d gives no answer within %d s.", p.show(ep.HealthCheck.Path), ep.ContainerPort, ep.HealthCheck.TimeoutSeconds)
	}
	f.prove("probe", "%s", last.Error)
	return f
}

// full is about a port that took connections without answering, until it took no more of them.
func (p podCase) full(ep *trysail.PublicEndpoint) (finding, bool) {
	i := slices.IndexFunc(p.e.Probes, func(o trysail.ProbeOutcome) bool { return o.Kind == trysail.ProbeTimeout })
	if i < 0 {
		return finding{}, false
	}
	f := finding{code: "HC-SLOW", confidence: trysail.Likely, rank: rankHTTP}
	f.summary = fmt.Sprintf("Port %d took connections without answering within %d s, and now takes no more: the program does not accept them.", ep.ContainerPort, ep.HealthCheck.TimeoutSeconds)
	f.fix = "See in its log where the program is stuck; raise healthCheck.timeoutSeconds if it is only slow."
	f.prove("probe", "%s", p.show(p.e.Probes[i].Error))
	return f, true
}

// stuck is about a program that runs, listens nowhere it should, and says why.
func (p podCase) stuck(ep *trysail.PublicEndpoint) (finding, bool) {
	words := p.words(ep.ContainerName)
	for _, fact := range words.Facts {
		if !fact.Fatal || !words.Told && !isWaiting(fact.Kind) {
			continue
		}
		f, ok := p.factFinding(ep.ContainerName, fact, words)
		if !ok {
			continue
		}
		if r, measured := p.reach(fact); measured && r.Result == trysail.ReachOK {
			continue // it can be reached now, and the program still does not listen
		}
		f.rank = rankSocket
		return f, true
	}
	return finding{}, false
}

// isWaiting reports whether a program that meets with such a thing often goes on trying instead of ending.
func isWaiting(kind lastwords.Kind) bool {
	switch kind {
	case lastwords.Refused, lastwords.Unreached, lastwords.Unresolved, lastwords.PortInUse, lastwords.PortDenied, lastwords.MissingEnv:
		return true
	default:
		return false
	}
}

// cameLate is about a program that was healthy, or began to listen, when the window closed.
func (p podCase) cameLate(ep *trysail.PublicEndpoint) (finding, bool) {
	f := finding{code: "HC-NOTYET", rank: rankTime, fix: "Give it more time (--activation-timeout), or more CPU (a larger power)."}
	if !p.TookTooLong || !p.rec.HealthyAt.IsZero() {
		return f, false
	}
	for _, t := range p.e.Trials {
		if t.Result.OK && t.Port == 0 && t.Path == "" && t.Host == "" && t.Proto == "" && !t.TLS && t.Timeout == 0 {
			f.confidence = trysail.Certain
			f.summary = fmt.Sprintf("It came up %s after the window of %s had closed.", span(max(0, t.Result.Last.Sub(p.e.At))), p.Window)
			p.proveTrial(&f, ep, t)
			return f, true
		}
	}
	last := p.lastProbe()
	if last.OK && p.e.Health.Last.OK {
		f.confidence = trysail.Certain
		f.summary = fmt.Sprintf("It had just begun to pass its health check when the window of %s closed.", p.Window)
		f.prove("probe", "the newest health check passed with status %d", last.Status)
		return f, true
	}
	for _, s := range p.e.Sockets {
		began := p.life() - p.e.At.Sub(s.First)
		if int(s.Address.Port()) == ep.ContainerPort && !s.Address.Addr().IsLoopback() && !s.UDP && p.life() > 20*time.Second && began > p.life()*9/10 && last.Kind() != trysail.ProbeAnswer {
			f.confidence = trysail.Likely
			f.summary = fmt.Sprintf("It began to listen %s after its start, %s before the window of %s closed.", span(began), span(p.life()-began), p.Window)
			f.prove("socket", "%s", p.listenerText(s.Listener))
			return f, true
		}
	}
	return f, false
}

// flapped makes f the reason why a pod that was healthy is not any more.
func (p podCase) flapped(f finding) finding {
	healthy := time.Duration(0)
	switch {
	case !p.rec.HealthyAt.IsZero():
		end := p.e.Health.Since
		if end.Before(p.rec.HealthyAt) {
			end = p.e.At
		}
		healthy = end.Sub(p.rec.HealthyAt)
	default:
		for _, o := range p.e.Probes {
			if o.OK && o.Last.After(o.First) {
				healthy = o.Last.Sub(o.First)
			}
		}
		if p.e.Health.Last.OK || f.code == "HC-NOTYET" {
			healthy = 0
		}
	}
	if healthy <= 0 {
		return f
	}
	g := finding{code: "HC-FLAP", confidence: trysail.Certain, container: f.container, rank: rankHTTP, evidence: f.evidence, also: f.also}
	g.summary = fmt.Sprintf("Healthy for %s, then: %s", span(healthy), f.summary)
	g.fix = f.fix
	g.prove("probe", "the health check passed for %s", span(healthy))
	g.prove("cause", "%s", f.code)
	return g
}

// resources are the limits that the pod met with, whatever it failed of.
func (p podCase) resources() (list []finding) {
	if f, ok := p.memoryCrawl(); ok {
		list = append(list, f)
	}
	if f, ok := p.cpuThrottle(); ok {
		f.summary = strings.Replace(f.summary, ", and was still starting.", ".", 1)
		list = append(list, f)
	}
	if c := p.e.Cgroup; c != nil && c.ProcessLimitHits > 0 {
		f := finding{code: "PIDS", confidence: trysail.Certain, summary: fmt.Sprintf("It hit the limit of %d processes and threads.", c.ProcessLimit), fix: "Start fewer workers or threads."}
		f.prove("counter", "%d times a process was refused", c.ProcessLimitHits)
		list = append(list, f)
	}
	for _, name := range p.Deployment.ContainerNames() {
		own := p.counters(name)
		if own.OOMKills == 0 {
			continue
		}
		f := finding{code: "MEM-OOM", confidence: trysail.Certain, container: name, summary: fmt.Sprintf("A process of container %s was killed for want of memory.", name), fix: memoryFix(p.Power)}
		p.proveMemory(&f, name)
		if own.Sampled {
			f.confidence = trysail.Likely // some nodes count a kill with all containers of the pod
		}
		list = append(list, f)
	}
	if ep := p.Deployment.PublicEndpoint; ep != nil && p.runs(ep.ContainerName) {
		if f, ok := p.stuck(ep); ok && family(f.code) == "DEP" {
			f.container = ep.ContainerName
			list = append(list, f)
		}
	}
	return list
}

// runs reports whether a container was running when it was last seen.
func (p podCase) runs(container string) bool {
	return slices.ContainsFunc(p.e.Containers, func(s trysail.ContainerStatus) bool {
		return s.Name == container && s.State == trysail.ContainerRunning
	})
}

// proveProbes adds what came of the health check.
func (p podCase) proveProbes(f *finding, ep *trysail.PublicEndpoint) {
	for _, o := range p.e.Probes[max(0, len(p.e.Probes)-6):] {
		f.prove("probe", "GET %s on port %d: %s, %d times", p.show(ep.HealthCheck.Path), ep.ContainerPort, p.outcomeText(o), o.Count)
	}
	h := p.e.Health
	if h.Probes == 0 || len(p.e.Probes) > 0 {
		return
	}
	o := trysail.Transcript(nil).Add(h.Last)[0]
	f.prove("probe", "GET %s on port %d, try %d: %s", p.show(ep.HealthCheck.Path), ep.ContainerPort, h.Probes, p.outcomeText(o))
}

func (p podCase) outcomeText(o trysail.ProbeOutcome) string {
	switch {
	case o.Kind != trysail.ProbeAnswer:
		return p.show(o.Error)
	case o.Body != "":
		return fmt.Sprintf("status %d after %s: %s", o.Status, span(o.Took), p.show(o.Body))
	default:
		return fmt.Sprintf("status %d after %s", o.Status, span(o.Took))
	}
}

func (p podCase) proveTrial(f *finding, ep *trysail.PublicEndpoint, t trysail.Trial) {
	f.prove("trial", "tried once: %s: %s", p.trialText(ep, t), p.outcomeText(t.Result))
}
