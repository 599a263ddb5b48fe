package control

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

const (
	// auditPerPage is how many events an answer has if no limit is given, maxAuditPerPage at most.
	auditPerPage    = 50
	maxAuditPerPage = 500
	// maxAuditText bounds, in bytes, what clients can make the audit trail keep of one text.
	maxAuditText = 300
)

type originKey struct{}

// WithOrigin returns a context for one call, whose event in the audit trail says where it came from.
func WithOrigin(ctx context.Context, o trysail.Origin) context.Context {
	o.UserAgent, o.SourceAddress = shorten(o.UserAgent), shorten(o.SourceAddress)
	return context.WithValue(ctx, originKey{}, o)
}

func newAuditEvent(ctx context.Context, caller trysail.Caller, operation, resource string) trysail.AuditEvent {
	e := trysail.AuditEvent{Caller: caller, Operation: operation, Resource: shorten(resource), Outcome: trysail.AuditSuccess}
	if origin, ok := ctx.Value(originKey{}).(trysail.Origin); ok {
		e.Origin = origin
	}
	if ofService(operation) {
		e.Service = e.Resource
	}
	return e
}

// audit records in its transaction that an operation has been carried out.
func audit(ctx context.Context, tx *store.Tx, caller trysail.Caller, operation, resource string, details ...map[string]string) error {
	e := newAuditEvent(ctx, caller, operation, resource)
	e.Details = map[string]string{}
	for _, some := range details {
		for name, text := range some {
			e.Details[name] = shorten(text)
		}
	}
	if operation == "TagResource" || operation == "UntagResource" { // of a service or a certificate
		if _, err := tx.Service(resource); errors.Is(err, store.ErrNotFound) {
			e.Service = ""
		} else if err != nil {
			return err
		}
	}
	return tx.Audit(e)
}

// auditFailure records that a call which would have changed something was refused, or failed. Every operation that changes
// something defers it. What was done before *err came is as if it had not been.
func (c *Control) auditFailure(ctx context.Context, caller trysail.Caller, operation, resource string, err *error) {
	if *err != nil {
		c.RecordFailure(ctx, caller, operation, resource, trysail.ErrorCode(*err).Exception(), *err)
	}
}

// RecordFailure records in the audit trail that a call was refused, or failed, with an exception. It is for those that never
// got to their operation, which records its own. A caller without a role did not show to be who they said. The resource
// is what the request named; it need not exist. Of many failures in a short time only some are recorded, with the number
// of those that are not.
func (c *Control) RecordFailure(ctx context.Context, caller trysail.Caller, operation, resource, exception string, cause error) {
	e := newAuditEvent(ctx, caller, operation, resource)
	e.Outcome, e.ErrorCode, e.Details = trysail.AuditFailure, exception, map[string]string{}
	who := caller.AccessKeyID
	if caller.Role == "" {
		e.Outcome, who = trysail.AuditUnauthenticated, "from "+e.SourceAddress
		e.Caller.AccessKeyID = shorten(caller.AccessKeyID)
	}
	if known, ok := errors.AsType[*trysail.Error](cause); ok {
		e.Details["message"] = shorten(known.Message)
	}
	missed, ok := c.failures.allow(who, time.Now())
	if !ok {
		return
	}
	if missed > 0 {
		e.Details["missed"] = strconv.Itoa(missed)
	}
	// The client may have gone; the record is wanted nevertheless.
	ctx = context.WithoutCancel(ctx)
	if err := c.Store.Update(ctx, func(tx *store.Tx) error { return tx.Audit(e) }); err != nil {
		c.Log.ErrorContext(ctx, "a failed call is not in the audit trail", "request_id", e.RequestID, "operation", operation, "error", err)
	}
}

// RecordSignIn records in the audit trail that somebody signed in to the console.
func (c *Control) RecordSignIn(ctx context.Context, caller trysail.Caller) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error {
		return tx.Audit(newAuditEvent(ctx, caller, trysail.ConsoleSignIn, ""))
	})
}

// ofService reports whether the resource of an operation is a service.
func ofService(operation string) bool {
	for _, other := range [...]string{"AccessKey", "Registry", "Certificate", "Node", "Rows", "MovingFile", trysail.ConsoleSignIn} {
		if strings.Contains(operation, other) {
			return false
		}
	}
	return true
}

// shorten cuts a text of the client's.
func shorten(s string) string {
	if len(s) <= maxAuditText {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	n := maxAuditText
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return strings.ToValidUTF8(s[:n], "\uFFFD") + "…"
}

// The bounds of how many failures are recorded in failureTime, of each caller and of all: each costs a write to the disk.
const (
	failureTime     = time.Minute
	maxFailuresEach = 30
	maxFailures     = 120
)

// failures counts what was recorded, and what was not.
type failures struct {
	mu     sync.Mutex
	since  time.Time
	all    int
	by     map[string]int
	missed int
}

// allow counts a failure, and reports whether it may be recorded and how many could not be before it.
func (f *failures) allow(who string, now time.Time) (missed int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.by == nil || now.Sub(f.since) >= failureTime {
		f.since, f.all, f.by = now, 0, map[string]int{}
	}
	if f.all >= maxFailures || f.by[who] >= maxFailuresEach {
		f.missed++
		return 0, false
	}
	f.all++
	f.by[who]++
	missed, f.missed = f.missed, 0
	return missed, true
}

// GetAuditTrailInput is the request of GetAuditTrail. Every member may be zero.
type GetAuditTrailInput struct {
	StartTime   *time.Time // inclusive; nil: from the first event
	EndTime     *time.Time // exclusive; nil: to the newest
	ServiceName string     // also of one that is deleted; empty: all, also what belongs to no service
	Key         string     // id or name of an access key, also of one that is deleted
	Outcome     trysail.AuditOutcome
	PageToken   string
	Limit       int // events of a page; 0 means 50
}

// AuditPage is the answer of GetAuditTrail.
type AuditPage struct {
	Events        []trysail.AuditEvent // newest first
	NextPageToken string               // empty when there is no more
}

// GetAuditTrail lists who changed what, and who tried to. Errors: AccessDenied, Invalid (range, name, outcome, limit, token).
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
		page.Events = list
		if next > 0 {
			page.NextPageToken = strconv.FormatInt(next, 10)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

// query checks the request. Errors: Invalid.
func (in *GetAuditTrailInput) query() (q store.AuditQuery, err error) {
	q = store.AuditQuery{Service: in.ServiceName, Key: in.Key, Outcome: in.Outcome, Limit: in.Limit}
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
	}
	if in.Outcome != "" && !slices.Contains(trysail.AuditOutcomes(), in.Outcome) {
		return q, trysail.Errorf(trysail.CodeInvalid, "The outcome must be one of %s.", joined(trysail.AuditOutcomes()))
	}
	if in.PageToken != "" {
		if q.Before, err = strconv.ParseInt(in.PageToken, 10, 64); err != nil || q.Before <= 0 {
			return q, trysail.Errorf(trysail.CodeInvalid, "Invalid page token. Use the token of the page before, with the other arguments unchanged.")
		}
	}
	return q, nil
}

// joined lists the outcomes for a person.
func joined(list []trysail.AuditOutcome) string {
	words := make([]string, len(list))
	for i, o := range list {
		words[i] = string(o)
	}
	return strings.Join(words, ", ")
}
