package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// wantException checks that a call failed as every AWS client expects it: type in body and header, all members, request id.
func wantException(t *testing.T, got answer, status int, name, text string) {
	t.Helper()
	var body struct {
		Type    string `json:"__type"`
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(got.body), &body); err != nil {
		t.Fatalf("body %q: %v", got.body, err)
	}
	if got.status != status || body.Type != name || body.Code != name || got.header.Get("x-amzn-ErrorType") != name || !strings.Contains(body.Message, text) {
		t.Errorf("got %d %s (header %q)\nwant %d %s with %q", got.status, got.body, got.header.Get("x-amzn-ErrorType"), status, name, text)
	}
	var members map[string]any
	if err := json.Unmarshal([]byte(got.body), &members); err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"docs", "tip"} {
		if _, ok := members[m]; !ok {
			t.Errorf("the exception has no member %q", m)
		}
	}
	wantHeaders(t, got)
}

func wantHeaders(t *testing.T, got answer) {
	t.Helper()
	if id := got.header.Get("x-amzn-RequestId"); !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(id) {
		t.Errorf("request id %q is no UUID", id)
	}
	if ct := got.header.Get("Content-Type"); ct != contentType {
		t.Errorf("content type %q", ct)
	}
}

func oneService(string) ([]trysail.Service, error) { return []trysail.Service{fullService()}, nil }

func TestHandler_Answer(t *testing.T) {
	server := newServer(t, &fake{getServices: oneService})
	got := do(t, server, "GetContainerServices", "{}")
	if got.status != http.StatusOK {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	wantHeaders(t, got)
	for _, want := range []string{
		`"url":"https://web.90qakjuvfj4f8.eu-central-1.cs.example.test:8443/"`,
		`"arn":"arn:aws:lightsail:eu-central-1:111122223333:ContainerService/5a302d1b-8c1f-4f0e-9f43-1c2d3e4f5a6b"`,
		`"location":{"availabilityZone":"all","regionName":"eu-central-1"}`,
		`"createdAt":1652233466.25`, `"powerId":"small-1"`, `"MODE":"<b> & co"`,
		`"principalArn":"arn:aws:iam::111122223333:role/amazon/lightsail/eu-central-1/containers/web/`,
		`"stateDetail":{"code":"CREATING_DEPLOYMENT","message":"starting"}`,
	} {
		if !strings.Contains(got.body, want) {
			t.Errorf("the answer lacks %s:\n%s", want, got.body)
		}
	}
}

// TestHandler_NewService is what a client sees right after CreateContainerService: what is not there is left out, and
// what is empty is empty.
func TestHandler_NewService(t *testing.T) {
	server := newServerWith(t, &fake{getServices: func(string) ([]trysail.Service, error) {
		return []trysail.Service{{
			ID: "1", Name: "web", HostLabel: "h", CreatedAt: time.Unix(1652233466, 0), State: trysail.ServicePending,
			Capacity: trysail.Capacity{Power: trysail.PowerNano, Scale: 1},
		}}, nil
	}}, Config{}, t.Output())
	const want = `{"containerServices":[{"containerServiceName":"web","arn":"arn:aws:lightsail:us-east-1:000000000000:ContainerService/1",` +
		`"createdAt":1652233466,"location":{"availabilityZone":"all","regionName":"us-east-1"},"resourceType":"ContainerService","tags":[],` +
		`"power":"nano","powerId":"nano-1","state":"PENDING","scale":1,"isDisabled":false,"principalArn":"","privateDomainName":"web.service.local",` +
		`"url":"https://web.h.us-east-1.cs.localhost/","privateRegistryAccess":{"ecrImagePullerRole":{"isActive":false,"principalArn":""}}}]}`
	if got := do(t, server, "GetContainerServices", "{}"); got.body != want {
		t.Errorf("(-want +got):\n%s", cmp.Diff(want, got.body))
	}
}

func TestHandler_EmptyLists(t *testing.T) {
	server := newServer(t, &fake{
		getServices:   func(string) ([]trysail.Service, error) { return nil, nil },
		deployments:   func(string) ([]trysail.Deployment, error) { return nil, nil },
		log:           func(control.GetContainerLogInput) (*control.LogPage, error) { return &control.LogPage{}, nil },
		deleteService: func(string) error { return nil },
		keys:          func() ([]control.AccessKey, error) { return nil, nil },
		deploy: func(string, control.DeploymentInput) (*trysail.Service, error) {
			return &trysail.Service{Name: "web", Next: &trysail.Deployment{Version: 1, Containers: map[string]trysail.Container{"app": {Image: "nginx"}}}}, nil
		},
		diagnosis: func(string, int) (*trysail.Diagnosis, error) {
			return &trysail.Diagnosis{Version: 3, Code: "NET-LOOPBACK"}, nil
		},
	})
	tests := []struct{ target, request, want string }{
		{"GetContainerServices", "{}", `{"containerServices":[]}`},
		{"GetContainerServiceDeployments", `{"serviceName":"web"}`, `{"deployments":[]}`},
		{"GetContainerLog", `{"serviceName":"web","containerName":"app"}`, `{"logEvents":[]}`},
		{"DeleteContainerService", `{"serviceName":"web"}`, `{}`},
		{"CreateContainerServiceDeployment", `{"serviceName":"web"}`, `"containers":{"app":{"image":"nginx","command":[],"environment":{},"ports":{}}}`},
		{"Trysail_20261120.ListAccessKeys", `{}`, `{"accessKeys":[]}`},
		{
			"Trysail_20261120.GetDeploymentDiagnosis", `{"serviceName":"web"}`,
			`{"diagnosis":{"version":3,"code":"NET-LOOPBACK","confidence":"","summary":"","fix":"","evidence":[],"diff":[]}}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.target, func(t *testing.T) {
			if got := do(t, server, tt.target, tt.request); got.status != http.StatusOK || !strings.Contains(got.body, tt.want) {
				t.Errorf("got %d %s\nwant %s", got.status, got.body, tt.want)
			}
		})
	}
}

func TestHandler_OwnOperations(t *testing.T) {
	at := time.Unix(1800000000, 0)
	var gotVersion int
	var deleted, gotHost string
	var gotCheck control.CheckDeploymentInput
	var gotPods control.ListPodsInput
	var gotPut control.PutRegistryInput
	var gotForward control.ForwardServiceInput
	var gotWrite control.WriteMovingFileInput
	var gotHold control.HoldDeploymentInput
	var canceled string
	var gotLog control.GetPodLogInput
	var gotAccess control.GetContainerLogInput
	var gotSettings control.PutServiceSettingsInput
	server := newServer(t, &fake{
		keys: func() ([]control.AccessKey, error) {
			return []control.AccessKey{{ID: "TSAK1", Name: "ci", Role: trysail.RoleAdmin, Secret: "leak", CreatedAt: at}}, nil
		},
		check: func(in control.CheckDeploymentInput) (*control.Check, error) {
			gotCheck = in
			return &control.Check{Problems: []string{"p"}, Images: []control.CheckedImage{{Container: "app", Image: trysail.Image{Name: "nginx", Digest: "sha256:aa", Architecture: "amd64", ExposedPorts: []string{"80/tcp"}}}}}, nil
		},
		pods: func(in control.ListPodsInput) ([]trysail.PodRecord, error) {
			gotPods = in
			return []trysail.PodRecord{{
				ID: "p", Version: 3, Power: "nano", Slot: 1, Attempt: 2, CreatedAt: at, StopAt: at, EndedAt: at, Failed: true, Reason: "r",
				Evidence: &trysail.PodEvidence{Containers: []trysail.ContainerStatus{{Name: "app", State: trysail.ContainerExited, ExitCode: 3}, {Name: "b"}}},
			}, {ID: "q", Version: 3, CreatedAt: at, HealthyAt: at}}, nil
		},
		podLog: func(in control.GetPodLogInput) (*control.LogPage, error) {
			gotLog = in
			return &control.LogPage{NextPageToken: "t", MissingServers: []string{"n2"}, Events: []control.LogEvent{
				{CreatedAt: at, Message: "a", Pod: "p", Version: 3, Stderr: true}, {CreatedAt: at, Message: "b", Pod: "q"}, {CreatedAt: at, Message: "[trysail] c"},
			}}, nil
		},
		accessLog: func(in control.GetContainerLogInput) (*control.LogPage, error) {
			gotAccess = in
			return &control.LogPage{Events: []control.LogEvent{{CreatedAt: at, Message: "{}", Pod: "access"}}}, nil
		},
		settings: func(string) (trysail.ServiceSettings, error) { return trysail.ServiceSettings{}, nil },
		putSettings: func(in control.PutServiceSettingsInput) (trysail.ServiceSettings, error) {
			gotSettings = in
			return trysail.ServiceSettings{AccessLog: true}, nil
		},
		forwards: func() ([]control.ServiceForward, error) {
			return []control.ServiceForward{{ServiceName: "web", Forward: trysail.Forward{To: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:443")}, CA: "PEM", Stop: true}}}, nil
		},
		forward: func(in control.ForwardServiceInput) (*control.ServiceForward, error) {
			gotForward = in
			return &control.ServiceForward{ServiceName: in.ServiceName}, nil
		},
		exportRows: func(in control.ExportRowsInput) (*control.MovingRows, error) {
			return &control.MovingRows{Format: 9, Rows: []json.RawMessage{json.RawMessage(`{"a":1}`)}, NextPageToken: in.PageToken}, nil
		},
		importRows: func(in control.ImportRowsInput) (int, error) { return in.Format + len(in.Rows[0]), nil },
		files: func(in control.ListMovingFilesInput) (*control.MovingFilePage, error) {
			return &control.MovingFilePage{Files: []control.MovingFile{{Path: in.Dir + "/a", Size: 3, Digest: "d"}}}, nil
		},
		readFile: func(in control.ReadMovingFileInput) (*control.MovingChunk, error) {
			return &control.MovingChunk{Data: []byte{255}, Size: in.Offset}, nil
		},
		writeFile: func(in control.WriteMovingFileInput) error { gotWrite = in; return nil },
		nodes: func() ([]control.Node, error) {
			return []control.Node{{NodeState: trysail.NodeState{
				Node: trysail.Node{Name: "n1", OS: "linux", Architecture: "amd64", CPUs: 2, Memory: 4096}, Version: "v1", CreatedAt: at, Ready: true, Pressures: []string{"disk"}, MaxPods: 9,
				Pods: []trysail.NodePod{{ID: "p", ServiceID: "s", Reserved: trysail.Limits{MilliCPU: 5, Memory: 6}}},
			}, Services: map[string]string{"s": "web"}}}, nil
		},
		cordon: func(name string, cordoned bool) (*control.Node, error) {
			return &control.Node{NodeState: trysail.NodeState{Node: trysail.Node{Name: name}, Cordoned: cordoned, Ready: cordoned, CreatedAt: at}}, nil
		},
		nodeImages: func() (*control.NodeImages, error) {
			return &control.NodeImages{RegistryBytes: 3, UnusedBytes: 2, Images: []control.NodeImage{
				{NodeImage: trysail.NodeImage{Name: "nginx:1", Digest: "sha256:aa", Size: 1}, Kept: []string{"current version of web"}},
				{NodeImage: trysail.NodeImage{Name: ":web.www.1", Digest: "sha256:bb", Size: 2}, Stored: true},
			}}, nil
		},
		putRegistry: func(in control.PutRegistryInput) (control.Registry, error) {
			gotPut = in
			return control.Registry{Registry: trysail.Registry{Host: in.Host, Username: "me", Secret: "leak", UpdatedAt: at}, HasSecret: true}, nil
		},
		registries: func() ([]control.Registry, error) {
			return []control.Registry{{Registry: trysail.Registry{Host: "ghcr.io", Secret: "leak", Mirrors: []string{"https://m"}, CA: "PEM", PlainHTTP: true, UpdatedAt: at}}}, nil
		},
		deleteReg: func(host string) error { gotHost = host; return nil },
		createKey: func(in control.CreateAccessKeyInput) (*control.AccessKey, error) {
			return &control.AccessKey{ID: "TSAK2", Name: in.Name, Secret: "s3cret", Role: in.Role, Services: in.Services, CreatedAt: at}, nil
		},
		deleteKey: func(id string) error { deleted = id; return nil },
		record: func(string, int) (*control.DeploymentRecord, error) {
			d := trysail.Deployment{Version: 3, State: trysail.DeploymentFailed, CreatedAt: at, Containers: map[string]trysail.Container{"app": {Image: "nginx", Environment: map[string]string{"TOKEN": "s3cret-value"}}}}
			return &control.DeploymentRecord{
				Service: trysail.Service{Name: "web", Capacity: trysail.Capacity{Power: "nano", Scale: 1}}, Deployment: d, Evidence: trysail.DeploymentEvidence{ReplacedBy: 4},
				Stored: map[string]string{":web.www.latest": ":web.www.2"},
				Pods:   []trysail.PodRecord{{ID: "p", Version: 3, CreatedAt: at, HoldUntil: at, Evidence: &trysail.PodEvidence{LogTail: map[string][]string{"app": {"bad token s3cret-value"}}}}},
			}, nil
		},
		execSession: func(in control.CreateExecSessionInput) (*trysail.ExecSession, error) {
			return &trysail.ExecSession{Token: "t0ken", Pod: trysail.PodID(in.PodID), Container: in.ContainerName, ExpiresAt: at}, nil
		},
		createTask: func(in control.CreateTaskInput) (*trysail.Task, error) {
			return &trysail.Task{ID: "web-task-1", Version: 2, Container: "app", Command: in.Command, CreatedAt: at}, nil
		},
		task: func(_, id string) (*trysail.Task, error) {
			return &trysail.Task{ID: trysail.PodID(id), Version: 2, Container: "app", Command: []string{"a"}, CreatedAt: at, EndedAt: at}, nil
		},
		stopTask: func(_, _ string) error { return nil },
		hold:     func(in control.HoldDeploymentInput) error { gotHold = in; return nil },
		cancel:   func(name string) error { canceled = name; return nil },
		diagnosis: func(_ string, version int) (*trysail.Diagnosis, error) {
			gotVersion = version
			return &trysail.Diagnosis{Version: version}, nil
		},
	})
	tests := []struct{ target, request, want string }{
		{"ListAccessKeys", `{}`, `{"accessKeys":[{"accessKeyId":"TSAK1","role":"admin","name":"ci","createdAt":1800000000}]}`},
		{"CreateAccessKey", `{"name":"ci","role":"deploy","serviceNames":["web"]}`, `{"accessKey":{"accessKeyId":"TSAK2","secretAccessKey":"s3cret","role":"deploy","serviceNames":["web"],"name":"ci","createdAt":1800000000}}`},
		{"DeleteAccessKey", `{"accessKeyId":"TSAK1"}`, `{}`},
		{"CheckDeployment", `{"serviceName":"web","containers":{"app":{"image":"nginx"}}}`, `{"problems":["p"],"warnings":[],"images":[{"container":"app","image":"nginx","digest":"sha256:aa","architecture":"amd64","exposedPorts":["80/tcp"]}]}`},
		{"ListPods", `{"serviceName":"web","version":3,"ended":true}`, `{"pods":[{"id":"p","version":3,"power":"nano","slot":1,"attempt":2,"state":"FAILED","createdAt":1800000000,"stoppedAt":1800000000,"endedAt":1800000000,"reason":"r","exits":[{"name":"app","exitCode":3,"oomKilled":false}]},` +
			`{"id":"q","version":3,"power":"","slot":0,"attempt":0,"state":"HEALTHY","createdAt":1800000000,"healthyAt":1800000000,"reason":"","exits":[]}]}`},
		{
			"GetDeploymentRecord", `{"serviceName":"web"}`,
			`{"deployment":{"containers":{"app":{"command":[],"environment":{"TOKEN":"***"},"image":"nginx","ports":{}}},"createdAt":1800000000,"state":"FAILED","version":3},"diagnosis":null,"digests":null,"evidence":{"replacedBy":4},` +
				`"pods":[{"attempt":0,"createdAt":1800000000,"evidence":{"logTail":{"app":["bad token $TOKEN"]}},"exits":[],"holdUntil":1800000000,"id":"p","power":"","reason":"","slot":0,"state":"STARTING","version":3}],"power":"nano","scale":1,"serviceName":"web","storedImages":{":web.www.latest":":web.www.2"}}`,
		},
		{"HoldDeployment", `{"serviceName":"web","seconds":90}`, `{}`},
		{"CreateExecSession", `{"serviceName":"web","command":["sh"],"tty":true,"podId":"p","containerName":"app"}`, `{"path":"/exec/t0ken","protocol":"v1.exec.trysail","podId":"p","containerName":"app","expiresAt":1800000000}`},
		{"CreateTask", `{"serviceName":"web","command":["a","b"],"timeoutSeconds":60}`, `{"task":{"taskId":"web-task-1","version":2,"containerName":"app","command":["a","b"],"state":"RUNNING","createdAt":1800000000}}`},
		{"GetTask", `{"serviceName":"web","taskId":"web-task-1"}`, `{"task":{"taskId":"web-task-1","version":2,"containerName":"app","command":["a"],"state":"ENDED","exitCode":0,"createdAt":1800000000,"endedAt":1800000000}}`},
		{"ListTasks", `{"serviceName":"web"}`, `{"tasks":[{"taskId":"web-task-1","version":2,"containerName":"app","command":["a"],"state":"ENDED","exitCode":0,"createdAt":1800000000,"endedAt":1800000000}]}`},
		{"StopTask", `{"serviceName":"web","taskId":"web-task-1"}`, `{}`},
		{"CancelDeployment", `{"serviceName":"web"}`, `{}`},
		{"GetPodLog", `{"serviceName":"web","containerName":"app","version":3,"previous":true,"filterPattern":"x"}`, `{"logEvents":[{"createdAt":1800000000,"message":"a","podId":"p","version":3,"stream":"stderr"},` +
			`{"createdAt":1800000000,"message":"b","podId":"q","stream":"stdout"},{"createdAt":1800000000,"message":"[trysail] c"}],"nextPageToken":"t","missingServers":["n2"]}`},
		{"GetAccessLog", `{"serviceName":"web","filterPattern":"x","pageToken":"t"}`, `{"logEvents":[{"createdAt":1800000000,"message":"{}"}]}`},
		{"GetServiceSettings", `{"serviceName":"web"}`, `{"settings":{"accessLog":false,"accessLogHealthChecks":false}}`},
		{"PutServiceSettings", `{"serviceName":"web","settings":{"accessLog":true}}`, `{"settings":{"accessLog":true,"accessLogHealthChecks":false}}`},
		{"ListForwards", `{}`, `{"forwards":[{"serviceName":"web","to":["192.0.2.1:443"],"stop":true,"back":false}]}`},
		{"ForwardService", `{"serviceName":"web","version":3,"to":["a:443"],"caCertificate":"PEM","stop":true}`, `{"forward":{"serviceName":"web","to":[],"stop":false,"back":false}}`},
		{"ExportRows", `{"table":"t","pageToken":"p"}`, `{"format":9,"rows":["{\"a\":1}"],"nextPageToken":"p"}`},
		{"ImportRows", `{"table":"t","format":9,"rows":["{}"]}`, `{"changed":11}`},
		{"ListMovingFiles", `{"dir":"logs","digests":true}`, `{"files":[{"path":"logs/a","size":3,"digest":"d"}]}`},
		{"ReadMovingFile", `{"path":"logs/a","offset":7}`, `{"data":"/w==","size":7}`},
		{"WriteMovingFile", `{"path":"logs/a","offset":7,"data":"/w==","last":true}`, `{}`},
		{"ListNodes", `{}`, `{"nodes":[{"name":"n1","state":"READY","cordoned":false,"pressures":["disk"],"os":"linux","architecture":"amd64","version":"v1","createdAt":1800000000,"milliCpu":2000,"memory":4096,"reservedMilliCpu":5,"reservedMemory":6,"maxPods":9,"pods":[{"id":"p","serviceName":"web"}]}]}`},
		{"CordonNode", `{"nodeName":"n1"}`, `{"node":{"name":"n1","state":"CORDONED","cordoned":true,"pressures":[],"os":"","architecture":"","version":"","createdAt":1800000000,"milliCpu":0,"memory":0,"reservedMilliCpu":0,"reservedMemory":0,"pods":[]}}`},
		{"UncordonNode", `{"nodeName":"n1"}`, `{"node":{"name":"n1","state":"NOT_READY","cordoned":false,"pressures":[],"os":"","architecture":"","version":"","createdAt":1800000000,"milliCpu":0,"memory":0,"reservedMilliCpu":0,"reservedMemory":0,"pods":[]}}`},
		{"ListNodeImages", `{}`, `{"images":[{"name":"nginx:1","digest":"sha256:aa","size":1,"stored":false,"kept":["current version of web"]},{"name":":web.www.1","digest":"sha256:bb","size":2,"stored":true,"kept":[]}],"registryBytes":3,"unusedBytes":2}`},
		{"PutRegistry", `{"host":"ghcr.io","username":"me","secret":"s","mirrors":[]}`, `{"registry":{"host":"ghcr.io","username":"me","hasSecret":true,"mirrors":[],"ca":"","plainHttp":false,"updatedAt":1800000000}}`},
		{"ListRegistries", `{}`, `{"registries":[{"host":"ghcr.io","username":"","hasSecret":false,"mirrors":["https://m"],"ca":"PEM","plainHttp":true,"updatedAt":1800000000}]}`},
		{"DeleteRegistry", `{"host":"ghcr.io"}`, `{}`},
	}
	for _, tt := range tests {
		if got := do(t, server, trysailPrefix+tt.target, tt.request); got.status != http.StatusOK || got.body != tt.want {
			t.Errorf("%s: got %d %s\nwant %s", tt.target, got.status, got.body, tt.want)
		}
	}
	if want := (control.HoldDeploymentInput{ServiceName: "web", Hold: 90 * time.Second}); gotHold != want || canceled != "web" {
		t.Errorf("held %+v, canceled %q", gotHold, canceled)
	}
	if d := cmp.Diff(control.ForwardServiceInput{ServiceName: "web", Version: 3, To: []string{"a:443"}, CA: "PEM", Stop: true}, gotForward); d != "" {
		t.Errorf("ForwardService (-want +got):\n%s", d)
	}
	if d := cmp.Diff(control.WriteMovingFileInput{Path: "logs/a", Offset: 7, Data: []byte{255}, Last: true}, gotWrite); d != "" {
		t.Errorf("WriteMovingFile (-want +got):\n%s", d)
	}
	if deleted != "TSAK1" || gotHost != "ghcr.io" {
		t.Errorf("deleted %q and %q", deleted, gotHost)
	}
	if gotCheck.ServiceName != "web" || gotCheck.Deployment.Containers["app"].Image != "nginx" {
		t.Errorf("CheckDeployment got %+v", gotCheck)
	}
	if want := (control.ListPodsInput{ServiceName: "web", Version: 3, Ended: true}); gotPods != want {
		t.Errorf("ListPods got %+v, want %+v", gotPods, want)
	}
	wantLog := control.GetPodLogInput{GetContainerLogInput: control.GetContainerLogInput{ServiceName: "web", ContainerName: "app", FilterPattern: "x"}, Version: 3, Previous: true}
	if d := cmp.Diff(wantLog, gotLog); d != "" {
		t.Errorf("GetPodLog (-want +got):\n%s", d)
	}
	if d := cmp.Diff(control.GetContainerLogInput{ServiceName: "web", FilterPattern: "x", PageToken: "t"}, gotAccess); d != "" {
		t.Errorf("GetAccessLog (-want +got):\n%s", d)
	}
	if d := cmp.Diff(control.PutServiceSettingsInput{ServiceName: "web", AccessLog: new(true)}, gotSettings); d != "" {
		t.Errorf("PutServiceSettings (-want +got):\n%s", d)
	}
	wantPut := control.PutRegistryInput{Host: "ghcr.io", Username: new("me"), Secret: new("s"), Mirrors: &[]string{}}
	if d := cmp.Diff(wantPut, gotPut, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("PutRegistry (-want +got):\n%s", d)
	}
	do(t, server, trysailPrefix+"GetDeploymentDiagnosis", `{"serviceName":"web","version":7}`)
	if gotVersion != 7 {
		t.Errorf("got version %d", gotVersion)
	}
	wantException(t, do(t, server, trysailPrefix+"GetDeploymentDiagnosis", `{"serviceName":"web","version":0}`), 400, "InvalidInputException", `"version" must be at least 1`)
	// Our own operations are not found under Lightsail's name, nor the other way round.
	wantException(t, do(t, server, lightsailPrefix+"ListAccessKeys", `{}`), 404, "UnknownOperationException", "")
	wantException(t, do(t, server, trysailPrefix+"GetContainerServices", `{}`), 404, "UnknownOperationException", "")
}

func TestHandler_OperationsNotServed(t *testing.T) {
	server := newServer(t, &fake{})
	wantException(t, do(t, server, "CreateCertificate", "{}"), 400, "InvalidInputException", `Missing required member "certificateName".`)
	wantException(t, do(t, server, "CreateInstances", "{}"), 400, "InvalidInputException", "Trysail serves container services only: CreateInstances is not available.")
	wantException(t, do(t, server, "MakeCoffee", "{}"), 404, "UnknownOperationException", "Lightsail_20161128.MakeCoffee")
	// Whoever is not known does not even learn that.
	wantException(t, send(t, newCall(server.URL, "CreateInstances", "{}")), 403, "MissingAuthenticationTokenException", "Missing Authentication Token")
}

func TestHandler_NotACall(t *testing.T) {
	server := newServer(t, &fake{getServices: oneService})
	tests := []struct {
		name   string
		change func(*http.Request)
		status int
		want   string
		text   string
	}{
		{"GET", func(r *http.Request) { r.Method = http.MethodGet }, 404, "UnknownOperationException", "every call is POST /"},
		{"path", func(r *http.Request) { r.URL.Path = "/ls/api" }, 404, "UnknownOperationException", "every call is POST /"},
		{"no target", func(r *http.Request) { r.Header.Del("X-Amz-Target") }, 404, "UnknownOperationException", `""`},
		{"two targets", func(r *http.Request) { r.Header.Add("X-Amz-Target", "x") }, 404, "UnknownOperationException", "GetContainerServices,x"},
		{"endless target", func(r *http.Request) { r.Header.Set("X-Amz-Target", strings.Repeat("ä", 5000)) }, 404, "UnknownOperationException", "ä…"},
		{"no content type", func(r *http.Request) { r.Header.Del("Content-Type") }, 400, "MalformedHttpRequestException", contentType},
		{"form", func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }, 400, "MalformedHttpRequestException", contentType},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newCall(server.URL, "GetContainerServices", "{}")
			tt.change(r)
			got := send(t, sign(r, "{}", testKey, testSecret, time.Now()))
			wantException(t, got, tt.status, tt.want, tt.text)
			if len(got.body) > 500 {
				t.Errorf("the answer has %d bytes", len(got.body))
			}
		})
	}
	r := newCall(server.URL, "GetContainerServices", "{}")
	r.Header.Set("Content-Type", contentType+"; charset=utf-8")
	if got := send(t, sign(r, "{}", testKey, testSecret, time.Now())); got.status != http.StatusOK {
		t.Errorf("content type with charset: got %d %s", got.status, got.body)
	}
}

func TestHandler_Signature(t *testing.T) {
	var log bytes.Buffer
	server := newServerWith(t, &fake{getServices: oneService}, testConfig, &log)
	call := func() *http.Request { return newCall(server.URL, "GetContainerServices", "{}") }
	tests := []struct {
		name string
		r    *http.Request
		want string
		text string
	}{
		{"unsigned", call(), "MissingAuthenticationTokenException", "Missing Authentication Token"},
		{"basic", func() *http.Request { r := call(); r.SetBasicAuth("a", testSecret); return r }(), "IncompleteSignature", "AWS4-HMAC-SHA256"},
		{"unknown key", sign(call(), "{}", "TSAKOTHER", testSecret, time.Now()), "UnrecognizedClientException", "The security token included in the request is invalid."},
		{"wrong secret", sign(call(), "{}", testKey, "wrong", time.Now()), "InvalidSignatureException", "does not match the signature you provided"},
		{"other body", sign(call(), `{"serviceName":"web"}`, testKey, testSecret, time.Now()), "InvalidSignatureException", "does not match"},
		{"old", sign(call(), "{}", testKey, testSecret, time.Now().Add(-20*time.Minute)), "InvalidSignatureException", "Signature expired: "},
		{"early", sign(call(), "{}", testKey, testSecret, time.Now().Add(20*time.Minute)), "InvalidSignatureException", "Signature not yet current: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantException(t, send(t, tt.r), 403, tt.want, tt.text)
		})
	}
	server.Close()
	if n := strings.Count(log.String(), `msg="api call refused"`); n != len(tests) {
		t.Errorf("%d refusals are logged, want %d:\n%s", n, len(tests), &log)
	}
	if strings.Contains(log.String(), testSecret) || strings.Contains(log.String(), "Signature=") {
		t.Errorf("the log has a secret or a signature:\n%s", &log)
	}
}

func TestHandler_BodyLimit(t *testing.T) {
	server := newServer(t, &fake{getServices: oneService})
	const limit = 1 << 20
	body := func(size int) string { return `{"x":"` + strings.Repeat("x", size-len(`{"x":""}`)) + `"}` }

	if got := do(t, server, "GetContainerServices", body(limit)); got.status != http.StatusOK {
		t.Errorf("body as large as the limit: got %d %.200s", got.status, got.body)
	}
	wantException(t, do(t, server, "GetContainerServices", body(limit+1)), 413, "RequestEntityTooLargeException", "1048576 bytes")

	for size, want := range map[int]int{limit: http.StatusOK, limit + 1: http.StatusRequestEntityTooLarge} {
		text := body(size)
		r := newCall(server.URL, "GetContainerServices", text)
		r.ContentLength = -1 // sent in chunks, so that the length is not known before
		r.Body = io.NopCloser(struct{ io.Reader }{strings.NewReader(text)})
		if got := send(t, sign(r, text, testKey, testSecret, time.Now())); got.status != want {
			t.Errorf("%d bytes in chunks: got %d %.200s, want %d", size, got.status, got.body, want)
		}
	}
}

// TestHandler_RefusesBeforeReadingTheBody: who cannot be known does not make the server read.
func TestHandler_RefusesBeforeReadingTheBody(t *testing.T) {
	h := New(testConfig, &fake{}, slog.New(slog.DiscardHandler))
	large := sign(newCall("http://localhost", "GetContainerServices", "{}"), "{}", testKey, testSecret, time.Now())
	large.ContentLength = 1<<20 + 1
	tests := map[string]*http.Request{
		"RequestEntityTooLargeException":      large,
		"UnknownOperationException":           sign(newCall("http://localhost", "MakeCoffee", "{}"), "{}", testKey, testSecret, time.Now()),
		"MissingAuthenticationTokenException": newCall("http://localhost", "GetContainerServices", "{}"),
		"UnrecognizedClientException":         sign(newCall("http://localhost", "GetContainerServices", "{}"), "{}", "TSAKOTHER", testSecret, time.Now()),
		"InvalidSignatureException":           sign(newCall("http://localhost", "GetContainerServices", "{}"), "{}", testKey, testSecret, time.Now().Add(-time.Hour)),
	}
	for want, r := range tests {
		r.Body = io.NopCloser(readerFunc(func([]byte) (int, error) {
			t.Errorf("%s: the body is read", want)
			return 0, io.EOF
		}))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if got := w.Header().Get("x-amzn-ErrorType"); got != want {
			t.Errorf("got %s %s, want %s", got, w.Body, want)
		}
	}
}

func TestHandler_BodyCutOff(t *testing.T) {
	h := New(testConfig, &fake{}, slog.New(slog.DiscardHandler))
	r := sign(newCall("http://localhost", "GetContainerServices", "{}"), "{}", testKey, testSecret, time.Now())
	r.Body = io.NopCloser(readerFunc(func([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	wantException(t, answer{w.Code, w.Header(), w.Body.String()}, 400, "MalformedHttpRequestException", "did not arrive completely")
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestHandler_Errors(t *testing.T) {
	var err error
	var log bytes.Buffer
	server := newServerWith(t, &fake{deleteService: func(string) error { return err }}, testConfig, &log)
	tests := []struct {
		err    error
		status int
		name   string
		text   string
	}{
		{trysail.Errorf(trysail.CodeInvalid, "no good"), 400, "InvalidInputException", "no good"},
		{trysail.Errorf(trysail.CodeNotFound, `Service "x" not found.`), 400, "NotFoundException", `Service "x" not found.`},
		{fmt.Errorf("deleting: %w", trysail.Errorf(trysail.CodeNotFound, "gone")), 400, "NotFoundException", "gone"},
		{trysail.Errorf(trysail.CodeAccessDenied, "no"), 400, "AccessDeniedException", "no"},
		{trysail.Errorf(trysail.CodeUnsupported, "later"), 400, "InvalidInputException", "later"},
		{trysail.Errorf(trysail.CodeUnavailable, "The disk is full."), 503, "ServiceException", "The disk is full."},
		{errors.New("password=hunter2"), 500, "ServiceException", "internal error"},
	}
	for _, tt := range tests {
		t.Run(tt.err.Error(), func(t *testing.T) {
			err = tt.err
			got := do(t, server, "DeleteContainerService", `{"serviceName":"x"}`)
			wantException(t, got, tt.status, tt.name, tt.text)
			if strings.Contains(got.body, "hunter2") || strings.Contains(got.body, "deleting:") {
				t.Errorf("the client sees what only the log may have: %s", got.body)
			}
		})
	}
	server.Close()
	if !strings.Contains(log.String(), `level=ERROR msg="api call failed"`) || !strings.Contains(log.String(), "hunter2") {
		t.Errorf("the cause of the internal error is not logged:\n%s", &log)
	}
}

func TestHandler_Panic(t *testing.T) {
	var log bytes.Buffer
	server := newServerWith(t, &fake{getServices: func(string) ([]trysail.Service, error) { panic("out of cheese") }}, testConfig, &log)
	got := do(t, server, "GetContainerServices", "{}")
	wantException(t, got, 500, "InternalFailure", "")
	if strings.Contains(got.body, "cheese") {
		t.Errorf("the client sees the panic: %s", got.body)
	}
	server.Close()
	for _, want := range []string{"level=ERROR", "out of cheese", got.header.Get("x-amzn-RequestId"), "api_test.go"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, &log)
		}
	}
}

func TestHandler_LogsWhatChanges(t *testing.T) {
	var log bytes.Buffer
	server := newServerWith(t, &fake{
		getServices: oneService,
		deploy:      func(string, control.DeploymentInput) (*trysail.Service, error) { s := fullService(); return &s, nil },
	}, testConfig, &log)
	do(t, server, "GetContainerServices", "{}")
	got := do(t, server, "CreateContainerServiceDeployment", `{"serviceName":"web","containers":{"app":{"image":"nginx","environment":{"PASSWORD":"hunter2"}}}}`)
	server.Close()
	for line := range strings.Lines(log.String()) {
		changing := strings.Contains(line, "CreateContainerServiceDeployment")
		if changing != strings.Contains(line, "level=INFO") {
			t.Errorf("wrong level: %s", line)
		}
		if changing {
			for _, want := range []string{"request_id=" + got.header.Get("x-amzn-RequestId"), "status=200", "access_key_id=" + testKey, "caller=admin", "resource=web"} {
				if !strings.Contains(line, want) {
					t.Errorf("the line lacks %q: %s", want, line)
				}
			}
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 2 {
		t.Errorf("%d lines are logged, want 2", n)
	}
	if strings.Contains(log.String(), "hunter2") {
		t.Error("the log has the value of an environment variable")
	}
}

func TestHandler_FailedIdentify(t *testing.T) {
	server := newServer(t, &fake{identify: func(string) (string, trysail.Caller, bool, error) {
		return "", trysail.Caller{}, false, errors.New("database is locked")
	}})
	wantException(t, do(t, server, "GetContainerServices", "{}"), 500, "ServiceException", "internal error")
}

func TestHandler_CallerReachesControl(t *testing.T) {
	var calls atomic.Int32
	server := newServer(t, &fake{
		identify: func(id string) (string, trysail.Caller, bool, error) {
			calls.Add(1)
			return testSecret, trysail.Caller{AccessKeyID: id, Name: "ci"}, true, nil
		},
		getServices: oneService,
	})
	for range 3 {
		if got := do(t, server, "GetContainerServices", ""); got.status != http.StatusOK {
			t.Fatalf("an empty body is not taken for {}: %d %s", got.status, got.body)
		}
	}
	if calls.Load() != 3 {
		t.Errorf("the key was looked up %d times, want once for each call", calls.Load())
	}
}

// BenchmarkEncodeServices is the part of GetContainerServices that is the API's.
func BenchmarkEncodeServices(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		services := make([]trysail.Service, n)
		for i := range services {
			services[i] = fullService()
			services[i].Next = nil
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				text, err := encode(view{testConfig}.servicesResult(services))
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(text)))
			}
		})
	}
}
