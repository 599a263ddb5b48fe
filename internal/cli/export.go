package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/spf13/cobra"
)

// exportedService is the file service.json: what a service is besides its versions.
type exportedService struct {
	ServiceName       string              `json:"serviceName"`
	Power             string              `json:"power"`
	Scale             int32               `json:"scale"`
	IsDisabled        bool                `json:"isDisabled,omitempty"`
	Tags              []exportedTag       `json:"tags,omitempty"`
	PublicDomainNames map[string][]string `json:"publicDomainNames,omitempty"`
	// ECRPuller says that the service may pull from private registries of Amazon ECR.
	ECRPuller bool `json:"ecrImagePuller,omitempty"`
	// CurrentVersion is the version that serves; absent if none does. It is in the file versions/N.json.
	CurrentVersion int `json:"currentVersion,omitempty"`
}

type exportedTag struct {
	Key   string `json:"key"`
	Value string `json:"value,omitempty"`
}

// exportedCertificate is an entry of certificates.json. Keys of certificates never leave their server.
type exportedCertificate struct {
	Name                    string   `json:"certificateName"`
	DomainName              string   `json:"domainName"`
	SubjectAlternativeNames []string `json:"subjectAlternativeNames,omitempty"`
}

// awsFlags let a command use a real AWS account instead of a Trysail.
type awsFlags struct {
	use             bool
	profile, region string
}

func (f *awsFlags) flags(cmd *cobra.Command, name, usage string) {
	cmd.Flags().BoolVar(&f.use, name, false, usage)
	cmd.Flags().StringVar(&f.profile, "profile", "", "the profile of the AWS configuration to use with --"+name)
	cmd.Flags().StringVar(&f.region, "aws-region", "", "the region to use with --"+name+"; by default that of the profile")
}

// client makes a client for the account, or for the Trysail that is meant otherwise.
func (f *awsFlags) client(ctx context.Context, a *App, dataDir string) (*client, error) {
	if !f.use {
		if f.profile != "" || f.region != "" {
			return nil, Usagef("--profile and --aws-region are for an AWS account")
		}
		return a.connect(dataDir)
	}
	if f.profile == "" && (a.Getenv("AWS_ENDPOINT_URL_LIGHTSAIL") != "" || a.Getenv("AWS_ENDPOINT_URL") != "") {
		return nil, Usagef("the credentials in the environment are those of a Trysail (AWS_ENDPOINT_URL_LIGHTSAIL is set): name the account with --profile")
	}
	opts := []func(*config.LoadOptions) error{config.WithAppID(userAgent), config.WithRetryer(func() aws.Retryer { return retry.NewStandard(retryOptions) })}
	profile := f.profile
	if profile != "" {
		opts = append(opts, config.WithSharedConfigProfile(profile))
	}
	if f.region != "" {
		opts = append(opts, config.WithRegion(f.region))
	}
	sdk, err := config.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("reading the AWS configuration: %w", err)
	}
	shared, err := a.sharedProfile(ctx, profile)
	if err != nil {
		return nil, err
	}
	if f.region == "" && shared.Region != "" {
		sdk.Region = shared.Region // the region in the environment is that of a Trysail, perhaps
	}
	if sdk.Region == "" {
		return nil, Usagef("the region is missing: --aws-region")
	}
	endpoint := "https://lightsail." + sdk.Region + ".amazonaws.com"
	if shared.BaseEndpoint != "" {
		endpoint = strings.TrimRight(shared.BaseEndpoint, "/")
	}
	c := &client{
		http: &http.Client{Timeout: callTimeout}, settings: settings{endpoint: endpoint, region: sdk.Region},
		signer: v4.NewSigner(), provider: sdk.Credentials, account: true,
	}
	c.Client = lightsail.NewFromConfig(sdk, func(o *lightsail.Options) { o.BaseEndpoint = &endpoint })
	a.client = c
	return c, nil
}

// sharedProfile is what the files of the AWS configuration say of a profile, without the environment.
func (a *App) sharedProfile(ctx context.Context, profile string) (shared config.SharedConfig, err error) {
	if profile == "" {
		return shared, nil
	}
	shared, err = config.LoadSharedConfigProfile(ctx, profile, func(o *config.LoadSharedConfigOptions) {
		if file := a.Getenv("AWS_CONFIG_FILE"); file != "" {
			o.ConfigFiles = []string{file}
		}
		if file := a.Getenv("AWS_SHARED_CREDENTIALS_FILE"); file != "" {
			o.CredentialsFiles = []string{file}
		}
	})
	if err != nil {
		return shared, fmt.Errorf("reading the AWS configuration: %w", err)
	}
	return shared, nil
}

func (a *App) exportCommand() *cobra.Command {
	var dir string
	var from awsFlags
	cmd := &cobra.Command{
		Use:   "export [SERVICE]... --dir DIR",
		Short: "Write services, versions and domains into JSON files",
		Long: `Write services, their versions and domains into a folder of JSON files: all services, or those that are named. The
source is this Trysail, or with --from-aws a real AWS account: the API is the same.

  DIR/certificates.json            names and domains of the certificates, never their keys
  DIR/SERVICE/service.json         power, scale, tags, domains, and which version serves
  DIR/SERVICE/versions/N.json      a version, as a file for trysail deploy

The files have the values of environment variables in them, which may be secrets: think before you put them into git.
Images that were pushed to a service stay where they are, as no registry of Lightsail gives them back; they are named.
From Trysail, too, only what Lightsail knows is exported: no keys, no logins of registries, no settings of the edge.`,
		Example: `  trysail export --dir backup
  trysail export web --from-aws --profile prod --aws-region eu-west-1 --dir from-lightsail`,
		ValidArgsFunction: a.serviceNames(),
	}
	f := a.commonFlags(cmd)
	cmd.Flags().StringVar(&dir, "dir", "", "the folder; it is made if need be")
	must(cmd.MarkFlagDirname("dir"))
	from.flags(cmd, "from-aws", "read from an AWS account, with its usual credentials")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if dir == "" {
			return Usagef("the folder is missing: --dir DIR")
		}
		asJSON, err := f.json()
		if err != nil {
			return err
		}
		c, err := from.client(cmd.Context(), a, f.dataDir)
		if err != nil {
			return err
		}
		return a.export(cmd.Context(), c, dir, args, asJSON)
	}
	return cmd
}

// exported is what came of an export.
type exported struct {
	Dir       string            `json:"dir"`
	Services  []exportedSummary `json:"services"`
	Variables int               `json:"environmentVariables"`
}

// exportedSummary is what was written of a service, and what could not be.
type exportedSummary struct {
	ServiceName string `json:"serviceName"`
	Versions    int    `json:"versions"`
	// StoredImages are the images that the versions name and that are in the source's own registry only.
	StoredImages []string `json:"storedImages,omitempty"`
	variables    int
}

func (a *App) export(ctx context.Context, c *client, dir string, names []string, asJSON bool) error {
	services, err := c.chosenServices(ctx, names)
	if err != nil {
		return err
	}
	if len(services) == 0 {
		return errors.New("there is no service to export")
	}
	out := exported{Dir: dir}
	for i := range services {
		summary, err := a.exportService(ctx, c, dir, &services[i])
		if err != nil {
			return err
		}
		out.Variables += summary.variables
		out.Services = append(out.Services, summary)
		if !asJSON {
			fmt.Fprintf(a.Out, "%s: %s\n", summary.ServiceName, plural(summary.Versions, "version"))
		}
	}
	if err := c.exportCertificates(ctx, dir); err != nil {
		return err
	}
	for _, s := range out.Services {
		if len(s.StoredImages) > 0 {
			fmt.Fprintf(a.Err, "%s: not in the files, as they were pushed to the service: %s. Push them where you import.\n", s.ServiceName, clean(strings.Join(s.StoredImages, ", ")))
		}
	}
	if out.Variables > 0 {
		fmt.Fprintf(a.Err, "The files in %s hold the values of %s, which may be secrets.\n", dir, plural(out.Variables, "environment variable"))
	}
	if asJSON {
		return printJSON(a.Out, out)
	}
	return nil
}

// exportCertificates writes names and domains. A key for some services may not see certificates; then the file is empty.
func (c *client) exportCertificates(ctx context.Context, dir string) error {
	certs, err := c.certificates(ctx, "")
	if err != nil && !isCode(err, "AccessDeniedException") {
		return err
	}
	list := []exportedCertificate{}
	for _, cert := range certs {
		d := detail(cert)
		list = append(list, exportedCertificate{aws.ToString(cert.CertificateName), aws.ToString(cert.DomainName), d.SubjectAlternativeNames})
	}
	return writeJSON(filepath.Join(dir, "certificates.json"), list)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// chosenServices are the services of those names, or all.
func (c *client) chosenServices(ctx context.Context, names []string) ([]types.ContainerService, error) {
	if len(names) == 0 {
		out, err := c.GetContainerServices(ctx, &lightsail.GetContainerServicesInput{})
		if err != nil {
			return nil, err
		}
		return out.ContainerServices, nil
	}
	var list []types.ContainerService
	for _, name := range names {
		s, err := c.service(ctx, name)
		if err != nil {
			return nil, err
		}
		list = append(list, *s)
	}
	return list, nil
}

// exportService writes the files of one service.
func (a *App) exportService(ctx context.Context, c *client, dir string, s *types.ContainerService) (exportedSummary, error) {
	name := aws.ToString(s.ContainerServiceName)
	summary := exportedSummary{ServiceName: name}
	if name == "" || filepath.Base(name) != name || strings.HasPrefix(name, ".") { // it becomes a path
		return summary, fmt.Errorf("the server names a service %q", name)
	}
	list, err := c.deployments(ctx, name)
	if err != nil {
		return summary, err
	}
	out := serviceFile(s)
	for _, d := range list {
		version := int(aws.ToInt32(d.Version))
		if d.State == types.ContainerServiceDeploymentStateActive {
			out.CurrentVersion = version
		}
		for _, container := range d.Containers {
			summary.variables += len(container.Environment)
			if image := aws.ToString(container.Image); strings.HasPrefix(image, ":") && !slices.Contains(summary.StoredImages, image) {
				summary.StoredImages = append(summary.StoredImages, image)
			}
		}
		in := map[string]any{"serviceName": name, "containers": wire(d.Containers)}
		if d.PublicEndpoint != nil {
			in["publicEndpoint"] = wire(*d.PublicEndpoint)
		}
		if err := writeJSON(filepath.Join(dir, name, "versions", strconv.Itoa(version)+".json"), in); err != nil {
			return summary, err
		}
	}
	slices.Sort(summary.StoredImages)
	summary.Versions = len(list)
	return summary, writeJSON(filepath.Join(dir, name, "service.json"), out)
}

// serviceFile is what a service is besides its versions.
func serviceFile(s *types.ContainerService) exportedService {
	out := exportedService{
		ServiceName: aws.ToString(s.ContainerServiceName), Power: string(s.Power), Scale: aws.ToInt32(s.Scale),
		IsDisabled: aws.ToBool(s.IsDisabled), PublicDomainNames: s.PublicDomainNames,
	}
	for _, t := range s.Tags {
		out.Tags = append(out.Tags, exportedTag{aws.ToString(t.Key), aws.ToString(t.Value)})
	}
	if r := s.PrivateRegistryAccess; r != nil && r.EcrImagePullerRole != nil {
		out.ECRPuller = aws.ToBool(r.EcrImagePullerRole.IsActive)
	}
	return out
}

// writeJSON writes a file that only its owner reads.
func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("writing the files: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing the files: %w", err)
	}
	return nil
}
