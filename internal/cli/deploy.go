package cli

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/spf13/cobra"
)

func (a *App) deployCommand() *cobra.Command {
	var w waiting
	var file string
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
deployment FAILED (exit status 3). The version that served before goes on serving then.`,
		Example: `  trysail deploy web -f web.json --wait
  jq '.containers.app.image = "nginx:1.29"' web.json | trysail deploy -f -`,
		Args:              rangeArgs(0, "SERVICE"),
		ValidArgsFunction: a.completeService,
	}
	f := a.commonFlags(cmd)
	w.flags(cmd, "the deployment is ACTIVE or FAILED, and show its stages")
	cmd.Flags().StringVarP(&file, "file", "f", "", "the deployment as JSON; - reads standard input")
	must(cmd.MarkFlagFilename("file", "json"))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		asJSON, err := f.json()
		if err != nil {
			return err
		}
		if file == "" {
			return Usagef("the deployment file is missing: -f FILE")
		}
		service := ""
		if len(args) > 0 {
			service = args[0]
		}
		in, err := a.readDeployment(file, service)
		if err != nil {
			return err
		}
		c, err := a.connect(f.dataDir)
		if err != nil {
			return err
		}
		return a.deploy(cmd.Context(), c, in, w, asJSON)
	}
	return cmd
}

func (a *App) deploy(ctx context.Context, c *client, in *lightsail.CreateContainerServiceDeploymentInput, w waiting, asJSON bool) error {
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
