package trysail

import (
	"fmt"
	"strings"
	"time"
)

// Image is what a registry says of an image name.
type Image struct {
	Name         string // as the user wrote it
	Digest       string // sha256:… of the manifest for this node's platform
	Reference    string // what to pull: <registry>/<repository>@<digest>
	Architecture string // GOARCH
	Entrypoint   []string
	Command      []string
	ExposedPorts []string // "80/tcp"
	User         string
	WorkingDir   string
}

// ImageError says why an image cannot be had.
type ImageError struct {
	Code    DiagnosisCode // IMG-…
	Image   string        // as the user wrote it
	Message string        // one sentence for the user
	Fix     string
	// Container is the one that the error is about; empty when it is about all that use the image.
	Container string
	// Final is true when trying again cannot help: the registry answered, and the answer was no.
	Final bool
	Err   error // what the registry or the network said; may be nil
}

func (e *ImageError) Error() string { return fmt.Sprintf("%s: %s", e.Code, e.Message) }

// Unwrap returns the cause.
func (e *ImageError) Unwrap() error { return e.Err }

// StoredRepository is the repository that engines know for what was pushed to this installation's own registry. It is a
// name, not an address: nothing resolves it.
const StoredRepository = "registry.trysail.internal/sr"

// ImageReference is the name of an image by digest: name without its tag or digest, and digest (sha256:…). An image
// stored on a service (:service.label.N) gets StoredRepository as its name.
func ImageReference(name, digest string) string {
	if strings.HasPrefix(name, ":") {
		return StoredRepository + "@" + digest
	}
	name, _, _ = strings.Cut(name, "@")
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		name = name[:colon]
	}
	return name + "@" + digest
}

// CodeImageLocal is the code of a stored image that does not exist.
const CodeImageLocal DiagnosisCode = "IMG-LOCAL"

// ImageUse says that a kept version of a service needs an image.
type ImageUse struct {
	Name    string // as in the deployment
	Digest  string // sha256:… of the manifest for this machine's platform
	Service string
	Version int
	State   DeploymentState
	Newer   int // how many of the service's kept versions are newer
}

// String says it as a reason to keep the image.
func (u ImageUse) String() string {
	switch u.State {
	case DeploymentActive:
		return "current version of " + u.Service
	case DeploymentActivating:
		return "next version of " + u.Service
	default:
		return fmt.Sprintf("version %d of %s", u.Version, u.Service)
	}
}

// NodeImage is an image that takes up room on this machine.
type NodeImage struct {
	Name   string // the best name known
	Digest string
	Size   int64 // bytes
}

// MaxStoredImages is how many images may be registered on a service, the Lightsail quota.
const MaxStoredImages = 150

// RegisteredImage is an image that RegisterContainerImage has put on a service.
type RegisteredImage struct {
	StoredImage           // its Number is never 0
	Digest      string    // of the manifest or index that was pushed
	CreatedAt   time.Time // when it was registered
}

// Name is the image's name in deployments.
func (s StoredImage) Name() string {
	if s.Number == 0 {
		return fmt.Sprintf(":%s.%s.latest", s.Service, s.Label)
	}
	return fmt.Sprintf(":%s.%s.%d", s.Service, s.Label, s.Number)
}

// RegistryLogin lets a client push to this installation's own registry, and pull from it.
type RegistryLogin struct {
	Username  string
	Password  string
	Registry  string // host[:port]
	ExpiresAt time.Time
}

// RegistryLoginTime is how long a RegistryLogin is valid.
const RegistryLoginTime = 12 * time.Hour

// Registry is what the operator has said about a registry elsewhere.
type Registry struct {
	Host      string   // host[:port] as in image names; docker.io for Docker Hub
	Username  string   // empty: no login
	Secret    string   // password or token; empty in what clients see
	Mirrors   []string // base URLs asked first, in order: https://mirror.example.com
	CA        string   // PEM of certificates that are trusted for it besides the system's; may be empty
	PlainHTTP bool     // speak HTTP to it, which anybody on the way can read and change
	UpdatedAt time.Time
}

// Progress is how far the content of an image has been fetched, in bytes of compressed layers.
type Progress struct {
	Done, Total int64 // Total is 0 until it is known
}
