package api

import (
	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

func readMetricData(m members) control.GetContainerServiceMetricDataInput {
	m.require("serviceName", "metricName", "startTime", "endTime", "period", "statistics")
	return control.GetContainerServiceMetricDataInput{
		ServiceName: zeroIfNil(m.string("serviceName")), MetricName: zeroIfNil(m.string("metricName")),
		StartTime: zeroIfNil(m.time("startTime")), EndTime: zeroIfNil(m.time("endTime")),
		Period: zeroIfNil(m.int("period")), Statistics: m.strings("statistics"),
	}
}

func readServiceMetrics(m members) control.GetServiceMetricDataInput {
	m.require("serviceName")
	in := control.GetServiceMetricDataInput{
		ServiceName: zeroIfNil(m.string("serviceName")), MetricNames: m.strings("metricNames"), StartTime: m.time("startTime"), EndTime: m.time("endTime"),
		Statistics: m.strings("statistics"),
	}
	// Zero has a meaning to control, and none to clients.
	in.Period = positive(m, "period", trysail.ValidateMetricPeriod)
	in.Version = positive(m, "version", func(n int) error {
		return trysail.Errorf(trysail.CodeInvalid, `Member "version" must be at least 1, not %d.`, n)
	})
	return in
}

// positive reads an integer; refuse makes the error for one below 1.
func positive(m members, name string, refuse func(int) error) int {
	n := m.int(name)
	if n != nil && *n < 1 {
		m.fail(refuse(*n))
	}
	return zeroIfNil(n)
}

type metricDataResult struct {
	MetricName string            `json:"metricName"`
	MetricData []metricDatapoint `json:"metricData"`
	// MissingServers are those of several servers whose newest points may be missing.
	MissingServers []string `json:"missingServers,omitempty"`
}

// metricDatapoint has the statistics that were asked for.
type metricDatapoint struct {
	Average     *float64 `json:"average,omitzero"`
	Maximum     *float64 `json:"maximum,omitzero"`
	Minimum     *float64 `json:"minimum,omitzero"`
	SampleCount *float64 `json:"sampleCount,omitzero"`
	Sum         *float64 `json:"sum,omitzero"`
	Timestamp   float64  `json:"timestamp"`
	Unit        string   `json:"unit"`
}

// member is the one of a statistic that Lightsail knows.
func (p *metricDatapoint) member(statistic string) **float64 {
	switch statistic {
	case trysail.StatisticAverage:
		return &p.Average
	case trysail.StatisticMaximum:
		return &p.Maximum
	case trysail.StatisticMinimum:
		return &p.Minimum
	case trysail.StatisticSampleCount:
		return &p.SampleCount
	default: // Sum: control refuses others
		return &p.Sum
	}
}

func (v view) metricDataResult(d *control.MetricData) metricDataResult {
	answer := metricDataResult{d.Name, make([]metricDatapoint, len(d.Points)), d.MissingServers}
	for i, p := range d.Points {
		point := metricDatapoint{Timestamp: seconds(p.At), Unit: d.Unit}
		for j, statistic := range d.Statistics {
			*point.member(statistic) = &p.Values[j]
		}
		answer.MetricData[i] = point
	}
	return answer
}

type serviceMetricsResult struct {
	StartTime   float64         `json:"startTime"`
	EndTime     float64         `json:"endTime"`
	Period      int             `json:"period"`
	Metrics     []serviceMetric `json:"metrics"`
	Deployments []metricMarker  `json:"deployments"`
	// MissingServers are those of several servers whose newest points may be missing.
	MissingServers []string `json:"missingServers,omitempty"`
}

type serviceMetric struct {
	MetricName string         `json:"metricName"`
	Unit       string         `json:"unit"`
	MetricData []servicePoint `json:"metricData"`
}

// servicePoint has its statistics by name, because percentiles are any.
type servicePoint struct {
	Timestamp  float64            `json:"timestamp"`
	Statistics map[string]float64 `json:"statistics"`
}

type metricMarker struct {
	Version   int                     `json:"version"`
	State     trysail.DeploymentState `json:"state"`
	CreatedAt float64                 `json:"createdAt"`
}

func (v view) serviceMetricsResult(m *control.ServiceMetrics) serviceMetricsResult {
	answer := serviceMetricsResult{
		StartTime: seconds(m.StartTime), EndTime: seconds(m.EndTime), Period: m.Period,
		Metrics: make([]serviceMetric, len(m.Metrics)), Deployments: make([]metricMarker, len(m.Deployments)), MissingServers: m.MissingServers,
	}
	for i, d := range m.Metrics {
		one := serviceMetric{d.Name, d.Unit, make([]servicePoint, len(d.Points))}
		for j, p := range d.Points {
			statistics := make(map[string]float64, len(d.Statistics))
			for k, name := range d.Statistics {
				statistics[name] = p.Values[k]
			}
			one.MetricData[j] = servicePoint{seconds(p.At), statistics}
		}
		answer.Metrics[i] = one
	}
	for i, d := range m.Deployments {
		answer.Deployments[i] = metricMarker{d.Version, d.State, seconds(d.At)}
	}
	return answer
}
