package control

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// The bounds of a page of the audit trail.
const (
	auditPerPage    = 50
	maxAuditPerPage = 500
)

// GetAuditTrailInput is the request of GetAuditTrail.
type GetAuditTrailInput struct {
	StartTime   *time.Time // inclusive; nil: from the first entry
	EndTime     *time.Time // exclusive; nil: to the newest
	ServiceName string     // empty: all, also what belongs to no service
	PageToken   string
	Limit       int // entries of a page; 0 means 50
}

// AuditEvent says who changed what. Only changes that were made are recorded, so there is none with an error.
type AuditEvent struct {
	Time      time.Time
	Caller    trysail.Caller // AccessKeyID and Name
	Operation string
	// Service is the service that was changed, empty if none was; Resource what was changed in any case.
	Service  string
	Resource string
}

// AuditPage is the answer of GetAuditTrail.
type AuditPage struct {
	Events        []AuditEvent // newest first
	NextPageToken string       // empty when there is no more
}

// notOfServices are the operations whose resource is no service.
func notOfServices() []string {
	return []string{
		"CreateCertificate", "DeleteCertificate", "CreateAccessKey", "DeleteAccessKey", "PutRegistry", "DeleteRegistry", "CreateContainerServiceRegistryLogin",
	}
}

// GetAuditTrail lists who changed what. Errors: Invalid (range, limit, token).
func (c *Control) GetAuditTrail(ctx context.Context, caller trysail.Caller, in GetAuditTrailInput) (*AuditPage, error) {
	if err := caller.May(trysail.RoleAdmin, "GetAuditTrail", in.ServiceName); err != nil {
		return nil, err
	}
	q, err := in.query()
	if err != nil {
		return nil, err
	}
	page := &AuditPage{}
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		list, next, err := tx.AuditTrail(q)
		if err != nil {
			return err
		}
		if next > 0 {
			page.NextPageToken = strconv.FormatInt(next, 10)
		}
		for _, e := range list {
			event := AuditEvent{Time: e.At, Caller: e.Caller, Operation: e.Operation, Resource: e.Resource}
			if ofService, err := isOfService(tx, e); err != nil {
				return err
			} else if ofService {
				event.Service = e.Resource
			}
			page.Events = append(page.Events, event)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

// isOfService reports whether what was changed was a service.
func isOfService(tx *store.Tx, e store.AuditEntry) (bool, error) {
	if slices.Contains(notOfServices(), e.Operation) {
		return false, nil
	}
	if e.Operation != "TagResource" && e.Operation != "UntagResource" {
		return true, nil
	}
	_, err := tx.Certificate(e.Resource) // which has no name in common with a service
	if errors.Is(err, store.ErrNotFound) {
		return true, nil
	}
	return false, err
}

// query checks the request. Errors: Invalid.
func (in *GetAuditTrailInput) query() (q store.AuditQuery, err error) {
	q = store.AuditQuery{Limit: in.Limit}
	set(&q.Start, in.StartTime)
	set(&q.End, in.EndTime)
	if in.StartTime != nil && in.EndTime != nil {
		if err := trysail.ValidateTimeRange(*in.StartTime, *in.EndTime); err != nil {
			return q, err
		}
	}
	if q.Limit == 0 {
		q.Limit = auditPerPage
	}
	if q.Limit < 1 || q.Limit > maxAuditPerPage {
		return q, trysail.Errorf(trysail.CodeInvalid, "The limit must be 1 to %d.", maxAuditPerPage)
	}
	if in.ServiceName != "" {
		if err := trysail.ValidateServiceName(in.ServiceName); err != nil {
			return q, err
		}
		q.Resource, q.Except = in.ServiceName, notOfServices()
	}
	if in.PageToken != "" {
		if q.Before, err = strconv.ParseInt(in.PageToken, 10, 64); err != nil || q.Before <= 0 {
			return q, trysail.Errorf(trysail.CodeInvalid, "Invalid page token. Use the token of the page before, with the other arguments unchanged.")
		}
	}
	return q, nil
}
