package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/spf13/cobra"

	"github.com/trysail/trysail/internal/push"
)

func (a *App) pushCommand() *cobra.Command {
	var p pushing
	cmd := &cobra.Command{
		Use:   "push IMAGE --service SERVICE --label LABEL",
		Short: "Push an image to a service, so that deployments can name it",
		Long: `Push an image to a service, so that deployments can name it.

IMAGE is a name in Docker or Podman on this machine; or a tar file as docker save, podman save or skopeo make it (- reads
standard input); or the folder of an OCI layout. A prefix says which, if that is not clear: docker-daemon: podman:
docker-archive: oci-archive: oci:.

The last line names the image as deployments do: ":SERVICE.LABEL.N". What the registry has already is not sent again.`,
		Example: `  trysail push myapp:latest --service web --label www
  docker save myapp | trysail push - --service web --label www
  trysail push ./layout --service web --label www --platform linux/arm64`,
		Args:              exactArgs("IMAGE"),
		ValidArgsFunction: completeFiles,
	}
	f := a.commonFlags(cmd)
	cmd.Flags().StringVarP(&p.service, "service", "s", "", "the service that gets the image")
	cmd.Flags().StringVarP(&p.label, "label", "l", "", "the label, such as the container's name: 1–53 lower-case letters, digits and hyphens")
	cmd.Flags().StringVar(&p.platform, "platform", "", "the one platform to push of an image that has several, such as linux/arm64")
	must(cmd.RegisterFlagCompletionFunc("service", a.serviceNames()))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if p.service == "" || p.label == "" {
			return Usagef("the service or the label is missing: --service SERVICE --label LABEL")
		}
		c, asJSON, err := a.begin(f)
		if err != nil {
			return err
		}
		p.image = args[0]
		img, err := a.push(cmd.Context(), c, p)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.Out, map[string]any{"containerImage": wire(img)})
		}
		a.printPushed(p, img)
		return nil
	}
	return cmd
}

// pushing is what is pushed where.
type pushing struct {
	image, service, label, platform string
}

// printPushed prints what lightsailctl prints: scripts read the last line.
func (a *App) printPushed(p pushing, img *types.ContainerImage) {
	fmt.Fprintf(a.Out, "Digest: %s\n", aws.ToString(img.Digest))
	fmt.Fprintf(a.Out, "Image %q registered.\n", p.image)
	fmt.Fprintf(a.Out, "Refer to this image as %q in deployments.\n", aws.ToString(img.Image))
}

// push sends the image and registers it.
func (a *App) push(ctx context.Context, c *client, p pushing) (img *types.ContainerImage, err error) {
	if _, err := c.service(ctx, p.service); err != nil {
		return nil, err // before hundreds of megabytes are sent for nothing
	}
	show := newProgress(a.screen(a.Err))
	defer show.erase()
	show.now("Reading " + p.image)
	src, err := push.Open(ctx, p.image, push.Options{Platform: p.platform, Stdin: a.In, Getenv: a.Getenv})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	out, err := c.CreateContainerServiceRegistryLogin(ctx, &lightsail.CreateContainerServiceRegistryLoginInput{})
	if err != nil {
		return nil, err
	}
	login := out.RegistryLogin
	registry := aws.ToString(login.Registry)
	target := push.Target{
		Repository: registry + "/sr", Username: aws.ToString(login.Username), Password: aws.ToString(login.Password),
		Transport: c.pushTransport(), Insecure: c.plainRegistry(registry),
	}
	digest, err := src.Push(ctx, target, showTransfer(show))
	if err != nil {
		return nil, err
	}
	reg, err := c.RegisterContainerImage(ctx, &lightsail.RegisterContainerImageInput{ServiceName: &p.service, Label: &p.label, Digest: &digest})
	if err != nil {
		return nil, err
	}
	return reg.ContainerImage, nil
}

// showTransfer shows how far a push is, a few times a second.
func showTransfer(show *progress) func(push.Progress) {
	var mu sync.Mutex
	var last time.Time
	began := time.Now()
	return func(p push.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(last) < 100*time.Millisecond {
			return
		}
		last = time.Now()
		rate := float64(p.Done) / 1e6 / max(time.Since(began).Seconds(), 0.001)
		show.now(fmt.Sprintf("Pushing: %d of %d MB, %.0f MB/s", p.Done/1e6, p.Total/1e6, rate))
	}
}

// pushTransport is the client's without its limit of time: a layer may be large.
func (c *client) pushTransport() http.RoundTripper { return c.http.Transport }

// plainRegistry reports whether the registry may be spoken to over plain HTTP: it is on this machine, or it is where the
// endpoint is, and that is plain.
func (c *client) plainRegistry(registry string) bool {
	if u, err := url.Parse(c.settings.endpoint); err == nil && u.Host == registry {
		return u.Scheme == "http"
	}
	host := registry
	if h, _, err := net.SplitHostPort(registry); err == nil {
		host = h
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// insecureTLS makes a client accept any certificate, for doNotVerifySSL of the AWS CLI.
func insecureTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} //nolint:gosec // the user asked for it: --no-verify-ssl
}
