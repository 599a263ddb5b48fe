package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// CheckDeploymentInput is the request of CheckDeployment.
type CheckDeploymentInput struct {
	ServiceName string // may be empty: then nothing that depends on a service is checked
	Deployment  DeploymentInput
}

// Check is what can be said of a deployment before it is made.
type Check struct {
	Problems []string // why it would be refused or fail for certain; empty: nothing is known against it
	Warnings []string // what is probably not meant so
	Images   []CheckedImage
}

// CheckedImage is what the image of a container is at this moment.
type CheckedImage struct {
	Container string
	trysail.Image
}

// CheckDeployment says what is wrong with a deployment without making it. What is wrong with it is in the answer; an
// error means that it could not be checked.
func (c *Control) CheckDeployment(ctx context.Context, caller trysail.Caller, in CheckDeploymentInput) (*Check, error) {
	who := caller
	if in.ServiceName == "" {
		who = anywhere(caller)
	}
	if err := firstError(who.May(trysail.RoleDeploy, "CheckDeployment", in.ServiceName), mayUseImages(caller, "CheckDeployment", in.Deployment)); err != nil {
		return nil, err
	}
	check := &Check{}
	note := func(err error) error {
		e, ok := errors.AsType[*trysail.Error](err)
		if !ok {
			return err
		}
		check.Problems = append(check.Problems, e.Message)
		return nil
	}
	d := &trysail.Deployment{Containers: in.Deployment.Containers}
	if in.Deployment.PublicEndpoint != nil {
		d.PublicEndpoint = endpoint(*in.Deployment.PublicEndpoint)
	}
	name := in.ServiceName
	if name == "" {
		name = "web" // for the examples in texts
	}
	if err := note(trysail.ValidateDeployment(name, d)); err != nil || len(check.Problems) > 0 {
		return check, err
	}
	if in.ServiceName != "" {
		err := note(c.Store.View(ctx, func(tx *store.Tx) error {
			s, err := service(tx, in.ServiceName)
			if err != nil {
				return err
			}
			for _, err := range []error{deployable(s), c.refuseCapacity(s.Name, s.Capacity), refuseECR(in.Deployment, s.Name, s.ECRPuller)} {
				if err := note(err); err != nil {
					return err
				}
			}
			return nil
		}))
		if err != nil {
			return nil, err
		}
	}
	c.checkImages(ctx, d, check)
	return check, nil
}

func (c *Control) checkImages(ctx context.Context, d *trysail.Deployment, check *Check) {
	found, failed := c.resolve(ctx, d)
	for _, name := range d.ContainerNames() {
		image := d.Containers[name].Image
		if err := failed[image]; err != nil {
			text := fmt.Sprintf("Container %q has image %q, of which nothing could be found out in time.", name, image)
			if e, ok := errors.AsType[*trysail.ImageError](err); ok {
				text = fmt.Sprintf("Container %q has image %q: %s: %s %s", name, image, e.Code, e.Message, e.Fix)
			}
			if certain(err) != nil {
				check.Problems = append(check.Problems, text)
			} else {
				check.Warnings = append(check.Warnings, text)
			}
			continue
		}
		img := found[image]
		check.Images = append(check.Images, CheckedImage{name, img})
		if len(img.Entrypoint) == 0 && len(img.Command) == 0 && len(d.Containers[name].Command) == 0 {
			check.Problems = append(check.Problems, fmt.Sprintf("Container %q has image %q, which names no program to run, and the deployment gives no command.", name, image))
		}
		if ep := d.PublicEndpoint; ep != nil && ep.ContainerName == name && len(img.ExposedPorts) > 0 {
			if port := strconv.Itoa(ep.ContainerPort) + "/tcp"; !slices.Contains(img.ExposedPorts, port) {
				check.Warnings = append(check.Warnings, fmt.Sprintf("The public endpoint uses port %d of container %q, but its image exposes %v.", ep.ContainerPort, name, img.ExposedPorts))
			}
		}
	}
}
