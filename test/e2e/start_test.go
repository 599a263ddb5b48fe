//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"

	"github.com/trysail/trysail/test/kit"
)

// refusesToStart runs a server that must end by itself with exit status 1 and one clear message.
func refusesToStart(t *testing.T, cmd *exec.Cmd, says ...string) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != 1 {
		t.Errorf("trysail serve ended with status %d (%v), want 1", got, err)
	}
	t.Logf("it says: %s", out.String())
	for _, want := range says {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not mention %q", want)
		}
	}
}

// command is the server's command line, which is given up after half a minute.
func command(t *testing.T, s *kit.Server, prefix ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	line := append(append(prefix, s.Binary), s.Args()...)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Env = s.Environ()
	return cmd
}

func unstarted(t *testing.T, o kit.ServerOptions) *kit.Server {
	t.Helper()
	if o.DataDir == "" {
		o.DataDir = filepath.Join(scratch(t), "d")
	}
	s, err := kit.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.LeaveCluster(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestServe_SecondOnTheSameData(t *testing.T) {
	second := unstarted(t, kit.ServerOptions{DataDir: shared.server.DataDir})
	refusesToStart(t, command(t, second), shared.server.DataDir, fmt.Sprint(shared.server.PID()))
	if _, err := shared.server.Client().GetRegions(t.Context(), &lightsail.GetRegionsInput{}); err != nil {
		t.Errorf("the first one does not answer any more: %v", err)
	}
}

func TestServe_PortInUse(t *testing.T) {
	for _, which := range []string{"--listen", "--http", "--https"} {
		t.Run(which, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			s := unstarted(t, kit.ServerOptions{Flags: []string{which, ln.Addr().String()}})
			refusesToStart(t, command(t, s), which, ln.Addr().String(), "in use")
		})
	}
}

// TestServe_APIBeyondLoopback: what others can reach speaks TLS, with a certificate of the local CA, and nothing else.
func TestServe_APIBeyondLoopback(t *testing.T) {
	addr, err := kit.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	s := unstarted(t, kit.ServerOptions{Flags: []string{"--listen", "0.0.0.0:" + port}})
	if err := s.Spawn(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, s) })
	err = kit.Until(t.Context(), 60*time.Second, func() error {
		if ended, err := s.Ended(); ended {
			return fmt.Errorf("the server ended: %w", err)
		}
		out, err := exec.CommandContext(t.Context(), "curl", "--silent", "--show-error", "--fail",
			"--cacert", filepath.Join(s.DataDir, "ca", "root.pem"), "https://localhost:"+port+"/healthz").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, s.LogTail(20))
	}
	resp, err := http.Get("http://" + addr + "/healthz")
	if err != nil {
		return
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		t.Error("the API speaks plain HTTP, too")
	}
}

func TestServe_NewerFormat(t *testing.T) {
	s := dedicated(t, kit.ServerOptions{})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(s.DataDir, "trysail.db")
	setFormat := func(sql string) string {
		out, err := exec.Command("/usr/bin/python3", "-c", `import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
print(db.execute("PRAGMA user_version").fetchone()[0])
db.execute(sys.argv[2])
db.commit()`, db, sql).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	old := setFormat("PRAGMA user_version = 9999")
	refusesToStart(t, command(t, s), "newer", "9999")
	setFormat("PRAGMA user_version = " + old)
	if err := s.Start(t.Context()); err != nil {
		t.Errorf("the refused start has done harm: %v", err)
	}
}

// runsContainers skips a test about what a machine needs that runs containers itself.
func runsContainers(t *testing.T) {
	t.Helper()
	if shared.server.InCluster() {
		t.Skip("a server whose pods are in a cluster needs nothing of that")
	}
}

func TestServe_NoRunc(t *testing.T) {
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal(err)
	}
	runsContainers(t)
	s := unstarted(t, kit.ServerOptions{})
	// In a mount namespace of its own, the program is hidden behind a file that cannot be executed.
	hide := "mount --make-rprivate / && mount --bind /dev/null " + runc + ` && exec "$0" "$@"`
	refusesToStart(t, command(t, s, "unshare", "--mount", "sh", "-c", hide), "runc", "apt")
}

func TestServe_NotRoot(t *testing.T) {
	runsContainers(t)
	s := unstarted(t, kit.ServerOptions{})
	// Somebody else must be able to read the program and to write the data directory.
	dir := scratch(t)
	data, err := os.ReadFile(s.Binary)
	if err != nil {
		t.Fatal(err)
	}
	s.Binary = filepath.Join(dir, "trysail")
	if err := os.WriteFile(s.Binary, data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, filepath.Dir(s.DataDir)} {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	refusesToStart(t, command(t, s, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"), "root")
}

func TestServe_PrivateFiles(t *testing.T) {
	s := dedicated(t, kit.ServerOptions{})
	for name, want := range map[string]os.FileMode{".": 0o700, "trysail.db": 0o600, "seal.key": 0o600, "admin.json": 0o600} {
		info, err := os.Stat(filepath.Join(s.DataDir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", name, got, want)
		}
	}
	if strings.Contains(s.LogTail(1000), s.Vars["AWS_SECRET_ACCESS_KEY"]) {
		t.Error("the secret is in the log")
	}
}

// TestServe_FullDisk fills the file system under the data directory. What cannot be kept must be refused, what runs
// must go on, and with room again everything works.
func TestServe_FullDisk(t *testing.T) {
	dir := scratch(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=400m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	logDir := scratch(t)
	s, err := kit.StartServer(t.Context(), kit.ServerOptions{DataDir: filepath.Join(dir, "data"), Log: filepath.Join(logDir, "log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, s) })
	c := clientOf(t, s)
	c.create("full", types.ContainerServicePowerNameNano, 1)
	c.deploy(webDeployment("full", "web:1", nil))
	c.waitState("full", types.ContainerServiceStateRunning)

	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	refused := 0
	for i := range 50 {
		_, err := c.api.CreateContainerService(t.Context(), &lightsail.CreateContainerServiceInput{
			ServiceName: aws.String(fmt.Sprintf("more%d", i)), Power: types.ContainerServicePowerNameNano, Scale: aws.Int32(1),
		})
		if err == nil {
			continue // the database had a little room left
		}
		refused++
		if !strings.Contains(err.Error(), "ServiceException") && !strings.Contains(err.Error(), "ServiceUnavailable") || !strings.Contains(err.Error(), "full") {
			t.Fatalf("on a full disk: %v", err)
		}
	}
	if refused == 0 {
		t.Fatal("50 services fit on a full disk")
	}
	if body := c.get200("full", "/"); body != "version 1\n" {
		t.Errorf("the running service answers %q", body)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	c.eventually("room to be noticed", func() bool {
		_, err := c.api.CreateContainerService(t.Context(), &lightsail.CreateContainerServiceInput{
			ServiceName: aws.String("roomy"), Power: types.ContainerServicePowerNameNano, Scale: aws.Int32(1),
		})
		return err == nil
	})
	c.waitState("roomy", types.ContainerServiceStateReady)
	version := c.deploy(webDeployment("full", "web:2", nil))
	c.waitVersion("full", version, types.ContainerServiceDeploymentStateActive)
}

// fill writes zeros to a file until there is no room for one more byte.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		block := make([]byte, size)
		for {
			if _, err := f.Write(block); err != nil {
				break
			}
		}
	}
}

// TestServe_Healthz: ready means that all of it works, so it is not ready while containerd hangs, or the cluster is away.
func TestServe_Healthz(t *testing.T) {
	s := dedicated(t, kit.ServerOptions{})
	waitHealth := func(want int) {
		t.Helper()
		err := kit.Until(t.Context(), 40*time.Second, func() error {
			resp, err := http.Get("http://" + s.API + "/healthz")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if body, err := io.ReadAll(resp.Body); resp.StatusCode != want {
				return fmt.Errorf("/healthz answers %s: %s (%w), want %d", resp.Status, body, err, want)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	waitHealth(http.StatusOK)
	if s.InCluster() {
		back := make(chan error, 1)
		go func() { back <- s.KillAPIServer() }()
		waitHealth(http.StatusServiceUnavailable)
		if err := <-back; err != nil {
			t.Error(err)
		}
		waitHealth(http.StatusOK)
		return
	}
	child, err := s.Containerd()
	if err != nil {
		t.Fatal(err)
	}
	signal := func(sig syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(child.PID, sig); err != nil {
			t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	waitHealth(http.StatusServiceUnavailable)
	signal(syscall.SIGCONT)
	waitHealth(http.StatusOK)
}
