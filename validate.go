package trysail

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// This table holds every limit of the API. Where AWS publishes none, the reason for ours stands beside it.
const (
	// NamePattern is the pattern of service names, container names and image labels, as the real service prints it.
	NamePattern = "^(?:[a-z0-9]{1,2}|[a-z0-9][a-z0-9-]+[a-z0-9])$"

	MaxServiceName   = 63 // characters
	MaxContainerName = 53 // characters; also of an image label
	MinScale         = 1
	MaxScale         = 20
	MinContainers    = 1
	MaxContainers    = 10
	MaxPort          = 65535

	MinThreshold       = 2 // healthy and unhealthy: those of the load balancer behind the real service
	MaxThreshold       = 10
	MinTimeoutSeconds  = 2
	MaxTimeoutSeconds  = 60
	MinIntervalSeconds = 5
	MaxIntervalSeconds = 300
	MinSuccessCode     = 200
	MaxSuccessCode     = 499
	MaxHealthPath      = 1024 // bytes, that of the load balancer behind the real service

	// MaxDeploymentSize bounds the text of all containers of a deployment, in bytes. It is what ECS, on which the real
	// service seems to be built, allows for a task definition.
	MaxDeploymentSize = 64 << 10
	MaxImageName      = 512 // bytes: a repository of 255, a tag of 128, a digest and a host

	MaxTags     = 50  // per service
	MaxTagKey   = 128 // characters
	MaxTagValue = 256 // characters

	MaxPublicDomains = 4   // per service, over all certificates
	MaxCertificates  = 4   // attached to one service
	MaxDomainName    = 253 // characters
	// MaxAlternativeNames is how many names a certificate may have besides its main one.
	MaxAlternativeNames = 9
	MaxCertificateName  = 255 // characters
	MaxKeyName          = 64  // characters of an access key's name; Trysail's own
)

// invalid is an Error for a request that is wrong.
func invalid(format string, args ...any) error { return Errorf(CodeInvalid, format, args...) }

// quote puts a value that a client sent between quotation marks: shortened, and with anything unprintable escaped, so
// that no error text can be abused to fill or forge a log.
func quote(s string) string {
	const most = 200
	if len(s) > most {
		cut := most
		for !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	return strconv.Quote(s)
}

// ValidateServiceName checks a service name: 1–63 characters of NamePattern.
func ValidateServiceName(name string) error {
	return validateName("Service name", name, MaxServiceName)
}

// ValidateContainerName checks a container name: 1–53 characters of NamePattern.
func ValidateContainerName(name string) error {
	return validateName("Container name", name, MaxContainerName)
}

// ValidateLabel checks the label of a stored image: 1–53 characters of NamePattern.
func ValidateLabel(label string) error { return validateName("Label", label, MaxContainerName) }

func validateName(what, name string, most int) error {
	if !matchesName(name) {
		return invalid("%s %s does not match pattern: %s", what, quote(name), NamePattern)
	}
	if len(name) > most {
		return invalid("%s %s is %d characters long. It can have 1 to %d.", what, quote(name), len(name), most)
	}
	return nil
}

// matchesName is NamePattern. It is written out because a compiled pattern would cost every process of this program
// time at its start.
func matchesName(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isLowerAlnum(c) && (c != '-' || i == 0 || i == len(s)-1) {
			return false
		}
	}
	return true
}

func isLowerAlnum(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// ValidatePower checks that power is one of those that Powers lists.
func ValidatePower(power string) error {
	if _, ok := Power(power).Spec(); ok {
		return nil
	}
	var names []string
	for _, p := range Powers() {
		names = append(names, string(p.Name))
	}
	return invalid("Power %s is not valid. It must be one of: %s.", quote(power), strings.Join(names, ", "))
}

// ValidateScale checks a scale: 1–20.
func ValidateScale(scale int) error {
	if scale < MinScale || scale > MaxScale {
		return invalid("Scale %d is not valid. It must be between %d and %d.", scale, MinScale, MaxScale)
	}
	return nil
}

// ValidateTags checks tags as a request may hold them: at most 50, no key twice.
func ValidateTags(tags []Tag) error {
	if len(tags) > MaxTags {
		return invalid("%d tags are too many. A service can have up to %d.", len(tags), MaxTags)
	}
	seen := map[string]bool{}
	for _, t := range tags {
		if err := ValidateTagKey(t.Key); err != nil {
			return err
		}
		if n := utf8.RuneCountInString(t.Value); n > MaxTagValue {
			return invalid("The value of tag %s is %d characters long. It can have up to %d.", quote(t.Key), n, MaxTagValue)
		}
		if !isTagText(t.Value) {
			return invalid("The value %s of tag %s is not valid. It can have letters, digits, spaces and + - = . _ : / @", quote(t.Value), quote(t.Key))
		}
		if seen[t.Key] {
			return invalid("Tag key %s is given twice.", quote(t.Key))
		}
		seen[t.Key] = true
	}
	return nil
}

// ValidateTagKey checks the key of a tag: 1–128 characters, not beginning with "aws:".
func ValidateTagKey(key string) error {
	n := utf8.RuneCountInString(key)
	switch {
	case n == 0 || n > MaxTagKey:
		return invalid("Tag key %s is %d characters long. It must have 1 to %d.", quote(key), n, MaxTagKey)
	case len(key) >= 4 && strings.EqualFold(key[:4], "aws:"):
		return invalid(`Tag key %s is not valid. Keys that begin with "aws:" are reserved.`, quote(key))
	case !isTagText(key):
		return invalid("Tag key %s is not valid. It can have letters, digits, spaces and + - = . _ : / @", quote(key))
	}
	return nil
}

func isTagText(s string) bool {
	for _, r := range s {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(" +-=._:/@", r) {
			return false
		}
	}
	return utf8.ValidString(s)
}

// ValidateKeyName checks what an access key is made for: 1–64 printable characters.
func ValidateKeyName(name string) error {
	n := utf8.RuneCountInString(name)
	if n == 0 || n > MaxKeyName || strings.TrimSpace(name) != name || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return invalid("Access key name %s is not valid. It must have 1 to %d printable characters.", quote(name), MaxKeyName)
	}
	return nil
}

// ValidateRole checks the role of an access key.
func ValidateRole(role Role) error {
	if !slices.Contains(Roles(), role) {
		return invalid("Role %s is not valid. The roles are read, deploy and admin.", quote(string(role)))
	}
	return nil
}

// MaxKeyServices is how many services an access key may be bound to.
const MaxKeyServices = 100

// ValidateKeyServices checks the names of the services that an access key is for.
func ValidateKeyServices(names []string) error {
	if len(names) > MaxKeyServices {
		return invalid("An access key can be for %d services, not for %d.", MaxKeyServices, len(names))
	}
	for _, name := range names {
		if err := ValidateServiceName(name); err != nil {
			return err
		}
	}
	return nil
}

// ValidatePublicDomainNames checks the shape of publicDomainNames: certificate name → domains. Whether the
// certificates exist is for somebody else to say.
func ValidatePublicDomainNames(names map[string][]string) error {
	attached := 0 // an empty list takes a certificate away
	for _, domains := range names {
		if len(domains) > 0 {
			attached++
		}
	}
	if attached > MaxCertificates {
		return invalid("%d certificates are too many. A service can have up to %d.", attached, MaxCertificates)
	}
	seen := map[string]bool{}
	for _, cert := range slices.Sorted(maps.Keys(names)) {
		if cert == "" {
			return invalid("A certificate name in publicDomainNames is empty.")
		}
		for _, domain := range names[cert] {
			if err := ValidateDomain(strings.ToLower(domain)); err != nil {
				return err
			}
			if seen[strings.ToLower(domain)] {
				return invalid("Public domain name %s is given twice.", quote(domain))
			}
			seen[strings.ToLower(domain)] = true
		}
	}
	if len(seen) > MaxPublicDomains {
		return invalid("%d public domain names are too many. A service can have up to %d.", len(seen), MaxPublicDomains)
	}
	return nil
}

func isDomainName(s string) bool {
	labels := strings.Split(strings.ToLower(s), ".")
	for _, l := range labels {
		if !matchesName(l) || len(l) > 63 {
			return false
		}
	}
	return len(labels) > 1 && len(s) <= MaxDomainName
}

// ValidateDeployment checks the containers and the public endpoint of a deployment of service, with the defaults of the
// health check already filled in.
func ValidateDeployment(service string, d *Deployment) error {
	if n := len(d.Containers); n < MinContainers || n > MaxContainers {
		return invalid("The deployment has %d containers. It must have %d to %d.", n, MinContainers, MaxContainers)
	}
	size := 0
	opened := map[string]string{}
	for _, name := range d.ContainerNames() {
		c := d.Containers[name]
		if err := ValidateContainerName(name); err != nil {
			return err
		}
		if err := validateContainer(service, name, &c); err != nil {
			return err
		}
		if err := validateShared(opened, name, &c); err != nil {
			return err
		}
		size += c.size() + len(name)
	}
	if size > MaxDeploymentSize {
		return invalid("The containers of the deployment take %d bytes with their commands, environment and ports. They can take up to %d.", size, MaxDeploymentSize)
	}
	if d.PublicEndpoint == nil {
		return nil
	}
	return validateEndpoint(d)
}

func validateContainer(service, name string, c *Container) error {
	if err := validateImage(service, name, c.Image); err != nil {
		return err
	}
	for i, word := range c.Command {
		if strings.ContainsRune(word, 0) {
			return invalid("Container %s has a NUL character in word %d of its command.", quote(name), i+1)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.Environment)) {
		// Values are not repeated in the text: they are often secrets.
		if key == "" || strings.ContainsAny(key, "=\x00") {
			return invalid("Container %s has invalid environment variable name %s. A name is not empty and has no = and no NUL character.", quote(name), quote(key))
		}
		if strings.ContainsRune(c.Environment[key], 0) {
			return invalid("Container %s has a NUL character in the value of environment variable %s.", quote(name), quote(key))
		}
	}
	for _, port := range slices.Sorted(maps.Keys(c.Ports)) {
		if !isPort(port) {
			return invalid("Container %s has invalid port %s. A port is a number from 1 to %d.", quote(name), quote(port), MaxPort)
		}
		switch c.Ports[port] {
		case ProtocolHTTP, ProtocolHTTPS, ProtocolTCP, ProtocolUDP:
		default:
			return invalid("Container %s has invalid protocol %s for port %s. It must be one of: HTTP, HTTPS, TCP, UDP.", quote(name), quote(string(c.Ports[port])), port)
		}
	}
	return nil
}

// isPort reports whether s is a port in its only form: 080 and +80 would be other keys for the same port.
func isPort(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= 1 && n <= MaxPort && strconv.Itoa(n) == s
}

// size is about what the container takes in a request.
func (c *Container) size() int {
	n := len(c.Image)
	for _, word := range c.Command {
		n += len(word)
	}
	for key, value := range c.Environment {
		n += len(key) + len(value)
	}
	for port, protocol := range c.Ports {
		n += len(port) + len(protocol)
	}
	return n
}

// validateShared refuses a port that another container of the deployment opens already. What AWS does is not known.
// The containers share one network namespace, so the second listener would die with "address in use": better said here
// than after three starts. UDP is another space of ports than the rest, which is TCP.
func validateShared(opened map[string]string, name string, c *Container) error {
	for _, port := range slices.Sorted(maps.Keys(c.Ports)) {
		key := port
		if c.Ports[port] == ProtocolUDP {
			key += "/udp"
		}
		if other, ok := opened[key]; ok {
			return invalid("Containers %s and %s both open port %s. The containers of a deployment share one network, so only one of them can open a port.", quote(other), quote(name), port)
		}
		opened[key] = name
	}
	return nil
}

func validateEndpoint(d *Deployment) error {
	e := d.PublicEndpoint
	c, ok := d.Containers[e.ContainerName]
	if !ok {
		return invalid("Invalid container %s specified. You must specify one of the containers of the deployment: %s.", quote(e.ContainerName), strings.Join(d.ContainerNames(), ", "))
	}
	protocol, ok := c.Ports[strconv.Itoa(e.ContainerPort)]
	if !ok {
		return invalid("Invalid port specified. You must specify a port that is in the list of ports of the specified container.")
	}
	if protocol != ProtocolHTTP && protocol != ProtocolHTTPS {
		return invalid("Invalid port specified. Container %s opens port %d as %s; a public endpoint must be HTTP or HTTPS.", quote(e.ContainerName), e.ContainerPort, protocol)
	}
	return validateHealthCheck(e.ContainerName, e.HealthCheck)
}

func validateHealthCheck(container string, h HealthCheck) error {
	for _, m := range []struct {
		name            string
		value, min, max int
	}{
		{"healthyThreshold", h.HealthyThreshold, MinThreshold, MaxThreshold},
		{"unhealthyThreshold", h.UnhealthyThreshold, MinThreshold, MaxThreshold},
		{"timeoutSeconds", h.TimeoutSeconds, MinTimeoutSeconds, MaxTimeoutSeconds},
		{"intervalSeconds", h.IntervalSeconds, MinIntervalSeconds, MaxIntervalSeconds},
	} {
		if m.value < m.min || m.value > m.max {
			return invalid("The health check of container %s has invalid %s %d. It must be between %d and %d.", quote(container), m.name, m.value, m.min, m.max)
		}
	}
	if h.TimeoutSeconds >= h.IntervalSeconds {
		return invalid("The health check of container %s has timeoutSeconds %d, which must be less than intervalSeconds %d.", quote(container), h.TimeoutSeconds, h.IntervalSeconds)
	}
	if !isHealthPath(h.Path) {
		return invalid("The health check of container %s has invalid path %s. It must begin with / and have up to %d characters of ASCII without spaces.", quote(container), quote(h.Path), MaxHealthPath)
	}
	if _, err := ParseSuccessCodes(h.SuccessCodes); err != nil {
		return invalid("The health check of container %s has invalid successCodes %s: %s", quote(container), quote(h.SuccessCodes), err)
	}
	return nil
}

func isHealthPath(s string) bool {
	return strings.HasPrefix(s, "/") && len(s) <= MaxHealthPath &&
		!strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' })
}

// CodeRange is a range of HTTP status codes, both ends included.
type CodeRange struct{ First, Last int }

// ParseSuccessCodes reads the successCodes of a health check: "200", "200,202", "200-299" or a mix, within 200–499.
func ParseSuccessCodes(s string) ([]CodeRange, error) {
	var list []CodeRange
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		r := CodeRange{statusCode(first), statusCode(last)}
		if r.First == 0 || r.Last == 0 || r.Last < r.First {
			return nil, invalid("it must be codes from %d to %d, such as 200 or 200,202 or 200-299.", MinSuccessCode, MaxSuccessCode)
		}
		list = append(list, r)
	}
	return list, nil
}

// statusCode returns the number of a status code that may be a success code, or 0.
func statusCode(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || len(s) != 3 || n < MinSuccessCode || n > MaxSuccessCode {
		return 0
	}
	return n
}
