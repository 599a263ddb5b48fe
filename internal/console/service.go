package console

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// serviceView is the overview of a service.
type serviceView struct {
	S    *trysail.Service
	Pods []podRow
	Next *progress // of the deployment that is being activated; nil if there is none
	// Failed is the diagnosis of the newest version, if that has failed; FailedVersion says which it is.
	Failed        *trysail.Diagnosis
	FailedVersion int
	Warnings      []trysail.Finding // about the current version
	Requests      int
	Spark         sparkline
}

// podRow is a pod as people see it.
type podRow struct {
	trysail.PodRecord
	State string
}

// showService is the overview.
func (c *Console) showService(v *visit) (*page, error) {
	s, err := c.serviceOf(v)
	if err != nil {
		return nil, err
	}
	view := serviceView{S: s}
	pods, err := c.control.ListPods(v.Context(), v.caller, control.ListPodsInput{ServiceName: s.Name, Ended: s.Next != nil})
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if p.EndedAt.IsZero() {
			view.Pods = append(view.Pods, podRow{p, podState(&p)})
		}
	}
	slices.SortStableFunc(view.Pods, func(a, b podRow) int {
		return cmp.Or(cmp.Compare(b.Version, a.Version), cmp.Compare(a.Slot, b.Slot))
	})
	if s.Next != nil {
		if view.Next, err = c.progressOf(v, s, pods); err != nil {
			return nil, err
		}
	}
	if err := c.addVerdicts(v, s, &view); err != nil {
		return nil, err
	}
	if view.Requests, view.Spark, err = c.requestsOf(v, s.Name); err != nil {
		return nil, err
	}
	return c.servicePage(s, &page{Template: "service", Title: "Overview", Tab: "overview", D: view, Live: true}), nil
}

// serviceOf finds the service that the path names.
func (c *Console) serviceOf(v *visit) (*trysail.Service, error) {
	list, err := c.control.GetContainerServices(v.Context(), v.caller, v.service())
	if err != nil {
		return nil, err
	}
	if v.service() == "" || len(list) != 1 {
		return nil, trysail.Errorf(trysail.CodeNotFound, "Service %q not found.", v.service())
	}
	return &list[0], nil
}

// servicePage completes a page of a service.
func (c *Console) servicePage(s *trysail.Service, p *page) *page {
	p.Service, p.Section = s, "services"
	return p
}

// serviceURL is the console's page of a service, or one below it.
func serviceURL(name string, below ...any) string {
	var u strings.Builder
	u.WriteString(Root + "services/" + name)
	for _, b := range below {
		fmt.Fprintf(&u, "/%v", b)
	}
	return u.String()
}

// addVerdicts adds what is known to be wrong.
func (c *Console) addVerdicts(v *visit, s *trysail.Service, view *serviceView) error {
	newest, err := c.control.GetDeploymentRecord(v.Context(), v.caller, s.Name, 0)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if newest.Deployment.State == trysail.DeploymentFailed {
		view.Failed, view.FailedVersion = newest.Diagnosis, newest.Deployment.Version
	}
	if s.Current == nil {
		return nil
	}
	current := newest
	if newest.Deployment.Version != s.Current.Version {
		if current, err = c.control.GetDeploymentRecord(v.Context(), v.caller, s.Name, s.Current.Version); gone(err) {
			return nil
		} else if err != nil {
			return err
		}
	}
	if d := current.Diagnosis; d != nil {
		view.Warnings = d.Warnings
		if d.Code != trysail.DiagnosisOK { // a pod of the version that serves has failed
			view.Warnings = append([]trysail.Finding{{Code: d.Code, Confidence: d.Confidence, ContainerName: d.ContainerName, Summary: d.Summary, Fix: d.Fix}}, view.Warnings...)
		}
	}
	return nil
}

func podState(p *trysail.PodRecord) string {
	switch {
	case !p.EndedAt.IsZero() && p.Failed:
		return "failed"
	case !p.EndedAt.IsZero():
		return "ended"
	case !p.HoldUntil.IsZero() && !p.Live():
		return "held"
	case !p.Live():
		return "stopping"
	case p.HealthyAt.IsZero():
		return "starting"
	}
	return "healthy"
}

// progress is how far a deployment has come.
type progress struct {
	Version  int
	Since    time.Time
	Deadline time.Time
	Stages   []stage
	Lines    []control.LogEvent // what Trysail said of it
}

// stage is a part of the way: done, now, failed or still to come.
type stage struct{ Name, State, Text string }

// maxLines is how many of the newest system lines are shown of a deployment.
const maxLines = 8

// progressOf tells from the pods how far the next deployment is.
func (c *Console) progressOf(v *visit, s *trysail.Service, pods []trysail.PodRecord) (*progress, error) {
	d := s.Next
	p := &progress{Version: d.Version, Since: d.CreatedAt, Deadline: d.Deadline}
	started, healthy, failed := 0, 0, 0
	for _, pod := range pods {
		switch {
		case pod.Version != d.Version:
		case pod.Failed:
			failed++
		case pod.Live() && !pod.HealthyAt.IsZero():
			healthy++
			started++
		case pod.Live():
			started++
		}
	}
	p.Stages = stages(s.Scale, started, healthy, failed)
	lines, err := c.systemLines(v, s.Name, d)
	p.Lines = lines[max(0, len(lines)-maxLines):]
	return p, err
}

// stages are those of a deployment of which so many pods were started, are healthy and have failed.
func stages(scale, started, healthy, failed int) []stage {
	list := []stage{{Name: "Images", Text: "fetch and examine"}, {Name: "Pods", Text: "start"}, {Name: "Health", Text: "answer the check"}, {Name: "Switch", Text: "route requests"}}
	now := 0
	if started > 0 || failed > 0 {
		now = 1
		list[1].Text = fmt.Sprintf("%d of %d started", started, scale)
	}
	if failed > 0 {
		list[1].Text += fmt.Sprintf(", %s failed", plural(failed, "start", "starts"))
	}
	if started >= scale {
		now = 2
		list[2].Text = fmt.Sprintf("%d of %d healthy", healthy, scale)
	}
	if started >= scale && healthy >= scale {
		now = 3
	}
	for i := range list {
		list[i].State = "next"
		if i < now {
			list[i].State = "done"
		}
	}
	list[now].State = "now"
	if now == 1 && failed > 0 {
		list[1].State = "failed"
	}
	return list
}

// systemLines are what Trysail itself wrote into the log of a version.
func (c *Console) systemLines(v *visit, service string, d *trysail.Deployment) (lines []control.LogEvent, err error) {
	names := d.ContainerNames()
	if len(names) == 0 {
		return nil, nil
	}
	in := control.GetPodLogInput{Version: d.Version}
	in.ServiceName, in.ContainerName, in.StartTime, in.FilterPattern = service, names[0], &d.CreatedAt, `?"[trysail]" ?"[deployment:"`
	for range maxPages {
		found, err := c.control.GetPodLog(v.Context(), v.caller, in)
		if gone(err) {
			return lines, nil
		}
		if err != nil {
			return nil, err
		}
		for _, e := range found.Events {
			if e.Pod == "" {
				lines = append(lines, e)
			}
		}
		if in.PageToken = found.NextPageToken; in.PageToken == "" {
			break
		}
	}
	return lines, nil
}

// maxPages bounds how many pages of a log one page of the console is made of.
const maxPages = 20
