package control

import (
	"context"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// PutServiceSettingsInput is the request of PutServiceSettings. Nil members stay as they are.
type PutServiceSettingsInput struct {
	ServiceName           string
	AccessLog             *bool
	AccessLogHealthChecks *bool
}

// PutServiceSettings changes the settings of a service and returns all of them. It never starts or stops a container.
// Errors: Invalid, NotFound.
func (c *Control) PutServiceSettings(ctx context.Context, caller trysail.Caller, in PutServiceSettingsInput) (trysail.ServiceSettings, error) {
	if err := caller.May(trysail.RoleAdmin, "PutServiceSettings", in.ServiceName); err != nil {
		return trysail.ServiceSettings{}, err
	}
	if err := trysail.ValidateServiceName(in.ServiceName); err != nil {
		return trysail.ServiceSettings{}, err
	}
	s, err := c.changeService(ctx, caller, "PutServiceSettings", in.ServiceName, func(_ *store.Tx, s *trysail.Service) error {
		set(&s.Settings.AccessLog, in.AccessLog)
		set(&s.Settings.AccessLogHealthChecks, in.AccessLogHealthChecks)
		return nil
	})
	if err != nil {
		return trysail.ServiceSettings{}, err
	}
	return s.Settings, nil
}

// GetServiceSettings returns the settings of a service. Errors: Invalid, NotFound.
func (c *Control) GetServiceSettings(ctx context.Context, caller trysail.Caller, serviceName string) (settings trysail.ServiceSettings, err error) {
	if err := caller.May(trysail.RoleRead, "GetServiceSettings", serviceName); err != nil {
		return trysail.ServiceSettings{}, err
	}
	if err := trysail.ValidateServiceName(serviceName); err != nil {
		return settings, err
	}
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		s, err := service(tx, serviceName)
		if err == nil {
			settings = s.Settings
		}
		return err
	})
	return settings, err
}
