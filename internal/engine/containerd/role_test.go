package containerd_test

import (
	"testing"

	"github.com/trysail/trysail/internal/engine/containerd"
)

func TestRoleOf_TellsProgramsApart(t *testing.T) {
	for _, tt := range []struct {
		argv []string
		want containerd.Role
	}{
		{nil, containerd.RoleNone},
		{[]string{"trysail"}, containerd.RoleNone},
		{[]string{"/usr/local/bin/trysail", "serve", "-namespace"}, containerd.RoleNone},
		{[]string{"containerd", "--config", "x"}, containerd.RoleDaemon},
		{[]string{"/a/b/containerd"}, containerd.RoleDaemon},
		{[]string{"/d/bin/containerd-shim-runc-v2", "-namespace", "k8s.io", "start"}, containerd.RoleShim},
		{[]string{"containerd-shim-runc-v2", "-v"}, containerd.RoleShim},
		{[]string{"/usr/local/bin/trysail", "-namespace", "k8s.io", "-id", "1"}, containerd.RoleShim},
		{[]string{"/opt/containerd/trysail"}, containerd.RoleNone},
	} {
		if got := containerd.RoleOf(tt.argv); got != tt.want {
			t.Errorf("RoleOf(%q) = %v, want %v", tt.argv, got, tt.want)
		}
	}
}
