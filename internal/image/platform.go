package image

import (
	"cmp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// platformError says that an image is for other machines.
type platformError struct{ offers []string }

func (e *platformError) Error() string { return "image offers " + strings.Join(e.offers, ", ") }

// choose picks the manifest of an index that is for our platform. One that does not say what it is for is taken if no
// other fits. Error: *platformError.
func choose(manifests []v1.Descriptor, want v1.Platform) (v1.Descriptor, error) {
	var fit, silent []v1.Descriptor
	var offers []string
	for _, m := range manifests {
		switch p := m.Platform; {
		case isAttestation(m):
		case p == nil || p.OS == "" && p.Architecture == "":
			m.Platform = nil
			silent = append(silent, m)
		case compatible(p.OS, p.Architecture, want) && variantFits(p.Variant, want):
			fit = append(fit, m)
		default:
			offers = append(offers, platformName(p))
		}
	}
	if len(fit) == 0 {
		fit = silent
	}
	if len(fit) == 0 {
		slices.Sort(offers)
		return v1.Descriptor{}, &platformError{slices.Compact(offers)}
	}
	return slices.MinFunc(fit, func(a, b v1.Descriptor) int {
		return cmp.Compare(variantRank(a, want), variantRank(b, want))
	}), nil
}

// isAttestation is true for what builders put beside images: provenance and lists of contents.
func isAttestation(m v1.Descriptor) bool {
	p := m.Platform
	return m.Annotations["vnd.docker.reference.type"] != "" || m.ArtifactType != "" && !isImageConfig(types.MediaType(m.ArtifactType)) ||
		p != nil && p.OS == "unknown" && p.Architecture == "unknown"
}

// compatible compares what an image says with what we want. An image that says nothing is given the benefit of doubt,
// as container runtimes do.
func compatible(os, arch string, want v1.Platform) bool {
	return (os == "" || strings.EqualFold(os, want.OS)) && (arch == "" || goArch(arch) == want.Architecture)
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

// variantFits rules out 32-bit ARM for newer processors than ours, if we know ours.
func variantFits(variant string, want v1.Platform) bool {
	return want.Architecture != "arm" || want.Variant == "" || variant == "" || variant <= want.Variant
}

// variantRank prefers our own variant, then the plain one, then on 32-bit ARM the newest that fits and elsewhere
// the oldest: amd64/v3 does not run everywhere.
func variantRank(m v1.Descriptor, want v1.Platform) int {
	if m.Platform == nil {
		return 0
	}
	v := m.Platform.Variant
	number := 0
	if len(v) == 2 && v[0] == 'v' {
		number = int(v[1] - '0')
	}
	switch {
	case v == want.Variant:
		return 0
	case v == "" || want.Architecture == "arm64" && v == "v8":
		return 1
	case want.Architecture == "arm" && want.Variant != "":
		return 100 - number
	default:
		return 100 + number
	}
}

// platformName is os/architecture[/variant].
func platformName(p *v1.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}
