package diagnose

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/trysail/trysail"
)

// status explains an answer whose status is not among the success codes.
func (p podCase) status(ep *trysail.PublicEndpoint, last trysail.Probe) finding {
	path, codes := p.show(ep.HealthCheck.Path), ep.HealthCheck.SuccessCodes
	if isPlainOnTLS(last) {
		return p.plainOnTLS(ep)
	}
	f := finding{confidence: trysail.Certain, rank: rankHTTP}
	f.prove("probe", "status %d", last.Status)
	host, hosted := p.works(func(t trysail.Trial) bool { return t.Host != "" })
	switch {
	case hosted || isHostRefused(last):
		f.code = "HC-HOST"
		f.summary = fmt.Sprintf("The application refuses the Host header of the health check, which is the pod's address (status %d).", last.Status)
		f.fix = "Let it accept every host for " + path + ", or all (Django: ALLOWED_HOSTS, Rails: config.hosts, Vite: server.allowedHosts)."
		if hosted {
			f.summary = fmt.Sprintf("GET %s answers %d to the pod's address, and %d to the host %s: the application refuses hosts that it does not know.", path, last.Status, host.Result.Status, p.mark(host.Host))
			p.proveTrial(&f, ep, host)
		}
	case last.Status >= 300 && last.Status < 400:
		p.redirect(&f, ep, last)
	case last.Status == 401 || last.Status == 403:
		f.code = "HC-AUTH"
		f.summary = fmt.Sprintf("GET %s asks for a login (status %d); the success codes are %s.", path, last.Status, codes)
		f.fix = "Give the health check a path that needs no login."
		p.otherPath(&f, ep)
	case last.Status == 404:
		f.code = "HC-404"
		f.summary = fmt.Sprintf("GET %s is not found (status 404); the success codes are %s.", path, codes)
		f.fix = "Set healthCheck.path to a path that the program serves."
		p.otherPath(&f, ep)
	case last.Status >= 500:
		f.code = "HC-5XX"
		f.summary = fmt.Sprintf("GET %s fails with status %d: %s", path, last.Status, short(p.show(last.Body), 200))
		f.fix = "The program itself reports an error; its log below may say why."
		if isGateway(last) {
			f.summary = fmt.Sprintf("GET %s fails with status %d: the proxy in the container does not reach what it stands before.", path, last.Status)
			f.fix = "See whether the program behind the proxy runs and listens where the proxy looks for it."
		}
		p.otherPath(&f, ep)
	default:
		f.code = "HC-STATUS"
		f.summary = fmt.Sprintf("GET %s answers status %d; the success codes are %s.", path, last.Status, codes)
		f.fix = fmt.Sprintf("Add %d to healthCheck.successCodes, or choose another path.", last.Status)
		p.otherPath(&f, ep)
	}
	return f
}

// works finds a trial that passed.
func (p podCase) works(kind func(trysail.Trial) bool) (trysail.Trial, bool) {
	for _, t := range p.e.Trials {
		if t.Result.OK && kind(t) {
			return t, true
		}
	}
	return trysail.Trial{}, false
}

// otherPath names a path that was tried and works.
func (p podCase) otherPath(f *finding, ep *trysail.PublicEndpoint) {
	t, ok := p.works(func(t trysail.Trial) bool {
		return t.Path != "" && t.Host == "" && t.Proto == "" && !t.TLS && t.Port == 0
	})
	if !ok {
		return
	}
	f.summary = strings.TrimSuffix(f.summary, ".") + fmt.Sprintf("; GET %s answers %d.", p.show(t.Path), t.Result.Status)
	f.fix = fmt.Sprintf(`Set "healthCheck": {"path": %q}.`, p.show(t.Path))
	p.proveTrial(f, ep, t)
}

func (p podCase) redirect(f *finding, ep *trysail.PublicEndpoint, last trysail.Probe) {
	path := p.show(ep.HealthCheck.Path)
	f.code = "HC-REDIRECT"
	f.summary = fmt.Sprintf("GET %s redirects to %s (status %d); the success codes are %s.", path, p.show(last.Location), last.Status, ep.HealthCheck.SuccessCodes)
	f.fix = "Choose a path that answers directly, or add the status to healthCheck.successCodes."
	target, err := url.Parse(last.Location)
	if err != nil {
		return
	}
	if t, ok := p.works(func(t trysail.Trial) bool { return t.Proto == "https" }); ok {
		f.fix = fmt.Sprintf("Trysail ends HTTPS before the pod: exempt the health check's path from the application's redirect to HTTPS, or set \"successCodes\": %q.", ep.HealthCheck.SuccessCodes+",300-399")
		p.proveTrial(f, ep, t)
		return
	}
	switch {
	case target.Scheme == "https":
		f.fix = fmt.Sprintf("Trysail ends HTTPS before the pod and sends X-Forwarded-Proto: let the application go by that and not redirect its health check, or set \"successCodes\": %q.", ep.HealthCheck.SuccessCodes+",300-399")
	case target.Path != "" && target.Path != ep.HealthCheck.Path:
		f.fix = fmt.Sprintf(`Set "healthCheck": {"path": %q} if that answers directly, or "successCodes": %q.`, p.show(target.Path), ep.HealthCheck.SuccessCodes+",300-399")
	}
	p.otherPath(f, ep)
}

// isHostRefused recognizes the answers of frameworks to hosts that they do not know.
func isHostRefused(last trysail.Probe) bool {
	if last.Status != 400 && last.Status != 403 && last.Status != 421 {
		return false
	}
	for _, text := range []string{"DisallowedHost", "Invalid HTTP_HOST", "Blocked host", "Blocked request. This host", "Invalid Host header", "Invalid host header", "Misdirected Request", "ALLOWED_HOSTS", "Host not allowed"} {
		if strings.Contains(last.Body, text) {
			return true
		}
	}
	return false
}

// isGateway recognizes a proxy that reports that it cannot reach what is behind it.
func isGateway(last trysail.Probe) bool {
	return last.Status >= 502 && last.Status <= 504 &&
		(strings.Contains(last.Body, "Bad Gateway") || strings.Contains(last.Body, "Gateway Time") || strings.Contains(last.Body, "upstream"))
}

// isPlainOnTLS recognizes the answers of servers that speak TLS to a request that does not.
func isPlainOnTLS(last trysail.Probe) bool {
	for _, text := range []string{"HTTP request to an HTTPS server", "plain HTTP request was sent to HTTPS port", "speaking plain HTTP to an SSL-enabled server", "requires TLS"} {
		if strings.Contains(last.Body, text) {
			return true
		}
	}
	return false
}

// protocol is about a port that answers in another protocol than the one that was spoken to it.
func (p podCase) protocol(ep *trysail.PublicEndpoint, last trysail.Probe) finding {
	if strings.HasPrefix(last.Error, "not HTTP") && last.Kind() == trysail.ProbeTLS {
		return p.plainOnTLS(ep)
	}
	f := finding{code: "NET-PROTO", confidence: trysail.Certain, rank: rankHTTP}
	f.prove("probe", "%s", p.show(last.Error))
	switch {
	case strings.HasPrefix(last.Error, "not TLS"):
		f.summary = fmt.Sprintf("Port %d does not speak TLS, though its protocol is HTTPS.", ep.ContainerPort)
		f.fix = fmt.Sprintf(`Set "ports": {"%d": "HTTP"}: Trysail ends HTTPS before the pod.`, ep.ContainerPort)
	case strings.HasPrefix(last.Error, "TLS handshake"):
		f.summary = fmt.Sprintf("Port %d breaks off the TLS handshake: %s.", ep.ContainerPort, p.show(last.Error))
		f.fix = "Let the program accept TLS 1.2 or newer without a client's certificate, or speak plain HTTP and set the port's protocol to HTTP."
	case strings.Contains(last.Error, `\x00\x00`) && (strings.Contains(last.Error, `\x04\x00\x00\x00\x00\x00`) || strings.Contains(last.Error, `\x04`)):
		f.summary = fmt.Sprintf("Port %d answers in HTTP/2 without TLS (gRPC?), but not in HTTP/1.1, which the endpoint speaks.", ep.ContainerPort)
		f.fix = "Let the program serve its health check and its requests over HTTP/1.1, on this port or another."
	default:
		f.summary = fmt.Sprintf("Port %d answers, but not in HTTP%s.", ep.ContainerPort, guessProtocol(last.Error))
		f.fix = "Point publicEndpoint at the port that speaks HTTP, or set the port's protocol to HTTPS if it speaks TLS."
	}
	return f
}

// guessProtocol names protocols by what their servers say first.
func guessProtocol(text string) string {
	for _, g := range []struct{ has, name string }{
		{"SSH-", "SSH"}, {"-ERR", "Redis"}, {"220 ", "SMTP or FTP"}, {"* OK", "IMAP"}, {"+OK", "POP3"}, {"AMQP", "AMQP"}, {"mysql", "MySQL"}, {"RFB ", "VNC"},
	} {
		if strings.Contains(text, g.has) {
			return " (it looks like " + g.name + ")"
		}
	}
	return ""
}

func (p podCase) plainOnTLS(ep *trysail.PublicEndpoint) finding {
	f := finding{code: "NET-PROTO", confidence: trysail.Certain, rank: rankHTTP}
	f.summary = fmt.Sprintf("Port %d answers TLS, not in HTTP; the endpoint speaks plain HTTP to it.", ep.ContainerPort)
	f.fix = fmt.Sprintf(`Set "ports": {"%d": "HTTPS"}, or let the program speak plain HTTP: Trysail ends HTTPS before the pod.`, ep.ContainerPort)
	last := p.lastProbe()
	f.prove("probe", "status %d %s %s", last.Status, p.show(last.Error), p.show(last.Body))
	return f
}

// cut is about connections that are taken and then closed without an answer.
func (p podCase) cut(ep *trysail.PublicEndpoint) (finding, bool) {
	last := p.lastProbe()
	if t, ok := p.works(func(t trysail.Trial) bool { return t.TLS }); ok {
		f := p.plainOnTLS(ep)
		p.proveTrial(&f, ep, t)
		return f, true
	}
	if _, ok := p.stuck(ep); ok {
		return finding{}, false
	}
	f := finding{code: "NET-PROTO", confidence: trysail.Likely, rank: rankHTTP}
	f.summary = fmt.Sprintf("Port %d takes connections and closes them without an answer: it does not speak HTTP, or it wants TLS.", ep.ContainerPort)
	f.fix = fmt.Sprintf(`Point publicEndpoint at the port that speaks HTTP; if it speaks TLS, set "ports": {"%d": "HTTPS"}.`, ep.ContainerPort)
	f.prove("probe", "%s", p.show(last.Error))
	return f, true
}
