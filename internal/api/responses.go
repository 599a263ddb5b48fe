package api

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
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

// view makes answers of what control returns.
type view struct{ cfg Config }

func (v view) serviceResult(s *trysail.Service) containerServiceResult {
	answer := v.service(s)
	return containerServiceResult{&answer}
}

func (v view) servicesResult(services []trysail.Service) containerServicesResult {
	answer := containerServicesResult{make([]containerService, len(services))}
	for i := range services {
		answer.ContainerServices[i] = v.service(&services[i])
	}
	return answer
}

func (v view) service(s *trysail.Service) containerService {
	spec, _ := s.Power.Spec()
	answer := containerService{
		ContainerServiceName: s.Name,
		ARN:                  s.ARN(v.cfg.Region, v.cfg.Account),
		CreatedAt:            seconds(s.CreatedAt),
		Location:             v.location(),
		ResourceType:         "ContainerService",
		Tags:                 newTags(s.Tags),
		Power:                s.Power,
		PowerID:              spec.ID,
		State:                s.State,
		Scale:                s.Scale,
		CurrentDeployment:    newDeployment(s.Current),
		NextDeployment:       newDeployment(s.Next),
		IsDisabled:           s.Disabled,
		PrincipalARN:         s.PrincipalARN(v.cfg.Region, v.cfg.Account),
		PrivateDomainName:    s.PrivateDomainName(),
		PublicDomainNames:    s.PublicDomains,
		URL:                  "https://" + s.Host(v.cfg.Region, v.cfg.Domain) + v.cfg.EdgePort + "/",
	}
	if s.Detail.Code != "" {
		answer.StateDetail = &stateDetail{s.Detail.Code, s.Detail.Message}
	}
	role := &answer.PrivateRegistryAccess.ECRImagePullerRole
	role.IsActive = s.ECRPuller
	role.PrincipalARN = v.pullerARN(s)
	return answer
}

// pullerARN is the identity for pulling images of private registries. It is empty until it is there, as on AWS.
func (v view) pullerARN(s *trysail.Service) string {
	if !s.ECRPuller || s.State == trysail.ServicePending || s.State == trysail.ServiceUpdating {
		return ""
	}
	sum := sha256.Sum256([]byte(s.ID + "/private-repo-access"))
	tail := strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:]))
	return "arn:aws:iam::" + v.cfg.Account + ":role/amazon/lightsail/" + v.cfg.Region + "/containers/" + s.Name + "/private-repo-access/" + tail
}

// location is the same for all container services.
func (v view) location() location { return location{AvailabilityZone: "all", RegionName: v.cfg.Region} }

func (v view) deploymentsResult(deployments []trysail.Deployment) deploymentsResult {
	answer := deploymentsResult{make([]deployment, len(deployments))}
	for i := range deployments {
		answer.Deployments[i] = *newDeployment(&deployments[i])
	}
	return answer
}

func newDeployment(d *trysail.Deployment) *deployment {
	if d == nil {
		return nil
	}
	answer := &deployment{
		Version:    d.Version,
		State:      d.State,
		Containers: make(map[string]container, len(d.Containers)),
		CreatedAt:  seconds(d.CreatedAt),
	}
	for name, c := range d.Containers {
		answer.Containers[name] = container{
			Image: c.Image, Command: orEmptyList(c.Command), Environment: orEmptyMap(c.Environment), Ports: orEmptyMap(c.Ports),
		}
	}
	if e := d.PublicEndpoint; e != nil {
		answer.PublicEndpoint = &publicEndpoint{e.ContainerName, e.ContainerPort, healthCheck(e.HealthCheck)}
	}
	return answer
}

func (v view) logResult(page *control.LogPage) logResult {
	answer := logResult{LogEvents: make([]logEvent, len(page.Events)), NextPageToken: page.NextPageToken, MissingServers: page.MissingServers}
	for i, e := range page.Events {
		answer.LogEvents[i] = logEvent{seconds(e.CreatedAt), e.Message}
	}
	return answer
}

func (v view) podLogResult(page *control.LogPage) podLogResult {
	answer := podLogResult{LogEvents: make([]podLogEvent, len(page.Events)), NextPageToken: page.NextPageToken, MissingServers: page.MissingServers}
	for i, e := range page.Events {
		answer.LogEvents[i] = podLogEvent{CreatedAt: seconds(e.CreatedAt), Message: e.Message, PodID: string(e.Pod), Version: e.Version}
		switch {
		case e.Pod == "":
		case e.Stderr:
			answer.LogEvents[i].Stream = "stderr"
		default:
			answer.LogEvents[i].Stream = "stdout"
		}
	}
	return answer
}

func (v view) newOperation(o trysail.Operation) operationRecord {
	return operationRecord{
		ID: o.ID, ResourceName: o.ResourceName, ResourceType: cmp.Or(o.ResourceType, trysail.ResourceService), CreatedAt: seconds(o.CreatedAt), Location: v.location(),
		IsTerminal: o.Status.Terminal(), OperationType: o.Type, Details: o.Details, Status: string(o.Status), StatusChangedAt: seconds(o.ChangedAt),
		ErrorCode: o.ErrorCode, ErrorDetails: o.ErrorDetails,
	}
}

func (v view) operationResult(o trysail.Operation) operationResult {
	return operationResult{v.newOperation(o)}
}

func (v view) operationsResult(operations []trysail.Operation) operationsResult {
	answer := operationsResult{Operations: make([]operationRecord, len(operations))}
	for i, o := range operations {
		answer.Operations[i] = v.newOperation(o)
	}
	return answer
}

func (v view) operationPageResult(page *control.OperationPage) operationsResult {
	answer := v.operationsResult(page.Operations)
	answer.NextPageToken = page.NextPageToken
	return answer
}

func (v view) powersResult() powersResult {
	var answer powersResult
	for _, p := range trysail.Powers() {
		answer.Powers = append(answer.Powers, power{p.ID, p.Price, p.VCPU, p.RAMGB, p.Name, true})
	}
	return answer
}

// metadataResult is what lightsailctl reads to find out whether there is a newer version of itself.
func (v view) metadataResult() metadataResult {
	return metadataResult{[]map[string]string{{"name": "lightsailctlVersion", "value": "v1.0.8"}}}
}

// regionsResult lists the one region that this Trysail plays.
func (v view) regionsResult(zones bool) regionsResult {
	name := v.cfg.Region
	answer := region{
		Name: name, DisplayName: "Trysail (" + name + ")", ContinentCode: continent(name),
		Description:       "Container services on your own machines, under the name " + name,
		AvailabilityZones: []availabilityZone{}, RelationalDatabaseAvailabilityZones: []availabilityZone{},
	}
	if zones {
		answer.AvailabilityZones = append(answer.AvailabilityZones, availabilityZone{name + "a", "available"})
	}
	return regionsResult{[]region{answer}}
}

// continent is AWS's code for the part of the world that a region's name begins with, "" for names of one's own.
func continent(region string) string {
	part, _, _ := strings.Cut(region, "-")
	switch part {
	case "us", "ca", "mx":
		return "NA"
	case "eu":
		return "EU"
	case "ap":
		return "AP"
	case "sa":
		return "SA"
	default:
		return ""
	}
}

func (v view) diagnosisResult(d *trysail.Diagnosis) diagnosisResult {
	answer := diagnosisResult{*d}
	answer.Diagnosis.Evidence = orEmptyList(d.Evidence)
	answer.Diagnosis.Diff = orEmptyList(d.Diff)
	return answer
}

func (v view) accessKeysResult(keys []control.AccessKey) accessKeysResult {
	answer := accessKeysResult{make([]accessKey, len(keys))}
	for i, k := range keys {
		k.Secret = "" // whatever control returned: a list never shows secrets
		answer.AccessKeys[i] = newAccessKey(k)
	}
	return answer
}

func (v view) accessKeyResult(k *control.AccessKey) accessKeyResult {
	return accessKeyResult{newAccessKey(*k)}
}

func newAccessKey(k control.AccessKey) accessKey {
	return accessKey{AccessKeyID: k.ID, SecretAccessKey: k.Secret, Name: k.Name, Role: k.Role, ServiceNames: k.Services, CreatedAt: seconds(k.CreatedAt)}
}

func (v view) registryLoginResult(l *trysail.RegistryLogin) registryLoginResult {
	return registryLoginResult{registryLogin{Username: l.Username, Password: l.Password, ExpiresAt: seconds(l.ExpiresAt), Registry: l.Registry}}
}

func newImage(i trysail.RegisteredImage) containerImage {
	return containerImage{Image: i.Name(), Digest: i.Digest, CreatedAt: seconds(i.CreatedAt)}
}

func (v view) imageResult(i *trysail.RegisteredImage) imageResult { return imageResult{newImage(*i)} }

func (v view) imagesResult(list []trysail.RegisteredImage) imagesResult {
	answer := imagesResult{make([]containerImage, len(list))}
	for i := range list {
		answer.ContainerImages[i] = newImage(list[i])
	}
	return answer
}

func (v view) checkResult(c *control.Check) checkResult {
	answer := checkResult{orEmptyList(c.Problems), orEmptyList(c.Warnings), make([]checkedImage, len(c.Images))}
	for i, img := range c.Images {
		answer.Images[i] = checkedImage{img.Container, img.Name, img.Digest, img.Architecture, orEmptyList(img.ExposedPorts)}
	}
	return answer
}

func (v view) podsResult(list []trysail.PodRecord) podsResult {
	answer := podsResult{make([]pod, len(list))}
	for i, p := range list {
		answer.Pods[i] = newPod(p)
	}
	return answer
}

func newPod(p trysail.PodRecord) pod {
	shown := pod{
		ID: p.ID, Version: p.Version, Power: p.Power, Slot: p.Slot, Attempt: p.Attempt, State: podState(p), CreatedAt: seconds(p.CreatedAt),
		HealthyAt: optionalSeconds(p.HealthyAt), StoppedAt: optionalSeconds(p.StopAt), EndedAt: optionalSeconds(p.EndedAt),
		HoldUntil: optionalSeconds(p.HoldUntil), Reason: p.Reason, Exits: []podContainer{},
	}
	if p.Evidence == nil {
		return shown
	}
	for _, c := range p.Evidence.Containers {
		if c.State == trysail.ContainerExited {
			shown.Exits = append(shown.Exits, podContainer{c.Name, c.ExitCode, c.OOMKilled, c.StartError})
		}
	}
	return shown
}

func podState(p trysail.PodRecord) string {
	switch {
	case p.Failed:
		return "FAILED"
	case !p.EndedAt.IsZero():
		return "ENDED"
	case !p.Live():
		return "STOPPING"
	case !p.HealthyAt.IsZero():
		return "HEALTHY"
	default:
		return "STARTING"
	}
}

// optionalSeconds is 0 for a time that has not come.
func optionalSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return seconds(t)
}

func (v view) nodeImagesResult(n *control.NodeImages) nodeImagesResult {
	answer := nodeImagesResult{make([]nodeImage, len(n.Images)), n.RegistryBytes, n.UnusedBytes}
	for i, img := range n.Images {
		answer.Images[i] = nodeImage{Name: img.Name, Digest: img.Digest, Size: img.Size, Stored: img.Stored, Kept: orEmptyList(img.Kept)}
	}
	return answer
}

// newRegistry leaves the secret out, whatever control returned.
func newRegistry(r control.Registry) registry {
	return registry{
		Host: r.Host, Username: r.Username, HasSecret: r.HasSecret, Mirrors: orEmptyList(r.Mirrors), CA: r.CA, PlainHTTP: r.PlainHTTP,
		UpdatedAt: seconds(r.UpdatedAt),
	}
}

func (v view) settingsResult(s trysail.ServiceSettings) settingsResult { return settingsResult{s} }

func (v view) registryResult(r control.Registry) registryResult {
	return registryResult{newRegistry(r)}
}

func (v view) registriesResult(list []control.Registry) registriesResult {
	answer := registriesResult{make([]registry, len(list))}
	for i := range list {
		answer.Registries[i] = newRegistry(list[i])
	}
	return answer
}

// seconds is a point in time as the wire has it: seconds since 1970 as a number, to the millisecond.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func orEmptyList[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func orEmptyMap[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return m
}

// execSessionResult is the answer of CreateExecSession. The WebSocket is at path on the same address, once, until expiresAt.
type execSessionResult struct {
	Path          string        `json:"path"`
	Protocol      string        `json:"protocol"`
	PodID         trysail.PodID `json:"podId"`
	ContainerName string        `json:"containerName"`
	ExpiresAt     float64       `json:"expiresAt"`
}

func (v view) execSessionResult(s *trysail.ExecSession) execSessionResult {
	return execSessionResult{ExecPath + s.Token, ExecProtocol, s.Pod, s.Container, seconds(s.ExpiresAt)}
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

func (v view) taskResult(k *trysail.Task) taskResult { return taskResult{newTask(k)} }

// tasksResult is the answer of ListTasks.
type tasksResult struct {
	Tasks []task `json:"tasks"`
}

func (v view) tasksResult(list []trysail.Task) tasksResult {
	out := tasksResult{Tasks: make([]task, len(list))}
	for i := range list {
		out.Tasks[i] = newTask(&list[i])
	}
	return out
}

func newTask(k *trysail.Task) task {
	shown := task{ID: k.ID, Version: k.Version, ContainerName: k.Container, Command: k.Command, State: "RUNNING", Reason: k.Reason, CreatedAt: seconds(k.CreatedAt)}
	if !k.EndedAt.IsZero() {
		shown.State, shown.EndedAt = "ENDED", seconds(k.EndedAt)
		if k.Reason == "" {
			shown.ExitCode = &k.ExitCode
		}
	}
	return shown
}
