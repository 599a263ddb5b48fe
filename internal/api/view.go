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

func (v view) execSessionResult(s *trysail.ExecSession) execSessionResult {
	return execSessionResult{ExecPath + s.Token, ExecProtocol, s.Pod, s.Container, seconds(s.ExpiresAt)}
}

func (v view) taskResult(k *trysail.Task) taskResult { return taskResult{newTask(k)} }

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
