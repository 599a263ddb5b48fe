package api

import (
	"github.com/trysail/trysail"
)

// The types of this file are the answers, member by member. Lists and maps that are empty are sent as [] and {}, members
// that have no value are left out where omitzero says so.

type containerServiceResult struct {
	ContainerService *containerService `json:"containerService"`
}

type containerServicesResult struct {
	ContainerServices []containerService `json:"containerServices"`
}

type deploymentsResult struct {
	Deployments []deployment `json:"deployments"`
}

type logResult struct {
	LogEvents     []logEvent `json:"logEvents"`
	NextPageToken string     `json:"nextPageToken,omitzero"`
	// MissingServers are those of several servers whose newest lines may be missing.
	MissingServers []string `json:"missingServers,omitempty"`
}

type powersResult struct {
	Powers []power `json:"powers"`
}

type metadataResult struct {
	Metadata []map[string]string `json:"metadata"`
}

type operationResult struct {
	Operation operationRecord `json:"operation"`
}

type operationsResult struct {
	Operations    []operationRecord `json:"operations"`
	NextPageToken string            `json:"nextPageToken,omitzero"`
}

type regionsResult struct {
	Regions []region `json:"regions"`
}

type diagnosisResult struct {
	Diagnosis trysail.Diagnosis `json:"diagnosis"`
}

type accessKeysResult struct {
	AccessKeys []accessKey `json:"accessKeys"`
}

type accessKeyResult struct {
	AccessKey accessKey `json:"accessKey"`
}

type registryLoginResult struct {
	RegistryLogin registryLogin `json:"registryLogin"`
}

type registryLogin struct {
	Username  string  `json:"username"`
	Password  string  `json:"password"`
	ExpiresAt float64 `json:"expiresAt"`
	Registry  string  `json:"registry"`
}

type imageResult struct {
	ContainerImage containerImage `json:"containerImage"`
}

type imagesResult struct {
	ContainerImages []containerImage `json:"containerImages"`
}

type containerImage struct {
	Image     string  `json:"image"`
	Digest    string  `json:"digest"`
	CreatedAt float64 `json:"createdAt"`
}

type checkResult struct {
	Problems []string       `json:"problems"`
	Warnings []string       `json:"warnings"`
	Images   []checkedImage `json:"images"`
}

type checkedImage struct {
	Container    string   `json:"container"`
	Image        string   `json:"image"`
	Digest       string   `json:"digest"`
	Architecture string   `json:"architecture"`
	ExposedPorts []string `json:"exposedPorts"`
}

type podsResult struct {
	Pods []pod `json:"pods"`
}

// pod is a pod of a kept version. Times that have not come yet are left out.
type pod struct {
	ID        trysail.PodID  `json:"id"`
	Version   int            `json:"version"`
	Power     trysail.Power  `json:"power"`
	Slot      int            `json:"slot"`
	Attempt   int            `json:"attempt"`
	State     string         `json:"state"` // STARTING, HEALTHY, STOPPING, ENDED or FAILED
	CreatedAt float64        `json:"createdAt"`
	HealthyAt float64        `json:"healthyAt,omitzero"`
	StoppedAt float64        `json:"stoppedAt,omitzero"` // when it was decided that it shall stop
	EndedAt   float64        `json:"endedAt,omitzero"`
	HoldUntil float64        `json:"holdUntil,omitzero"` // a failed pod is kept until then
	Reason    string         `json:"reason"`
	Exits     []podContainer `json:"exits"` // how the containers of a failed pod were last seen
}

type podContainer struct {
	Name       string `json:"name"`
	ExitCode   int    `json:"exitCode"`
	OOMKilled  bool   `json:"oomKilled"`
	StartError string `json:"startError,omitzero"`
}

type nodeImagesResult struct {
	Images        []nodeImage `json:"images"`
	RegistryBytes int64       `json:"registryBytes"`
	UnusedBytes   int64       `json:"unusedBytes"`
}

type nodeImage struct {
	Name   string   `json:"name"`
	Digest string   `json:"digest"`
	Size   int64    `json:"size"`   // bytes
	Stored bool     `json:"stored"` // in the registry; else unpacked
	Kept   []string `json:"kept"`
}

type settingsResult struct {
	Settings trysail.ServiceSettings `json:"settings"`
}

type registryResult struct {
	Registry registry `json:"registry"`
}

type registriesResult struct {
	Registries []registry `json:"registries"`
}

type registry struct {
	Host      string   `json:"host"`
	Username  string   `json:"username"`
	HasSecret bool     `json:"hasSecret"`
	Mirrors   []string `json:"mirrors"`
	CA        string   `json:"ca"`
	PlainHTTP bool     `json:"plainHttp"`
	UpdatedAt float64  `json:"updatedAt"`
}

type containerService struct {
	ContainerServiceName  string                `json:"containerServiceName"`
	ARN                   string                `json:"arn"`
	CreatedAt             float64               `json:"createdAt"`
	Location              location              `json:"location"`
	ResourceType          string                `json:"resourceType"`
	Tags                  []tag                 `json:"tags"`
	Power                 trysail.Power         `json:"power"`
	PowerID               string                `json:"powerId"`
	State                 trysail.ServiceState  `json:"state"`
	StateDetail           *stateDetail          `json:"stateDetail,omitzero"`
	Scale                 int                   `json:"scale"`
	CurrentDeployment     *deployment           `json:"currentDeployment,omitzero"`
	NextDeployment        *deployment           `json:"nextDeployment,omitzero"`
	IsDisabled            bool                  `json:"isDisabled"`
	PrincipalARN          string                `json:"principalArn"`
	PrivateDomainName     string                `json:"privateDomainName"`
	PublicDomainNames     map[string][]string   `json:"publicDomainNames,omitempty"`
	URL                   string                `json:"url"`
	PrivateRegistryAccess privateRegistryAccess `json:"privateRegistryAccess"`
}

type location struct {
	AvailabilityZone string `json:"availabilityZone"`
	RegionName       string `json:"regionName"`
}

type tag struct {
	Key   string `json:"key"`
	Value string `json:"value,omitzero"`
}

type stateDetail struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

type privateRegistryAccess struct {
	ECRImagePullerRole struct {
		IsActive     bool   `json:"isActive"`
		PrincipalARN string `json:"principalArn"`
	} `json:"ecrImagePullerRole"`
}

type deployment struct {
	Version        int                     `json:"version"`
	State          trysail.DeploymentState `json:"state"`
	Containers     map[string]container    `json:"containers"`
	PublicEndpoint *publicEndpoint         `json:"publicEndpoint,omitzero"`
	CreatedAt      float64                 `json:"createdAt"`
}

type container struct {
	Image       string                      `json:"image"`
	Command     []string                    `json:"command"`
	Environment map[string]string           `json:"environment"`
	Ports       map[string]trysail.Protocol `json:"ports"`
}

type publicEndpoint struct {
	ContainerName string      `json:"containerName"`
	ContainerPort int         `json:"containerPort"`
	HealthCheck   healthCheck `json:"healthCheck"`
}

type healthCheck struct {
	HealthyThreshold   int    `json:"healthyThreshold"`
	UnhealthyThreshold int    `json:"unhealthyThreshold"`
	TimeoutSeconds     int    `json:"timeoutSeconds"`
	IntervalSeconds    int    `json:"intervalSeconds"`
	Path               string `json:"path"`
	SuccessCodes       string `json:"successCodes"`
}

type logEvent struct {
	CreatedAt float64 `json:"createdAt"`
	Message   string  `json:"message"`
}

type podLogResult struct {
	LogEvents     []podLogEvent `json:"logEvents"`
	NextPageToken string        `json:"nextPageToken,omitempty"`
	// MissingServers are those of several servers whose newest lines may be missing.
	MissingServers []string `json:"missingServers,omitempty"`
}

type podLogEvent struct {
	CreatedAt float64 `json:"createdAt"`
	Message   string  `json:"message"`
	PodID     string  `json:"podId,omitempty"`
	Version   int     `json:"version,omitempty"`
	Stream    string  `json:"stream,omitempty"`
}

type power struct {
	PowerID     string        `json:"powerId"`
	Price       float64       `json:"price"`
	CPUCount    float64       `json:"cpuCount"`
	RAMSizeInGB float64       `json:"ramSizeInGb"`
	Name        trysail.Power `json:"name"`
	IsActive    bool          `json:"isActive"`
}

type operationRecord struct {
	ID              string   `json:"id"`
	ResourceName    string   `json:"resourceName"`
	ResourceType    string   `json:"resourceType"`
	CreatedAt       float64  `json:"createdAt"`
	Location        location `json:"location"`
	IsTerminal      bool     `json:"isTerminal"`
	OperationType   string   `json:"operationType"`
	Details         string   `json:"operationDetails"`
	Status          string   `json:"status"`
	StatusChangedAt float64  `json:"statusChangedAt"`
	ErrorCode       string   `json:"errorCode,omitzero"`
	ErrorDetails    string   `json:"errorDetails,omitzero"`
}

type region struct {
	Name                                string             `json:"name"`
	DisplayName                         string             `json:"displayName"`
	ContinentCode                       string             `json:"continentCode,omitzero"`
	Description                         string             `json:"description"`
	AvailabilityZones                   []availabilityZone `json:"availabilityZones"`
	RelationalDatabaseAvailabilityZones []availabilityZone `json:"relationalDatabaseAvailabilityZones"`
}

type availabilityZone struct {
	ZoneName string `json:"zoneName"`
	State    string `json:"state"`
}

type accessKey struct {
	AccessKeyID     string `json:"accessKeyId"`
	SecretAccessKey string `json:"secretAccessKey,omitzero"` // only in the answer of CreateAccessKey
	// Role is read, deploy or admin; ServiceNames are the only services that the key is for, absent if it is for all.
	Role         trysail.Role `json:"role"`
	ServiceNames []string     `json:"serviceNames,omitempty"`
	Name         string       `json:"name"`
	CreatedAt    float64      `json:"createdAt"`
}

// execSessionResult is the answer of CreateExecSession. The WebSocket is at path on the same address, once, until expiresAt.
type execSessionResult struct {
	Path          string        `json:"path"`
	Protocol      string        `json:"protocol"`
	PodID         trysail.PodID `json:"podId"`
	ContainerName string        `json:"containerName"`
	ExpiresAt     float64       `json:"expiresAt"`
}

// taskResult is the answer of CreateTask and GetTask.
type taskResult struct {
	Task task `json:"task"`
}

type task struct {
	ID            trysail.PodID `json:"taskId"`
	Version       int           `json:"version"`
	ContainerName string        `json:"containerName"`
	Command       []string      `json:"command"`
	// State is RUNNING or ENDED. ExitCode is that of the command; absent while it runs, and where Reason says why there is none.
	State     string  `json:"state"`
	ExitCode  *int    `json:"exitCode,omitempty"`
	Reason    string  `json:"reason,omitempty"`
	CreatedAt float64 `json:"createdAt"`
	EndedAt   float64 `json:"endedAt,omitempty"`
}

// tasksResult is the answer of ListTasks.
type tasksResult struct {
	Tasks []task `json:"tasks"`
}
