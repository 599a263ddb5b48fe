package trysail

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The limits of questions for metrics.
const (
	// MinMetricPeriod, MaxMetricPeriod and MetricPeriodStep bound the period of data points, in seconds: those of the
	// API's model, in the steps of CloudWatch.
	MinMetricPeriod  = 60
	MaxMetricPeriod  = 86400
	MetricPeriodStep = 60
	// LightsailResolution is the finest period in which the Lightsail operation answers, in seconds; a smaller one gets
	// the same points.
	LightsailResolution = 300
)

// The names of metrics. The words are the wire values; the first two are Lightsail's, the others Trysail's own.
const (
	MetricCPU              = "CPUUtilization"
	MetricMemory           = "MemoryUtilization"
	MetricThrottling       = "CPUThrottling"
	MetricRequests         = "Requests"
	MetricRequests2xx      = "Requests2xx"
	MetricRequests3xx      = "Requests3xx"
	MetricRequests4xx      = "Requests4xx"
	MetricRequests5xx      = "Requests5xx"
	MetricRequestsCanceled = "RequestsCanceled"
	MetricLatency          = "Latency"
	MetricBytesIn          = "BytesIn"
	MetricBytesOut         = "BytesOut"
	MetricRestarts         = "Restarts"
	MetricProbeFailures    = "ProbeFailures"
)

// The statistics of a metric. Besides these, latency has percentiles: p50, p90, p99.9 and so on.
const (
	StatisticMinimum     = "Minimum"
	StatisticMaximum     = "Maximum"
	StatisticSum         = "Sum"
	StatisticAverage     = "Average"
	StatisticSampleCount = "SampleCount"
)

// MetricUnit is the unit of a metric's values: Percent, Count, Bytes or Milliseconds.
func MetricUnit(name string) string {
	switch name {
	case MetricCPU, MetricMemory, MetricThrottling:
		return "Percent"
	case MetricLatency:
		return "Milliseconds"
	case MetricBytesIn, MetricBytesOut:
		return "Bytes"
	}
	return "Count"
}

// LightsailMetrics lists the metrics that GetContainerServiceMetricData knows.
func LightsailMetrics() []string { return []string{MetricCPU, MetricMemory} }

// Metrics lists all metrics.
func Metrics() []string {
	return []string{
		MetricCPU, MetricMemory, MetricThrottling, MetricRequests, MetricRequests2xx, MetricRequests3xx, MetricRequests4xx, MetricRequests5xx,
		MetricRequestsCanceled, MetricLatency, MetricBytesIn, MetricBytesOut, MetricRestarts, MetricProbeFailures,
	}
}

// Statistics lists what can be asked of the metrics of a unit; percentiles, as p50, come on top for Milliseconds.
func Statistics(unit string) []string {
	switch unit {
	case "Percent":
		return []string{StatisticMinimum, StatisticMaximum, StatisticSum, StatisticAverage, StatisticSampleCount}
	case "Milliseconds":
		return []string{StatisticAverage, StatisticSampleCount}
	}
	return []string{StatisticSum}
}

// ValidateMetricName checks that name is one of known. Errors: Invalid.
func ValidateMetricName(name string, known []string) error {
	if slices.Contains(known, name) {
		return nil
	}
	return invalid("Metric name %s is not valid. It must be one of: %s.", quote(name), strings.Join(known, ", "))
}

// ValidateStatistic checks a statistic of the metrics of Lightsail. Errors: Invalid.
func ValidateStatistic(statistic string) error {
	if known := Statistics("Percent"); !slices.Contains(known, statistic) {
		return invalid("Statistic %s is not valid. It must be one of: %s.", quote(statistic), strings.Join(known, ", "))
	}
	return nil
}

// ValidateMetricPeriod checks a period in seconds. Errors: Invalid.
func ValidateMetricPeriod(seconds int) error {
	if seconds < MinMetricPeriod || seconds > MaxMetricPeriod || seconds%MetricPeriodStep != 0 {
		return invalid("Period %d is not valid. It must be a multiple of %d from %d to %d seconds.", seconds, MetricPeriodStep, MinMetricPeriod, MaxMetricPeriod)
	}
	return nil
}

// ValidateTimeRange checks that start lies before end. Errors: Invalid.
func ValidateTimeRange(start, end time.Time) error {
	if start.Before(end) {
		return nil
	}
	return invalid("Start time %s must lie before end time %s.", start.UTC().Format(time.RFC3339), end.UTC().Format(time.RFC3339))
}

// ParsePercentile reads a percentile, p0.1 to p100 or so, as a share; ok is false if it is none.
func ParsePercentile(statistic string) (share float64, ok bool) {
	digits, ok := strings.CutPrefix(statistic, "p")
	if !ok || len(digits) > 6 || strings.Trim(digits, "0123456789.") != "" {
		return 0, false
	}
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil || math.IsNaN(f) || f <= 0 || f > 100 {
		return 0, false
	}
	return f / 100, true
}

// ValidateMetricStatistic checks a statistic of one of our own metrics. Errors: Invalid.
func ValidateMetricStatistic(metric, statistic string) error {
	unit := MetricUnit(metric)
	if slices.Contains(Statistics(unit), statistic) {
		return nil
	}
	percentiles := ""
	if unit == "Milliseconds" {
		if _, ok := ParsePercentile(statistic); ok {
			return nil
		}
		percentiles = ", and percentiles such as p50 or p99.9"
	}
	return invalid("Statistic %s is not valid for metric %q. It must be one of: %s%s.", quote(statistic), metric, strings.Join(Statistics(unit), ", "), percentiles)
}
