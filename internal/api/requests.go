package api

import (
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// The functions of this file read the requests. Whether a value is allowed is control's business.

func readCreateService(m members) control.CreateContainerServiceInput {
	m.require("serviceName", "power", "scale")
	in := control.CreateContainerServiceInput{
		ServiceName:       zeroIfNil(m.string("serviceName")),
		Power:             zeroIfNil(m.string("power")),
		Scale:             zeroIfNil(m.int("scale")),
		Tags:              readTags(m),
		PublicDomainNames: readPublicDomainNames(m),
		ECRPuller:         readECRPuller(m),
	}
	if d, ok := m.object("deployment"); ok {
		deployment := readDeployment(d)
		in.Deployment = &deployment
	}
	return in
}

func readUpdateService(m members) control.UpdateContainerServiceInput {
	m.require("serviceName")
	return control.UpdateContainerServiceInput{
		ServiceName:       zeroIfNil(m.string("serviceName")),
		Power:             m.string("power"),
		Scale:             m.int("scale"),
		IsDisabled:        m.bool("isDisabled"),
		PublicDomainNames: readPublicDomainNames(m),
		ECRPuller:         readECRPuller(m),
	}
}

// readGetServices returns "" for all services. An empty name is refused: it is a script's unset variable, and a
// script that gets all services where it wanted one does harm.
func readGetServices(m members) string {
	name := m.string("serviceName")
	if name != nil && *name == "" {
		m.fail(trysail.Errorf(trysail.CodeInvalid, `Member "serviceName" must not be empty. Leave it out to get all services.`))
	}
	return zeroIfNil(name)
}

// readServiceName is the request of operations that take nothing else.
func readServiceName(m members) string {
	return zeroIfNil(m.require("serviceName").string("serviceName"))
}

type createDeploymentRequest struct {
	serviceName string
	deployment  control.DeploymentInput
}

func readCreateDeployment(m members) createDeploymentRequest {
	m.require("serviceName")
	return createDeploymentRequest{zeroIfNil(m.string("serviceName")), readDeployment(m)}
}

func readGetLog(m members) control.GetContainerLogInput {
	in := readGetAccessLog(m.require("serviceName", "containerName"))
	in.ContainerName = zeroIfNil(m.string("containerName"))
	return in
}

func readGetAccessLog(m members) control.GetContainerLogInput {
	m.require("serviceName")
	return control.GetContainerLogInput{
		ServiceName:   zeroIfNil(m.string("serviceName")),
		StartTime:     m.time("startTime"),
		EndTime:       m.time("endTime"),
		FilterPattern: zeroIfNil(m.string("filterPattern")),
		PageToken:     zeroIfNil(m.string("pageToken")),
	}
}

func readGetPodLog(m members) control.GetPodLogInput {
	return control.GetPodLogInput{
		GetContainerLogInput: readGetLog(m), PodID: zeroIfNil(m.string("podId")), Version: zeroIfNil(m.int("version")), Previous: zeroIfNil(m.bool("previous")),
	}
}

func readPutSettings(m members) control.PutServiceSettingsInput {
	m.require("serviceName", "settings")
	in := control.PutServiceSettingsInput{ServiceName: zeroIfNil(m.string("serviceName"))}
	if s, ok := m.object("settings"); ok {
		in.AccessLog, in.AccessLogHealthChecks = s.bool("accessLog"), s.bool("accessLogHealthChecks")
		in.EdgeRulesInput = readEdgeRules(s)
	}
	return in
}

func readEdgeRules(m members) control.EdgeRulesInput {
	return control.EdgeRulesInput{
		HSTSMaxAge: m.int("hstsMaxAgeSeconds"), HSTSIncludeSubdomains: m.bool("hstsIncludeSubdomains"), HSTSPreload: m.bool("hstsPreload"),
		AllowClients: m.strings("allowClients"), DenyClients: m.strings("denyClients"),
		MaxBody: m.long("maxBodyBytes"), RequestsPerMinute: m.int("requestsPerMinute"), RequestBurst: m.int("requestBurst"),
		MaxRequestsAtOnce: m.int("maxRequestsAtOnce"), MaxRequestsAtOncePerClient: m.int("maxRequestsAtOncePerClient"),
		ErrorPages: stringMap[string](m, "errorPages"),
	}
}

type tagRequest struct {
	resourceName string
	resourceARN  *string
	tags         []trysail.Tag // of TagResource
	keys         []string      // of UntagResource
}

func readTag(m members) tagRequest {
	m.require("resourceName", "tags")
	return tagRequest{resourceName: zeroIfNil(m.string("resourceName")), resourceARN: m.string("resourceArn"), tags: readTags(m)}
}

func readUntag(m members) tagRequest {
	m.require("resourceName", "tagKeys")
	return tagRequest{resourceName: zeroIfNil(m.string("resourceName")), resourceARN: m.string("resourceArn"), keys: m.strings("tagKeys")}
}

// readGetRegions reports whether availability zones are wanted. There are no relational databases whose zones could be.
func readGetRegions(m members) bool {
	m.bool("includeRelationalDatabaseAvailabilityZones")
	return zeroIfNil(m.bool("includeAvailabilityZones"))
}

func readGetOperation(m members) string {
	return zeroIfNil(m.require("operationId").string("operationId"))
}

func readPageToken(m members) string { return zeroIfNil(m.string("pageToken")) }

type resourceOperationsRequest struct{ resourceName, pageToken string }

func readResourceOperations(m members) resourceOperationsRequest {
	m.require("resourceName")
	return resourceOperationsRequest{zeroIfNil(m.string("resourceName")), zeroIfNil(m.string("pageToken"))}
}

type diagnosisRequest struct {
	serviceName string
	version     int // 0: the newest failed one
}

func readDiagnosis(m members) diagnosisRequest {
	m.require("serviceName")
	version := m.int("version")
	if version != nil && *version < 1 {
		m.fail(trysail.Errorf(trysail.CodeInvalid, `Member "version" must be at least 1, not %d.`, *version))
	}
	return diagnosisRequest{zeroIfNil(m.string("serviceName")), zeroIfNil(version)}
}

func readHold(m members) control.HoldDeploymentInput {
	m.require("serviceName", "seconds")
	return control.HoldDeploymentInput{ServiceName: zeroIfNil(m.string("serviceName")), Hold: time.Duration(zeroIfNil(m.int("seconds"))) * time.Second}
}

func readCheckDeployment(m members) control.CheckDeploymentInput {
	return control.CheckDeploymentInput{ServiceName: zeroIfNil(m.string("serviceName")), Deployment: readDeployment(m)}
}

func readListPods(m members) control.ListPodsInput {
	m.require("serviceName")
	return control.ListPodsInput{ServiceName: zeroIfNil(m.string("serviceName")), Version: zeroIfNil(m.int("version")), Ended: zeroIfNil(m.bool("ended"))}
}

func readCreateKey(m members) control.CreateAccessKeyInput {
	return control.CreateAccessKeyInput{
		Name: zeroIfNil(m.require("name").string("name")), Role: trysail.Role(zeroIfNil(m.string("role"))), Services: m.strings("serviceNames"),
	}
}

func readDeleteKey(m members) string {
	return zeroIfNil(m.require("accessKeyId").string("accessKeyId"))
}

func readRegisterImage(m members) control.RegisterContainerImageInput {
	m.require("serviceName", "label", "digest")
	return control.RegisterContainerImageInput{
		ServiceName: zeroIfNil(m.string("serviceName")), Label: zeroIfNil(m.string("label")), Digest: zeroIfNil(m.string("digest")),
	}
}

func readDeleteImage(m members) control.DeleteContainerImageInput {
	m.require("serviceName", "image")
	return control.DeleteContainerImageInput{ServiceName: zeroIfNil(m.string("serviceName")), Image: zeroIfNil(m.string("image"))}
}

func readPutRegistry(m members) control.PutRegistryInput {
	m.require("host")
	in := control.PutRegistryInput{
		Host: zeroIfNil(m.string("host")), Username: m.string("username"), Secret: m.string("secret"), CA: m.string("ca"), PlainHTTP: m.bool("plainHttp"),
	}
	if _, sent := m.values["mirrors"]; sent {
		mirrors := m.strings("mirrors")
		in.Mirrors = &mirrors
	}
	return in
}

func readDeleteRegistry(m members) string { return zeroIfNil(m.require("host").string("host")) }

func readNothing(members) struct{} { return struct{}{} }

func readTags(m members) []trysail.Tag {
	var out []trysail.Tag
	m.list("tags", func(e members, element string) {
		if tag, ok := e.object(element); ok {
			out = append(out, trysail.Tag{Key: zeroIfNil(tag.string("key")), Value: zeroIfNil(tag.string("value"))})
		}
	})
	return out
}

func readPublicDomainNames(m members) map[string][]string {
	o, ok := m.object("publicDomainNames")
	if !ok {
		return nil
	}
	out := make(map[string][]string, len(o.values))
	for _, certificate := range o.names() {
		out[certificate] = o.strings(certificate)
	}
	return out
}

func readECRPuller(m members) *bool {
	access, _ := m.object("privateRegistryAccess")
	role, _ := access.object("ecrImagePullerRole")
	return role.bool("isActive")
}

func readDeployment(m members) control.DeploymentInput {
	in := control.DeploymentInput{Containers: readContainers(m)}
	if e, ok := m.object("publicEndpoint"); ok {
		e.require("containerName", "containerPort")
		in.PublicEndpoint = &control.EndpointInput{
			ContainerName: zeroIfNil(e.string("containerName")),
			ContainerPort: zeroIfNil(e.int("containerPort")),
			HealthCheck:   readHealthCheck(e),
		}
	}
	return in
}

func readContainers(m members) map[string]trysail.Container {
	o, ok := m.object("containers")
	if !ok {
		return nil
	}
	out := make(map[string]trysail.Container, len(o.values))
	for _, name := range o.names() {
		c, _ := o.object(name)
		out[name] = trysail.Container{
			Image:       zeroIfNil(c.string("image")),
			Command:     c.strings("command"),
			Environment: stringMap[string](c, "environment"),
			Ports:       stringMap[trysail.Protocol](c, "ports"),
		}
	}
	return out
}

func readHealthCheck(m members) *control.HealthCheckInput {
	h, ok := m.object("healthCheck")
	if !ok {
		return nil
	}
	return &control.HealthCheckInput{
		HealthyThreshold:   h.int("healthyThreshold"),
		UnhealthyThreshold: h.int("unhealthyThreshold"),
		TimeoutSeconds:     h.int("timeoutSeconds"),
		IntervalSeconds:    h.int("intervalSeconds"),
		Path:               h.string("path"),
		SuccessCodes:       h.string("successCodes"),
	}
}

func readExecSession(m members) control.CreateExecSessionInput {
	m.require("serviceName", "command")
	return control.CreateExecSessionInput{
		ServiceName: zeroIfNil(m.string("serviceName")), PodID: zeroIfNil(m.string("podId")), Version: zeroIfNil(m.int("version")),
		ContainerName: zeroIfNil(m.string("containerName")), Command: m.strings("command"), TTY: zeroIfNil(m.bool("tty")),
	}
}

func readCreateTask(m members) control.CreateTaskInput {
	m.require("serviceName", "command")
	return control.CreateTaskInput{
		ServiceName: zeroIfNil(m.string("serviceName")), Version: zeroIfNil(m.int("version")), ContainerName: zeroIfNil(m.string("containerName")),
		Command: m.strings("command"), Timeout: time.Duration(zeroIfNil(m.int("timeoutSeconds"))) * time.Second,
	}
}

type taskRequest struct{ serviceName, id string }

func readTask(m members) taskRequest {
	m.require("serviceName", "taskId")
	return taskRequest{zeroIfNil(m.string("serviceName")), zeroIfNil(m.string("taskId"))}
}
