package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const wholeFile = `{
  "serviceName": "web",
  "containers": {
    "app": {
      "image": "nginx:1.29",
      "command": ["run", "--fast"],
      "environment": {"LEVEL": "info", "EMPTY": ""},
      "ports": {"80": "HTTP", "53": "UDP"}
    },
    "side": {"image": ":web.side.3", "command": null}
  },
  "publicEndpoint": {
    "containerName": "app",
    "containerPort": 80,
    "healthCheck": {"healthyThreshold": 3, "unhealthyThreshold": 4, "timeoutSeconds": 5, "intervalSeconds": 6, "path": "/up", "successCodes": "200"}
  }
}`

func TestParseDeployment_ReadsEveryMember(t *testing.T) {
	want := &lightsail.CreateContainerServiceDeploymentInput{
		ServiceName: aws.String("web"),
		Containers: map[string]types.Container{
			"app": {
				Image: aws.String("nginx:1.29"), Command: []string{"run", "--fast"}, Environment: map[string]string{"LEVEL": "info", "EMPTY": ""},
				Ports: map[string]types.ContainerServiceProtocol{"80": "HTTP", "53": "UDP"},
			},
			"side": {Image: aws.String(":web.side.3")},
		},
		PublicEndpoint: &types.EndpointRequest{
			ContainerName: aws.String("app"), ContainerPort: aws.Int32(80),
			HealthCheck: &types.ContainerServiceHealthCheckConfig{
				HealthyThreshold: aws.Int32(3), UnhealthyThreshold: aws.Int32(4), TimeoutSeconds: aws.Int32(5), IntervalSeconds: aws.Int32(6),
				Path: aws.String("/up"), SuccessCodes: aws.String("200"),
			},
		},
	}
	for _, data := range []string{wholeFile, "\xef\xbb\xbf" + wholeFile, strings.ReplaceAll(wholeFile, "\n", "\r\n")} {
		got, err := parseDeployment([]byte(data))
		if err != nil {
			t.Fatal(err)
		}
		ignore := cmpopts.IgnoreUnexported(*got, types.Container{}, types.EndpointRequest{}, types.ContainerServiceHealthCheckConfig{})
		if diff := cmp.Diff(want, got, ignore); diff != "" {
			t.Errorf("parseDeployment (-want +got):\n%s", diff)
		}
	}
}

func TestParseDeployment_RefusesWhatWouldBeLost(t *testing.T) {
	for _, tt := range []struct{ file, want string }{
		{"", " is empty"},
		{" \n", " is empty"},
		{"{", ":1:1: this is not JSON: unexpected end of JSON input"},
		{"{\n  \"containers\": {},\n}", ":3:1: this is not JSON: invalid character '}' looking for beginning of object key string"},
		{`{"containers": {}} x`, ":1:20: this is not JSON: invalid character 'x' after top-level value"},
		{"[]", ":1:1: the file must be an object, not a list"},
		{"{}", ":1:1: the member containers is missing"},
		{`{"Containers": {}}`, `:1:2: unknown member "Containers"; did you mean "containers"?`},
		{`{"containers": {}, "foo": 1}`, `:1:20: unknown member "foo"; known here: containers, publicEndpoint, serviceName`},
		{"{\"containers\": {\n\t\"äpp\": {\"image\": \"x\", \"port\": {}}}}", `:2:24: unknown member "containers.äpp.port"; did you mean "ports"?`},
		{`{"containers": {"a": {"image": "x", "image": "y"}}}`, ":1:37: containers.a.image is named twice"},
		{`{"containers": {"a": {}, "a": {}}}`, ":1:26: containers.a is named twice"},
		{`{"containers": {"a": {"command": "run"}}}`, ":1:34: containers.a.command must be a list, not a string"},
		{`{"containers": {"a": {"command": ["run", 1]}}}`, ":1:42: containers.a.command[1] must be a string, not an integer"},
		{`{"containers": {"a": {"environment": {"N": 1}}}}`, ":1:44: containers.a.environment.N must be a string, not an integer"},
		{`{"containers": {"a": {"environment": {"N": true}}}}`, ":1:44: containers.a.environment.N must be a string, not true or false"},
		{`{"containers": {}, "publicEndpoint": {"containerName": "a"}}`, ":1:38: the member publicEndpoint.containerPort is missing"},
		{`{"containers": {}, "publicEndpoint": {"containerName": "a", "containerPort": "80"}}`, ":1:78: publicEndpoint.containerPort must be an integer, not a string"},
		{`{"containers": {}, "publicEndpoint": {"containerName": "a", "containerPort": 80.5}}`, ":1:78: publicEndpoint.containerPort must be an integer, not a number with a fraction"},
		{`{"containers": {}, "publicEndpoint": {"containerName": "a", "containerPort": 3000000000}}`, ":1:78: publicEndpoint.containerPort must be an integer, not a number out of range"},
		{`{"containers": {}, "publicEndpoint": {"containerName": "a", "containerPort": 80, "healthCheck": {"interval": 5}}}`, `:1:98: unknown member "publicEndpoint.healthCheck.interval"; known here: healthyThreshold, intervalSeconds, path, successCodes, timeoutSeconds, unhealthyThreshold`},
	} {
		_, err := parseDeployment([]byte(tt.file))
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s\n got %v\nwant %s", tt.file, err, tt.want)
		}
	}
}

// FuzzParseDeployment checks that what is accepted means the same to the strict reader as to encoding/json, and that
// nothing at all panics.
func FuzzParseDeployment(f *testing.F) {
	f.Add(wholeFile)
	f.Add(`{"containers": {"a": {"environment": {"\u0041": "\ud800"}}}}`)
	f.Add(`{"containers":null}`)
	f.Fuzz(func(t *testing.T, data string) {
		in, err := parseDeployment([]byte(data))
		if err == nil && (in == nil || !json.Valid([]byte(strings.TrimPrefix(data, "\xef\xbb\xbf")))) {
			t.Errorf("accepted %q", data)
		}
		if err != nil && err.Error() == "" {
			t.Error("an error without text")
		}
	})
}
