package api

import (
	"strings"
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
		return &control.AuditPage{NextPageToken: "7", Events: []trysail.AuditEvent{{
			At: time.UnixMilli(1_700_000_000_500), Caller: trysail.Caller{AccessKeyID: "TSAK1", Name: "ci", Role: trysail.RoleDeploy}, Operation: "DeleteContainerService",
			Service: "web", Resource: "web", Outcome: trysail.AuditFailure, ErrorCode: "NotFoundException", Details: map[string]string{"message": "no"},
			Origin: trysail.Origin{RequestID: "id", SourceAddress: "192.0.2.7", UserAgent: "aws-cli/2"},
		}, {At: time.Unix(1_700_000_000, 0), Operation: "DeleteAccessKey", Resource: "TSAK2", Outcome: trysail.AuditSuccess}}}, nil
	}})
	a := do(t, server, trysailPrefix+"GetAuditTrail", `{"startTime":1700000000,"endTime":1700000100.5,"serviceName":"web","accessKey":"ci","outcome":"failure","pageToken":"9","limit":5}`)
	want := `{"events":[{"time":1700000000.5,"accessKeyId":"TSAK1","caller":"ci","role":"deploy","operation":"DeleteContainerService","serviceName":"web",` +
		`"resource":"web","outcome":"failure","errorCode":"NotFoundException","requestId":"id","sourceAddress":"192.0.2.7","userAgent":"aws-cli/2","client":"AWS CLI","details":{"message":"no"}},` +
		`{"time":1700000000,"accessKeyId":"","caller":"","operation":"DeleteAccessKey","resource":"TSAK2","outcome":"success"}],"nextPageToken":"7"}`
	if diff := cmp.Diff(want, a.body); diff != "" {
		t.Error(diff)
	}
	start, end := time.Unix(1_700_000_000, 0).UTC(), time.UnixMilli(1_700_000_100_500).UTC()
	if diff := cmp.Diff(control.GetAuditTrailInput{StartTime: &start, EndTime: &end, ServiceName: "web", Key: "ci", Outcome: "failure", PageToken: "9", Limit: 5}, got); diff != "" {
		t.Error(diff)
	}
}

// Calls that fail inside control are recorded there; the others here.
func TestAuditTrail_HasTheCallsThatNeverGotToTheirOperation(t *testing.T) {
	var failures []string
	server := newServer(t, &fake{
		deleteService: func(string) error { return trysail.Errorf(trysail.CodeNotFound, "no such thing") },
		createService: func(control.CreateContainerServiceInput) (*trysail.Service, error) { panic("oops") },
		failure: func(caller trysail.Caller, operation, resource, exception string, cause error) {
			failures = append(failures, strings.Join([]string{caller.AccessKeyID, caller.Name, operation, resource, exception}, " "))
		},
	})
	do(t, server, "GetContainerServices", `{"serviceName":1}`)         // changes nothing
	do(t, server, "DeleteContainerService", `{"serviceName":"web"}`)   // control has recorded it
	do(t, server, "DeleteContainerService", `{"serviceName":["web"]}`) // never got there
	do(t, server, "CreateContainerService", `{"serviceName":"web","power":"nano","scale":1}`)
	call := func(key string) {
		send(t, sign(newCall(server.URL, "TagResource", "{}"), "{}", key, "wrong", time.Now()))
	}
	call(testKey)
	call("TSAKOTHER")
	want := []string{
		testKey + " admin DeleteContainerService  SerializationException",
		testKey + " admin CreateContainerService web InternalFailure",
		testKey + "  TagResource  InvalidSignatureException",
		"TSAKOTHER  TagResource  UnrecognizedClientException",
	}
	if d := cmp.Diff(want, failures); d != "" {
		t.Errorf("failures (-want +got):\n%s", d)
	}
}
