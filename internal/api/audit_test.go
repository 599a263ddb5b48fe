package api

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

func TestAuditTrail_OnTheWire(t *testing.T) {
	var got control.GetAuditTrailInput
	server := newServer(t, &fake{audit: func(in control.GetAuditTrailInput) (*control.AuditPage, error) {
		got = in
		who := trysail.Caller{AccessKeyID: "TSAK1", Name: "ci"}
		return &control.AuditPage{NextPageToken: "7", Events: []control.AuditEvent{
			{Time: time.Unix(1800000000, 0), Caller: who, Operation: "DeleteContainerService", Service: "web", Resource: "web"},
			{Time: time.Unix(1800000000, 0), Caller: who, Operation: "DeleteAccessKey", Resource: "TSAK2"},
		}}, nil
	}})
	answer := do(t, server, trysailPrefix+"GetAuditTrail", `{"startTime":1700000000,"endTime":1800000000,"serviceName":"web","pageToken":"9","limit":2}`)
	want := `{"events":[{"time":1800000000,"accessKeyId":"TSAK1","caller":"ci","operation":"DeleteContainerService","serviceName":"web","resource":"web","outcome":"success"},` +
		`{"time":1800000000,"accessKeyId":"TSAK1","caller":"ci","operation":"DeleteAccessKey","resource":"TSAK2","outcome":"success"}],"nextPageToken":"7"}`
	if diff := cmp.Diff(want, answer.body); diff != "" {
		t.Error(diff)
	}
	start, end := time.Unix(1700000000, 0).UTC(), time.Unix(1800000000, 0).UTC()
	if diff := cmp.Diff(control.GetAuditTrailInput{StartTime: &start, EndTime: &end, ServiceName: "web", PageToken: "9", Limit: 2}, got); diff != "" {
		t.Error(diff)
	}
}
