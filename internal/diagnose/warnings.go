package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"github.com/trysail/trysail"
)

// Warnings is what works and yet should not stay as it is, of a version that became ACTIVE or was replaced. It is kept with
// the version, and is no failure. Pods carry evidence here although nothing was wrong with them.
func Warnings(in Input) []trysail.Finding {
	c := newCase(in)
	var all []finding
	for _, rec := range in.Pods {
		if rec.Evidence == nil {
			continue
		}
		p := podCase{c, rec, rec.Evidence}
		all = append(all, p.errorPage()...)
		all = append(all, p.ignoredTerm()...)
	}
	for _, d := range c.Version.Domains {
		all = append(all, c.domain(d)...)
	}
	for _, f := range c.autopsyHints() {
		if f.code == "NET-LOWPORT" || f.code == "RUN-SYSTEMD" || f.code == "RUN-PERM" {
			continue // it works all the same
		}
		if c.Version.Autopsies[f.container].Presumed {
			continue // the machine that runs it knew better
		}
		all = append(all, f)
	}
	var kept []finding
	for _, f := range all {
		if !slices.ContainsFunc(kept, func(k finding) bool { return k.key() == f.key() && k.summary == f.summary }) {
			kept = append(kept, f)
		}
	}
	return c.findings(kept)
}

// errorPage is about a check that passes because error pages are among the success codes.
func (p podCase) errorPage() []finding {
	ep := p.Deployment.PublicEndpoint
	last := p.lastProbe()
	if ep == nil || !last.OK || last.Status < 400 || last.Status > 499 {
		return nil
	}
	if ep.HealthCheck.SuccessCodes != trysail.DefaultHealthCheck().SuccessCodes {
		return nil // whoever names the codes means them
	}
	f := finding{code: "HC-DEFAULT", confidence: trysail.Certain, container: ep.ContainerName}
	path := p.show(ep.HealthCheck.Path)
	f.summary = fmt.Sprintf("Healthy only because %d counts as success: GET %s answers %d, and the success codes are %s.", last.Status, path, last.Status, ep.HealthCheck.SuccessCodes)
	f.fix = `Set "healthCheck": {"path": "…", "successCodes": "200-299"} with a path that answers 200.`
	f.prove("probe", "GET %s on port %d: status %d", path, ep.ContainerPort, last.Status)
	return []finding{f}
}

// ignoredTerm is about containers that had to be killed.
func (p podCase) ignoredTerm() (list []finding) {
	stop := p.e.Stop
	if stop == nil {
		return nil
	}
	for _, name := range stop.Killed {
		f := finding{code: "DRAIN-KILL", confidence: trysail.Certain, container: name}
		f.summary = fmt.Sprintf("Container %s did not end within %s of SIGTERM and was killed.", name, span(stop.Grace))
		if stop.Cut > 0 {
			f.summary = fmt.Sprintf("Container %s ignored SIGTERM and was killed after %s; %d requests were cut.", name, span(stop.Grace), stop.Cut)
		}
		f.fix = "Let the program end when it gets SIGTERM."
		if p.Version.Autopsies[name].Shell {
			f.fix = "A shell is the first process of the container, and passes no signal on: start the program with `exec` in the script, or as a list in ENTRYPOINT."
		}
		f.prove("record", "SIGTERM at %s, killed %s later", stop.AskedAt.UTC().Format("15:04:05 UTC"), span(stop.Grace))
		list = append(list, f)
	}
	return list
}

// Domain says what is wrong with a domain, for which no certificate can be had; nothing if it is as it should be.
func Domain(d trysail.Domain) []trysail.Finding {
	c := newCase(Input{})
	return c.findings(c.domain(d))
}

// domain is about a name for which no certificate can be had.
func (c *caseFile) domain(d trysail.Domain) (list []finding) {
	add := func(code trysail.DiagnosisCode, summary, fix, evidence string) {
		f := finding{code: code, confidence: trysail.Certain, summary: summary, fix: fix}
		f.prove("record", "%s", evidence)
		list = append(list, f)
	}
	var ours, theirs []string
	hit := false
	for _, a := range d.Ours {
		ours = append(ours, a.String())
		hit = hit || slices.Contains(d.PointsTo, a)
	}
	for _, a := range d.PointsTo {
		theirs = append(theirs, a.String())
	}
	mine, there := strings.Join(ours, ", "), strings.Join(theirs, ", ")
	switch {
	case hit || len(ours) == 0:
	case len(theirs) == 0:
		add("CERT-DNS", fmt.Sprintf("%s does not resolve; this machine is %s.", c.mark(d.Name), mine), "Set the DNS record: "+records(d.Name, d), d.Name+" has no address")
	default:
		add("CERT-DNS", fmt.Sprintf("%s points to %s; this machine is %s.", c.mark(d.Name), there, mine), "Set the DNS record: "+records(d.Name, d), d.Name+" has the addresses "+there)
	}
	if len(d.CAA) > 0 && d.Issuer != "" && !slices.Contains(d.CAA, d.Issuer) {
		allowed := c.show(strings.Join(d.CAA, ", "))
		add("CERT-CAA", fmt.Sprintf("%s allows certificates from %s only.", c.mark(d.Name), allowed),
			fmt.Sprintf(`Add the DNS record: %s. CAA 0 issue "%s"`, c.show(d.Name), c.show(d.Issuer)), "the CAA records name "+allowed)
	}
	if d.Port80 != "" && d.Port80 != trysail.ReachOK {
		add("CERT-80", fmt.Sprintf("Port 80 of %s is closed to the outside (it %s); the certificate authority must reach it.", mine, reachText(d.Port80)), "Open port 80 in the firewall, or use a DNS challenge.",
			"port 80 "+reachText(d.Port80))
	}
	return list
}

// records are the DNS records that a domain needs.
func records(name string, d trysail.Domain) string {
	var list []string
	for _, a := range d.Ours {
		kind := "A"
		if a.Is6() && !a.Is4In6() {
			kind = "AAAA"
		}
		list = append(list, fmt.Sprintf("%s. %s %s", name, kind, a.Unmap()))
	}
	return strings.Join(list, "; ")
}
