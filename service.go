package trysail

import (
	"crypto/sha256"
	"encoding/base32"
	"slices"
	"strings"
	"time"
)

// ServiceState is the state of a service as clients see it.
type ServiceState string

// The states of a service. The word is the wire value.
const (
	ServicePending   ServiceState = "PENDING"
	ServiceReady     ServiceState = "READY"
	ServiceRunning   ServiceState = "RUNNING"
	ServiceUpdating  ServiceState = "UPDATING"
	ServiceDeleting  ServiceState = "DELETING"
	ServiceDisabled  ServiceState = "DISABLED"
	ServiceDeploying ServiceState = "DEPLOYING"
)

// The codes of a StateDetail, in the order in which they occur.
const (
	DetailCreatingSystemResources = "CREATING_SYSTEM_RESOURCES"
	DetailProvisioningCertificate = "PROVISIONING_CERTIFICATE"
	DetailProvisioningService     = "PROVISIONING_SERVICE"
	DetailCreatingDeployment      = "CREATING_DEPLOYMENT"
	DetailEvaluatingHealthCheck   = "EVALUATING_HEALTH_CHECK"
	DetailActivatingDeployment    = "ACTIVATING_DEPLOYMENT"
)

// StateDetail says what a service in PENDING, DEPLOYING or UPDATING is busy with.
type StateDetail struct {
	Code    string
	Message string
}

// Tag is a label that a user put on a service. An absent value is the empty string.
type Tag struct {
	Key   string
	Value string
}

// Capacity is how large each pod of a service is and how many there are.
type Capacity struct {
	Power Power
	Scale int
}

// Service is a Lightsail container service: a name, a size, a URL and at most one active deployment.
type Service struct {
	ID        string // UUID; never reused, unlike the name
	Name      string
	CreatedAt time.Time
	// HostLabel is 64 random bits as 13 characters of lower-case base32hex. It makes the default domain hard to guess
	// and stays the same for the life of the service.
	HostLabel string
	Capacity
	State    ServiceState
	Detail   StateDetail // zero unless State is PENDING, DEPLOYING or UPDATING
	Disabled bool        // desired: no pods, the endpoint answers 503
	Tags     []Tag       // ordered by key
	// PublicDomains are the domains that lead here besides the default one, by the name of their certificate; nil if
	// there are none.
	PublicDomains map[string][]string
	// ECRPuller is the switch privateRegistryAccess.ecrImagePullerRole.isActive.
	ECRPuller bool
	Settings  ServiceSettings
	// Fallback is the capacity to go back to when the pods of an update do not become healthy; nil when none is pending.
	Fallback *Capacity
	// Forward is where the service has moved to; nil if it has not.
	Forward *Forward
	// Current is the ACTIVE deployment, nil if none.
	Current *Deployment
	// Next is the ACTIVATING deployment, nil if none.
	Next *Deployment
}

// Host is the name of the service's default domain: <service>.<label>.<region>.cs.<domain>.
func (s *Service) Host(region, domain string) string {
	return s.Name + "." + s.HostLabel + "." + region + ".cs." + domain
}

// Hosts are all names that lead to the service, the default one first.
func (s *Service) Hosts(region, domain string) []string {
	list := []string{s.Host(region, domain)}
	for _, domains := range s.PublicDomains {
		list = append(list, domains...)
	}
	slices.Sort(list[1:])
	return list
}

// PrivateDomainName is the name under which other services reach this one.
func (s *Service) PrivateDomainName() string { return s.Name + ".service.local" }

// ARN is the Amazon Resource Name that clients see.
func (s *Service) ARN(region, account string) string {
	return "arn:aws:lightsail:" + region + ":" + account + ":ContainerService/" + s.ID
}

// PrincipalARN is the service's identity. It is empty until the service has been provisioned, as on AWS.
func (s *Service) PrincipalARN(region, account string) string {
	if s.State == ServicePending {
		return ""
	}
	sum := sha256.Sum256([]byte(s.ID))
	tail := strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:]))
	return "arn:aws:iam::" + account + ":role/amazon/lightsail/" + region + "/containers/" + s.Name + "/" + tail
}

// Power is the size of each pod of a service. The word is the wire value.
type Power string

// The powers, smallest first.
const (
	PowerNano   Power = "nano"
	PowerMicro  Power = "micro"
	PowerSmall  Power = "small"
	PowerMedium Power = "medium"
	PowerLarge  Power = "large"
	PowerXLarge Power = "xlarge"
)

// PowerSpec is what a power gives each pod, as GetContainerServicePowers reports it.
type PowerSpec struct {
	Name  Power
	ID    string
	VCPU  float64 // CPUs, shared by all containers of the pod
	RAMGB float64 // GiB, shared by all containers of the pod
	Price float64 // what AWS charges, USD per month and pod (live price list, 2026-09); Trysail charges nothing
}

// powers is the price list of lightsail container services, in the order AWS lists it.
var powers = [...]PowerSpec{
	{PowerNano, "nano-1", 0.25, 0.5, 7},
	{PowerMicro, "micro-1", 0.25, 1, 10},
	{PowerSmall, "small-1", 0.5, 1, 15},
	{PowerMedium, "medium-1", 1, 2, 40},
	{PowerLarge, "large-1", 2, 4, 80},
	{PowerXLarge, "xlarge-1", 4, 8, 160},
}

// Powers lists all powers, smallest first.
func Powers() []PowerSpec { return append([]PowerSpec(nil), powers[:]...) }

// Spec returns what the power gives; ok is false for an unknown power.
func (p Power) Spec() (spec PowerSpec, ok bool) {
	for _, s := range powers {
		if s.Name == p {
			return s, true
		}
	}
	return PowerSpec{}, false
}

// Limits returns the CPU limit in thousandths of a CPU and the memory limit in bytes of one pod.
// An unknown power has no room at all.
func (p Power) Limits() Limits {
	s, _ := p.Spec()
	return Limits{MilliCPU: int64(s.VCPU * 1000), Memory: int64(s.RAMGB * (1 << 30))}
}
