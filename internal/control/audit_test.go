package control_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// trail is the whole audit trail, newest first.
func (b *bed) trail(in control.GetAuditTrailInput) []trysail.AuditEvent {
	b.Helper()
	in.Limit = 500
	page, err := b.GetAuditTrail(b.Context(), caller, in)
	if err != nil {
		b.Fatal(err)
	}
	return page.Events
}

func TestGetAuditTrail_SaysWhoDidWhatFromWhere(t *testing.T) {
	b := newBed(t, nil)
	origin := trysail.Origin{RequestID: "r1", SourceAddress: "192.0.2.7", UserAgent: strings.Repeat("é", 400)}
	ctx := control.WithOrigin(t.Context(), origin)
	if _, err := b.CreateContainerService(ctx, caller, control.CreateContainerServiceInput{ServiceName: "web", Power: "nano", Scale: 1}); err != nil {
		t.Fatal(err)
	}
	b.create("api", trysail.ServiceReady, "")
	if _, err := b.CreateContainerServiceDeployment(ctx, caller, "api", containers()); err != nil {
		t.Fatal(err)
	}
	key, err := b.CreateAccessKey(ctx, caller, control.CreateAccessKeyInput{Name: "web", Role: trysail.RoleDeploy, Services: []string{"web", "api"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteContainerService(ctx, caller, "none"); err == nil {
		t.Fatal("a service that is not there was deleted")
	}
	origin.UserAgent = strings.Repeat("é", 150) + "…"
	who := trysail.Caller{AccessKeyID: caller.AccessKeyID, Name: caller.Name, Role: caller.Role}
	event := func(operation, service, resource string, details map[string]string) trysail.AuditEvent {
		return trysail.AuditEvent{Caller: who, Operation: operation, Service: service, Resource: resource, Outcome: trysail.AuditSuccess, Origin: origin, Details: details}
	}
	failed := event("DeleteContainerService", "none", "none", map[string]string{"message": `Service "none" not found.`})
	failed.Outcome, failed.ErrorCode = trysail.AuditFailure, "NotFoundException"
	capacity := map[string]string{"capacity": "nano × 1"}
	other := event("CreateContainerService", "api", "api", capacity)
	other.Origin = trysail.Origin{} // create gives none
	want := []trysail.AuditEvent{
		failed, event("CreateAccessKey", "", "web", map[string]string{"role": "deploy", "services": "api web", "id": key.ID}),
		event("CreateContainerServiceDeployment", "api", "api", map[string]string{"version": "1"}), other, event("CreateContainerService", "web", "web", capacity),
	}
	if d := cmp.Diff(want, b.trail(control.GetAuditTrailInput{}), cmpopts.IgnoreFields(trysail.AuditEvent{}, "At")); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
}

func TestGetAuditTrail_PagesAndFilters(t *testing.T) {
	b := newBed(t, nil)
	b.create("web", trysail.ServiceReady, "")
	b.create("other", trysail.ServiceReady, "")
	if _, err := b.CreateAccessKey(t.Context(), caller, control.CreateAccessKeyInput{Name: "web"}); err != nil { // named as the service
		t.Fatal(err)
	}
	if _, err := b.TagResource(t.Context(), caller, "web", nil, []trysail.Tag{{Key: "a"}}); err != nil {
		t.Fatal(err)
	}
	ci := trysail.Caller{AccessKeyID: "AKIACI", Name: "ci", Role: trysail.RoleDeploy}
	if err := b.DeleteContainerService(t.Context(), ci, "web"); err == nil {
		t.Fatal("a deploy key has deleted a service")
	}
	read := func(in control.GetAuditTrailInput) (operations []string) {
		t.Helper()
		for {
			p, err := b.GetAuditTrail(t.Context(), caller, in)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range p.Events {
				operations = append(operations, e.Operation+" "+e.Service+"/"+e.Resource)
			}
			if in.PageToken = p.NextPageToken; in.PageToken == "" {
				return operations
			}
		}
	}
	all := []string{"DeleteContainerService web/web", "TagResource web/web", "CreateAccessKey /web", "CreateContainerService other/other", "CreateContainerService web/web"}
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	for name, tt := range map[string]struct {
		in   control.GetAuditTrailInput
		want []string
	}{
		"all":          {control.GetAuditTrailInput{}, all},
		"of a service": {control.GetAuditTrailInput{ServiceName: "web"}, []string{all[0], all[1], all[4]}},
		"of a key":     {control.GetAuditTrailInput{Key: "ci"}, all[:1]},
		"by its id":    {control.GetAuditTrailInput{Key: "AKIACI"}, all[:1]},
		"of nobody":    {control.GetAuditTrailInput{Key: "c"}, nil},
		"failures":     {control.GetAuditTrailInput{Outcome: trysail.AuditFailure}, all[:1]},
		"successes":    {control.GetAuditTrailInput{Outcome: trysail.AuditSuccess, ServiceName: "web"}, []string{all[1], all[4]}},
		"of a range":   {control.GetAuditTrailInput{StartTime: &past, EndTime: &future}, all},
		"of tomorrow":  {control.GetAuditTrailInput{StartTime: &future}, nil},
	} {
		for _, limit := range []int{0, 1, 2, 3, 4, 5, 6} {
			tt.in.Limit = limit
			if got := read(tt.in); !cmp.Equal(tt.want, got) {
				t.Errorf("%s in pages of %d: %q", name, limit, got)
			}
		}
	}
}

func TestGetAuditTrail_RefusesWhatIsNotRight(t *testing.T) {
	b := newBed(t, nil)
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	for name, in := range map[string]control.GetAuditTrailInput{
		"limit": {Limit: 501}, "negative": {Limit: -1}, "token": {PageToken: "x"}, "zero token": {PageToken: "0"}, "name": {ServiceName: "No"},
		"range": {StartTime: &future, EndTime: &past}, "outcome": {Outcome: "luck"},
	} {
		if _, err := b.GetAuditTrail(t.Context(), caller, in); trysail.ErrorCode(err) != trysail.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	bounded := trysail.Caller{Name: "b", Role: trysail.RoleAdmin, Services: []string{"web"}}
	for _, who := range []trysail.Caller{{Name: "d", Role: trysail.RoleDeploy}, {}, bounded} {
		if _, err := b.GetAuditTrail(t.Context(), who, control.GetAuditTrailInput{}); trysail.ErrorCode(err) != trysail.CodeAccessDenied {
			t.Errorf("%+v: %v", who, err)
		}
	}
	if _, err := b.GetAuditTrail(t.Context(), bounded, control.GetAuditTrailInput{ServiceName: "web"}); err != nil {
		t.Errorf("the admin of a service: %v", err)
	}
}

// Every operation that changes something puts its refusal into the trail. New operations are tried without being named here.
func TestAudit_HasTheRefusalOfEveryOperation(t *testing.T) {
	reads := func(name string) bool {
		return strings.HasPrefix(name, "Get") || strings.HasPrefix(name, "List") || strings.HasPrefix(name, "Check") || strings.HasPrefix(name, "Record")
	}
	b := newBed(t, nil)
	b.create("web", trysail.ServiceRunning, trysail.DeploymentActive)
	c, tried := reflect.ValueOf(b.Control), 0
	for i := range c.NumMethod() {
		name, method := c.Type().Method(i).Name, c.Method(i)
		if method.Type().NumIn() < 2 || method.Type().In(1) != reflect.TypeFor[trysail.Caller]() || reads(name) {
			continue
		}
		tried++
		who := trysail.Caller{AccessKeyID: "AKIA" + name, Name: "eyes", Role: trysail.RoleRead}
		in := []reflect.Value{reflect.ValueOf(t.Context()), reflect.ValueOf(who)}
		for j := 2; j < method.Type().NumIn(); j++ {
			in = append(in, aboutService(method.Type().In(j), "web"))
		}
		method.Call(in)
		got := b.trail(control.GetAuditTrailInput{Key: who.AccessKeyID})
		if len(got) != 1 || got[0].Operation != name || got[0].Outcome != trysail.AuditFailure || got[0].ErrorCode != "AccessDeniedException" || got[0].Caller.Role != trysail.RoleRead {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if tried < 21 {
		t.Errorf("tried %d operations; there are more", tried)
	}
}

func TestAudit_FailuresCannotFloodIt(t *testing.T) {
	b := newBed(t, nil)
	// Times are those of synctest's world, so that nothing waits.
	synctest.Test(t, func(t *testing.T) {
		fail := func(from string, n int) {
			ctx := control.WithOrigin(t.Context(), trysail.Origin{SourceAddress: from})
			for range n {
				b.RecordFailure(ctx, trysail.Caller{AccessKeyID: "AKIAGUESS"}, "TagResource", "", "InvalidSignatureException", nil)
			}
		}
		fail("192.0.2.1", 1000)
		fail("192.0.2.2", 2) // others are not shut out
		for i := range 1000 {
			fail(fmt.Sprint("2001:db8::", i), 1)
		}
		time.Sleep(time.Minute)
		fail("192.0.2.1", 1)
	})
	got := b.trail(control.GetAuditTrailInput{})
	from := map[string]int{}
	for _, e := range got {
		from[e.SourceAddress]++
		if e.Outcome != trysail.AuditUnauthenticated || e.Caller.AccessKeyID != "AKIAGUESS" || e.ErrorCode != "InvalidSignatureException" {
			t.Errorf("got %+v", e)
		}
	}
	if len(got) != 121 || from["192.0.2.1"] != 31 || from["192.0.2.2"] != 2 || got[0].Details["missed"] != "912" || got[len(got)-31].Details["missed"] != "970" {
		t.Errorf("%d events, by address %v; newest %+v, %+v", len(got), from, got[0], got[len(got)-31])
	}
}
