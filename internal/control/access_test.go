package control_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// Every operation asks whether its caller may: a caller without a role may do nothing, one who may only read changes
// nothing, and one who is for one service sees no other. New operations are tried without being named here.
func TestControl_EveryOperationAsksWhetherItsCallerMay(t *testing.T) {
	b := newBed(t, nil)
	b.create("web", trysail.ServiceRunning, trysail.DeploymentActive)
	callerType := reflect.TypeFor[trysail.Caller]()
	c := reflect.ValueOf(b.Control)
	tried := 0
	for i := range c.NumMethod() {
		name, method := c.Type().Method(i).Name, c.Method(i)
		if method.Type().NumIn() < 2 || method.Type().In(1) != callerType || strings.HasPrefix(name, "Record") { // what records them is no operation
			continue
		}
		tried++
		call := func(who trysail.Caller) error {
			in := []reflect.Value{reflect.ValueOf(t.Context()), reflect.ValueOf(who)}
			for j := 2; j < method.Type().NumIn(); j++ {
				in = append(in, aboutService(method.Type().In(j), "web"))
			}
			out := method.Call(in)
			err, _ := reflect.TypeAssert[error](out[len(out)-1])
			return err
		}
		denied := func(who trysail.Caller) bool { return trysail.ErrorCode(call(who)) == trysail.CodeAccessDenied }
		if !denied(trysail.Caller{Name: "nobody"}) {
			t.Errorf("%s lets a caller without a role through", name)
		}
		reads := strings.HasPrefix(name, "Get") || strings.HasPrefix(name, "List")
		if !reads && !denied(trysail.Caller{Name: "eyes", Role: trysail.RoleRead}) {
			t.Errorf("%s lets a caller through who may only read", name)
		}
		if err := call(trysail.Caller{Name: "api", Role: trysail.RoleDeploy, Services: []string{"api"}}); trysail.ErrorCode(err) != trysail.CodeAccessDenied && !ownBounds[name] {
			t.Errorf("%s lets a caller through who is for another service: %v", name, err)
		}
	}
	if tried < 40 {
		t.Errorf("tried %d operations; there are more", tried)
	}
}

// ownBounds are the operations that are for callers of all services. What they do not show is tested below.
var ownBounds = map[string]bool{"GetOperation": true, "GetOperations": true, "CreateContainerServiceRegistryLogin": true}

// aboutService makes an argument whose every text is the name of the service.
func aboutService(typ reflect.Type, service string) reflect.Value {
	v := reflect.New(typ).Elem()
	switch {
	case typ.Kind() == reflect.String:
		v.SetString(service)
	case typ.Kind() == reflect.Struct:
		for i := range typ.NumField() {
			if f := typ.Field(i); f.IsExported() && (f.Type.Kind() == reflect.String || f.Anonymous) {
				v.Field(i).Set(aboutService(f.Type, service))
			}
		}
	}
	return v
}

func TestControl_ShowsACallerItsServicesOnly(t *testing.T) {
	b := newBed(t, nil)
	b.create("web", trysail.ServiceRunning, trysail.DeploymentActive)
	other := containers()
	if _, err := b.CreateContainerService(t.Context(), caller, control.CreateContainerServiceInput{ServiceName: "api", Power: "nano", Scale: 1, Deployment: &other}); err != nil {
		t.Fatal(err)
	}
	who := trysail.Caller{Name: "ci", Role: trysail.RoleDeploy, Services: []string{"api"}}
	list, err := b.GetContainerServices(t.Context(), who, "")
	if err != nil || len(list) != 1 || list[0].Name != "api" {
		t.Errorf("GetContainerServices: got %v, %v", list, err)
	}
	if all, err := b.GetContainerServices(t.Context(), caller, ""); err != nil || len(all) != 2 {
		t.Errorf("GetContainerServices of the admin: got %d services, %v", len(all), err)
	}
	page, err := b.GetOperations(t.Context(), who, "")
	if err != nil || len(page.Operations) == 0 {
		t.Fatalf("GetOperations: %v, %v", page, err)
	}
	for _, o := range page.Operations {
		if o.ResourceName != "api" {
			t.Errorf("GetOperations shows one on %s", o.ResourceName)
		}
	}
	all, err := b.GetOperations(t.Context(), caller, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all.Operations {
		if _, err := b.GetOperation(t.Context(), who, o.ID); (err == nil) != (o.ResourceName == "api") {
			t.Errorf("GetOperation of one on %s: %v", o.ResourceName, err)
		}
	}
	domains, err := b.GetDomains(t.Context(), who, "")
	for _, d := range domains {
		if d.Service != "api" {
			t.Errorf("GetDomains shows one of %q", d.Service)
		}
	}
	if err != nil {
		t.Error(err)
	}
	stolen := control.DeploymentInput{Containers: map[string]trysail.Container{"app": {Image: ":web.www.1"}}}
	if _, err := b.CreateContainerServiceDeployment(t.Context(), who, "api", stolen); trysail.ErrorCode(err) != trysail.CodeAccessDenied {
		t.Errorf("a deployment of another service's image: got %v", err)
	}
}
