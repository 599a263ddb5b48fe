package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/spf13/cobra"
)

// upOptions are the flags of up.
type upOptions struct {
	file, endpoint string
	profiles       []string
	size           capacity
	detach         bool
	dryRun         bool
	force          bool
	timeout        time.Duration
}

func (a *App) upCommand() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:   "up [SERVICE]",
		Short: "Make the service that a Compose file describes",
		Long: `Make what a Compose file describes: a service, if there is none of that name yet, and a deployment of it. The services
of the file become the containers of one service. They share one network, reach each other by their names as with Compose,
and are deployed, scaled and rolled back together.

What a Compose file says that has no counterpart is told, never dropped silently: what may be left out is noted, and what
would make the app another one (volumes, entrypoint, build …) ends the command, unless --force is given. What the service's
URL leads to is the only port of the file, or --endpoint, or what the file says:

  x-trysail:
    service: shop
    power: small
    scale: 2
    endpoint: {container: web, port: 8080, healthCheck: {path: /healthz}}

docs/compose.md has the whole table. The command waits until the deployment is ACTIVE (exit status 0) or FAILED (3).`,
		Example: `  trysail up
  trysail up shop -f compose.yaml --endpoint web:8080
  trysail up --dry-run > web.json`,
		Args:              rangeArgs(0, "SERVICE"),
		ValidArgsFunction: a.completeService,
	}
	f := a.commonFlags(cmd)
	cmd.Flags().StringVarP(&o.file, "file", "f", "", "the Compose file; by default compose.yaml and the like")
	cmd.Flags().StringVar(&o.endpoint, "endpoint", "", "what the URL leads to, CONTAINER:PORT")
	cmd.Flags().StringSliceVar(&o.profiles, "profile", nil, "use the services of this profile too; may be repeated")
	o.size.flags(cmd, "", 0)
	cmd.Flags().BoolVarP(&o.detach, "detach", "d", false, "do not wait for the deployment")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "print the deployment as JSON, a file for trysail deploy, and change nothing")
	cmd.Flags().BoolVar(&o.force, "force", false, "go on without what has no counterpart")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long to wait; the deployment goes on after it")
	must(cmd.MarkFlagFilename("file", "yaml", "yml"))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		service := ""
		if len(args) > 0 {
			service = args[0]
		}
		asJSON, err := f.json()
		if err != nil {
			return err
		}
		m, err := a.composeDeployment(o, service)
		if err != nil {
			return err
		}
		if o.dryRun {
			return printJSON(a.Out, wire(*m.deployment))
		}
		c, err := a.connect(f.dataDir)
		if err != nil {
			return err
		}
		return a.up(cmd.Context(), c, m, o, asJSON)
	}
	return cmd
}

// composeDeployment reads the file and says on standard error what has no counterpart.
func (a *App) composeDeployment(o upOptions, service string) (*composed, error) {
	file, err := a.readCompose(o.file, o.profiles)
	if err != nil {
		return nil, err
	}
	m, err := mapCompose(file, service, o.endpoint)
	if err != nil {
		return nil, err
	}
	if o.size.power != "" {
		m.Power = o.size.power
	}
	if o.size.scale != 0 {
		m.Scale = o.size.scale
	}
	s := a.screen(a.Err)
	for _, n := range m.notes {
		fmt.Fprintf(s, "%s %s\n", s.paint(yellow, "note:"), clean(n))
	}
	for _, n := range m.problems {
		fmt.Fprintf(s, "%s %s\n", s.paint(red, "problem:"), clean(n))
	}
	if len(m.problems) > 0 && !o.force {
		return nil, WithHint(errors.New("the Compose file needs what a service cannot have"), "Change the file, or go on without: --force")
	}
	return m, nil
}

// up makes the service if need be, gives it its capacity, and deploys.
func (a *App) up(ctx context.Context, c *client, m *composed, o upOptions, asJSON bool) error {
	w := waiting{wait: !o.detach, timeout: o.timeout}
	s, err := c.service(ctx, m.Service)
	if isCode(err, "NotFoundException") {
		return a.upNew(ctx, c, m, w, asJSON)
	}
	if err != nil {
		return err
	}
	change := &lightsail.UpdateContainerServiceInput{ServiceName: &m.Service}
	if m.Power != "" && m.Power != string(s.Power) {
		change.Power = types.ContainerServicePowerName(m.Power)
	}
	if m.Scale != 0 && int32(m.Scale) != aws.ToInt32(s.Scale) { //nolint:gosec // the server refuses what is out of range
		change.Scale = aws.Int32(int32(m.Scale)) //nolint:gosec // as above
	}
	if change.Power != "" || change.Scale != nil {
		if _, err := c.UpdateContainerService(ctx, change); err != nil {
			return err
		}
		// A service that is UPDATING takes no deployment.
		if err := a.settle(ctx, c, w, m.Service, asJSON); err != nil {
			return err
		}
	}
	return a.deploy(ctx, c, m.deployment, 0, w, asJSON)
}

// upNew makes the service together with its first deployment.
func (a *App) upNew(ctx context.Context, c *client, m *composed, w waiting, asJSON bool) error {
	in := &lightsail.CreateContainerServiceInput{
		ServiceName: &m.Service, Power: types.ContainerServicePowerNameNano, Scale: aws.Int32(1),
		Deployment: &types.ContainerServiceDeploymentRequest{Containers: m.deployment.Containers, PublicEndpoint: m.deployment.PublicEndpoint},
	}
	if m.Power != "" {
		in.Power = types.ContainerServicePowerName(m.Power)
	}
	if m.Scale != 0 {
		in.Scale = aws.Int32(int32(m.Scale)) //nolint:gosec // the server refuses what is out of range
	}
	out, err := c.CreateContainerService(ctx, in)
	if err != nil {
		return err
	}
	if !w.wait {
		return a.printService(out.ContainerService, asJSON)
	}
	return a.waitDeployment(ctx, c, w, m.Service, 1, asJSON)
}
