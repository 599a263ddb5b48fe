package api

import (
	"context"
	"errors"
	"net"
	"net/http"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/sigv4"
)

// originOf says where a request came from.
func originOf(r *http.Request, requestID string) trysail.Origin {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return trysail.Origin{RequestID: requestID, SourceAddress: host, UserAgent: r.UserAgent()}
}

// recordFailure puts a call that would have changed something into the audit trail if it failed before control was asked, or
// without its knowing: an unknown key, a wrong signature, a request that cannot be read, a panic.
func (h *Handler) recordFailure(ctx context.Context, c *call, err error, e exception) {
	_, ours := errors.AsType[exception](err)
	_, signature := errors.AsType[*sigv4.Error](err)
	_, panicked := errors.AsType[*panicError](err)
	if !c.op.mutates || !ours && !signature && !panicked {
		return
	}
	caller := c.caller
	if caller.AccessKeyID == "" {
		caller.AccessKeyID = c.key // as claimed
	}
	h.control.RecordFailure(ctx, caller, c.op.name, c.resource, e.name, trysail.Errorf(trysail.CodeInvalid, "%s", e.message))
}

func readAuditTrail(m members) control.GetAuditTrailInput {
	return control.GetAuditTrailInput{
		StartTime: m.time("startTime"), EndTime: m.time("endTime"), ServiceName: zeroIfNil(m.string("serviceName")),
		Key: zeroIfNil(m.string("accessKey")), Outcome: trysail.AuditOutcome(zeroIfNil(m.string("outcome"))),
		PageToken: zeroIfNil(m.string("pageToken")), Limit: zeroIfNil(m.int("limit")),
	}
}

// auditEvent is an event of the audit trail on the wire.
type auditEvent struct {
	Time          float64              `json:"time"`
	AccessKeyID   string               `json:"accessKeyId"`
	Caller        string               `json:"caller"` // the key's name
	Role          trysail.Role         `json:"role,omitzero"`
	Operation     string               `json:"operation"`
	ServiceName   string               `json:"serviceName,omitzero"`
	Resource      string               `json:"resource,omitzero"`
	Outcome       trysail.AuditOutcome `json:"outcome"`
	ErrorCode     string               `json:"errorCode,omitzero"`
	RequestID     string               `json:"requestId,omitzero"`
	SourceAddress string               `json:"sourceAddress,omitzero"`
	UserAgent     string               `json:"userAgent,omitzero"`
	Client        string               `json:"client,omitzero"` // the program that the user agent names
	Details       map[string]string    `json:"details,omitempty"`
}

type auditResult struct {
	Events        []auditEvent `json:"events"`
	NextPageToken string       `json:"nextPageToken,omitempty"`
}

func (v view) auditResult(p *control.AuditPage) auditResult {
	out := auditResult{Events: make([]auditEvent, len(p.Events)), NextPageToken: p.NextPageToken}
	for i, e := range p.Events {
		out.Events[i] = auditEvent{
			Time: seconds(e.At), AccessKeyID: e.Caller.AccessKeyID, Caller: e.Caller.Name, Role: e.Caller.Role, Operation: e.Operation,
			ServiceName: e.Service, Resource: e.Resource, Outcome: e.Outcome, ErrorCode: e.ErrorCode,
			RequestID: e.RequestID, SourceAddress: e.SourceAddress, UserAgent: e.UserAgent, Client: e.Client(), Details: e.Details,
		}
	}
	return out
}
