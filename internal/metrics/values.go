// Package metrics keeps what services used and how they answered, as points of a minute each, over restarts of Trysail
// and over deployments, and shows it to the API, to Prometheus and to OpenTelemetry.
//
// A Collector samples the engine and the edge every ten seconds and adds what it sees to a Store. Minutes are kept for
// two weeks, hours for fifteen months; both are the same kind of point, and hours are merged minutes.
package metrics

import (
	"math"
	"time"

	"github.com/trysail/trysail"
)

// Whole is 100 % in a Summary.
const Whole = 1_000_000

// Summary is what is kept of a set of samples of a share. Samples are whole parts per million, so that merging them is
// exact and its order does not matter.
type Summary struct{ Min, Max, Sum, Count int64 }

// Observe adds one sample.
func (s *Summary) Observe(sample int64) { s.merge(Summary{sample, sample, sample, 1}) }

func (s *Summary) merge(o Summary) {
	if o.Count == 0 {
		return
	}
	if s.Count == 0 {
		*s = o
		return
	}
	s.Min, s.Max = min(s.Min, o.Min), max(s.Max, o.Max)
	s.Sum += o.Sum
	s.Count += o.Count
}

// Values is everything that is kept of one version of a service in a span of time. The zero value is that of a span in
// which nothing was seen.
type Values struct {
	// CPU and Memory have a sample of every pod every ten seconds: how much of its limit it used.
	CPU, Memory Summary
	// Throttling has samples like CPU: in which share of the scheduler's periods the pod was held back.
	Throttling    Summary
	Requests      [6]int64 // by the hundreds of their status, see trysail.Traffic
	BytesIn       int64
	BytesOut      int64
	Latency       trysail.Histogram
	Restarts      int64 // pods of the active version that failed
	ProbeFailures int64
}

// Merge adds what another span, or another version, has.
func (v *Values) Merge(o *Values) { v.merge(o, hasAll) }

// merge adds those groups.
func (v *Values) merge(o *Values, groups int64) {
	v.CPU.merge(o.CPU)
	v.Memory.merge(o.Memory)
	v.Throttling.merge(o.Throttling)
	for i := range v.Requests {
		v.Requests[i] += o.Requests[i]
	}
	v.BytesIn += o.BytesIn
	v.BytesOut += o.BytesOut
	v.Restarts += o.Restarts
	v.ProbeFailures += o.ProbeFailures
	if groups&hasLatency == 0 {
		return // it is as large as everything else ten times over
	}
	for i := range v.Latency {
		v.Latency[i] += o.Latency[i]
	}
}

// ended is how many requests ended.
func (v *Values) ended() (n int64) {
	for _, count := range v.Requests {
		n += count
	}
	return n
}

// measured is how many requests the histogram has.
func measured(h *trysail.Histogram) (n int64) {
	for _, count := range h {
		n += count
	}
	return n
}

// Point is the values of one version in the minute or hour that begins at At.
type Point struct {
	At      time.Time // whole minute, UTC
	Version int
	Values
}

// Statistic reads one statistic of a metric, in the metric's unit. ok is false when the span has no value for it, or
// when the metric has no such statistic.
func (v *Values) Statistic(metric, statistic string) (value float64, ok bool) {
	switch metric {
	case trysail.MetricCPU:
		return v.CPU.statistic(statistic)
	case trysail.MetricMemory:
		return v.Memory.statistic(statistic)
	case trysail.MetricThrottling:
		return v.Throttling.statistic(statistic)
	case trysail.MetricLatency:
		return v.latency(statistic)
	}
	if statistic != trysail.StatisticSum {
		return 0, false
	}
	n, ok := v.count(metric)
	return float64(n), ok
}

func (s Summary) statistic(name string) (float64, bool) {
	const percent = Whole / 100
	if s.Count == 0 {
		return 0, false
	}
	switch name {
	case trysail.StatisticMinimum:
		return float64(s.Min) / percent, true
	case trysail.StatisticMaximum:
		return float64(s.Max) / percent, true
	case trysail.StatisticSum:
		return float64(s.Sum) / percent, true
	case trysail.StatisticAverage:
		return float64(s.Sum) / float64(s.Count) / percent, true
	case trysail.StatisticSampleCount:
		return float64(s.Count), true
	}
	return 0, false
}

func (v *Values) count(metric string) (n int64, ok bool) {
	switch metric {
	case trysail.MetricRequests:
		return v.ended(), true
	case trysail.MetricRequestsCanceled:
		return v.Requests[0], true
	case trysail.MetricRequests2xx:
		return v.Requests[2], true
	case trysail.MetricRequests3xx:
		return v.Requests[3], true
	case trysail.MetricRequests4xx:
		return v.Requests[4], true
	case trysail.MetricRequests5xx:
		return v.Requests[5], true
	case trysail.MetricBytesIn:
		return v.BytesIn, true
	case trysail.MetricBytesOut:
		return v.BytesOut, true
	case trysail.MetricRestarts:
		return v.Restarts, true
	case trysail.MetricProbeFailures:
		return v.ProbeFailures, true
	}
	return 0, false
}

// latency reads a statistic of the histogram, in milliseconds.
func (v *Values) latency(statistic string) (float64, bool) {
	n := measured(&v.Latency)
	if n == 0 {
		return 0, false
	}
	switch statistic {
	case trysail.StatisticSampleCount:
		return float64(n), true
	case trysail.StatisticAverage:
		return milliseconds(total(&v.Latency)) / float64(n), true
	}
	q, ok := trysail.ParsePercentile(statistic)
	if !ok {
		return 0, false
	}
	return milliseconds(v.Latency.Quantile(q)), true
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// total estimates the sum of all durations of a histogram: each counts as the geometric middle of its bucket, so the
// estimate is at most 9 % off for those longer than the first bound.
func total(h *trysail.Histogram) time.Duration {
	middle := math.Exp2(-1.0 / 8)
	var sum float64
	for i, n := range h {
		if n > 0 {
			sum += float64(n) * float64(trysail.HistogramBound(i)) * middle
		}
	}
	return time.Duration(min(sum, math.MaxInt64))
}
