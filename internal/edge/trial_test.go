package edge

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
)

func TestEdge_TriesVariationsOfTheCheck(t *testing.T) {
	e := testEdge(t)
	backend := testProbedBackend(t, "a", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/up":
			fmt.Fprint(w, "up")
		case r.Header.Get("X-Forwarded-Proto") == "https":
			w.WriteHeader(http.StatusNoContent)
		case r.Host == "shop.example.com":
			w.WriteHeader(http.StatusAccepted)
		case r.URL.Path == "/slow":
			<-r.Context().Done()
		default:
			w.WriteHeader(http.StatusTeapot)
		}
	})
	backend.Check.SuccessCodes = "200-299"
	e.Apply(testRoute(backend))
	before := e.Health("web")["a"].Healthy
	got := e.Try(t.Context(), "web", "a", []trysail.Trial{
		{}, {Path: "/up"}, {Host: "shop.example.com"}, {Proto: "https"}, {TLS: true}, {Path: "/slow", Timeout: 50 * time.Millisecond}, {Port: 1},
	})
	type outcome struct {
		Kind   trysail.ProbeKind
		OK     bool
		Status int
		Body   string
	}
	var outcomes []outcome
	for _, x := range got {
		outcomes = append(outcomes, outcome{x.Result.Kind, x.Result.OK, x.Result.Status, x.Result.Body})
	}
	want := []outcome{
		{trysail.ProbeAnswer, false, 418, ""},
		{trysail.ProbeAnswer, true, 200, "up"},
		{trysail.ProbeAnswer, true, 202, ""},
		{trysail.ProbeAnswer, true, 204, ""},
		{trysail.ProbeTLS, false, 0, ""},
		{trysail.ProbeTimeout, false, 0, ""},
		{trysail.ProbeRefused, false, 0, ""},
	}
	if diff := cmp.Diff(want, outcomes); diff != "" {
		t.Error(diff)
	}
	if e.Health("web")["a"].Healthy != before {
		t.Error("a trial changed the health of the target")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, x := range append(e.Try(t.Context(), "web", "unknown", []trysail.Trial{{}}), e.Try(ended, "web", "a", []trysail.Trial{{}})...) {
		if x.Result.Count != 0 {
			t.Errorf("a trial that could not be made has a result: %+v", x)
		}
	}
}

func TestEdge_KeepsTheTranscriptOfATarget(t *testing.T) {
	e := testEdge(t)
	var asked atomic.Int64
	backend := testProbedBackend(t, "a", func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) <= 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	backend.Check.SuccessCodes, backend.Activating, backend.PresumeHealthy = "200-299", true, false
	e.Apply(testRoute(backend))
	receive(t, e.Changes(), "the target becomes healthy")
	tr := e.Health("web")["a"].Transcript
	if len(tr) != 2 || tr[0].Status != 503 || tr[0].Count != 3 || tr[1].Status != 200 || !tr[1].OK || tr[1].Count < 2 || tr[1].First.Before(tr[0].Last) {
		t.Errorf("%+v", tr)
	}
}
