package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// CreateContainerService makes a service, with its first deployment if the request has one.
// Errors: Invalid (validation, name in use, quota).
func (c *Control) CreateContainerService(ctx context.Context, caller trysail.Caller, in CreateContainerServiceInput) (_ *trysail.Service, err error) {
	defer c.auditFailure(ctx, caller, "CreateContainerService", in.ServiceName, &err)
	if err := caller.May(trysail.RoleAdmin, "CreateContainerService", in.ServiceName); err != nil {
		return nil, err
	}
	err = firstError(
		trysail.ValidateServiceName(in.ServiceName), trysail.ValidatePower(in.Power), trysail.ValidateScale(in.Scale),
		trysail.ValidateTags(in.Tags), trysail.ValidatePublicDomainNames(in.PublicDomainNames))
	if err != nil {
		return nil, err
	}
	var d *trysail.Deployment
	if in.Deployment != nil {
		d, err = c.newDeployment(ctx, in.ServiceName, *in.Deployment, func(tx *store.Tx) error {
			return firstError(c.nameFree(tx, in.ServiceName), c.refuseCapacity(in.ServiceName, trysail.Capacity{Power: trysail.Power(in.Power), Scale: in.Scale}),
				refuseECR(*in.Deployment, in.ServiceName, in.ECRPuller != nil && *in.ECRPuller))
		})
		if err != nil {
			return nil, err
		}
	}
	s := &trysail.Service{
		ID: newUUID(), Name: in.ServiceName, HostLabel: cmp.Or(c.HostLabel, NewHostLabel()),
		Capacity: trysail.Capacity{Power: trysail.Power(in.Power), Scale: in.Scale},
		State:    trysail.ServicePending, Detail: trysail.StateDetail{Code: trysail.DetailCreatingSystemResources},
		Tags: slices.SortedFunc(slices.Values(in.Tags), func(a, b trysail.Tag) int { return cmp.Compare(a.Key, b.Key) }),
	}
	if in.ECRPuller != nil {
		s.ECRPuller = *in.ECRPuller
	}
	_, err = c.change(ctx, caller, "CreateContainerService", s.Name, func(tx *store.Tx) error {
		if err := c.nameFree(tx, s.Name); err != nil {
			return err
		}
		var err error
		if s.PublicDomains, err = c.publicDomains(tx, nil, in.PublicDomainNames); err != nil {
			return err
		}
		s.CreatedAt = tx.Now()
		if err := domainTaken(tx.InsertService(s)); err != nil || d == nil {
			return err
		}
		d.CreatedAt, s.Next = tx.Now(), d
		if err := tx.InsertDeployment(s.ID, d); err != nil {
			return err
		}
		_, err = record(tx, createDeployment, s.Name)
		return err
	}, map[string]string{"capacity": fmt.Sprintf("%s × %d", s.Power, s.Scale)})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// nameFree refuses a name that is taken, and one service too many.
func (c *Control) nameFree(tx *store.Tx, name string) error {
	switch other, err := tx.Service(name); {
	case err == nil && other.State == trysail.ServiceDeleting:
		return busy(other)
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return err
	}
	if err := nameUnused(tx, name); err != nil {
		return err
	}
	n, err := tx.CountServices()
	if err == nil && n >= c.MaxServices {
		return trysail.Errorf(trysail.CodeInvalid, "Sorry, you've either reached or will exceed your maximum limit of Lightsail Container Services. This Trysail allows %d (--max-services).", c.MaxServices)
	}
	return err
}

// GetContainerServices lists the service of that name, or all that the caller may see for "". The result is shared: the caller must not change it.
// Errors: NotFound.
func (c *Control) GetContainerServices(ctx context.Context, caller trysail.Caller, serviceName string) ([]trysail.Service, error) {
	if err := maySee(caller, "GetContainerServices", serviceName); err != nil {
		return nil, err
	}
	all, err := c.Store.Services(ctx)
	if err != nil {
		return nil, err
	}
	if serviceName == "" {
		if len(caller.Services) == 0 {
			return all, nil
		}
		return slices.DeleteFunc(slices.Clone(all), func(s trysail.Service) bool { return !caller.Sees(s.Name) }), nil
	}
	for i := range all {
		if all[i].Name == serviceName {
			return all[i : i+1], nil
		}
	}
	return nil, trysail.Errorf(trysail.CodeNotFound, "Service %q not found.", serviceName)
}

// UpdateContainerService changes capacity, switch, domains and registry access. Without an effective change it only answers; a
// deployment in progress is reported nevertheless, because clients take the state in the answer for that of their update.
// Errors: Invalid (validation, busy), NotFound.
func (c *Control) UpdateContainerService(ctx context.Context, caller trysail.Caller, in UpdateContainerServiceInput) (_ *trysail.Service, err error) {
	defer c.auditFailure(ctx, caller, "UpdateContainerService", in.ServiceName, &err)
	if err := caller.May(trysail.RoleAdmin, "UpdateContainerService", in.ServiceName); err != nil {
		return nil, err
	}
	var powerErr, scaleErr error
	if in.Power != nil {
		powerErr = trysail.ValidatePower(*in.Power)
	}
	if in.Scale != nil {
		scaleErr = trysail.ValidateScale(*in.Scale)
	}
	if err := firstError(trysail.ValidateServiceName(in.ServiceName), powerErr, scaleErr, trysail.ValidatePublicDomainNames(in.PublicDomainNames)); err != nil {
		return nil, err
	}
	var same *trysail.Service
	details := map[string]string{}
	after, err := c.changeService(ctx, caller, "UpdateContainerService", in.ServiceName, func(tx *store.Tx, s *trysail.Service) error {
		before := *s
		domains, err := c.publicDomains(tx, s.PublicDomains, in.PublicDomainNames)
		if err != nil {
			return err
		}
		s.PublicDomains = domains
		if in.Power != nil {
			s.Power = trysail.Power(*in.Power)
		}
		if in.Scale != nil {
			s.Scale = *in.Scale
		}
		if in.IsDisabled != nil {
			s.Disabled = *in.IsDisabled
		}
		if in.ECRPuller != nil {
			s.ECRPuller = *in.ECRPuller
		}
		sameDomains := maps.EqualFunc(s.PublicDomains, before.PublicDomains, slices.Equal)
		unchanged := s.Capacity == before.Capacity && s.Disabled == before.Disabled && s.ECRPuller == before.ECRPuller && sameDomains
		if unchanged && s.State == trysail.ServiceUpdating {
			same = s // asked for again, perhaps because the first answer was lost
			return errUnchanged
		}
		if err := busy(&before); err != nil {
			return err
		}
		if s.Capacity != before.Capacity && s.Current != nil {
			if err := c.refuseCapacity(s.Name, s.Capacity); err != nil {
				return err
			}
		}
		if unchanged {
			same = s
			return errUnchanged
		}
		tellChanges(details, &before, s)
		s.State, s.Detail = trysail.ServiceUpdating, trysail.StateDetail{Code: trysail.DetailProvisioningService}
		if !sameDomains {
			s.Detail.Code = trysail.DetailProvisioningCertificate
			if err := setPublicDomains(tx, s); err != nil {
				return err
			}
		}
		// With pods that run now there is something to go back to.
		if s.Current != nil && !s.Disabled && !before.Disabled && s.Capacity != before.Capacity {
			s.Fallback = &before.Capacity
		}
		return nil
	}, details)
	if errors.Is(err, errUnchanged) {
		return same, nil
	}
	return after, err
}

// tellChanges adds to the details of an event what becomes of a service.
func tellChanges(details map[string]string, before, after *trysail.Service) {
	if after.Capacity != before.Capacity {
		details["capacity"] = fmt.Sprintf("%s × %d", after.Power, after.Scale)
	}
	if after.Disabled != before.Disabled {
		details["disabled"] = strconv.FormatBool(after.Disabled)
	}
	if after.ECRPuller != before.ECRPuller {
		details["pulls from ECR"] = strconv.FormatBool(after.ECRPuller)
	}
	if !maps.EqualFunc(after.PublicDomains, before.PublicDomains, slices.Equal) {
		details["domains"] = strings.Join(slices.Sorted(slices.Values(slices.Concat(slices.Collect(maps.Values(after.PublicDomains))...))), " ")
	}
}

// errUnchanged ends a transaction in which nothing was to be done.
var errUnchanged = errors.New("nothing to change")

// DeleteContainerService begins to delete a service with everything that belongs to it. Errors: Invalid (busy), NotFound.
func (c *Control) DeleteContainerService(ctx context.Context, caller trysail.Caller, serviceName string) (err error) {
	defer c.auditFailure(ctx, caller, "DeleteContainerService", serviceName, &err)
	if err := caller.May(trysail.RoleAdmin, "DeleteContainerService", serviceName); err != nil {
		return err
	}
	if err := trysail.ValidateServiceName(serviceName); err != nil {
		return err
	}
	_, err = c.changeService(ctx, caller, "DeleteContainerService", serviceName, func(_ *store.Tx, s *trysail.Service) error {
		s.Forward = nil // one that has moved away may be deleted here
		if err := busy(s); err != nil {
			return err
		}
		s.State, s.Detail = trysail.ServiceDeleting, trysail.StateDetail{}
		return nil
	})
	return err
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// newUUID makes a random UUID (version 4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// NewHostLabel makes 64 random bits as 13 characters: what makes default domains hard to guess.
func NewHostLabel() string {
	var b [8]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}
