package control

import (
	"time"

	"github.com/trysail/trysail"
)

// Optional members of requests are pointers or nil-able: nil means the client did not send the member (or sent null).

// CreateContainerServiceInput is the request of CreateContainerService.
type CreateContainerServiceInput struct {
	ServiceName       string
	Power             string
	Scale             int
	Tags              []trysail.Tag
	PublicDomainNames map[string][]string
	Deployment        *DeploymentInput
	ECRPuller         *bool // privateRegistryAccess.ecrImagePullerRole.isActive
}

// DeploymentInput is the containers and endpoint of a deployment as a client sends them.
type DeploymentInput struct {
	Containers     map[string]trysail.Container
	PublicEndpoint *EndpointInput
}

// EndpointInput is the public endpoint as a client sends it.
type EndpointInput struct {
	ContainerName string
	ContainerPort int
	HealthCheck   *HealthCheckInput
}

// HealthCheckInput is a health check of which any member may be absent.
type HealthCheckInput struct {
	HealthyThreshold   *int
	UnhealthyThreshold *int
	TimeoutSeconds     *int
	IntervalSeconds    *int
	Path               *string
	SuccessCodes       *string
}

// UpdateContainerServiceInput is the request of UpdateContainerService. Nil members stay unchanged.
type UpdateContainerServiceInput struct {
	ServiceName       string
	Power             *string
	Scale             *int
	IsDisabled        *bool
	PublicDomainNames map[string][]string
	ECRPuller         *bool
}

// GetContainerLogInput is the request of GetContainerLog.
type GetContainerLogInput struct {
	ServiceName   string
	ContainerName string
	StartTime     *time.Time
	EndTime       *time.Time
	FilterPattern string
	PageToken     string
}

// GetPodLogInput is the request of GetPodLog: that of GetContainerLog, for some of the pods.
type GetPodLogInput struct {
	GetContainerLogInput

	PodID    string // only lines of this pod or task
	Version  int    // 0: all versions
	Previous bool   // of each of the scale's places only the pod that ended last
}

// LogPage is the answer of GetContainerLog and GetPodLog.
type LogPage struct {
	Events        []LogEvent // ascending by time
	NextPageToken string     // empty when there is no more
	// MissingServers are the names of servers whose newest lines may be missing: of several servers that did not answer.
	MissingServers []string
}

// LogEvent is one line of a container's log.
type LogEvent struct {
	CreatedAt time.Time
	Message   string
	Pod       trysail.PodID // that wrote it; empty for system lines
	Version   int           // of the pod; 0 if that is not known any more
	Stderr    bool
}

// AccessKey is one access key. Secret is only set in the answer of CreateAccessKey.
type AccessKey struct {
	ID        string
	Name      string
	Secret    string
	Role      trysail.Role
	Services  []string // the only ones it is for; empty: all
	CreatedAt time.Time
}
