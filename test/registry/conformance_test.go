//go:build conformance

package registry_test

import (
	"encoding/xml"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestConformance runs the official conformance suite, whose program OCI_CONFORMANCE names, against the real handler on
// a loopback address. There is one repository, so both that the suite wants are the same.
//
// All of version 1.1 is run, and beyond it giving up uploads and the digest header on every answer. Two things are not:
// manifests whose parts are not all here (OCI_DATA_SPARSE), which the specification lets a registry refuse, and tags as
// parameters (OCI_API_MANIFESTS_TAG_PARAM), which are not in version 1.1.
func TestConformance(t *testing.T) {
	program := os.Getenv("OCI_CONFORMANCE")
	if program == "" {
		t.Fatal("OCI_CONFORMANCE does not name the program: it is conformance/ of github.com/opencontainers/distribution-spec")
	}
	results := t.TempDir()
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Dir = results
	cmd.Env = append(os.Environ(), "OCI_REGISTRY="+serve(t), "OCI_TLS=disabled", "OCI_REPO1=sr", "OCI_REPO2=sr",
		"OCI_USERNAME=AWS", "OCI_PASSWORD="+password, "OCI_VERSION=1.1", "OCI_RESULTS_DIR="+results,
		"OCI_API_BLOBS_UPLOAD_CANCEL=true", "OCI_API_BLOBS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_DIGEST_HEADER=true",
		"OCI_DATA_SPARSE=false", "OCI_API_MANIFESTS_TAG_PARAM=false")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("the suite failed: %v", err)
	}
	b, err := os.ReadFile(filepath.Join(results, "junit.xml"))
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Tests    int `xml:"tests,attr"`
		Errors   int `xml:"errors,attr"`
		Failures int `xml:"failures,attr"`
		Skipped  int `xml:"skipped,attr"`
	}
	if err := xml.Unmarshal(b, &report); err != nil {
		t.Fatal(err)
	}
	if report.Tests < 500 || report.Failures+report.Errors+report.Skipped > 0 {
		t.Errorf("%+v, want no failure, nothing skipped and at least 500 tests", report)
	}
}

// serve serves a new registry on a loopback address, host:port.
func serve(t *testing.T) (host string) {
	t.Helper()
	r, s, err := open(t.Context(), t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r.Handler())
	t.Cleanup(func() {
		server.Close()
		s.Close()
	})
	return server.Listener.Addr().String()
}
