package control_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/metrics"
)

// TestControl_AsksTheOtherServersFirst: what they have just written is in the answer, and so are the names of those that did not
// give it.
func TestControl_AsksTheOtherServersFirst(t *testing.T) {
	points, err := metrics.Open(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	b := newBed(t, func(c *control.Config) { c.Metrics = points })
	b.create("web", trysail.ServiceReady, trysail.DeploymentActive)
	id, asked := b.service().ID, 0
	b.Latest = func(context.Context) []control.LateServer {
		asked++
		if err := b.logs.Append(id, []string{"web"}, time.Now().Add(-time.Second), fmt.Sprint("written before question ", asked)); err != nil {
			t.Error(err)
		}
		return []control.LateServer{{Name: "n2 (10.0.0.2:4500)", Self: "SERVERBBB", Since: time.Now()}, {Name: "n3"}}
	}
	want := []string{"n2 (10.0.0.2:4500)", "n3"}
	page, err := b.GetContainerLog(t.Context(), caller, control.GetContainerLogInput{ServiceName: "web", ContainerName: "web"})
	if err != nil || !slices.Equal(page.MissingServers, want) || len(page.Events) != 1 {
		t.Errorf("the log: %+v, %v", page, err)
	}
	access, err := b.GetAccessLog(t.Context(), caller, control.GetContainerLogInput{ServiceName: "web"})
	if err != nil || !slices.Equal(access.MissingServers, want) {
		t.Errorf("the access log: %+v, %v", access, err)
	}
	answer, err := b.GetServiceMetricData(t.Context(), caller, control.GetServiceMetricDataInput{ServiceName: "web"})
	if err != nil || !slices.Equal(answer.MissingServers, want) {
		t.Errorf("metrics: %+v, %v", answer, err)
	}
	if asked != 3 {
		t.Errorf("they were asked %d times", asked)
	}
	if _, err := b.GetContainerLog(t.Context(), trysail.Caller{}, control.GetContainerLogInput{ServiceName: "web", ContainerName: "web"}); err == nil || asked != 3 {
		t.Errorf("for somebody who may not read they were asked: %v", err)
	}
}
