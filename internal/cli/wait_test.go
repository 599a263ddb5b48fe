package cli

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestDeploy_SurvivesARestartOfTheServer: the server breaks off some calls in the middle of a deployment.
func TestDeploy_SurvivesARestartOfTheServer(t *testing.T) {
	f := newFakeServer(t)
	f.services["web"] = &fakeService{name: "web", state: "READY"}
	n := 0
	f.before = func(_ http.ResponseWriter, operation string) bool {
		if f.calls["CreateContainerServiceDeployment"] == 1 && operation == "GetContainerServices" {
			if n++; n <= 3 { // as many as one call tries
				panic(http.ErrAbortHandler)
			}
		}
		return false
	}
	var out strings.Builder
	app := &App{Out: &out}
	app.fill()
	in, err := parseDeployment([]byte(`{"serviceName": "web", "containers": {"app": {"image": "nginx"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := app.deploy(t.Context(), f.client(t), in, 0, waiting{wait: true, timeout: time.Minute}, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"the server does not answer; waiting for it", "the server answers again", "Deployment 1 of service web is ACTIVE", "It has no public endpoint"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

func TestDeploy_TimeoutSaysThatItGoesOn(t *testing.T) {
	f := newFakeServer(t)
	f.services["web"] = &fakeService{name: "web", state: "READY"}
	in, err := parseDeployment([]byte(`{"serviceName": "web", "containers": {"app": {"image": "nginx"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	f.before = func(_ http.ResponseWriter, operation string) bool {
		if operation == "GetContainerServices" && f.services["web"].next != nil {
			f.services["web"].stages = nil
		}
		return false
	}
	var out strings.Builder
	app := &App{Out: &out}
	app.fill()
	err = app.deploy(t.Context(), f.client(t), in, 0, waiting{wait: true, timeout: 300 * time.Millisecond}, false)
	text, hint := describe(err)
	if text != `version 1 of service "web" is still ACTIVATING when --timeout was over` || !strings.HasPrefix(hint, "It goes on") {
		t.Errorf("got %q, %q", text, hint)
	}
	if errors.Is(err, errDeploymentFailed) {
		t.Error("a timeout counts as FAILED")
	}
}

// TestWatch_TheEndOfTheTimeIsNotTheServersFault: the time may be over while the server is being asked.
func TestWatch_TheEndOfTheTimeIsNotTheServersFault(t *testing.T) {
	f := newFakeServer(t)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errTimeout)
	defer cancel()
	f.before = func(http.ResponseWriter, string) bool {
		<-t.Context().Done() // it never answers
		return true
	}
	var out strings.Builder
	app := &App{Out: &out}
	app.fill()
	w := app.watch(f.client(t), "web", false)
	err := w.poll(ctx, func(ctx context.Context) (bool, error) {
		_, err := w.look(ctx)
		return false, err
	})
	if !errors.Is(err, errTimeout) || strings.Contains(out.String(), "does not answer") {
		t.Errorf("%v, after it said\n%s", err, out.String())
	}
}

func TestDeploy_NoticesThatTheServiceWasDeleted(t *testing.T) {
	f := newFakeServer(t)
	f.services["web"] = &fakeService{name: "web", state: "READY"}
	in, err := parseDeployment([]byte(`{"serviceName": "web", "containers": {"app": {"image": "nginx"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	f.before = func(_ http.ResponseWriter, operation string) bool {
		if operation == "GetContainerLog" {
			delete(f.services, "web")
		}
		return false
	}
	app := &App{Out: &strings.Builder{}}
	app.fill()
	err = app.deploy(t.Context(), f.client(t), in, 0, waiting{wait: true, timeout: time.Minute}, false)
	if err == nil || err.Error() != `service "web" was deleted while version 1 was being deployed` {
		t.Errorf("got %v", err)
	}
}
