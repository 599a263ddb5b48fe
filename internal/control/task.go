package control

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// CreateTaskInput is the request of CreateTask.
type CreateTaskInput struct {
	ServiceName   string
	Version       int    // 0: the version that serves
	ContainerName string // empty: the one with the public endpoint, or else the first
	Command       []string
	Timeout       time.Duration // 0: trysail.DefaultTaskTime
}

// CreateTask runs a command once, in a pod of its own with the image and environment of a container of the service.
// Errors: Invalid (command, time, nothing serves, too many), NotFound (service, version, container).
func (c *Control) CreateTask(ctx context.Context, caller trysail.Caller, in CreateTaskInput) (_ *trysail.Task, err error) {
	defer c.auditFailure(ctx, caller, "CreateTask", in.ServiceName, &err)
	if err := caller.May(trysail.RoleDeploy, "CreateTask", in.ServiceName); err != nil {
		return nil, err
	}
	if err := firstError(trysail.ValidateServiceName(in.ServiceName), validateCommand(in.Command)); err != nil {
		return nil, err
	}
	if in.Timeout == 0 {
		in.Timeout = trysail.DefaultTaskTime
	}
	if in.Timeout < time.Second || in.Timeout > trysail.MaxTaskTime {
		return nil, trysail.Errorf(trysail.CodeInvalid, "A task can run for 1 to %d seconds.", int(trysail.MaxTaskTime.Seconds()))
	}
	k, details := &trysail.Task{Command: in.Command}, map[string]string{}
	_, err = c.change(ctx, caller, "CreateTask", in.ServiceName, func(tx *store.Tx) error {
		s, err := service(tx, in.ServiceName)
		if err != nil {
			return err
		}
		if s.State == trysail.ServiceDeleting {
			return busy(s)
		}
		if in.Version == 0 && s.Current == nil {
			return trysail.Errorf(trysail.CodeInvalid, "No version of service %q serves. Name the version that the task shall use.", s.Name)
		}
		version := in.Version
		if version == 0 {
			version = s.Current.Version
		}
		running, err := tx.Tasks(s.ID, false)
		if err != nil {
			return err
		}
		if len(running) >= trysail.MaxTasks {
			return trysail.Errorf(trysail.CodeInvalid, "Service %q has %d tasks that run, the most it may have.", s.Name, len(running))
		}
		k.ID = trysail.PodID(s.Name[:min(len(s.Name), 40)] + "-task-" + strings.ToLower(rand.Text()[:10]))
		k.ServiceID, k.Version, k.Power = s.ID, version, s.Power
		k.CreatedAt, k.Deadline = tx.Now(), tx.Now().Add(in.Timeout)
		if k.Container, err = containerForExec(tx, s, trysail.PodRecord{Version: version}, in.ContainerName); err != nil {
			return err
		}
		details["task"], details["version"], details["container"] = string(k.ID), strconv.Itoa(version), k.Container
		if details["command"], err = auditCommand(tx, s, version, in.Command); err != nil {
			return err
		}
		return tx.InsertTask(k)
	}, details)
	if err != nil {
		return nil, err
	}
	return k, nil
}

// GetTask returns a task. Errors: NotFound.
func (c *Control) GetTask(ctx context.Context, caller trysail.Caller, serviceName, id string) (k *trysail.Task, err error) {
	if err := caller.May(trysail.RoleRead, "GetTask", serviceName); err != nil {
		return nil, err
	}
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		k, err = task(tx, serviceName, id)
		return err
	})
	return k, err
}

// ListTasks lists the tasks of a service that run, and those of the ended ones that are kept, newest first. Errors: NotFound.
func (c *Control) ListTasks(ctx context.Context, caller trysail.Caller, serviceName string) (list []trysail.Task, err error) {
	if err := caller.May(trysail.RoleRead, "ListTasks", serviceName); err != nil {
		return nil, err
	}
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		s, err := service(tx, serviceName)
		if err != nil {
			return err
		}
		list, err = tx.Tasks(s.ID, true)
		slices.Reverse(list)
		return err
	})
	return list, err
}

// StopTask asks for the end of a task. One that has ended stays as it is. Errors: NotFound.
func (c *Control) StopTask(ctx context.Context, caller trysail.Caller, serviceName, id string) (err error) {
	defer c.auditFailure(ctx, caller, "StopTask", serviceName, &err)
	if err := caller.May(trysail.RoleDeploy, "StopTask", serviceName); err != nil {
		return err
	}
	_, err = c.change(ctx, caller, "StopTask", serviceName, func(tx *store.Tx) error {
		k, err := task(tx, serviceName, id)
		if err != nil || !k.EndedAt.IsZero() || !k.StopAt.IsZero() {
			return err
		}
		k.StopAt = tx.Now()
		return tx.UpdateTask(k)
	}, map[string]string{"task": id})
	return err
}

// task finds a task of a service. Errors: NotFound.
func task(tx *store.Tx, serviceName, id string) (*trysail.Task, error) {
	s, err := service(tx, serviceName)
	if err != nil {
		return nil, err
	}
	k, err := tx.Task(trysail.PodID(id))
	if errors.Is(err, store.ErrNotFound) || err == nil && k.ServiceID != s.ID {
		return nil, trysail.Errorf(trysail.CodeNotFound, "Task %q of service %q not found.", id, serviceName)
	}
	return &k, err
}
