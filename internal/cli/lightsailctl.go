package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
)

// PluginName is the name under which the AWS CLI calls the program that pushes images.
const PluginName = "lightsailctl"

// pluginInput is what the AWS CLI writes to the plugin's standard input.
type pluginInput struct {
	InputVersion  string `json:"inputVersion"`
	Operation     string `json:"operation"`
	Payload       struct{ Service, Image, Label string }
	Configuration struct {
		Debug          bool   `json:"debug"`
		Endpoint       string `json:"endpoint"`
		Region         string `json:"region"`
		Profile        string `json:"profile"`
		CABundle       string `json:"caBundle"`
		DoNotVerifySSL bool   `json:"doNotVerifySSL"`
	} `json:"configuration"`
}

// Plugin is the program when it is called as lightsailctl: it speaks the protocol between the AWS CLI and its plugin.
// args exclude the program's name. It returns the exit status.
func (a *App) Plugin(ctx context.Context, args []string) int {
	a.fill()
	err := a.plugin(ctx, args)
	if err == nil {
		return ExitOK
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	fmt.Fprintf(a.Err, "%s: %s\n", PluginName, clean(err.Error()))
	return ExitFailed
}

const pluginUsage = `lightsailctl is Trysail under the name of the AWS CLI's plugin. The AWS CLI calls it:

  aws lightsail push-container-image --service-name SERVICE --label LABEL --image IMAGE

To push without the AWS CLI: trysail push IMAGE --service SERVICE --label LABEL`

func (a *App) plugin(ctx context.Context, args []string) error {
	isPlugin, fromStdin, input := false, false, ""
	for _, arg := range args {
		switch name, value, _ := strings.Cut(strings.TrimLeft(arg, "-"), "="); name {
		case "plugin":
			isPlugin = true
		case "input-stdin":
			fromStdin = true
		case "input":
			input = value
		case "version", "v":
			fmt.Fprintf(a.Out, "%s (trysail %s)\n", PluginName, a.Build.Version)
			return nil
		case "help", "h":
			fmt.Fprintln(a.Out, pluginUsage)
			return nil
		default:
			return fmt.Errorf("unknown argument %q\n\n%s", arg, pluginUsage)
		}
	}
	if !isPlugin || !fromStdin && input == "" {
		return errors.New("there is nothing to do\n\n" + pluginUsage)
	}
	var r io.Reader = strings.NewReader(input)
	if fromStdin {
		r = a.In
	}
	var in pluginInput
	if err := json.NewDecoder(io.LimitReader(r, maxFile)).Decode(&in); err != nil {
		return fmt.Errorf("reading the input of the AWS CLI: %w", err)
	}
	if in.InputVersion != "1" {
		return fmt.Errorf("the AWS CLI speaks version %q of the plugin protocol; this program knows version 1", in.InputVersion)
	}
	if in.Operation != "PushContainerImage" {
		return fmt.Errorf("the AWS CLI asks for %q; this program knows PushContainerImage only", in.Operation)
	}
	c, err := pluginClient(ctx, in)
	if err != nil {
		return err
	}
	p := pushing{image: in.Payload.Image, service: in.Payload.Service, label: in.Payload.Label}
	img, err := a.push(ctx, c, p)
	if err != nil {
		return err
	}
	a.printPushed(p, img)
	return nil
}

// pluginClient makes a client as the AWS CLI is configured: its profiles and all other places where the SDK looks for
// credentials count.
func pluginClient(ctx context.Context, in pluginInput) (*client, error) {
	conf := in.Configuration
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck,forcetypeassert // is one unless the program replaces it
	for _, bundle := range []string{conf.CABundle, os.Getenv("AWS_CA_BUNDLE"), os.Getenv("TRYSAIL_CA")} {
		if bundle == "" {
			continue
		}
		t, err := trust(bundle)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = t
		break
	}
	if conf.DoNotVerifySSL {
		transport.TLSClientConfig = insecureTLS()
	}
	h := awshttp.NewBuildableClient().WithTimeout(callTimeout).WithTransportOptions(func(t *http.Transport) {
		t.TLSClientConfig = transport.TLSClientConfig
	})
	opts := []func(*config.LoadOptions) error{config.WithHTTPClient(h), config.WithAppID(userAgent), config.WithRetryer(func() aws.Retryer {
		return retry.NewStandard(retryOptions)
	})}
	if conf.Region != "" {
		opts = append(opts, config.WithRegion(conf.Region))
	}
	if conf.Profile != "" {
		opts = append(opts, config.WithSharedConfigProfile(conf.Profile))
	}
	sdk, err := config.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("reading the AWS configuration: %w", err)
	}
	endpoint := strings.TrimRight(conf.Endpoint, "/")
	c := &client{http: &http.Client{Transport: transport}, settings: settings{endpoint: endpoint, region: sdk.Region}}
	c.Client = lightsail.NewFromConfig(sdk, func(o *lightsail.Options) {
		if endpoint != "" {
			o.BaseEndpoint = &endpoint
		}
	})
	return c, nil
}
