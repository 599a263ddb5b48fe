package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/trysail/trysail/test/kit"
)

// docker is a Docker daemon of our own: own data, own socket, own bridge, and no hand on the machine's firewall, so
// that a Docker that is there already does not notice.
type docker struct {
	bin    string // folder of the unpacked packages' programs
	env    []string
	socket string
	daemon *exec.Cmd
}

const (
	dockerBridge  = "trysail-bench" // 15 characters at most
	dockerAddress = "10.93.213.1/24"
)

func startDocker(ctx context.Context, dir string) (_ *docker, err error) {
	cache, err := kit.Cache()
	if err != nil {
		return nil, err
	}
	root := filepath.Join(cache, "docker")
	if _, err := os.Stat(root); err != nil {
		return nil, fmt.Errorf("finding Docker (run scripts/setup.sh bench): %w", err)
	}
	d := &docker{socket: filepath.Join(dir, "docker.sock"), bin: filepath.Join(root, "usr", "bin")}
	libs, err := filepath.Glob(filepath.Join(root, "*", "*-linux-gnu"))
	if err != nil {
		return nil, err
	}
	more, err := filepath.Glob(filepath.Join(root, "usr", "lib", "*-linux-gnu"))
	if err != nil {
		return nil, err
	}
	d.env = append(os.Environ(),
		"PATH="+d.bin+":"+filepath.Join(root, "usr", "sbin")+":"+os.Getenv("PATH"),
		"LD_LIBRARY_PATH="+strings.Join(append(libs, more...), ":"),
		"DOCKER_HOST=unix://"+d.socket, "DOCKER_CONFIG="+filepath.Join(dir, "docker-config"))
	if err := addBridge(ctx); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "dockerd.log"))
	if err != nil {
		return nil, errors.Join(err, removeBridge())
	}
	defer log.Close()
	d.daemon = exec.Command(d.path("dockerd"), "--host", "unix://"+d.socket,
		"--data-root", filepath.Join(dir, "docker-data"), "--exec-root", filepath.Join(dir, "x"), "--pidfile", filepath.Join(dir, "docker.pid"),
		"--bridge", dockerBridge, "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false")
	d.daemon.Env, d.daemon.Stdout, d.daemon.Stderr = d.env, log, log
	if err := d.daemon.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting dockerd: %w", err), removeBridge())
	}
	err = kit.Until(ctx, 30*time.Second, func() error {
		_, err := d.run(ctx, "version", "--format", "{{.Server.Version}}")
		return err
	})
	if err != nil {
		tail, _ := os.ReadFile(log.Name())
		return nil, errors.Join(fmt.Errorf("waiting for dockerd: %w\n%s", err, tail), d.close(context.WithoutCancel(ctx)))
	}
	return d, nil
}

func addBridge(ctx context.Context) error {
	for _, line := range []string{
		"link add " + dockerBridge + " type bridge",
		"address add " + dockerAddress + " dev " + dockerBridge,
		"link set " + dockerBridge + " up",
	} {
		if out, err := exec.CommandContext(ctx, "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("making a bridge for Docker: ip %s: %w: %s", line, err, out)
		}
	}
	return nil
}

func removeBridge() error {
	if out, err := exec.Command("ip", "link", "delete", dockerBridge).CombinedOutput(); err != nil {
		return fmt.Errorf("removing the bridge of Docker: %w: %s", err, out)
	}
	return nil
}

func (d *docker) path(name string) string {
	for _, dir := range []string{d.bin, filepath.Join(filepath.Dir(d.bin), "sbin")} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name)
		}
	}
	return name
}

func (d *docker) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.path("docker"), args...)
	cmd.Env = d.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func (d *docker) pull(ctx context.Context, images ...string) error {
	for _, image := range images {
		if _, err := d.run(ctx, "pull", "--quiet", image); err != nil {
			return err
		}
	}
	return nil
}

// pod returns the time from the first docker run until the second container answers. Both share a network namespace,
// as the containers of a pod do.
func (d *docker) pod(ctx context.Context, pause, web string) (time.Duration, error) {
	began := time.Now()
	first, err := d.run(ctx, "run", "--detach", pause)
	if err != nil {
		return 0, err
	}
	second, err := d.run(ctx, "run", "--detach", "--network", "container:"+first, "--env", "VERSION=docker", web)
	if err != nil {
		return 0, err
	}
	ip, err := d.run(ctx, "inspect", "--format", "{{.NetworkSettings.IPAddress}}", first)
	if err != nil {
		return 0, err
	}
	if err := until200(ctx, "http://"+net.JoinHostPort(ip, "8080")+"/"); err != nil {
		return 0, err
	}
	took := time.Since(began)
	_, err = d.run(ctx, "rm", "--force", second, first)
	return took, err
}

func (d *docker) close(ctx context.Context) error {
	var errs []error
	if ids, err := d.run(ctx, "ps", "--all", "--quiet"); err == nil && ids != "" {
		_, err := d.run(ctx, append([]string{"rm", "--force"}, strings.Fields(ids)...)...)
		errs = append(errs, err)
	}
	errs = append(errs, d.daemon.Process.Signal(syscall.SIGTERM))
	if err := d.daemon.Wait(); err != nil {
		errs = append(errs, fmt.Errorf("stopping dockerd: %w", err))
	}
	return errors.Join(append(errs, removeBridge())...)
}
