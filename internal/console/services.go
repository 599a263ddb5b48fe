package console

import (
	"errors"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// serviceRow is a service in the list.
type serviceRow struct {
	*trysail.Service
	// Requests are those of the last hour; Spark is their curve.
	Requests int
	Spark    sparkline
	// Failed is the newest version if it failed, so that what is wrong can be seen at a glance.
	Failed int
}

// servicesView is the list of services.
type servicesView struct {
	Rows       []serviceRow
	Endpoint   string
	Everything bool // the caller may create services
}

func (c *Console) showServices(v *visit) (*page, error) {
	all, err := c.control.GetContainerServices(v.Context(), v.caller, "")
	if err != nil {
		return nil, err
	}
	view := servicesView{Endpoint: c.cfg.Endpoint, Everything: v.caller.May(trysail.RoleAdmin, "CreateContainerService", "") == nil}
	for i := range all {
		row := serviceRow{Service: &all[i]}
		if row.Requests, row.Spark, err = c.requestsOf(v, all[i].Name); err != nil {
			return nil, err
		}
		if row.Failed, err = c.failedOf(v, &all[i]); err != nil {
			return nil, err
		}
		view.Rows = append(view.Rows, row)
	}
	return &page{Template: "services", Title: "Services", Section: "services", D: view, Live: true}, nil
}

// requestsOf is what a service answered in the last hour.
func (c *Console) requestsOf(v *visit, name string) (total int, line sparkline, err error) {
	end := time.Now().Truncate(time.Minute)
	start := end.Add(-time.Hour)
	if c.control.Metrics == nil {
		return 0, line, nil
	}
	m, err := c.control.GetServiceMetricData(v.Context(), v.caller, control.GetServiceMetricDataInput{
		ServiceName: name, MetricNames: []string{trysail.MetricRequests}, StartTime: &start, EndTime: &end, Period: 120, Statistics: []string{trysail.StatisticSum},
	})
	if gone(err) || err == nil && len(m.Metrics) == 0 {
		return 0, line, nil
	}
	if err != nil {
		return 0, line, err
	}
	for _, p := range m.Metrics[0].Points {
		total += int(p.Values[0])
	}
	return total, newSparkline(m.Metrics[0].Points, start, end, 2*time.Minute), nil
}

// failedOf is the newest version if it has failed, else 0.
func (c *Console) failedOf(v *visit, s *trysail.Service) (version int, err error) {
	r, err := c.control.GetDeploymentRecord(v.Context(), v.caller, s.Name, 0)
	if gone(err) {
		return 0, nil
	}
	if err != nil || r.Deployment.State != trysail.DeploymentFailed {
		return 0, err
	}
	return r.Deployment.Version, nil
}

// gone reports whether something does not exist, perhaps because it was deleted while the page was made.
func gone(err error) bool {
	e, ok := errors.AsType[*trysail.Error](err)
	return ok && e.Code == trysail.CodeNotFound
}
