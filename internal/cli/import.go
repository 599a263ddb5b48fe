package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/spf13/cobra"

	"github.com/trysail/trysail"
)

// importStep is one thing that import is going to do. It says so before.
type importStep struct {
	Text string `json:"text"`
	Done bool   `json:"done"`
	do   func(ctx context.Context) error
}

// importPlan is what an import would do.
type importPlan struct {
	steps []importStep
	// overwrites says that something would be changed that is there.
	overwrites bool
	notes      []string // what the user has to do
}

func (p *importPlan) add(do func(ctx context.Context) error, format string, args ...any) {
	p.steps = append(p.steps, importStep{Text: fmt.Sprintf(format, args...), do: do})
}

func (p *importPlan) note(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf(format, args...))
}

// importer makes services of files.
type importer struct {
	app     *App
	client  *client
	dir     string
	waiting waiting
	json    bool
	plan    importPlan
}

func (a *App) importCommand() *cobra.Command {
	var dir string
	var to awsFlags
	var yes, planOnly bool
	x := &importer{app: a, waiting: waiting{wait: true}}
	cmd := &cobra.Command{
		Use:   "import [SERVICE]... --dir DIR",
		Short: "Make services of what trysail export has written",
		Long: `Make services of a folder that trysail export has written: all that are in it, or those that are named. The destination
is this Trysail, or with --to-aws a real AWS account.

What is going to be done is printed first, and asked for. A service that is there already is only changed with --yes. Of
the versions, the one that served is deployed. Certificates are asked for anew; run import again when they are issued, and
the domains are attached. Images that were pushed to the other side must be pushed here before. What is there already as
the files say is left alone, so that the command can be repeated at any time.`,
		Example: `  trysail import --dir from-lightsail --plan
  trysail import web --dir backup --yes`,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := a.commonFlags(cmd)
	cmd.Flags().StringVar(&dir, "dir", "", "the folder")
	must(cmd.MarkFlagDirname("dir"))
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask, and change services that are there")
	cmd.Flags().BoolVar(&planOnly, "plan", false, "print what would be done, and do nothing")
	cmd.Flags().DurationVar(&x.waiting.timeout, "timeout", 10*time.Minute, "how long to wait for each deployment")
	to.flags(cmd, "to-aws", "import into an AWS account, with its usual credentials")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if dir == "" {
			return Usagef("the folder is missing: --dir DIR")
		}
		asJSON, err := f.json()
		if err != nil {
			return err
		}
		c, err := to.client(cmd.Context(), a, f.dataDir)
		if err != nil {
			return err
		}
		if x.json = asJSON; asJSON {
			aside := *a
			aside.Out = a.Err // standard output is for the JSON alone
			x.app = &aside
		}
		x.client, x.dir = c, dir
		if err := x.makePlan(cmd.Context(), args); err != nil {
			return err
		}
		return x.run(cmd.Context(), a.Out, yes, planOnly)
	}
	return cmd
}

// makePlan compares the files with what is there.
func (x *importer) makePlan(ctx context.Context, names []string) error {
	if len(names) == 0 {
		files, err := filepath.Glob(filepath.Join(x.dir, "*", "service.json"))
		if err != nil {
			return err
		}
		for _, f := range files {
			names = append(names, filepath.Base(filepath.Dir(f)))
		}
	}
	if len(names) == 0 {
		return WithHint(fmt.Errorf("there is no service in %s", x.dir), "Write one there with: trysail export --dir %s", x.dir)
	}
	for _, name := range names {
		if err := x.planService(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (x *importer) planService(ctx context.Context, name string) error {
	if err := trysail.ValidateServiceName(name); err != nil {
		return err
	}
	var want exportedService
	if err := readJSON(filepath.Join(x.dir, name, "service.json"), &want); err != nil {
		return err
	}
	if want.ServiceName != name {
		return fmt.Errorf("%s is about service %q", filepath.Join(x.dir, name, "service.json"), want.ServiceName)
	}
	have, err := x.client.service(ctx, name)
	switch {
	case isCode(err, "NotFoundException"):
		x.plan.add(func(ctx context.Context) error { return x.create(ctx, want) }, "create service %s: power %s, scale %d", name, want.Power, want.Scale)
		have = nil
	case err != nil:
		return err
	default:
		x.planCapacity(want, have)
	}
	if want.CurrentVersion > 0 {
		if err := x.planDeployment(ctx, want, have); err != nil {
			return err
		}
	} else {
		x.plan.note("%s: no version served, so none is deployed", name)
	}
	if want.IsDisabled && (have == nil || !aws.ToBool(have.IsDisabled)) {
		x.plan.add(func(ctx context.Context) error {
			if _, err := x.client.UpdateContainerService(ctx, &lightsail.UpdateContainerServiceInput{ServiceName: &name, IsDisabled: aws.Bool(true)}); err != nil {
				return err
			}
			return x.app.settle(ctx, x.client, x.waiting, name, false)
		}, "disable service %s", name)
	}
	return x.planDomains(ctx, want, have)
}

func (x *importer) planCapacity(want exportedService, have *types.ContainerService) {
	if want.Power == string(have.Power) && want.Scale == aws.ToInt32(have.Scale) {
		return
	}
	x.plan.overwrites = true
	x.plan.add(func(ctx context.Context) error {
		in := &lightsail.UpdateContainerServiceInput{ServiceName: &want.ServiceName, Power: types.ContainerServicePowerName(want.Power), Scale: &want.Scale}
		if _, err := x.client.UpdateContainerService(ctx, in); err != nil {
			return err
		}
		return x.app.settle(ctx, x.client, x.waiting, want.ServiceName, false)
	}, "change service %s: power %s → %s, scale %d → %d", want.ServiceName, have.Power, want.Power, aws.ToInt32(have.Scale), want.Scale)
}

// planDeployment deploys the version that served, unless the same serves here.
func (x *importer) planDeployment(ctx context.Context, want exportedService, have *types.ContainerService) error {
	name := want.ServiceName
	file := filepath.Join(x.dir, name, "versions", strconv.Itoa(want.CurrentVersion)+".json")
	in, err := x.app.readDeployment(file, name)
	if err != nil {
		return err
	}
	if missing, err := x.missingImages(ctx, in, have); err != nil {
		return err
	} else if len(missing) > 0 {
		for _, image := range missing {
			label := strings.Split(image, ".")[1]
			x.plan.note("%s: %s was pushed to the other side; push it here (trysail push IMAGE --service %s --label %s), name it in %s, and import again", name, image, name, label, file)
		}
		return nil
	}
	what := "deploy version %d of service %s"
	if have != nil && have.CurrentDeployment != nil {
		var endpoint *types.ContainerServiceEndpoint
		if e := in.PublicEndpoint; e != nil {
			endpoint = &types.ContainerServiceEndpoint{ContainerName: e.ContainerName, ContainerPort: e.ContainerPort, HealthCheck: e.HealthCheck}
		}
		now := have.CurrentDeployment
		if maps.Equal(deploymentFields(now.Containers, now.PublicEndpoint), deploymentFields(in.Containers, endpoint)) {
			return nil
		}
		x.plan.overwrites = true
		what += fmt.Sprintf(" over its version %d", aws.ToInt32(now.Version))
	}
	x.plan.add(func(ctx context.Context) error {
		return x.app.deploy(ctx, x.client, in, 0, x.waiting, false)
	}, what, want.CurrentVersion, name)
	return nil
}

// missingImages are the stored images of a deployment that are not here.
func (x *importer) missingImages(ctx context.Context, in *lightsail.CreateContainerServiceDeploymentInput, have *types.ContainerService) (missing []string, err error) {
	usesStored := slices.ContainsFunc(slices.Collect(maps.Values(in.Containers)), func(c types.Container) bool { return strings.HasPrefix(aws.ToString(c.Image), ":") })
	here := map[string]bool{}
	if have != nil && usesStored {
		out, err := x.client.GetContainerImages(ctx, &lightsail.GetContainerImagesInput{ServiceName: in.ServiceName})
		if err != nil {
			return nil, err
		}
		for _, img := range out.ContainerImages {
			here[aws.ToString(img.Image)] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(in.Containers)) {
		image := aws.ToString(in.Containers[name].Image)
		stored, ok := trysail.ParseStoredImage(image)
		latest := ok && stored.Number == 0 && slices.ContainsFunc(slices.Collect(maps.Keys(here)), func(n string) bool {
			return strings.HasPrefix(n, ":"+stored.Service+"."+stored.Label+".")
		})
		if ok && !here[image] && !latest && !slices.Contains(missing, image) {
			missing = append(missing, image)
		}
	}
	return missing, nil
}

// planDomains asks for the certificates that are not here, and says how to go on when they are issued.
func (x *importer) planDomains(ctx context.Context, want exportedService, have *types.ContainerService) error {
	if len(want.PublicDomainNames) == 0 {
		return nil
	}
	var files []exportedCertificate
	if err := readJSON(filepath.Join(x.dir, "certificates.json"), &files); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(want.PublicDomainNames)) {
		domains := want.PublicDomainNames[name]
		if len(domains) == 0 || have != nil && slices.Equal(have.PublicDomainNames[name], domains) {
			continue
		}
		certs, err := x.client.certificates(ctx, name)
		if err == nil && detail(certs[0]).Status == types.CertificateStatusIssued || name == "_" {
			x.plan.add(func(ctx context.Context) error {
				change := map[string][]string{name: domains}
				_, err := x.client.UpdateContainerService(ctx, &lightsail.UpdateContainerServiceInput{ServiceName: &want.ServiceName, PublicDomainNames: change})
				return err
			}, "let %s lead to service %s", strings.Join(domains, ", "), want.ServiceName)
			x.plan.overwrites = x.plan.overwrites || have != nil && len(have.PublicDomainNames[name]) > 0
			continue
		}
		if isCode(err, "NotFoundException") {
			cert := exportedCertificate{Name: name, DomainName: domains[0], SubjectAlternativeNames: domains}
			if i := slices.IndexFunc(files, func(c exportedCertificate) bool { return c.Name == name }); i >= 0 {
				cert = files[i]
			}
			x.plan.add(func(ctx context.Context) error {
				others := slices.DeleteFunc(slices.Clone(cert.SubjectAlternativeNames), func(d string) bool { return d == cert.DomainName })
				_, err := x.client.CreateCertificate(ctx, &lightsail.CreateCertificateInput{CertificateName: &name, DomainName: &cert.DomainName, SubjectAlternativeNames: others})
				return err
			}, "ask for certificate %s: %s", name, strings.Join(domains, ", "))
		} else if err != nil {
			return err
		}
		x.plan.note("%s: point %s here; when certificate %s is issued, import again (or: trysail domains add %s %s)", want.ServiceName, strings.Join(domains, ", "), name, want.ServiceName, strings.Join(domains, " "))
	}
	return nil
}

func (x *importer) create(ctx context.Context, want exportedService) error {
	in := &lightsail.CreateContainerServiceInput{ServiceName: &want.ServiceName, Power: types.ContainerServicePowerName(want.Power), Scale: &want.Scale}
	for _, t := range want.Tags {
		tag := types.Tag{Key: &t.Key}
		if t.Value != "" {
			tag.Value = &t.Value
		}
		in.Tags = append(in.Tags, tag)
	}
	if want.ECRPuller {
		in.PrivateRegistryAccess = &types.PrivateRegistryAccessRequest{EcrImagePullerRole: &types.ContainerServiceECRImagePullerRoleRequest{IsActive: aws.Bool(true)}}
	}
	if _, err := x.client.CreateContainerService(ctx, in); err != nil {
		return err
	}
	return x.app.settle(ctx, x.client, x.waiting, want.ServiceName, false)
}

// run prints the plan and carries it out, if that is allowed.
func (x *importer) run(ctx context.Context, out io.Writer, yes, planOnly bool) error {
	x.printPlan()
	if !planOnly && len(x.plan.steps) > 0 {
		if x.plan.overwrites && !yes {
			return WithHint(errors.New("this changes services that are there, so nothing was done"), "If that is what you want: --yes")
		}
		if !yes {
			if err := x.app.confirm("Go on?"); err != nil {
				return err
			}
		}
		for i := range x.plan.steps {
			s := &x.plan.steps[i]
			fmt.Fprintf(x.app.Out, "%d. %s\n", i+1, clean(s.Text))
			if err := s.do(ctx); err != nil {
				return fmt.Errorf("step %d (%s): %w", i+1, s.Text, err)
			}
			s.Done = true
		}
	}
	if x.json {
		return printJSON(out, map[string]any{"endpoint": x.client.settings.endpoint, "steps": orEmpty(x.plan.steps), "notes": orEmpty(x.plan.notes)})
	}
	return nil
}

// orEmpty is what JSON shows as [] when it is empty.
func orEmpty[T any](of []T) []T { return append([]T{}, of...) }

func (x *importer) printPlan() {
	out := x.app.Out
	if len(x.plan.steps) == 0 {
		fmt.Fprintln(out, "Nothing is to be done: what the files say is there.")
	} else {
		fmt.Fprintf(out, "At %s:\n", x.client.settings.endpoint)
	}
	for i, s := range x.plan.steps {
		fmt.Fprintf(out, "  %d. %s\n", i+1, clean(s.Text))
	}
	for _, n := range x.plan.notes {
		fmt.Fprintf(out, "  for you: %s\n", clean(n))
	}
}

func readJSON(path string, v any) error {
	text, err := os.ReadFile(path) //nolint:gosec // the folder is the user's
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}
