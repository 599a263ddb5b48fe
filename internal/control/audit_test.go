package control_test

import (
	"slices"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

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
	read := func(in control.GetAuditTrailInput) (operations []string) {
		t.Helper()
		for {
			p, err := b.GetAuditTrail(t.Context(), caller, in)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range p.Events {
				operations = append(operations, e.Operation+" "+e.Service+"/"+e.Resource)
				if e.Caller.Name != "test" || e.Caller.AccessKeyID != "AKIATEST" || time.Since(e.Time) > time.Hour {
					t.Errorf("got %+v", e)
				}
			}
			if in.PageToken = p.NextPageToken; in.PageToken == "" {
				return operations
			}
		}
	}
	all := []string{"TagResource web/web", "CreateAccessKey /web", "CreateContainerService other/other", "CreateContainerService web/web"}
	for _, limit := range []int{0, 1, 2, 3, 4} {
		if got := read(control.GetAuditTrailInput{Limit: limit}); !slices.Equal(got, all) {
			t.Errorf("in pages of %d: %q", limit, got)
		}
	}
	if got, want := read(control.GetAuditTrailInput{ServiceName: "web", Limit: 1}), []string{all[0], all[3]}; !slices.Equal(got, want) {
		t.Errorf("of one service: %q", got)
	}
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if got := read(control.GetAuditTrailInput{StartTime: &past, EndTime: &future}); len(got) != 4 {
		t.Errorf("of a range: %q", got)
	}
	if got := read(control.GetAuditTrailInput{StartTime: &future}); len(got) != 0 {
		t.Errorf("of the future: %q", got)
	}
}

func TestGetAuditTrail_RefusesWhatIsNotRight(t *testing.T) {
	b := newBed(t, nil)
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	for name, in := range map[string]control.GetAuditTrailInput{
		"limit": {Limit: 501}, "negative": {Limit: -1}, "token": {PageToken: "x"}, "zero token": {PageToken: "0"}, "name": {ServiceName: "No"}, "range": {StartTime: &future, EndTime: &past},
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
