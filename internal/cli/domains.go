package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/spf13/cobra"
)

// domainInfo is a domain as GetDomains and CheckDomain show it.
type domainInfo struct {
	DomainName       string       `json:"domainName"`
	Kind             string       `json:"kind"`
	ServiceName      string       `json:"serviceName"`
	CertificateNames []string     `json:"certificateNames"`
	Status           string       `json:"status"`
	Issuer           string       `json:"issuer"`
	Challenge        string       `json:"challenge"`
	SerialNumber     string       `json:"serialNumber"`
	NotAfter         float64      `json:"notAfter,omitempty"`
	RenewAt          float64      `json:"renewAt,omitempty"`
	NextTryAt        float64      `json:"nextTryAt,omitempty"`
	LastCheckedAt    float64      `json:"lastCheckedAt,omitempty"`
	FailedTries      int          `json:"failedTries"`
	AddressRecords   []recordInfo `json:"addressRecords"`
	ValidationRecord *recordInfo  `json:"validationRecord,omitempty"`
	Problem          *problemInfo `json:"problem,omitempty"`
	Seen             *seenInfo    `json:"seen,omitempty"`
}

type recordInfo struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Value string `json:"value"`
}

func (r recordInfo) String() string { return clean(r.Name + "  " + r.Type + "  " + r.Value) }

type problemInfo struct {
	Code     string         `json:"code"`
	Summary  string         `json:"summary"`
	Fix      string         `json:"fix,omitempty"`
	Evidence []evidenceInfo `json:"evidence,omitempty"`
}

type evidenceInfo struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

// seenInfo is what our own lookups found.
type seenInfo struct {
	PointsTo []string `json:"pointsTo,omitempty"`
	Ours     []string `json:"ours,omitempty"`
	CAA      []string `json:"caa,omitempty"`
	Issuer   string   `json:"issuer,omitempty"`
	Port80   string   `json:"port80,omitempty"`
}

func (s *seenInfo) String() string {
	words := []string{"does not resolve"}
	if len(s.PointsTo) > 0 {
		words[0] = "points to " + strings.Join(s.PointsTo, ", ")
	}
	if len(s.CAA) > 0 {
		words = append(words, "CAA allows "+strings.Join(s.CAA, ", "))
	}
	if s.Port80 != "" {
		words = append(words, "port 80 "+s.Port80)
	}
	return clean(strings.Join(words, "; "))
}

func (c *client) domains(ctx context.Context, service string) ([]domainInfo, error) {
	in := map[string]string{}
	if service != "" {
		in["serviceName"] = service
	}
	out := struct {
		Domains []domainInfo `json:"domains"`
	}{[]domainInfo{}}
	err := c.call(ctx, "GetDomains", in, &out)
	return out.Domains, err
}

func (a *App) domainsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "domains",
		Short: "Domains of services: list, add, remove, check",
		Long: `Domains of services: those that every service has, and those of your own.

Without a subcommand the domains are listed, with the state of their certificates.`,
		Example: `  trysail domains
  trysail domains add web shop.example.com
  trysail domains check shop.example.com`,
	}
	list := &cobra.Command{
		Use: "list [SERVICE]", Short: "List the domains, of one service or of all",
		Example: `  trysail domains list web`,
		Args:    rangeArgs(0, "SERVICE"), ValidArgsFunction: a.completeService,
	}
	return a.group(cmd, a.listDomains, list, a.addDomainsCommand(), a.removeDomainsCommand(), a.checkDomainCommand())
}

func (a *App) listDomains(ctx context.Context, c *client, args []string, asJSON bool) error {
	list, err := c.domains(ctx, strings.Join(args, ""))
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(a.Out, map[string]any{"domains": list})
	}
	s := a.screen(a.Out)
	var rows [][]string
	for _, d := range list {
		until := "-"
		if d.NotAfter > 0 {
			until = time.UnixMilli(int64(d.NotAfter * 1000)).Local().Format("2006-01-02")
		}
		problem := ""
		if d.Problem != nil {
			problem = clean(d.Problem.Code + ": " + d.Problem.Summary)
		}
		rows = append(rows, []string{
			clean(d.DomainName), orDash(clean(d.ServiceName)), s.paint(certColour(d.Status), d.Status), until, orDash(clean(strings.Join(d.CertificateNames, " "))), problem,
		})
	}
	return s.table([]string{"DOMAIN", "SERVICE", s.paint(plain, "STATUS"), "EXPIRES", "CERTIFICATE", ""}, rows)
}

func (a *App) checkDomainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "check DOMAIN",
		Short:             "Look at a domain now: DNS, port 80, CAA, records to set",
		Long:              "Look at a domain now: DNS, port 80, CAA; and say which records to set. The exit status is 1 if something is in the way.",
		Example:           `  trysail domains check shop.example.com`,
		Args:              exactArgs("DOMAIN"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		var out struct {
			Domain domainInfo `json:"domain"`
		}
		if err := c.call(ctx, "CheckDomain", map[string]string{"domainName": args[0]}, &out); err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.Out, out)
		}
		printDomain(a.screen(a.Out), &out.Domain)
		if out.Domain.Problem != nil {
			return errSilent
		}
		return nil
	})
}

func (a *App) addDomainsCommand() *cobra.Command {
	var w waiting
	var certificate string
	cmd := &cobra.Command{
		Use:   "add SERVICE DOMAIN...",
		Short: "Let domains of your own lead to a service",
		Long: `Let domains of your own lead to a service.

If no certificate covers the domains yet, one is asked for, and the command waits until it is issued: set the records that
it shows. When the time is over, run the same command again; what was done is found again.`,
		Example:           `  trysail domains add web shop.example.com www.shop.example.com`,
		Args:              serviceAndDomains,
		ValidArgsFunction: a.completeService,
	}
	cmd.Flags().StringVar(&certificate, "certificate", "", "name of the certificate; by default one that covers the domains, or a new one named after the first")
	cmd.Flags().DurationVar(&w.timeout, "timeout", 10*time.Minute, "how long to wait for the certificate")
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		return a.addDomains(ctx, c, w, certificate, args[0], lowerAll(args[1:]), asJSON)
	})
}

func serviceAndDomains(_ *cobra.Command, args []string) error {
	if len(args) < 2 {
		return Usagef("%s is missing", []string{"SERVICE", "DOMAIN"}[len(args)])
	}
	return nil
}

func lowerAll(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strings.ToLower(s)
	}
	return out
}

func (a *App) addDomains(ctx context.Context, c *client, w waiting, certificate, service string, domains []string, asJSON bool) error {
	s, err := c.service(ctx, service)
	if err != nil {
		return err
	}
	certificate, issued, err := a.certificateFor(ctx, c, certificate, domains)
	if err != nil {
		return err
	}
	if !issued && certificate != "_" {
		if !asJSON {
			if err := a.showCert(ctx, c, certificate, false); err != nil {
				return err
			}
			fmt.Fprintln(a.Out)
		}
		if err := a.waitCert(ctx, c, w, certificate, asJSON); err != nil {
			return err
		}
	}
	list := slices.Clone(s.PublicDomainNames[certificate])
	for _, d := range domains {
		if !slices.Contains(list, d) {
			list = append(list, d)
		}
	}
	return a.setDomains(ctx, c, service, map[string][]string{certificate: list}, asJSON)
}

// certificateFor finds a certificate that covers the domains, or asks for one. issued says that it can be attached now.
func (a *App) certificateFor(ctx context.Context, c *client, name string, domains []string) (found string, issued bool, err error) {
	if name == "_" {
		return name, true, nil
	}
	all, err := c.certificates(ctx, name)
	if err != nil && !isCode(err, "NotFoundException") {
		return "", false, err
	}
	for _, status := range []types.CertificateStatus{types.CertificateStatusIssued, types.CertificateStatusPendingValidation} {
		for _, cert := range all {
			d := detail(cert)
			covers := !slices.ContainsFunc(domains, func(domain string) bool { return !slices.Contains(d.SubjectAlternativeNames, domain) })
			if d.Status == status && covers {
				return aws.ToString(cert.CertificateName), status == types.CertificateStatusIssued, nil
			}
		}
	}
	if name == "" {
		name = strings.ReplaceAll(domains[0], ".", "-")
	}
	in := &lightsail.CreateCertificateInput{CertificateName: &name, DomainName: &domains[0], SubjectAlternativeNames: domains[1:]}
	if _, err := c.CreateCertificate(ctx, in); err != nil {
		return "", false, err
	}
	return name, false, nil
}

// setDomains changes the domains of a service and prints them.
func (a *App) setDomains(ctx context.Context, c *client, service string, change map[string][]string, asJSON bool) error {
	out, err := c.UpdateContainerService(ctx, &lightsail.UpdateContainerServiceInput{ServiceName: &service, PublicDomainNames: change})
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(a.Out, wire(*out.ContainerService))
	}
	var list []string
	for _, domains := range out.ContainerService.PublicDomainNames {
		list = append(list, domains...)
	}
	slices.Sort(list)
	if len(list) == 0 {
		fmt.Fprintf(a.Out, "Service %s has no domains of its own any more; its address is %s\n", clean(service), clean(aws.ToString(out.ContainerService.Url)))
		return nil
	}
	fmt.Fprintf(a.Out, "Service %s answers under %s.\n", clean(service), clean(strings.Join(list, ", ")))
	return nil
}

func (a *App) removeDomainsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "remove SERVICE DOMAIN...",
		Short:             "Take domains from a service; their certificate stays",
		Example:           `  trysail domains remove web www.shop.example.com`,
		Args:              serviceAndDomains,
		ValidArgsFunction: a.completeService,
	}
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		s, err := c.service(ctx, args[0])
		if err != nil {
			return err
		}
		change := map[string][]string{}
		for _, domain := range lowerAll(args[1:]) {
			found := false
			for _, cert := range slices.Sorted(maps.Keys(s.PublicDomainNames)) {
				list, ok := change[cert]
				if !ok {
					list = slices.Clone(s.PublicDomainNames[cert])
				}
				if i := slices.Index(list, domain); i >= 0 {
					change[cert], found = slices.Delete(list, i, i+1), true
				}
			}
			if !found {
				return WithHint(errors.New("service "+args[0]+" does not have the domain "+domain), "See which it has with: trysail domains list %s", args[0])
			}
		}
		return a.setDomains(ctx, c, args[0], change, asJSON)
	})
}
