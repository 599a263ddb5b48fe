package console

import (
	"slices"
	"strconv"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// metricsView is the charts of a service.
type metricsView struct {
	Ranges   []rangeChoice
	Range    string
	Versions []int
	Version  int
	Charts   []chart
	Start    time.Time
	End      time.Time
	Period   string
	Missing  []string // servers whose newest points may be missing
}

func metricRanges() []rangeChoice {
	return []rangeChoice{
		{"1h", "hour", time.Hour},
		{"6h", "6 hours", 6 * time.Hour},
		{"24h", "24 hours", 24 * time.Hour},
		{"7d", "7 days", 7 * 24 * time.Hour},
		{"30d", "30 days", 30 * 24 * time.Hour},
	}
}

// showMetrics draws what the pods use and how requests are answered.
func (c *Console) showMetrics(v *visit) (*page, error) {
	s, err := c.serviceOf(v)
	if err != nil {
		return nil, err
	}
	view := metricsView{Ranges: metricRanges(), Range: v.URL.Query().Get("range")}
	if view.Range == "" {
		view.Range = view.Ranges[0].Value
	}
	i := slices.IndexFunc(view.Ranges, func(r rangeChoice) bool { return r.Value == view.Range })
	if i < 0 {
		return nil, trysail.Errorf(trysail.CodeInvalid, "The time range is not one of those offered.")
	}
	if text := v.URL.Query().Get("version"); text != "" {
		if view.Version, err = strconv.Atoi(text); err != nil || view.Version < 1 {
			return nil, trysail.Errorf(trysail.CodeInvalid, "The version must be a number.")
		}
	}
	all, err := c.control.GetContainerServiceDeployments(v.Context(), v.caller, s.Name)
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		view.Versions = append(view.Versions, d.Version)
	}
	view.End = time.Now().UTC().Truncate(time.Minute).Add(time.Minute) // with what happened this minute
	view.Start = view.End.Add(-view.Ranges[i].length)
	if err := c.draw(v, s.Name, &view); err != nil {
		return nil, err
	}
	return c.servicePage(s, &page{Template: "metrics", Title: "Metrics", Tab: "metrics", D: view, Live: view.Range == "1h"}), nil
}

func (c *Console) draw(v *visit, service string, view *metricsView) error {
	m, err := c.control.GetServiceMetricData(v.Context(), v.caller, control.GetServiceMetricDataInput{
		ServiceName: service, StartTime: &view.Start, EndTime: &view.End, Version: view.Version,
	})
	if err != nil {
		return err
	}
	view.Missing = m.MissingServers
	view.Period = coarse(time.Duration(m.Period) * time.Second)
	sum := trysail.StatisticSum
	view.Charts = []chart{
		newChart("requests", "Requests by status", "Count", m, true,
			measure{trysail.MetricRequests2xx, sum, "2xx", "s1"}, measure{trysail.MetricRequests3xx, sum, "3xx", "s3"},
			measure{trysail.MetricRequests4xx, sum, "4xx", "s4"}, measure{trysail.MetricRequests5xx, sum, "5xx", "s2"}),
		newChart("latency", "Latency", "Milliseconds", m, false,
			measure{trysail.MetricLatency, "p50", "p50", "s1"}, measure{trysail.MetricLatency, "p90", "p90", "s3"}, measure{trysail.MetricLatency, "p99", "p99", "s2"}),
		newChart("cpu", "CPU of its power", "Percent", m, false,
			measure{trysail.MetricCPU, trysail.StatisticAverage, "average", "s1"}, measure{trysail.MetricCPU, trysail.StatisticMaximum, "highest pod", "s2"},
			measure{trysail.MetricThrottling, trysail.StatisticMaximum, "throttled", "s3"}),
		newChart("memory", "Memory of its power", "Percent", m, false,
			measure{trysail.MetricMemory, trysail.StatisticAverage, "average", "s1"}, measure{trysail.MetricMemory, trysail.StatisticMaximum, "highest pod", "s2"}),
		newChart("bytes", "Traffic", "Bytes", m, true,
			measure{trysail.MetricBytesOut, sum, "out", "s1"}, measure{trysail.MetricBytesIn, sum, "in", "s2"}),
		newChart("trouble", "Trouble", "Count", m, true,
			measure{trysail.MetricRestarts, sum, "restarts", "s1"}, measure{trysail.MetricProbeFailures, sum, "failed health checks", "s2"},
			measure{trysail.MetricRequestsCanceled, sum, "canceled requests", "s3"}),
	}
	return nil
}
