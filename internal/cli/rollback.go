package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/spf13/cobra"

	"github.com/trysail/trysail"
)

func (a *App) rollbackCommand() *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use:   "rollback SERVICE [VERSION]",
		Short: "Go back to an earlier version: make a deployment of what it was",
		Long: `Go back to an earlier version: make a deployment of what it was, with a new number. Without VERSION it is the one that
served before.

A tag that stands for another image by now is replaced by the digest that the version ran, and :service.label.latest by the
number, so that the same program runs again. The version that serves now goes on until the new one is healthy.`,
		Example: `  trysail rollback web --wait
  trysail rollback web 12 --wait`,
		Args:              rangeArgs(1, "SERVICE", "VERSION"),
		ValidArgsFunction: inOrder(a.serviceNames(), a.versionNames()),
	}
	f := a.commonFlags(cmd)
	w.flags(cmd, "the deployment is ACTIVE or FAILED, and show its stages")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		version := 0
		if len(args) > 1 {
			n, err := strconv.Atoi(args[1])
			if err != nil || n < 1 {
				return Usagef("%q is not the number of a version", args[1])
			}
			version = n
		}
		c, asJSON, err := a.begin(f)
		if err != nil {
			return err
		}
		in, err := a.rollbackTo(cmd.Context(), c, args[0], version)
		if err != nil {
			return err
		}
		return a.deploy(cmd.Context(), c, in, 0, w, asJSON)
	}
	return cmd
}

// rollbackTo makes the request that deploys an earlier version again; version 0 is the one that served before.
func (a *App) rollbackTo(ctx context.Context, c *client, service string, version int) (*lightsail.CreateContainerServiceDeploymentInput, error) {
	list, err := c.deployments(ctx, service)
	if err != nil {
		return nil, err
	}
	var d *types.ContainerServiceDeployment
	if version == 0 {
		if d, err = servedBefore(list); err != nil {
			return nil, WithHint(fmt.Errorf("service %q cannot go back: %w", service, err), "See which versions there are with: trysail deployments %s", service)
		}
	} else if d, err = versionOf(list, service, version); err != nil {
		return nil, err
	}
	version = int(aws.ToInt32(d.Version))
	switch d.State {
	case types.ContainerServiceDeploymentStateActive:
		return nil, fmt.Errorf("version %d of service %q serves now", version, service)
	case types.ContainerServiceDeploymentStateActivating:
		return nil, fmt.Errorf("version %d of service %q is being deployed", version, service)
	case types.ContainerServiceDeploymentStateInactive: // it has served
	case types.ContainerServiceDeploymentStateFailed:
		return nil, WithHint(fmt.Errorf("version %d of service %q FAILED, so there is nothing to go back to", version, service),
			"See why with: trysail explain %s --version %d", service, version)
	}
	in := &lightsail.CreateContainerServiceDeploymentInput{ServiceName: &service, Containers: d.Containers}
	if e := d.PublicEndpoint; e != nil {
		in.PublicEndpoint = &types.EndpointRequest{ContainerName: e.ContainerName, ContainerPort: e.ContainerPort, HealthCheck: e.HealthCheck}
	}
	if err := a.pin(ctx, c, in, version); err != nil {
		return nil, err
	}
	fmt.Fprintf(a.Err, "Going back to version %d of %s.\n", version, when(d.CreatedAt))
	return in, nil
}

// pin replaces the tags that have been moved since the version was made by the digests that it ran, and .latest by the number.
// AWS does not tell them.
func (a *App) pin(ctx context.Context, c *client, in *lightsail.CreateContainerServiceDeploymentInput, version int) error {
	if c.onAWS() {
		return nil
	}
	var record struct {
		Digests map[string]string `json:"digests"`
		Stored  map[string]string `json:"storedImages"` // by :service.label.latest
	}
	if err := c.call(ctx, "GetDeploymentRecord", map[string]any{"serviceName": in.ServiceName, "version": version}, &record); err != nil {
		return err
	}
	var now checkAnswer
	if err := c.call(ctx, "CheckDeployment", wire(*in), &now); err != nil {
		return err
	}
	same := map[string]bool{}
	for _, img := range now.Images {
		same[img.Image] = img.Digest == record.Digests[img.Image]
	}
	in.Containers = maps.Clone(in.Containers)
	for _, name := range slices.Sorted(maps.Keys(in.Containers)) {
		container := in.Containers[name]
		image := aws.ToString(container.Image)
		digest := record.Digests[image]
		stored, isStored := trysail.ParseStoredImage(image)
		if digest == "" || same[image] || stored.Number != 0 {
			continue
		}
		what, instead := "its digest", trysail.ImageReference(image, digest)
		if isStored {
			instead = record.Stored[image]
			what = instead
		}
		if instead == "" {
			return WithHint(fmt.Errorf("version %d of service %q ran what %s stood for then, which is not stored any more", version, aws.ToString(in.ServiceName), clean(image)),
				"Push it again, or go back to another version. See which there are with: trysail deployments %s", aws.ToString(in.ServiceName))
		}
		container.Image = &instead
		in.Containers[name] = container
		fmt.Fprintf(a.Err, "Container %s: %s stands for another image by now, so %s is used.\n", clean(name), clean(image), clean(what))
	}
	return nil
}
