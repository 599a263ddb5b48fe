// Package helm tests the chart of packaging/helm with Helm itself. It is a module of its own: Helm's requirements are none of
// the program's.
package helm

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"sigs.k8s.io/yaml"
)

const (
	chartDir     = "../../packaging/helm/trysail"
	manifestsDir = "../../packaging/kubernetes"
)

// object is what a manifest says.
type object map[string]any

func (o object) name() string {
	meta, _ := o["metadata"].(map[string]any)
	namespace, _ := meta["namespace"].(string)
	name, _ := meta["name"].(string)
	kind, _ := o["kind"].(string)
	return kind + " " + namespace + "/" + name
}

// render renders the chart as helm template does.
func render(t *testing.T, values map[string]any) (map[string]object, error) {
	t.Helper()
	c, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	all, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: "trysail", Namespace: "trysail-system", IsInstall: true}, &chartutil.Capabilities{
		KubeVersion: chartutil.KubeVersion{Version: "v1.36.3", Major: "1", Minor: "36"},
	})
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return nil, err
	}
	objects := map[string]object{}
	for name, text := range files {
		if strings.HasSuffix(name, ".yaml") {
			parse(t, text, objects)
		}
	}
	return objects, nil
}

func parse(t *testing.T, text string, into map[string]object) {
	t.Helper()
	for part := range strings.SplitSeq("\n"+text, "\n---\n") {
		var o object
		if err := yaml.UnmarshalStrict([]byte(part), &o); err != nil {
			t.Fatalf("%v in\n%s", err, part)
		}
		if len(o) > 0 {
			into[o.name()] = o
		}
	}
}

// manifests reads those of kustomize.
func manifests(t *testing.T, files ...string) map[string]object {
	t.Helper()
	objects := map[string]object{}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(manifestsDir, f))
		if os.IsNotExist(err) && strings.HasPrefix(f, "servers/") {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		parse(t, string(text), objects)
	}
	return objects
}

// TestChart_AgreesWithKustomize: permissions, quota, budget, Service and the servers' pods are the same in both.
func TestChart_AgreesWithKustomize(t *testing.T) {
	got, err := render(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := manifests(t, "rbac.yaml", "quota.yaml", "servers/rbac.yaml", "servers/service.yaml", "servers/deployment.yaml")
	for name, o := range want {
		have := got[name]
		if strings.HasPrefix(name, "Deployment ") {
			same(t, o, have)
			continue
		}
		if d := cmp.Diff(o, have); d != "" {
			t.Errorf("%s (-kustomize +chart):\n%s", name, d)
		}
	}
	kinds := []string{"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
	for name := range got {
		kind, _, _ := strings.Cut(name, " ")
		if slices.Contains(kinds, kind) && want[name] == nil && len(manifests(t, "servers/rbac.yaml")) > 0 {
			t.Errorf("the chart alone has %s", name)
		}
	}
}

// same compares Deployments: the image, and what the chart notes about settings, may differ.
func same(t *testing.T, want, have object) {
	t.Helper()
	for _, o := range []object{want, have} {
		spec, _ := o["spec"].(map[string]any)
		template, _ := spec["template"].(map[string]any)
		meta, _ := template["metadata"].(map[string]any)
		delete(meta, "annotations")
		pod, _ := template["spec"].(map[string]any)
		containers, _ := pod["containers"].([]any)
		for _, c := range containers {
			container, _ := c.(map[string]any)
			delete(container, "image")
			delete(container, "imagePullPolicy")
		}
	}
	if d := cmp.Diff(want, have); d != "" {
		t.Errorf("Deployment (-kustomize +chart):\n%s", d)
	}
}

func TestChart_TakesValues(t *testing.T) {
	got, err := render(t, map[string]any{
		"replicas": 1, "database": false, "registryStorage": "s3://images", "registrySecretName": "s3",
		"storage": map[string]any{"size": "20Gi", "className": "fast"}, "service": map[string]any{"type": "ClusterIP"},
		"services": map[string]any{"namespace": "apps"}, "image": map[string]any{"tag": "v9"},
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"claimName: trysail", "storage: 20Gi", "storageClassName: fast", "type: ClusterIP", "TRYSAIL_KUBE_NAMESPACE: apps", "TRYSAIL_REGISTRY_STORAGE: s3://images", "trysail:v9", "type: Recreate"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in what is rendered", want)
		}
	}
	for _, wrong := range []string{"seal.key", "TRYSAIL_DATABASE", "externalTrafficPolicy", "namespace: trysail\n"} {
		if strings.Contains(string(text), wrong) {
			t.Errorf("there is %q in what is rendered", wrong)
		}
	}
}

func TestChart_Lints(t *testing.T) {
	for _, m := range lint.All(chartDir, nil, "trysail-system", true).Messages {
		if m.Severity > support.InfoSev {
			t.Error(m)
		}
	}
}

func TestChart_RefusesWhatCannotWork(t *testing.T) {
	for want, values := range map[string]map[string]any{
		"replicas":            {"database": false, "storage": map[string]any{"size": "1Gi"}},
		"storage.size":        {"database": false, "replicas": 1},
		"storage.accessMode":  {"storage": map[string]any{"size": "1Gi"}},
		"registrySecretName":  {"registryStorage": "s3://images"},
		"services.namespace:": {"services": map[string]any{"namespace": "trysail-system"}},
	} {
		if _, err := render(t, values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", values, err)
		}
	}
}
