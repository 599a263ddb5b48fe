package trysail_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/trysail/trysail"

// mayImport is the architecture: package → the packages of ours that it may import besides the root. A package that is
// missing here, or here but not in the tree, fails the test: adding one is a decision.
var mayImport = map[string][]string{
	"":                            {},
	"internal/sigv4":              {},
	"internal/store":              {},
	"internal/logs":               {},
	"internal/dns":                {},
	"internal/image":              {"internal/engine"},
	"internal/registry":           {"internal/store"},
	"internal/edge":               {"internal/edge/http1"},
	"internal/edge/http1":         {},
	"internal/edge/http1/cases":   {},
	"internal/ship":               {"internal/logs"},
	"internal/diagnose":           {"internal/diagnose/lastwords"},
	"internal/diagnose/lastwords": {},
	"internal/engine":             {},
	"internal/engine/containerd":  {},
	"internal/autopsy":            {},
	"internal/fleet":              {"internal/store"},
	"internal/copies":             {},
	"internal/certs":              {"internal/diagnose", "internal/store"},
	"internal/engine/podnet":      {},
	"internal/engine/cri":         {"internal/autopsy", "internal/engine", "internal/engine/podnet"},
	"internal/engine/kube":        {"internal/autopsy", "internal/engine"},
	"internal/engine/enginetest":  {"internal/engine"},
	"internal/metrics":            {"internal/store"},
	"internal/control":            {"internal/store", "internal/logs", "internal/metrics"},
	"internal/api":                {"internal/control", "internal/sigv4"},
	"internal/console":            {"internal/control", "internal/diagnose"},
	"internal/reconcile":          {"internal/store", "internal/logs", "internal/engine", "internal/diagnose"},
	"internal/push":               {},
	"internal/cli":                {"internal/diagnose", "internal/push"},
	"packaging/init":              {},
	"packaging/release":           {},
	"cmd/trysail": {
		"internal/api", "internal/certs", "internal/cli", "internal/console", "internal/control", "internal/copies", "internal/dns", "internal/edge", "internal/engine/containerd",
		"internal/engine/cri", "internal/engine/kube", "internal/engine/podnet", "internal/engine", "internal/fleet", "internal/image", "internal/logs", "internal/metrics", "internal/reconcile", "internal/registry", "internal/ship", "internal/store",
	},
}

// fences says which packages alone may import a heavy or frozen library.
var fences = map[string][]string{
	"k8s.io/cri-api":                         {"internal/engine/cri"},
	"k8s.io/client-go":                       {"internal/engine/kube"},
	"k8s.io/api":                             {"internal/engine/kube"},
	"k8s.io/apimachinery":                    {"internal/engine/kube"},
	"k8s.io/streaming":                       {"internal/engine/kube"},
	"google.golang.org/grpc":                 {"internal/engine/cri"},
	"github.com/containerd/":                 {"internal/engine/containerd", "internal/engine/cri"},
	"github.com/google/nftables":             {"internal/engine/podnet"},
	"github.com/mdlayher/netlink":            {"internal/engine/podnet"},
	"github.com/google/go-containerregistry": {"internal/image", "internal/engine/cri", "internal/push", "packaging/release"},
	"modernc.org/sqlite":                     {"internal/store"},
	"github.com/jackc/pgx":                   {"internal/store"},
	"github.com/mholt/acmez/":                {"internal/certs"},
	"github.com/miekg/dns":                   {"internal/certs"},
	"github.com/aws/":                        {"internal/cli", "internal/image", "internal/registry"},
	"github.com/coder/websocket":             {"internal/api", "internal/cli"},
	"github.com/quic-go/":                    {"internal/edge"},
	"github.com/pires/go-proxyproto":         {"internal/edge"},
	"github.com/spf13/cobra":                 {"internal/cli", "cmd/trysail"},
	"testing":                                {"internal/engine/enginetest"},
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Doc        string
	Standard   bool
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Doc,Standard", "./...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

func TestArchitecture_ImportsFollowTheTable(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range packages(t) {
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		if strings.HasPrefix(name, "test/") {
			continue // tests may import what they need
		}
		seen[name] = true
		allowed, known := mayImport[name]
		if !known {
			t.Errorf("package %s is not in the table of arch_test.go", name)
			continue
		}
		if p.Doc == "" {
			t.Errorf("package %s has no doc comment", name)
		}
		for _, imp := range p.Imports {
			ours, isOurs := strings.CutPrefix(imp, module+"/")
			if isOurs && !slices.Contains(allowed, ours) {
				t.Errorf("%s must not import %s", name, ours)
			}
			if name == "" && strings.Contains(imp, ".") {
				t.Errorf("the root must import only the standard library, not %s", imp)
			}
			for lib, where := range fences {
				if (imp == lib || strings.HasPrefix(imp, strings.TrimSuffix(lib, "/")+"/")) && !slices.Contains(where, name) {
					t.Errorf("%s must not import %s: only %v may", name, imp, where)
				}
			}
		}
	}
	for name := range mayImport {
		if !seen[name] {
			t.Errorf("package %s is in the table of arch_test.go, but not in the tree", name)
		}
	}
}
