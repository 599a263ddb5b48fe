package containerd

import "path/filepath"

// Names under which the binary is called to be something else than trysail.
const (
	DaemonName = "containerd"
	ShimName   = "containerd-shim-runc-v2"
)

// Role is which program the binary shall be.
type Role int

// The roles of the binary.
const (
	RoleNone   Role = iota // trysail: the command line or the server
	RoleDaemon             // containerd: call RunDaemon
	RoleShim               // containerd's shim: call RunShim
)

// RoleOf tells from argv (os.Args) which program the caller wants.
//
// The shim has two signs. Containerd starts it by its name, a symbolic link; but the shim then starts itself once
// more by the resolved path of its executable, and then only its first argument gives it away.
func RoleOf(argv []string) Role {
	if len(argv) == 0 {
		return RoleNone
	}
	switch filepath.Base(argv[0]) {
	case DaemonName:
		return RoleDaemon
	case ShimName:
		return RoleShim
	}
	if len(argv) > 1 && argv[1] == "-namespace" {
		return RoleShim
	}
	return RoleNone
}
