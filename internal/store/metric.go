package store

import (
	"database/sql"
	"fmt"

	"github.com/trysail/trysail"
)

// FailedPod is a pod that ended because something was wrong with it.
type FailedPod struct {
	ID        trysail.PodID
	ServiceID string
	Version   int
}

// LivePods lists the pods of all services that have not ended.
func (t *Tx) LivePods() ([]trysail.PodRecord, error) { return t.pods("ended_at = 0") }

// FailedPods lists the failed pods of all services that are kept, without what was seen of them.
func (t *Tx) FailedPods() ([]FailedPod, error) {
	var list []FailedPod
	err := t.query(func(r *sql.Rows) error {
		var p FailedPod
		err := r.Scan(&p.ID, &p.ServiceID, &p.Version)
		list = append(list, p)
		return err
	}, "SELECT id, service_id, version FROM pods WHERE failed = 1")
	if err != nil {
		return nil, fmt.Errorf("reading failed pods: %w", err)
	}
	return list, nil
}
