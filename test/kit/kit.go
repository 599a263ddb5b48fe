// Package kit holds what the end-to-end tests, the demo and the benchmarks have in common: images made without the
// internet, a real registry, a Trysail server to talk to, and eyes for its processes. It knows nothing of package
// testing; it returns errors.
//
// Debian programs come from the cache that scripts/setup.sh fills; everything else is compiled or made here.
package kit

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Cache is the folder that scripts/setup.sh fills and that compiled test programs are put into.
func Cache() (string, error) {
	dir := os.Getenv("XDG_CACHE_HOME")
	if dir == "" {
		home := os.Getenv("HOME")
		if home == "" {
			home = "/root"
		}
		dir = filepath.Join(home, ".cache")
	}
	dir = filepath.Join(dir, "trysail-test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making the test cache: %w", err)
	}
	return dir, nil
}

// Root is the top folder of this repository's working tree: the nearest one above the current folder with a go.mod.
func Root() string {
	dir, err := os.Getwd()
	if err != nil {
		return "."
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d
		}
		if d == filepath.Dir(d) {
			return dir
		}
	}
}

// Binary is the trysail program under test: $TRYSAIL_BIN, or bin/trysail as make build leaves it.
func Binary() (string, error) {
	path := os.Getenv("TRYSAIL_BIN")
	if path == "" {
		path = filepath.Join(Root(), "bin", "trysail")
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("finding the program under test (run make build): %w", err)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("finding the program under test: %w", err)
	}
	return path, nil
}

// Program compiles test/programs/<name> into a static binary for arch (a GOARCH) and returns its path.
func Program(ctx context.Context, name, arch string) (string, error) {
	cache, err := Cache()
	if err != nil {
		return "", err
	}
	// Two runs may compile at the same time: each writes its own file and renames it.
	tmp, err := os.CreateTemp(cache, name+".*")
	if err != nil {
		return "", fmt.Errorf("compiling %s: %w", name, err)
	}
	defer os.Remove(tmp.Name())
	if err := tmp.Close(); err != nil {
		return "", fmt.Errorf("compiling %s: %w", name, err)
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", tmp.Name(), "./test/programs/"+name)
	cmd.Dir = Root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compiling %s: %w\n%s", name, err, out)
	}
	path := filepath.Join(cache, name+"-"+arch)
	if err := os.Chmod(tmp.Name(), 0o755); err != nil {
		return "", fmt.Errorf("compiling %s: %w", name, err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return "", fmt.Errorf("compiling %s: %w", name, err)
	}
	return path, nil
}

// FreeAddr returns a loopback address whose port nobody listens on at the moment.
func FreeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// Until calls ok every tenth of a second, or sooner, until it returns nil. After the time limit, or when ctx ends, it
// returns ok's last error.
func Until(ctx context.Context, limit time.Duration, ok func() error) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	wait := 5 * time.Millisecond
	for {
		err := ok()
		if err == nil {
			return nil
		}
		wait = min(2*wait, 100*time.Millisecond)
		select {
		case <-time.After(wait):
		case <-deadline.C:
			return fmt.Errorf("after %s: %w", limit, err)
		case <-ctx.Done():
			return fmt.Errorf("stopped waiting (%w): %w", context.Cause(ctx), err)
		}
	}
}
