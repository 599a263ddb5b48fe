package trysail_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/trysail/trysail"
)

func TestMetric_BadQuestionsAreRefusedWithTheReason(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		err  error
		want string
	}{
		{trysail.ValidateMetricName("CPU", trysail.LightsailMetrics()), `Metric name "CPU" is not valid. It must be one of: CPUUtilization, MemoryUtilization.`},
		{trysail.ValidateMetricName("", trysail.LightsailMetrics()), `Metric name "" is not valid.`},
		{trysail.ValidateMetricPeriod(59), "Period 59 is not valid. It must be a multiple of 60 from 60 to 86400 seconds."},
		{trysail.ValidateMetricPeriod(90), "Period 90 is not valid."},
		{trysail.ValidateMetricPeriod(0), "Period 0 is not valid."},
		{trysail.ValidateMetricPeriod(-60), "Period -60 is not valid."},
		{trysail.ValidateMetricPeriod(86460), "Period 86460 is not valid."},
		{trysail.ValidateStatistic("p99"), `Statistic "p99" is not valid. It must be one of: Minimum, Maximum, Sum, Average, SampleCount.`},
		{trysail.ValidateStatistic("average"), `Statistic "average" is not valid.`},
		{trysail.ValidateMetricStatistic("Requests", "Average"), `Statistic "Average" is not valid for metric "Requests". It must be one of: Sum.`},
		{trysail.ValidateMetricStatistic("Latency", "p101"), `It must be one of: Average, SampleCount, and percentiles such as p50 or p99.9.`},
		{trysail.ValidateMetricStatistic("CPUUtilization", "p50"), `for metric "CPUUtilization"`},
		{trysail.ValidateTimeRange(at, at), "Start time 2023-11-14T22:13:20Z must lie before end time 2023-11-14T22:13:20Z."},
	} {
		if e, ok := errors.AsType[*trysail.Error](c.err); !ok || e.Code != trysail.CodeInvalid || !strings.Contains(e.Message, c.want) {
			t.Errorf("got %v, want %q", c.err, c.want)
		}
	}
	for _, err := range []error{
		trysail.ValidateMetricPeriod(60), trysail.ValidateMetricPeriod(300), trysail.ValidateMetricPeriod(86400),
		trysail.ValidateMetricStatistic("Latency", "p99.9"), trysail.ValidateMetricStatistic("Requests", "Sum"),
		trysail.ValidateTimeRange(at, at.Add(time.Second)), trysail.ValidateStatistic("Sum"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
}

func TestMetric_Percentiles(t *testing.T) {
	for text, want := range map[string]float64{"p50": 0.5, "p99.9": 0.999, "p100": 1, "p1": 0.01} {
		if got, ok := trysail.ParsePercentile(text); !ok || got < want-1e-9 || got > want+1e-9 {
			t.Errorf("%s: got %v, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "p", "p0", "p101", "50", "p-1", "p+1", "pNaN", "pInf", "p1e1", "P50", "p5 0", "p99.99999", "p1.2.3"} {
		if got, ok := trysail.ParsePercentile(text); ok {
			t.Errorf("%q: got %v", text, got)
		}
	}
}
