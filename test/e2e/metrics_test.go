//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/trysail/trysail/test/kit"
)

// TestMetrics deploys, sends requests, and looks for them where people look: with the AWS CLI, by Prometheus' scrape and
// on the command line; then after a restart, after the next deployment, and after the service is gone.
func TestMetrics(t *testing.T) {
	s := dedicated(t, kit.ServerOptions{})
	c := clientOf(t, s)
	c.create("counted", types.ContainerServicePowerNameNano, 1)
	c.deploy(webDeployment("counted", "web:1", nil))
	c.waitState("counted", types.ContainerServiceStateRunning)
	begin := time.Now()
	const good, bad = 40, 5
	for range good {
		c.get200("counted", "/health")
	}
	for range bad {
		if resp, _ := c.fetch("counted", "/status?code=503"); resp.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("the program answers %s", resp.Status)
		}
	}

	c.eventuallyNil(func() error { return c.cliHasCPU("counted", begin) })
	c.eventuallyNil(func() error {
		families, err := c.scrape()
		if err != nil {
			return err
		}
		ok, failed := total(families, "trysail_service_requests_total", "2xx"), total(families, "trysail_service_requests_total", "5xx")
		if ok < good || failed != bad {
			return fmt.Errorf("%v requests with 2xx and %v with 5xx, want %d and %d", ok, failed, good, bad)
		}
		if total(families, "trysail_service_memory_bytes", "") <= 0 || total(families, "trysail_service_pods", "healthy") != 1 {
			return errors.New("no memory, or no healthy pod")
		}
		return nil
	})
	c.eventuallyNil(func() error { return c.counted("counted", "Requests5xx", bad) })

	// What is on the disk outlives the process, and the deployment.
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c = clientOf(t, s)
	if err := c.counted("counted", "Requests5xx", bad); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	version := c.deploy(webDeployment("counted", "web:2", nil))
	c.waitVersion("counted", version, types.ContainerServiceDeploymentStateActive)
	if err := c.counted("counted", "Requests5xx", bad); err != nil {
		t.Errorf("after a deployment: %v", err)
	}
	out, err := s.Run(t.Context(), "metrics", "counted", "--output", "json")
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Deployments []struct {
			Version int
			State   string
		}
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil || len(answer.Deployments) != 2 || answer.Deployments[1].State != "ACTIVE" {
		t.Errorf("deployments: %+v, %v", answer, err)
	}
	if out, err = s.Run(t.Context(), "metrics", "counted"); err != nil || !strings.Contains(out, "CPUUTILIZATION %") || !strings.Contains(out, "v2") {
		t.Errorf("the table: %v\n%s", err, out)
	}

	c.delete("counted")
	c.eventually("its points to be gone", func() bool {
		left, err := os.ReadDir(filepath.Join(s.DataDir, "metrics"))
		return err == nil && len(left) == 0
	})
}

// eventuallyNil waits until check has nothing to complain of.
func (c *client) eventuallyNil(check func() error) {
	c.t.Helper()
	if err := kit.Until(c.t.Context(), 2*time.Minute, check); err != nil {
		c.t.Fatalf("%v\n%s", err, c.server.LogTail(30))
	}
}

// cliHasCPU asks the AWS CLI for CPU and memory.
func (c *client) cliHasCPU(service string, since time.Time) error {
	for _, name := range []string{"CPUUtilization", "MemoryUtilization"} {
		cmd := exec.CommandContext(c.t.Context(), "/usr/bin/aws", "lightsail", "--endpoint-url", "http://"+c.server.API, "get-container-service-metric-data",
			"--service-name", service, "--metric-name", name, "--period", "300", "--statistics", "Average", "Maximum", "SampleCount",
			"--start-time", fmt.Sprint(since.Unix()), "--end-time", fmt.Sprint(time.Now().Unix()+1))
		cmd.Env = append(c.server.Environ(), "AWS_PAGER=")
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("aws: %w", err)
		}
		var answer struct {
			MetricName string
			MetricData []struct {
				Average, Maximum, SampleCount float64
				Minimum                       *float64
				Unit                          string
			}
		}
		if err := json.Unmarshal(out, &answer); err != nil {
			return err
		}
		if len(answer.MetricData) == 0 {
			return fmt.Errorf("no points of %s yet", name)
		}
		for _, p := range answer.MetricData {
			if p.SampleCount < 1 || p.Average < 0 || p.Average > p.Maximum || p.Maximum > 100 || p.Unit != "Percent" || p.Minimum != nil || answer.MetricName != name {
				return fmt.Errorf("%s: %s", name, out)
			}
		}
	}
	return nil
}

// counted checks the sum of a metric over the last hour.
func (c *client) counted(service, metric string, want float64) error {
	out, err := c.server.Run(c.t.Context(), "metrics", service, metric, "--output", "json")
	if err != nil {
		return err
	}
	var answer struct {
		Metrics []struct {
			MetricData []struct{ Statistics map[string]float64 }
		}
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		return err
	}
	sum := 0.0
	for _, m := range answer.Metrics {
		for _, p := range m.MetricData {
			sum += p.Statistics["Sum"]
		}
	}
	if sum != want {
		return fmt.Errorf("the sum of %s is %v, want %v", metric, sum, want)
	}
	return nil
}

// scrape reads /metrics with the scrape token, as Prometheus does, and checks it as promtool does.
func (c *client) scrape() (map[string]*dto.MetricFamily, error) {
	token, err := os.ReadFile(filepath.Join(c.server.DataDir, "metrics.token"))
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, "http://"+c.server.API+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		return nil, fmt.Errorf("without a token: %s", resp.Status)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	if resp, err = http.DefaultClient.Do(req); err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s, %w", resp.Status, err)
	}
	if problems, err := promlint.New(strings.NewReader(string(text))).Lint(); err != nil || len(problems) > 0 {
		return nil, fmt.Errorf("promlint: %v, %w", problems, err)
	}
	p := expfmt.NewTextParser(model.LegacyValidation)
	return p.TextToMetricFamilies(strings.NewReader(string(text)))
}

// total adds up the samples of a family; those with a label of that value, if it is not empty.
func total(families map[string]*dto.MetricFamily, name, label string) (sum float64) {
	for _, m := range families[name].GetMetric() {
		counts := label == ""
		for _, l := range m.GetLabel() {
			counts = counts || l.GetValue() == label
		}
		if counts {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}
