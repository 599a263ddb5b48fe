package control

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/metrics"
	"github.com/trysail/trysail/internal/store"
)

// GetContainerServiceMetricDataInput is the request of GetContainerServiceMetricData.
type GetContainerServiceMetricDataInput struct {
	ServiceName string
	MetricName  string
	StartTime   time.Time
	EndTime     time.Time
	Period      int // seconds
	Statistics  []string
}

// MetricData is the points of one metric.
type MetricData struct {
	Name       string
	Unit       string
	Statistics []string      // Average, p99, …
	Points     []MetricPoint // ascending by time
	// MissingServers are the names of servers whose newest points may be missing.
	MissingServers []string
}

// MetricPoint is the values of the statistics, in their order, of the period that begins at At.
type MetricPoint struct {
	At     time.Time
	Values []float64
}

// GetServiceMetricDataInput is the request of GetServiceMetricData. Every member but the service's name has a default.
type GetServiceMetricDataInput struct {
	ServiceName string
	MetricNames []string // empty: all
	StartTime   *time.Time
	EndTime     *time.Time
	Period      int      // seconds; 0: such that there are about a hundred points
	Statistics  []string // empty: what the metric has, latency with p50, p90 and p99
	Version     int      // 0: all versions together
}

// ServiceMetrics is the answer of GetServiceMetricData.
type ServiceMetrics struct {
	StartTime   time.Time
	EndTime     time.Time
	Period      int
	Metrics     []MetricData
	Deployments []MetricMarker // those of the range, ascending by time
	// MissingServers are the names of servers whose newest points may be missing.
	MissingServers []string
}

// MetricMarker is a deployment, to be drawn beside the points.
type MetricMarker struct {
	Version int
	At      time.Time // when it was made; when it was first seen, of one that is not kept any more
	State   trysail.DeploymentState
}

// maxMetricPoints bounds the points of one answer, over all metrics and statistics: more than a whole two weeks of
// minutes of all metrics of one statistic each.
const maxMetricPoints = 400_000

// GetContainerServiceMetricData returns points of CPU or memory. Unlike on AWS those of earlier deployments stay.
// Errors: Invalid, NotFound.
func (c *Control) GetContainerServiceMetricData(ctx context.Context, caller trysail.Caller, in GetContainerServiceMetricDataInput) (*MetricData, error) {
	if err := caller.May(trysail.RoleRead, "GetContainerServiceMetricData", in.ServiceName); err != nil {
		return nil, err
	}
	err := firstError(
		trysail.ValidateServiceName(in.ServiceName), trysail.ValidateMetricName(in.MetricName, trysail.LightsailMetrics()),
		trysail.ValidateMetricPeriod(in.Period), trysail.ValidateTimeRange(in.StartTime, in.EndTime))
	if err != nil {
		return nil, err
	}
	if len(in.Statistics) == 0 {
		return nil, trysail.Errorf(trysail.CodeInvalid, "Statistics must not be empty. Name one or more of: Minimum, Maximum, Sum, Average, SampleCount.")
	}
	for _, s := range in.Statistics {
		if err := trysail.ValidateStatistic(s); err != nil {
			return nil, err
		}
	}
	services, err := c.GetContainerServices(ctx, caller, in.ServiceName)
	if err != nil {
		return nil, err
	}
	data := MetricData{Name: in.MetricName, Unit: trysail.MetricUnit(in.MetricName), Statistics: in.Statistics, MissingServers: c.latest(ctx, nil)}
	_, err = c.Metrics.Query(ctx, metrics.Query{
		ServiceID: services[0].ID, From: in.StartTime, To: in.EndTime,
		Period: time.Duration(max(in.Period, trysail.LightsailResolution)) * time.Second, Metrics: []string{in.MetricName},
	}, data.add)
	return &data, err
}

// add appends the bucket's statistics, if it has any: a metric has all of them or none.
func (d *MetricData) add(b *metrics.Bucket) {
	values := make([]float64, len(d.Statistics))
	for i, s := range d.Statistics {
		v, ok := b.Statistic(d.Name, s)
		if !ok {
			return
		}
		values[i] = v
	}
	d.Points = append(d.Points, MetricPoint{b.At, values})
}

// GetServiceMetricData returns points of any metrics, with the deployments of the time. Errors: Invalid, NotFound.
func (c *Control) GetServiceMetricData(ctx context.Context, caller trysail.Caller, in GetServiceMetricDataInput) (*ServiceMetrics, error) {
	if err := caller.May(trysail.RoleRead, "GetServiceMetricData", in.ServiceName); err != nil {
		return nil, err
	}
	if err := trysail.ValidateServiceName(in.ServiceName); err != nil {
		return nil, err
	}
	out, err := in.complete(time.Now())
	if err != nil {
		return nil, err
	}
	services, err := c.GetContainerServices(ctx, caller, in.ServiceName)
	if err != nil {
		return nil, err
	}
	out.MissingServers = c.latest(ctx, nil)
	points := 0
	seen, err := c.Metrics.Query(ctx, metrics.Query{
		ServiceID: services[0].ID, From: out.StartTime, To: out.EndTime, Period: time.Duration(out.Period) * time.Second, Version: in.Version, Metrics: in.MetricNames,
	}, func(b *metrics.Bucket) {
		for i := range out.Metrics {
			if points += len(out.Metrics[i].Statistics); points <= maxMetricPoints {
				out.Metrics[i].add(b)
			}
		}
	})
	if err == nil && points > maxMetricPoints {
		err = trysail.Errorf(trysail.CodeInvalid, "The answer would have more than %d values. Choose a longer period, a shorter range or fewer metrics.", maxMetricPoints)
	}
	if err != nil {
		return nil, err
	}
	out.Deployments, err = c.markers(ctx, services[0].ID, out, seen)
	return out, err
}

// usual is what is answered when no statistics are asked for.
func usual(unit string) []string {
	if unit == "Milliseconds" {
		return []string{"p50", "p90", "p99", trysail.StatisticSampleCount}
	}
	return trysail.Statistics(unit)
}

// complete checks the request and fills in the defaults: the hour until now, and about a hundred points.
func (in *GetServiceMetricDataInput) complete(now time.Time) (*ServiceMetrics, error) {
	out := &ServiceMetrics{EndTime: now.UTC(), Period: in.Period}
	if in.EndTime != nil {
		out.EndTime = *in.EndTime
	}
	out.StartTime = out.EndTime.Add(-time.Hour)
	if in.StartTime != nil {
		out.StartTime = *in.StartTime
	}
	if err := trysail.ValidateTimeRange(out.StartTime, out.EndTime); err != nil {
		return nil, err
	}
	if out.Period == 0 {
		out.Period = period(out.EndTime.Sub(out.StartTime))
	}
	if err := trysail.ValidateMetricPeriod(out.Period); err != nil {
		return nil, err
	}
	names := in.MetricNames
	if len(names) == 0 {
		names = trysail.Metrics()
	}
	for _, name := range names {
		if err := trysail.ValidateMetricName(name, trysail.Metrics()); err != nil {
			return nil, err
		}
		for _, s := range in.Statistics {
			if err := trysail.ValidateMetricStatistic(name, s); err != nil {
				return nil, err
			}
		}
		data := MetricData{Name: name, Unit: trysail.MetricUnit(name), Statistics: in.Statistics}
		if len(data.Statistics) == 0 {
			data.Statistics = usual(data.Unit)
		}
		out.Metrics = append(out.Metrics, data)
	}
	return out, nil
}

// period is the shortest of some round ones with which the range has no more than a hundred and twenty points.
func period(span time.Duration) int {
	const most = 120
	for _, seconds := range [...]int{60, 300, 900, 3600, 4 * 3600} {
		if span <= most*time.Duration(seconds)*time.Second {
			return seconds
		}
	}
	return trysail.MaxMetricPeriod
}

// markers are the deployments of the range: those that are kept, and those of which only points are left.
func (c *Control) markers(ctx context.Context, serviceID string, in *ServiceMetrics, seen map[int]time.Time) ([]MetricMarker, error) {
	var list []MetricMarker
	err := c.Store.View(ctx, func(tx *store.Tx) error {
		kept, err := tx.Deployments(serviceID)
		for _, d := range kept {
			delete(seen, d.Version)
			if !d.CreatedAt.Before(in.StartTime) && d.CreatedAt.Before(in.EndTime) {
				list = append(list, MetricMarker{d.Version, d.CreatedAt, d.State})
			}
		}
		return err
	})
	first := in.StartTime.Add(time.Duration(in.Period) * time.Second)
	delete(seen, 0) // requests that no version was asked for
	for version, at := range seen {
		if at.After(first) { // one that is seen from the begin was made before
			list = append(list, MetricMarker{version, at, trysail.DeploymentInactive})
		}
	}
	slices.SortFunc(list, func(a, b MetricMarker) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Version, b.Version)) })
	return list, err
}
