package metrics

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	otlp "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/proto"

	"github.com/trysail/trysail"
)

func exposition(t *testing.T, families []Family) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WritePrometheus(&b, families); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// parse reads the text format as Prometheus does.
func parse(t *testing.T, text []byte) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return families
}

// busy is a collector with one service that has seen everything.
func busy(t *testing.T) *Collector {
	t.Helper()
	b := newBed(t)
	b.service(2)
	b.pod("web-0", 2)
	b.pod("web-1", 2)
	b.usage["web-1"] = trysail.Usage{CPU: time.Second, Memory: 100 << 20, Limits: trysail.PowerNano.Limits(), Periods: 10}
	b.Sample(t.Context())
	b.advance()
	b.usage["web-1"] = trysail.Usage{CPU: 2 * time.Second, Memory: 128 << 20, Limits: trysail.PowerNano.Limits(), Periods: 110, ThrottledPeriods: 25, Throttled: time.Second}
	b.traffic = []trysail.Traffic{{Service: "web", Version: 2, Requests: [6]int64{1, 0, 5, 0, 2, 1}, BytesIn: 10, BytesOut: 2000, ProbeFailures: 3}}
	for _, took := range []time.Duration{50 * time.Microsecond, time.Millisecond, 3 * time.Millisecond, time.Hour} {
		b.traffic[0].Latency[trysail.HistogramBucket(took)]++
	}
	b.fail("web-0")
	b.Sample(t.Context())
	return b.Collector
}

func TestPrometheus_IsWhatPromtoolAccepts(t *testing.T) {
	text := exposition(t, busy(t).Families(t.Context()))
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v\n%s", problems, err, text)
	}
	families := parse(t, text)
	value := func(name string, labels ...string) float64 {
		t.Helper()
		f := families[name]
		if f == nil {
			t.Fatalf("there is no %s in\n%s", name, text)
		}
		for _, m := range f.Metric {
			var have []string
			for _, l := range m.Label {
				have = append(have, l.GetName()+"="+l.GetValue())
			}
			if !slices.Equal(have, labels) {
				continue
			}
			if f.GetType() == dto.MetricType_COUNTER {
				return m.Counter.GetValue()
			}
			return m.Gauge.GetValue()
		}
		t.Errorf("%s has no %v:\n%v", name, labels, f)
		return 0
	}
	for _, c := range []struct {
		got, want float64
	}{
		{value("trysail_service_requests_total", "service=web", "version=2", "code=2xx"), 5},
		{value("trysail_service_requests_total", "service=web", "version=2", "code=canceled"), 1},
		{value("trysail_service_sent_bytes_total", "service=web", "version=2"), 2000},
		{value("trysail_service_received_bytes_total", "service=web", "version=2"), 10},
		{value("trysail_service_probe_failures_total", "service=web", "version=2"), 3},
		{value("trysail_service_restarts_total", "service=web", "version=2"), 1},
		{value("trysail_service_cpu_seconds_total", "service=web", "version=2"), 1},
		{value("trysail_service_cpu_limit_cores", "service=web", "version=2"), 0.25},
		{value("trysail_service_cpu_throttled_seconds_total", "service=web", "version=2"), 1},
		{value("trysail_service_cpu_throttled_periods_total", "service=web", "version=2"), 25},
		{value("trysail_service_memory_bytes", "service=web", "version=2"), 128 << 20},
		{value("trysail_service_pods", "service=web", "version=2", "state=starting"), 1},
		{value("trysail_service_deployment_info", "service=web", "version=2", "state=ACTIVE"), 1},
		{value("trysail_service_scale", "service=web"), 1},
		{value("trysail_build_info", "version=v1.2.3", "goversion="+families["trysail_build_info"].Metric[0].Label[1].GetValue()), 1},
	} {
		if c.got != c.want {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
	h := families["trysail_service_request_duration_seconds"].Metric[0].Histogram
	if h.GetSampleCount() != 4 || h.GetSampleSum() < 100 || len(h.Bucket) != 22 {
		t.Errorf("histogram: %v", h)
	}
	for _, b := range h.Bucket {
		want := uint64(0)
		for _, took := range []float64{0.00005, 0.001, 0.003} {
			if took <= b.GetUpperBound() {
				want++
			}
		}
		if b.GetUpperBound() > 1e6 { // +Inf
			want++
		}
		if b.GetCumulativeCount() != want {
			t.Errorf("up to %v s: %d, want %d", b.GetUpperBound(), b.GetCumulativeCount(), want)
		}
	}
	if value("process_resident_memory_bytes") < 1<<20 || value("go_goroutines") < 1 || value("process_open_fds") < 3 {
		t.Errorf("the process has no memory, goroutines or files:\n%s", text)
	}
}

func TestPrometheus_EscapesLabelsAndHelp(t *testing.T) {
	const nasty = "a\"b\\c\nd{},é"
	text := exposition(t, []Family{One("x_info", "one\\\ntwo", Gauge, 0.1, Label{"l", nasty})})
	f := parse(t, text)["x_info"]
	if f.GetHelp() != "one\\\ntwo" || f.Metric[0].Label[0].GetValue() != nasty || f.Metric[0].Gauge.GetValue() != 0.1 {
		t.Errorf("got %v from\n%s", f, text)
	}
}

// TestDashboard_UsesWhatIsExposed reads every expression of the Grafana dashboard.
func TestDashboard_UsesWhatIsExposed(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "packaging", "grafana", "trysail.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Title      string
		Templating struct{ List []struct{ Name, Type string } }
		Panels     []struct {
			ID         int
			Title      string
			Type       string
			Datasource struct{ UID string }
			GridPos    struct{ W, H, X, Y int }
			Targets    []struct{ Expr string }
		}
		Annotations struct{ List []struct{ Expr string } }
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	if len(dashboard.Templating.List) == 0 || dashboard.Templating.List[0].Type != "datasource" {
		t.Error("the first variable is not the data source")
	}
	known := map[string]bool{}
	for _, f := range busy(t).Families(t.Context()) {
		known[f.Name] = true
		if f.Kind == HistogramKind {
			known[f.Name+"_bucket"], known[f.Name+"_sum"], known[f.Name+"_count"] = true, true, true
		}
	}
	var used []string
	ids := map[int]bool{}
	word := regexp.MustCompile(`\b(trysail|process|go)_[a-z0-9_]+`)
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 || p.GridPos.W == 0 || p.GridPos.H == 0 {
			t.Errorf("panel %q: id %d, place %+v", p.Title, p.ID, p.GridPos)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			continue
		}
		if p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("panel %q: data source %q, %d targets", p.Title, p.Datasource.UID, len(p.Targets))
		}
		for _, target := range p.Targets {
			used = append(used, word.FindAllString(target.Expr, -1)...)
		}
	}
	for _, a := range dashboard.Annotations.List {
		used = append(used, word.FindAllString(a.Expr, -1)...)
	}
	if len(used) < 15 {
		t.Errorf("only %d metrics are used", len(used))
	}
	for _, name := range used {
		if !known[name] {
			t.Errorf("the dashboard uses %s, which is not exposed", name)
		}
	}
}

func TestPusher_SendsWhatTheOfficialTypesDecode(t *testing.T) {
	c := busy(t)
	p := &Pusher{Families: c.Families, Started: time.Unix(1_700_000_000, 0), Build: "v1.2.3", Host: "box", Log: slog.New(slog.DiscardHandler)}
	at := time.Unix(1_700_000_060, 0)
	families := c.Families(t.Context())
	var data otlp.MetricsData // on the wire the same as an ExportMetricsServiceRequest
	if err := proto.Unmarshal(p.encode(families, at), &data); err != nil {
		t.Fatal(err)
	}
	resource := data.ResourceMetrics[0]
	attributes := map[string]string{}
	for _, a := range resource.Resource.Attributes {
		attributes[a.Key] = a.Value.GetStringValue()
	}
	if diff := cmp.Diff(map[string]string{"service.name": "trysail", "service.version": "v1.2.3", "host.name": "box"}, attributes); diff != "" {
		t.Errorf("resource (-want +got):\n%s", diff)
	}
	got := map[string]*otlp.Metric{}
	for _, m := range resource.ScopeMetrics[0].Metrics {
		got[m.Name] = m
	}
	if len(got) != len(families) || len(resource.ScopeMetrics[0].Metrics) != len(families) {
		t.Errorf("%d of %d families arrived", len(got), len(families))
	}
	if m := got["trysail_service_memory_bytes"]; m.GetUnit() != "By" || m.GetGauge().GetDataPoints()[0].GetAsDouble() != 128<<20 {
		t.Errorf("memory: %v", m)
	}
	m := got["trysail_service_requests"]
	sum := m.GetSum()
	if sum == nil || !sum.IsMonotonic || sum.AggregationTemporality != otlp.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE || len(sum.DataPoints) != 6 {
		t.Fatalf("requests: %v", m)
	}
	ok := sum.DataPoints[2]
	if ok.GetAsDouble() != 5 || ok.StartTimeUnixNano != uint64(p.Started.UnixNano()) || ok.TimeUnixNano != uint64(at.UnixNano()) || len(ok.Attributes) != 3 || ok.Attributes[2].Value.GetStringValue() != "2xx" {
		t.Errorf("requests: %v", ok)
	}
	m = got["trysail_service_request_duration_seconds"]
	h := m.GetHistogram().GetDataPoints()[0]
	if m.Unit != "s" || h.Count != 4 || h.GetSum() < 100 || len(h.BucketCounts) != len(h.ExplicitBounds)+1 || h.BucketCounts[0] != 1 || h.BucketCounts[len(h.BucketCounts)-1] != 1 || h.ExplicitBounds[0] != 0.0001 {
		t.Errorf("latency: %v", m)
	}
}

// TestPusher_OutlivesACollectorThatFails pushes to one that refuses first and accepts then.
func TestPusher_OutlivesACollectorThatFails(t *testing.T) {
	pushed := make(chan error, 100)
	calls := 0
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls++
		if calls <= 2 {
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			pushed <- err
			return
		}
		body, err := io.ReadAll(z)
		if err == nil && (r.Method != http.MethodPost || r.URL.Path != "/v1/metrics" || r.Header.Get("Api-Key") != "secret" || r.Header.Get("Content-Type") != "application/x-protobuf") {
			err = fmt.Errorf("%s %s %v", r.Method, r.URL.Path, r.Header)
		}
		if err == nil {
			err = proto.Unmarshal(body, &otlp.MetricsData{})
		}
		pushed <- err
	}))
	defer collector.Close()
	var log bytes.Buffer
	p := &Pusher{
		URL: collector.URL + "/v1/metrics", Header: http.Header{"Api-Key": {"secret"}}, Every: time.Millisecond, Build: "v1",
		Families: func(context.Context) []Family { return []Family{One("x", "y", Gauge, 1)} }, Log: slog.New(slog.NewTextHandler(&log, nil)),
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	for range 2 {
		if err := <-pushed; err != nil {
			t.Error(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	text := log.String()
	if strings.Count(text, "could not be sent") != 1 || strings.Count(text, "sent to the OpenTelemetry collector again") != 1 || strings.Contains(text, "secret") {
		t.Errorf("the log should say once that it fails and once that it works again:\n%s", text)
	}
}
