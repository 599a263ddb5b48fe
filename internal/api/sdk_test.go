package api

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// newSDKClient is the official client, as anybody would use it against Trysail.
func newSDKClient(t *testing.T, f *fake, secret string) *lightsail.Client {
	t.Helper()
	return lightsail.New(lightsail.Options{
		Region:           "us-east-1",
		BaseEndpoint:     aws.String(newServer(t, f).URL),
		RetryMaxAttempts: 1,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: testKey, SecretAccessKey: secret, SessionToken: "left over"}, nil
		}),
	})
}

func TestSDK_RoundTrip(t *testing.T) {
	var created control.CreateContainerServiceInput
	at := time.UnixMilli(1652233466250).UTC()
	client := newSDKClient(t, &fake{
		createService: func(in control.CreateContainerServiceInput) (*trysail.Service, error) {
			created = in
			s := fullService()
			return &s, nil
		},
		deployments: func(string) ([]trysail.Deployment, error) {
			return []trysail.Deployment{*fullService().Next, *fullService().Current}, nil
		},
		log: func(in control.GetContainerLogInput) (*control.LogPage, error) {
			return &control.LogPage{Events: []control.LogEvent{{CreatedAt: *in.StartTime, Message: "from " + in.ContainerName}}, NextPageToken: "2"}, nil
		},
		deleteService: func(string) error { return nil },
	}, testSecret)

	out, err := client.CreateContainerService(t.Context(), &lightsail.CreateContainerServiceInput{
		ServiceName: aws.String("web"), Power: types.ContainerServicePowerNameSmall, Scale: aws.Int32(2),
		Deployment: &types.ContainerServiceDeploymentRequest{
			Containers: map[string]types.Container{"app": {Image: aws.String("nginx"), Ports: map[string]types.ContainerServiceProtocol{"80": types.ContainerServiceProtocolHttp}}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(control.CreateContainerServiceInput{ServiceName: "web", Power: "small", Scale: 2, Deployment: &control.DeploymentInput{
		Containers: map[string]trysail.Container{"app": {Image: "nginx", Ports: map[string]trysail.Protocol{"80": "HTTP"}}},
	}}, created); diff != "" {
		t.Errorf("what control got (-want +got):\n%s", diff)
	}
	s := out.ContainerService
	if *s.ContainerServiceName != "web" || !s.CreatedAt.Equal(at) || s.State != types.ContainerServiceStateDeploying || *s.NextDeployment.Version != 2 ||
		*s.CurrentDeployment.PublicEndpoint.HealthCheck.SuccessCodes != "200-499" || s.Location.RegionName != "eu-central-1" || s.PrincipalArn == nil {
		t.Errorf("got %+v", s)
	}

	deployments, err := client.GetContainerServiceDeployments(t.Context(), &lightsail.GetContainerServiceDeploymentsInput{ServiceName: aws.String("web")})
	if err != nil || len(deployments.Deployments) != 2 || deployments.Deployments[0].Containers["app"].Environment["MODE"] != "<b> & co" {
		t.Errorf("got %+v, %v", deployments, err)
	}
	log, err := client.GetContainerLog(t.Context(), &lightsail.GetContainerLogInput{ServiceName: aws.String("web"), ContainerName: aws.String("app"), StartTime: &at})
	if err != nil || !log.LogEvents[0].CreatedAt.Equal(at) || *log.LogEvents[0].Message != "from app" || *log.NextPageToken != "2" {
		t.Errorf("got %+v, %v", log, err)
	}
	if _, err := client.DeleteContainerService(t.Context(), &lightsail.DeleteContainerServiceInput{ServiceName: aws.String("web")}); err != nil {
		t.Error(err)
	}
	powers, err := client.GetContainerServicePowers(t.Context(), &lightsail.GetContainerServicePowersInput{})
	if err != nil || len(powers.Powers) != 6 || *powers.Powers[0].PowerId != "nano-1" || *powers.Powers[0].RamSizeInGb != 0.5 || !*powers.Powers[5].IsActive {
		t.Errorf("got %+v, %v", powers, err)
	}
	metadata, err := client.GetContainerAPIMetadata(t.Context(), &lightsail.GetContainerAPIMetadataInput{})
	if err != nil || metadata.Metadata[0]["name"] != "lightsailctlVersion" {
		t.Errorf("got %+v, %v", metadata, err)
	}
	regions, err := client.GetRegions(t.Context(), &lightsail.GetRegionsInput{IncludeAvailabilityZones: aws.Bool(true)})
	if err != nil || regions.Regions[0].Name != "eu-central-1" || *regions.Regions[0].AvailabilityZones[0].ZoneName != "eu-central-1a" {
		t.Errorf("got %+v, %v", regions, err)
	}
}

func wantSDKError[T error](t *testing.T, err error, text string) {
	t.Helper()
	typed, ok := errors.AsType[T](err)
	if !ok {
		t.Errorf("got %v, want a %T", err, typed)
		return
	}
	if e, ok := errors.AsType[smithy.APIError](err); !ok || e.ErrorMessage() != text {
		t.Errorf("got %v, want the text %q", err, text)
	}
}

func TestSDK_TypedExceptions(t *testing.T) {
	var fails error
	f := &fake{getServices: func(string) ([]trysail.Service, error) { return nil, fails }}
	client := newSDKClient(t, f, testSecret)
	call := func(code trysail.Code, text string) error {
		fails = trysail.Errorf(code, "%s", text)
		_, err := client.GetContainerServices(t.Context(), &lightsail.GetContainerServicesInput{})
		return err
	}
	const notFound = `Service "web" not found.`
	wantSDKError[*types.NotFoundException](t, call(trysail.CodeNotFound, notFound), notFound)
	wantSDKError[*types.InvalidInputException](t, call(trysail.CodeInvalid, "bad"), "bad")
	wantSDKError[*types.InvalidInputException](t, call(trysail.CodeUnsupported, "later"), "later")
	wantSDKError[*types.AccessDeniedException](t, call(trysail.CodeAccessDenied, "no"), "no")
	wantSDKError[*types.ServiceException](t, call(trysail.CodeUnavailable, "disk full"), "disk full")
	wantSDKError[*types.ServiceException](t, call(trysail.CodeInternal, "broken"), "broken")

	_, err := client.GetDisks(t.Context(), &lightsail.GetDisksInput{})
	wantSDKError[*types.InvalidInputException](t, err, "Trysail serves container services only: GetDisks is not available.")

	_, err = newSDKClient(t, f, "wrong").GetContainerServices(t.Context(), &lightsail.GetContainerServicesInput{})
	if e, ok := errors.AsType[smithy.APIError](err); !ok || e.ErrorCode() != "InvalidSignatureException" {
		t.Errorf("got %v, want an InvalidSignatureException", err)
	}
}
