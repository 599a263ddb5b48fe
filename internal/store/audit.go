package store

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/trysail/trysail"
)

const (
	// keptAuditTime bounds the audit trail, as do the numbers of keptAuditEvents.
	keptAuditTime = 400 * 24 * time.Hour
	// auditTrimTime is how many events are written between two looks at what is too much, and auditTrimLimit how many go at
	// a time, so that no transaction takes long.
	auditTrimTime  = 100
	auditTrimLimit = 1000
)

// keptAuditEvents is how many events are kept of each outcome: who can only fail cannot push out what was done.
func keptAuditEvents(o trysail.AuditOutcome) int {
	switch o {
	case trysail.AuditSuccess:
		return 100_000
	case trysail.AuditFailure:
		return 20_000
	case trysail.AuditUnauthenticated:
	}
	return 10_000
}

const auditColumns = "at, key_id, caller, role, operation, service, resource, outcome, error_code, request_id, source_address, user_agent, details"

// Audit appends an event to the trail, at the time of the transaction. Now and then, what is older or more than is kept goes,
// but not the certificates of the last year, which are counted.
func (t *Tx) Audit(e trysail.AuditEvent) error {
	details := []byte("{}")
	if len(e.Details) > 0 {
		var err error
		if details, err = json.Marshal(e.Details); err != nil {
			return fmt.Errorf("encoding the details of an audit event: %w", err)
		}
	}
	var seq int64
	err := t.row("INSERT INTO audit ("+auditColumns+") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) RETURNING seq",
		unix(t.now), e.Caller.AccessKeyID, e.Caller.Name, e.Caller.Role, e.Operation, e.Service, e.Resource, e.Outcome, e.ErrorCode,
		e.RequestID, e.SourceAddress, e.UserAgent, string(details)).Scan(&seq)
	if err != nil {
		return fmt.Errorf("writing the audit trail: %w", err)
	}
	if seq%auditTrimTime == 0 {
		return t.trimAudit()
	}
	return nil
}

// trimAudit removes events that are too old or too many.
func (t *Tx) trimAudit() error {
	trim := func(where string, args ...any) error {
		n := len(args)
		where += " AND NOT (operation = 'CreateCertificate' AND outcome = 'success' AND at > $" + strconv.Itoa(n+1) + ")"
		return t.exec("DELETE FROM audit WHERE seq IN (SELECT seq FROM audit WHERE "+where+" ORDER BY seq LIMIT $"+strconv.Itoa(n+2)+")",
			append(args, unix(t.now.Add(-366*24*time.Hour)), auditTrimLimit)...)
	}
	if err := trim("at < $1", unix(t.now.Add(-keptAuditTime))); err != nil {
		return fmt.Errorf("trimming the audit trail: %w", err)
	}
	for _, o := range trysail.AuditOutcomes() {
		err := trim("outcome = $1 AND seq <= (SELECT seq FROM audit WHERE outcome = $1 ORDER BY seq DESC LIMIT 1 OFFSET $2)", o, keptAuditEvents(o))
		if err != nil {
			return fmt.Errorf("trimming the audit trail: %w", err)
		}
	}
	return nil
}

// AuditQuery says which events are wanted. Zero members bound nothing.
type AuditQuery struct {
	Start, End time.Time // Start ≤ time < End
	Service    string
	Key        string // id or name of the access key
	Outcome    trysail.AuditOutcome
	Before     int64 // only events that were written before this one: next of the answer before
	Limit      int   // how many at most; must be 1 or more
}

// AuditTrail lists events, newest first. next is the Before of those that follow, 0 if there are none.
func (t *Tx) AuditTrail(q AuditQuery) (list []trysail.AuditEvent, next int64, err error) {
	where, args := []string{"1 = 1"}, []any{}
	and := func(condition string, value any) {
		args = append(args, value)
		where = append(where, strings.ReplaceAll(condition, "$N", "$"+strconv.Itoa(len(args))))
	}
	if !q.Start.IsZero() {
		and("at >= $N", unix(q.Start))
	}
	if !q.End.IsZero() {
		and("at < $N", unix(q.End))
	}
	if q.Service != "" {
		and("service = $N", q.Service)
	}
	if q.Key != "" {
		and("(key_id = $N OR caller = $N)", q.Key)
	}
	if q.Outcome != "" {
		and("outcome = $N", q.Outcome)
	}
	if q.Before > 0 {
		and("seq < $N", q.Before)
	}
	var last int64
	err = t.query(func(r *sql.Rows) error {
		if len(list) == q.Limit {
			next = last // there is one more
			return nil
		}
		e, seq, err := scanAudit(r)
		list, last = append(list, e), seq
		return err
	}, "SELECT seq, "+auditColumns+" FROM audit WHERE "+strings.Join(where, " AND ")+" ORDER BY seq DESC LIMIT $"+strconv.Itoa(len(args)+1), append(args, q.Limit+1)...)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the audit trail: %w", err)
	}
	return list, next, nil
}

func scanAudit(r *sql.Rows) (e trysail.AuditEvent, seq int64, err error) {
	var at int64
	var details string
	err = r.Scan(&seq, &at, &e.Caller.AccessKeyID, &e.Caller.Name, &e.Caller.Role, &e.Operation, &e.Service, &e.Resource, &e.Outcome, &e.ErrorCode,
		&e.RequestID, &e.SourceAddress, &e.UserAgent, &details)
	if err != nil {
		return e, 0, err
	}
	e.At = fromUnix(at)
	if details != "{}" {
		err = json.Unmarshal([]byte(details), &e.Details)
	}
	return e, seq, err
}
