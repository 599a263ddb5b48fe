package kit

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// ProxyServer is a private nginx that passes requests on.
type ProxyServer struct {
	// PIDs are the master and its workers.
	PIDs []int
	proc *process
}

// ProxyOptions say where a proxy listens with TLS and, unless that is empty, without; the files of its certificate; where it
// sends requests; the suites of TLS 1.3, if they are not to be the usual ones; and whether it writes a buffered access log.
type ProxyOptions struct {
	Secure, Plain, Cert, Key, Backend, Suite string

	AccessLog bool
}

// StartProxy starts Debian's nginx as a proxy, as one would set it up by hand: two workers, connections to the backend are
// kept. dir is for what it writes.
func StartProxy(ctx context.Context, dir string, o ProxyOptions) (*ProxyServer, error) {
	plain, log, suite := "", "off", ""
	if o.Suite != "" {
		suite = " ssl_prefer_server_ciphers on; ssl_conf_command Ciphersuites " + o.Suite + ";"
	}
	if o.Plain != "" {
		plain = "listen " + o.Plain + " reuseport;"
	}
	if o.AccessLog {
		log = filepath.Join(dir, "access.log") + " combined buffer=64k flush=1s"
	}
	deb, err := openDebian()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; worker_processes 2; worker_rlimit_nofile 20000; pid %[1]s/nginx.pid; error_log %[1]s/nginx.log;
events { worker_connections 8192; }
http {
  access_log %[6]s;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  upstream backend { server %[5]s; keepalive 64; }
  server {
    listen %[2]s ssl http2 reuseport; %[7]s
    ssl_certificate %[3]s; ssl_certificate_key %[4]s; ssl_protocols TLSv1.2 TLSv1.3;%[8]s
    keepalive_requests 1000000;
    location / { proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; }
  }
}
`, dir, o.Secure, o.Cert, o.Key, o.Backend, log, plain, suite)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("starting nginx: %w", err)
	}
	program, err := deb.file("/usr/sbin/nginx")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "-e", filepath.Join(dir, "nginx.log"), "-p", dir, "-c", config)
	// Its libraries are those of the machine where that has them, else those that were unpacked with it.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LD_LIBRARY_PATH=" + filepath.Join(deb.root, "usr/lib/x86_64-linux-gnu") + ":" + filepath.Join(deb.root, "usr/lib/aarch64-linux-gnu")}
	diesWithUs(cmd)
	p, err := startProcess(cmd)
	if err != nil {
		return nil, fmt.Errorf("starting nginx: %w", err)
	}
	s := &ProxyServer{proc: p}
	err = Until(ctx, 20*time.Second, func() error {
		if p.ended() {
			text, _ := os.ReadFile(filepath.Join(dir, "nginx.log"))
			return fmt.Errorf("nginx ended: %s", text)
		}
		workers, err := Processes(func(q Proc) bool { return q.Parent == p.pid })
		if err == nil && len(workers) < 2 {
			err = fmt.Errorf("nginx has %d workers", len(workers))
		}
		s.PIDs = []int{p.pid}
		for _, w := range workers {
			s.PIDs = append(s.PIDs, w.PID)
		}
		return err
	})
	if err != nil {
		return nil, errorsJoin(err, s.Close())
	}
	return s, nil
}

// Close ends it.
func (s *ProxyServer) Close() error { return s.proc.kill() }
