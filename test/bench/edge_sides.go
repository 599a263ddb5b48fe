package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/edge"
	"github.com/trysail/trysail/internal/edge/http1"
	"github.com/trysail/trysail/test/kit"
)

const (
	// engineRole in the environment makes this program an edge with that engine and nothing else, or the bare engine on
	// plain HTTP, as the edge itself only redirects there.
	engineRole = "TRYSAIL_BENCH_ENGINE"
	bareEngine = "bare"
	bareLoops  = "bare loops"
	// edgeHosts is how many names the edge routes.
	edgeHosts = 10_000
	// edgeSuite is what all are to use, as Go and OpenSSL prefer different ones.
	edgeSuite = "TLS_AES_128_GCM_SHA256"
	// heapSize is what the engines hold for the measurement of a busy heap.
	heapSize = 256 << 20
)

// edgeSides starts all that are compared, on one backend. Those that cannot be had on this machine are named in missing.
// stop ends them.
func edgeSides(ctx context.Context, dir string, all bool) (sides map[string]side, missing []string, stop func() error, err error) {
	var ends []func() error
	stop = func() (err error) {
		for _, end := range slices.Backward(ends) {
			err = errors.Join(err, end())
		}
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stop())
		}
	}()
	backend, err := newPages()
	if err != nil {
		return nil, nil, stop, err
	}
	ends = append(ends, backend.Close)
	addr := backend.Addr().String()
	sides = map[string]side{}
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := selfSigned(cert, key); err != nil {
		return nil, nil, stop, err
	}
	others := []other{{"nginx", startNginx}}
	if all {
		others = append(others, other{"haproxy", startHAProxy}, other{"caddy", startCaddy})
	}
	for _, o := range others {
		ports := proxyPorts{cert: cert, key: key, backend: addr, dir: filepath.Join(dir, o.name)}
		secure, err1 := kit.FreeAddr()
		plain, err2 := kit.FreeAddr()
		if err := errors.Join(err1, err2, os.Mkdir(ports.dir, 0o755)); err != nil {
			return nil, nil, stop, err
		}
		ports.secure, ports.plain = secure, plain
		pids, end, err := o.start(ctx, ports)
		if err != nil {
			if o.name == "nginx" {
				return nil, nil, stop, err
			}
			missing = append(missing, fmt.Sprintf("%s: %v", o.name, err))
			continue
		}
		ends = append(ends, end)
		sides[o.name] = side{o.name, "https://" + secure, pids, nil}
		sides[o.name+", plain"] = side{o.name + ", plain", "http://" + plain, pids, nil}
	}
	for _, engine := range append(edge.Engines(), bareEngine, bareLoops) {
		p, err := startEngine(ctx, dir, engine, addr)
		if err != nil {
			return nil, nil, stop, err
		}
		ends = append(ends, p.close)
		scheme := "https://"
		if engine == bareEngine || engine == bareLoops {
			scheme = "http://"
		}
		sides[engine] = side{engine, scheme + p.addr, []int{p.pid}, p}
	}
	return sides, missing, stop, nil
}

// other is a proxy of another make.
type other struct {
	name  string
	start func(context.Context, proxyPorts) (pids []int, stop func() error, err error)
}

// proxyPorts say where a proxy listens, what it shows and where it sends requests; dir is for what it writes.
type proxyPorts struct{ secure, plain, cert, key, backend, dir string }

func startNginx(ctx context.Context, p proxyPorts) ([]int, func() error, error) {
	s, err := kit.StartProxy(ctx, p.dir, kit.ProxyOptions{Secure: p.secure, Plain: p.plain, Cert: p.cert, Key: p.key, Backend: p.backend, AccessLog: true, Suite: edgeSuite})
	if err != nil {
		return nil, nil, err
	}
	return s.PIDs, s.Close, nil
}

// startHAProxy starts Debian's haproxy with two threads and a log on its standard output, which is a file.
func startHAProxy(ctx context.Context, p proxyPorts) ([]int, func() error, error) {
	cache, err := kit.Cache()
	if err != nil {
		return nil, nil, err
	}
	root := filepath.Join(cache, "haproxy")
	libs, err := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu"))
	if err != nil {
		return nil, nil, err
	}
	pair := filepath.Join(p.dir, "pair.pem")
	cert, err1 := os.ReadFile(p.cert)
	key, err2 := os.ReadFile(p.key)
	if err := errors.Join(err1, err2, os.WriteFile(pair, append(cert, key...), 0o600)); err != nil {
		return nil, nil, err
	}
	config := filepath.Join(p.dir, "haproxy.cfg")
	text := fmt.Sprintf(`global
  nbthread 2
  maxconn 8000
  log stdout format raw local0
  ssl-default-bind-ciphersuites %s
defaults
  mode http
  log global
  option httplog
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend in
  bind %s ssl crt %s alpn h2,http/1.1
  bind %s
  default_backend out
backend out
  server one %s
`, edgeSuite, p.secure, pair, p.plain, p.backend)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, "usr/sbin/haproxy"), "-db", "-f", config)
	cmd.Env = []string{"LD_LIBRARY_PATH=" + strings.Join(libs, ":")}
	return startOther(ctx, cmd, p)
}

// startCaddy starts the Caddy that scripts/setup.sh built, with its metrics and its access log.
func startCaddy(ctx context.Context, p proxyPorts) ([]int, func() error, error) {
	cache, err := kit.Cache()
	if err != nil {
		return nil, nil, err
	}
	server := `{"listen":[%q],"automatic_https":{"disable":true},"logs":{"default_logger_name":"access"},%s"routes":[{"handle":[{"handler":"reverse_proxy",` +
		`"upstreams":[{"dial":%q}],"transport":{"protocol":"http","keep_alive":{"max_idle_conns_per_host":256}}}]}]}`
	secure := fmt.Sprintf(server, p.secure, `"tls_connection_policies":[{"alpn":["h2","http/1.1"]}],`, p.backend)
	text := fmt.Sprintf(`{"admin":{"disabled":true},"logging":{"logs":{"default":{"level":"WARN","exclude":["http.log.access"]},`+
		`"access":{"writer":{"output":"file","filename":%q},"encoder":{"format":"json"},"include":["http.log.access.access"]}}},`+
		`"apps":{"http":{"metrics":{},"servers":{"secure":%s,"plain":%s}},"tls":{"certificates":{"load_files":[{"certificate":%q,"key":%q}]}}}}`,
		filepath.Join(p.dir, "access.log"), secure, fmt.Sprintf(server, p.plain, "", p.backend), p.cert, p.key)
	config := filepath.Join(p.dir, "caddy.json")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(cache, "proxies", "caddy"), "run", "--config", config)
	cmd.Env = []string{"HOME=" + p.dir, "XDG_DATA_HOME=" + p.dir, "XDG_CONFIG_HOME=" + p.dir}
	return startOther(ctx, cmd, p)
}

// startOther starts a program whose output goes to a file, and waits until it listens.
func startOther(ctx context.Context, cmd *exec.Cmd, p proxyPorts) ([]int, func() error, error) {
	out, err := os.Create(filepath.Join(p.dir, "out"))
	if err != nil {
		return nil, nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // which the signal would otherwise come too early from
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	stop := func() error {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // the status is that
		return nil
	}
	err = kit.Until(ctx, 10*time.Second, func() error {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.secure)
		if err != nil {
			text, _ := os.ReadFile(out.Name())
			return fmt.Errorf("%w\n%s", err, text)
		}
		return c.Close()
	})
	if err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	return []int{cmd.Process.Pid}, stop, nil
}

func selfSigned(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{tlsHost}, NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
}

// newPages is a server with a page of 612 bytes, the size of nginx's own, and one of 1 MB.
func newPages() (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	small, large := make([]byte, 612), make([]byte, 1<<20)
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page := small
		if r.URL.Path == "/large" {
			page = large
		}
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Content-Length", strconv.Itoa(len(page)))
		_, _ = w.Write(page)
	})}
	go func() { _ = srv.Serve(l) }() // ends with the listener
	return l, nil
}

// startEngine starts this program in the role of an edge.
func startEngine(ctx context.Context, dir, engine, backend string) (*roleProcess, error) {
	dir, err := os.MkdirTemp(dir, "engine-")
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, dir, backend)
	cmd.Env = append(os.Environ(), engineRole+"="+engine)
	cmd.Stderr = os.Stderr
	return startRole(cmd)
}

// beEngine serves with an engine until standard input ends, and prints its address.
func beEngine(ctx context.Context, engine string, args []string) (err error) {
	dir, backend := args[0], args[1]
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	switch engine {
	case bareEngine:
		return beBareEngine(ctx, backend, 0, log)
	case bareLoops:
		return beBareEngine(ctx, backend, runtime.NumCPU(), log)
	}
	addr, err := netip.ParseAddrPort(backend)
	if err != nil {
		return err
	}
	lines, err := newLineFile(filepath.Join(dir, "access.log"))
	if err != nil {
		return err
	}
	e, err := edge.New(edge.Config{Dir: filepath.Join(dir, "ca"), HTTPAddr: "127.0.0.1:0", HTTPSAddr: "127.0.0.1:0", Engine: engine, AccessLog: lines.write}, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close(ctx)) }()
	route := trysail.Route{Service: "bench", ServiceID: "bench", Host: tlsHost, Mode: trysail.RouteServe, AccessLog: true, Targets: []trysail.Target{{
		Pod: "1", Version: 1, Addr: addr, Check: trysail.DefaultHealthCheck(), Serving: true, PresumeHealthy: true,
	}}}
	for i := range edgeHosts {
		route.Domains = append(route.Domains, edgeHostName(i))
	}
	e.Apply(route)                    //nolint:contextcheck // the probes of a target end with the edge
	if err := e.Start(); err != nil { //nolint:contextcheck // it only binds two addresses
		return err
	}
	fmt.Println(e.HTTPSAddr())
	return obey(os.Stdin)
}

func edgeHostName(i int) string { return fmt.Sprintf("shop-%d.example.com", i) }

// obey does what standard input says, until it ends.
func obey(in io.Reader) error {
	var heap [][]*[64]byte
	stop := make(chan struct{})
	defer close(stop)
	s := bufio.NewScanner(in)
	for s.Scan() {
		switch s.Text() {
		case "free": // what the runtime would give back in some minutes
			debug.FreeOSMemory()
			fmt.Println("done")
		case "heap": // become a program with much on its heap, that makes more of it
			heap = fillHeap()
			go churn(stop, heap)
			fmt.Println("done")
		case "pauses":
			fmt.Println(worstPause())
		}
	}
	return s.Err()
}

// fillHeap makes a heap full of pointers.
func fillHeap() [][]*[64]byte {
	heap := make([][]*[64]byte, 256)
	for i := range heap {
		heap[i] = make([]*[64]byte, heapSize/256/72)
		for j := range heap[i] {
			heap[i][j] = new([64]byte)
		}
	}
	return heap
}

// churn replaces parts of the heap all the time.
func churn(stop chan struct{}, heap [][]*[64]byte) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		part := heap[n%len(heap)]
		for j := range min(len(part), 10_000) {
			part[j] = new([64]byte)
		}
	}
}

// worstPause is the upper bound of the longest pause for garbage collection so far, in microseconds.
func worstPause() int {
	sample := []metrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}}
	metrics.Read(sample)
	h := sample[0].Value.Float64Histogram()
	for i, n := range slices.Backward(h.Counts) {
		if n > 0 {
			return int(min(h.Buckets[i+1], 60) * 1e6)
		}
	}
	return 0
}

// beBareEngine is our own engine without the edge around it.
func beBareEngine(ctx context.Context, backend string, loops int, log *slog.Logger) error {
	pool := &http1.Pool{MaxIdle: 256, IdleTimeout: time.Minute, Dial: func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", backend)
	}}
	defer pool.Close()
	srv := http1.NewServer(http1.Config{
		Handler: func(x *http1.Exchange) { //nolint:contextcheck // nothing here has one
			if x.Ask(pool, nil, 0) == nil {
				_ = x.Relay(nil, 0)
			}
		},
		HeaderTimeout: time.Minute, IdleTimeout: time.Minute, ResponseTimeout: time.Minute, Grace: time.Second,
		MaxHeadBytes: 64 << 10, MaxPodHeadBytes: 64 << 10, Loops: loops, Log: log,
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	fmt.Println(l.Addr())
	err = obey(os.Stdin)
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = srv.Shutdown(ctx) // idle connections of wrk are closed
	return errors.Join(err, ignoreClosed(<-served))
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// lineFile is an access log with a buffer, as nginx's.
type lineFile struct {
	// mu guards w.
	mu sync.Mutex
	w  *bufio.Writer
}

func newLineFile(name string) (*lineFile, error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	return &lineFile{w: bufio.NewWriterSize(f, 64<<10)}, nil
}

func (f *lineFile) write(_ string, _ time.Time, line []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, _ = f.w.Write(line)
	_ = f.w.WriteByte('\n')
}
