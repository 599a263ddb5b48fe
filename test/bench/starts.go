package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"

	"github.com/trysail/trysail/test/kit"
)

// starts measures, in turns: a deployment until it is ACTIVE and answers over HTTPS; the same pod started by bare CRI
// calls on the same containerd; and a pod of two containers with docker run. Then memory.
func starts(ctx context.Context, t *table, o options, img images, dir string) (err error) {
	s, err := kit.StartServer(ctx, kit.ServerOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Remove(context.WithoutCancel(ctx))) }()
	if err := idleMemory(t, s); err != nil {
		return err
	}
	deployer, err := newDeployer(ctx, s, img.web)
	if err != nil {
		return err
	}
	bare, err := newBarePods(ctx, s, img.web)
	if err != nil {
		return err
	}
	defer bare.close()
	var docker *docker
	if o.docker {
		if docker, err = startDocker(ctx, dir); err != nil {
			fmt.Fprintln(os.Stderr, "bench: going on without Docker:", err)
		} else {
			defer func() { err = errors.Join(err, docker.Close(context.WithoutCancel(ctx))) }()
			if err := docker.pull(ctx, img.web, img.pause); err != nil {
				return err
			}
		}
	}
	var deployed, pods, docked []time.Duration
	for i := range o.runs + 2 { // the first two of each are not counted
		d, err := deployer.deploy(ctx, i)
		if err != nil {
			return err
		}
		p, err := bare.start(ctx, i)
		if err != nil {
			return err
		}
		var k time.Duration
		if docker != nil {
			if k, err = docker.pod(ctx, img.pause, img.web); err != nil {
				return err
			}
		}
		fmt.Fprintf(os.Stderr, "run %2d: deployment %s, bare pod %s, docker %s\n", i-1, millis(d), millis(p), millis(k))
		if i < 2 {
			continue
		}
		deployed, pods = append(deployed, d), append(pods, p)
		if k > 0 {
			docked = append(docked, k)
		}
	}
	t.add("deployment, cached image, until ACTIVE and 200", spread(deployed), "")
	t.add("bare pod over CRI until 200", spread(pods), "deployment/bare "+ratio(deployed, pods, "≤ 1.5"))
	if len(docked) > 0 {
		t.add("docker run, pause + app, until 200", spread(docked), "deployment/docker "+ratio(deployed, docked, "≤ 0.6"))
	}
	return podMemory(ctx, t, s, deployer)
}

// deployer makes deployments of one service and waits for them.
type deployer struct {
	api    *lightsail.Client
	http   *http.Client
	image  string
	url    string
	server *kit.Server
}

const serviceName = "bench"

func newDeployer(ctx context.Context, s *kit.Server, image string) (*deployer, error) {
	d := &deployer{api: s.Client(), image: image, server: s}
	var err error
	if d.http, err = s.HTTPClient(false); err != nil {
		return nil, err
	}
	out, err := d.api.CreateContainerService(ctx, &lightsail.CreateContainerServiceInput{
		ServiceName: aws.String(serviceName), Power: types.ContainerServicePowerNameMedium, Scale: aws.Int32(1),
	})
	if err != nil {
		return nil, err
	}
	d.url = strings.TrimSuffix(aws.ToString(out.ContainerService.Url), "/") + "/"
	return d, d.wait(ctx, types.ContainerServiceStateReady)
}

func (d *deployer) get(ctx context.Context) (types.ContainerService, error) {
	out, err := d.api.GetContainerServices(ctx, &lightsail.GetContainerServicesInput{ServiceName: aws.String(serviceName)})
	if err != nil {
		return types.ContainerService{}, err
	}
	return out.ContainerServices[0], nil
}

// wait polls every few milliseconds: what is measured here are tenths of seconds.
func (d *deployer) wait(ctx context.Context, want types.ContainerServiceState) error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(3 * time.Millisecond) {
		s, err := d.get(ctx)
		if err != nil {
			return err
		}
		if s.State == want {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the service is %s, not %s\n%s", s.State, want, d.server.LogTail(20))
		}
	}
}

// deploy returns the time from the call until the version is ACTIVE and answers.
func (d *deployer) deploy(ctx context.Context, i int) (time.Duration, error) {
	version := fmt.Sprintf("bench-%d", i)
	began := time.Now()
	out, err := d.api.CreateContainerServiceDeployment(ctx, &lightsail.CreateContainerServiceDeploymentInput{
		ServiceName: aws.String(serviceName),
		Containers: map[string]types.Container{"web": {
			Image:       aws.String(d.image),
			Environment: map[string]string{"VERSION": version},
			Ports:       map[string]types.ContainerServiceProtocol{"8080": types.ContainerServiceProtocolHttp},
		}},
		PublicEndpoint: &types.EndpointRequest{ContainerName: aws.String("web"), ContainerPort: aws.Int32(8080)},
	})
	if err != nil {
		return 0, err
	}
	want := aws.ToInt32(out.ContainerService.NextDeployment.Version)
	for {
		s, err := d.get(ctx)
		if err != nil {
			return 0, err
		}
		if c := s.CurrentDeployment; c != nil && aws.ToInt32(c.Version) == want {
			break
		}
		if time.Since(began) > time.Minute {
			return 0, fmt.Errorf("version %d is not ACTIVE after a minute\n%s", want, d.server.LogTail(20))
		}
		time.Sleep(3 * time.Millisecond)
	}
	if body, err := fetch(ctx, d.http, d.url); err != nil || body != "version "+version+"\n" {
		return 0, fmt.Errorf("the service answers %q (%w)", body, err)
	}
	took := time.Since(began)
	return took, d.wait(ctx, types.ContainerServiceStateRunning) // the old pod is gone, too
}

func fetch(ctx context.Context, h *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := h.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answered %s: %s", url, resp.Status, body)
	}
	return string(body), nil
}

// until200 asks a pod directly until it answers.
func until200(ctx context.Context, url string) error {
	h := &http.Client{Timeout: time.Second}
	defer h.CloseIdleConnections()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		_, err := fetch(ctx, h, url)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return err
		}
	}
}
