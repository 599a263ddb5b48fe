package control

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// CreateContainerServiceDeployment makes the service's next version and begins to activate it.
// Errors: Invalid (validation, an image that does not exist, busy, disabled), NotFound.
func (c *Control) CreateContainerServiceDeployment(ctx context.Context, caller trysail.Caller, serviceName string, in DeploymentInput) (_ *trysail.Service, err error) {
	defer c.auditFailure(ctx, caller, "CreateContainerServiceDeployment", serviceName, &err)
	if err := caller.May(trysail.RoleDeploy, "CreateContainerServiceDeployment", serviceName); err != nil {
		return nil, err
	}
	if err := firstError(trysail.ValidateServiceName(serviceName), mayUseImages(caller, "CreateContainerServiceDeployment", in)); err != nil {
		return nil, err
	}
	d, err := c.newDeployment(ctx, serviceName, in, func(tx *store.Tx) error {
		s, err := service(tx, serviceName)
		if err != nil {
			return err
		}
		return firstError(deployable(s), c.refuseCapacity(s.Name, s.Capacity), refuseECR(in, s.Name, s.ECRPuller))
	})
	if err != nil {
		return nil, err
	}
	details := map[string]string{}
	return c.changeService(ctx, caller, createDeployment, serviceName, func(tx *store.Tx, s *trysail.Service) error {
		if err := deployable(s); err != nil {
			return err
		}
		d.CreatedAt, s.Next = tx.Now(), d
		s.State, s.Detail = trysail.ServiceDeploying, trysail.StateDetail{Code: trysail.DetailCreatingDeployment}
		if err := tx.InsertDeployment(s.ID, d); err != nil {
			return err
		}
		details["version"] = strconv.Itoa(d.Version)
		return nil
	}, details)
}

// refuseECR refuses images in private registries of Amazon ECR when the service may not pull from there.
func refuseECR(in DeploymentInput, service string, allowed bool) error {
	for _, name := range slices.Sorted(maps.Keys(in.Containers)) {
		if image := in.Containers[name].Image; !allowed && trysail.IsECR(image) {
			return trysail.Errorf(trysail.CodeInvalid, "Container %q has image %q, which is in a private registry of Amazon ECR, and service %q may not pull from there. Allow it first: aws lightsail update-container-service --service-name %s --private-registry-access ecrImagePullerRole={isActive=true}", name, image, service, service)
		}
	}
	return nil
}

// deployable reports why the service cannot take a deployment now.
func deployable(s *trysail.Service) error {
	if err := busy(s); err != nil {
		return err
	}
	if s.Disabled {
		return trysail.Errorf(trysail.CodeInvalid, "Service %q is disabled. Enable it before you create a deployment.", s.Name)
	}
	return nil
}

// newDeployment turns a request into a valid deployment whose images exist, as far as the registries say so in time.
// The registries are asked last, after check, since that may take a second.
func (c *Control) newDeployment(ctx context.Context, serviceName string, in DeploymentInput, check func(*store.Tx) error) (*trysail.Deployment, error) {
	d := &trysail.Deployment{State: trysail.DeploymentActivating, Containers: in.Containers}
	if in.PublicEndpoint != nil {
		d.PublicEndpoint = endpoint(*in.PublicEndpoint)
	}
	if err := trysail.ValidateDeployment(serviceName, d); err != nil {
		return nil, err
	}
	if err := c.Store.View(ctx, check); err != nil {
		return nil, clientError(err)
	}
	return d, c.preflight(ctx, d)
}

// endpoint fills in what a request left out.
func endpoint(in EndpointInput) *trysail.PublicEndpoint {
	ep := &trysail.PublicEndpoint{ContainerName: in.ContainerName, ContainerPort: in.ContainerPort, HealthCheck: trysail.DefaultHealthCheck()}
	if in.HealthCheck == nil {
		return ep
	}
	set(&ep.HealthCheck.HealthyThreshold, in.HealthCheck.HealthyThreshold)
	set(&ep.HealthCheck.UnhealthyThreshold, in.HealthCheck.UnhealthyThreshold)
	set(&ep.HealthCheck.TimeoutSeconds, in.HealthCheck.TimeoutSeconds)
	set(&ep.HealthCheck.IntervalSeconds, in.HealthCheck.IntervalSeconds)
	set(&ep.HealthCheck.Path, in.HealthCheck.Path)
	set(&ep.HealthCheck.SuccessCodes, in.HealthCheck.SuccessCodes)
	return ep
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// preflight resolves the images side by side. An image that the registry says does not exist is refused here; what
// cannot be found out in time is left to the reconciler.
func (c *Control) preflight(ctx context.Context, d *trysail.Deployment) error {
	found, failed := c.resolve(ctx, d)
	d.Digests = map[string]string{}
	for image, img := range found {
		d.Digests[image] = img.Digest
	}
	for _, name := range d.ContainerNames() {
		if e := certain(failed[d.Containers[name].Image]); e != nil {
			return trysail.Errorf(trysail.CodeInvalid, "Container %q has image %q, which cannot be deployed: %s %s", name, e.Image, e.Message, e.Fix)
		}
	}
	return nil
}

// certain returns the error if it says for sure that the image cannot be had, else nil.
func certain(err error) *trysail.ImageError {
	if e, ok := errors.AsType[*trysail.ImageError](err); ok && e.Final {
		return e
	}
	return nil
}

// resolve asks what each image of d is, all at the same time and for no longer than PreflightTimeout. Every image is in
// one of the results, by its name.
func (c *Control) resolve(ctx context.Context, d *trysail.Deployment) (found map[string]trysail.Image, failed map[string]error) {
	ctx, cancel := context.WithTimeout(ctx, c.PreflightTimeout)
	defer cancel()
	var mu sync.Mutex // guards found and failed
	found, failed = map[string]trysail.Image{}, map[string]error{}
	var wg sync.WaitGroup
	asked := map[string]bool{}
	for _, container := range d.Containers {
		image := container.Image
		if asked[image] {
			continue
		}
		asked[image] = true
		wg.Go(func() {
			img, err := c.Images.Resolve(ctx, image)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[image] = err
				return
			}
			found[image] = img
		})
	}
	wg.Wait()
	return found, failed
}

// GetContainerServiceDeployments lists the kept deployments, newest first. Errors: NotFound.
func (c *Control) GetContainerServiceDeployments(ctx context.Context, caller trysail.Caller, serviceName string) (list []trysail.Deployment, err error) {
	if err := caller.May(trysail.RoleRead, "GetContainerServiceDeployments", serviceName); err != nil {
		return nil, err
	}
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		s, err := service(tx, serviceName)
		if err != nil {
			return err
		}
		list, err = tx.Deployments(s.ID)
		return err
	})
	return list, err
}

// GetDeploymentDiagnosis says why a version failed, or why a pod of it failed while it was ACTIVE, and what there is to
// warn about; version 0 means the newest one that something was wrong with.
// Errors: NotFound (service, version, or nothing was wrong with the version).
func (c *Control) GetDeploymentDiagnosis(ctx context.Context, caller trysail.Caller, serviceName string, version int) (found *trysail.Diagnosis, err error) {
	if err := caller.May(trysail.RoleRead, "GetDeploymentDiagnosis", serviceName); err != nil {
		return nil, err
	}
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		s, err := service(tx, serviceName)
		if err != nil {
			return err
		}
		list, err := tx.Deployments(s.ID)
		if err != nil {
			return err
		}
		for _, d := range list {
			if version != 0 && version != d.Version {
				continue
			}
			found, err = tx.Diagnosis(s.ID, d.Version)
			switch {
			case err == nil && (version != 0 || found.Code != trysail.DiagnosisOK):
				return nil
			case err != nil && !errors.Is(err, store.ErrNotFound):
				return err
			case version != 0 && d.State == trysail.DeploymentFailed:
				return trysail.Errorf(trysail.CodeNotFound, "Deployment %d of service %q has no diagnosis.", version, serviceName)
			case version != 0:
				return trysail.Errorf(trysail.CodeNotFound, "Deployment %d of service %q has not failed; it is %s.", version, serviceName, d.State)
			}
		}
		if version != 0 {
			return trysail.Errorf(trysail.CodeNotFound, "Deployment %d of service %q not found.", version, serviceName)
		}
		return trysail.Errorf(trysail.CodeNotFound, "Service %q has no failed deployment.", serviceName)
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}
