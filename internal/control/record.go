package control

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// The bounds of a hold.
const maxHold = 24 * time.Hour

// DeploymentRecord is everything that is kept of a version but its logs.
type DeploymentRecord struct {
	Service    trysail.Service
	Deployment trysail.Deployment
	Diagnosis  *trysail.Diagnosis // nil if nothing was found
	Evidence   trysail.DeploymentEvidence
	Pods       []trysail.PodRecord // oldest first
	// Stored is what each image named :service.label.latest stood for, as :service.label.N. What has been deleted is missing.
	Stored map[string]string
}

// GetDeploymentRecord returns what is kept of a version. Version 0 is the newest. Errors: NotFound (service, version).
func (c *Control) GetDeploymentRecord(ctx context.Context, caller trysail.Caller, serviceName string, version int) (r *DeploymentRecord, err error) {
	if err := caller.May(trysail.RoleRead, "GetDeploymentRecord", serviceName); err != nil {
		return nil, err
	}
	r = &DeploymentRecord{}
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		s, err := service(tx, serviceName)
		if err != nil {
			return err
		}
		d, err := kept(tx, s, version)
		if err != nil {
			return err
		}
		r.Service, r.Deployment = *s, *d
		if r.Diagnosis, err = tx.Diagnosis(s.ID, d.Version); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		seen, err := tx.DeploymentEvidence(s.ID, d.Version)
		if err != nil {
			return err
		}
		r.Evidence = *seen
		pods, err := tx.Pods(s.ID, true)
		for _, p := range pods {
			if p.Version == d.Version {
				r.Pods = append(r.Pods, p)
			}
		}
		return err
	})
	if err == nil {
		r.Stored, err = c.numbered(ctx, &r.Deployment)
	}
	return r, err
}

// kept finds a version, or the newest.
func kept(tx *store.Tx, s *trysail.Service, version int) (*trysail.Deployment, error) {
	all, err := tx.Deployments(s.ID)
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		if version == 0 || d.Version == version {
			return &d, nil
		}
	}
	if version == 0 {
		return nil, trysail.Errorf(trysail.CodeNotFound, "Service %q has no deployment.", s.Name)
	}
	return nil, trysail.Errorf(trysail.CodeNotFound, "Deployment %d of service %q not found.", version, s.Name)
}

// HoldDeploymentInput is the request of HoldDeployment.
type HoldDeploymentInput struct {
	ServiceName string
	Hold        time.Duration // 0: no longer
}

// HoldDeployment asks for the pods of the deployment that is being activated to be kept for a while if it fails, out of
// rotation, so that a person can look into them. Errors: Invalid (time, nothing is being deployed), NotFound.
func (c *Control) HoldDeployment(ctx context.Context, caller trysail.Caller, in HoldDeploymentInput) (err error) {
	defer c.auditFailure(ctx, caller, "HoldDeployment", in.ServiceName, &err)
	if err := caller.May(trysail.RoleDeploy, "HoldDeployment", in.ServiceName); err != nil {
		return err
	}
	if in.Hold < 0 || in.Hold > maxHold {
		return trysail.Errorf(trysail.CodeInvalid, "A failed deployment can be held for 0 to %d seconds.", int(maxHold.Seconds()))
	}
	return c.changeNext(ctx, caller, "HoldDeployment", in.ServiceName, func(tx *store.Tx, s *trysail.Service) error {
		s.Next.Hold = in.Hold
		return tx.UpdateDeployment(s.ID, s.Next)
	})
}

// CancelDeployment gives up the deployment that is being activated: it becomes FAILED, and the version before goes on
// serving. Errors: Invalid (nothing is being deployed), NotFound.
func (c *Control) CancelDeployment(ctx context.Context, caller trysail.Caller, serviceName string) (err error) {
	defer c.auditFailure(ctx, caller, "CancelDeployment", serviceName, &err)
	if err := caller.May(trysail.RoleDeploy, "CancelDeployment", serviceName); err != nil {
		return err
	}
	return c.changeNext(ctx, caller, "CancelDeployment", serviceName, func(tx *store.Tx, s *trysail.Service) error {
		seen, err := tx.DeploymentEvidence(s.ID, s.Next.Version)
		if err != nil {
			return err
		}
		if seen.CanceledAt.IsZero() {
			seen.CanceledBy, seen.CanceledAt = caller.Name, tx.Now()
		}
		// The deployment is written as well, so that its service is looked at.
		return errors.Join(tx.SetDeploymentEvidence(s.ID, s.Next.Version, seen), tx.UpdateDeployment(s.ID, s.Next))
	})
}

// changeNext changes something about the deployment that is being activated, and records who did.
func (c *Control) changeNext(ctx context.Context, caller trysail.Caller, operation, serviceName string, fn func(*store.Tx, *trysail.Service) error) error {
	return clientError(c.Store.Update(ctx, func(tx *store.Tx) error {
		s, err := service(tx, serviceName)
		if err != nil {
			return err
		}
		if s.Next == nil {
			return trysail.Errorf(trysail.CodeInvalid, "No deployment of service %q is in progress.", s.Name)
		}
		if err := fn(tx, s); err != nil {
			return err
		}
		return audit(ctx, tx, caller, operation, s.Name, map[string]string{"version": strconv.Itoa(s.Next.Version)})
	}))
}
