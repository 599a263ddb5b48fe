package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/spf13/cobra"
)

func (a *App) certsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "Certificates for domains of your own: list, create, show, delete",
		Long: `Certificates for domains of your own.

A certificate is asked for, validated, and then attached to a service; trysail domains add does all three. Without a
subcommand the certificates are listed.`,
		Example: `  trysail certs
  trysail certs create shop shop.example.com --wait`,
	}
	list := &cobra.Command{Use: "list", Short: "List the certificates", Example: `  trysail certs list -o json`, Args: exactArgs()}
	return a.group(cmd, a.listCerts, list, a.createCertCommand(), a.showCertCommand(), a.deleteCertCommand())
}

// certificates returns all certificates with their details, or the one of that name. Errors: NotFoundException.
func (c *client) certificates(ctx context.Context, name string) ([]types.CertificateSummary, error) {
	var all []types.CertificateSummary
	in := &lightsail.GetCertificatesInput{IncludeCertificateDetails: true}
	if name != "" {
		in.CertificateName = &name
	}
	for {
		out, err := c.GetCertificates(ctx, in)
		if err != nil {
			return nil, err
		}
		all = append(all, out.Certificates...)
		if in.PageToken = out.NextPageToken; aws.ToString(in.PageToken) == "" {
			break
		}
	}
	if name != "" && len(all) == 0 {
		return nil, &types.NotFoundException{Message: aws.String(fmt.Sprintf("Certificate %q not found.", name))}
	}
	return all, nil
}

func (a *App) listCerts(ctx context.Context, c *client, _ []string, asJSON bool) error {
	all, err := c.certificates(ctx, "")
	if err != nil {
		return err
	}
	if asJSON {
		list := []any{}
		for _, cert := range all {
			list = append(list, wire(cert))
		}
		return printJSON(a.Out, map[string]any{"certificates": list})
	}
	if len(all) == 0 {
		fmt.Fprintln(a.Err, "There is no certificate yet. One is made with a domain: trysail domains add SERVICE DOMAIN")
		return nil
	}
	s := a.screen(a.Out)
	rows := [][]string{}
	for _, cert := range all {
		d := detail(cert)
		rows = append(rows, []string{
			clean(aws.ToString(cert.CertificateName)), s.paint(certColour(string(d.Status)), string(d.Status)), clean(strings.Join(d.SubjectAlternativeNames, " ")),
			expires(d.NotAfter), fmt.Sprint(d.InUseResourceCount),
		})
	}
	return s.table([]string{"NAME", s.paint(plain, "STATUS"), "DOMAINS", "EXPIRES", "SERVICES"}, rows)
}

func detail(c types.CertificateSummary) *types.Certificate {
	if c.CertificateDetail == nil {
		return &types.Certificate{}
	}
	return c.CertificateDetail
}

func certColour(status string) string {
	switch status {
	case "ISSUED":
		return green
	case "PENDING_VALIDATION", "PENDING", "RENEWING":
		return yellow
	case "NONE", "":
		return plain
	}
	return red
}

func expires(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Local().Format("2006-01-02")
}

func (a *App) createCertCommand() *cobra.Command {
	var w waiting
	var wait bool
	cmd := &cobra.Command{
		Use:   "create NAME DOMAIN...",
		Short: "Ask for a certificate for up to ten domains",
		Example: `  trysail certs create shop shop.example.com www.shop.example.com
  trysail certs create shop shop.example.com --wait`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return Usagef("%s is missing", []string{"NAME", "DOMAIN"}[len(args)])
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is issued")
	cmd.Flags().DurationVar(&w.timeout, "timeout", 10*time.Minute, "how long --wait waits")
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		out, err := c.CreateCertificate(ctx, &lightsail.CreateCertificateInput{CertificateName: &args[0], DomainName: &args[1], SubjectAlternativeNames: args[2:]})
		if err != nil {
			return err
		}
		if wait {
			if err := a.waitCert(ctx, c, w, args[0], asJSON); err != nil {
				return err
			}
		}
		if asJSON && !wait {
			return printJSON(a.Out, wire(*out.Certificate))
		}
		return a.showCert(ctx, c, args[0], asJSON)
	})
}

// waitCert waits until a certificate is issued, and shows what changes. Errors: what is in the way when the time is over, or
// for good.
func (a *App) waitCert(ctx context.Context, c *client, w waiting, name string, asJSON bool) error {
	ctx, cancel := w.context(ctx)
	defer cancel()
	watch := a.watch(c, name, asJSON)
	why := ""
	err := watch.poll(ctx, func(ctx context.Context) (bool, error) {
		list, err := c.certificates(ctx, name)
		if err != nil {
			return false, err
		}
		d := detail(list[0])
		stage := string(d.Status)
		if why = trouble(d); why != "" {
			stage += "  " + why
		}
		if stage != watch.stage {
			watch.stage = stage
			watch.line(certColour(string(d.Status)), stage)
		}
		switch d.Status {
		case types.CertificateStatusIssued:
			return true, nil
		case types.CertificateStatusPendingValidation:
			return false, nil
		default:
			return false, WithHint(fmt.Errorf("certificate %q is %s", name, d.Status), "See why with: trysail certs show %s", name)
		}
	})
	if err == nil {
		return nil
	}
	if why != "" {
		why = ": " + why
	}
	return waitError(err, "certificate %q is not issued yet%s", name, why)
}

// trouble says what is in the way of the first domain that has a problem.
func trouble(d *types.Certificate) string {
	for _, r := range d.DomainValidationRecords {
		if s := r.DnsRecordCreationState; s != nil && s.Code == types.DnsRecordCreationStateCodeFailed && aws.ToString(s.Message) != "" {
			return clean(aws.ToString(s.Message))
		}
	}
	return ""
}

func (a *App) showCertCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "show NAME",
		Short:             "Show a certificate, the DNS records it needs, and its problems",
		Example:           `  trysail certs show shop`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: inOrder(a.certificateNames()),
	}
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		return a.showCert(ctx, c, args[0], asJSON)
	})
}

func (a *App) showCert(ctx context.Context, c *client, name string, asJSON bool) error {
	list, err := c.certificates(ctx, name)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(a.Out, wire(list[0]))
	}
	var known []domainInfo
	for {
		if known, err = c.domains(ctx, ""); err != nil && !c.onAWS() {
			return err
		}
		// It may have been issued between the two answers: then they do not belong together.
		before := detail(list[0]).Status
		if list, err = c.certificates(ctx, name); err != nil {
			return err
		}
		if detail(list[0]).Status == before {
			break
		}
	}
	s, d := a.screen(a.Out), detail(list[0])
	fmt.Fprintf(s, "%s is %s", clean(name), s.paint(certColour(string(d.Status)), string(d.Status)))
	if d.NotAfter != nil {
		fmt.Fprintf(s, ", from %s, until %s", clean(aws.ToString(d.IssuerCA)), expires(d.NotAfter))
	}
	fmt.Fprintln(s, ".")
	for _, r := range d.DomainValidationRecords {
		info := domainInfo{DomainName: aws.ToString(r.DomainName), Status: certStatus(r.ValidationStatus)}
		if i := slices.IndexFunc(known, func(k domainInfo) bool { return k.DomainName == info.DomainName }); i >= 0 {
			info = known[i]
		} else if rr := r.ResourceRecord; rr != nil {
			info.ValidationRecord = &recordInfo{aws.ToString(rr.Name), aws.ToString(rr.Type), aws.ToString(rr.Value)}
		}
		fmt.Fprintln(s)
		printDomain(s, &info)
	}
	return nil
}

func certStatus(v types.CertificateDomainValidationStatus) string {
	switch v {
	case types.CertificateDomainValidationStatusSuccess:
		return "ISSUED"
	case types.CertificateDomainValidationStatusFailed:
		return "FAILED"
	default:
		return "PENDING"
	}
}

func (a *App) deleteCertCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "Delete a certificate that no service uses", Example: `  trysail certs delete shop`,
		Args: exactArgs("NAME"), ValidArgsFunction: inOrder(a.certificateNames()),
	}
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		if _, err := c.DeleteCertificate(ctx, &lightsail.DeleteCertificateInput{CertificateName: &args[0]}); err != nil {
			return err
		}
		return a.done(asJSON, "Certificate %s is deleted.", clean(args[0]))
	})
}

// printDomain shows a domain with its records.
func printDomain(w io.Writer, d *domainInfo) {
	s, ok := w.(screen)
	if !ok {
		s = screen{Writer: w}
	}
	fmt.Fprintf(s, "%s  %s", clean(d.DomainName), s.paint(certColour(d.Status), d.Status))
	if d.Challenge != "" {
		fmt.Fprintf(s, "  by %s", clean(d.Challenge))
	}
	if d.ServiceName != "" {
		fmt.Fprintf(s, "  leads to %s", clean(d.ServiceName))
	}
	fmt.Fprintln(s)
	for _, r := range d.AddressRecords {
		fmt.Fprintf(s, "  to lead here   %s\n", r)
	}
	if d.ValidationRecord != nil && d.ValidationRecord.Name != "" {
		fmt.Fprintf(s, "  to validate    %s\n", *d.ValidationRecord)
	}
	if d.Seen != nil {
		fmt.Fprintf(s, "  seen           %s\n", d.Seen)
	}
	if p := d.Problem; p != nil {
		fmt.Fprintf(s, "  %s  %s\n", s.paint(red, "problem      "), clean(p.Code+": "+p.Summary))
		if p.Fix != "" {
			fmt.Fprintf(s, "  fix            %s\n", clean(p.Fix))
		}
		for _, e := range p.Evidence {
			fmt.Fprintf(s, "  evidence       %s\n", clean(e.Kind+": "+e.Text))
		}
	}
	if d.NextTryAt > 0 && d.Problem != nil {
		fmt.Fprintf(s, "  next try       %s\n", time.UnixMilli(int64(d.NextTryAt*1000)).Local().Format("2006-01-02 15:04:05"))
	}
}
