package registry

import (
	"encoding/json"
	"slices"
	"strings"

	oci "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxManifest is the largest manifest that is taken, in bytes; the OCI specification asks for at least as much.
const maxManifest = 4 << 20

// The media types of Docker, which came before OCI's.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerSchema1  = "application/vnd.docker.distribution.manifest.v1" // the prefix of two
)

// manifest is what there is to know of an image manifest, an index or an artifact.
type manifest struct {
	mediaType    string
	artifactType string // what lists of referrers show
	subject      string
	annotations  map[string]string
	config       *oci.Descriptor  // not for an index
	blobs        []oci.Descriptor // what it needs, config first
	optional     []oci.Descriptor // blobs that are to be had elsewhere
	children     []oci.Descriptor // what an index lists
}

// isIndex is true for OCI indexes and Docker's manifest lists.
func isIndex(mediaType string) bool {
	return mediaType == oci.MediaTypeImageIndex || mediaType == dockerIndex
}

func isManifest(mediaType string) bool {
	return mediaType == oci.MediaTypeImageManifest || mediaType == dockerManifest || isIndex(mediaType)
}

func isImageConfig(mediaType string) bool {
	return mediaType == oci.MediaTypeImageConfig || mediaType == dockerConfig
}

// document is a manifest or index as it is written.
type document struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *oci.Descriptor   `json:"config"`
	Layers        []oci.Descriptor  `json:"layers"`
	Manifests     []oci.Descriptor  `json:"manifests"`
	Subject       *oci.Descriptor   `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
}

// parseManifest reads a manifest of the media type that came with it, which may be empty if the manifest tells its own.
// Errors: MANIFEST_INVALID, DIGEST_INVALID.
func parseManifest(mediaType string, content []byte) (*manifest, error) {
	mediaType, _, _ = strings.Cut(mediaType, ";")
	mediaType = strings.TrimSpace(mediaType)
	var doc document
	if err := json.Unmarshal(content, &doc); err != nil {
		return nil, errorf(codeManifestInvalid, "the manifest is not valid JSON: %v", err)
	}
	if mediaType == "" {
		mediaType = doc.MediaType
	}
	switch {
	case !isManifest(mediaType):
		return nil, errorf(codeManifestInvalid, "the media type %q is not that of an OCI manifest or index, or of Docker's schema 2", clip(mediaType))
	case doc.MediaType != "" && doc.MediaType != mediaType:
		return nil, errorf(codeManifestInvalid, "the manifest says that it is %q, but it was sent as %q", clip(doc.MediaType), mediaType)
	case doc.SchemaVersion != 2:
		return nil, errorf(codeManifestInvalid, "the manifest has schemaVersion %d, not 2", doc.SchemaVersion)
	}
	m := &manifest{mediaType: mediaType, artifactType: doc.ArtifactType, annotations: doc.Annotations}
	if err := m.take(&doc); err != nil {
		return nil, err
	}
	if doc.Subject != nil {
		m.subject = doc.Subject.Digest.String()
		if err := checkDescriptor("subject", *doc.Subject); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// take sorts what the manifest names into what it needs and what it does not.
func (m *manifest) take(doc *document) error {
	if isIndex(m.mediaType) {
		if doc.Config != nil || doc.Layers != nil {
			return errorf(codeManifestInvalid, "an index has no config and no layers")
		}
		m.children = doc.Manifests
		return checkDescriptors("manifest", m.children)
	}
	if doc.Manifests != nil {
		return errorf(codeManifestInvalid, "a manifest has no list of manifests: that is an index")
	}
	if doc.Config == nil {
		return errorf(codeManifestInvalid, "the manifest has no config")
	}
	m.config = doc.Config
	if m.artifactType == "" {
		m.artifactType = doc.Config.MediaType
	}
	m.blobs = []oci.Descriptor{*doc.Config}
	for _, layer := range doc.Layers {
		if isForeign(layer.MediaType) {
			m.optional = append(m.optional, layer)
		} else {
			m.blobs = append(m.blobs, layer)
		}
	}
	if err := checkDescriptors("layer", m.optional); err != nil {
		return err
	}
	return checkDescriptors("blob", m.blobs)
}

// isForeign is true for layers that their makers do not allow to be handed on, such as those of Windows.
func isForeign(mediaType string) bool {
	return strings.Contains(mediaType, ".nondistributable.") || strings.Contains(mediaType, ".foreign.")
}

func checkDescriptors(what string, list []oci.Descriptor) error {
	for _, d := range list {
		if err := checkDescriptor(what, d); err != nil {
			return err
		}
	}
	return nil
}

func checkDescriptor(what string, d oci.Descriptor) error {
	if _, err := parseDigest(d.Digest.String()); err != nil {
		return errorf(codeManifestInvalid, "the manifest names a %s with the digest %q, which is none", what, clip(d.Digest.String()))
	}
	if d.Size < 0 {
		return errorf(codeManifestInvalid, "the manifest names a %s of %d bytes", what, d.Size)
	}
	return nil
}

// isAttestation is true for what builders put beside images: provenance and lists of contents.
func isAttestation(d oci.Descriptor) bool {
	return d.Annotations["vnd.docker.reference.type"] != "" || d.ArtifactType != "" && !isImageConfig(d.ArtifactType) ||
		d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown"
}

// platforms lists what the images of an index are made for. It is empty when there is one that may run anywhere, for all
// that the index says, and when there is none at all.
func (m *manifest) platforms() []Platform {
	var list []Platform
	for _, c := range m.children {
		switch p := c.Platform; {
		case isAttestation(c):
		case !isManifest(c.MediaType) || p == nil || p.OS == "" || p.Architecture == "":
			return nil
		default:
			list = append(list, Platform{p.OS, p.Architecture})
		}
	}
	return list
}

// checkPlatform refuses what was made for other machines only. Error: UNSUPPORTED.
func (p Platform) check(offers []Platform) error {
	names := make([]string, 0, len(offers))
	for _, o := range offers {
		if strings.EqualFold(o.OS, p.OS) && goArch(o.Architecture) == p.Architecture {
			return nil
		}
		names = append(names, clip(o.String()))
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return errorf(codeUnsupported, "this image is for %s, and this machine is %s: it could never run here. Build it with --platform %s",
		strings.Join(slices.Compact(names), ", "), p, p)
}

// goArch is the name that Go, and so the OCI, has for an architecture.
func goArch(arch string) string {
	switch arch = strings.ToLower(arch); arch {
	case "x86_64", "x86-64":
		return "amd64"
	case "aarch64":
		return "arm64"
	default:
		return arch
	}
}

// schema1Error says why a manifest of Docker's schema 1 is refused. Docker up to 20.10 tries one, and shows its refusal,
// after a schema 2 manifest was refused. So that the first reason is not lost, it is found again in what schema 1 says.
func (p Platform) schema1Error(content []byte) error {
	var doc struct {
		Architecture string `json:"architecture"`
	}
	if json.Unmarshal(content, &doc) == nil && doc.Architecture != "" {
		if err := p.check([]Platform{{p.OS, doc.Architecture}}); err != nil {
			return err
		}
	}
	return errorf(codeUnsupported, "Docker's schema 1 is not accepted: push the image with Docker 1.10 or newer")
}
