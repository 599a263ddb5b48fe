package kit

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// NameServer is a name server of another make, for comparison.
type NameServer struct {
	PID  int
	proc *process
}

// StartUnbound starts Debian's unbound at addr with two threads. It knows the local names with their addresses, and
// forwards all others to the name server upstream. dir is for what it writes.
func StartUnbound(ctx context.Context, dir, addr, upstream string, local map[string]string) (*NameServer, error) {
	cache, err := Cache()
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	var names strings.Builder
	for name, a := range local {
		fmt.Fprintf(&names, "  local-data: \"%s 5 IN A %s\"\n", name, a)
	}
	config := filepath.Join(dir, "unbound.conf")
	text := fmt.Sprintf(`server:
  interface: %s
  port: %s
  access-control: 0.0.0.0/0 allow
  num-threads: 2
  so-reuseport: yes
  do-daemonize: no
  do-not-query-localhost: no
  module-config: "iterator"
  username: ""
  chroot: ""
  directory: "%s"
  pidfile: ""
  use-syslog: no
  logfile: "unbound.log"
  local-zone: "service.local." static
%sforward-zone:
  name: "."
  forward-addr: %s
`, host, port, dir, names.String(), strings.Replace(upstream, ":", "@", 1))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("starting unbound: %w", err)
	}
	root := filepath.Join(cache, "unbound")
	program := filepath.Join(root, "usr/sbin/unbound")
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("finding unbound (run scripts/setup.sh bench): %w", err)
	}
	libs, err := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu"))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "-d", "-p", "-c", config)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LD_LIBRARY_PATH=" + strings.Join(libs, ":")}
	diesWithUs(cmd)
	p, err := startProcess(cmd)
	if err != nil {
		return nil, fmt.Errorf("starting unbound: %w", err)
	}
	s := &NameServer{PID: p.pid, proc: p}
	err = Until(ctx, 20*time.Second, func() error {
		if p.ended() {
			text, _ := os.ReadFile(filepath.Join(dir, "unbound.log"))
			return fmt.Errorf("unbound ended: %s", text)
		}
		c, err := net.Dial("tcp", addr)
		if err == nil {
			err = c.Close()
		}
		return err
	})
	if err != nil {
		return nil, errorsJoin(err, s.Close())
	}
	return s, nil
}

// Close ends it.
func (s *NameServer) Close() error { return s.proc.kill() }
