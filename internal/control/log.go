package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/logs"
	"github.com/trysail/trysail/internal/store"
)

// GetContainerLog returns a page of the lines of a container name: those of all its pods in all kept deployments, with
// the system lines between them. Errors: Invalid (range, pattern, token), NotFound (service, container).
func (c *Control) GetContainerLog(ctx context.Context, caller trysail.Caller, in GetContainerLogInput) (*LogPage, error) {
	if err := caller.May(trysail.RoleRead, "GetContainerLog", in.ServiceName); err != nil {
		return nil, err
	}
	return c.GetPodLog(ctx, caller, GetPodLogInput{GetContainerLogInput: in})
}

// GetPodLog is GetContainerLog that can be asked for the lines of some pods, and says of each line which pod wrote it.
// With a version, the system lines are those that name it; with Previous there are none. Errors: as GetContainerLog.
func (c *Control) GetPodLog(ctx context.Context, caller trysail.Caller, in GetPodLogInput) (*LogPage, error) {
	if err := caller.May(trysail.RoleRead, "GetPodLog", in.ServiceName); err != nil {
		return nil, err
	}
	if err := firstError(trysail.ValidateServiceName(in.ServiceName), trysail.ValidateContainerName(in.ContainerName)); err != nil {
		return nil, err
	}
	q, err := logQuery(in.GetContainerLogInput)
	if err != nil {
		return nil, err
	}
	if in.Version < 0 {
		return nil, trysail.Errorf(trysail.CodeInvalid, "The version must be 1 or more.")
	}
	var pods []trysail.PodRecord
	if q.ServiceID, pods, err = c.containerOf(ctx, in.ServiceName, in.ContainerName); err != nil {
		return nil, err
	}
	late := c.latest(ctx, &q)
	q.Accept = acceptPods(pods, in.Version, in.Previous)
	if in.PodID != "" {
		q.Accept = func(pod, _ string) bool { return pod == in.PodID }
	}
	versions := map[string]int{}
	for _, p := range pods {
		versions[string(p.ID)] = p.Version
	}
	return c.logPage(ctx, q, versions, late)
}

// GetAccessLog returns a page of the requests that the edge logged for a service; in.ContainerName has no meaning.
// Errors: Invalid (range, pattern, token), NotFound.
func (c *Control) GetAccessLog(ctx context.Context, caller trysail.Caller, in GetContainerLogInput) (*LogPage, error) {
	if err := caller.May(trysail.RoleRead, "GetAccessLog", in.ServiceName); err != nil {
		return nil, err
	}
	if err := trysail.ValidateServiceName(in.ServiceName); err != nil {
		return nil, err
	}
	in.ContainerName = logs.AccessLog
	q, err := logQuery(in)
	if err != nil {
		return nil, err
	}
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		s, err := service(tx, in.ServiceName)
		if err == nil {
			q.ServiceID = s.ID
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	late := c.latest(ctx, &q)
	return c.logPage(ctx, q, nil, late)
}

// logQuery reads what all requests for log lines have in common. Errors: Invalid.
func logQuery(in GetContainerLogInput) (q logs.Query, err error) {
	q = logs.Query{Container: in.ContainerName, Token: in.PageToken}
	set(&q.Start, in.StartTime)
	set(&q.End, in.EndTime)
	if in.StartTime != nil && in.EndTime != nil && in.EndTime.Before(*in.StartTime) {
		return q, trysail.Errorf(trysail.CodeInvalid, "The start time must not be after the end time.")
	}
	if q.Filter, err = logs.ParseFilter(in.FilterPattern); err != nil {
		return q, trysail.Errorf(trysail.CodeInvalid, "Invalid filter pattern: %v.", err)
	}
	return q, nil
}

// latest gets the newest lines of all servers, and returns the names of those of which some may be missing.
func (c *Control) latest(ctx context.Context, q *logs.Query) (missing []string) {
	if c.Latest == nil {
		return nil
	}
	for _, late := range c.Latest(ctx) {
		missing = append(missing, late.Name)
		if late.Self != "" && q != nil {
			if q.Late == nil {
				q.Late = map[string]time.Time{}
			}
			q.Late[late.Self] = late.Since
		}
	}
	return missing
}

// logPage runs the query. versions are those of the pods, late the servers of which lines may be missing. Errors: Invalid
// (token).
func (c *Control) logPage(ctx context.Context, q logs.Query, versions map[string]int, late []string) (*LogPage, error) {
	events, next, err := c.Logs.Query(ctx, q)
	if errors.Is(err, logs.ErrBadToken) {
		return nil, trysail.Errorf(trysail.CodeInvalid, "Invalid page token. Use the token of the page before, with the other arguments unchanged.")
	}
	if err != nil {
		return nil, err
	}
	page := &LogPage{NextPageToken: next, MissingServers: late, Events: make([]LogEvent, len(events))}
	for i, e := range events {
		page.Events[i] = LogEvent{CreatedAt: e.At, Message: e.Text, Pod: trysail.PodID(e.Pod), Version: versions[e.Pod], Stderr: e.Stderr}
	}
	return page, nil
}

// acceptPods says whose lines are wanted; nil means everybody's. Pods are in the order of their creation.
func acceptPods(pods []trysail.PodRecord, version int, previous bool) func(pod, text string) bool {
	if version == 0 && !previous {
		return nil
	}
	wanted := map[string]bool{}
	last := map[int]trysail.PodRecord{} // by slot
	for _, p := range pods {
		if version != 0 && p.Version != version {
			continue
		}
		wanted[string(p.ID)] = !previous
		if !p.EndedAt.IsZero() && !p.EndedAt.Before(last[p.Slot].EndedAt) {
			last[p.Slot] = p
		}
	}
	for _, p := range last {
		wanted[string(p.ID)] = true
	}
	prefix := fmt.Sprintf("[deployment:%d]", version)
	return func(pod, text string) bool {
		if pod == "" {
			return !previous && strings.HasPrefix(text, prefix)
		}
		return wanted[pod]
	}
}

// containerOf returns the id of the service if one of its kept deployments has a container of that name, or had one
// whose log is still kept, and the pods that are known.
func (c *Control) containerOf(ctx context.Context, serviceName, container string) (id string, pods []trysail.PodRecord, err error) {
	known := false
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		s, err := service(tx, serviceName)
		if err != nil {
			return err
		}
		id = s.ID
		if pods, err = tx.Pods(s.ID, true); err != nil {
			return err
		}
		list, err := tx.Deployments(s.ID)
		for _, d := range list {
			if _, ok := d.Containers[container]; ok {
				known = true
			}
		}
		return err
	})
	if err != nil || known {
		return id, pods, err
	}
	names, err := c.Logs.Containers(id)
	if err == nil && !slices.Contains(names, container) {
		err = trysail.Errorf(trysail.CodeNotFound, "Container %q not found in service %q.", container, serviceName)
	}
	return id, pods, err
}
