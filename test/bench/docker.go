package main

import (
	"context"
	"net"
	"time"

	"github.com/trysail/trysail/test/kit"
)

// docker is a Docker daemon to compare with.
type docker struct{ *kit.Docker }

func startDocker(ctx context.Context, dir string) (*docker, error) {
	d, err := kit.StartDocker(ctx, dir, kit.DockerOptions{Bridge: "trysail-bench", Address: "10.93.213.1/24"})
	return &docker{d}, err
}

func (d *docker) pull(ctx context.Context, images ...string) error {
	for _, image := range images {
		if _, err := d.Run(ctx, "pull", "--quiet", image); err != nil {
			return err
		}
	}
	return nil
}

// pod returns the time from the first docker run until the second container answers. Both share a network namespace,
// as the containers of a pod do.
func (d *docker) pod(ctx context.Context, pause, web string) (time.Duration, error) {
	began := time.Now()
	first, err := d.Run(ctx, "run", "--detach", pause)
	if err != nil {
		return 0, err
	}
	second, err := d.Run(ctx, "run", "--detach", "--network", "container:"+first, "--env", "VERSION=docker", web)
	if err != nil {
		return 0, err
	}
	ip, err := d.Run(ctx, "inspect", "--format", "{{.NetworkSettings.IPAddress}}", first)
	if err != nil {
		return 0, err
	}
	if err := until200(ctx, "http://"+net.JoinHostPort(ip, "8080")+"/"); err != nil {
		return 0, err
	}
	took := time.Since(began)
	_, err = d.Run(ctx, "rm", "--force", second, first)
	return took, err
}

// run returns the time from docker run until the container answers.
func (d *docker) run(ctx context.Context, web string) (time.Duration, error) {
	began := time.Now()
	id, err := d.Run(ctx, "run", "--detach", "--env", "VERSION=docker", web)
	if err != nil {
		return 0, err
	}
	ip, err := d.Run(ctx, "inspect", "--format", "{{.NetworkSettings.IPAddress}}", id)
	if err != nil {
		return 0, err
	}
	if err := until200(ctx, "http://"+net.JoinHostPort(ip, "8080")+"/"); err != nil {
		return 0, err
	}
	took := time.Since(began)
	_, err = d.Run(ctx, "rm", "--force", id)
	return took, err
}
