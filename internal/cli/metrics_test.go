package cli

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// answer has an hour with a point every ten minutes, and a deployment in its middle.
func answer() *metricsAnswer {
	const begin = 1_700_000_400
	m := &metricsAnswer{StartTime: begin, EndTime: begin + 3600, Period: 600, Deployments: []metricMarker{{Version: 4, State: "ACTIVE", CreatedAt: begin + 1900}}}
	cpu := metricSeries{MetricName: "CPUUtilization", Unit: "Percent"}
	latency := metricSeries{MetricName: "Latency", Unit: "Milliseconds"}
	requests := metricSeries{MetricName: "Requests", Unit: "Count"}
	restarts := metricSeries{MetricName: "Restarts", Unit: "Count"}
	for i := range 6 {
		at, v := float64(begin+i*600), float64(i)
		cpu.MetricData = append(cpu.MetricData, metricPoint{at, map[string]float64{"Average": v * 10, "Minimum": v, "Maximum": v * 15, "Sum": v * 100, "SampleCount": 10}})
		requests.MetricData = append(requests.MetricData, metricPoint{at, map[string]float64{"Sum": 12345 * v}})
		restarts.MetricData = append(restarts.MetricData, metricPoint{at, map[string]float64{"Sum": 0}})
		if i == 2 {
			latency.MetricData = append(latency.MetricData, metricPoint{at, map[string]float64{"p50": 1.5, "p90": 22.22, "p99": 123.4, "SampleCount": 9}})
		}
	}
	m.Metrics = []metricSeries{cpu, requests, latency, restarts}
	return m
}

func TestMetrics_TableForPipes(t *testing.T) {
	var out bytes.Buffer
	if err := answer().print(screen{Writer: &out}, "web", false); err != nil {
		t.Fatal(err)
	}
	want := `TIME                   CPUUTILIZATION %   REQUESTS   LATENCY P99 MS   DEPLOYED
2023-11-14T22:20:00Z   0                  0          -
2023-11-14T22:30:00Z   10                 12345      -
2023-11-14T22:40:00Z   20                 24690      123
2023-11-14T22:50:00Z   30                 37035      -                v4
2023-11-14T23:00:00Z   40                 49380      -
2023-11-14T23:10:00Z   50                 61725      -
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMetrics_TableHasADeploymentOfAPeriodWithoutPoints(t *testing.T) {
	var out bytes.Buffer
	a := answer()
	a.Deployments = append(a.Deployments, metricMarker{Version: 5, State: "ACTIVE", CreatedAt: a.EndTime + 2})
	if err := a.print(screen{Writer: &out}, "web", false); err != nil {
		t.Fatal(err)
	}
	if want := "2023-11-14T23:20:00Z   -                  -          -                v5\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("want at the end %q of\n%s", want, out.String())
	}
}

func TestMetrics_ChartsForTerminals(t *testing.T) {
	t.Setenv("TZ", "UTC")
	var out bytes.Buffer
	if err := answer().print(screen{Writer: &out, terminal: true, fd: -1}, "web", false); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{
		"CPUUtilization %  avg 25  min 0  max 75\n     50 │",
		"Requests  total 185k  avg 30.9k  min 0  max 61.7k\n  61.7k │",
		"Latency ms, p99  highest p50 1.50  p90 22.2  p99 123\n    123 │",
		"      0 └─────────────────────────────────▲────",
		"one point is 10m\n",
		"▲ deployed: v4 ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "Restarts") {
		t.Errorf("what is zero all the time is drawn:\n%s", text)
	}
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 && !strings.HasPrefix(line, "▲") {
			t.Errorf("a line has %d columns:\n%s", n, line)
		}
	}
}

func TestMetrics_Bars(t *testing.T) {
	got := bars([]float64{0, 1, 8, 16, 24, 32, math.NaN(), 0.0001}, 32)
	want := []string{
		"     █  ",
		"    ██  ",
		"   ███  ",
		" ▁████ ▁",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, line := range bars([]float64{0, 0}, 0) {
		if line != "  " {
			t.Errorf("zeros are drawn as %q", line)
		}
	}
}

func TestMetrics_NothingKnown(t *testing.T) {
	var out bytes.Buffer
	m := &metricsAnswer{StartTime: 1, EndTime: 2, Period: 60, Metrics: []metricSeries{{MetricName: "Requests", Unit: "Count"}}}
	if err := m.print(screen{Writer: &out, terminal: true}, "web", false); err != nil || !strings.HasPrefix(out.String(), "Nothing is known of service web from ") {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

func TestMetrics_Request(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		o    metricOptions
		args []string
		want string
	}{
		{metricOptions{since: "1h"}, []string{"web"}, `{"endTime":1700000001,"period":60,"serviceName":"web","startTime":1699996400}`},
		{metricOptions{since: "14d"}, []string{"web"}, `{"endTime":1700000001,"period":14400,"serviceName":"web","startTime":1698790400}`},
		{
			metricOptions{since: "1699990000", until: "1699999000", period: 5 * time.Minute, version: 3},
			[]string{"web", "Latency"},
			`{"endTime":1699999001,"metricNames":["Latency"],"period":300,"serviceName":"web","startTime":1699990000,"version":3}`,
		},
	} {
		in, err := c.o.request(c.args, now, 120)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := json.Marshal(in); err != nil || string(text) != c.want {
			t.Errorf("got %s, %v; want %s", text, err, c.want)
		}
	}
	for _, o := range []metricOptions{{since: "soon"}, {since: "1h", until: "2h"}, {since: "1h", version: -1}, {since: "1h", period: 90 * time.Second}, {since: "1h", period: 25 * time.Hour}} {
		if _, err := o.request([]string{"web"}, now, 120); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

func TestMetrics_Numbers(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 5: "5", 0.123: "0.12", 12.34: "12.3", 1234.5: "1234", 9999: "9999", 12345: "12.3k", 5e6: "5M", 1.5e9: "1.50G", 2e12: "2T"} {
		if got := compact(v); got != want {
			t.Errorf("%v: got %s, want %s", v, got, want)
		}
	}
	for seconds, want := range map[int]string{60: "1m", 300: "5m", 3600: "1h", 5400: "1h30m", 86400: "24h"} {
		if got := shortSpan(seconds); got != want {
			t.Errorf("%d: got %s, want %s", seconds, got, want)
		}
	}
}
