//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
)

// TestDeployment_FailsWithAReason deploys every kind of broken version over a good one. Each must end FAILED, say why,
// and leave the good one serving.
func TestDeployment_FailsWithAReason(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*lightsail.CreateContainerServiceDeploymentInput)
		says   []string // all must be in the diagnosis, letters of any case
	}{
		{"crash", env("START_DELAY", "1m", "CRASH_AFTER", "50ms", "EXIT_CODE", "42"), []string{"42"}},
		{"exit 0", env("START_DELAY", "1m", "CRASH_AFTER", "50ms", "EXIT_CODE", "0"), []string{"exit"}},
		{"missing setting", env("REQUIRE", "DATABASE_URL"), []string{"DATABASE_URL"}},
		{"unhealthy", env("FAIL_HEALTH", "500"), []string{"500", "/health"}},
		{"wrong port", env("PORT", "9090"), []string{"8080", "9090"}},
		{"only on loopback", env("HOST", "127.0.0.1"), []string{"127.0.0.1"}},
		{"out of memory", env("ALLOC_MB", "700"), []string{"memory"}},
		{"no such program", withImage("noprogram:1"), []string{"/app/server"}},
		{"no such registry", withRegistry("127.0.0.1:9/web:1"), []string{"127.0.0.1:9"}},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // they wait more than they work
			c := clientOf(t, shared.server)
			name := fmt.Sprintf("broken-%d", i)
			c.create(name, types.ContainerServicePowerNameNano, 1)
			c.deploy(webDeployment(name, "web:1", nil))
			c.waitState(name, types.ContainerServiceStateRunning)
			in := webDeployment(name, "web:2", nil)
			tt.change(in)
			version := c.deploy(in)
			c.waitVersion(name, version, types.ContainerServiceDeploymentStateFailed)
			s := c.waitState(name, types.ContainerServiceStateRunning)
			if got := aws.ToInt32(s.CurrentDeployment.Version); got != 1 {
				t.Errorf("version %d serves, want 1", got)
			}
			if s.NextDeployment != nil {
				t.Errorf("there still is a next deployment: %+v", s.NextDeployment)
			}
			if body := c.get200(name, "/"); body != "version 1\n" {
				t.Errorf("the service answers %q", body)
			}
			why, err := shared.server.Run(t.Context(), "explain", name)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(why)
			for _, want := range tt.says {
				if !strings.Contains(strings.ToLower(why), strings.ToLower(want)) {
					t.Errorf("the explanation does not mention %q", want)
				}
			}
			if lines := c.logs(name); !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "[trysail] ") }) {
				t.Errorf("the log says nothing of it:\n%s", strings.Join(lines, "\n"))
			}
			c.delete(name)
		})
	}
}

// TestDeployment_RefusesImages: what a registry says no to is not even begun.
func TestDeployment_RefusesImages(t *testing.T) {
	c := clientOf(t, shared.server)
	c.create("noimage", types.ContainerServicePowerNameNano, 1)
	for tagged, says := range map[string]string{
		"web:none":       "none",
		"nothing/here:1": "nothing/here",
		"web-foreign:1":  foreignArch(),
	} {
		_, err := c.api.CreateContainerServiceDeployment(t.Context(), webDeployment("noimage", tagged, nil))
		wantInvalid(t, "image "+tagged, err, says)
		t.Log(err)
	}
	s := c.service("noimage")
	if s.State != types.ContainerServiceStateReady || s.NextDeployment != nil {
		t.Errorf("the service is %s with the next deployment %+v", s.State, s.NextDeployment)
	}
	c.delete("noimage")
}

// TestDeployment_SlowStartIsNoFailure: a process that runs but does not answer yet is not unhealthy.
func TestDeployment_SlowStartIsNoFailure(t *testing.T) {
	c := clientOf(t, shared.server)
	c.create("slow", types.ContainerServicePowerNameNano, 1)
	version := c.deploy(webDeployment("slow", "web:1", map[string]string{"START_DELAY": "8s"}))
	c.waitVersion("slow", version, types.ContainerServiceDeploymentStateActive)
	started := 0
	for _, line := range c.logs("slow") {
		if strings.HasPrefix(line, "starting takes") {
			started++
		}
	}
	if started != 1 {
		t.Errorf("the program was started %d times, want 1", started)
	}
	c.delete("slow")
}

// TestService_FirstDeploymentFails: with nothing to go back to, the service is READY and its URL answers 404.
func TestService_FirstDeploymentFails(t *testing.T) {
	c := clientOf(t, shared.server)
	c.create("first", types.ContainerServicePowerNameNano, 1)
	version := c.deploy(webDeployment("first", "web:1", map[string]string{"START_DELAY": "1m", "CRASH_AFTER": "10ms"}))
	c.waitVersion("first", version, types.ContainerServiceDeploymentStateFailed)
	s := c.waitState("first", types.ContainerServiceStateReady)
	if s.CurrentDeployment != nil || s.NextDeployment != nil {
		t.Errorf("there are deployments: %+v %+v", s.CurrentDeployment, s.NextDeployment)
	}
	resp, body := c.fetch("first", "/")
	if resp.StatusCode != http.StatusNotFound || !strings.Contains(body, "404 No Such Service") {
		t.Errorf("the URL answers %s: %s", resp.Status, body)
	}
	want := []string{"Creating your deployment", "Started 1 new node", "Started 1 new node", "Started 1 new node", "Canceled"}
	var got []string
	for _, line := range c.logs("first") {
		if text, ok := strings.CutPrefix(line, "[deployment:1] "); ok {
			got = append(got, text)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the system lines are %q, want %q", got, want)
	}
	c.delete("first")
}

// TestService_RestartsACrashedPod: a crash of the active version heals by itself, without a new version.
func TestService_RestartsACrashedPod(t *testing.T) {
	c := clientOf(t, shared.server)
	c.create("crash", types.ContainerServicePowerNameNano, 2)
	c.deploy(webDeployment("crash", "web:1", nil))
	c.waitState("crash", types.ContainerServiceStateRunning)
	h, err := c.server.HTTPClient(true)
	if err != nil {
		t.Fatal(err)
	}
	defer h.CloseIdleConnections()
	// A POST may not be sent to another pod once it was begun.
	resp, _ := do(t, h, newRequest(t, http.MethodPost, c.url("crash", "/exit?code=9"), strings.NewReader("x")))
	if resp.StatusCode != http.StatusBadGateway {
		t.Errorf("a request whose pod died was answered %s, want 502", resp.Status)
	}
	if resp.Header.Get("X-Request-Id") == "" && resp.Header.Get("X-Amzn-Requestid") == "" {
		t.Errorf("the error carries no request id: %v", resp.Header)
	}
	// Nobody else may notice, and two pods must answer again in the end.
	url := c.url("crash", "/")
	c.eventually("two pods to answer", func() bool {
		pods := map[string]bool{}
		for range 20 {
			resp, body := do(t, h, newRequest(t, http.MethodGet, url, nil))
			if resp.StatusCode != http.StatusOK {
				t.Errorf("while one pod is replaced, the service answers %s: %s", resp.Status, body)
			}
			pods[resp.Header.Get("X-Instance")] = true
		}
		return len(pods) == 2
	})
	s := c.service("crash")
	if s.State != types.ContainerServiceStateRunning || aws.ToInt32(s.CurrentDeployment.Version) != 1 {
		t.Errorf("the service is %s with version %d", s.State, aws.ToInt32(s.CurrentDeployment.Version))
	}
	c.delete("crash")
}

func env(pairs ...string) func(*lightsail.CreateContainerServiceDeploymentInput) {
	return func(in *lightsail.CreateContainerServiceDeploymentInput) {
		vars := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			vars[pairs[i]] = pairs[i+1]
		}
		web := in.Containers["web"]
		web.Environment = vars
		in.Containers["web"] = web
	}
}

func withImage(tagged string) func(*lightsail.CreateContainerServiceDeploymentInput) {
	return withRegistry(image(tagged))
}

func withRegistry(full string) func(*lightsail.CreateContainerServiceDeploymentInput) {
	return func(in *lightsail.CreateContainerServiceDeploymentInput) {
		web := in.Containers["web"]
		web.Image = aws.String(full)
		in.Containers["web"] = web
	}
}

// fetch asks the service over HTTPS.
func (c *client) fetch(name, path string) (*http.Response, string) {
	c.t.Helper()
	h, err := c.server.HTTPClient(true)
	if err != nil {
		c.t.Fatal(err)
	}
	defer h.CloseIdleConnections()
	resp, err := h.Get(c.url(name, path))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, string(body)
}

func (c *client) get200(name, path string) string {
	c.t.Helper()
	resp, body := c.fetch(name, path)
	if resp.StatusCode != http.StatusOK {
		c.t.Fatalf("%s%s answered %s: %s", name, path, resp.Status, body)
	}
	return body
}
