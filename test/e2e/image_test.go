//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/trysail/trysail/test/kit"
)

// login makes a registry login.
func (c *client) login() (registry, user, password string) {
	c.t.Helper()
	out, err := c.api.CreateContainerServiceRegistryLogin(c.t.Context(), &lightsail.CreateContainerServiceRegistryLoginInput{})
	if err != nil {
		c.t.Fatal(err)
	}
	l := out.RegistryLogin
	return aws.ToString(l.Registry), aws.ToString(l.Username), aws.ToString(l.Password)
}

// register gives a pushed digest its name.
func (c *client) register(service, label, digest string) string {
	c.t.Helper()
	out, err := c.api.RegisterContainerImage(c.t.Context(), &lightsail.RegisterContainerImageInput{ServiceName: &service, Label: &label, Digest: &digest})
	if err != nil {
		c.t.Fatal(err)
	}
	return aws.ToString(out.ContainerImage.Image)
}

// deployStored deploys a stored image that is one of web's and waits until it serves.
func (c *client) deployStored(service, image, wantVersion string) {
	c.t.Helper()
	in := webDeployment(service, "unused:1", nil)
	in.Containers["web"] = types.Container{Image: &image, Ports: map[string]types.ContainerServiceProtocol{"8080": types.ContainerServiceProtocolHttp}}
	c.deploy(in)
	c.waitState(service, types.ContainerServiceStateRunning)
	if got := c.get200(service, "/"); !strings.Contains(got, wantVersion) {
		c.t.Errorf("%s answers %q, want %q", image, got, wantVersion)
	}
}

// archives writes version 1 of the test program's image in the forms that image tools exchange.
func archives(t *testing.T) (dockerArchive, ociLayout string) {
	t.Helper()
	img, err := kit.Web(t.Context(), "1")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	dockerArchive = filepath.Join(dir, "web.tar")
	tag, err := name.NewTag("localhost/web:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(dockerArchive, tag, img); err != nil {
		t.Fatal(err)
	}
	ociLayout = filepath.Join(dir, "oci")
	path, err := layout.Write(ociLayout, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	return dockerArchive, ociLayout
}

var digestPattern = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// TestImages_StockClientsPush pushes with each client that people have, registers what it pushed and runs it.
func TestImages_StockClientsPush(t *testing.T) {
	c := clientOf(t, shared.server)
	c.create("pushes", types.ContainerServicePowerNameNano, 1)
	defer c.delete("pushes")
	registry, user, password := c.login()
	archive, layoutDir := archives(t)

	tools, err := kit.NewContainerTools(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := tools.Login(t.Context(), registry, user, password); err != nil {
		t.Fatal(err)
	}
	docker, err := kit.StartDocker(t.Context(), t.TempDir(), kit.DockerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := docker.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	must := func(out string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	digestFile := filepath.Join(t.TempDir(), "digest")
	readDigest := func() string {
		t.Helper()
		b, err := os.ReadFile(digestFile)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	clients := map[string]func() string{
		"docker": func() string {
			must(docker.Run(t.Context(), "load", "--input", archive))
			if err := docker.Login(t.Context(), registry, user, password); err != nil {
				t.Fatal(err)
			}
			must(docker.Run(t.Context(), "tag", "localhost/web:1", registry+"/sr:docker"))
			return digestPattern.FindString(must(docker.Run(t.Context(), "push", registry+"/sr:docker")))
		},
		"skopeo": func() string {
			must(tools.Skopeo(t.Context(), "copy", "--dest-tls-verify=false", "--digestfile", digestFile, "oci:"+layoutDir, "docker://"+registry+"/sr:skopeo"))
			return readDigest()
		},
		"buildah": func() string {
			must(tools.Buildah(t.Context(), "pull", tools.Policy(), "docker-archive:"+archive))
			must(tools.Buildah(t.Context(), "push", tools.Policy(), "--tls-verify=false", "--digestfile", digestFile, "localhost/web:1", "docker://"+registry+"/sr:buildah"))
			return readDigest()
		},
		"podman": func() string {
			must(tools.Podman(t.Context(), "load", "--input", archive))
			must(tools.Podman(t.Context(), "push", "--tls-verify=false", "--digestfile", digestFile, "localhost/web:1", registry+"/sr:podman"))
			return readDigest()
		},
		"go-containerregistry": func() string {
			img, err := kit.Web(t.Context(), "1")
			if err != nil {
				t.Fatal(err)
			}
			ref, err := name.ParseReference(registry+"/sr:ggcr", name.Insecure)
			if err != nil {
				t.Fatal(err)
			}
			if err := remote.Write(ref, img, remote.WithContext(t.Context()), remote.WithAuth(&authn.Basic{Username: user, Password: password})); err != nil {
				t.Fatal(err)
			}
			digest, err := img.Digest()
			if err != nil {
				t.Fatal(err)
			}
			return digest.String()
		},
	}
	for _, client := range []string{"docker", "skopeo", "buildah", "podman", "go-containerregistry"} {
		digest := clients[client]()
		if !digestPattern.MatchString(digest) {
			t.Fatalf("%s: no digest but %q", client, digest)
		}
		image := c.register("pushes", client[:2], digest)
		t.Logf("%s pushed %s, now %s", client, digest, image)
		c.deployStored("pushes", image, "version 1")
	}
	// What was pushed can be pulled, by the clients that pushed it.
	must(docker.Run(t.Context(), "rmi", registry+"/sr:docker", "localhost/web:1"))
	must(docker.Run(t.Context(), "pull", registry+"/sr:docker"))
	must(tools.Skopeo(t.Context(), "copy", "--src-tls-verify=false", "docker://"+registry+"/sr:skopeo", "oci:"+filepath.Join(t.TempDir(), "back")+":x"))

	images, err := c.api.GetContainerImages(t.Context(), &lightsail.GetContainerImagesInput{ServiceName: aws.String("pushes")})
	if err != nil {
		t.Fatal(err)
	}
	for i, img := range images.ContainerImages {
		if want := fmt.Sprintf(".%d", len(clients)-i); !strings.HasSuffix(aws.ToString(img.Image), want) {
			t.Errorf("image %d is %s, want number %s: newest first", i, aws.ToString(img.Image), want)
		}
	}
}

// TestImages_AWSCLIPushes lets the AWS CLI push through our binary in the place of its plugin, from a Docker daemon.
func TestImages_AWSCLIPushes(t *testing.T) {
	c := clientOf(t, shared.server)
	c.create("plugin", types.ContainerServicePowerNameNano, 1)
	defer c.delete("plugin")
	archive, _ := archives(t)
	docker, err := kit.StartDocker(t.Context(), t.TempDir(), kit.DockerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := docker.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	if _, err := docker.Run(t.Context(), "load", "--input", archive); err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(shared.server.Binary, filepath.Join(bin, "lightsailctl")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/usr/bin/aws", "lightsail", "--endpoint-url", shared.server.Vars["AWS_ENDPOINT_URL_LIGHTSAIL"],
		"push-container-image", "--service-name", "plugin", "--label", "www", "--image", "localhost/web:1")
	cmd.Env = append(shared.server.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "DOCKER_HOST=unix://"+docker.Socket, "AWS_EC2_METADATA_DISABLED=true")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if want := `Refer to this image as ":plugin.www.1" in deployments.`; !strings.Contains(string(out), want) {
		t.Errorf("the CLI says\n%s\nwant a line\n%s", out, want)
	}
	c.deployStored("plugin", ":plugin.www.latest", "version 1")
}

// TestImages_OldVersionRunsTheSameBytes deploys .latest, pushes something else, and goes back by name.
func TestImages_OldVersionRunsTheSameBytes(t *testing.T) {
	c := clientOf(t, shared.server)
	c.create("same", types.ContainerServicePowerNameNano, 1)
	defer c.delete("same")
	push := func(version string) {
		t.Helper()
		img, err := kit.Web(t.Context(), version)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "web.tar")
		tag, _ := name.NewTag("localhost/web:" + version)
		if err := tarball.WriteToFile(file, tag, img); err != nil {
			t.Fatal(err)
		}
		out, err := shared.server.Run(t.Context(), "push", file, "--service", "same", "--label", "www")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	push("1")
	c.deployStored("same", ":same.www.latest", "version 1")
	push("2")
	c.deployStored("same", ":same.www.latest", "version 2")
	_, err := c.api.DeleteContainerImage(t.Context(), &lightsail.DeleteContainerImageInput{ServiceName: aws.String("same"), Image: aws.String(":same.www.2")})
	if err == nil || !strings.Contains(err.Error(), "is used by the current deployment") {
		t.Errorf("deleting the image in use: %v", err)
	}
	c.deployStored("same", ":same.www.1", "version 1")
}
