package kit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Docker is a Docker daemon of our own: own data, own socket, own bridge, and no hand on the machine's firewall, so
// that a Docker that is there already does not notice. Its programs are Debian's, unpacked and not installed.
type Docker struct {
	// Socket is the path of the daemon's socket.
	Socket string
	tools  unpacked
	bridge string
	daemon *exec.Cmd
}

// DockerOptions are what a Docker differs in.
type DockerOptions struct {
	// Bridge is the name (15 characters at most) and Address the address with prefix of a network bridge that is made
	// for it. Without one its containers have no network.
	Bridge, Address string
}

// StartDocker starts a daemon with its data below dir. End it with Close.
func StartDocker(ctx context.Context, dir string, o DockerOptions) (_ *Docker, err error) {
	tools, err := openUnpacked("docker")
	if err != nil {
		return nil, err
	}
	d := &Docker{Socket: filepath.Join(dir, "docker.sock"), tools: tools, bridge: o.Bridge}
	d.tools.env = append(d.tools.env, "DOCKER_HOST=unix://"+d.Socket, "DOCKER_CONFIG="+filepath.Join(dir, "docker-config"))
	bridge := "none"
	if o.Bridge != "" {
		bridge = o.Bridge
		if err := addBridge(ctx, o.Bridge, o.Address); err != nil {
			return nil, err
		}
	}
	log, err := os.Create(filepath.Join(dir, "dockerd.log"))
	if err != nil {
		return nil, errors.Join(err, d.removeBridge())
	}
	defer log.Close()
	d.daemon = d.tools.command(context.WithoutCancel(ctx), "dockerd", "--host", "unix://"+d.Socket,
		"--data-root", filepath.Join(dir, "docker-data"), "--exec-root", filepath.Join(dir, "x"), "--pidfile", filepath.Join(dir, "docker.pid"),
		"--bridge", bridge, "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false")
	d.daemon.Stdout, d.daemon.Stderr = log, log
	diesWithUs(d.daemon)
	if err := d.daemon.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting dockerd: %w", err), d.removeBridge())
	}
	err = Until(ctx, 60*time.Second, func() error {
		_, err := d.Run(ctx, "version", "--format", "{{.Server.Version}}")
		return err
	})
	if err != nil {
		tail, _ := os.ReadFile(log.Name())
		return nil, errors.Join(fmt.Errorf("waiting for dockerd: %w\n%s", err, tail), d.Close(context.WithoutCancel(ctx)))
	}
	return d, nil
}

func addBridge(ctx context.Context, name, address string) error {
	for _, line := range []string{"link add " + name + " type bridge", "address add " + address + " dev " + name, "link set " + name + " up"} {
		if out, err := exec.CommandContext(ctx, "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("making a bridge for Docker: ip %s: %w: %s", line, err, out)
		}
	}
	return nil
}

func (d *Docker) removeBridge() error {
	if d.bridge == "" {
		return nil
	}
	if out, err := exec.Command("ip", "link", "delete", d.bridge).CombinedOutput(); err != nil {
		return fmt.Errorf("removing the bridge of Docker: %w: %s", err, out)
	}
	return nil
}

// Run runs the docker command line and returns what it printed, on both streams.
func (d *Docker) Run(ctx context.Context, args ...string) (string, error) {
	return d.tools.run(ctx, "", "docker", args...)
}

// Login logs the docker command line in to a registry.
func (d *Docker) Login(ctx context.Context, registry, user, password string) error {
	_, err := d.tools.run(ctx, password, "docker", "login", "--username", user, "--password-stdin", registry)
	return err
}

// Close removes the containers and ends the daemon.
func (d *Docker) Close(ctx context.Context) error {
	var errs []error
	if ids, err := d.Run(ctx, "ps", "--all", "--quiet"); err == nil && ids != "" {
		_, err := d.Run(ctx, append([]string{"rm", "--force"}, strings.Fields(ids)...)...)
		errs = append(errs, err)
	}
	errs = append(errs, d.daemon.Process.Signal(syscall.SIGTERM))
	if err := d.daemon.Wait(); err != nil {
		errs = append(errs, fmt.Errorf("stopping dockerd: %w", err))
	}
	return errors.Join(append(errs, d.removeBridge())...)
}

// ContainerTools are skopeo, buildah and podman of Debian, unpacked and not installed, with a storage of their own.
type ContainerTools struct {
	tools  unpacked
	policy string
}

// NewContainerTools prepares the programs; their storage and logins are below dir.
func NewContainerTools(dir string) (*ContainerTools, error) {
	tools, err := openUnpacked("containers")
	if err != nil {
		return nil, err
	}
	files := map[string]string{
		"storage.conf":    fmt.Sprintf("[storage]\ndriver = \"vfs\"\nrunroot = %q\ngraphroot = %q\n", filepath.Join(dir, "run"), filepath.Join(dir, "graph")),
		"containers.conf": fmt.Sprintf("[engine]\nconmon_path = [%q]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n", tools.path("conmon")),
		"registries.conf": "",
		// Podman has no flag for it, but looks below HOME before it looks in /etc.
		".config/containers/policy.json": `{"default": [{"type": "insecureAcceptAnything"}]}`,
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			return nil, fmt.Errorf("preparing the container tools: %w", err)
		}
	}
	tools.env = append(tools.env,
		"CONTAINERS_STORAGE_CONF="+filepath.Join(dir, "storage.conf"), "CONTAINERS_CONF="+filepath.Join(dir, "containers.conf"),
		"CONTAINERS_REGISTRIES_CONF="+filepath.Join(dir, "registries.conf"), "REGISTRY_AUTH_FILE="+filepath.Join(dir, "auth.json"),
		"TMPDIR="+dir, "HOME="+dir)
	return &ContainerTools{tools, filepath.Join(dir, ".config/containers/policy.json")}, nil
}

// Skopeo runs skopeo.
func (c *ContainerTools) Skopeo(ctx context.Context, args ...string) (string, error) {
	return c.tools.run(ctx, "", "skopeo", append([]string{"--policy", c.policy}, args...)...)
}

// Buildah runs buildah. Commands that read images want --signature-policy, which Policy has.
func (c *ContainerTools) Buildah(ctx context.Context, args ...string) (string, error) {
	return c.tools.run(ctx, "", "buildah", args...)
}

// Podman runs podman.
func (c *ContainerTools) Podman(ctx context.Context, args ...string) (string, error) {
	return c.tools.run(ctx, "", "podman", args...)
}

// Login logs all three in to a registry that speaks plain HTTP.
func (c *ContainerTools) Login(ctx context.Context, registry, user, password string) error {
	_, err := c.tools.run(ctx, password, "skopeo", "login", "--tls-verify=false", "--username", user, "--password-stdin", registry)
	return err
}

// Policy is the flag that lets a command take images without a signature.
func (c *ContainerTools) Policy() string { return "--signature-policy=" + c.policy }

// unpacked is a folder of unpacked Debian packages whose programs run from where they are.
type unpacked struct {
	root string
	env  []string
}

func openUnpacked(name string) (unpacked, error) {
	cache, err := Cache()
	if err != nil {
		return unpacked{}, err
	}
	u := unpacked{root: filepath.Join(cache, name)}
	if _, err := os.Stat(u.root); err != nil {
		return unpacked{}, fmt.Errorf("finding the unpacked packages (run scripts/setup.sh test or bench): %w", err)
	}
	var libs []string
	for _, pattern := range []string{"lib/*-linux-gnu", "usr/lib/*-linux-gnu"} {
		found, err := filepath.Glob(filepath.Join(u.root, pattern))
		if err != nil {
			return unpacked{}, err
		}
		libs = append(libs, found...)
	}
	u.env = append(os.Environ(),
		"PATH="+filepath.Join(u.root, "usr/bin")+":"+filepath.Join(u.root, "usr/sbin")+":"+os.Getenv("PATH"),
		"LD_LIBRARY_PATH="+strings.Join(libs, ":"))
	return u, nil
}

func (u unpacked) path(name string) string {
	for _, dir := range []string{"usr/bin", "usr/sbin"} {
		if p := filepath.Join(u.root, dir, name); exists(p) {
			return p
		}
	}
	return name
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (u unpacked) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, u.path(name), args...)
	cmd.Env = u.env
	return cmd
}

// run runs a program and returns what it printed, on both streams.
func (u unpacked) run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	cmd := u.command(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}
