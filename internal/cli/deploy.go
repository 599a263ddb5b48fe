package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/spf13/cobra"
)

func (a *App) deployCommand() *cobra.Command {
	var w waiting
	var file string
	var hold time.Duration
	cmd := &cobra.Command{
		Use:   "deploy [SERVICE] -f FILE",
		Short: "Make a deployment of a service from a file",
		Long: `Make a deployment of a service from a file.

The file is exactly what aws lightsail create-container-service-deployment takes with --cli-input-json:

  {
    "serviceName": "web",
    "containers": {
      "app": {
        "image": "nginx:1.29",
        "environment": {"LEVEL": "info"},
        "ports": {"80": "HTTP"}
      }
    },
    "publicEndpoint": {"containerName": "app", "containerPort": 80}
  }

A SERVICE on the command line goes before the serviceName in the file. A member that the API does not know is an error.

With --wait the command shows each stage as it happens and ends with the URL (exit status 0), or with the reason why the
deployment FAILED (exit status 3). The version that served before goes on serving then.

With --hold the pods of a deployment that FAILED although they run are kept for a while, out of rotation, so that you can
look into them. They make way for the next deployment.`,
		Example: `  trysail deploy web -f web.json --wait
  jq '.containers.app.image = "nginx:1.29"' web.json | trysail deploy -f -`,
		Args:              rangeArgs(0, "SERVICE"),
		ValidArgsFunction: a.completeService,
	}
	f := a.commonFlags(cmd)
	w.flags(cmd, "the deployment is ACTIVE or FAILED, and show its stages")
	cmd.Flags().StringVarP(&file, "file", "f", "", "the deployment as JSON; - reads standard input")
	cmd.Flags().DurationVar(&hold, "hold", 0, "keep the pods of a FAILED deployment so long, such as 15m; at most 24h")
	must(cmd.MarkFlagFilename("file", "json"))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if file == "" {
			return Usagef("the deployment file is missing: -f FILE")
		}
		if hold < 0 || hold > 24*time.Hour {
			return Usagef("--hold must be between 0 and 24h")
		}
		service := ""
		if len(args) > 0 {
			service = args[0]
		}
		in, err := a.readDeployment(file, service)
		if err != nil {
			return err
		}
		c, asJSON, err := a.begin(f)
		if err != nil {
			return err
		}
		return a.deploy(cmd.Context(), c, in, hold, w, asJSON)
	}
	return cmd
}

func (a *App) deploy(ctx context.Context, c *client, in *lightsail.CreateContainerServiceDeploymentInput, hold time.Duration, w waiting, asJSON bool) error {
	if w.wait {
		// A service that was made a moment ago is still PENDING. To wait is what was asked for.
		if err := a.settle(ctx, c, w, *in.ServiceName, asJSON); err != nil {
			return err
		}
	}
	out, err := c.CreateContainerServiceDeployment(ctx, in)
	if err != nil {
		return err
	}
	version := deployedVersion(out.ContainerService)
	if hold > 0 {
		err := c.call(ctx, "HoldDeployment", map[string]any{"serviceName": *in.ServiceName, "seconds": int(hold.Seconds())}, new(struct{}))
		if err != nil && !isCode(err, "InvalidInputException") { // it has ended already, before there was a pod to keep
			return fmt.Errorf("version %d is being deployed, but its pods cannot be held: %w", version, err)
		}
	}
	if w.wait {
		return a.waitDeployment(ctx, c, w, *in.ServiceName, version, asJSON)
	}
	return a.printService(out.ContainerService, asJSON)
}

// deployedVersion is the version that the service was just given.
func deployedVersion(s *types.ContainerService) int32 {
	if s.NextDeployment != nil {
		return aws.ToInt32(s.NextDeployment.Version)
	}
	if s.CurrentDeployment != nil { // so fast that it is ACTIVE already
		return aws.ToInt32(s.CurrentDeployment.Version)
	}
	return 0
}

func (a *App) cancelCommand() *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use:               "cancel SERVICE",
		Short:             "Give up the deployment that is in progress",
		Long:              `Give up the deployment that is in progress. It becomes FAILED, and the version that served before goes on serving.`,
		Example:           `  trysail cancel web`,
		Args:              exactArgs("SERVICE"),
		ValidArgsFunction: a.completeService,
	}
	w.flags(cmd, "it is given up")
	return a.onServer(cmd, func(ctx context.Context, c *client, args []string, asJSON bool) error {
		if err := c.call(ctx, "CancelDeployment", map[string]any{"serviceName": args[0]}, new(struct{})); err != nil {
			return err
		}
		if w.wait {
			return a.waitService(ctx, c, w, args[0], asJSON)
		}
		return a.done(asJSON, "The deployment of service %s is being canceled.", clean(args[0]))
	})
}
