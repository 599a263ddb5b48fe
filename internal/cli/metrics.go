package cli

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trysail/trysail"
)

// metricOptions are the flags of metrics.
type metricOptions struct {
	since, until string
	period       time.Duration
	version      int
}

// metricsAnswer is the answer of GetServiceMetricData.
type metricsAnswer struct {
	StartTime   float64        `json:"startTime"`
	EndTime     float64        `json:"endTime"`
	Period      int            `json:"period"`
	Metrics     []metricSeries `json:"metrics"`
	Deployments []metricMarker `json:"deployments"`

	MissingServers []string `json:"missingServers,omitempty"`
}

type metricSeries struct {
	MetricName string        `json:"metricName"`
	Unit       string        `json:"unit"`
	MetricData []metricPoint `json:"metricData"`
}

type metricPoint struct {
	Timestamp  float64            `json:"timestamp"`
	Statistics map[string]float64 `json:"statistics"`
}

type metricMarker struct {
	Version   int     `json:"version"`
	State     string  `json:"state"`
	CreatedAt float64 `json:"createdAt"`
}

func (a *App) metricsCommand() *cobra.Command {
	var o metricOptions
	cmd := &cobra.Command{
		Use:   "metrics SERVICE [METRIC…]",
		Short: "Draw what a service uses and how it answers",
		Long: `Draw what a service uses and how it answers: CPU and memory of the limit, requests, errors, latency, bytes, restarts.
Points of a minute are kept for two weeks, points of an hour for fifteen months, over all deployments, which are marked.

Without METRIC those are drawn that have something to show. On a terminal they are charts, otherwise a table. In a chart
CPU and memory are averages, latency is the 99th percentile, and everything else is the sum of each period.

Metrics: ` + strings.Join(trysail.Metrics(), ", "),
		Example: `  trysail metrics web
  trysail metrics web Latency Requests5xx --since 2d
  trysail metrics web --version 7 --since 2026-11-20 --until 2026-11-21 --output json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return Usagef("the service is missing: trysail metrics SERVICE")
			}
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return a.completeService(cmd, args, toComplete)
			}
			return trysail.Metrics(), cobra.ShellCompDirectiveNoFileComp
		},
	}
	f := a.commonFlags(cmd)
	cmd.Flags().StringVar(&o.since, "since", "1h", "from then on: 10m, 36h, 7d, 2026-11-20, 2026-11-20T10:00:00Z, or Unix seconds")
	cmd.Flags().StringVar(&o.until, "until", "", "up to then; by default until now")
	cmd.Flags().DurationVar(&o.period, "period", 0, "span of one point, such as 5m, in whole minutes up to 24h; by default what fits")
	cmd.Flags().IntVar(&o.version, "version", 0, "only this version of the deployment; 0: all together")
	a.completeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s := a.screen(a.Out)
		in, err := o.request(args, time.Now(), s.chartWidth())
		if err != nil {
			return err
		}
		c, asJSON, err := a.begin(f)
		if err != nil {
			return err
		}
		var out metricsAnswer
		if err := c.call(cmd.Context(), "GetServiceMetricData", in, &out); err != nil {
			return err
		}
		c.noteMissing(out.MissingServers)
		if asJSON {
			return printJSON(a.Out, out.wire())
		}
		return out.print(s, args[0], len(args) > 1)
	}
	return cmd
}

// request turns arguments and flags into the request. Errors: usage.
func (o *metricOptions) request(args []string, now time.Time, width int) (map[string]any, error) {
	from, err := parseTime("--since", o.since, now)
	if err != nil {
		return nil, err
	}
	to, err := parseTime("--until", o.until, now)
	if err != nil {
		return nil, err
	}
	if to.IsZero() {
		to = now
	}
	if from.IsZero() {
		from = to.Add(-time.Hour)
	}
	switch {
	case !from.Before(to):
		return nil, Usagef("--since must lie before --until")
	case o.version < 0:
		return nil, Usagef("--version must be 1 or more")
	case o.period < 0 || o.period%time.Minute != 0 || o.period > 24*time.Hour:
		return nil, Usagef("--period %v must be whole minutes, up to 24h", o.period)
	}
	period := o.period
	if period == 0 {
		period = fitting(to.Sub(from), width)
	}
	in := map[string]any{"serviceName": args[0], "startTime": from.Unix(), "endTime": to.Unix() + 1, "period": int(period / time.Second)}
	if len(args) > 1 {
		in["metricNames"] = args[1:]
	}
	if o.version > 0 {
		in["version"] = o.version
	}
	return in, nil
}

// fitting is the shortest of some round periods with which the span has no more points than columns.
func fitting(span time.Duration, columns int) time.Duration {
	for _, minutes := range [...]int{1, 2, 5, 10, 15, 30, 60, 120, 240, 360, 720} {
		if span <= time.Duration(minutes*(columns-1))*time.Minute {
			return time.Duration(minutes) * time.Minute
		}
	}
	return 24 * time.Hour
}

// wire has the times as the AWS CLI prints them.
func (m *metricsAnswer) wire() map[string]any {
	series := []any{}
	for _, s := range m.Metrics {
		points := []any{}
		for _, p := range s.MetricData {
			points = append(points, map[string]any{"timestamp": wire(unixTime(p.Timestamp)), "statistics": p.Statistics})
		}
		series = append(series, map[string]any{"metricName": s.MetricName, "unit": s.Unit, "metricData": points})
	}
	markers := []any{}
	for _, d := range m.Deployments {
		markers = append(markers, map[string]any{"version": d.Version, "state": d.State, "createdAt": wire(unixTime(d.CreatedAt))})
	}
	answer := map[string]any{
		"startTime": wire(unixTime(m.StartTime)), "endTime": wire(unixTime(m.EndTime)), "period": m.Period, "metrics": series, "deployments": markers,
	}
	if len(m.MissingServers) > 0 {
		answer["missingServers"] = m.MissingServers
	}
	return answer
}

// drawn is the statistic that a chart shows.
func (s *metricSeries) drawn() string {
	switch s.Unit {
	case "Percent":
		return trysail.StatisticAverage
	case "Milliseconds":
		return "p99"
	}
	return trysail.StatisticSum
}

// hasNews reports whether there is anything but zeros.
func (s *metricSeries) hasNews() bool {
	return slices.ContainsFunc(s.MetricData, func(p metricPoint) bool { return p.Statistics[s.drawn()] != 0 })
}

// print draws charts on a terminal and writes a table otherwise.
func (m *metricsAnswer) print(s screen, service string, chosen bool) error {
	var series []metricSeries
	points := 0
	for _, one := range m.Metrics {
		always := chosen || one.MetricName == trysail.MetricCPU || one.MetricName == trysail.MetricMemory || one.MetricName == trysail.MetricRequests
		if points += len(one.MetricData); always || one.hasNews() {
			series = append(series, one)
		}
	}
	if points == 0 {
		fmt.Fprintf(s, "Nothing is known of service %s from %s to %s.\n", service, clock(unixTime(m.StartTime)), clock(unixTime(m.EndTime)))
		return nil
	}
	if !s.terminal {
		return m.table(s, series)
	}
	m.draw(s, service, series)
	return nil
}

// clock is a time of day with its date, in the user's time zone.
func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }

// table has a line for each period and a column for each metric.
func (m *metricsAnswer) table(s screen, series []metricSeries) error {
	header := []string{"TIME"}
	rows := map[float64][]string{}
	line := func(at float64) []string {
		if rows[at] == nil {
			rows[at] = make([]string, len(series)+2)
			rows[at][0] = unixTime(at).UTC().Format("2006-01-02T15:04:05Z")
		}
		return rows[at]
	}
	// The newest deployment may be of a period that has no point yet.
	for _, d := range m.Deployments {
		line(math.Floor(d.CreatedAt/float64(m.Period)) * float64(m.Period))
	}
	for i, one := range series {
		name := strings.ToUpper(one.MetricName)
		switch one.Unit {
		case "Percent":
			name += " %"
		case "Milliseconds":
			name += " P99 MS"
		}
		header = append(header, name)
		for _, p := range one.MetricData {
			row := line(p.Timestamp)
			if v, ok := p.Statistics[one.drawn()]; ok {
				row[i+1] = decimal(v)
			}
		}
	}
	var lines [][]string
	for _, t := range slices.Sorted(maps.Keys(rows)) {
		row := rows[t]
		for i, cell := range row[:len(row)-1] {
			if cell == "" {
				row[i] = "-"
			}
		}
		row[len(row)-1] = m.deployedIn(t)
		lines = append(lines, row)
	}
	return s.table(append(header, "DEPLOYED"), lines)
}

// deployedIn names the versions that were deployed in the period that begins at t.
func (m *metricsAnswer) deployedIn(t float64) string {
	var names []string
	for _, d := range m.Deployments {
		if d.CreatedAt >= t && d.CreatedAt < t+float64(m.Period) {
			names = append(names, fmt.Sprintf("v%d", d.Version))
		}
	}
	return strings.Join(names, ",")
}
