package api

import "github.com/trysail/trysail/internal/control"

func readAuditTrail(m members) control.GetAuditTrailInput {
	return control.GetAuditTrailInput{
		StartTime: m.time("startTime"), EndTime: m.time("endTime"), ServiceName: zeroIfNil(m.string("serviceName")),
		PageToken: zeroIfNil(m.string("pageToken")), Limit: zeroIfNil(m.int("limit")),
	}
}

// auditEvent is an entry of the audit trail on the wire. Outcome is there for entries of calls that failed; none are
// recorded so far.
type auditEvent struct {
	Time        float64 `json:"time"`
	AccessKeyID string  `json:"accessKeyId"`
	Caller      string  `json:"caller"`
	Operation   string  `json:"operation"`
	ServiceName string  `json:"serviceName,omitempty"`
	Resource    string  `json:"resource,omitempty"`
	Outcome     string  `json:"outcome"`
}

type auditResult struct {
	Events        []auditEvent `json:"events"`
	NextPageToken string       `json:"nextPageToken,omitempty"`
}

func (v view) auditResult(p *control.AuditPage) auditResult {
	out := auditResult{Events: []auditEvent{}, NextPageToken: p.NextPageToken}
	for _, e := range p.Events {
		out.Events = append(out.Events, auditEvent{
			Time: seconds(e.Time), AccessKeyID: e.Caller.AccessKeyID, Caller: e.Caller.Name, Operation: e.Operation,
			ServiceName: e.Service, Resource: e.Resource, Outcome: "success",
		})
	}
	return out
}
