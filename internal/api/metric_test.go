package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

func TestMetricData_BySDK(t *testing.T) {
	at := time.Unix(1_700_000_100, 0).UTC()
	var got control.GetContainerServiceMetricDataInput
	client := newSDKClient(t, &fake{metricData: func(in control.GetContainerServiceMetricDataInput) (*control.MetricData, error) {
		got = in
		return &control.MetricData{Name: in.MetricName, Unit: "Percent", Statistics: in.Statistics, Points: []control.MetricPoint{{At: at, Values: []float64{12.5, 0}}}}, nil
	}}, testSecret)
	out, err := client.GetContainerServiceMetricData(t.Context(), &lightsail.GetContainerServiceMetricDataInput{
		ServiceName: aws.String("web"), MetricName: types.ContainerServiceMetricNameCPUUtilization, StartTime: aws.Time(at), EndTime: aws.Time(at.Add(time.Hour)),
		Period: aws.Int32(300), Statistics: []types.MetricStatistic{types.MetricStatisticAverage, types.MetricStatisticMaximum},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := control.GetContainerServiceMetricDataInput{
		ServiceName: "web", MetricName: "CPUUtilization", StartTime: at, EndTime: at.Add(time.Hour), Period: 300, Statistics: []string{"Average", "Maximum"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what control got (-want +got):\n%s", diff)
	}
	if out.MetricName != "CPUUtilization" || len(out.MetricData) != 1 {
		t.Fatalf("got %+v", out)
	}
	p := out.MetricData[0]
	if *p.Average != 12.5 || *p.Maximum != 0 || p.Minimum != nil || p.Sum != nil || p.SampleCount != nil || !p.Timestamp.Equal(at) || p.Unit != types.MetricUnitPercent {
		t.Errorf("got %+v", p)
	}
}

func TestMetricData_EveryMemberIsRequired(t *testing.T) {
	op := findOperation(t, &fake{}, "GetContainerServiceMetricData")
	full := map[string]any{"serviceName": "web", "metricName": "CPUUtilization", "startTime": 1, "endTime": 2, "period": 300, "statistics": []string{"Sum"}}
	for name, value := range full {
		delete(full, name)
		_, err := serveText(op, marshal(t, full))
		if e, ok := errors.AsType[*trysail.Error](err); !ok || e.Message != `Missing required member "`+name+`".` {
			t.Errorf("without %s: %v", name, err)
		}
		full[name] = value
	}
}

func TestServiceMetricData_Wire(t *testing.T) {
	at := time.Unix(1_700_000_100, 0).UTC()
	var got control.GetServiceMetricDataInput
	f := &fake{metrics: func(in control.GetServiceMetricDataInput) (*control.ServiceMetrics, error) {
		got = in
		return &control.ServiceMetrics{
			StartTime: at, EndTime: at.Add(time.Hour), Period: 60,
			Metrics:     []control.MetricData{{Name: "Latency", Unit: "Milliseconds", Statistics: []string{"p99"}, Points: []control.MetricPoint{{At: at, Values: []float64{1.5}}}}, {Name: "Requests", Unit: "Count"}},
			Deployments: []control.MetricMarker{{Version: 3, At: at, State: trysail.DeploymentActive}},
		}, nil
	}}
	answer, err := serveText(findOperation(t, f, "GetServiceMetricData"), []byte(`{"serviceName":"web","metricNames":["Latency","Requests"],"startTime":1700000100,"period":60,"statistics":["p99"],"version":3}`))
	if err != nil {
		t.Fatal(err)
	}
	want := control.GetServiceMetricDataInput{ServiceName: "web", MetricNames: []string{"Latency", "Requests"}, StartTime: &at, Period: 60, Statistics: []string{"p99"}, Version: 3}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what control got (-want +got):\n%s", diff)
	}
	text, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	const body = `{"startTime":1700000100,"endTime":1700003700,"period":60,"metrics":[` +
		`{"metricName":"Latency","unit":"Milliseconds","metricData":[{"timestamp":1700000100,"statistics":{"p99":1.5}}]},{"metricName":"Requests","unit":"Count","metricData":[]}],` +
		`"deployments":[{"version":3,"state":"ACTIVE","createdAt":1700000100}]}`
	if diff := cmp.Diff(body, string(text)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, wrong := range []string{`{"serviceName":"web","version":0}`, `{"serviceName":"web","period":0}`, `{"serviceName":"web","period":-60}`, `{}`} {
		_, err := serveText(findOperation(t, f, "GetServiceMetricData"), []byte(wrong))
		if e, ok := errors.AsType[*trysail.Error](err); !ok || e.Code != trysail.CodeInvalid {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

const scrapeToken = "a token of the tests"

func newScrape(t *testing.T, token func() (string, error)) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(&Scrape{
		Token: token, Control: &fake{}, ContentType: "text/plain; version=0.0.4", Log: slog.New(slog.DiscardHandler),
		Write: func(_ context.Context, w io.Writer) error { _, err := io.WriteString(w, "up 1\n"); return err },
	})
	t.Cleanup(s.Close)
	return s
}

func scrape(t *testing.T, method, url string, change func(*http.Request)) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	change(r)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func signScrape(t *testing.T, key, secret string) func(*http.Request) {
	t.Helper()
	return func(r *http.Request) {
		sum := sha256.Sum256(nil)
		credentials := aws.Credentials{AccessKeyID: key, SecretAccessKey: secret}
		if err := v4.NewSigner().SignHTTP(t.Context(), credentials, r, hex.EncodeToString(sum[:]), "lightsail", "us-east-1", time.Now()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestScrape_NeedsTheTokenOrASignature(t *testing.T) {
	s := newScrape(t, func() (string, error) { return scrapeToken, nil })
	bearer := func(value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", value) }
	}
	for name, c := range map[string]struct {
		change func(*http.Request)
		want   int
	}{
		"bearer":         {bearer("Bearer " + scrapeToken), 200},
		"password":       {func(r *http.Request) { r.SetBasicAuth("prometheus", scrapeToken) }, 200},
		"signed":         {signScrape(t, testKey, testSecret), 200},
		"nothing":        {func(*http.Request) {}, 401},
		"wrong":          {bearer("Bearer " + scrapeToken + "x"), 401},
		"empty":          {bearer("Bearer "), 401},
		"prefix":         {bearer("Bearer " + scrapeToken[:5]), 401},
		"wrong password": {func(r *http.Request) { r.SetBasicAuth(scrapeToken, "") }, 401},
		"wrong secret":   {signScrape(t, testKey, "wrong"), 401},
		"unknown key":    {signScrape(t, "AKNOBODY", testSecret), 401},
	} {
		t.Run(name, func(t *testing.T) {
			status, body := scrape(t, http.MethodGet, s.URL, c.change)
			if status != c.want || (status == 200) != (body == "up 1\n") || strings.Contains(body, scrapeToken) {
				t.Errorf("got %d %q", status, body)
			}
		})
	}
	if status, _ := scrape(t, http.MethodPost, s.URL, bearer("Bearer "+scrapeToken)); status != 405 {
		t.Errorf("POST: %d", status)
	}
	if status, body := scrape(t, http.MethodHead, s.URL, bearer("Bearer "+scrapeToken)); status != 200 || body != "" {
		t.Errorf("HEAD: %d %q", status, body)
	}
}

func TestScrape_WithoutATokenOnlySignaturesCount(t *testing.T) {
	for _, fails := range []error{nil, errors.New("no such file")} {
		s := newScrape(t, func() (string, error) { return "", fails })
		if status, _ := scrape(t, http.MethodGet, s.URL, func(r *http.Request) { r.Header.Set("Authorization", "Bearer ") }); status != 401 {
			t.Errorf("an empty token: %d", status)
		}
		if status, _ := scrape(t, http.MethodGet, s.URL, signScrape(t, testKey, testSecret)); status != 200 {
			t.Errorf("signed: %d", status)
		}
	}
}
