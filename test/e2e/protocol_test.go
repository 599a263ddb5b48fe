//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"

	"github.com/trysail/trysail/test/kit"
)

const (
	target      = "Lightsail_20161128."
	namePattern = "^(?:[a-z0-9]{1,2}|[a-z0-9][a-z0-9-]+[a-z0-9])$"
)

// TestAPI_RefusesBadInput sends what no SDK would, and what SDKs let through. Every answer must be an error that the
// contract knows, and nothing may have changed afterwards.
func TestAPI_RefusesBadInput(t *testing.T) {
	c := clientOf(t, shared.server)
	c.create("input", types.ContainerServicePowerNameNano, 1)
	before := names(t, c)

	deployment := func(rest string) string { return `{"serviceName":"input",` + rest + `}` }
	endpoint := func(health string) string {
		return deployment(`"containers":{"a":{"image":"nginx","ports":{"80":"HTTP"}}},"publicEndpoint":{"containerName":"a","containerPort":80,"healthCheck":{` + health + `}}`)
	}
	var many []string
	for i := range 11 {
		many = append(many, fmt.Sprintf(`"c%d":{"image":"nginx"}`, i))
	}

	tests := []struct {
		name   string
		call   kit.Call
		status int
		types  []string // any of them
		text   string   // part of the message
	}{
		// Before the operation.
		{"no target", kit.Call{Body: `{}`}, 404, []string{"UnknownOperationException"}, ""},
		{"unknown target", kit.Call{Target: target + "MakeCoffee", Body: `{}`}, 404, []string{"UnknownOperationException"}, ""},
		{"another service's target", kit.Call{Target: "DynamoDB_20120810.ListTables", Body: `{}`}, 404, []string{"UnknownOperationException"}, ""},
		{"an operation for instances", kit.Call{Target: target + "GetInstances", Body: `{}`}, 400, []string{"InvalidInputException"}, "container services"},
		{"wrong secret", kit.Call{Target: target + "GetRegions", Body: `{}`, Secret: "wrong"}, 403, []string{"InvalidSignatureException", "UnauthenticatedException"}, "signature"},
		{"unknown key", kit.Call{Target: target + "GetRegions", Body: `{}`, Key: "AKIAIOSFODNN7EXAMPLE"}, 403, []string{"UnrecognizedClientException"}, ""},
		{"signed yesterday", kit.Call{Target: target + "GetRegions", Body: `{}`, Time: time.Now().Add(-24 * time.Hour)}, 403, []string{"InvalidSignatureException"}, "expired"},
		{"signed tomorrow", kit.Call{Target: target + "GetRegions", Body: `{}`, Time: time.Now().Add(24 * time.Hour)}, 403, []string{"InvalidSignatureException"}, ""},
		{"signed 20 minutes ago", kit.Call{Target: target + "GetRegions", Body: `{}`, Time: time.Now().Add(-20 * time.Minute)}, 403, []string{"InvalidSignatureException"}, "expired"},
		{"no signature", kit.Call{Target: target + "GetRegions", Body: `{}`, After: func(r *http.Request) { r.Header.Del("Authorization") }}, 403, []string{"MissingAuthenticationTokenException", "IncompleteSignatureException", "IncompleteSignature", "UnauthenticatedException"}, ""},
		{"half a signature", kit.Call{Target: target + "GetRegions", Body: `{}`, After: func(r *http.Request) {
			r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=x")
		}}, 403, []string{"IncompleteSignatureException", "IncompleteSignature"}, ""},
		{"another body than the signed one", kit.Call{Target: target + "CreateContainerService", Body: `{"serviceName":"x1","power":"nano","scale":1}`, After: func(r *http.Request) {
			r.Body = readCloser(`{"serviceName":"x9","power":"nano","scale":1}`)
		}}, 403, []string{"InvalidSignatureException"}, ""},
		{"another operation than the signed one", kit.Call{Target: target + "GetRegions", Body: `{}`, After: func(r *http.Request) {
			r.Header.Set("X-Amz-Target", target+"GetContainerServices")
		}}, 403, []string{"InvalidSignatureException"}, ""},
		{"a body over the limit", kit.Call{Target: target + "CreateContainerService", Body: `{"serviceName":"` + strings.Repeat("x", 20<<20) + `"}`}, 413, []string{"RequestEntityTooLargeException"}, ""},
		{"half of JSON", kit.Call{Target: target + "CreateContainerService", Body: `{"serviceName":`}, 400, []string{"SerializationException"}, ""},
		{"no JSON", kit.Call{Target: target + "CreateContainerService", Body: `serviceName=x`}, 400, []string{"SerializationException"}, ""},
		{"a list", kit.Call{Target: target + "CreateContainerService", Body: `[]`}, 400, []string{"SerializationException"}, ""},
		{"two objects", kit.Call{Target: target + "GetRegions", Body: `{}{}`}, 400, []string{"SerializationException"}, ""},
		{"a number for a name", kit.Call{Target: target + "CreateContainerService", Body: `{"serviceName":7,"power":"nano","scale":1}`}, 400, []string{"SerializationException"}, ""},
		{"a text for a number", kit.Call{Target: target + "CreateContainerService", Body: `{"serviceName":"x1","power":"nano","scale":"1"}`}, 400, []string{"SerializationException"}, ""},
		{"a fraction for a number", kit.Call{Target: target + "CreateContainerService", Body: `{"serviceName":"x1","power":"nano","scale":1.5}`}, 400, []string{"SerializationException"}, ""},

		// CreateContainerService.
		invalid("no name", "CreateContainerService", `{"power":"nano","scale":1}`, "serviceName"),
		invalid("null for a name", "CreateContainerService", `{"serviceName":null,"power":"nano","scale":1}`, "serviceName"),
		invalid("no power", "CreateContainerService", `{"serviceName":"x1","scale":1}`, "power"),
		invalid("no scale", "CreateContainerService", `{"serviceName":"x1","power":"nano"}`, "scale"),
		invalid("upper case", "CreateContainerService", `{"serviceName":"UPPER_bad","power":"nano","scale":1}`, `Service name "UPPER_bad" does not match pattern: `+namePattern),
		invalid("only the ungrouped pattern matches", "CreateContainerService", `{"serviceName":"ab anything","power":"nano","scale":1}`, `does not match pattern: `+namePattern),
		invalid("a name of 64", "CreateContainerService", `{"serviceName":"`+strings.Repeat("a", 64)+`","power":"nano","scale":1}`, strings.Repeat("a", 64)),
		invalid("an unknown power", "CreateContainerService", `{"serviceName":"x1","power":"huge","scale":1}`, "huge"),
		invalid("scale 0", "CreateContainerService", `{"serviceName":"x1","power":"nano","scale":0}`, "0"),
		invalid("scale 21", "CreateContainerService", `{"serviceName":"x1","power":"nano","scale":21}`, "21"),
		invalid("a name in use", "CreateContainerService", `{"serviceName":"input","power":"nano","scale":1}`, "Some names are already in use: input"),
		invalid("a reserved tag", "CreateContainerService", `{"serviceName":"x1","power":"nano","scale":1,"tags":[{"key":"aws:x","value":"y"}]}`, "aws:"),
		invalid("a bad deployment along with it", "CreateContainerService", `{"serviceName":"x1","power":"nano","scale":1,"deployment":{"containers":{"B_d":{"image":"nginx"}}}}`, `Container name "B_d" does not match pattern: `+namePattern),

		// CreateContainerServiceDeployment.
		notFound("deploying to nobody", "CreateContainerServiceDeployment", `{"serviceName":"nobody","containers":{"a":{"image":"nginx"}}}`),
		invalid("no containers", "CreateContainerServiceDeployment", `{"serviceName":"input"}`, "container"),
		invalid("empty containers", "CreateContainerServiceDeployment", deployment(`"containers":{}`), "container"),
		invalid("11 containers", "CreateContainerServiceDeployment", deployment(`"containers":{`+strings.Join(many, ",")+`}`), "10"),
		invalid("a container name", "CreateContainerServiceDeployment", deployment(`"containers":{"backend_api":{"image":"nginx"}}`), `Container name "backend_api" does not match pattern: `+namePattern),
		invalid("no image", "CreateContainerServiceDeployment", deployment(`"containers":{"a":{}}`), "image"),
		invalid("a bad stored image", "CreateContainerServiceDeployment", deployment(`"containers":{"a":{"image":":input.a.LATEST"}}`), `Container "a" has invalid image ":input.a.LATEST". Example of valid image: ":input.a.123".`),
		invalid("an image that is no reference", "CreateContainerServiceDeployment", deployment(`"containers":{"a":{"image":"Not An Image"}}`), "Not An Image"),
		invalid("port 0", "CreateContainerServiceDeployment", deployment(`"containers":{"a":{"image":"nginx","ports":{"0":"HTTP"}}}`), "0"),
		invalid("port 65536", "CreateContainerServiceDeployment", deployment(`"containers":{"a":{"image":"nginx","ports":{"65536":"HTTP"}}}`), "65536"),
		invalid("a port that is no number", "CreateContainerServiceDeployment", deployment(`"containers":{"a":{"image":"nginx","ports":{"http":"HTTP"}}}`), "http"),
		invalid("an unknown protocol", "CreateContainerServiceDeployment", deployment(`"containers":{"a":{"image":"nginx","ports":{"80":"http"}}}`), "http"),
		invalid("an endpoint's unknown container", "CreateContainerServiceDeployment", deployment(`"containers":{"a":{"image":"nginx","ports":{"80":"HTTP"}}},"publicEndpoint":{"containerName":"b","containerPort":80}`), "b"),
		invalid("an endpoint's unknown port", "CreateContainerServiceDeployment", deployment(`"containers":{"a":{"image":"nginx","ports":{"80":"HTTP"}}},"publicEndpoint":{"containerName":"a","containerPort":81}`), "Invalid port specified. You must specify a port that is in the list of ports of the specified container."),
		invalid("an endpoint's TCP port", "CreateContainerServiceDeployment", deployment(`"containers":{"a":{"image":"nginx","ports":{"80":"TCP"}}},"publicEndpoint":{"containerName":"a","containerPort":80}`), ""),
		invalid("an endpoint without a port", "CreateContainerServiceDeployment", deployment(`"containers":{"a":{"image":"nginx","ports":{"80":"HTTP"}}},"publicEndpoint":{"containerName":"a"}`), "containerPort"),
		invalid("timeout 1", "CreateContainerServiceDeployment", endpoint(`"timeoutSeconds":1`), "1"),
		invalid("timeout 61", "CreateContainerServiceDeployment", endpoint(`"timeoutSeconds":61,"intervalSeconds":300`), "61"),
		invalid("interval 4", "CreateContainerServiceDeployment", endpoint(`"intervalSeconds":4`), "4"),
		invalid("interval 301", "CreateContainerServiceDeployment", endpoint(`"intervalSeconds":301`), "301"),
		invalid("timeout as long as the interval", "CreateContainerServiceDeployment", endpoint(`"timeoutSeconds":5,"intervalSeconds":5`), "5"),
		invalid("success code 500", "CreateContainerServiceDeployment", endpoint(`"successCodes":"500"`), "500"),
		invalid("no success codes", "CreateContainerServiceDeployment", endpoint(`"successCodes":"abc"`), "abc"),
		invalid("a backwards range", "CreateContainerServiceDeployment", endpoint(`"successCodes":"299-200"`), "299-200"),
		invalid("a path without a slash", "CreateContainerServiceDeployment", endpoint(`"path":"health"`), "health"),
		invalid("threshold 0", "CreateContainerServiceDeployment", endpoint(`"healthyThreshold":0`), "0"),

		// The others.
		notFound("updating nobody", "UpdateContainerService", `{"serviceName":"nobody","scale":2}`),
		invalid("updating to scale 21", "UpdateContainerService", `{"serviceName":"input","scale":21}`, "21"),
		notFound("deleting nobody", "DeleteContainerService", `{"serviceName":"nobody"}`),
		invalid("deleting without a name", "DeleteContainerService", `{}`, "serviceName"),
		notFound("the deployments of nobody", "GetContainerServiceDeployments", `{"serviceName":"nobody"}`),
		notFound("the service nobody", "GetContainerServices", `{"serviceName":"nobody"}`),
		notFound("the log of nobody", "GetContainerLog", `{"serviceName":"nobody","containerName":"a"}`),
		notFound("the log of an unknown container", "GetContainerLog", `{"serviceName":"input","containerName":"a"}`),
		invalid("a page token from nowhere", "GetContainerLog", `{"serviceName":"input","containerName":"a","pageToken":"nonsense"}`, ""),
		notFound("tagging nobody", "TagResource", `{"resourceName":"nobody","tags":[{"key":"a"}]}`),
	}
	requestID := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := shared.server.Call(t.Context(), tt.call)
			if err != nil {
				t.Fatal(err)
			}
			if got.Status != tt.status || !slices.Contains(tt.types, got.Type) || !strings.Contains(got.Message, tt.text) {
				t.Errorf("answered %d %s, want %d %s with %q", got.Status, got.Body, tt.status, strings.Join(tt.types, " or "), tt.text)
			}
			if got.Message == "" {
				t.Error("the error has no message")
			}
			if id := got.Header.Get("X-Amzn-Requestid"); !requestID.MatchString(id) {
				t.Errorf("the request id is %q", id)
			}
			if kind := got.Header.Get("X-Amzn-Errortype"); kind != got.Type {
				t.Errorf("the header says %q, the body %q", kind, got.Type)
			}
			if ct := got.Header.Get("Content-Type"); ct != "application/x-amz-json-1.1" {
				t.Errorf("Content-Type is %q", ct)
			}
		})
	}
	if after := names(t, c); !slices.Equal(before, after) {
		t.Errorf("the services were %v and now are %v", before, after)
	}
	if s := c.service("input"); s.State != types.ContainerServiceStateReady || s.NextDeployment != nil || aws.ToInt32(s.Scale) != 1 {
		t.Errorf("the service has changed: %+v", s)
	}
	c.delete("input")
}

type refusal = struct {
	name   string
	call   kit.Call
	status int
	types  []string
	text   string
}

func invalid(name, operation, body, text string) refusal {
	kinds := []string{"InvalidInputException"}
	if strings.Contains(body, "pageToken") {
		kinds = append(kinds, "NotFoundException") // whichever is looked at first
	}
	return refusal{name, kit.Call{Target: target + operation, Body: body}, 400, kinds, text}
}

func notFound(name, operation, body string) refusal {
	return refusal{name, kit.Call{Target: target + operation, Body: body}, 400, []string{"NotFoundException"}, ""}
}

// TestAPI_IgnoresUnknownMembers: as AWS does.
func TestAPI_IgnoresUnknownMembers(t *testing.T) {
	got, err := shared.server.Call(t.Context(), kit.Call{Target: target + "GetRegions", Body: `{"colour":{"of":["the",1]},"includeAvailabilityZones":null}`})
	if err != nil {
		t.Fatal(err)
	}
	if got.Status != http.StatusOK || !strings.Contains(string(got.Body), `"us-east-1"`) {
		t.Errorf("answered %d %s", got.Status, got.Body)
	}
}

// TestAPI_BusyService: what may not happen at the same time is refused in the words that Terraform waits for.
func TestAPI_BusyService(t *testing.T) {
	c := clientOf(t, shared.server)
	c.create("busy", types.ContainerServicePowerNameNano, 1)
	version := c.deploy(webDeployment("busy", "web:1", map[string]string{"START_DELAY": "6s"}))
	want := fmt.Sprintf(`Sorry, deployment %d is in progress for service "busy". Please wait for it to complete before trying again.`, version)
	_, err := c.api.CreateContainerServiceDeployment(t.Context(), webDeployment("busy", "web:2", nil))
	wantInvalid(t, "a second deployment", err, want)
	_, err = c.api.UpdateContainerService(t.Context(), &lightsail.UpdateContainerServiceInput{ServiceName: aws.String("busy"), Scale: aws.Int32(2)})
	wantInvalid(t, "an update", err, "lease ") // "Please …": both texts that clients retry on have it
	_, err = c.api.DeleteContainerService(t.Context(), &lightsail.DeleteContainerServiceInput{ServiceName: aws.String("busy")})
	wantInvalid(t, "a deletion", err, "lease ")
	c.waitVersion("busy", version, types.ContainerServiceDeploymentStateActive)
	c.waitState("busy", types.ContainerServiceStateRunning)
	c.delete("busy")
}

func wantInvalid(t *testing.T, what string, err error, text string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s was accepted", what)
		return
	}
	if !strings.Contains(err.Error(), "InvalidInputException") || !strings.Contains(err.Error(), text) {
		t.Errorf("%s was answered %v, want InvalidInputException with %q", what, err, text)
	}
}

func names(t *testing.T, c *client) []string {
	t.Helper()
	out, err := c.api.GetContainerServices(t.Context(), &lightsail.GetContainerServicesInput{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range out.ContainerServices {
		names = append(names, aws.ToString(s.ContainerServiceName))
	}
	return names
}

func readCloser(text string) io.ReadCloser { return io.NopCloser(strings.NewReader(text)) }
