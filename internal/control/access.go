package control

import (
	"maps"
	"slices"

	"github.com/trysail/trysail"
)

// maySee is for operations that list: without a service's name they need no right to all services, as they leave out
// what the caller may not see.
func maySee(caller trysail.Caller, operation, service string) error {
	if service == "" {
		caller = anywhere(caller)
	}
	return caller.May(trysail.RoleRead, operation, service)
}

// anywhere is the caller without the bounds of its services, for operations that have bounds of their own.
func anywhere(caller trysail.Caller) trysail.Caller {
	caller.Services = nil
	return caller
}

// mayUseImages refuses images that are stored on services that the caller may not see: to run one is to read it.
func mayUseImages(caller trysail.Caller, operation string, in DeploymentInput) error {
	for _, name := range slices.Sorted(maps.Keys(in.Containers)) {
		if image, ok := trysail.ParseStoredImage(in.Containers[name].Image); ok && !caller.Sees(image.Service) {
			return caller.May(trysail.RoleDeploy, operation, image.Service)
		}
	}
	return nil
}
