package diagnose

import (
	"fmt"
	"strings"
	"time"

	"github.com/trysail/trysail"
)

// Trials lists what is worth trying once in a pod that runs and is not healthy, given what its health check was answered.
// host is the public name of the service. The outcomes go into PodEvidence.Trials.
func Trials(d *trysail.Deployment, e *trysail.PodEvidence, host string) []trysail.Trial {
	ep := d.PublicEndpoint
	if ep == nil || e == nil {
		return nil
	}
	p := podCase{newCase(Input{Deployment: d}), trysail.PodRecord{}, e}
	list := []trysail.Trial{{}} // the check itself once more: it may have come up meanwhile
	last := p.lastProbe()
	switch last.Kind() {
	case trysail.ProbeTimeout:
		return append(list, trysail.Trial{Timeout: 15 * time.Second})
	case trysail.ProbeReset, trysail.ProbeEOF, trysail.ProbeTLS, trysail.ProbeNotHTTP:
		return append(list, trysail.Trial{TLS: true})
	case trysail.ProbeAnswer:
	default:
		return list
	}
	if last.Status == 400 || last.Status == 403 || last.Status == 421 {
		list = append(list, trysail.Trial{Host: host}, trysail.Trial{Host: "localhost"})
	}
	if last.Status >= 300 && last.Status < 400 {
		list = append(list, trysail.Trial{Proto: "https", Host: host}, trysail.Trial{Proto: "https"})
	}
	for _, path := range []string{"/health", "/healthz", "/up", "/", "/ping", "/status", "/api/health", "/actuator/health", "/ready"} {
		if path != ep.HealthCheck.Path {
			list = append(list, trysail.Trial{Path: path})
		}
	}
	return list
}

// trialText says what was tried.
func (c *caseFile) trialText(ep *trysail.PublicEndpoint, t trysail.Trial) string {
	path, port := ep.HealthCheck.Path, ep.ContainerPort
	if t.Path != "" {
		path = t.Path
	}
	if t.Port != 0 {
		port = t.Port
	}
	text := fmt.Sprintf("GET %s on port %d", c.show(path), port)
	if t.TLS {
		text += " over TLS"
	}
	if t.Host != "" {
		text += " with Host: " + c.show(t.Host)
	}
	if t.Proto != "" {
		text += " with X-Forwarded-Proto: " + c.show(t.Proto)
	}
	if t.Timeout > 0 {
		text += ", waiting up to " + t.Timeout.String()
	}
	return strings.TrimSpace(text)
}
