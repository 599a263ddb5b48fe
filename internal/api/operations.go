package api

import (
	"context"
	"encoding/json"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

const (
	lightsailPrefix = "Lightsail_20161128."
	trysailPrefix   = "Trysail_20261120."
)

// operation is one entry of the table: what an X-Amz-Target means.
type operation struct {
	prefix string
	name   string
	// since is the version of Trysail that serves it first; empty while none does.
	since   string
	mutates bool // changes something, so that it is logged
	serve   func(ctx context.Context, caller trysail.Caller, m members) (any, error)
}

func (op operation) target() string { return op.prefix + op.name }

// reading and changing make entries of operations that are served: read turns the request into control's input, do
// carries it out, answer turns its output into the response.
func reading[In, Out, Answer any](name, since string, read func(members) In,
	do func(context.Context, trysail.Caller, In) (Out, error), answer func(Out) Answer,
) operation {
	return operation{prefix: lightsailPrefix, name: name, since: since, serve: func(ctx context.Context, caller trysail.Caller, m members) (any, error) {
		in := read(m)
		if err := m.err(); err != nil {
			return nil, err
		}
		out, err := do(ctx, caller, in)
		if err != nil {
			return nil, err
		}
		return answer(out), nil
	}}
}

func changing[In, Out, Answer any](name, since string, read func(members) In,
	do func(context.Context, trysail.Caller, In) (Out, error), answer func(Out) Answer,
) operation {
	op := reading(name, since, read, do, answer)
	op.mutates = true
	return op
}

// own makes the entry of an operation that AWS does not have.
func own(op operation) operation {
	op.prefix = trysailPrefix
	return op
}

// refused makes the entry of a Lightsail operation that is known, but not served.
func refused(name, format string) operation {
	err := trysail.Errorf(trysail.CodeUnsupported, format, name)
	return operation{prefix: lightsailPrefix, name: name, serve: func(context.Context, trysail.Caller, members) (any, error) { return nil, err }}
}

// operations is the table of all operations.
func operations(c Control, v view) []operation {
	return append(append(lightsailOperations(c, v), ownOperations(c, v)...), otherOperations()...)
}

// lightsailOperations are those that have to do with container services, in the order of the API's guide.
func lightsailOperations(c Control, v view) []operation {
	return []operation{
		changing("CreateContainerService", "0.1", readCreateService, c.CreateContainerService, v.serviceResult),
		reading("GetContainerServices", "0.1", readGetServices, c.GetContainerServices, v.servicesResult),
		changing("UpdateContainerService", "0.1", readUpdateService, c.UpdateContainerService, v.serviceResult),
		changing("DeleteContainerService", "0.1", readServiceName, noOutput(c.DeleteContainerService), empty),
		changing("CreateContainerServiceDeployment", "0.1", readCreateDeployment,
			func(ctx context.Context, caller trysail.Caller, in createDeploymentRequest) (*trysail.Service, error) {
				return c.CreateContainerServiceDeployment(ctx, caller, in.serviceName, in.deployment)
			}, v.serviceResult),
		reading("GetContainerServiceDeployments", "0.1", readServiceName, c.GetContainerServiceDeployments, v.deploymentsResult),
		reading("GetContainerLog", "0.1", readGetLog, c.GetContainerLog, v.logResult),
		reading("GetContainerServicePowers", "0.1", readNothing, asked[struct{}], func(struct{}) powersResult { return v.powersResult() }),
		reading("GetContainerAPIMetadata", "0.1", readNothing, asked[struct{}], func(struct{}) metadataResult { return v.metadataResult() }),
		changing("CreateContainerServiceRegistryLogin", "0.2", readNothing, func(ctx context.Context, caller trysail.Caller, _ struct{}) (*trysail.RegistryLogin, error) {
			return c.CreateContainerServiceRegistryLogin(ctx, caller)
		}, v.registryLoginResult),
		changing("RegisterContainerImage", "0.2", readRegisterImage, c.RegisterContainerImage, v.imageResult),
		reading("GetContainerImages", "0.2", readServiceName, c.GetContainerImages, v.imagesResult),
		changing("DeleteContainerImage", "0.2", readDeleteImage, noOutput(c.DeleteContainerImage), empty),
		reading("GetContainerServiceMetricData", "0.3", readMetricData, c.GetContainerServiceMetricData, v.metricDataResult),
		changing("CreateCertificate", "0.5", readCreateCertificate, c.CreateCertificate, v.createCertificateResult),
		reading("GetCertificates", "0.5", readGetCertificates, c.GetCertificates, v.certificatesResult),
		changing("DeleteCertificate", "0.5", readCertificateName, c.DeleteCertificate, v.deleteCertificateResult),
		changing("TagResource", "0.1", readTag, func(ctx context.Context, caller trysail.Caller, in tagRequest) ([]trysail.Operation, error) {
			return c.TagResource(ctx, caller, in.resourceName, in.resourceARN, in.tags)
		}, v.operationsResult),
		changing("UntagResource", "0.1", readUntag, func(ctx context.Context, caller trysail.Caller, in tagRequest) ([]trysail.Operation, error) {
			return c.UntagResource(ctx, caller, in.resourceName, in.resourceARN, in.keys)
		}, v.operationsResult),
		reading("GetRegions", "0.1", readGetRegions, asked[bool], v.regionsResult),
		reading("GetOperation", "0.2", readGetOperation, c.GetOperation, v.operationResult),
		reading("GetOperations", "0.2", readPageToken, c.GetOperations, v.operationPageResult),
		reading("GetOperationsForResource", "0.2", readResourceOperations, func(ctx context.Context, caller trysail.Caller, in resourceOperationsRequest) (*control.OperationPage, error) {
			return c.GetOperationsForResource(ctx, caller, in.resourceName, in.pageToken)
		}, v.operationPageResult),
	}
}

// ownOperations are those that AWS does not have.
func ownOperations(c Control, v view) []operation {
	return []operation{
		own(reading("GetDeploymentDiagnosis", "0.1", readDiagnosis, func(ctx context.Context, caller trysail.Caller, in diagnosisRequest) (*trysail.Diagnosis, error) {
			return c.GetDeploymentDiagnosis(ctx, caller, in.serviceName, in.version)
		}, v.diagnosisResult)),
		own(reading("GetDeploymentRecord", "0.2", readDiagnosis, func(ctx context.Context, caller trysail.Caller, in diagnosisRequest) (json.RawMessage, error) {
			r, err := c.GetDeploymentRecord(ctx, caller, in.serviceName, in.version)
			if err != nil {
				return nil, err
			}
			return recordResult(r)
		}, func(masked json.RawMessage) json.RawMessage { return masked })),
		own(changing("HoldDeployment", "0.2", readHold, noOutput(c.HoldDeployment), empty)),
		own(changing("CancelDeployment", "0.2", readServiceName, noOutput(c.CancelDeployment), empty)),
		own(reading("GetServiceMetricData", "0.3", readServiceMetrics, c.GetServiceMetricData, v.serviceMetricsResult)),
		own(reading("ListAccessKeys", "0.1", readNothing, func(ctx context.Context, caller trysail.Caller, _ struct{}) ([]control.AccessKey, error) {
			return c.ListAccessKeys(ctx, caller)
		}, v.accessKeysResult)),
		own(changing("CreateAccessKey", "0.1", readCreateKey, c.CreateAccessKey, v.accessKeyResult)),
		own(changing("DeleteAccessKey", "0.1", readDeleteKey, noOutput(c.DeleteAccessKey), empty)),
		own(reading("GetAuditTrail", "0.7", readAuditTrail, c.GetAuditTrail, v.auditResult)),
		own(reading("GetDomains", "0.5", readGetDomains, c.GetDomains, v.domainsResult)),
		own(reading("CheckDomain", "0.5", readCheckDomain, c.CheckDomain, v.domainResult)),
		own(reading("CheckDeployment", "0.2", readCheckDeployment, c.CheckDeployment, v.checkResult)),
		own(reading("ListPods", "0.2", readListPods, c.ListPods, v.podsResult)),
		own(changing("CreateExecSession", "0.6", readExecSession, c.CreateExecSession, v.execSessionResult)),
		own(changing("CreateTask", "0.6", readCreateTask, c.CreateTask, v.taskResult)),
		own(reading("GetTask", "0.6", readTask, func(ctx context.Context, caller trysail.Caller, in taskRequest) (*trysail.Task, error) {
			return c.GetTask(ctx, caller, in.serviceName, in.id)
		}, v.taskResult)),
		own(reading("ListTasks", "0.7", readServiceName, c.ListTasks, v.tasksResult)),
		own(changing("StopTask", "0.6", readTask, noOutput(func(ctx context.Context, caller trysail.Caller, in taskRequest) error {
			return c.StopTask(ctx, caller, in.serviceName, in.id)
		}), empty)),
		own(reading("GetPodLog", "0.3", readGetPodLog, c.GetPodLog, v.podLogResult)),
		own(reading("GetAccessLog", "0.3", readGetAccessLog, c.GetAccessLog, v.logResult)),
		own(reading("GetServiceSettings", "0.3", readServiceName, c.GetServiceSettings, v.settingsResult)),
		own(changing("PutServiceSettings", "0.3", readPutSettings, c.PutServiceSettings, v.settingsResult)),
		own(reading("ListForwards", "0.7", readNothing, func(ctx context.Context, caller trysail.Caller, _ struct{}) ([]control.ServiceForward, error) {
			return c.ListForwards(ctx, caller)
		}, v.forwardsResult)),
		own(changing("ForwardService", "0.7", readForward, c.ForwardService, v.forwardResult)),
		own(changing("ExportRows", "0.7", readExportRows, c.ExportRows, v.exportRowsResult)), // not changing anything, but worth a line
		own(changing("ImportRows", "0.7", readImportRows, c.ImportRows, v.importRowsResult)),
		own(reading("ListMovingFiles", "0.7", readListFiles, c.ListMovingFiles, v.filesResult)),
		own(reading("ReadMovingFile", "0.7", readReadFile, c.ReadMovingFile, v.fileResult)),
		own(changing("WriteMovingFile", "0.7", readWriteFile, noOutput(c.WriteMovingFile), empty)),
		own(reading("ListNodes", "0.7", readNothing, func(ctx context.Context, caller trysail.Caller, _ struct{}) ([]control.Node, error) {
			return c.ListNodes(ctx, caller)
		}, v.nodesResult)),
		own(changing("CordonNode", "0.7", readNodeName, c.CordonNode, v.nodeResult)),
		own(changing("UncordonNode", "0.7", readNodeName, c.UncordonNode, v.nodeResult)),
		own(reading("ListNodeImages", "0.2", readNothing, func(ctx context.Context, caller trysail.Caller, _ struct{}) (*control.NodeImages, error) {
			return c.ListNodeImages(ctx, caller)
		}, v.nodeImagesResult)),
		own(changing("PutRegistry", "0.2", readPutRegistry, c.PutRegistry, v.registryResult)),
		own(reading("ListRegistries", "0.2", readNothing, func(ctx context.Context, caller trysail.Caller, _ struct{}) ([]control.Registry, error) {
			return c.ListRegistries(ctx, caller)
		}, v.registriesResult)),
		own(changing("DeleteRegistry", "0.2", readDeleteRegistry, noOutput(c.DeleteRegistry), empty)),
	}
}

// noOutput adapts a method of control that returns nothing but an error.
func noOutput[In any](do func(context.Context, trysail.Caller, In) error) func(context.Context, trysail.Caller, In) (struct{}, error) {
	return func(ctx context.Context, caller trysail.Caller, in In) (struct{}, error) {
		return struct{}{}, do(ctx, caller, in)
	}
}

// asked is what operations do whose answer is always the same: the question is the answer's input.
func asked[In any](_ context.Context, _ trysail.Caller, in In) (In, error) { return in, nil }

// empty is the answer {}.
func empty(struct{}) struct{} { return struct{}{} }

// otherOperations are those of Lightsail that have nothing to do with containers. They are listed so that they get an
// answer that says so, and not that they do not exist; a test compares the list with the SDK's.
func otherOperations() []operation {
	names := [...]string{
		"AllocateStaticIp", "AttachCertificateToDistribution", "AttachDisk", "AttachInstancesToLoadBalancer",
		"AttachLoadBalancerTlsCertificate", "AttachStaticIp", "CloseInstancePublicPorts", "CopySnapshot",
		"CreateBucket", "CreateBucketAccessKey", "CreateCloudFormationStack", "CreateContactMethod", "CreateDisk",
		"CreateDiskFromSnapshot", "CreateDiskSnapshot", "CreateDistribution", "CreateDomain", "CreateDomainEntry",
		"CreateGUISessionAccessDetails", "CreateInstanceSnapshot", "CreateInstances", "CreateInstancesFromSnapshot",
		"CreateKeyPair", "CreateLoadBalancer", "CreateLoadBalancerTlsCertificate", "CreateRelationalDatabase",
		"CreateRelationalDatabaseFromSnapshot", "CreateRelationalDatabaseSnapshot", "DeleteAlarm",
		"DeleteAutoSnapshot", "DeleteBucket", "DeleteBucketAccessKey", "DeleteContactMethod", "DeleteDisk",
		"DeleteDiskSnapshot", "DeleteDistribution", "DeleteDomain", "DeleteDomainEntry", "DeleteInstance",
		"DeleteInstanceSnapshot", "DeleteKeyPair", "DeleteKnownHostKeys", "DeleteLoadBalancer",
		"DeleteLoadBalancerTlsCertificate", "DeleteRelationalDatabase", "DeleteRelationalDatabaseSnapshot",
		"DetachCertificateFromDistribution", "DetachDisk", "DetachInstancesFromLoadBalancer", "DetachStaticIp",
		"DisableAddOn", "DownloadDefaultKeyPair", "EnableAddOn", "ExportSnapshot", "GetActiveNames", "GetAlarms",
		"GetAutoSnapshots", "GetBlueprints", "GetBucketAccessKeys", "GetBucketBundles", "GetBucketMetricData",
		"GetBuckets", "GetBundles", "GetCloudFormationStackRecords", "GetContactMethods", "GetCostEstimate", "GetDisk",
		"GetDiskSnapshot", "GetDiskSnapshots", "GetDisks", "GetDistributionBundles", "GetDistributionLatestCacheReset",
		"GetDistributionMetricData", "GetDistributions", "GetDomain", "GetDomains", "GetExportSnapshotRecords",
		"GetInstance", "GetInstanceAccessDetails", "GetInstanceMetricData", "GetInstancePortStates",
		"GetInstanceSnapshot", "GetInstanceSnapshots", "GetInstanceState", "GetInstances", "GetKeyPair", "GetKeyPairs",
		"GetLoadBalancer", "GetLoadBalancerMetricData", "GetLoadBalancerTlsCertificates", "GetLoadBalancerTlsPolicies",
		"GetLoadBalancers", "GetProfile", "GetRelationalDatabase", "GetRelationalDatabaseBlueprints",
		"GetRelationalDatabaseBundles", "GetRelationalDatabaseEvents", "GetRelationalDatabaseLogEvents",
		"GetRelationalDatabaseLogStreams", "GetRelationalDatabaseMasterUserPassword",
		"GetRelationalDatabaseMetricData", "GetRelationalDatabaseParameters", "GetRelationalDatabaseSnapshot",
		"GetRelationalDatabaseSnapshots", "GetRelationalDatabases", "GetSetupHistory", "GetStaticIp", "GetStaticIps",
		"ImportKeyPair", "IsVpcPeered", "OpenInstancePublicPorts", "PeerVpc", "PutAlarm", "PutInstancePublicPorts",
		"RebootInstance", "RebootRelationalDatabase", "ReleaseStaticIp", "ResetDistributionCache",
		"SendContactMethodVerification", "SetIpAddressType", "SetResourceAccessForBucket", "SetupInstanceHttps",
		"StartGUISession", "StartInstance", "StartRelationalDatabase", "StopGUISession", "StopInstance",
		"StopRelationalDatabase", "TestAlarm", "UnpeerVpc", "UpdateBucket", "UpdateBucketBundle", "UpdateDistribution",
		"UpdateDistributionBundle", "UpdateDomainEntry", "UpdateInstanceMetadataOptions",
		"UpdateLoadBalancerAttribute", "UpdateRelationalDatabase", "UpdateRelationalDatabaseParameters",
	}
	var out []operation
	for _, name := range names {
		out = append(out, refused(name, "Trysail serves container services only: %s is not available."))
	}
	return out
}
