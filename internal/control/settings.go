package control

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

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
func (c *Control) PutServiceSettings(ctx context.Context, caller trysail.Caller, in PutServiceSettingsInput) (_ trysail.ServiceSettings, err error) {
	defer c.auditFailure(ctx, caller, "PutServiceSettings", in.ServiceName, &err)
	if err := caller.May(trysail.RoleAdmin, "PutServiceSettings", in.ServiceName); err != nil {
		return trysail.ServiceSettings{}, err
	}
	if err := trysail.ValidateServiceName(in.ServiceName); err != nil {
		return trysail.ServiceSettings{}, err
	}
	details := map[string]string{}
	s, err := c.changeService(ctx, caller, "PutServiceSettings", in.ServiceName, func(_ *store.Tx, s *trysail.Service) (err error) {
		before := s.Settings
		set(&s.Settings.AccessLog, in.AccessLog)
		set(&s.Settings.AccessLogHealthChecks, in.AccessLogHealthChecks)
		if err := in.apply(&s.Settings.EdgeRules); err != nil {
			return err
		}
		details["changed"], err = changedMembers(before, s.Settings)
		return err
	}, details)
	if err != nil {
		return trysail.ServiceSettings{}, err
	}
	return s.Settings, nil
}

// changedMembers names the settings that differ.
func changedMembers(before, after trysail.ServiceSettings) (string, error) {
	var members [2]map[string]json.RawMessage
	for i, s := range []trysail.ServiceSettings{before, after} {
		text, err := json.Marshal(s)
		if err == nil {
			err = json.Unmarshal(text, &members[i])
		}
		if err != nil {
			return "", err
		}
	}
	names := map[string]bool{}
	for i, m := range members {
		for name, value := range m {
			if !bytes.Equal(value, members[1-i][name]) {
				names[name] = true
			}
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), " "), nil
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
