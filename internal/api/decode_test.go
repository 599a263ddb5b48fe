package api

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// findOperation returns an entry of the table.
func findOperation(tb testing.TB, c Control, name string) operation {
	tb.Helper()
	for _, op := range operations(c, view{testConfig}) {
		if op.name == name {
			return op
		}
	}
	tb.Fatalf("no operation %q", name)
	return operation{}
}

func TestDecode_Refuses(t *testing.T) {
	const serialization, invalid = "SerializationException", "InvalidInputException"
	tests := []struct {
		name      string
		operation string
		body      string
		exception string
		message   string // the whole text
	}{
		{"no JSON", "GetContainerServices", `{serviceName}`, serialization, "The request body is not valid JSON: see byte 2 of 13."},
		{"cut off", "GetContainerServices", `{"serviceName":`, serialization, "The request body is not valid JSON: see byte 15 of 15."},
		{"trailing comma", "GetContainerServices", `{"serviceName":"a",}`, serialization, "The request body is not valid JSON: see byte 20 of 20."},
		{"trailing text", "GetContainerServices", `{} {}`, serialization, "The request body is not valid JSON: see byte 4 of 5."},
		{"not UTF-8", "GetContainerServices", "{\"serviceName\":\"\xff\"}", serialization, "The request body is not valid UTF-8."},
		{"list", "GetContainerServices", `[]`, serialization, "The request body must be a JSON object, not a list."},
		{"null", "GetContainerServices", `null`, serialization, "The request body must be a JSON object, not null."},
		{"string", "GetContainerServices", `"{}"`, serialization, "The request body must be a JSON object, not a string."},
		{"member twice", "GetContainerServices", `{"serviceName":"a","serviceName":"b"}`, serialization, `Member "serviceName" occurs twice.`},
		{"variable twice", "CreateContainerServiceDeployment", `{"serviceName":"a","containers":{"app":{"environment":{"A":"1","A":"2"}}}}`, serialization, `Member "containers.app.environment.A" occurs twice.`},
		{"too deep", "GetContainerServices", `{"x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "}", serialization, "The request body is nested more than 32 levels deep."},
		{"objects too deep", "GetContainerServices", strings.Repeat(`{"x":`, 40) + "1" + strings.Repeat("}", 40), serialization, "The request body is nested more than 32 levels deep."},
		{"much too deep", "GetContainerServices", strings.Repeat("[", 500_000), serialization, "The request body is not valid JSON: see byte 10001 of 500000."},

		{"missing", "DeleteContainerService", `{}`, invalid, `Missing required member "serviceName".`},
		{"null is missing", "DeleteContainerService", `{"serviceName":null}`, invalid, `Missing required member "serviceName".`},
		{"case matters", "DeleteContainerService", `{"ServiceName":"web"}`, invalid, `Missing required member "serviceName".`},
		{"second missing", "CreateContainerService", `{"serviceName":"web","power":"nano"}`, invalid, `Missing required member "scale".`},
		{"missing within", "CreateContainerServiceDeployment", `{"serviceName":"web","publicEndpoint":{"containerName":"app"}}`, invalid, `Missing required member "publicEndpoint.containerPort".`},
		{"missing in deployment", "CreateContainerService", `{"serviceName":"web","power":"nano","scale":1,"deployment":{"publicEndpoint":{}}}`, invalid, `Missing required member "deployment.publicEndpoint.containerName".`},
		{"tags missing", "TagResource", `{"resourceName":"web"}`, invalid, `Missing required member "tags".`},
		{"empty name", "GetContainerServices", `{"serviceName":""}`, invalid, `Member "serviceName" must not be empty. Leave it out to get all services.`},

		{"number for string", "DeleteContainerService", `{"serviceName":5}`, serialization, `Member "serviceName" must be a string, not a number.`},
		{"string for integer", "UpdateContainerService", `{"serviceName":"a","scale":"2"}`, serialization, `Member "scale" must be an integer, not a string.`},
		{"fraction for integer", "UpdateContainerService", `{"serviceName":"a","scale":1.5}`, serialization, `Member "scale" must be an integer of 32 bits, not 1.5.`},
		{"large integer", "UpdateContainerService", `{"serviceName":"a","scale":2147483648}`, serialization, `Member "scale" must be an integer of 32 bits, not 2147483648.`},
		{"absurd integer", "UpdateContainerService", `{"serviceName":"a","scale":1e999}`, serialization, `Member "scale" must be an integer of 32 bits, not 1e999.`},
		{"string for boolean", "UpdateContainerService", `{"serviceName":"a","isDisabled":"true"}`, serialization, `Member "isDisabled" must be a boolean, not a string.`},
		{"list for object", "CreateContainerServiceDeployment", `{"serviceName":"a","containers":[]}`, serialization, `Member "containers" must be an object, not a list.`},
		{"string for list", "CreateContainerServiceDeployment", `{"serviceName":"a","containers":{"app":{"command":"run"}}}`, serialization, `Member "containers.app.command" must be a list, not a string.`},
		{"null in list", "CreateContainerServiceDeployment", `{"serviceName":"a","containers":{"app":{"command":["a",null]}}}`, serialization, `Member "containers.app.command[1]" must not be null.`},
		{"number for port's protocol", "CreateContainerServiceDeployment", `{"serviceName":"a","containers":{"app":{"ports":{"80":80}}}}`, serialization, `Member "containers.app.ports.80" must be a string, not a number.`},
		{"string for tag", "TagResource", `{"resourceName":"a","tags":["a=b"]}`, serialization, `Member "tags[0]" must be an object, not a string.`},
		{"number for tag's value", "TagResource", `{"resourceName":"a","tags":[{"key":"a","value":1}]}`, serialization, `Member "tags[0].value" must be a string, not a number.`},
		{"date for timestamp", "GetContainerLog", `{"serviceName":"a","containerName":"b","startTime":"2026-01-01T00:00:00Z"}`, serialization, `Member "startTime" must be a timestamp in seconds since 1970 as a number, not a string.`},
		{"milliseconds for timestamp", "GetContainerLog", `{"serviceName":"a","containerName":"b","endTime":1652233466250}`, serialization, `Member "endTime" must be a timestamp in seconds since 1970, not 1652233466250.`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := serveText(findOperation(t, &fake{}, tt.operation), []byte(tt.body)) // a call of control would panic
			if e := exceptionOf(err); err == nil || e.name != tt.exception || e.message != tt.message {
				t.Errorf("got  %v\nwant %s: %s", err, tt.exception, tt.message)
			}
		})
	}
}

func TestDecode_NumbersAndNulls(t *testing.T) {
	var log control.GetContainerLogInput
	var update control.UpdateContainerServiceInput
	var deploy control.DeploymentInput
	f := &fake{
		log: func(in control.GetContainerLogInput) (*control.LogPage, error) {
			log = in
			return &control.LogPage{}, nil
		},
		updateService: func(in control.UpdateContainerServiceInput) (*trysail.Service, error) {
			update = in
			return &trysail.Service{}, nil
		},
		deploy: func(_ string, in control.DeploymentInput) (*trysail.Service, error) {
			deploy = in
			return &trysail.Service{}, nil
		},
	}
	serve := func(name, body string) {
		t.Helper()
		if _, err := serveText(findOperation(t, f, name), []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	serve("GetContainerLog", `{"serviceName":"web","containerName":"app","startTime":1.603389001E9,"endTime":1603389001.25,"pageToken":null,"unknown":{"a":[1]}}`)
	want := control.GetContainerLogInput{ServiceName: "web", ContainerName: "app", StartTime: new(time.Unix(1603389001, 0).UTC()), EndTime: new(time.UnixMilli(1603389001250).UTC())}
	if diff := cmp.Diff(want, log); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	serve("UpdateContainerService", `{"serviceName":"web","scale":2.0e0,"power":null,"publicDomainNames":{"cert":[],"gone":null},"privateRegistryAccess":{"ecrImagePullerRole":{"isActive":false}}}`)
	if diff := cmp.Diff(control.UpdateContainerServiceInput{ServiceName: "web", Scale: new(2), PublicDomainNames: map[string][]string{"cert": {}}, ECRPuller: new(false)}, update); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	serve("CreateContainerServiceDeployment", `{"serviceName":"web","containers":{"app":{"image":"a","command":null,"environment":{"A":null,"B":""},"ports":{}},"gone":null},"publicEndpoint":null}`)
	if diff := cmp.Diff(control.DeploymentInput{Containers: map[string]trysail.Container{
		"app": {Image: "a", Environment: map[string]string{"B": ""}, Ports: map[string]trysail.Protocol{}},
	}}, deploy); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzDecode gives every operation arbitrary bodies. Whatever they are, the outcome is an answer that has a JSON form
// or an exception of the client's fault.
func FuzzDecode(f *testing.F) {
	var got any
	c := recorder(&got)
	c.diagnosis = func(string, int) (*trysail.Diagnosis, error) { return &trysail.Diagnosis{}, nil }
	c.record = func(string, int) (*control.DeploymentRecord, error) { return &control.DeploymentRecord{}, nil }
	c.hold = func(control.HoldDeploymentInput) error { return nil }
	c.cancel = func(string) error { return nil }
	c.metrics = func(control.GetServiceMetricDataInput) (*control.ServiceMetrics, error) {
		return &control.ServiceMetrics{}, nil
	}
	c.keys = func() ([]control.AccessKey, error) { return nil, nil }
	c.createKey = func(control.CreateAccessKeyInput) (*control.AccessKey, error) { return &control.AccessKey{}, nil }
	c.deleteKey = func(string) error { return nil }
	table := operations(c, view{testConfig})
	for i := range 27 {
		f.Add(uint8(i), []byte(`{"serviceName":"web","power":"nano","scale":1,"deployment":{"containers":{"app":{"image":"a","command":["b"],"environment":{"A":"1"},"ports":{"80":"HTTP"}}},`+
			`"publicEndpoint":{"containerName":"app","containerPort":80,"healthCheck":{"path":"/"}}},"tags":[{"key":"k"}],"startTime":1.5e9,"resourceName":"web","tagKeys":["k"]}`))
	}
	f.Add(uint8(0), []byte(`{"a":[[[[null]]],{}],"a":1}`))
	f.Add(uint8(1), []byte("{\"serviceName\":\"\\ud800\x00\"}"))
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		op := table[int(which)%len(table)]
		answer, err := serveText(op, body)
		if err != nil {
			if e := exceptionOf(err); e.status != 400 || e.message == "" || len(e.message) > 1000 {
				t.Fatalf("%s: %v", op.name, err)
			}
			return
		}
		if !json.Valid(body) && len(body) > 0 {
			t.Fatalf("%s: accepted what is not JSON: %q", op.name, body)
		}
		if _, err := encode(answer); err != nil {
			t.Fatal(err)
		}
	})
}

// TestExceptionOf_KeepsForeignErrorsInside: only a *trysail.Error has text for clients.
func TestExceptionOf_KeepsForeignErrorsInside(t *testing.T) {
	_, err := os.Open(filepath.Join(t.TempDir(), "secret-name"))
	if e := exceptionOf(errors.Join(errors.New("x"), err)); strings.Contains(e.message, "secret-name") || e.status != 500 {
		t.Errorf("got %+v", e)
	}
}
