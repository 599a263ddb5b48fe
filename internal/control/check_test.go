package control_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

func TestCheckDeployment(t *testing.T) {
	b := newBed(t, func(c *control.Config) {
		c.Memory = 1 << 30
		c.Images = resolver(func(_ context.Context, name string) (trysail.Image, error) {
			switch {
			case strings.HasPrefix(name, "nope"):
				return trysail.Image{}, &trysail.ImageError{Code: "IMG-TAG", Image: name, Message: "No such tag.", Fix: "Use another.", Final: true}
			case strings.HasPrefix(name, "slow"):
				return trysail.Image{}, &trysail.ImageError{Code: "IMG-SLOW", Image: name, Message: "No answer.", Fix: "Wait."}
			case strings.HasPrefix(name, "empty"):
				return trysail.Image{Name: name, Digest: "sha256:e"}, nil
			}
			return trysail.Image{Name: name, Digest: "sha256:n", Command: []string{"nginx"}, ExposedPorts: []string{"8080/tcp"}}, nil
		})
	})
	b.create("web", trysail.ServiceReady, "")
	b.create("busy", trysail.ServiceDeploying, trysail.DeploymentActivating)
	before := b.state()
	with := func(service, image string) control.CheckDeploymentInput {
		in := containers()
		c := in.Containers["web"]
		c.Image = image
		in.Containers["web"] = c
		return control.CheckDeploymentInput{ServiceName: service, Deployment: in}
	}
	bad := with("web", "nginx")
	bad.Deployment.PublicEndpoint.ContainerPort = 81
	exposes := `The public endpoint uses port 80 of container "web", but its image exposes [8080/tcp].`
	for name, tc := range map[string]struct {
		in       control.CheckDeploymentInput
		problems []string
		warnings []string
		images   int
	}{
		"fine but for the port": {with("web", "nginx"), nil, []string{exposes}, 1},
		"no service":            {with("", "nginx"), nil, []string{exposes}, 1},
		"invalid":               {bad, []string{"Invalid port specified. You must specify a port that is in the list of ports of the specified container."}, nil, 0},
		"no such tag":           {with("web", "nope:1"), []string{`Container "web" has image "nope:1": IMG-TAG: No such tag. Use another.`}, nil, 0},
		"no answer":             {with("web", "slow:1"), nil, []string{`Container "web" has image "slow:1": IMG-SLOW: No answer. Wait.`}, 0},
		"no program":            {with("web", "empty:1"), []string{`Container "web" has image "empty:1", which names no program to run, and the deployment gives no command.`}, nil, 1},
		"busy":                  {with("busy", "nginx"), []string{`Sorry, deployment 1 is in progress for service "busy". Please wait for it to complete before trying again.`}, []string{exposes}, 1},
		"unknown service":       {with("nope", "nginx"), []string{`Service "nope" not found.`}, []string{exposes}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := b.CheckDeployment(t.Context(), caller, tc.in)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.problems, got.Problems); d != "" {
				t.Errorf("problems (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tc.warnings, got.Warnings); d != "" {
				t.Errorf("warnings (-want +got):\n%s", d)
			}
			if len(got.Images) != tc.images {
				t.Errorf("images: %+v", got.Images)
			}
		})
	}
	if d := cmp.Diff(before, b.state()); d != "" {
		t.Errorf("a check changed something:\n%s", d)
	}
}
