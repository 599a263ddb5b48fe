package trysail

import (
	"maps"
	"slices"
	"time"
)

// DeploymentState is the state of a deployment as clients see it.
type DeploymentState string

// The states of a deployment. The word is the wire value.
const (
	DeploymentActivating DeploymentState = "ACTIVATING"
	DeploymentActive     DeploymentState = "ACTIVE"
	DeploymentInactive   DeploymentState = "INACTIVE"
	DeploymentFailed     DeploymentState = "FAILED"
)

// Protocol is what a container speaks on an open port.
type Protocol string

// The protocols of a port. The word is the wire value.
const (
	ProtocolHTTP  Protocol = "HTTP"
	ProtocolHTTPS Protocol = "HTTPS"
	ProtocolTCP   Protocol = "TCP"
	ProtocolUDP   Protocol = "UDP"
)

// Deployment is one immutable set of containers with an endpoint. Only its state changes.
type Deployment struct {
	Version        int // 1, 2, 3… within the service; also failed ones count; never reused
	State          DeploymentState
	CreatedAt      time.Time
	Containers     map[string]Container
	PublicEndpoint *PublicEndpoint // nil: the deployment is not reachable from outside
	// Digests maps each distinct image name of Containers to the digest (sha256:…) it stood for when the deployment
	// was made. An image that could not be resolved yet is absent; reconcile adds it.
	Digests map[string]string
	// Deadline is when the deployment is given up if it is still ACTIVATING.
	Deadline time.Time
	// Hold is how long pods that run are kept when the deployment fails, out of rotation, so that a person can look into
	// them; zero: they are stopped at once.
	Hold time.Duration
}

// ContainerNames lists the containers' names in order.
func (d *Deployment) ContainerNames() []string { return slices.Sorted(maps.Keys(d.Containers)) }

// Container is one entry of a deployment.
type Container struct {
	Image       string
	Command     []string // replaces the image's CMD and keeps its ENTRYPOINT
	Environment map[string]string
	Ports       map[string]Protocol // decimal port → protocol
}

// PublicEndpoint names the container and the port that the edge sends requests to.
type PublicEndpoint struct {
	ContainerName string
	ContainerPort int
	HealthCheck   HealthCheck
}

// HealthCheck is how the edge asks a target whether it can serve.
type HealthCheck struct {
	HealthyThreshold   int    // consecutive successes
	UnhealthyThreshold int    // consecutive failures
	TimeoutSeconds     int    // 2–60
	IntervalSeconds    int    // 5–300
	Path               string // begins with /
	SuccessCodes       string // "200", "200,202", "200-299", or a mix
}

// DefaultHealthCheck is what AWS fills in for members that a request leaves out.
func DefaultHealthCheck() HealthCheck {
	return HealthCheck{HealthyThreshold: 2, UnhealthyThreshold: 2, TimeoutSeconds: 2, IntervalSeconds: 5, Path: "/", SuccessCodes: "200-499"}
}
