package control_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/metrics"
	"github.com/trysail/trysail/internal/store"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// newMetricBed has the service web with the versions 1 and 2, one after the other, and points of both.
func newMetricBed(t *testing.T) *bed {
	t.Helper()
	points, err := metrics.Open(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	b := newBed(t, func(c *control.Config) { c.Metrics = points })
	b.create("web", trysail.ServiceRunning, "")
	var id string
	b.update(func(tx *store.Tx) error {
		s, err := tx.Service("web")
		if err != nil {
			return err
		}
		id = s.ID
		for i, state := range []trysail.DeploymentState{trysail.DeploymentInactive, trysail.DeploymentActive} {
			d := &trysail.Deployment{State: state, CreatedAt: noon.Add(time.Duration(10*i) * time.Minute), Containers: containers().Containers}
			if err := tx.InsertDeployment(s.ID, d); err != nil {
				return err
			}
		}
		return nil
	})
	for minute := range 20 {
		for _, pod := range []int64{10, 30} { // percent
			v := &metrics.Values{}
			v.CPU.Observe(pod * metrics.Whole / 100)
			v.Memory.Observe(metrics.Whole / 2)
			v.Requests[2] = 3
			v.Latency[trysail.HistogramBucket(10*time.Millisecond)] = 3
			points.Add(id, 1+minute/10, noon.Add(time.Duration(minute)*time.Minute), v)
		}
	}
	if err := points.Flush(noon); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMetricData_PointsOfFiveMinutesOverBothVersions(t *testing.T) {
	b := newMetricBed(t)
	all := []string{"Minimum", "Maximum", "Average", "Sum", "SampleCount"}
	ask := func(period int, from, to time.Duration) []control.MetricPoint {
		t.Helper()
		d, err := b.GetContainerServiceMetricData(t.Context(), caller, control.GetContainerServiceMetricDataInput{
			ServiceName: "web", MetricName: "CPUUtilization", StartTime: noon.Add(from), EndTime: noon.Add(to), Period: period,
			Statistics: all,
		})
		if err != nil {
			t.Fatal(err)
		}
		if d.Name != "CPUUtilization" || d.Unit != "Percent" {
			t.Errorf("got %+v", d)
		}
		return d.Points
	}
	five := func(minute int) control.MetricPoint {
		return control.MetricPoint{
			At:     noon.Add(time.Duration(minute) * time.Minute),
			Values: []float64{10, 30, 20, 200, 10},
		}
	}
	want := []control.MetricPoint{five(0), five(5), five(10), five(15)}
	if diff := cmp.Diff(want, ask(300, 0, time.Hour)); diff != "" {
		t.Errorf("300 s (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, ask(60, 0, time.Hour)); diff != "" {
		t.Errorf("a period below 300 s gets the same points (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want[1:3], ask(300, 7*time.Minute, 15*time.Minute)); diff != "" {
		t.Errorf("the start is rounded down, the end is excluded (-want +got):\n%s", diff)
	}
	if got := ask(3600, 0, time.Hour); len(got) != 1 || got[0].Values[4] != 40 {
		t.Errorf("an hour: %v", got)
	}
	if got := ask(300, time.Hour, 2*time.Hour); len(got) != 0 {
		t.Errorf("a range without samples: %v", got)
	}
}

func TestMetricData_RefusesNonsense(t *testing.T) {
	b := newMetricBed(t)
	good := control.GetContainerServiceMetricDataInput{
		ServiceName: "web", MetricName: "CPUUtilization", StartTime: noon, EndTime: noon.Add(time.Hour), Period: 300, Statistics: []string{"Average"},
	}
	for _, c := range []struct {
		change func(*control.GetContainerServiceMetricDataInput)
		code   trysail.Code
		want   string
	}{
		{func(in *control.GetContainerServiceMetricDataInput) { in.ServiceName = "Web" }, trysail.CodeInvalid, "does not match pattern"},
		{func(in *control.GetContainerServiceMetricDataInput) { in.ServiceName = "nobody" }, trysail.CodeNotFound, `Service "nobody" not found.`},
		{func(in *control.GetContainerServiceMetricDataInput) { in.MetricName = "Requests" }, trysail.CodeInvalid, `Metric name "Requests" is not valid`},
		{func(in *control.GetContainerServiceMetricDataInput) { in.Period = 61 }, trysail.CodeInvalid, "Period 61"},
		{func(in *control.GetContainerServiceMetricDataInput) { in.Period = 0 }, trysail.CodeInvalid, "Period 0"},
		{func(in *control.GetContainerServiceMetricDataInput) { in.EndTime = in.StartTime }, trysail.CodeInvalid, "must lie before"},
		{func(in *control.GetContainerServiceMetricDataInput) { in.Statistics = nil }, trysail.CodeInvalid, "Statistics must not be empty"},
		{func(in *control.GetContainerServiceMetricDataInput) { in.Statistics = []string{"Sum", "p50"} }, trysail.CodeInvalid, `Statistic "p50"`},
	} {
		in := good
		c.change(&in)
		_, err := b.GetContainerServiceMetricData(t.Context(), caller, in)
		if e, ok := errors.AsType[*trysail.Error](err); !ok || e.Code != c.code || !strings.Contains(e.Message, c.want) {
			t.Errorf("got %v, want %s %q", err, c.code, c.want)
		}
	}
}

func TestServiceMetricData_VersionsPercentilesAndMarkers(t *testing.T) {
	b := newMetricBed(t)
	out, err := b.GetServiceMetricData(t.Context(), caller, control.GetServiceMetricDataInput{
		ServiceName: "web", MetricNames: []string{"Requests", "Latency"}, StartTime: new(noon), EndTime: new(noon.Add(time.Hour)), Version: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	if out.Period != 60 {
		t.Errorf("the period of an hour is %d", out.Period)
	}
	if diff := cmp.Diff([]control.MetricMarker{{1, noon, "INACTIVE"}, {2, noon.Add(10 * time.Minute), "ACTIVE"}}, out.Deployments); diff != "" {
		t.Errorf("markers (-want +got):\n%s", diff)
	}
	requests, latency := out.Metrics[0], out.Metrics[1]
	if len(requests.Points) != 10 || !requests.Points[0].At.Equal(noon.Add(10*time.Minute)) || requests.Points[0].Values[0] != 6 || requests.Unit != "Count" {
		t.Errorf("requests of version 2: %+v", requests)
	}
	if p := latency.Points[0].Values; p[0] < 10 || p[0] > 11.9 || p[2] != p[0] || p[3] != 6 || latency.Statistics[2] != "p99" {
		t.Errorf("latency: %v", p)
	}
	// Without anything else it is the hour until now, and all metrics.
	if out, err = b.GetServiceMetricData(t.Context(), caller, control.GetServiceMetricDataInput{ServiceName: "web"}); err != nil || len(out.Metrics) != len(trysail.Metrics()) ||
		out.EndTime.Sub(out.StartTime) != time.Hour || time.Since(out.EndTime) > time.Minute {
		t.Errorf("the defaults: %+v, %v", out, err)
	}
	for _, in := range []control.GetServiceMetricDataInput{
		{ServiceName: "web", MetricNames: []string{"requests"}},
		{ServiceName: "web", MetricNames: []string{"Requests"}, Statistics: []string{"p50"}},
		{ServiceName: "web", Period: 90},
		{ServiceName: "web", StartTime: new(noon), EndTime: new(noon)},
		{ServiceName: "web", StartTime: new(time.Now().Add(time.Hour))},
		{ServiceName: "W"},
	} {
		_, err := b.GetServiceMetricData(t.Context(), caller, in)
		if e, ok := errors.AsType[*trysail.Error](err); !ok || e.Code != trysail.CodeInvalid {
			t.Errorf("%+v: %v", in, err)
		}
	}
}

// TestServiceMetricData_MarksVersionsThatAreForgotten has points of a version whose deployment is not kept any more.
func TestServiceMetricData_MarksVersionsThatAreForgotten(t *testing.T) {
	b := newMetricBed(t)
	services, err := b.GetContainerServices(t.Context(), caller, "web")
	if err != nil {
		t.Fatal(err)
	}
	b.Metrics.Add(services[0].ID, 7, noon.Add(30*time.Minute), &metrics.Values{Restarts: 1})
	b.Metrics.Add(services[0].ID, 0, noon.Add(40*time.Minute), &metrics.Values{Requests: [6]int64{5: 1}})
	out, err := b.GetServiceMetricData(t.Context(), caller, control.GetServiceMetricDataInput{ServiceName: "web", StartTime: new(noon.Add(5 * time.Minute)), EndTime: new(noon.Add(time.Hour))})
	if err != nil {
		t.Fatal(err)
	}
	want := []control.MetricMarker{{2, noon.Add(10 * time.Minute), "ACTIVE"}, {7, noon.Add(30 * time.Minute), "INACTIVE"}}
	if diff := cmp.Diff(want, out.Deployments); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
