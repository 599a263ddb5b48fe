package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"github.com/trysail/trysail"
)

// healthFinding explains why a pod that ran did not become healthy.
func healthFinding(in Input, pod trysail.PodRecord) finding {
	ep := in.Deployment.PublicEndpoint
	if ep == nil {
		return finding{code: "UNKNOWN", confidence: trysail.Likely, summary: "The containers were running, but did not settle.", fix: "Look at the containers' logs."}
	}
	f := healthCause(ep, pod.Evidence, in)
	f.container = ep.ContainerName
	f.evidence = append(f.evidence, probeEvidence(ep, pod.Evidence.Health)...)
	for _, l := range pod.Evidence.Listeners {
		f.evidence = append(f.evidence, trysail.Evidence{Kind: "socket", Text: strings.TrimSpace(fmt.Sprintf("listens on %s %s", l.Address, l.Process))})
	}
	f.evidence = append(f.evidence, logEvidence(pod.Evidence, ep.ContainerName, 10)...)
	return f
}

func healthCause(ep *trysail.PublicEndpoint, e *trysail.PodEvidence, in Input) finding {
	if e.Health.Last.Status != 0 {
		return statusCause(ep, e.Health.Last)
	}
	if f, ok := socketCause(ep, e, in); ok {
		return f
	}
	last := e.Health.Last.Error
	switch {
	case strings.Contains(last, "timed out"):
		return finding{code: "HC-SLOW", confidence: trysail.Certain, summary: fmt.Sprintf("Port %d accepts connections, but GET %s gives no answer within %d s.", ep.ContainerPort, ep.HealthCheck.Path, ep.HealthCheck.TimeoutSeconds), fix: "Raise healthCheck.timeoutSeconds, or give the health check a path that answers quickly."}
	case strings.Contains(last, "not HTTP") || strings.Contains(last, "malformed HTTP"):
		return finding{code: "NET-PROTO", confidence: trysail.Certain, summary: fmt.Sprintf("Port %d answers, but not in HTTP.", ep.ContainerPort), fix: "Point publicEndpoint at the port that speaks HTTP, or set the port's protocol to HTTPS if it speaks TLS."}
	case strings.Contains(last, "refused"):
		return finding{code: "NET-NOLISTEN", confidence: trysail.Likely, summary: fmt.Sprintf("Nothing listens on port %d of container %s.", ep.ContainerPort, ep.ContainerName), fix: fmt.Sprintf("Make the program listen on 0.0.0.0:%d, or set containerPort to the port that it uses.", ep.ContainerPort)}
	}
	return finding{code: "UNKNOWN", confidence: trysail.Likely, summary: fmt.Sprintf("Container %s was running, but did not become healthy within %s.", ep.ContainerName, in.Window), fix: "The last health check and the container's log are below."}
}

// socketCause explains a refused connection by who listens where.
func socketCause(ep *trysail.PublicEndpoint, e *trysail.PodEvidence, in Input) (finding, bool) {
	if e.Listeners == nil {
		return finding{}, false
	}
	var elsewhere []trysail.Listener
	for _, l := range e.Listeners {
		if int(l.Address.Port()) != ep.ContainerPort {
			elsewhere = append(elsewhere, l)
			continue
		}
		if !l.Address.Addr().IsLoopback() {
			return finding{}, false // it listens where it should
		}
		return finding{
			code: "NET-LOOPBACK", confidence: trysail.Certain,
			summary: fmt.Sprintf("The program listens on %s, which only the pod itself can reach.", l.Address),
			fix:     fmt.Sprintf("Make it listen on 0.0.0.0:%d (often a HOST or --host setting).", ep.ContainerPort),
		}, true
	}
	if len(elsewhere) == 0 {
		return finding{
			code: "NET-NOLISTEN", confidence: trysail.Certain,
			summary: fmt.Sprintf("After %s nothing in the pod listens on any port, though its containers are running.", in.Window),
			fix:     fmt.Sprintf("Make the program listen on 0.0.0.0:%d. If it is still starting, give it more time (--activation-timeout) or CPU (power).", ep.ContainerPort),
		}, true
	}
	slices.SortFunc(elsewhere, func(a, b trysail.Listener) int { return a.Address.Compare(b.Address) })
	port := elsewhere[0].Address.Port()
	return finding{
		code: "NET-WRONGPORT", confidence: trysail.Certain,
		summary: fmt.Sprintf("The endpoint is port %d, but the pod listens on %s.", ep.ContainerPort, ports(elsewhere)),
		fix:     fmt.Sprintf("Set publicEndpoint.containerPort and `ports` to %d, or make the program listen on %d.", port, ep.ContainerPort),
	}, true
}

func ports(list []trysail.Listener) string {
	var texts []string
	for _, l := range list {
		if t := fmt.Sprint("port ", l.Address.Port()); !slices.Contains(texts, t) {
			texts = append(texts, t)
		}
	}
	return strings.Join(texts, ", ")
}

// statusCause explains an answer whose status is not among the success codes.
func statusCause(ep *trysail.PublicEndpoint, last trysail.Probe) finding {
	path, codes := ep.HealthCheck.Path, ep.HealthCheck.SuccessCodes
	f := finding{confidence: trysail.Certain}
	switch {
	case last.Status >= 300 && last.Status < 400:
		f.code = "HC-REDIRECT"
		f.summary = fmt.Sprintf("GET %s redirects to %s (status %d); the success codes are %s.", path, last.Location, last.Status, codes)
		f.fix = "Choose a path that answers directly, or add the status to healthCheck.successCodes."
	case last.Status == 401 || last.Status == 403:
		f.code = "HC-AUTH"
		f.summary = fmt.Sprintf("GET %s asks for a login (status %d); the success codes are %s.", path, last.Status, codes)
		f.fix = "Give the health check a path that needs no login."
	case last.Status == 404:
		f.code = "HC-404"
		f.summary = fmt.Sprintf("GET %s is not found (status 404); the success codes are %s.", path, codes)
		f.fix = "Set healthCheck.path to a path that the program serves."
	case last.Status >= 500:
		f.code = "HC-5XX"
		f.summary = fmt.Sprintf("GET %s fails with status %d: %s", path, last.Status, short(strings.TrimSpace(last.Body), 200))
		f.fix = "The program itself reports an error; its log below may say why."
	default:
		f.code = "HC-STATUS"
		f.summary = fmt.Sprintf("GET %s answers status %d; the success codes are %s.", path, last.Status, codes)
		f.fix = "Add the status to healthCheck.successCodes, or choose another path."
	}
	return f
}

func probeEvidence(ep *trysail.PublicEndpoint, h trysail.TargetHealth) []trysail.Evidence {
	if h.Probes == 0 {
		return nil
	}
	p := h.Last
	text := fmt.Sprintf("GET %s on port %d, try %d: ", ep.HealthCheck.Path, ep.ContainerPort, h.Probes)
	switch {
	case p.Status == 0:
		text += p.Error
	case p.Body != "":
		text += fmt.Sprintf("status %d after %s: %s", p.Status, p.Took.Round(1e6), short(strings.TrimSpace(p.Body), 300))
	default:
		text += fmt.Sprintf("status %d after %s", p.Status, p.Took.Round(1e6))
	}
	return []trysail.Evidence{{Kind: "probe", Text: text}}
}
