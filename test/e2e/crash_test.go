//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"

	"github.com/trysail/trysail/test/kit"
)

// victims are what is killed with SIGKILL.
var victims = map[string]func(*testing.T, *kit.Server){
	"trysail":    killServer,
	"containerd": killContainerd,
	"both":       killBoth,
}

// killServer kills trysail and starts it again, as an init system would.
func killServer(t *testing.T, s *kit.Server) {
	t.Helper()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// killContainerd kills what runs the containers; in a cluster, what we ask for them: its API server.
func killContainerd(t *testing.T, s *kit.Server) {
	t.Helper()
	if s.InCluster() {
		if err := s.KillAPIServer(); err != nil {
			t.Fatal(err)
		}
		return
	}
	child, err := s.Containerd()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(child.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func killBoth(t *testing.T, s *kit.Server) {
	t.Helper()
	killContainerd(t, s)
	killServer(t, s)
}

// TestKill kills parts of Trysail at the worst moments. Containers must not notice.
func TestKill(t *testing.T) {
	s := dedicated(t, kit.ServerOptions{Flags: []string{"--drain-timeout", "20s"}})
	for who, kill := range victims {
		for moment, run := range map[string]func(*testing.T, *client, string, func(*testing.T, *kit.Server)){
			"serving":    killWhileServing,
			"activating": killWhileActivating,
			"draining":   killWhileDraining,
		} {
			t.Run(who+" while "+moment, func(t *testing.T) {
				c := clientOf(t, s)
				name := "kill-" + who + "-" + moment
				c.create(name, types.ContainerServicePowerNameNano, 2)
				run(t, c, name, kill)
				c.delete(name)
			})
		}
	}
}

// marker is in the environment of one version's containers, so that their processes can be found from outside.
func marker(name string, version int) string { return fmt.Sprintf("%s/%d", name, version) }

func ticking(name string, version int, more ...string) map[string]string {
	vars := map[string]string{"VERSION": strconv.Itoa(version), "LOG_EVERY": "20ms", "E2E_MARKER": marker(name, version)}
	for i := 0; i < len(more); i += 2 {
		vars[more[i]] = more[i+1]
	}
	return vars
}

// processes waits for n container processes of a version and returns them. A kubelet that has lost its API server several
// times asks it again only after half a minute to a minute, and hears then what is to end.
func processes(t *testing.T, name string, version, n int) []string {
	t.Helper()
	var list []string
	err := kit.Until(t.Context(), 2*time.Minute, func() error {
		procs, err := kit.Marked("E2E_MARKER", marker(name, version))
		if err != nil {
			return err
		}
		list = nil
		for _, p := range procs {
			list = append(list, p.String())
		}
		slices.Sort(list)
		if len(list) != n {
			return fmt.Errorf("version %d of %s has %d processes, want %d: %q", version, name, len(list), n, list)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func same(t *testing.T, what string, before, after []string) {
	t.Helper()
	if !slices.Equal(before, after) {
		t.Errorf("%s were\n\t%q and now are\n\t%q", what, before, after)
	}
}

func killWhileServing(t *testing.T, c *client, name string, kill func(*testing.T, *kit.Server)) {
	c.deploy(webDeployment(name, "web:1", ticking(name, 1)))
	c.waitState(name, types.ContainerServiceStateRunning)
	before := processes(t, name, 1, 2)
	kill(t, c.server)
	c.answers(name, "version 1\n")
	same(t, "the containers", before, processes(t, name, 1, 2))
	// It must not only look as before, but work: the next version can be deployed.
	version := c.deploy(webDeployment(name, "web:2", ticking(name, 2)))
	c.waitVersion(name, version, types.ContainerServiceDeploymentStateActive)
	processes(t, name, 1, 0)
	wholeLog(t, c, name, 2)
}

func killWhileActivating(t *testing.T, c *client, name string, kill func(*testing.T, *kit.Server)) {
	c.deploy(webDeployment(name, "web:1", ticking(name, 1)))
	c.waitState(name, types.ContainerServiceStateRunning)
	old := processes(t, name, 1, 2)
	version := c.deploy(webDeployment(name, "web:2", ticking(name, 2, "START_DELAY", "6s")))
	// A container whose start was not yet confirmed when containerd was killed is replaced afterwards, and rightly so.
	c.eventually("the new containers are known to run", func() bool {
		s := c.service(name)
		return s.StateDetail != nil && s.StateDetail.Code == types.ContainerServiceStateDetailCodeEvaluatingHealthCheck
	})
	young := processes(t, name, 2, 2)
	kill(t, c.server)
	c.answers(name, "version 1\n")
	same(t, "the old containers", old, processes(t, name, 1, 2))
	same(t, "the new containers", young, processes(t, name, 2, 2))
	c.waitVersion(name, version, types.ContainerServiceDeploymentStateActive)
	c.waitState(name, types.ContainerServiceStateRunning)
	c.answers(name, "version 2\n")
	same(t, "the new containers", young, processes(t, name, 2, 2))
	processes(t, name, 1, 0)
	c.waitVersion(name, 1, types.ContainerServiceDeploymentStateInactive)
	wholeLog(t, c, name, 2)
}

func killWhileDraining(t *testing.T, c *client, name string, kill func(*testing.T, *kit.Server)) {
	c.deploy(webDeployment(name, "web:1", ticking(name, 1)))
	c.waitState(name, types.ContainerServiceStateRunning)
	pid := c.server.PID()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	slow := startSlowRequest(ctx, t, c, name)
	version := c.deploy(webDeployment(name, "web:2", ticking(name, 2)))
	c.answers(name, "version 2\n") // from now on version 1 drains: it has a request to finish
	young := processes(t, name, 2, 2)
	kill(t, c.server)
	c.answers(name, "version 2\n")
	same(t, "the new containers", young, processes(t, name, 2, 2))
	c.waitVersion(name, version, types.ContainerServiceDeploymentStateActive)
	c.waitVersion(name, 1, types.ContainerServiceDeploymentStateInactive)
	c.waitState(name, types.ContainerServiceStateRunning)
	if c.server.PID() == pid {
		// The edge lived on, so the request that was open all the time must have been answered.
		if err := <-slow; err != nil {
			t.Errorf("the request that was being drained: %v", err)
		}
	}
	processes(t, name, 1, 0)
	wholeLog(t, c, name, 2)
}

// startSlowRequest begins a request that takes eight seconds and returns when it has reached its pod.
func startSlowRequest(ctx context.Context, t *testing.T, c *client, name string) <-chan error {
	t.Helper()
	h, err := c.server.HTTPClient(false)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url(name, "/stream?n=41&d=200ms"), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := h.Do(req) // the first line of the stream is there
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		defer h.CloseIdleConnections()
		defer resp.Body.Close()
		_, err := io.Copy(io.Discard, resp.Body)
		done <- err
	}()
	return done
}

// answers waits until the service answers want.
func (c *client) answers(name, want string) {
	c.t.Helper()
	h, err := c.server.HTTPClient(true)
	if err != nil {
		c.t.Fatal(err)
	}
	defer h.CloseIdleConnections()
	url := c.url(name, "/")
	err = kit.Until(c.t.Context(), 60*time.Second, func() error {
		resp, err := h.Get(url)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK || string(body) != want {
			return fmt.Errorf("%s answers %s: %s", url, resp.Status, body)
		}
		return nil
	})
	if err != nil {
		c.t.Fatalf("%v\n%s", err, c.server.LogTail(40))
	}
}

var tickLine = regexp.MustCompile(`^tick (\d+) (\w+) (\d+)$`)

// wholeLog checks that the numbered lines of the two containers of every version are all there, each once, in order.
func wholeLog(t *testing.T, c *client, name string, versions int) {
	t.Helper()
	// The newest lines may still be on their way.
	err := kit.Until(t.Context(), 10*time.Second, func() error {
		last := map[string]int{} // by version and instance
		for _, line := range c.logs(name) {
			m := tickLine.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			n, err := strconv.Atoi(m[3])
			if err != nil {
				return err
			}
			who := m[1] + " " + m[2]
			if n != last[who]+1 {
				return fmt.Errorf("in the log of %s, line %d of container %s is followed by line %d", name, last[who], who, n)
			}
			last[who] = n
		}
		if len(last) != 2*versions {
			return fmt.Errorf("the log of %s has lines of the containers %v, want two of each version", name, last)
		}
		for who, n := range last {
			if n < 5 {
				return fmt.Errorf("the log of %s has only %d lines of container %s", name, n, who)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
