package trysail

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// validateImage checks the image of a container: a stored image or a Docker reference.
func validateImage(service, container, image string) error {
	if strings.HasPrefix(image, ":") {
		if _, ok := ParseStoredImage(image); ok {
			return nil
		}
		return invalid("Container %s has invalid image %s. Example of valid image: \":%s.%s.123\".", quote(container), quote(image), service, container)
	}
	if why := imageNameFault(image); why != "" {
		return invalid("Container %s has invalid image %s: %s", quote(container), quote(image), why)
	}
	return nil
}

// StoredImage is the parsed name of an image stored on a service, :service.label.N.
type StoredImage struct {
	Service string
	Label   string
	Number  int // 0 stands for .latest: the highest number of that label
}

// ParseStoredImage reads :service.label.N or :service.label.latest.
func ParseStoredImage(image string) (StoredImage, bool) {
	rest, ok := strings.CutPrefix(image, ":")
	parts := strings.Split(rest, ".")
	if !ok || len(parts) != 3 || ValidateServiceName(parts[0]) != nil || ValidateLabel(parts[1]) != nil {
		return StoredImage{}, false
	}
	s := StoredImage{Service: parts[0], Label: parts[1]}
	if parts[2] == "latest" {
		return s, true
	}
	n, err := strconv.Atoi(parts[2])
	s.Number = n
	return s, err == nil && n >= 1 && strconv.Itoa(n) == parts[2]
}

// ValidateDigest checks the digest of an image: sha256: and 64 hexadecimal digits in lower case.
func ValidateDigest(digest string) error {
	hex, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return invalid("Digest %s does not match pattern: ^sha256:[0-9a-f]{64}$", quote(digest))
	}
	return nil
}

// Limits of what is kept about a registry elsewhere.
const (
	maxRegistrySecret = 64 << 10 // bytes; cloud registries give out tokens of several kilobytes
	maxRegistryUser   = 256      // bytes
	maxMirrors        = 8
	maxCA             = 256 << 10 // bytes
)

// ValidateRegistry checks what an operator says about a registry elsewhere. Its texts never hold the secret.
func ValidateRegistry(r Registry) error {
	switch {
	case !isRegistryHost(r.Host):
		return invalid("Registry %s is not a host name with an optional port. Examples: \"ghcr.io\", \"registry.example.com:5000\"; Docker Hub is \"docker.io\".", quote(r.Host))
	case (r.Username == "") != (r.Secret == ""):
		return invalid("Registry %s needs a user name and a secret, or neither.", quote(r.Host))
	case len(r.Username) > maxRegistryUser || strings.ContainsAny(r.Username, ":\r\n"):
		return invalid("The user name for registry %s must have at most %d bytes, no colon and no line break.", quote(r.Host), maxRegistryUser)
	case len(r.Secret) > maxRegistrySecret || strings.ContainsAny(r.Secret, "\r\n"):
		return invalid("The secret for registry %s must have at most %d bytes and no line break.", quote(r.Host), maxRegistrySecret)
	case len(r.Mirrors) > maxMirrors:
		return invalid("Registry %s has %d mirrors; the most is %d.", quote(r.Host), len(r.Mirrors), maxMirrors)
	case len(r.CA) > maxCA:
		return invalid("The CA certificates for registry %s have %d bytes; the most is %d.", quote(r.Host), len(r.CA), maxCA)
	case r.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(r.CA)):
		return invalid("The CA certificates for registry %s are not certificates in PEM form, which begins with -----BEGIN CERTIFICATE-----.", quote(r.Host))
	}
	for _, m := range r.Mirrors {
		u, err := url.Parse(m)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || !isRegistryHost(u.Host) {
			return invalid("Mirror %s of registry %s is not a URL such as \"https://mirror.example.com\".", quote(m), quote(r.Host))
		}
	}
	return nil
}

// ValidateImageName checks a public image name by the grammar of Docker: [host[:port]/]path[:tag][@digest]. The text of
// the error says what is wrong and, where it can be guessed, what was meant.
func ValidateImageName(image string) error {
	if why := imageNameFault(image); why != "" {
		return invalid("%s is not a valid image name: %s", quote(image), why)
	}
	return nil
}

// imageNameFault says in a sentence what is wrong with an image name, or nothing.
func imageNameFault(image string) string {
	switch {
	case image == "":
		return "it is empty."
	case len(image) > MaxImageName:
		return fmt.Sprintf("it is %d characters long, more than %d.", len(image), MaxImageName)
	case strings.TrimSpace(image) != image || strings.ContainsAny(image, " \t\r\n"):
		return "it has a space." + meant(strings.Join(strings.Fields(image), ""))
	case strings.Contains(image, "://"):
		_, rest, _ := strings.Cut(image, "://")
		return "it is written without https://." + meant(rest)
	}
	name, digest, hasDigest := strings.Cut(image, "@")
	if hasDigest && !isDigest(digest) {
		return "what follows the @ must be sha256: and 64 hexadecimal digits."
	}
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		if tag := name[colon+1:]; !isTag(tag) {
			return fmt.Sprintf("tag %s must have 1 to 128 letters, digits and _ . - and not begin with . or -", quote(tag))
		}
		name = name[:colon]
	}
	host, path, hasHost := strings.Cut(name, "/")
	if hasHost = hasHost && (strings.ContainsAny(host, ".:[") || host == "localhost"); !hasHost {
		path = name
	} else if !isRegistryHost(host) {
		return fmt.Sprintf("%s is not the name of a registry.", quote(host))
	}
	if lower := strings.ToLower(path); lower != path {
		before := strings.TrimSuffix(name, path)
		return "a repository has only lower-case letters." + meant(before+lower+image[len(name):])
	}
	return repositoryFault(path)
}

func repositoryFault(path string) string {
	if len(path) > 255 {
		return "a repository has up to 255 characters."
	}
	for part := range strings.SplitSeq(path, "/") {
		if !isPathComponent(part) {
			return fmt.Sprintf("%s is not valid in a repository: each part has lower-case letters and digits, which can be joined by . _ __ or dashes.", quote(part))
		}
	}
	return ""
}

// meant offers a corrected form if that form is valid.
func meant(image string) string {
	if imageNameFault(image) != "" {
		return ""
	}
	return " Did you mean " + quote(image) + "?"
}

func isDigest(s string) bool {
	rest, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(rest) == 64 && strings.Trim(rest, "0123456789abcdef") == ""
}

func isTag(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !isLowerAlnum(c) && (c < 'A' || c > 'Z') && c != '_' && (i == 0 || c != '.' && c != '-') {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

// isPathComponent is Docker's [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*.
func isPathComponent(s string) bool {
	if s == "" || !isLowerAlnum(s[0]) || !isLowerAlnum(s[len(s)-1]) {
		return false
	}
	for s != "" {
		i := 0
		for i < len(s) && isLowerAlnum(s[i]) {
			i++
		}
		j := i
		for j < len(s) && !isLowerAlnum(s[j]) {
			j++
		}
		if sep := s[i:j]; sep != "" && sep != "." && sep != "_" && sep != "__" && strings.Trim(sep, "-") != "" {
			return false
		}
		s = s[j:]
	}
	return true
}

// isRegistryHost checks host[:port], where host is a name, an IPv4 address or an IPv6 address in brackets.
func isRegistryHost(s string) bool {
	host := s
	if colon := strings.LastIndexByte(s, ':'); colon > strings.LastIndexByte(s, ']') {
		if !isPort(s[colon+1:]) {
			return false
		}
		host = s[:colon]
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		return ok && inner != "" && strings.Trim(inner, "0123456789abcdefABCDEF:") == ""
	}
	for label := range strings.SplitSeq(strings.ToLower(host), ".") {
		if !matchesName(label) || len(label) > 63 {
			return false
		}
	}
	return len(host) <= MaxDomainName
}
