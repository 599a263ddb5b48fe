package control

import (
	"context"
	"maps"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// PutServiceSettingsInput is the request of PutServiceSettings. Nil members stay as they are.
type PutServiceSettingsInput struct {
	ServiceName           string
	AccessLog             *bool
	AccessLogHealthChecks *bool
	EdgeRulesInput
}

// EdgeRulesInput changes a service's EdgeRules. Nil members stay as they are.
type EdgeRulesInput struct {
	HSTSMaxAge                 *int
	HSTSIncludeSubdomains      *bool
	HSTSPreload                *bool
	AllowClients               []string // replaces the list; empty, not nil: removes it
	DenyClients                []string // likewise
	MaxBody                    *int64
	RequestsPerMinute          *int
	RequestBurst               *int
	MaxRequestsAtOnce          *int
	MaxRequestsAtOncePerClient *int
	ErrorPages                 map[string]string // replaces these pages; an empty one is removed
}

// apply makes the changes. It leaves lists and maps of r as they were, since others may look at them.
func (in *EdgeRulesInput) apply(r *trysail.EdgeRules) error {
	set(&r.HSTSMaxAge, in.HSTSMaxAge)
	set(&r.HSTSIncludeSubdomains, in.HSTSIncludeSubdomains)
	set(&r.HSTSPreload, in.HSTSPreload)
	set(&r.MaxBody, in.MaxBody)
	set(&r.RequestsPerMinute, in.RequestsPerMinute)
	set(&r.RequestBurst, in.RequestBurst)
	set(&r.MaxRequestsAtOnce, in.MaxRequestsAtOnce)
	set(&r.MaxRequestsAtOncePerClient, in.MaxRequestsAtOncePerClient)
	if in.AllowClients != nil {
		r.AllowClients = in.AllowClients
	}
	if in.DenyClients != nil {
		r.DenyClients = in.DenyClients
	}
	if in.ErrorPages != nil {
		pages := make(map[string]string, len(r.ErrorPages)+len(in.ErrorPages))
		maps.Copy(pages, r.ErrorPages)
		maps.Copy(pages, in.ErrorPages)
		r.ErrorPages = pages
	}
	return r.Normalize()
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
		return in.apply(&s.Settings.EdgeRules)
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
