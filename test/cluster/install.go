package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/trysail/trysail/test/kit"
)

// resources are where the API server keeps the kinds of packaging/kubernetes.
var resources = map[string]string{
	"Namespace":          "/api/v1/namespaces",
	"ServiceAccount":     "/api/v1/namespaces/NAMESPACE/serviceaccounts",
	"ResourceQuota":      "/api/v1/namespaces/NAMESPACE/resourcequotas",
	"Role":               "/apis/rbac.authorization.k8s.io/v1/namespaces/NAMESPACE/roles",
	"RoleBinding":        "/apis/rbac.authorization.k8s.io/v1/namespaces/NAMESPACE/rolebindings",
	"ClusterRole":        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
	"ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}

// install applies the manifests of packaging/kubernetes for a namespace, with the user trysail of this cluster in place of
// the service account.
func install(ctx context.Context, namespace string) error {
	api, err := newAPIClient()
	if err != nil {
		return err
	}
	for _, file := range []string{"namespace", "rbac", "quota"} {
		text, err := os.ReadFile(filepath.Join(kit.Root(), "packaging/kubernetes", file+".yaml"))
		if err != nil {
			return err
		}
		for part := range strings.SplitSeq(string(text), "\n---\n") {
			if err := api.applyManifest(ctx, part, namespace); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *apiClient) applyManifest(ctx context.Context, text, namespace string) error {
	var o map[string]any
	if err := yaml.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	kind, _ := o["kind"].(string)
	meta, _ := o["metadata"].(map[string]any)
	at, known := resources[kind]
	if !known || meta == nil {
		return fmt.Errorf("packaging/kubernetes has a %q, which is not known here", kind)
	}
	if kind == "Namespace" {
		meta["name"] = namespace
	}
	if meta["namespace"] != nil {
		meta["namespace"] = namespace
	}
	if o["subjects"] != nil {
		o["subjects"] = []any{map[string]any{"kind": "User", "name": "trysail", "apiGroup": "rbac.authorization.k8s.io"}}
	}
	body, err := json.Marshal(o)
	if err != nil {
		return err
	}
	path := fmt.Sprintf("%s/%s?fieldManager=test&force=true", strings.Replace(at, "NAMESPACE", namespace, 1), meta["name"])
	return c.change(ctx, http.MethodPatch, path, body)
}

// remove deletes a namespace. The cluster ends what runs there.
func remove(ctx context.Context, namespace string) error {
	api, err := newAPIClient()
	if err != nil {
		return err
	}
	return api.change(ctx, http.MethodDelete, "/api/v1/namespaces/"+namespace, nil)
}

func (c *apiClient) change(ctx context.Context, method, path string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, method, apiServer+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/apply-patch+yaml")
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		answer, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	return nil
}
