//go:build e2e

package e2e

import (
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
	c := clientOf(t, shared.server)
	c.create("broken", types.ContainerServicePowerNameNano, 1)
	c.deploy(webDeployment("broken", "web:1", nil))
	c.waitState("broken", types.ContainerServiceStateRunning)

	tests := []struct {
		name   string
		change func(*lightsail.CreateContainerServiceDeploymentInput)
		says   []string // all must be in the diagnosis, letters of any case
	}{
		{"crash", env("CRASH_AFTER", "50ms", "EXIT_CODE", "42"), []string{"42"}},
		{"exit 0", env("CRASH_AFTER", "50ms", "EXIT_CODE", "0"), []string{"exit"}},
		{"missing setting", env("REQUIRE", "DATABASE_URL"), []string{"DATABASE_URL"}},
		{"unhealthy", env("FAIL_HEALTH", "500"), []string{"500", "/health"}},
		{"wrong port", env("PORT", "9090"), []string{"8080", "9090"}},
		{"only on loopback", env("HOST", "127.0.0.1"), []string{"127.0.0.1"}},
		{"out of memory", env("ALLOC_MB", "700"), []string{"memory"}},
		{"no such program", withImage("noprogram:1"), []string{"/app/server"}},
		{"no such tag", withImage("web:none"), []string{"web:none"}},
		{"no such repository", withImage("nothing/here:1"), []string{"nothing/here"}},
		{"another architecture", withImage("web-foreign:1"), []string{foreignArch()}},
		{"no such registry", withRegistry("127.0.0.1:9/web:1"), []string{"127.0.0.1:9"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := clientOf(t, shared.server)
			in := webDeployment("broken", "web:2", nil)
			tt.change(in)
			version := c.deploy(in)
			c.waitVersion("broken", version, types.ContainerServiceDeploymentStateFailed)
			s := c.waitState("broken", types.ContainerServiceStateRunning)
			if got := aws.ToInt32(s.CurrentDeployment.Version); got != 1 {
				t.Errorf("version %d serves, want 1", got)
			}
			if s.NextDeployment != nil {
				t.Errorf("there still is a next deployment: %+v", s.NextDeployment)
			}
			if body := c.get200("broken", "/"); body != "version 1\n" {
				t.Errorf("the service answers %q", body)
			}
			why, err := shared.server.Run(t.Context(), "explain", "broken")
			if err != nil {
				t.Fatal(err)
			}
			t.Log(why)
			for _, want := range tt.says {
				if !strings.Contains(strings.ToLower(why), strings.ToLower(want)) {
					t.Errorf("the explanation does not mention %q", want)
				}
			}
			lines := c.logs("broken")
			ours := slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !strings.HasPrefix(l, "[trysail]") })
			if len(ours) == 0 {
				t.Errorf("the log says nothing of it:\n%s", strings.Join(lines, "\n"))
			}
		})
	}
	c.delete("broken")
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
	version := c.deploy(webDeployment("first", "web:1", map[string]string{"CRASH_AFTER": "10ms"}))
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
	resp, _ := c.fetch("crash", "/exit?code=9")
	if resp.StatusCode != http.StatusBadGateway {
		t.Errorf("a request whose pod died was answered %s, want 502", resp.Status)
	}
	if resp.Header.Get("X-Request-Id") == "" && resp.Header.Get("X-Amzn-Requestid") == "" {
		t.Errorf("the error carries no request id: %v", resp.Header)
	}
	// Two different pods must answer again.
	c.eventually("two pods to answer", func() bool {
		pods := map[string]bool{}
		for range 20 {
			resp, _ := c.fetch("crash", "/")
			if resp.StatusCode == http.StatusOK {
				pods[resp.Header.Get("X-Instance")] = true
			}
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
