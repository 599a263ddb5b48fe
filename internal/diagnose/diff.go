package diagnose

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/trysail/trysail"
)

// Diff lists what changed from one deployment to another, ordered by field. Values of environment variables are
// masked: they may be secrets. Without a deployment before there is no difference.
func Diff(before, after *trysail.Deployment) []trysail.Difference {
	if before == nil || after == nil {
		return nil
	}
	a, b := fields(before), fields(after)
	var diff []trysail.Difference
	all := maps.Clone(a)
	maps.Copy(all, b)
	for _, f := range slices.Sorted(maps.Keys(all)) {
		if a[f] == b[f] {
			continue
		}
		// The digest tells something only where the name does not: a tag that was moved.
		if image, ok := strings.CutSuffix(f, ".digest"); ok && a[image+".image"] != b[image+".image"] {
			continue
		}
		d := trysail.Difference{Field: f, Before: a[f], After: b[f]}
		if strings.Contains(f, ".environment.") {
			d.Before, d.After = mask(a, f), mask(b, f)
		}
		diff = append(diff, d)
	}
	return diff
}

func mask(m map[string]string, field string) string {
	if _, ok := m[field]; !ok {
		return ""
	}
	return "(set)"
}

// fields flattens a deployment.
func fields(d *trysail.Deployment) map[string]string {
	m := map[string]string{}
	for name, c := range d.Containers {
		at := "containers." + name
		m[at+".image"] = c.Image
		if digest := d.Digests[c.Image]; digest != "" {
			m[at+".digest"] = digest
		}
		if len(c.Command) > 0 {
			m[at+".command"] = fmt.Sprintf("%q", c.Command)
		}
		for k, v := range c.Environment {
			m[at+".environment."+k] = "=" + v
		}
		for port, protocol := range c.Ports {
			m[at+".ports."+port] = string(protocol)
		}
	}
	if ep := d.PublicEndpoint; ep != nil {
		m["publicEndpoint.containerName"] = ep.ContainerName
		m["publicEndpoint.containerPort"] = fmt.Sprint(ep.ContainerPort)
		hc := ep.HealthCheck
		m["publicEndpoint.healthCheck"] = fmt.Sprintf("GET %s, codes %s, every %d s, timeout %d s, thresholds %d/%d", hc.Path, hc.SuccessCodes, hc.IntervalSeconds, hc.TimeoutSeconds, hc.HealthyThreshold, hc.UnhealthyThreshold)
	}
	return m
}
