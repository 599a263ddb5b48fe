//go:build e2e

// Package e2e drives the built program as its users do: with the AWS CLI, boto3, the SDKs for Go and JavaScript and
// its own command line, against real containers. It needs root and what scripts/setup.sh test installs.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/aws/smithy-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/trysail/trysail/test/acme"
	"github.com/trysail/trysail/test/kit"
)

// world is what all tests share: a registry with images and one server.
type world struct {
	registry *kit.Registry
	server   *kit.Server
}

var shared world

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	if os.Getuid() != 0 {
		return 1, errors.New("the end-to-end tests need root: they run containers")
	}
	if err := acme.Hurry(); err != nil {
		return 1, err
	}
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "trysail-registry-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if shared.registry, err = kit.StartRegistry(ctx, dir); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, shared.registry.Close()) }()
	if err := pushImages(ctx, shared.registry); err != nil {
		return 1, err
	}
	// Broken deployments of these tests shall not be waited for as long as real ones.
	shared.server, err = kit.StartServer(ctx, kit.ServerOptions{Flags: []string{"--activation-timeout", "20s", "--drain-timeout", "10s"}})
	if err != nil {
		return 1, err
	}
	defer func() {
		if code != 0 {
			kept, keepErr := shared.server.KeepLogs()
			fmt.Fprintf(os.Stderr, "the shared server's logs are kept in %s\n", kept)
			err = errors.Join(err, keepErr)
		}
		err = errors.Join(err, shared.server.Remove(ctx))
	}()
	return m.Run(), nil
}

// pushImages fills the registry. web:N answers "version N".
func pushImages(ctx context.Context, r *kit.Registry) error {
	images := map[string]func() (v1.Image, error){
		"nginx:1":       func() (v1.Image, error) { return kit.Nginx("<h1>page one</h1>\n") },
		"nginx:2":       func() (v1.Image, error) { return kit.Nginx("<h1>page two</h1>\n") },
		"redis:7":       kit.Redis,
		"noprogram:1":   kit.NoProgram,
		"web-foreign:1": func() (v1.Image, error) { return kit.WebFor(ctx, "foreign", foreignArch()) },
	}
	for i := 1; i <= 3; i++ {
		images[fmt.Sprintf("web:%d", i)] = func() (v1.Image, error) { return kit.Web(ctx, fmt.Sprint(i)) }
	}
	for name, make := range images {
		img, err := make()
		if err != nil {
			return err
		}
		if _, err := r.Push(ctx, name, img); err != nil {
			return err
		}
	}
	return nil
}

func foreignArch() string {
	if runtime.GOARCH == "amd64" {
		return "arm64"
	}
	return "amd64"
}

// image is the full name of an image in the shared registry.
func image(tagged string) string { return shared.registry.Host + "/" + tagged }

// dedicated starts a server for one test alone and removes it, with all its services, when the test ends.
func dedicated(t *testing.T, o kit.ServerOptions) *kit.Server {
	t.Helper()
	s, err := kit.StartServer(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, s) })
	return s
}

func remove(t *testing.T, s *kit.Server) {
	t.Helper()
	if t.Failed() {
		kept, err := s.KeepLogs()
		t.Logf("the server's logs are kept in %s (%v); their end:\n%s", kept, err, s.LogTail(30))
	}
	if ended, err := s.Ended(); ended {
		t.Logf("the server had ended (%v) before its services could be deleted", err)
	}
	if err := s.Remove(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

// client is what tests in Go say of a service.
type client struct {
	t      *testing.T
	server *kit.Server
	api    *lightsail.Client
}

func clientOf(t *testing.T, s *kit.Server) *client {
	t.Helper()
	return &client{t: t, server: s, api: s.Client()}
}

// create makes a service and waits until it is READY.
func (c *client) create(name string, power types.ContainerServicePowerName, scale int32) {
	c.t.Helper()
	_, err := c.api.CreateContainerService(c.t.Context(), &lightsail.CreateContainerServiceInput{
		ServiceName: &name, Power: power, Scale: &scale,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.waitState(name, types.ContainerServiceStateReady)
}

// webDeployment is the deployment of one web container that serves on 8080.
func webDeployment(service, tagged string, env map[string]string) *lightsail.CreateContainerServiceDeploymentInput {
	return &lightsail.CreateContainerServiceDeploymentInput{
		ServiceName: &service,
		Containers: map[string]types.Container{"web": {
			Image:       aws.String(image(tagged)),
			Environment: env,
			Ports:       map[string]types.ContainerServiceProtocol{"8080": types.ContainerServiceProtocolHttp},
		}},
		PublicEndpoint: &types.EndpointRequest{
			ContainerName: aws.String("web"),
			ContainerPort: aws.Int32(8080),
			HealthCheck:   &types.ContainerServiceHealthCheckConfig{Path: aws.String("/health"), SuccessCodes: aws.String("200")},
		},
	}
}

// deploy asks for a deployment and returns its version.
func (c *client) deploy(in *lightsail.CreateContainerServiceDeploymentInput) int32 {
	c.t.Helper()
	out, err := c.api.CreateContainerServiceDeployment(c.t.Context(), in)
	if err != nil {
		c.t.Fatal(err)
	}
	next := out.ContainerService.NextDeployment
	if next == nil || next.Version == nil {
		c.t.Fatalf("the answer to a deployment names no version: %+v", out.ContainerService)
	}
	return *next.Version
}

func (c *client) service(name string) types.ContainerService {
	c.t.Helper()
	s, err := c.get(name)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *client) get(name string) (types.ContainerService, error) {
	out, err := c.api.GetContainerServices(c.t.Context(), &lightsail.GetContainerServicesInput{ServiceName: &name})
	if err != nil {
		return types.ContainerService{}, err
	}
	if len(out.ContainerServices) != 1 {
		return types.ContainerService{}, fmt.Errorf("asked for service %q, got %d services", name, len(out.ContainerServices))
	}
	return out.ContainerServices[0], nil
}

// waitState waits until the service is in the state.
func (c *client) waitState(name string, want types.ContainerServiceState) types.ContainerService {
	c.t.Helper()
	var s types.ContainerService
	err := kit.Until(c.t.Context(), 90*time.Second, func() (err error) {
		if s, err = c.get(name); err != nil {
			return err
		}
		if s.State != want {
			return fmt.Errorf("service %q is %s (%s), want %s", name, s.State, detail(s), want)
		}
		return nil
	})
	if err != nil {
		c.t.Fatalf("%v\n%s", err, c.server.LogTail(30))
	}
	return s
}

func detail(s types.ContainerService) string {
	if s.StateDetail == nil {
		return "no detail"
	}
	return string(s.StateDetail.Code) + " " + aws.ToString(s.StateDetail.Message)
}

// waitVersion waits until the service's deployment version is in the state.
func (c *client) waitVersion(name string, version int32, want types.ContainerServiceDeploymentState) {
	c.t.Helper()
	err := kit.Until(c.t.Context(), 90*time.Second, func() error {
		out, err := c.api.GetContainerServiceDeployments(c.t.Context(), &lightsail.GetContainerServiceDeploymentsInput{ServiceName: &name})
		if err != nil {
			return err
		}
		for _, d := range out.Deployments {
			if aws.ToInt32(d.Version) != version {
				continue
			}
			if d.State == want {
				return nil
			}
			return fmt.Errorf("version %d of %q is %s, want %s", version, name, d.State, want)
		}
		return fmt.Errorf("service %q has no version %d", name, version)
	})
	if err != nil {
		c.t.Fatalf("%v\n%s\n%s", err, strings.Join(c.logs(name), "\n"), c.server.LogTail(30))
	}
}

// delete deletes the service and waits until it is gone.
func (c *client) delete(name string) {
	c.t.Helper()
	if _, err := c.api.DeleteContainerService(c.t.Context(), &lightsail.DeleteContainerServiceInput{ServiceName: &name}); err != nil {
		c.t.Fatal(err)
	}
	c.eventually(name+" to be gone", func() bool {
		_, err := c.get(name)
		_, notFound := errors.AsType[*types.NotFoundException](err)
		return notFound
	})
}

// eventually waits for something that needs no further explanation.
func (c *client) eventually(what string, ok func() bool) {
	c.t.Helper()
	err := kit.Until(c.t.Context(), 60*time.Second, func() error {
		if !ok() {
			return errors.New("waiting for " + what)
		}
		return nil
	})
	if err != nil {
		c.t.Fatalf("%v\n%s", err, c.server.LogTail(30))
	}
}

// logs returns all messages of container web, page by page, oldest first.
func (c *client) logs(name string) []string {
	c.t.Helper()
	in := &lightsail.GetContainerLogInput{ServiceName: &name, ContainerName: aws.String("web")}
	var lines []string
	broken := 0
	for {
		out, err := c.api.GetContainerLog(c.t.Context(), in)
		// Reading is repeated when the connection broke on the way, as the SDK does unless it is told not to; what the
		// server answers counts at once.
		if _, answered := errors.AsType[smithy.APIError](err); err != nil && !answered && broken < 3 {
			broken++
			c.t.Logf("reading the log again: %v", err)
			continue
		}
		if err != nil {
			c.t.Fatal(err)
		}
		for _, e := range out.LogEvents {
			lines = append(lines, aws.ToString(e.Message))
		}
		if in.PageToken = out.NextPageToken; in.PageToken == nil {
			return lines
		}
	}
}

// url is the address of path on the service's default domain.
func (c *client) url(name, path string) string {
	c.t.Helper()
	return strings.TrimSuffix(aws.ToString(c.service(name).Url), "/") + path
}

// scratch is a folder of a test whose path is short enough for sockets below it.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "trysail-") //nolint:usetesting // the name of the test would make the path too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return filepath.Clean(dir)
}
