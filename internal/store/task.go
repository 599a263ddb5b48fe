package store

import (
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/trysail/trysail"
)

// keptTasks is how many ended tasks of a service are kept.
const keptTasks = 100

// InsertTask records that a task shall run, before it is started. The oldest ended ones beyond 100 are forgotten.
func (t *Tx) InsertTask(k *trysail.Task) error {
	t.touch(k.ServiceID)
	command, err := json.Marshal(k.Command)
	if err != nil {
		return err
	}
	err = t.exec(`INSERT INTO tasks (id, service_id, version, container, command, power, created_at, deadline) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		k.ID, k.ServiceID, k.Version, k.Container, string(command), k.Power, unix(k.CreatedAt), unix(k.Deadline))
	if err != nil {
		return fmt.Errorf("inserting a task: %w", err)
	}
	return t.exec(`DELETE FROM tasks WHERE service_id = $1 AND ended_at > 0 AND id NOT IN
		(SELECT id FROM tasks WHERE service_id = $1 AND ended_at > 0 ORDER BY ended_at DESC LIMIT $2)`, k.ServiceID, keptTasks)
}

// UpdateTask writes what can change of a task. Errors: ErrNotFound.
func (t *Tx) UpdateTask(k *trysail.Task) error {
	t.touch(k.ServiceID)
	return t.execOne("UPDATE tasks SET stop_at = $1, ended_at = $2, exit_code = $3, reason = $4 WHERE id = $5",
		unix(k.StopAt), unix(k.EndedAt), k.ExitCode, k.Reason, k.ID)
}

// Tasks lists the tasks of a service by creation time: those that have not ended, or all that are kept.
func (t *Tx) Tasks(serviceID string, ended bool) ([]trysail.Task, error) {
	where := "service_id = $1"
	if !ended {
		where += " AND ended_at = 0"
	}
	return t.tasks(where, serviceID)
}

// Task returns one task. Errors: ErrNotFound.
func (t *Tx) Task(id trysail.PodID) (trysail.Task, error) {
	list, err := t.tasks("id = $1", id)
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return trysail.Task{}, err
	}
	return list[0], nil
}

func (t *Tx) tasks(where string, args ...any) ([]trysail.Task, error) {
	var list []trysail.Task
	err := t.query(func(r *sql.Rows) error {
		var k trysail.Task
		var created, deadline, stop, ended int64
		var command string
		if err := r.Scan(&k.ID, &k.ServiceID, &k.Version, &k.Container, &command, &k.Power, &created, &deadline, &stop, &ended, &k.ExitCode, &k.Reason); err != nil {
			return err
		}
		k.CreatedAt, k.Deadline, k.StopAt, k.EndedAt = fromUnix(created), fromUnix(deadline), fromUnix(stop), fromUnix(ended)
		if err := json.Unmarshal([]byte(command), &k.Command); err != nil {
			return err
		}
		list = append(list, k)
		return nil
	}, `SELECT id, service_id, version, container, command, power, created_at, deadline, stop_at, ended_at, exit_code, reason
		FROM tasks WHERE `+where+" ORDER BY created_at, id", args...)
	if err != nil {
		return nil, fmt.Errorf("reading tasks: %w", err)
	}
	return list, nil
}
