package trysail

import (
	"fmt"
	"strings"
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
	// Final is true when trying again cannot help: the registry answered, and the answer was no.
	Final bool
	Err   error // what the registry or the network said; may be nil
}

func (e *ImageError) Error() string { return fmt.Sprintf("%s: %s", e.Code, e.Message) }

// Unwrap returns the cause.
func (e *ImageError) Unwrap() error { return e.Err }

// ImageReference is the name of an image by digest: name without its tag or digest, and digest (sha256:…).
func ImageReference(name, digest string) string {
	name, _, _ = strings.Cut(name, "@")
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		name = name[:colon]
	}
	return name + "@" + digest
}
