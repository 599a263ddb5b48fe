package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/trysail/trysail"
)

const (
	chartHeight = 4 // lines
	chartMargin = 9 // columns for the numbers of the axis
	chartLimit  = 120
)

// chartWidth is how many columns of the screen a chart may fill.
func (s screen) chartWidth() int {
	if !s.terminal {
		return chartLimit
	}
	return min(max(s.width()-chartMargin-1, 20), chartLimit)
}

// draw draws a chart for each metric, below each other, with one axis of time. Where a version was deployed, the axis has
// a mark.
func (m *metricsAnswer) draw(s screen, service string, series []metricSeries) {
	width := s.chartWidth()
	begin := math.Floor(m.StartTime/float64(m.Period)) * float64(m.Period)
	count := max(int(math.Ceil((m.EndTime-begin)/float64(m.Period))), 1)
	each := max(width/count, 1) // columns of one point
	column := func(t float64) int { return int((t-begin)/float64(m.Period)) * each }
	fmt.Fprintf(s, "%s, %s to %s, one point is %s\n", service, clock(unixTime(m.StartTime)), clock(unixTime(m.EndTime)), shortSpan(m.Period))
	axis := m.axis(column, count*each)
	for i := range series {
		one := &series[i]
		values := make([]float64, count*each)
		for i := range values {
			values[i] = math.NaN()
		}
		for _, p := range one.MetricData {
			if v, ok := p.Statistics[one.drawn()]; ok {
				for i := range each {
					if at := column(p.Timestamp) + i; at >= 0 && at < len(values) {
						values[at] = v
					}
				}
			}
		}
		fmt.Fprintf(s, "\n%s\n", one.title())
		highest := one.highest()
		for row, line := range bars(values, highest) {
			label := ""
			if row == 0 {
				label = compact(highest)
			}
			fmt.Fprintf(s, "%*s │%s\n", chartMargin-2, label, s.paint(colourOf(one.MetricName), line))
		}
		fmt.Fprintf(s, "%*s └%s\n", chartMargin-2, "0", axis)
	}
	from, to := unixTime(m.StartTime).Local(), unixTime(m.EndTime).Local()
	layout := "15:04"
	if to.Sub(from) > 20*time.Hour {
		layout = "01-02 15:04"
	}
	left, right := from.Format(layout), to.Format(layout)
	fmt.Fprintf(s, "%*s%s%*s\n", chartMargin, "", left, max(count*each-len(left), len(right)+1), right)
	m.printMarkers(s)
}

// axis is the line below a chart.
func (m *metricsAnswer) axis(column func(float64) int, width int) string {
	line := []rune(strings.Repeat("─", width))
	for _, d := range m.Deployments {
		if at := column(d.CreatedAt); at >= 0 && at < width {
			line[at] = '▲'
		}
	}
	return string(line)
}

func (m *metricsAnswer) printMarkers(s screen) {
	if len(m.Deployments) == 0 {
		return
	}
	var names []string
	for _, d := range m.Deployments {
		names = append(names, fmt.Sprintf("v%d %s %s", d.Version, clock(unixTime(d.CreatedAt)), s.paint(stateColour(d.State), clean(d.State))))
	}
	fmt.Fprintf(s, "\n▲ deployed: %s\n", strings.Join(names, ", "))
}

// bars draws values as columns of eighths, chartHeight lines from top to bottom. What is not known is empty.
func bars(values []float64, highest float64) []string {
	const levels = " ▁▂▃▄▅▆▇█"
	eighths := []rune(levels)
	full := len(eighths) - 1
	lines := make([]string, chartHeight)
	for row := range lines {
		var b strings.Builder
		below := (chartHeight - 1 - row) * full // eighths that the lines below this one have
		for _, v := range values {
			height := 0
			if highest > 0 && v > 0 { // false for what is not known
				height = max(int(math.Round(v/highest*chartHeight*float64(full))), 1)
			}
			b.WriteRune(eighths[min(max(height-below, 0), full)])
		}
		lines[row] = b.String()
	}
	return lines
}

// highest is the largest value that is drawn.
func (s *metricSeries) highest() (highest float64) {
	for _, p := range s.MetricData {
		highest = max(highest, p.Statistics[s.drawn()])
	}
	return highest
}

// title sums the whole range up.
func (s *metricSeries) title() string {
	var sum, count, p50, p90, p99 float64
	least, most := math.Inf(1), math.Inf(-1)
	for _, p := range s.MetricData {
		v := p.Statistics
		sum += v[trysail.StatisticSum]
		count += v[trysail.StatisticSampleCount]
		p50, p90, p99 = max(p50, v["p50"]), max(p90, v["p90"]), max(p99, v["p99"])
		low, high := v[trysail.StatisticSum], v[trysail.StatisticSum]
		if s.Unit == "Percent" {
			low, high = v[trysail.StatisticMinimum], v[trysail.StatisticMaximum]
		}
		least, most = min(least, low), max(most, high)
	}
	switch {
	case len(s.MetricData) == 0:
		return s.MetricName + "  nothing is known"
	case s.Unit == "Percent":
		return fmt.Sprintf("%s %%  avg %s  min %s  max %s", s.MetricName, decimal(sum/max(count, 1)), decimal(least), decimal(most))
	case s.Unit == "Milliseconds":
		return fmt.Sprintf("%s ms, p99  highest p50 %s  p90 %s  p99 %s", s.MetricName, decimal(p50), decimal(p90), decimal(p99))
	}
	return fmt.Sprintf("%s  total %s  avg %s  min %s  max %s", s.MetricName, compact(sum), compact(sum/float64(len(s.MetricData))), compact(least), compact(most))
}

// colourOf makes bad news red.
func colourOf(metric string) string {
	switch metric {
	case trysail.MetricRequests5xx, trysail.MetricRestarts, trysail.MetricProbeFailures:
		return red
	case trysail.MetricRequests4xx, trysail.MetricThrottling, trysail.MetricRequestsCanceled:
		return yellow
	}
	return green
}

// decimal writes a number with as many decimals as matter.
func decimal(v float64) string {
	switch {
	case v == math.Trunc(v):
		return strconv.FormatFloat(v, 'f', 0, 64)
	case math.Abs(v) >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case math.Abs(v) >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// compact writes a large number in at most six characters or so.
func compact(v float64) string {
	for _, unit := range [...]struct {
		size float64
		name string
	}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e4, "k"}} {
		if v >= unit.size {
			if unit.name == "k" {
				return decimal(v/1e3) + "k"
			}
			return decimal(v/unit.size) + unit.name
		}
	}
	return decimal(v)
}

// shortSpan writes 5m0s as 5m.
func shortSpan(seconds int) string {
	text := (time.Duration(seconds) * time.Second).String()
	text = strings.TrimSuffix(text, "0s")
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
