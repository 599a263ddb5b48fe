package cli

import (
	"fmt"
	"slices"
)

// fakeCert is a certificate that is issued at the third look.
type fakeCert struct {
	name    string
	domains []string
	looks   int
	failed  bool
}

func (c *fakeCert) wire() map[string]any {
	status, validation := "PENDING_VALIDATION", "PENDING_VALIDATION"
	creation := map[string]any{"code": "STARTED", "message": ""}
	switch {
	case c.failed:
		status, validation = "FAILED", "FAILED"
		creation = map[string]any{"code": "FAILED", "message": "CERT-REFUSED: The authority does not issue for this."}
	case c.looks > 2:
		status, validation = "ISSUED", "SUCCESS"
	case c.looks > 1:
		creation = map[string]any{"code": "FAILED", "message": "CERT-DNS: " + c.domains[0] + " does not resolve.\x1b[2J Set the DNS record: " + c.domains[0] + ". A 198.51.100.4"}
	}
	detail := map[string]any{"name": c.name, "domainName": c.domains[0], "status": status, "subjectAlternativeNames": c.domains, "inUseResourceCount": 0, "createdAt": 1.7e9}
	if status == "ISSUED" {
		detail["notAfter"], detail["issuerCA"] = 1.8e9, "Let's Encrypt"
	}
	var records []any
	for _, d := range c.domains {
		records = append(records, map[string]any{
			"domainName": d, "validationStatus": validation, "dnsRecordCreationState": creation,
			"resourceRecord": map[string]any{"name": "_acme-challenge." + d + ".", "type": "CNAME", "value": "_ab.validations.example.net."},
		})
	}
	detail["domainValidationRecords"] = records
	return map[string]any{"certificateName": c.name, "domainName": c.domains[0], "certificateArn": "arn:x", "tags": []any{}, "certificateDetail": detail}
}

func (f *fakeServer) domainOperation(target string, in map[string]any) (any, error) {
	name, _ := in["certificateName"].(string)
	i := slices.IndexFunc(f.certs, func(c *fakeCert) bool { return c.name == name })
	notFound := &fakeError{400, "NotFoundException", fmt.Sprintf("Certificate %q not found.", name)}
	switch target {
	case "Lightsail_20161128.CreateCertificate":
		if i >= 0 {
			return nil, &fakeError{400, "InvalidInputException", "Some names are already in use: " + name}
		}
		c := &fakeCert{name: name, domains: []string{in["domainName"].(string)}, failed: name == "refused"}
		if more, ok := in["subjectAlternativeNames"].([]any); ok {
			for _, d := range more {
				c.domains = append(c.domains, d.(string))
			}
		}
		f.certs = append(f.certs, c)
		return map[string]any{"certificate": c.wire(), "operations": []any{}}, nil
	case "Lightsail_20161128.GetCertificates":
		list := []any{}
		for _, c := range f.certs {
			if name == "" || c.name == name {
				list = append(list, c.wire())
				c.looks++
			}
		}
		if name != "" && i < 0 {
			return nil, notFound
		}
		return map[string]any{"certificates": list}, nil
	case "Lightsail_20161128.DeleteCertificate":
		if i < 0 {
			return nil, notFound
		}
		f.certs = slices.Delete(f.certs, i, i+1)
		return map[string]any{"operations": []any{}}, nil
	case "Trysail_20261120.GetDomains":
		list := []any{map[string]any{"domainName": "web.x.us-east-1.cs.localhost", "kind": "default", "serviceName": "web", "status": "NONE"}}
		for _, c := range f.certs {
			for _, d := range c.domains {
				list = append(list, fakeDomain(d, c))
			}
		}
		return map[string]any{"domains": list}, nil
	case "Trysail_20261120.CheckDomain":
		return map[string]any{"domain": fakeDomain(in["domainName"].(string), &fakeCert{looks: 2})}, nil
	}
	return nil, &fakeError{404, "UnknownOperationException", target}
}

func fakeDomain(name string, c *fakeCert) map[string]any {
	d := map[string]any{
		"domainName": name, "kind": "custom", "status": "ISSUED", "certificateNames": []any{c.name}, "challenge": "http-01", "notAfter": 1.8e9,
		"addressRecords":   []any{map[string]any{"name": name + ".", "type": "A", "value": "198.51.100.4"}},
		"validationRecord": map[string]any{"name": "_acme-challenge." + name + ".", "type": "CNAME", "value": "_ab.validations.example.net."},
	}
	if c.looks < 3 {
		d["status"], d["notAfter"], d["challenge"], d["nextTryAt"] = "PENDING", 0, "", 1.7e9
		d["seen"] = map[string]any{"pointsTo": []any{"203.0.113.9"}, "port80": "timeout"}
		d["problem"] = map[string]any{
			"code": "CERT-DNS", "summary": name + " points to 203.0.113.9; this machine is 198.51.100.4.", "fix": "Set the DNS record: " + name + ". A 198.51.100.4",
			"evidence": []any{map[string]any{"kind": "record", "text": name + " has the addresses 203.0.113.9"}},
		}
	}
	return d
}
