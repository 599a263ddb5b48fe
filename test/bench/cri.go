package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/trysail/trysail/test/kit"
)

// barePods starts pods on the server's own containerd, past Trysail, with as few CRI calls as it takes.
type barePods struct {
	conn    *grpc.ClientConn
	runtime runtimeapi.RuntimeServiceClient
	image   string // as CRI knows it
	logs    string
}

func newBarePods(ctx context.Context, s *kit.Server, image string) (*barePods, error) {
	conn, err := grpc.NewClient("unix://"+filepath.Join(s.StateDir(), "c.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connecting to containerd: %w", err)
	}
	b := &barePods{conn: conn, runtime: runtimeapi.NewRuntimeServiceClient(conn), logs: filepath.Join(s.DataDir, "bench-logs")}
	pulled, err := runtimeapi.NewImageServiceClient(conn).PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pulling for the bare pods: %w", err), conn.Close())
	}
	b.image = pulled.ImageRef
	return b, nil
}

func (b *barePods) close() { _ = b.conn.Close() }

// start returns the time from the first call until the pod answers; the pod is removed afterwards.
func (b *barePods) start(ctx context.Context, i int) (took time.Duration, err error) {
	name := fmt.Sprintf("bare-%d", i)
	profile := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	sandbox := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Uid: name, Namespace: "bench"},
		Hostname:     name,
		LogDirectory: filepath.Join(b.logs, name),
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
			Seccomp:          profile,
		}},
	}
	began := time.Now()
	pod, err := b.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: sandbox})
	if err != nil {
		return 0, fmt.Errorf("starting a bare pod: %w", err)
	}
	defer func() {
		_, stop := b.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod.PodSandboxId})
		_, remove := b.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod.PodSandboxId})
		err = errors.Join(err, stop, remove)
	}()
	container, err := b.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: pod.PodSandboxId,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "web"},
			Image:    &runtimeapi.ImageSpec{Image: b.image},
			Envs:     []*runtimeapi.KeyValue{{Key: "VERSION", Value: []byte("bare")}},
			LogPath:  "web.log",
			Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
				Seccomp:          profile,
			}},
		},
		SandboxConfig: sandbox,
	})
	if err != nil {
		return 0, fmt.Errorf("creating a container in a bare pod: %w", err)
	}
	if _, err := b.runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: container.ContainerId}); err != nil {
		return 0, fmt.Errorf("starting the container of a bare pod: %w", err)
	}
	status, err := b.runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod.PodSandboxId})
	if err != nil {
		return 0, fmt.Errorf("asking for the address of a bare pod: %w", err)
	}
	ip := strings.TrimSpace(status.GetStatus().GetNetwork().GetIp())
	if err := until200(ctx, "http://"+net.JoinHostPort(ip, "8080")+"/"); err != nil {
		return 0, fmt.Errorf("asking a bare pod: %w", err)
	}
	return time.Since(began), nil
}
