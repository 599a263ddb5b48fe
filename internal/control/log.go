package control

import (
	"context"
	"errors"
	"slices"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/logs"
	"github.com/trysail/trysail/internal/store"
)

// GetContainerLog returns a page of the lines of a container name: those of all its pods in all kept deployments, with
// the system lines between them. Errors: Invalid (range, pattern, token), NotFound (service, container).
func (c *Control) GetContainerLog(ctx context.Context, _ trysail.Caller, in GetContainerLogInput) (*LogPage, error) {
	if err := firstError(trysail.ValidateServiceName(in.ServiceName), trysail.ValidateContainerName(in.ContainerName)); err != nil {
		return nil, err
	}
	q := logs.Query{Container: in.ContainerName, Token: in.PageToken}
	set(&q.Start, in.StartTime)
	set(&q.End, in.EndTime)
	if in.StartTime != nil && in.EndTime != nil && in.EndTime.Before(*in.StartTime) {
		return nil, trysail.Errorf(trysail.CodeInvalid, "The start time must not be after the end time.")
	}
	var err error
	if q.Filter, err = logs.ParseFilter(in.FilterPattern); err != nil {
		return nil, trysail.Errorf(trysail.CodeInvalid, "Invalid filter pattern: %v.", err)
	}
	if q.ServiceID, err = c.containerOf(ctx, in.ServiceName, in.ContainerName); err != nil {
		return nil, err
	}
	events, next, err := c.Logs.Query(ctx, q)
	if errors.Is(err, logs.ErrBadToken) {
		return nil, trysail.Errorf(trysail.CodeInvalid, "Invalid page token. Use the token of the page before, with the other arguments unchanged.")
	}
	if err != nil {
		return nil, err
	}
	page := &LogPage{NextPageToken: next, Events: make([]LogEvent, len(events))}
	for i, e := range events {
		page.Events[i] = LogEvent{CreatedAt: e.At, Message: e.Text}
	}
	return page, nil
}

// containerOf returns the id of the service if one of its kept deployments has a container of that name, or had one
// whose log is still kept.
func (c *Control) containerOf(ctx context.Context, serviceName, container string) (id string, err error) {
	known := false
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		s, err := service(tx, serviceName)
		if err != nil {
			return err
		}
		id = s.ID
		list, err := tx.Deployments(s.ID)
		for _, d := range list {
			if _, ok := d.Containers[container]; ok {
				known = true
			}
		}
		return err
	})
	if err != nil || known {
		return id, err
	}
	names, err := c.Logs.Containers(id)
	if err == nil && !slices.Contains(names, container) {
		err = trysail.Errorf(trysail.CodeNotFound, "Container %q not found in service %q.", container, serviceName)
	}
	return id, err
}
