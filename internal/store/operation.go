package store

import (
	"cmp"
	"database/sql"
	"math"
	"strconv"

	"github.com/trysail/trysail"
)

// keptOperations is how many operations are kept, so that years of calls do not fill the disk.
const keptOperations = 10_000

// InsertOperation records an operation and forgets the oldest ones.
func (t *Tx) InsertOperation(o trysail.Operation) error {
	var seq int64
	err := t.row(`INSERT INTO operations (id, resource, resource_type, type, details, status, created_at, changed_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING seq`, o.ID, o.ResourceName, cmp.Or(o.ResourceType, trysail.ResourceService), o.Type, o.Details, o.Status, unix(o.CreatedAt), unix(o.CreatedAt)).Scan(&seq)
	if err != nil {
		return err
	}
	return t.exec("DELETE FROM operations WHERE seq <= $1", seq-keptOperations)
}

// FinishOperations gives the operations of a service that are under way their end. A service has one change at a time,
// so all of them end together. code and details are empty unless they failed.
func (t *Tx) FinishOperations(service string, status trysail.OperationStatus, code, details string) error {
	return t.exec("UPDATE operations SET status = $1, changed_at = $2, error_code = $3, error_details = $4 WHERE resource = $5 AND status = $6",
		status, unix(t.now), code, details, service, trysail.OperationStarted)
}

// Operation finds an operation. Errors: ErrNotFound.
func (t *Tx) Operation(id string) (trysail.Operation, error) {
	list, _, err := t.operations("id = $1", 1, id)
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return trysail.Operation{}, err
	}
	return list[0], nil
}

// Operations lists the operations on a resource, or all for "", newest first and at most limit. before is the next of
// the page before, or 0; next is 0 when there is no more.
func (t *Tx) Operations(resource string, before int64, limit int) (list []trysail.Operation, next int64, err error) {
	if before == 0 {
		before = math.MaxInt64
	}
	list, last, err := t.operations("(resource = $1 OR $1 = '') AND seq < $2", limit+1, resource, before)
	if len(list) > limit {
		return list[:limit], last[limit-1], err
	}
	return list, 0, err
}

func (t *Tx) operations(where string, limit int, args ...any) (list []trysail.Operation, seqs []int64, err error) {
	err = t.query(func(r *sql.Rows) error {
		var o trysail.Operation
		var seq, created, changed int64
		err := r.Scan(&seq, &o.ID, &o.ResourceName, &o.ResourceType, &o.Type, &o.Details, &o.Status, &created, &changed, &o.ErrorCode, &o.ErrorDetails)
		o.CreatedAt, o.ChangedAt = fromUnix(created), fromUnix(changed)
		list, seqs = append(list, o), append(seqs, seq)
		return err
	}, "SELECT seq, id, resource, resource_type, type, details, status, created_at, changed_at, error_code, error_details FROM operations WHERE "+where+
		" ORDER BY seq DESC LIMIT $"+strconv.Itoa(len(args)+1), append(args, limit)...)
	return list, seqs, err
}
