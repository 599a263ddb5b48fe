//go:build package

// Package packages installs what make release makes as a user does, on machines of their own: a clean Debian with systemd for
// the package, nothing at all for the OCI image. It needs root, and what scripts/setup.sh package installs.
package packages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/trysail/trysail/test/kit"
)

// The versions that are made for the tests: the second is an upgrade of the first.
const (
	oldVersion = "v0.0.1-rc.1"
	newVersion = "v0.0.1"
)

func TestMain(m *testing.M) {
	bootIfAsked()
	openIfAsked()
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "packages: the tests make machines, so they need root")
		os.Exit(1)
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	var err error
	if work, err = os.MkdirTemp("", "trysail-packages-"); err != nil {
		fmt.Fprintln(os.Stderr, "packages:", err)
		return 1
	}
	defer os.RemoveAll(work)
	return m.Run()
}

// releases are the folders with the packages and the image of each version for this processor, made once.
var releases = struct{ old, new func() (string, error) }{
	old: sync.OnceValues(func() (string, error) { return makeRelease(oldVersion, "deb,rpm") }),
	new: sync.OnceValues(func() (string, error) { return makeRelease(newVersion, "archive,deb,rpm,oci") }),
}

// work is the folder for what all tests share.
var work string

func makeRelease(version, kinds string) (string, error) {
	dir := filepath.Join(work, version)
	cmd := exec.Command("go", "run", "./packaging/release", "-version", version, "-arch", runtime.GOARCH, "-only", kinds, "-dist", dir)
	cmd.Dir = kit.Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("making %s: %w\n%s", version, err, out)
	}
	return dir, nil
}

// one returns the only file of a release that matches.
func one(t *testing.T, release func() (string, error), pattern string) string {
	t.Helper()
	dir, err := release()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) != 1 {
		t.Fatalf("%s in %s: %v, %v", pattern, dir, files, err)
	}
	return files[0]
}

// debian copies the clean Debian that scripts/setup.sh has made, and returns its root.
func debian(t *testing.T) string {
	t.Helper()
	cache, err := kit.Cache()
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.MkdirTemp("/var/tmp", "trysail-machine-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	if err := copyTree(t.Context(), filepath.Join(cache, "machine"), root); err != nil {
		t.Fatalf("copying the clean Debian (make package-test makes it): %v", err)
	}
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err = errors.Join(err, os.WriteFile(filepath.Join(root, "etc/resolv.conf"), resolv, 0o644), os.Chmod(root, 0o755)); err != nil {
		t.Fatal(err)
	}
	return root
}

func copyTree(ctx context.Context, from, to string) error {
	if out, err := exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", from+"/.", to).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
