//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"

	"github.com/trysail/trysail/test/kit"
)

// accessEntry is what the tests look at of a line of the access log.
type accessEntry struct {
	Service, Pod, Method, Path, Query, Protocol, TLS, RequestID string
	Version, Status                                             int
	BytesOut                                                    int64
	HealthCheck                                                 bool
}

// accessLog reads the service's access log as its user does.
func accessLog(t *testing.T, s *kit.Server, service string, flags ...string) (list []accessEntry) {
	t.Helper()
	out, err := s.Run(t.Context(), append([]string{"logs", service, "--access", "-o", "json"}, flags...)...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(out) {
		var e accessEntry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		list = append(list, e)
	}
	return list
}

// TestAccessLog turns the log on, asks, and finds the same request in the log of the edge, in that of the pod and in
// the answer; then the server is killed, and nothing is lost.
func TestAccessLog(t *testing.T) {
	s := dedicated(t, kit.ServerOptions{})
	c := clientOf(t, s)
	c.create("access", types.ContainerServicePowerNameNano, 1)
	c.deploy(webDeployment("access", "web:1", nil))
	url := strings.TrimSuffix(*c.waitState("access", types.ContainerServiceStateRunning).Url, "/")
	h, err := s.HTTPClient(true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { h.CloseIdleConnections() }()
	ask := func(path string) *http.Response {
		t.Helper()
		resp, _ := do(t, h, newRequest(t, "GET", url+path, nil))
		return resp
	}
	ask("/before")
	if out, err := s.Run(t.Context(), "settings", "access", "--access-log", "on"); err != nil || !strings.Contains(out, "on") {
		t.Fatalf("%v\n%s", err, out)
	}
	find := func(path string) (found accessEntry) {
		t.Helper()
		err := kit.Until(t.Context(), 20*time.Second, func() error {
			// The setting reaches the edge a moment after the call.
			id := ask(path).Header.Get("X-Request-Id")
			for _, e := range accessLog(t, s, "access") {
				if e.RequestID == id {
					found = e
					return nil
				}
			}
			return errors.New("no line for the request " + id)
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	e := find("/log?id=1&line=hello-s3cret")
	if e.Service != "access" || e.Version != 1 || e.Status != 200 || e.Method != "GET" || e.Path != "/log" || e.Query != "id=&line=" ||
		e.Protocol != "HTTP/2.0" || e.TLS != "1.3" || e.BytesOut != int64(len("written\n")) || !strings.HasPrefix(e.Pod, "access-v1-0-") || e.HealthCheck {
		t.Errorf("line %+v", e)
	}
	err = kit.Until(t.Context(), 20*time.Second, func() error {
		out, err := s.Run(t.Context(), "logs", "access", "web", "--filter", `"`+e.RequestID+`"`)
		if err == nil && !strings.Contains(out, e.RequestID+" hello-s3cret") {
			err = fmt.Errorf("the pod's log has no line of request %s:\n%s", e.RequestID, out)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}

	ask("/last")
	err = kit.Until(t.Context(), 20*time.Second, func() error {
		if list := accessLog(t, s, "access"); list[len(list)-1].Path != "/last" {
			return errors.New("the last request is missing")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	before := accessLog(t, s, "access")
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.CloseIdleConnections()
	if h, err = s.HTTPClient(true); err != nil {
		t.Fatal(err)
	}
	if e := find("/after"); e.Status != 404 {
		t.Errorf("line %+v", e)
	}
	after := accessLog(t, s, "access")
	for i, e := range before {
		if after[i] != e {
			t.Errorf("line %d was %+v, is %+v", i, e, after[i])
		}
	}
	for _, e := range after {
		if e.Path == "/before" || e.HealthCheck {
			t.Errorf("a line nobody asked for: %+v", e)
		}
	}
	if out, err := s.Run(t.Context(), "settings", "access", "--access-log", "off"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.delete("access")
}
