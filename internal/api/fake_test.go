package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

const (
	testKey    = "TSAKTEST"
	testSecret = "a secret of the tests"
)

var (
	testCaller = trysail.Caller{AccessKeyID: testKey, Name: "admin", Role: trysail.RoleAdmin}
	testConfig = Config{Region: "eu-central-1", Account: "111122223333", Domain: "example.test", EdgePort: ":8443"}
)

// fake is a control made of functions. It knows one access key.
type fake struct {
	createService func(control.CreateContainerServiceInput) (*trysail.Service, error)
	getServices   func(string) ([]trysail.Service, error)
	updateService func(control.UpdateContainerServiceInput) (*trysail.Service, error)
	deleteService func(string) error
	deploy        func(string, control.DeploymentInput) (*trysail.Service, error)
	deployments   func(string) ([]trysail.Deployment, error)
	metricData    func(control.GetContainerServiceMetricDataInput) (*control.MetricData, error)
	metrics       func(control.GetServiceMetricDataInput) (*control.ServiceMetrics, error)
	log           func(control.GetContainerLogInput) (*control.LogPage, error)
	podLog        func(control.GetPodLogInput) (*control.LogPage, error)
	accessLog     func(control.GetContainerLogInput) (*control.LogPage, error)
	settings      func(string) (trysail.ServiceSettings, error)
	putSettings   func(control.PutServiceSettingsInput) (trysail.ServiceSettings, error)
	tag           func(string, *string, []trysail.Tag) ([]trysail.Operation, error)
	untag         func(string, *string, []string) ([]trysail.Operation, error)
	diagnosis     func(string, int) (*trysail.Diagnosis, error)
	record        func(string, int) (*control.DeploymentRecord, error)
	hold          func(control.HoldDeploymentInput) error
	cancel        func(string) error
	keys          func() ([]control.AccessKey, error)
	createKey     func(control.CreateAccessKeyInput) (*control.AccessKey, error)
	deleteKey     func(string) error
	audit         func(control.GetAuditTrailInput) (*control.AuditPage, error)
	failure       func(caller trysail.Caller, operation, resource, exception string, cause error)
	operation     func(string) (trysail.Operation, error)
	operations    func(resource, token string) (*control.OperationPage, error)
	login         func() (*trysail.RegistryLogin, error)
	register      func(control.RegisterContainerImageInput) (*trysail.RegisteredImage, error)
	images        func(string) ([]trysail.RegisteredImage, error)
	deleteImage   func(control.DeleteContainerImageInput) error
	check         func(control.CheckDeploymentInput) (*control.Check, error)
	pods          func(control.ListPodsInput) ([]trysail.PodRecord, error)
	execSession   func(control.CreateExecSessionInput) (*trysail.ExecSession, error)
	createTask    func(control.CreateTaskInput) (*trysail.Task, error)
	task          func(service, id string) (*trysail.Task, error)
	stopTask      func(service, id string) error
	nodeImages    func() (*control.NodeImages, error)
	nodes         func() ([]control.Node, error)
	forwards      func() ([]control.ServiceForward, error)
	forward       func(control.ForwardServiceInput) (*control.ServiceForward, error)
	exportRows    func(control.ExportRowsInput) (*control.MovingRows, error)
	importRows    func(control.ImportRowsInput) (int, error)
	files         func(control.ListMovingFilesInput) (*control.MovingFilePage, error)
	readFile      func(control.ReadMovingFileInput) (*control.MovingChunk, error)
	writeFile     func(control.WriteMovingFileInput) error
	cordon        func(name string, cordoned bool) (*control.Node, error)
	putRegistry   func(control.PutRegistryInput) (control.Registry, error)
	registries    func() ([]control.Registry, error)
	deleteReg     func(string) error
	createCert    func(control.CreateCertificateInput) (*control.CertificateOperation, error)
	getCerts      func(control.GetCertificatesInput) (*control.CertificatePage, error)
	deleteCert    func(string) (*control.CertificateOperation, error)
	domains       func(string) ([]trysail.DomainView, error)
	checkDomain   func(string) (*trysail.DomainView, error)
	identify      func(string) (string, trysail.Caller, bool, error)
}

func (f *fake) CreateContainerService(_ context.Context, _ trysail.Caller, in control.CreateContainerServiceInput) (*trysail.Service, error) {
	return f.createService(in)
}

func (f *fake) GetContainerServices(_ context.Context, _ trysail.Caller, name string) ([]trysail.Service, error) {
	return f.getServices(name)
}

func (f *fake) UpdateContainerService(_ context.Context, _ trysail.Caller, in control.UpdateContainerServiceInput) (*trysail.Service, error) {
	return f.updateService(in)
}

func (f *fake) DeleteContainerService(_ context.Context, _ trysail.Caller, name string) error {
	return f.deleteService(name)
}

func (f *fake) CreateCertificate(_ context.Context, _ trysail.Caller, in control.CreateCertificateInput) (*control.CertificateOperation, error) {
	return f.createCert(in)
}

func (f *fake) GetCertificates(_ context.Context, _ trysail.Caller, in control.GetCertificatesInput) (*control.CertificatePage, error) {
	return f.getCerts(in)
}

func (f *fake) DeleteCertificate(_ context.Context, _ trysail.Caller, name string) (*control.CertificateOperation, error) {
	return f.deleteCert(name)
}

func (f *fake) GetDomains(_ context.Context, _ trysail.Caller, service string) ([]trysail.DomainView, error) {
	return f.domains(service)
}

func (f *fake) CheckDomain(_ context.Context, _ trysail.Caller, name string) (*trysail.DomainView, error) {
	return f.checkDomain(name)
}

func (f *fake) CreateContainerServiceDeployment(_ context.Context, _ trysail.Caller, name string, in control.DeploymentInput) (*trysail.Service, error) {
	return f.deploy(name, in)
}

func (f *fake) GetContainerServiceDeployments(_ context.Context, _ trysail.Caller, name string) ([]trysail.Deployment, error) {
	return f.deployments(name)
}

func (f *fake) GetContainerServiceMetricData(_ context.Context, _ trysail.Caller, in control.GetContainerServiceMetricDataInput) (*control.MetricData, error) {
	return f.metricData(in)
}

func (f *fake) GetServiceMetricData(_ context.Context, _ trysail.Caller, in control.GetServiceMetricDataInput) (*control.ServiceMetrics, error) {
	return f.metrics(in)
}

func (f *fake) GetContainerLog(_ context.Context, _ trysail.Caller, in control.GetContainerLogInput) (*control.LogPage, error) {
	return f.log(in)
}

func (f *fake) TagResource(_ context.Context, _ trysail.Caller, name string, arn *string, tags []trysail.Tag) ([]trysail.Operation, error) {
	return f.tag(name, arn, tags)
}

func (f *fake) UntagResource(_ context.Context, _ trysail.Caller, name string, arn *string, keys []string) ([]trysail.Operation, error) {
	return f.untag(name, arn, keys)
}

func (f *fake) GetDeploymentDiagnosis(_ context.Context, _ trysail.Caller, name string, version int) (*trysail.Diagnosis, error) {
	return f.diagnosis(name, version)
}

func (f *fake) GetDeploymentRecord(_ context.Context, _ trysail.Caller, name string, version int) (*control.DeploymentRecord, error) {
	return f.record(name, version)
}

func (f *fake) HoldDeployment(_ context.Context, _ trysail.Caller, in control.HoldDeploymentInput) error {
	return f.hold(in)
}

func (f *fake) CancelDeployment(_ context.Context, _ trysail.Caller, name string) error {
	return f.cancel(name)
}

func (f *fake) RecordFailure(_ context.Context, caller trysail.Caller, operation, resource, exception string, cause error) {
	if f.failure != nil {
		f.failure(caller, operation, resource, exception, cause)
	}
}

func (f *fake) GetAuditTrail(_ context.Context, _ trysail.Caller, in control.GetAuditTrailInput) (*control.AuditPage, error) {
	if f.audit == nil {
		return &control.AuditPage{}, nil
	}
	return f.audit(in)
}

func (f *fake) ListAccessKeys(context.Context, trysail.Caller) ([]control.AccessKey, error) {
	return f.keys()
}

func (f *fake) CreateAccessKey(_ context.Context, _ trysail.Caller, in control.CreateAccessKeyInput) (*control.AccessKey, error) {
	return f.createKey(in)
}

func (f *fake) DeleteAccessKey(_ context.Context, _ trysail.Caller, id string) error {
	return f.deleteKey(id)
}

func (f *fake) GetOperation(_ context.Context, _ trysail.Caller, id string) (trysail.Operation, error) {
	return f.operation(id)
}

func (f *fake) GetOperations(_ context.Context, _ trysail.Caller, token string) (*control.OperationPage, error) {
	return f.operations("", token)
}

func (f *fake) GetOperationsForResource(_ context.Context, _ trysail.Caller, resource, token string) (*control.OperationPage, error) {
	return f.operations(resource, token)
}

func (f *fake) CreateContainerServiceRegistryLogin(context.Context, trysail.Caller) (*trysail.RegistryLogin, error) {
	return f.login()
}

func (f *fake) RegisterContainerImage(_ context.Context, _ trysail.Caller, in control.RegisterContainerImageInput) (*trysail.RegisteredImage, error) {
	return f.register(in)
}

func (f *fake) GetContainerImages(_ context.Context, _ trysail.Caller, name string) ([]trysail.RegisteredImage, error) {
	return f.images(name)
}

func (f *fake) DeleteContainerImage(_ context.Context, _ trysail.Caller, in control.DeleteContainerImageInput) error {
	return f.deleteImage(in)
}

func (f *fake) CheckDeployment(_ context.Context, _ trysail.Caller, in control.CheckDeploymentInput) (*control.Check, error) {
	return f.check(in)
}

func (f *fake) GetPodLog(_ context.Context, _ trysail.Caller, in control.GetPodLogInput) (*control.LogPage, error) {
	return f.podLog(in)
}

func (f *fake) GetAccessLog(_ context.Context, _ trysail.Caller, in control.GetContainerLogInput) (*control.LogPage, error) {
	return f.accessLog(in)
}

func (f *fake) GetServiceSettings(_ context.Context, _ trysail.Caller, name string) (trysail.ServiceSettings, error) {
	return f.settings(name)
}

func (f *fake) PutServiceSettings(_ context.Context, _ trysail.Caller, in control.PutServiceSettingsInput) (trysail.ServiceSettings, error) {
	return f.putSettings(in)
}

func (f *fake) ListPods(_ context.Context, _ trysail.Caller, in control.ListPodsInput) ([]trysail.PodRecord, error) {
	return f.pods(in)
}

func (f *fake) ListForwards(context.Context, trysail.Caller) ([]control.ServiceForward, error) {
	return f.forwards()
}

func (f *fake) ForwardService(_ context.Context, _ trysail.Caller, in control.ForwardServiceInput) (*control.ServiceForward, error) {
	return f.forward(in)
}

func (f *fake) ExportRows(_ context.Context, _ trysail.Caller, in control.ExportRowsInput) (*control.MovingRows, error) {
	return f.exportRows(in)
}

func (f *fake) ImportRows(_ context.Context, _ trysail.Caller, in control.ImportRowsInput) (int, error) {
	return f.importRows(in)
}

func (f *fake) ListMovingFiles(_ context.Context, _ trysail.Caller, in control.ListMovingFilesInput) (*control.MovingFilePage, error) {
	return f.files(in)
}

func (f *fake) ReadMovingFile(_ context.Context, _ trysail.Caller, in control.ReadMovingFileInput) (*control.MovingChunk, error) {
	return f.readFile(in)
}

func (f *fake) WriteMovingFile(_ context.Context, _ trysail.Caller, in control.WriteMovingFileInput) error {
	return f.writeFile(in)
}

func (f *fake) ListNodes(context.Context, trysail.Caller) ([]control.Node, error) { return f.nodes() }

func (f *fake) CordonNode(_ context.Context, _ trysail.Caller, name string) (*control.Node, error) {
	return f.cordon(name, true)
}

func (f *fake) UncordonNode(_ context.Context, _ trysail.Caller, name string) (*control.Node, error) {
	return f.cordon(name, false)
}

func (f *fake) ListNodeImages(context.Context, trysail.Caller) (*control.NodeImages, error) {
	return f.nodeImages()
}

func (f *fake) PutRegistry(_ context.Context, _ trysail.Caller, in control.PutRegistryInput) (control.Registry, error) {
	return f.putRegistry(in)
}

func (f *fake) ListRegistries(context.Context, trysail.Caller) ([]control.Registry, error) {
	return f.registries()
}

func (f *fake) DeleteRegistry(_ context.Context, _ trysail.Caller, host string) error {
	return f.deleteReg(host)
}

func (f *fake) Identify(_ context.Context, id string) (string, trysail.Caller, bool, error) {
	if f.identify != nil {
		return f.identify(id)
	}
	if id != testKey {
		return "", trysail.Caller{}, false, nil
	}
	return testSecret, testCaller, true, nil
}

// fullService has a value in every field.
func fullService() trysail.Service {
	at := time.UnixMilli(1652233466250)
	return trysail.Service{
		ID: "5a302d1b-8c1f-4f0e-9f43-1c2d3e4f5a6b", Name: "web", CreatedAt: at, HostLabel: "90qakjuvfj4f8",
		Capacity: trysail.Capacity{Power: trysail.PowerSmall, Scale: 2},
		State:    trysail.ServiceDeploying, Detail: trysail.StateDetail{Code: trysail.DetailCreatingDeployment, Message: "starting"},
		Tags:      []trysail.Tag{{Key: "env", Value: "prod"}},
		ECRPuller: true, PublicDomains: map[string][]string{"cert": {"www.example.com"}},
		Current: fullDeployment(1, trysail.DeploymentActive, at),
		Next:    fullDeployment(2, trysail.DeploymentActivating, at),
	}
}

// fullCertificate has something in every member that a certificate can have; no real one has all at once.
func fullCertificate() trysail.Certificate {
	at := time.UnixMilli(1652233466250)
	leaf := &trysail.Leaf{
		Issuer: "Let's Encrypt", Authority: "https://acme.example/directory", Serial: "03:0a", KeyAlgorithm: "EC_prime256v1",
		NotBefore: at, NotAfter: at.Add(90 * 24 * time.Hour), IssuedAt: at, RevokedAt: at, Challenge: "http-01",
	}
	problem := &trysail.Finding{Code: trysail.CodeCertDNS, Summary: "www.example.com points to 203.0.113.9.", Fix: "Set the record."}
	return trysail.Certificate{
		ID: "0f6a1f8e-8c1f-4f0e-9f43-1c2d3e4f5a6b", Name: "cert", CreatedAt: at, IssuedAt: at, Tags: []trysail.Tag{{Key: "env", Value: "prod"}}, UsedBy: []string{"web"},
		Domains: []trysail.DomainCertificate{
			{Domain: "example.com", Token: "aa", Leaf: leaf, RenewAt: at, UpdatedAt: at},
			{Domain: "www.example.com", Token: "bb", Problem: problem, RenewAt: at, Refused: true, UpdatedAt: at},
		},
	}
}

func fullDeployment(version int, state trysail.DeploymentState, at time.Time) *trysail.Deployment {
	return &trysail.Deployment{
		Version: version, State: state, CreatedAt: at,
		Containers: map[string]trysail.Container{
			"app": {
				Image: "nginx:1", Command: []string{"nginx", "-g", "daemon off;"},
				Environment: map[string]string{"MODE": "<b> & co"}, Ports: map[string]trysail.Protocol{"80": trysail.ProtocolHTTP},
			},
		},
		PublicEndpoint: &trysail.PublicEndpoint{ContainerName: "app", ContainerPort: 80, HealthCheck: trysail.DefaultHealthCheck()},
	}
}

// newServer serves the API on loopback; its log goes to the test's.
func newServer(t *testing.T, f *fake) *httptest.Server {
	t.Helper()
	return newServerWith(t, f, testConfig, t.Output())
}

func newServerWith(t *testing.T, f *fake, cfg Config, log io.Writer) *httptest.Server {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	server := httptest.NewServer(New(cfg, f, logger))
	t.Cleanup(server.Close)
	return server
}

// newCall is a call that is not signed yet. A target without a dot is one of Lightsail's operations.
func newCall(url, target, body string) *http.Request {
	if !strings.Contains(target, ".") {
		target = lightsailPrefix + target
	}
	r, err := http.NewRequest(http.MethodPost, url+"/", strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("X-Amz-Target", target)
	return r
}

func sign(r *http.Request, body, key, secret string, at time.Time) *http.Request {
	sum := sha256.Sum256([]byte(body))
	err := v4.NewSigner().SignHTTP(r.Context(), aws.Credentials{AccessKeyID: key, SecretAccessKey: secret}, r, hex.EncodeToString(sum[:]), "lightsail", "us-east-1", at)
	if err != nil {
		panic(err)
	}
	return r
}

// answer is what came back for a call.
type answer struct {
	status int
	header http.Header
	body   string
}

func send(t *testing.T, r *http.Request) answer {
	t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// do makes a signed call.
func do(t *testing.T, server *httptest.Server, target, body string) answer {
	t.Helper()
	return send(t, sign(newCall(server.URL, target, body), body, testKey, testSecret, time.Now()))
}

// The real control and the fake are the two that there are.
var (
	_ Control = (*control.Control)(nil)
	_ Control = (*fake)(nil)
)

func (f *fake) CreateExecSession(_ context.Context, _ trysail.Caller, in control.CreateExecSessionInput) (*trysail.ExecSession, error) {
	return f.execSession(in)
}

func (f *fake) CreateTask(_ context.Context, _ trysail.Caller, in control.CreateTaskInput) (*trysail.Task, error) {
	return f.createTask(in)
}

func (f *fake) GetTask(_ context.Context, _ trysail.Caller, service, id string) (*trysail.Task, error) {
	return f.task(service, id)
}

func (f *fake) ListTasks(_ context.Context, _ trysail.Caller, service string) ([]trysail.Task, error) {
	k, err := f.task(service, "web-task-1")
	if err != nil {
		return nil, err
	}
	return []trysail.Task{*k}, nil
}

func (f *fake) StopTask(_ context.Context, _ trysail.Caller, service, id string) error {
	return f.stopTask(service, id)
}
