package trysail_test

import (
	"testing"

	"github.com/trysail/trysail"
)

func TestCaller_MayDoWhatItsRoleAndServicesSay(t *testing.T) {
	admin := trysail.Caller{Name: "admin", Role: trysail.RoleAdmin}
	ci := trysail.Caller{Name: "ci", Role: trysail.RoleDeploy, Services: []string{"web", "api"}}
	read := trysail.Caller{Name: "eyes", Role: trysail.RoleRead}
	for _, tt := range []struct {
		caller  trysail.Caller
		need    trysail.Role
		service string
		want    bool
	}{
		{admin, trysail.RoleAdmin, "", true},
		{admin, trysail.RoleRead, "web", true},
		{ci, trysail.RoleDeploy, "web", true},
		{ci, trysail.RoleRead, "api", true},
		{ci, trysail.RoleAdmin, "web", false},
		{ci, trysail.RoleDeploy, "other", false},
		{ci, trysail.RoleRead, "other", false},
		{ci, trysail.RoleRead, "", false},
		{read, trysail.RoleRead, "", true},
		{read, trysail.RoleDeploy, "web", false},
		{trysail.Caller{}, trysail.RoleRead, "web", false},
		{trysail.Caller{Role: "owner"}, trysail.RoleRead, "web", false},
	} {
		err := tt.caller.May(tt.need, "Operation", tt.service)
		if (err == nil) != tt.want {
			t.Errorf("%s: May(%s, %q) = %v, want allowed: %v", tt.caller.Name, tt.need, tt.service, err, tt.want)
		}
		if err != nil && trysail.ErrorCode(err) != trysail.CodeAccessDenied {
			t.Errorf("%v has code %s", err, trysail.ErrorCode(err))
		}
	}
	const want = `Access key "ci" (role deploy, services web, api) is not authorized to perform: lightsail:DeleteContainerService on resource: ContainerService "other".`
	if got := ci.May(trysail.RoleAdmin, "DeleteContainerService", "other").Error(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
