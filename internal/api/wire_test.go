package api

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// The SDK's module holds a sample of every request and every response with all members filled in. These tests read
// them where the module is; nothing of them is kept here.

func sdkDir(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/aws/aws-sdk-go-v2/service/lightsail").Output()
	if err != nil {
		t.Fatalf("finding the SDK's module: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// sample returns the target and the body of a sample: headers, an empty line, one line of JSON.
func sample(t *testing.T, file string) (target string, body map[string]any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if v, ok := strings.CutPrefix(line, "X-Amz-Target: "); ok {
			target = v
		}
		if strings.HasPrefix(line, "{") {
			if err := json.Unmarshal([]byte(line), &body); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
		}
	}
	if target == "" || body == nil {
		t.Fatalf("%s: no target or no body", file)
	}
	return target, body
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// recorder answers every operation with full values and keeps its input.
func recorder(got *any) *fake {
	service := func() (*trysail.Service, error) { s := fullService(); return &s, nil }
	at := time.UnixMilli(1652233466250)
	operation := trysail.Operation{
		ID: "1", ResourceName: "web", Type: "CreateContainerServiceDeployment", Details: "deployment 3", Status: trysail.OperationFailed,
		CreatedAt: at, ChangedAt: at, ErrorCode: "NET-WRONGPORT", ErrorDetails: "…",
	}
	operations := []trysail.Operation{operation}
	return &fake{
		createService: func(in control.CreateContainerServiceInput) (*trysail.Service, error) { *got = in; return service() },
		updateService: func(in control.UpdateContainerServiceInput) (*trysail.Service, error) { *got = in; return service() },
		getServices: func(name string) ([]trysail.Service, error) {
			*got = name
			return []trysail.Service{fullService()}, nil
		},
		deleteService: func(name string) error { *got = name; return nil },
		deploy: func(name string, in control.DeploymentInput) (*trysail.Service, error) {
			*got = []any{name, in}
			return service()
		},
		deployments: func(name string) ([]trysail.Deployment, error) {
			*got = name
			return []trysail.Deployment{*fullService().Next, *fullService().Current}, nil
		},
		log: func(in control.GetContainerLogInput) (*control.LogPage, error) {
			*got = in
			return &control.LogPage{Events: []control.LogEvent{{CreatedAt: at, Message: "hello"}}, NextPageToken: "more"}, nil
		},
		metricData: func(in control.GetContainerServiceMetricDataInput) (*control.MetricData, error) {
			*got = in
			return &control.MetricData{
				Name: in.MetricName, Unit: "Percent", Statistics: trysail.Statistics("Percent"),
				Points: []control.MetricPoint{{At: at, Values: []float64{1, 2, 3, 4, 5}}},
			}, nil
		},
		createCert: func(in control.CreateCertificateInput) (*control.CertificateOperation, error) {
			*got = in
			c := fullCertificate()
			return &control.CertificateOperation{Certificate: &c, Operations: operations}, nil
		},
		getCerts: func(in control.GetCertificatesInput) (*control.CertificatePage, error) {
			*got = in
			return &control.CertificatePage{Certificates: []trysail.Certificate{fullCertificate()}, Details: true, NextPageToken: "next"}, nil
		},
		deleteCert: func(name string) (*control.CertificateOperation, error) {
			*got = name
			return &control.CertificateOperation{Operations: operations}, nil
		},
		operation: func(id string) (trysail.Operation, error) { *got = id; return operation, nil },
		operations: func(resource, token string) (*control.OperationPage, error) {
			*got = []string{resource, token}
			return &control.OperationPage{Operations: operations, NextPageToken: "7"}, nil
		},
		login: func() (*trysail.RegistryLogin, error) {
			return &trysail.RegistryLogin{Username: "AWS", Password: "p", Registry: "127.0.0.1:4500", ExpiresAt: at}, nil
		},
		register: func(in control.RegisterContainerImageInput) (*trysail.RegisteredImage, error) {
			*got = in
			return &trysail.RegisteredImage{StoredImage: trysail.StoredImage{Service: "web", Label: "www", Number: 1}, Digest: "sha256:aa", CreatedAt: at}, nil
		},
		images: func(name string) ([]trysail.RegisteredImage, error) {
			*got = name
			return []trysail.RegisteredImage{{StoredImage: trysail.StoredImage{Service: "web", Label: "www", Number: 1}, Digest: "sha256:aa", CreatedAt: at}}, nil
		},
		deleteImage: func(in control.DeleteContainerImageInput) error { *got = in; return nil },
		tag: func(name string, arn *string, tags []trysail.Tag) ([]trysail.Operation, error) {
			*got = []any{name, arn, tags}
			return operations, nil
		},
		untag: func(name string, arn *string, keys []string) ([]trysail.Operation, error) {
			*got = []any{name, arn, keys}
			return operations, nil
		},
	}
}

// sampleInputs are what control has to get for the SDK's samples.
func sampleInputs() map[string]any {
	deployment := control.DeploymentInput{
		Containers: map[string]trysail.Container{"key0": {
			Image: "__Image__", Command: []string{"__Member__", "__Member__"},
			Environment: map[string]string{"key0": "__Value__"}, Ports: map[string]trysail.Protocol{"key0": "HTTP"},
		}},
		PublicEndpoint: &control.EndpointInput{ContainerName: "__ContainerName__", ContainerPort: 1, HealthCheck: &control.HealthCheckInput{
			HealthyThreshold: new(1), UnhealthyThreshold: new(1), TimeoutSeconds: new(1), IntervalSeconds: new(1),
			Path: new("__Path__"), SuccessCodes: new("__SuccessCodes__"),
		}},
	}
	domains := map[string][]string{"key0": {"__Member__", "__Member__"}}
	tags := []trysail.Tag{{Key: "__Key__", Value: "__Value__"}, {Key: "__Key__", Value: "__Value__"}}
	year2000 := time.Unix(946684800, 0).UTC()
	return map[string]any{
		"CreateContainerService": control.CreateContainerServiceInput{
			ServiceName: "__ServiceName__", Power: "nano", Scale: 1, Tags: tags, PublicDomainNames: domains, Deployment: &deployment, ECRPuller: new(true),
		},
		"GetContainerServices": "__ServiceName__",
		"UpdateContainerService": control.UpdateContainerServiceInput{
			ServiceName: "__ServiceName__", Power: new("nano"), Scale: new(1), IsDisabled: new(true), PublicDomainNames: domains, ECRPuller: new(true),
		},
		"CreateCertificate": control.CreateCertificateInput{
			Name: "__CertificateName__", Domain: "__DomainName__", Alternatives: []string{"__Member__", "__Member__"}, Tags: tags,
		},
		"GetCertificates": control.GetCertificatesInput{
			Name: "__CertificateName__", Statuses: []string{"PENDING_VALIDATION", "PENDING_VALIDATION"}, Details: true, PageToken: "__PageToken__",
		},
		"DeleteCertificate":                "__CertificateName__",
		"DeleteContainerService":           "__ServiceName__",
		"CreateContainerServiceDeployment": []any{"__ServiceName__", deployment},
		"GetContainerServiceDeployments":   "__ServiceName__",
		"GetContainerLog": control.GetContainerLogInput{
			ServiceName: "__ServiceName__", ContainerName: "__ContainerName__", StartTime: &year2000, EndTime: &year2000,
			FilterPattern: "__FilterPattern__", PageToken: "__PageToken__",
		},
		"GetContainerServiceMetricData": control.GetContainerServiceMetricDataInput{
			ServiceName: "__ServiceName__", MetricName: "CPUUtilization", StartTime: year2000, EndTime: year2000, Period: 1, Statistics: []string{"Minimum", "Minimum"},
		},
		"GetContainerServicePowers": nil,
		"GetContainerAPIMetadata":   nil,
		"TagResource":               []any{"__ResourceName__", new("__ResourceArn__"), tags},
		"UntagResource":             []any{"__ResourceName__", new("__ResourceArn__"), []string{"__Member__", "__Member__"}},
		"GetRegions":                nil,

		"GetOperation":             "__OperationId__",
		"GetOperations":            []string{"", "__PageToken__"},
		"GetOperationsForResource": []string{"__ResourceName__", "__PageToken__"},

		"CreateContainerServiceRegistryLogin": nil,
		"RegisterContainerImage":              control.RegisterContainerImageInput{ServiceName: "__ServiceName__", Label: "__Label__", Digest: "__Digest__"},
		"GetContainerImages":                  "__ServiceName__",
		"DeleteContainerImage":                control.DeleteContainerImageInput{ServiceName: "__ServiceName__", Image: "__Image__"},
	}
}

func servedByLightsail(c Control) []operation {
	return slices.DeleteFunc(lightsailOperations(c, view{testConfig}), func(op operation) bool { return op.since == "" })
}

func TestWire_RequestSamplesAreDecoded(t *testing.T) {
	dir := sdkDir(t)
	want := sampleInputs()
	var got any
	for _, op := range servedByLightsail(recorder(&got)) {
		t.Run(op.name, func(t *testing.T) {
			target, body := sample(t, filepath.Join(dir, "request_snapshot", op.name+".request.snap"))
			if target != op.target() {
				t.Fatalf("the SDK calls it %q, we %q", target, op.target())
			}
			wanted, ok := want[op.name]
			if !ok {
				t.Fatal("this test does not say what control has to get")
			}
			got = nil
			if _, err := serveText(op, marshal(t, body)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(wanted, got); diff != "" {
				t.Errorf("what control got (-want +got):\n%s", diff)
			}
		})
	}
}

func serveText(op operation, body []byte) (any, error) {
	m, err := parseBody(body)
	if err != nil {
		return nil, err
	}
	return op.serve(context.Background(), testCaller, m)
}

// TestWire_EveryMemberIsReadAndChecked gives each member of each sample a value of another type in turn. An operation
// that did not read the member would not notice.
func TestWire_EveryMemberIsReadAndChecked(t *testing.T) {
	dir := sdkDir(t)
	var got any
	for _, op := range servedByLightsail(recorder(&got)) {
		t.Run(op.name, func(t *testing.T) {
			_, body := sample(t, filepath.Join(dir, "request_snapshot", op.name+".request.snap"))
			spoilEach(body, func(name string, value any) {
				_, err := serveText(op, marshal(t, body))
				if e := exceptionOf(err); err == nil || e.name != "SerializationException" || !strings.Contains(e.message, name) {
					t.Errorf("%s = %v: got %v, want a SerializationException that names it", name, value, err)
				}
			})
		})
	}
}

// spoilEach calls check while one value within v, a map or list, has the wrong type; for each value once.
func spoilEach(v any, check func(name string, value any)) {
	spoil := func(name string, old any, set func(any)) {
		var wrong any = "wrong"
		if _, ok := old.(string); ok {
			wrong = 4711
		}
		set(wrong)
		check(name, wrong)
		set(old)
		spoilEach(old, check)
	}
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			spoil(name, v[name], func(value any) { v[name] = value })
		}
	case []any:
		for i := range v {
			spoil(fmt.Sprintf("[%d]", i), v[i], func(value any) { v[i] = value })
		}
	}
}

// neverSent are the members of the samples that no answer of ours has, with the reason.
var neverSent = map[string]string{
	"nextPageCount": "deprecated by AWS",
}

func TestWire_ResponsesHaveTheShapeOfTheSamples(t *testing.T) {
	dir := sdkDir(t)
	var got any
	for _, op := range servedByLightsail(recorder(&got)) {
		t.Run(op.name, func(t *testing.T) {
			_, request := sample(t, filepath.Join(dir, "request_snapshot", op.name+".request.snap"))
			_, want := sample(t, filepath.Join(dir, "response_snapshot", op.name+".response.snap"))
			if op.name == "DeleteContainerService" && len(want) > 0 {
				t.Fatalf("the sample is not empty: %v", want)
			}
			result, err := serveText(op, marshal(t, request))
			if err != nil {
				t.Fatal(err)
			}
			text, err := encode(result)
			if err != nil {
				t.Fatal(err)
			}
			var answer any
			if err := json.Unmarshal(text, &answer); err != nil {
				t.Fatal(err)
			}
			compareShape(t, op.name, any(want), answer)
		})
	}
}

// compareShape compares the types of two JSON values and the members of their objects, both ways. An object of the
// sample with the member key0 is a map; its keys are free.
func compareShape(t *testing.T, path string, want, got any) {
	t.Helper()
	switch want := want.(type) {
	case map[string]any:
		got, ok := got.(map[string]any)
		if !ok {
			t.Errorf("%s: got %T, want an object", path, got)
			return
		}
		if value, isMap := want["key0"]; isMap {
			for name := range got {
				compareShape(t, path+"."+name, value, got[name])
			}
			return
		}
		for name := range want {
			if _, ok := got[name]; !ok && neverSent[name] == "" {
				t.Errorf("%s: %s is missing", path, name)
			}
		}
		for name := range got {
			if _, ok := want[name]; !ok {
				t.Errorf("%s: %s is not in the model", path, name)
				continue
			}
			compareShape(t, path+"."+name, want[name], got[name])
		}
	case []any:
		got, ok := got.([]any)
		if !ok {
			t.Errorf("%s: got %T, want a list", path, got)
		}
		if len(got) == 0 && !strings.HasSuffix(path, ".relationalDatabaseAvailabilityZones") {
			t.Errorf("%s: the list is empty, so its elements are not compared", path)
		}
		for i := range got {
			compareShape(t, fmt.Sprintf("%s[%d]", path, i), want[0], got[i])
		}
	default:
		if fmt.Sprintf("%T", want) != fmt.Sprintf("%T", got) {
			t.Errorf("%s: got %v (%T), want %T", path, got, got, want)
		}
	}
}

// TestOperations_CoverTheModel compares the table with the SDK's operations: none is missing, none is invented.
func TestOperations_CoverTheModel(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(sdkDir(t), "request_snapshot", "*.request.snap"))
	if err != nil || len(files) < 150 {
		t.Fatalf("got %d samples, %v", len(files), err)
	}
	var want, got []string
	for _, f := range files {
		want = append(want, lightsailPrefix+strings.TrimSuffix(filepath.Base(f), ".request.snap"))
	}
	for _, op := range append(lightsailOperations(&fake{}, view{}), otherOperations()...) {
		got = append(got, op.target())
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("operations of the SDK and of the table (-want +got):\n%s", diff)
	}
}
