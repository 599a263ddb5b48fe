package podnet

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startDocker starts the Docker daemon that scripts/setup.sh has unpacked, with its firewall, in the network of the lab.
func startDocker(t *testing.T) {
	t.Helper()
	cache, err := os.UserCacheDir()
	root := filepath.Join(cache, "trysail-test", "docker")
	daemon := filepath.Join(root, "usr/sbin/dockerd")
	if _, statErr := os.Stat(daemon); err != nil || statErr != nil {
		t.Skip("there is no Docker daemon; scripts/setup.sh test unpacks one")
	}
	dir, err := os.MkdirTemp("/run", "tstdk") //nolint:usetesting // its path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	libs, _ := filepath.Glob(filepath.Join(root, "*", "lib", "*-linux-gnu"))
	more, _ := filepath.Glob(filepath.Join(root, "lib", "*-linux-gnu"))
	var out bytes.Buffer
	cmd := exec.Command(daemon, "--host", "unix://"+dir+"/d.sock", "--data-root", dir+"/data", "--exec-root", dir+"/x", "--pidfile", dir+"/pid",
		"--storage-driver", "vfs", "--userland-proxy=false")
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(append(libs, more...), ":"),
		"PATH="+filepath.Join(root, "usr/bin")+":"+filepath.Join(root, "usr/sbin")+":"+os.Getenv("PATH"))
	ended := runDaemon(t, cmd, &out)
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		rules, err := exec.Command("iptables", "-S", "FORWARD").CombinedOutput()
		if err == nil && strings.Contains(string(rules), "-o docker0") {
			run(t, "iptables", "-P", "FORWARD", "DROP") // as the daemon does where it was the one to turn forwarding on
			return
		}
		select {
		case err := <-ended:
			t.Fatalf("the Docker daemon ended: %v\n%s", err, out.Bytes())
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("the Docker daemon has set no rules:\n%s", rules)
		}
	}
}
