package control_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/logs"
	"github.com/trysail/trysail/internal/store"
	"github.com/trysail/trysail/test/database"
)

// databases is what the tests keep the state in: make test runs them with SQLite and with PostgreSQL.
var databases database.Server

func TestMain(m *testing.M) { os.Exit(databases.Main(m)) }

// resolver answers in place of registries.
type resolver func(ctx context.Context, name string) (trysail.Image, error)

func (r resolver) Resolve(ctx context.Context, name string) (trysail.Image, error) {
	return r(ctx, name)
}

// anyImage has every image.
func anyImage(_ context.Context, name string) (trysail.Image, error) {
	return trysail.Image{Name: name, Digest: "sha256:of-" + name}, nil
}

var caller = trysail.Caller{AccessKeyID: "AKIATEST", Name: "test", Role: trysail.RoleAdmin}

// bed is a Control on a real store.
type bed struct {
	*testing.T
	*control.Control
	store *store.Store
	logs  *logs.Store
	dir   string
}

func newBed(t *testing.T, change func(*control.Config)) *bed {
	t.Helper()
	dir := t.TempDir()
	st, err := databases.Open(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	b := &bed{T: t, store: st, logs: logs.New(t.TempDir()), dir: dir}
	cfg := control.Config{Region: "us-east-1", Account: "111122223333", Store: st, Logs: b.logs, Images: resolver(anyImage), Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	b.Control = control.New(cfg)
	return b
}

// containers is a valid deployment of container web.
func containers() control.DeploymentInput {
	return control.DeploymentInput{
		Containers:     map[string]trysail.Container{"web": {Image: "nginx:1", Ports: map[string]trysail.Protocol{"80": trysail.ProtocolHTTP}}},
		PublicEndpoint: &control.EndpointInput{ContainerName: "web", ContainerPort: 80},
	}
}

// create makes a service and puts it into the state, with a deployment of the given state if that is not "".
func (b *bed) create(name string, state trysail.ServiceState, deployment trysail.DeploymentState) {
	b.Helper()
	if _, err := b.CreateContainerService(b.Context(), caller, control.CreateContainerServiceInput{ServiceName: name, Power: "nano", Scale: 1}); err != nil {
		b.Fatal(err)
	}
	b.update(func(tx *store.Tx) error {
		s, err := tx.Service(name)
		if err != nil {
			return err
		}
		s.State, s.Detail = state, trysail.StateDetail{}
		s.Disabled = state == trysail.ServiceDisabled
		if deployment != "" {
			d := &trysail.Deployment{State: deployment, CreatedAt: tx.Now(), Containers: containers().Containers}
			if err := tx.InsertDeployment(s.ID, d); err != nil {
				return err
			}
		}
		return tx.UpdateService(s)
	})
}

func (b *bed) update(fn func(*store.Tx) error) {
	b.Helper()
	if err := b.store.Update(b.Context(), fn); err != nil {
		b.Fatal(err)
	}
}

// state is everything that the store holds and an operation could change.
type state struct {
	Services    []trysail.Service
	Deployments map[string][]trysail.Deployment
	Audit       []trysail.AuditEvent // of what was done
	Keys        []store.AccessKey
	Certs       []trysail.Certificate
}

func (b *bed) state() (st state) {
	b.Helper()
	err := b.store.View(b.Context(), func(tx *store.Tx) (err error) {
		if st.Services, err = tx.Services(); err != nil {
			return err
		}
		st.Deployments = map[string][]trysail.Deployment{}
		for _, s := range st.Services {
			if st.Deployments[s.Name], err = tx.Deployments(s.ID); err != nil {
				return err
			}
		}
		if st.Certs, err = tx.Certificates(); err != nil {
			return err
		}
		if st.Audit, _, err = tx.AuditTrail(store.AuditQuery{Limit: 1000, Outcome: trysail.AuditSuccess}); err != nil {
			return err
		}
		st.Keys, err = tx.Keys()
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return st
}

// service is the service "web" as a client sees it.
func (b *bed) service() trysail.Service {
	b.Helper()
	list, err := b.GetContainerServices(b.Context(), caller, "web")
	if err != nil || len(list) != 1 {
		b.Fatalf("GetContainerServices: got %d services, %v, want web", len(list), err)
	}
	return list[0]
}

// refused checks that do fails with the code and text and changes nothing.
func (b *bed) refused(code trysail.Code, text string, do func() error) {
	b.Helper()
	before := b.state()
	err := do()
	e, ok := errors.AsType[*trysail.Error](err)
	if !ok || e.Code != code || e.Message != text {
		b.Errorf("got  %v (%s)\nwant %s (%s)", err, trysail.ErrorCode(err), text, code)
	}
	if d := cmp.Diff(before, b.state()); d != "" {
		b.Errorf("the refused call changed something (-before +after):\n%s", d)
	}
}

func TestCreateContainerService_MakesAService(t *testing.T) {
	b := newBed(t, nil)
	got, err := b.CreateContainerService(t.Context(), caller, control.CreateContainerServiceInput{
		ServiceName: "web", Power: "small", Scale: 3, Tags: []trysail.Tag{{Key: "z"}, {Key: "a", Value: "1"}},
		PublicDomainNames: map[string][]string{"cert": {}}, ECRPuller: new(true),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &trysail.Service{
		Name: "web", Capacity: trysail.Capacity{Power: trysail.PowerSmall, Scale: 3}, State: trysail.ServicePending,
		Detail: trysail.StateDetail{Code: trysail.DetailCreatingSystemResources},
		Tags:   []trysail.Tag{{Key: "a", Value: "1"}, {Key: "z"}}, ECRPuller: true,
	}
	if d := cmp.Diff(want, got, cmpopts.IgnoreFields(trysail.Service{}, "ID", "HostLabel", "CreatedAt")); d != "" {
		t.Errorf("service (-want +got):\n%s", d)
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(got.ID) || !regexp.MustCompile(`^[0-9a-v]{13}$`).MatchString(got.HostLabel) {
		t.Errorf("ID %q, HostLabel %q", got.ID, got.HostLabel)
	}
	if time.Since(got.CreatedAt) > time.Minute {
		t.Errorf("CreatedAt: got %v", got.CreatedAt)
	}
	if d := cmp.Diff(*got, b.service()); d != "" {
		t.Errorf("answered and stored differ (-answered +stored):\n%s", d)
	}
	audit := b.state().Audit
	if len(audit) != 1 || audit[0].Operation != "CreateContainerService" || audit[0].Resource != "web" || audit[0].Caller.AccessKeyID != caller.AccessKeyID || audit[0].Caller.Name != caller.Name {
		t.Errorf("audit: got %v", audit)
	}
}

func TestCreateContainerService_WithDeployment(t *testing.T) {
	b := newBed(t, nil)
	got, err := b.CreateContainerService(t.Context(), caller, control.CreateContainerServiceInput{ServiceName: "web", Power: "nano", Scale: 1, Deployment: new(containers())})
	if err != nil {
		t.Fatal(err)
	}
	if got.State != trysail.ServicePending || got.Next == nil || got.Next.Version != 1 || got.Next.State != trysail.DeploymentActivating || got.Current != nil {
		t.Errorf("got state %s, next %+v, current %+v", got.State, got.Next, got.Current)
	}
	if d := cmp.Diff(*got, b.service()); d != "" {
		t.Errorf("answered and stored differ (-answered +stored):\n%s", d)
	}
}

const namePattern = "^(?:[a-z0-9]{1,2}|[a-z0-9][a-z0-9-]+[a-z0-9])$"

func TestCreateContainerService_Refuses(t *testing.T) {
	b := newBed(t, func(c *control.Config) { c.MaxServices = 2 })
	b.create("taken", trysail.ServiceReady, "")
	b.create("going", trysail.ServiceDeleting, "")
	for name, tc := range map[string]struct {
		change func(*control.CreateContainerServiceInput)
		want   string
	}{
		"name":    {func(in *control.CreateContainerServiceInput) { in.ServiceName = "UPPER_bad" }, `Service name "UPPER_bad" does not match pattern: ` + namePattern},
		"no name": {func(in *control.CreateContainerServiceInput) { in.ServiceName = "" }, `Service name "" does not match pattern: ` + namePattern},
		"power":   {func(in *control.CreateContainerServiceInput) { in.Power = "huge" }, `Power "huge" is not valid. It must be one of: nano, micro, small, medium, large, xlarge.`},
		"scale":   {func(in *control.CreateContainerServiceInput) { in.Scale = 25 }, "Scale 25 is not valid. It must be between 1 and 20."},
		"tag":     {func(in *control.CreateContainerServiceInput) { in.Tags = []trysail.Tag{{Key: "aws:x"}} }, `Tag key "aws:x" is not valid. Keys that begin with "aws:" are reserved.`},
		"container": {func(in *control.CreateContainerServiceInput) {
			in.Deployment = &control.DeploymentInput{Containers: map[string]trysail.Container{"backend_api": {Image: "x"}}}
		}, `Container name "backend_api" does not match pattern: ` + namePattern},
		"taken":    {func(in *control.CreateContainerServiceInput) { in.ServiceName = "taken" }, "Some names are already in use: taken"},
		"deleting": {func(in *control.CreateContainerServiceInput) { in.ServiceName = "going" }, `Please try again when service "going" is done DELETING.`},
		"quota": {func(*control.CreateContainerServiceInput) {}, "Sorry, you've either reached or will exceed your maximum limit of Lightsail Container Services. " +
			"This Trysail allows 2 (--max-services)."},
	} {
		t.Run(name, func(t *testing.T) {
			b := &bed{T: t, Control: b.Control, store: b.store}
			in := control.CreateContainerServiceInput{ServiceName: "new", Power: "nano", Scale: 1}
			tc.change(&in)
			b.refused(trysail.CodeInvalid, tc.want, func() error { _, err := b.CreateContainerService(t.Context(), caller, in); return err })
		})
	}
}

func TestOperations_UnknownService(t *testing.T) {
	b := newBed(t, nil)
	for name, do := range map[string]func() error{
		"GetContainerServices": func() error { _, err := b.GetContainerServices(t.Context(), caller, "nope"); return err },
		"UpdateContainerService": func() error {
			_, err := b.UpdateContainerService(t.Context(), caller, control.UpdateContainerServiceInput{ServiceName: "nope"})
			return err
		},
		"DeleteContainerService": func() error { return b.DeleteContainerService(t.Context(), caller, "nope") },
		"CreateContainerServiceDeployment": func() error {
			_, err := b.CreateContainerServiceDeployment(t.Context(), caller, "nope", containers())
			return err
		},
		"GetContainerServiceDeployments": func() error { _, err := b.GetContainerServiceDeployments(t.Context(), caller, "nope"); return err },
		"GetContainerLog": func() error {
			_, err := b.GetContainerLog(t.Context(), caller, control.GetContainerLogInput{ServiceName: "nope", ContainerName: "web"})
			return err
		},
		"TagResource": func() error {
			_, err := b.TagResource(t.Context(), caller, "nope", nil, []trysail.Tag{{Key: "a"}})
			return err
		},
		"UntagResource":          func() error { _, err := b.UntagResource(t.Context(), caller, "nope", nil, []string{"a"}); return err },
		"GetDeploymentRecord":    func() error { _, err := b.GetDeploymentRecord(t.Context(), caller, "nope", 0); return err },
		"GetDeploymentDiagnosis": func() error { _, err := b.GetDeploymentDiagnosis(t.Context(), caller, "nope", 0); return err },
		"GetServiceSettings":     func() error { _, err := b.GetServiceSettings(t.Context(), caller, "nope"); return err },
		"PutServiceSettings": func() error {
			_, err := b.PutServiceSettings(t.Context(), caller, control.PutServiceSettingsInput{ServiceName: "nope"})
			return err
		},
		"GetAccessLog": func() error {
			_, err := b.GetAccessLog(t.Context(), caller, control.GetContainerLogInput{ServiceName: "nope"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			(&bed{T: t, Control: b.Control, store: b.store}).refused(trysail.CodeNotFound, `Service "nope" not found.`, do)
		})
	}
}

// TestOperations_Busy runs every changing operation in every state.
func TestOperations_Busy(t *testing.T) {
	const (
		deploying = `Sorry, deployment 1 is in progress for service "web". Please wait for it to complete before trying again.`
		pending   = `Please try again when service "web" is done PENDING. Please try again in a few minutes.`
		updating  = `Please try again when service "web" is done UPDATING. Please try again in a few minutes.`
		deleting  = `Please try again when service "web" is done DELETING.`
		disabled  = `Service "web" is disabled. Enable it before you create a deployment.`
	)
	for _, tc := range []struct {
		state                  trysail.ServiceState
		deployment             trysail.DeploymentState
		deploy, update, delete string // texts; "" means that it is allowed
	}{
		{trysail.ServicePending, "", pending, pending, pending},
		{trysail.ServicePending, trysail.DeploymentActivating, deploying, deploying, deploying},
		{trysail.ServiceReady, "", "", "", ""},
		{trysail.ServiceDeploying, trysail.DeploymentActivating, deploying, deploying, deploying},
		{trysail.ServiceRunning, trysail.DeploymentActive, "", "", ""},
		{trysail.ServiceUpdating, trysail.DeploymentActive, updating, updating, updating},
		{trysail.ServiceDisabled, trysail.DeploymentActive, disabled, "", ""},
		{trysail.ServiceDeleting, "", deleting, deleting, deleting},
	} {
		for name, op := range map[string]struct {
			want string
			do   func(*bed) error
			then trysail.ServiceState
		}{
			"deploy": {tc.deploy, func(b *bed) error {
				_, err := b.CreateContainerServiceDeployment(b.Context(), caller, "web", containers())
				return err
			}, trysail.ServiceDeploying},
			"update": {tc.update, func(b *bed) error {
				_, err := b.UpdateContainerService(b.Context(), caller, control.UpdateContainerServiceInput{ServiceName: "web", Scale: new(2)})
				return err
			}, trysail.ServiceUpdating},
			"delete": {tc.delete, func(b *bed) error { return b.DeleteContainerService(b.Context(), caller, "web") }, trysail.ServiceDeleting},
		} {
			t.Run(fmt.Sprintf("%s in %s%s", name, tc.state, tc.deployment), func(t *testing.T) {
				b := newBed(t, nil)
				b.create("web", tc.state, tc.deployment)
				if op.want != "" {
					b.refused(trysail.CodeInvalid, op.want, func() error { return op.do(b) })
					return
				}
				if err := op.do(b); err != nil {
					t.Fatal(err)
				}
				s := b.service()
				// The reconciler recognises a new request by the absence of a message.
				if s.State != op.then || s.Detail.Message != "" {
					t.Errorf("got %s %+v, want %s without a message", s.State, s.Detail, op.then)
				}
				if a := b.state().Audit; len(a) != 2 {
					t.Errorf("audit: got %v, want two entries", a)
				}
			})
		}
	}
}

func TestUpdateContainerService_EffectiveChanges(t *testing.T) {
	type in = control.UpdateContainerServiceInput
	nano := trysail.Capacity{Power: trysail.PowerNano, Scale: 1}
	for name, tc := range map[string]struct {
		state    trysail.ServiceState
		active   trysail.DeploymentState
		in       in
		then     trysail.ServiceState
		capacity trysail.Capacity
		fallback *trysail.Capacity
	}{
		"nothing":               {trysail.ServiceRunning, trysail.DeploymentActive, in{}, trysail.ServiceRunning, nano, nil},
		"the same":              {trysail.ServiceRunning, trysail.DeploymentActive, in{Power: new("nano"), Scale: new(1), IsDisabled: new(false), ECRPuller: new(false), PublicDomainNames: map[string][]string{}}, trysail.ServiceRunning, nano, nil},
		"the same, busy":        {trysail.ServiceUpdating, trysail.DeploymentActive, in{Power: new("nano")}, trysail.ServiceUpdating, nano, nil},
		"power":                 {trysail.ServiceRunning, trysail.DeploymentActive, in{Power: new("large")}, trysail.ServiceUpdating, trysail.Capacity{Power: trysail.PowerLarge, Scale: 1}, &nano},
		"scale":                 {trysail.ServiceRunning, trysail.DeploymentActive, in{Scale: new(5)}, trysail.ServiceUpdating, trysail.Capacity{Power: trysail.PowerNano, Scale: 5}, &nano},
		"scale, no deployment":  {trysail.ServiceReady, "", in{Scale: new(5)}, trysail.ServiceUpdating, trysail.Capacity{Power: trysail.PowerNano, Scale: 5}, nil},
		"scale, disabled":       {trysail.ServiceDisabled, trysail.DeploymentActive, in{Scale: new(5)}, trysail.ServiceUpdating, trysail.Capacity{Power: trysail.PowerNano, Scale: 5}, nil},
		"disable":               {trysail.ServiceRunning, trysail.DeploymentActive, in{IsDisabled: new(true)}, trysail.ServiceUpdating, nano, nil},
		"enable":                {trysail.ServiceDisabled, trysail.DeploymentActive, in{IsDisabled: new(false)}, trysail.ServiceUpdating, nano, nil},
		"puller":                {trysail.ServiceRunning, trysail.DeploymentActive, in{ECRPuller: new(true)}, trysail.ServiceUpdating, nano, nil},
		"scale and disable":     {trysail.ServiceRunning, trysail.DeploymentActive, in{Scale: new(2), IsDisabled: new(true)}, trysail.ServiceUpdating, trysail.Capacity{Power: trysail.PowerNano, Scale: 2}, nil},
		"detaching certificate": {trysail.ServiceRunning, trysail.DeploymentActive, in{PublicDomainNames: map[string][]string{"c": {}}}, trysail.ServiceRunning, nano, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, nil)
			b.create("web", tc.state, tc.active)
			tc.in.ServiceName = "web"
			before := b.state()
			got, err := b.UpdateContainerService(t.Context(), caller, tc.in)
			if err != nil {
				t.Fatal(err)
			}
			if got.State != tc.then || got.Capacity != tc.capacity || !cmp.Equal(got.Fallback, tc.fallback) {
				t.Errorf("got %s %+v fallback %+v, want %s %+v fallback %+v", got.State, got.Capacity, got.Fallback, tc.then, tc.capacity, tc.fallback)
			}
			if d := cmp.Diff(*got, b.service()); d != "" {
				t.Errorf("answered and stored differ (-answered +stored):\n%s", d)
			}
			if tc.then == tc.state {
				if d := cmp.Diff(before, b.state()); d != "" {
					t.Errorf("something changed (-before +after):\n%s", d)
				}
			}
		})
	}
}

// A client such as Terraform takes the state in the answer for that of its own update, so an update that changes
// nothing is only answered in states that an update can lead to.
func TestUpdateContainerService_WithoutChangeDuringADeployment(t *testing.T) {
	b := newBed(t, nil)
	b.create("web", trysail.ServiceDeploying, trysail.DeploymentActivating)
	b.refused(trysail.CodeInvalid, `Sorry, deployment 1 is in progress for service "web". Please wait for it to complete before trying again.`, func() error {
		_, err := b.UpdateContainerService(t.Context(), caller, control.UpdateContainerServiceInput{ServiceName: "web", Power: new("nano"), Scale: new(1)})
		return err
	})
}

func TestUpdateContainerService_Refuses(t *testing.T) {
	b := newBed(t, nil)
	b.create("web", trysail.ServiceRunning, trysail.DeploymentActive)
	for want, in := range map[string]control.UpdateContainerServiceInput{
		`Service name "W" does not match pattern: ` + namePattern:                              {ServiceName: "W"},
		`Power "" is not valid. It must be one of: nano, micro, small, medium, large, xlarge.`: {ServiceName: "web", Power: new("")},
		"Scale 0 is not valid. It must be between 1 and 20.":                                   {ServiceName: "web", Scale: new(0)},
		`Domain "x" is not valid. It must be a name such as www.example.com.`:                  {ServiceName: "web", PublicDomainNames: map[string][]string{"c": {"x"}}},
	} {
		b.refused(trysail.CodeInvalid, want, func() error { _, err := b.UpdateContainerService(t.Context(), caller, in); return err })
	}
}

func TestCreateContainerServiceDeployment_FillsInAndResolves(t *testing.T) {
	b := newBed(t, nil)
	b.create("web", trysail.ServiceRunning, trysail.DeploymentActive)
	in := containers()
	in.Containers["side"] = trysail.Container{Image: "nginx:1"}
	in.Containers["other"] = trysail.Container{Image: "redis"}
	in.PublicEndpoint.HealthCheck = &control.HealthCheckInput{Path: new("/up"), IntervalSeconds: new(10)}
	got, err := b.CreateContainerServiceDeployment(t.Context(), caller, "web", in)
	if err != nil {
		t.Fatal(err)
	}
	want := &trysail.Deployment{
		Version: 2, State: trysail.DeploymentActivating, Containers: in.Containers,
		PublicEndpoint: &trysail.PublicEndpoint{ContainerName: "web", ContainerPort: 80, HealthCheck: trysail.HealthCheck{
			HealthyThreshold: 2, UnhealthyThreshold: 2, TimeoutSeconds: 2, IntervalSeconds: 10, Path: "/up", SuccessCodes: "200-499",
		}},
		Digests: map[string]string{"nginx:1": "sha256:of-nginx:1", "redis": "sha256:of-redis"},
	}
	if d := cmp.Diff(want, got.Next, cmpopts.IgnoreFields(trysail.Deployment{}, "CreatedAt", "Deadline")); d != "" {
		t.Errorf("nextDeployment (-want +got):\n%s", d)
	}
	if got.State != trysail.ServiceDeploying || got.Current == nil || got.Current.Version != 1 {
		t.Errorf("got %s with current %+v, want DEPLOYING with version 1", got.State, got.Current)
	}
	if d := cmp.Diff(*got, b.service()); d != "" {
		t.Errorf("answered and stored differ (-answered +stored):\n%s", d)
	}
	list, err := b.GetContainerServiceDeployments(t.Context(), caller, "web")
	if err != nil || len(list) != 2 || list[0].Version != 2 || list[1].Version != 1 {
		t.Errorf("deployments: got %v, %v, want versions 2 and 1", list, err)
	}
}

func TestCreateContainerServiceDeployment_Refuses(t *testing.T) {
	final := func(ctx context.Context, name string) (trysail.Image, error) {
		if strings.HasPrefix(name, "nope") {
			return trysail.Image{}, &trysail.ImageError{Code: "IMG-TAG", Image: name, Message: "Repository nope has no tag 1.", Fix: "Use a tag that exists.", Final: true}
		}
		return anyImage(ctx, name)
	}
	b := newBed(t, func(c *control.Config) { c.Images = resolver(final) })
	b.create("svc", trysail.ServiceRunning, trysail.DeploymentActive)
	for name, tc := range map[string]struct {
		change func(*control.DeploymentInput)
		want   string
	}{
		"no containers": {func(in *control.DeploymentInput) { in.Containers = nil }, "The deployment has 0 containers. It must have 1 to 10."},
		"endpoint port": {func(in *control.DeploymentInput) { in.PublicEndpoint.ContainerPort = 81 }, "Invalid port specified. You must specify a port that is in the list of ports of the specified container."},
		"health check": {func(in *control.DeploymentInput) {
			in.PublicEndpoint.HealthCheck = &control.HealthCheckInput{TimeoutSeconds: new(61)}
		}, `The health check of container "web" has invalid timeoutSeconds 61. It must be between 2 and 60.`},
		"empty path": {func(in *control.DeploymentInput) {
			in.PublicEndpoint.HealthCheck = &control.HealthCheckInput{Path: new("")}
		}, `The health check of container "web" has invalid path "". It must begin with / and have up to 1024 characters of ASCII without spaces.`},
		"private ECR": {
			func(in *control.DeploymentInput) {
				in.Containers["b"] = trysail.Container{Image: "123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1"}
			},
			`Container "b" has image "123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1", which is in a private registry of Amazon ECR, and service "svc" may not pull from there. Allow it first: aws lightsail update-container-service --service-name svc --private-registry-access ecrImagePullerRole={isActive=true}`,
		},
		"bad stored image": {
			func(in *control.DeploymentInput) {
				in.Containers["frontend-ui"] = trysail.Container{Image: ":container-service-1.my-react-ui.LATEST"}
			},
			`Container "frontend-ui" has invalid image ":container-service-1.my-react-ui.LATEST". Example of valid image: ":svc.frontend-ui.123".`,
		},
		"absent image": {
			func(in *control.DeploymentInput) { in.Containers["b"] = trysail.Container{Image: "nope:1"} },
			`Container "b" has image "nope:1", which cannot be deployed: Repository nope has no tag 1. Use a tag that exists.`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := &bed{T: t, Control: b.Control, store: b.store}
			in := containers()
			tc.change(&in)
			b.refused(trysail.CodeInvalid, tc.want, func() error {
				_, err := b.CreateContainerServiceDeployment(t.Context(), caller, "svc", in)
				return err
			})
		})
	}
}

func TestCreateContainerServiceDeployment_AcceptsWhatCannotBeFoundOut(t *testing.T) {
	for name, images := range map[string]resolver{
		"not final": func(_ context.Context, name string) (trysail.Image, error) {
			return trysail.Image{}, &trysail.ImageError{Code: "IMG-RATE", Image: name, Message: "m", Fix: "f"}
		},
		"another error": func(context.Context, string) (trysail.Image, error) { return trysail.Image{}, http.ErrHandlerTimeout },
		"hanging": func(ctx context.Context, name string) (trysail.Image, error) {
			<-ctx.Done()
			return trysail.Image{}, &trysail.ImageError{Code: "IMG-SLOW", Image: name, Message: "m", Fix: "f", Err: ctx.Err()}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, func(c *control.Config) { c.Images, c.PreflightTimeout = images, 20*time.Millisecond })
			b.create("web", trysail.ServiceReady, "")
			got, err := b.CreateContainerServiceDeployment(t.Context(), caller, "web", containers())
			if err != nil || got.Next == nil || len(got.Next.Digests) > 0 {
				t.Errorf("got %+v, %v, want it accepted without a digest", got, err)
			}
		})
	}
}

func TestCreateContainerServiceDeployment_AsksNoRegistryInVain(t *testing.T) {
	asked := make(chan string, 10)
	b := newBed(t, func(c *control.Config) {
		c.Images = resolver(func(_ context.Context, name string) (trysail.Image, error) {
			asked <- name
			return trysail.Image{}, errors.New("no")
		})
	})
	b.create("web", trysail.ServiceDeploying, trysail.DeploymentActivating)
	for _, name := range []string{"web", "nope"} {
		if _, err := b.CreateContainerServiceDeployment(t.Context(), caller, name, containers()); err == nil {
			t.Errorf("%s: the deployment was accepted", name)
		}
	}
	if len(asked) > 0 {
		t.Errorf("a registry was asked for %s", <-asked)
	}
}

func TestCapacity_ThatTheMachineDoesNotHaveIsRefused(t *testing.T) {
	b := newBed(t, func(c *control.Config) { c.Memory = 3 << 30 })
	b.create("web", trysail.ServiceReady, trysail.DeploymentActive)
	big, few, many := "medium", 1, 2
	const text = `CAP-NOFIT: Service "web" has power medium and scale 2, which is 4.0 GB of memory; this machine has 3.0 GB. Choose a smaller power or scale.`
	update := func(scale *int) func() error {
		return func() error {
			_, err := b.UpdateContainerService(t.Context(), caller, control.UpdateContainerServiceInput{ServiceName: "web", Power: &big, Scale: scale})
			return err
		}
	}
	b.refused(trysail.CodeInvalid, text, update(&many))
	if err := update(&few)(); err != nil {
		t.Errorf("what just fits: %v", err)
	}
	b.update(func(tx *store.Tx) error {
		s, err := tx.Service("web")
		if err != nil {
			return err
		}
		s.State, s.Scale = trysail.ServiceReady, 2
		return tx.UpdateService(s)
	})
	b.refused(trysail.CodeInvalid, text, func() error {
		_, err := b.CreateContainerServiceDeployment(t.Context(), caller, "web", containers())
		return err
	})
}

func TestCreateContainerServiceDeployment_OneAtATime(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{}, 8)
	b := newBed(t, func(c *control.Config) {
		c.PreflightTimeout = time.Minute
		c.Images = resolver(func(_ context.Context, name string) (trysail.Image, error) {
			arrived <- struct{}{}
			<-release
			return trysail.Image{Digest: "sha256:x"}, nil
		})
	})
	b.create("web", trysail.ServiceReady, "")
	results := make(chan error)
	for range 8 {
		go func() {
			_, err := b.CreateContainerServiceDeployment(t.Context(), caller, "web", containers())
			results <- err
		}()
	}
	for range 8 {
		<-arrived // all have seen a free service
	}
	close(release)
	accepted := 0
	for range 8 {
		switch err := <-results; {
		case err == nil:
			accepted++
		case err.Error() != `Sorry, deployment 1 is in progress for service "web". Please wait for it to complete before trying again.`:
			t.Errorf("got %v", err)
		}
	}
	if list := b.state().Deployments["web"]; accepted != 1 || len(list) != 1 {
		t.Errorf("%d were accepted and %d are stored, want one", accepted, len(list))
	}
}

func TestTags(t *testing.T) {
	b := newBed(t, nil)
	b.create("web", trysail.ServiceReady, "")
	s := b.service()
	arn := s.ARN("us-east-1", "111122223333")
	ops, err := b.TagResource(t.Context(), caller, "web", &arn, []trysail.Tag{{Key: "b", Value: "1"}, {Key: "a", Value: "1"}})
	if err != nil || len(ops) != 1 || ops[0].ID == "" || ops[0].ResourceName != "web" || ops[0].CreatedAt.IsZero() {
		t.Errorf("TagResource: got %+v, %v", ops, err)
	}
	if _, err := b.TagResource(t.Context(), caller, "web", nil, []trysail.Tag{{Key: "a", Value: "2"}}); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff([]trysail.Tag{{Key: "a", Value: "2"}, {Key: "b", Value: "1"}}, b.service().Tags); d != "" {
		t.Errorf("tags (-want +got):\n%s", d)
	}
	if _, err := b.UntagResource(t.Context(), caller, "web", nil, []string{"a", "absent"}); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff([]trysail.Tag{{Key: "b", Value: "1"}}, b.service().Tags); d != "" {
		t.Errorf("tags (-want +got):\n%s", d)
	}
	b.refused(trysail.CodeInvalid, `Resource "web" has ARN "`+arn+`", not "arn:x".`, func() error {
		_, err := b.TagResource(t.Context(), caller, "web", new("arn:x"), []trysail.Tag{{Key: "c"}})
		return err
	})
	b.refused(trysail.CodeInvalid, `Tag key "" is 0 characters long. It must have 1 to 128.`, func() error {
		_, err := b.UntagResource(t.Context(), caller, "web", nil, []string{""})
		return err
	})
	many := make([]trysail.Tag, 50)
	for i := range many {
		many[i].Key = fmt.Sprint("k", i)
	}
	b.refused(trysail.CodeInvalid, "51 tags are too many. A service can have up to 50.", func() error {
		_, err := b.TagResource(t.Context(), caller, "web", nil, many)
		return err
	})
}

func TestGetContainerLog(t *testing.T) {
	b := newBed(t, nil)
	b.create("web", trysail.ServiceRunning, trysail.DeploymentActive)
	id := b.service().ID
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	page := func(in control.GetContainerLogInput) *control.LogPage {
		t.Helper()
		in.ServiceName = "web"
		if in.ContainerName == "" {
			in.ContainerName = "web"
		}
		p, err := b.GetContainerLog(t.Context(), caller, in)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := page(control.GetContainerLogInput{}); len(p.Events) != 0 || p.NextPageToken != "" {
		t.Errorf("without lines: got %+v", p)
	}
	for i := range 1001 {
		if err := b.logs.Append(id, []string{"web"}, at.Add(time.Duration(i)*time.Second), fmt.Sprint("line ", i)); err != nil {
			t.Fatal(err)
		}
	}
	first := page(control.GetContainerLogInput{})
	second := page(control.GetContainerLogInput{PageToken: first.NextPageToken})
	if len(first.Events) != 1000 || len(second.Events) != 1 || second.NextPageToken != "" || second.Events[0] != (control.LogEvent{CreatedAt: at.Add(1000 * time.Second), Message: "line 1000"}) {
		t.Errorf("got pages of %d and %+v", len(first.Events), second)
	}
	start, end := at.Add(10*time.Second), at.Add(20*time.Second)
	if p := page(control.GetContainerLogInput{StartTime: &start, EndTime: &end, FilterPattern: "?11 ?19 ?99"}); len(p.Events) != 2 {
		t.Errorf("range and filter: got %+v, want two lines", p)
	}
	// The log outlives the version: a container of a forgotten version still has one.
	if err := b.logs.Append(id, []string{"former"}, at, "x"); err != nil {
		t.Fatal(err)
	}
	if p := page(control.GetContainerLogInput{ContainerName: "former"}); len(p.Events) != 1 {
		t.Errorf("former container: got %+v, want one line", p)
	}
	for name, tc := range map[string]struct {
		in   control.GetContainerLogInput
		code trysail.Code
		want string
	}{
		"service":   {control.GetContainerLogInput{ServiceName: "W", ContainerName: "web"}, trysail.CodeInvalid, `Service name "W" does not match pattern: ` + namePattern},
		"traversal": {control.GetContainerLogInput{ServiceName: "web", ContainerName: "../x"}, trysail.CodeInvalid, `Container name "../x" does not match pattern: ` + namePattern},
		"unknown":   {control.GetContainerLogInput{ServiceName: "web", ContainerName: "nope"}, trysail.CodeNotFound, `Container "nope" not found in service "web".`},
		"range":     {control.GetContainerLogInput{ServiceName: "web", ContainerName: "web", StartTime: &end, EndTime: &start}, trysail.CodeInvalid, "The start time must not be after the end time."},
		"filter":    {control.GetContainerLogInput{ServiceName: "web", ContainerName: "web", FilterPattern: `"a`}, trysail.CodeInvalid, "Invalid filter pattern: the filter pattern has a double quote that is not closed."},
		"token":     {control.GetContainerLogInput{ServiceName: "web", ContainerName: "web", PageToken: "x"}, trysail.CodeInvalid, "Invalid page token. Use the token of the page before, with the other arguments unchanged."},
	} {
		t.Run(name, func(t *testing.T) {
			(&bed{T: t, Control: b.Control, store: b.store}).refused(tc.code, tc.want, func() error { _, err := b.GetContainerLog(t.Context(), caller, tc.in); return err })
		})
	}
}

func TestGetDeploymentDiagnosis(t *testing.T) {
	b := newBed(t, nil)
	b.create("web", trysail.ServiceReady, trysail.DeploymentFailed) // version 1, without a diagnosis
	get := func(version int) func() error {
		return func() error { _, err := b.GetDeploymentDiagnosis(t.Context(), caller, "web", version); return err }
	}
	b.refused(trysail.CodeNotFound, `Service "web" has no failed deployment.`, get(0))
	b.refused(trysail.CodeNotFound, `Deployment 1 of service "web" has no diagnosis.`, get(1))
	b.refused(trysail.CodeNotFound, `Deployment 9 of service "web" not found.`, get(9))
	want := &trysail.Diagnosis{Version: 2, Code: "EXIT-CODE", Confidence: trysail.Certain, Summary: "s", Fix: "f"}
	b.update(func(tx *store.Tx) error {
		id := b.service().ID
		return errors.Join(
			tx.InsertDeployment(id, &trysail.Deployment{State: trysail.DeploymentFailed}), tx.SetDiagnosis(id, want),
			tx.InsertDeployment(id, &trysail.Deployment{State: trysail.DeploymentActive}))
	})
	b.refused(trysail.CodeNotFound, `Deployment 3 of service "web" has not failed; it is ACTIVE.`, get(3))
	warned := &trysail.Diagnosis{Version: 3, Code: trysail.DiagnosisOK, Warnings: []trysail.Finding{{Code: "HC-DEFAULT"}}}
	b.update(func(tx *store.Tx) error { return tx.SetDiagnosis(b.service().ID, warned) })
	if got, err := b.GetDeploymentDiagnosis(t.Context(), caller, "web", 3); err != nil || got.Code != trysail.DiagnosisOK || len(got.Warnings) != 1 {
		t.Errorf("a warning: %+v, %v", got, err)
	}
	for _, version := range []int{0, 2} {
		got, err := b.GetDeploymentDiagnosis(t.Context(), caller, "web", version)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("version %d: %v (-want +got):\n%s", version, err, d)
		}
	}
}

func TestAccessKeys(t *testing.T) {
	b := newBed(t, nil)
	admin, err := b.EnsureAdminKey(t.Context())
	if err != nil || admin.Name != "admin" {
		t.Fatalf("EnsureAdminKey: got %v, %v", admin.Name, err)
	}
	if again, err := b.EnsureAdminKey(t.Context()); err != nil || !reflect.DeepEqual(again, admin) {
		t.Errorf("EnsureAdminKey again: got another key, %v", err)
	}
	ci, err := b.CreateAccessKey(t.Context(), caller, control.CreateAccessKeyInput{Name: "ci", Role: trysail.RoleDeploy, Services: []string{"web", "api", "web"}})
	if err != nil || len(ci.ID) != 20 || len(ci.Secret) != 40 || ci.ID == admin.ID || ci.Secret == admin.Secret {
		t.Fatalf("CreateAccessKey: got a key %q with a secret of %d characters, %v", ci.ID, len(ci.Secret), err)
	}
	secret, who, ok, err := b.Identify(t.Context(), ci.ID)
	scoped := trysail.Caller{AccessKeyID: ci.ID, Name: "ci", Role: trysail.RoleDeploy, Services: []string{"api", "web"}}
	if d := cmp.Diff(scoped, who); secret != ci.Secret || d != "" || !ok || err != nil {
		t.Errorf("Identify: %v, %v (-want +got):\n%s", ok, err, d)
	}
	list, err := b.ListAccessKeys(t.Context(), caller)
	want := []control.AccessKey{
		{ID: admin.ID, Name: "admin", Role: trysail.RoleAdmin, CreatedAt: admin.CreatedAt},
		{ID: ci.ID, Name: "ci", Role: trysail.RoleDeploy, Services: []string{"api", "web"}, CreatedAt: ci.CreatedAt},
	}
	if d := cmp.Diff(want, list, cmpopts.EquateEmpty()); d != "" || err != nil {
		t.Errorf("ListAccessKeys: %v (-want +got):\n%s", err, d)
	}
	b.refused(trysail.CodeInvalid, `Access key name "" is not valid. It must have 1 to 64 printable characters.`, func() error {
		_, err := b.CreateAccessKey(t.Context(), caller, control.CreateAccessKeyInput{})
		return err
	})
	b.refused(trysail.CodeInvalid, `Role "owner" is not valid. The roles are read, deploy and admin.`, func() error {
		_, err := b.CreateAccessKey(t.Context(), caller, control.CreateAccessKeyInput{Name: "x", Role: "owner"})
		return err
	})
	if _, err := b.CreateAccessKey(t.Context(), caller, control.CreateAccessKeyInput{Name: "x", Services: []string{"No Such"}}); trysail.ErrorCode(err) != trysail.CodeInvalid {
		t.Errorf("a service that cannot be: got %v", err)
	}
	b.refused(trysail.CodeNotFound, `Access key "nope" not found.`, func() error { return b.DeleteAccessKey(t.Context(), caller, "nope") })
	if err := b.DeleteAccessKey(t.Context(), caller, ci.ID); err != nil {
		t.Fatal(err)
	}
	if secret, _, ok, err := b.Identify(t.Context(), ci.ID); ok || secret != "" || err != nil {
		t.Errorf("Identify of a deleted key: got ok %v, %v", ok, err)
	}
	b.refused(trysail.CodeInvalid, `Access key "`+admin.ID+`" is the last one. Create another before you delete it.`, func() error { return b.DeleteAccessKey(t.Context(), caller, admin.ID) })
	for _, e := range b.state().Audit {
		if strings.Contains(fmt.Sprint(e), ci.Secret) {
			t.Error("the audit trail holds a secret")
		}
	}
}

func TestOperations_WakeTheReconciler(t *testing.T) {
	b := newBed(t, nil)
	sub := b.store.Subscribe()
	got, err := b.CreateContainerService(t.Context(), caller, control.CreateContainerServiceInput{ServiceName: "web", Power: "nano", Scale: 1})
	if err != nil {
		t.Fatal(err)
	}
	<-sub.Wake()
	if d := cmp.Diff([]string{got.ID}, sub.Take()); d != "" {
		t.Errorf("Take (-want +got):\n%s", d)
	}
}
