package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
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
	"regexp"
	"strconv"
	"strings"
	"sync"
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
	// edgeRounds is how often each side is measured, in turns.
	edgeRounds = 5
	idleConns  = 1000
)

// measureEdge compares the engines of the edge with nginx: CPU and rate of small requests over TLS and over plain HTTP, of large
// bodies, and the memory of idle connections. Counters and access logs are on, except in the bare engine.
func measureEdge(ctx context.Context, t *table, o options, dir string) (err error) {
	dir, err = os.MkdirTemp(dir, "edge-")
	if err != nil {
		return err
	}
	backend, err := newPages()
	if err != nil {
		return err
	}
	defer backend.Close()
	nginx, secure, plain, err := startNginx(ctx, dir, backend.Addr().String())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, nginx.Close()) }()
	sides := map[string]side{
		"nginx": {"nginx", "https://" + secure, nginx.PIDs}, "nginx, plain": {"nginx, plain", "http://" + plain, nginx.PIDs},
	}
	for _, engine := range []string{edge.EngineNetHTTP, edge.EngineHTTP1, bareEngine} {
		p, err := startEngine(ctx, dir, engine, backend.Addr().String())
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.close()) }()
		scheme := "https://"
		if engine == bareEngine {
			scheme = "http://"
		}
		sides[engine] = side{engine, scheme + p.addr, []int{p.pid}}
	}
	for _, name := range []string{"nginx", edge.EngineHTTP1} {
		cipher, err := cipherOf(ctx, sides[name].addr[len("https://"):])
		if err != nil {
			return err
		}
		t.add("cipher of "+name, cipher, "")
	}
	// Idle connections first, while the processes are fresh.
	for _, name := range []string{"nginx", edge.EngineNetHTTP, edge.EngineHTTP1, "nginx, plain", bareEngine} {
		each, err := idleCost(ctx, sides[name])
		if err != nil {
			return err
		}
		t.add("memory of an idle connection, "+name, fmt.Sprintf("%.1f KB", each/1024), "")
	}
	for _, part := range []struct {
		what, path string
		conns      int
		sides      []string
	}{
		{"requests over TLS", "/", 64, []string{"nginx", edge.EngineNetHTTP, edge.EngineHTTP1}},
		{"requests over plain HTTP", "/", 64, []string{"nginx, plain", bareEngine}},
		{"1 MB bodies over TLS", "/large", 16, []string{"nginx", edge.EngineNetHTTP, edge.EngineHTTP1}},
		{"1 MB bodies over plain HTTP", "/large", 16, []string{"nginx, plain", bareEngine}},
	} {
		var list []side
		for _, name := range part.sides {
			list = append(list, sides[name])
		}
		if err := compareEngines(ctx, t, o, part.what, part.path, part.conns, list); err != nil {
			return err
		}
	}
	return nil
}

// compareEngines measures the sides in turns. The first is what the others are compared with.
func compareEngines(ctx context.Context, t *table, o options, what, path string, conns int, sides []side) error {
	rates, costs := map[string][]float64{}, map[string][]float64{}
	for range edgeRounds {
		for _, s := range sides {
			before, err := s.cpu()
			if err != nil {
				return err
			}
			rate, total, err := wrkURL(ctx, s.addr+path, conns, o.window)
			if err != nil {
				return fmt.Errorf("measuring %s: %w", s.name, err)
			}
			after, err := s.cpu()
			if err != nil {
				return err
			}
			rates[s.name] = append(rates[s.name], rate)
			costs[s.name] = append(costs[s.name], float64((after-before).Nanoseconds())/1000/total)
		}
	}
	first := sides[0].name
	for _, s := range sides {
		t.add(what+" per second, "+s.name, fmt.Sprintf("%.0f", middle(rates[s.name])), fmt.Sprintf("%.2f of nginx", middle(rates[s.name])/middle(rates[first])))
		t.add("CPU of each, "+s.name, fmt.Sprintf("%.1f µs", middle(costs[s.name])), fmt.Sprintf("%.2f of nginx", middle(costs[s.name])/middle(costs[first])))
	}
	return nil
}

// wrkURL loads a URL over connections that are kept.
func wrkURL(ctx context.Context, url string, conns int, window time.Duration) (rate, requests float64, err error) {
	url = strings.Replace(url, "//127.0.0.1:", "//"+tlsHost+":", 1) // the name that the certificates are for
	cmd := exec.CommandContext(ctx, "wrk", "-t1", "-c"+strconv.Itoa(conns), "-d"+strconv.Itoa(max(int(window.Seconds()), 1))+"s", "-H", "Host: "+tlsHost, url)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("running wrk: %w\n%s", err, out)
	}
	perSecond, total := wrkRate.FindSubmatch(out), wrkTotal.FindSubmatch(out)
	if perSecond == nil || total == nil || regexp.MustCompile(`Non-2xx|Socket errors`).Match(out) {
		return 0, 0, fmt.Errorf("wrk says:\n%s", out)
	}
	rate, err1 := strconv.ParseFloat(string(perSecond[1]), 64)
	requests, err2 := strconv.ParseFloat(string(total[1]), 64)
	return rate, requests, errors.Join(err1, err2)
}

// idleCost is what a connection costs that has had one request, in bytes.
func idleCost(ctx context.Context, s side) (each float64, err error) {
	secure := s.addr[:len("https")] == "https"
	_, addr, _ := cutScheme(s.addr)
	if _, _, err := wrkURL(ctx, s.addr+"/", 16, time.Second); err != nil { // so that the program itself is warm
		return 0, err
	}
	before, err := s.memory()
	if err != nil {
		return 0, err
	}
	conns := make([]net.Conn, 0, idleConns)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range idleConns {
		var c net.Conn
		if secure {
			c, err = (&tls.Dialer{Config: &tls.Config{ServerName: tlsHost, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}}).DialContext(ctx, "tcp", addr)
		} else {
			c, err = (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		}
		if err != nil {
			return 0, err
		}
		conns = append(conns, c)
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+tlsHost+"\r\n\r\n"); err != nil {
			return 0, err
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return 0, err
		}
		_, _ = io.Copy(io.Discard, res.Body)
	}
	time.Sleep(3 * time.Second)
	after, err := s.memory()
	return float64(after-before) / idleConns, err
}

func cutScheme(url string) (scheme, rest string, ok bool) {
	m := regexp.MustCompile(`^(https?)://(.*)$`).FindStringSubmatch(url)
	if m == nil {
		return "", url, false
	}
	return m[1], m[2], true
}

// memory is the resident memory of a side.
func (s side) memory() (sum int64, err error) {
	for _, pid := range s.pids {
		m, err := kit.MemoryOf(pid)
		if err != nil {
			return 0, err
		}
		sum += m.RSS
	}
	return sum, nil
}

func cipherOf(ctx context.Context, addr string) (string, error) {
	c, err := (&tls.Dialer{Config: &tls.Config{ServerName: tlsHost, InsecureSkipVerify: true}}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	state := c.(*tls.Conn).ConnectionState() //nolint:errcheck,forcetypeassert // that is what the Dialer makes
	return tls.VersionName(state.Version) + ", " + tls.CipherSuiteName(state.CipherSuite), nil
}

// newPages is a server with a page of 612 bytes and one of 1 MB.
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

func startNginx(ctx context.Context, dir, backend string) (p *kit.ProxyServer, secure, plain string, err error) {
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := selfSigned(cert, key); err != nil {
		return nil, "", "", err
	}
	if secure, err = kit.FreeAddr(); err != nil {
		return nil, "", "", err
	}
	if plain, err = kit.FreeAddr(); err != nil {
		return nil, "", "", err
	}
	p, err = kit.StartProxy(ctx, dir, kit.ProxyOptions{Secure: secure, Plain: plain, Cert: cert, Key: key, Backend: backend, AccessLog: true})
	return p, secure, plain, err
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
	if engine == bareEngine {
		return beBareEngine(ctx, backend, log)
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
	e.Apply(trysail.Route{ //nolint:contextcheck // the probes of a target end with the edge
		Service: "bench", ServiceID: "bench", Host: tlsHost, Mode: trysail.RouteServe, AccessLog: true, Targets: []trysail.Target{{
			Pod: "1", Version: 1, Addr: addr, Check: trysail.DefaultHealthCheck(), Serving: true, PresumeHealthy: true,
		}}})
	if err := e.Start(); err != nil { //nolint:contextcheck // it only binds two addresses
		return err
	}
	fmt.Println(e.HTTPSAddr())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// beBareEngine is our own engine without the edge around it.
func beBareEngine(ctx context.Context, backend string, log *slog.Logger) error {
	pool := &http1.Pool{MaxIdle: 256, IdleTimeout: time.Minute, Dial: func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", backend)
	}}
	defer pool.Close()
	srv := http1.NewServer(http1.Config{
		Handler: func(x *http1.Exchange) {
			if x.Ask(pool, nil, 0) == nil {
				_ = x.Relay(nil, 0)
			}
		},
		HeaderTimeout: time.Minute, IdleTimeout: time.Minute, ResponseTimeout: time.Minute, Grace: time.Second,
		MaxHeadBytes: 64 << 10, MaxPodHeadBytes: 64 << 10, Log: log,
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	fmt.Println(l.Addr())
	_, err = io.Copy(io.Discard, os.Stdin)
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = srv.Shutdown(ctx) // idle connections of wrk are closed
	<-served
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
