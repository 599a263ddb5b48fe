package trysail

import (
	"fmt"
	"slices"
	"strings"
)

// Role is what the holder of an access key may do.
type Role string

// The roles, each with what the ones before it may do as well. The zero Role may do nothing.
const (
	// RoleRead looks at services, deployments, logs and metrics.
	RoleRead Role = "read"
	// RoleDeploy pushes images, deploys, cancels and runs tasks.
	RoleDeploy Role = "deploy"
	// RoleAdmin may do everything.
	RoleAdmin Role = "admin"
)

// Roles lists the roles from the least to the most.
func Roles() []Role { return []Role{RoleRead, RoleDeploy, RoleAdmin} }

// Includes reports whether the role may do what need may.
func (r Role) Includes(need Role) bool {
	all := Roles()
	have, want := slices.Index(all, r), slices.Index(all, need)
	return have >= 0 && want >= 0 && have >= want
}

// Caller is who makes an API call.
type Caller struct {
	AccessKeyID string
	Name        string // what the key was made for: "admin", "ci"
	Role        Role
	// Services are the only ones that the caller may see and change; empty: all there are, and what belongs to none.
	Services []string
}

// Sees reports whether the caller may know of the service.
func (c Caller) Sees(service string) bool {
	return len(c.Services) == 0 || slices.Contains(c.Services, service)
}

// May returns nil if the caller may carry out an operation that needs the role on the service, or on what belongs to no
// service for "". Errors: AccessDenied.
func (c Caller) May(need Role, operation, service string) error {
	if c.Role.Includes(need) && (len(c.Services) == 0 || service != "" && c.Sees(service)) {
		return nil
	}
	who := fmt.Sprintf("Access key %q (role %s", c.Name, c.Role)
	if len(c.Services) > 0 {
		who += ", services " + strings.Join(c.Services, ", ")
	}
	text := who + ") is not authorized to perform: lightsail:" + operation
	if service != "" {
		text += fmt.Sprintf(" on resource: ContainerService %q", service)
	}
	return &Error{Code: CodeAccessDenied, Message: text + "."}
}
