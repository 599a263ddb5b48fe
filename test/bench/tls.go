package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/certs"
	"github.com/trysail/trysail/internal/edge"
	"github.com/trysail/trysail/internal/store"
	"github.com/trysail/trysail/test/kit"
)

const (
	// edgeRole in the environment makes this program an edge and nothing else: its value is a folder.
	edgeRole = "TRYSAIL_BENCH_EDGE"
	tlsNames = 10_000
	// tlsRounds is how often each side is measured, in turns.
	tlsRounds = 7
	tlsHost   = "localhost" // wrk looks names up, and every machine knows this one
)

// measureTLS measures the edge with ten thousand certificates beside nginx with one of them: handshakes, requests, memory.
func measureTLS(ctx context.Context, t *table, o options, dir string) (err error) {
	dir, err = os.MkdirTemp(dir, "tls-")
	if err != nil {
		return err
	}
	backend, err := newBackend()
	if err != nil {
		return err
	}
	defer backend.Close()
	few, err := startEdge(ctx, filepath.Join(dir, "few"), backend.Addr().String(), 1)
	if err != nil {
		return err
	}
	before, err := few.settledMemory()
	if err = errors.Join(err, few.close()); err != nil {
		return err
	}
	many, err := startEdge(ctx, filepath.Join(dir, "many"), backend.Addr().String(), tlsNames)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, many.close()) }()
	after, err := many.settledMemory()
	if err != nil {
		return err
	}
	t.add("memory of the edge, one certificate", fmt.Sprintf("RSS %d MB", before/mib), "")
	t.add(fmt.Sprintf("memory of the edge, %d certificates, none used", tlsNames), fmt.Sprintf("RSS %d MB", after/mib), fmt.Sprintf("%.1f KB each", float64(after-before)/tlsNames/1024))
	if err := useAll(ctx, many.addr); err != nil {
		return err
	}
	used, err := many.settledMemory()
	if err != nil {
		return err
	}
	t.add("the same, after a handshake with each", fmt.Sprintf("RSS %d MB", used/mib), fmt.Sprintf("%.1f KB each", float64(used-before)/tlsNames/1024))

	proxyAddr, err := kit.FreeAddr()
	if err != nil {
		return err
	}
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := splitPair(filepath.Join(many.dir, "certs", "names", tlsHost+".pem"), cert, key); err != nil {
		return err
	}
	proxy, err := kit.StartProxy(ctx, dir, kit.ProxyOptions{Secure: proxyAddr, Cert: cert, Key: key, Backend: backend.Addr().String()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, proxy.Close()) }()
	return compareTLS(ctx, t, o, []side{{"trysail", many.addr, []int{many.pid}, nil}, {"nginx", proxyAddr, proxy.PIDs, nil}})
}

// side is one of those that are compared.
type side struct {
	name, addr string
	pids       []int
	role       *roleProcess // nil if it is not this program
}

func (s side) cpu() (sum time.Duration, err error) {
	for _, pid := range s.pids {
		d, err := kit.CPUOf(pid)
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

func compareTLS(ctx context.Context, t *table, o options, sides []side) error {
	for _, kind := range []struct {
		what string
		load func(context.Context, string, time.Duration) (rate, total float64, err error)
		aim  string
	}{
		{"full TLS handshakes", handshakes, "aim CPU ≤ 1.3"},
		{"requests over TLS", func(ctx context.Context, addr string, window time.Duration) (float64, float64, error) {
			return loadAddr(ctx, addr, window)
		}, "aim CPU ≤ 1.1 in the end"},
	} {
		rates, costs := map[string][]float64{}, map[string][]float64{}
		for range tlsRounds {
			for _, s := range sides {
				before, err := s.cpu()
				if err != nil {
					return err
				}
				rate, total, err := kind.load(ctx, s.addr, o.window)
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
		ours, theirs := sides[0].name, sides[1].name
		t.add(kind.what+" per second, nginx", fmt.Sprintf("%.0f", middle(rates[theirs])), "")
		t.add(kind.what+" per second, trysail", fmt.Sprintf("%.0f", middle(rates[ours])), fmt.Sprintf("%.2f of nginx", middle(rates[ours])/middle(rates[theirs])))
		t.add("CPU of each, nginx", fmt.Sprintf("%.0f µs", middle(costs[theirs])), "")
		t.add("CPU of each, trysail", fmt.Sprintf("%.0f µs", middle(costs[ours])), fmt.Sprintf("%.2f of nginx (%s)", middle(costs[ours])/middle(costs[theirs]), kind.aim))
	}
	return nil
}

// handshakes makes new TLS 1.3 connections with X25519, which both know, one after the other on four tasks.
func handshakes(ctx context.Context, addr string, window time.Duration) (rate, total float64, err error) {
	cfg := &tls.Config{ServerName: tlsHost, InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}}
	var n atomic.Int64
	var failed atomic.Pointer[error]
	began := time.Now()
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for time.Since(began) < window {
				conn, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", addr)
				if err != nil {
					failed.Store(&err)
					return
				}
				conn.Close()
				n.Add(1)
			}
		})
	}
	group.Wait()
	if p := failed.Load(); p != nil {
		return 0, 0, *p
	}
	total = float64(n.Load())
	return total / time.Since(began).Seconds(), total, nil
}

// useAll makes a handshake with each name.
func useAll(ctx context.Context, addr string) error {
	for i := range tlsNames - 1 {
		conn, err := (&tls.Dialer{Config: &tls.Config{ServerName: tlsName(i), InsecureSkipVerify: true}}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("using certificate %d: %w", i, err)
		}
		conn.Close()
	}
	return nil
}

func tlsName(i int) string { return fmt.Sprintf("shop-%d.example.com", i) }

// splitPair makes two files of one with key and chain.
func splitPair(from, cert, key string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	block, rest := pem.Decode(text)
	if block == nil {
		return fmt.Errorf("%s holds no key", from)
	}
	return errors.Join(os.WriteFile(key, pem.EncodeToMemory(block), 0o600), os.WriteFile(cert, rest, 0o600))
}

// newBackend is a server that answers 612 bytes, the size of nginx's own page.
func newBackend() (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	page := bytes.Repeat([]byte("x"), 612)
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(page) })}
	go func() { _ = srv.Serve(l) }() // ends with the listener
	return l, nil
}

// roleProcess is this program in the role of an edge or a name server.
type roleProcess struct {
	dir, addr string
	pid       int
	cmd       *exec.Cmd
	stdin     io.WriteCloser
	stdout    *bufio.Reader
}

func startEdge(ctx context.Context, dir, backend string, names int) (*roleProcess, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, backend, fmt.Sprint(names))
	cmd.Env = append(os.Environ(), edgeRole+"="+dir)
	cmd.Stderr = os.Stderr
	e, err := startRole(cmd)
	if err != nil {
		return nil, err
	}
	e.dir = dir
	return e, nil
}

// startRole starts this program in a role and reads the address that it prints.
func startRole(cmd *exec.Cmd) (*roleProcess, error) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	e := &roleProcess{pid: cmd.Process.Pid, cmd: cmd, stdin: stdin, stdout: bufio.NewReader(stdout)}
	if _, err := fmt.Fscanln(e.stdout, &e.addr); err != nil {
		return nil, errors.Join(fmt.Errorf("it did not start: %w", err), e.close())
	}
	return e, nil
}

func (e *roleProcess) close() error {
	e.stdin.Close()
	return e.cmd.Wait()
}

// settledMemory is what the edge needs when it has come to rest.
func (e *roleProcess) settledMemory() (int64, error) {
	time.Sleep(3 * time.Second)
	m, err := kit.MemoryOf(e.pid)
	return m.RSS, err
}

// beEdge serves with so many certificates until standard input ends, and prints its address.
func beEdge(ctx context.Context, dir string, args []string) (err error) {
	names := 0
	if _, err := fmt.Sscan(args[1], &names); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	st, err := store.Open(ctx, dir)
	if err != nil {
		return err
	}
	defer st.Close()
	if err := fillCertificates(ctx, st, names); err != nil {
		return err
	}
	var e *edge.Edge
	m, err := certs.New(certs.Config{Dir: filepath.Join(dir, "certs"), Store: st, Log: log, Sign: func(csr *x509.CertificateRequest, life time.Duration) ([]byte, error) {
		return e.CA().SignRequest(csr, life)
	}})
	if err != nil {
		return err
	}
	e, err = edge.New(edge.Config{Dir: filepath.Join(dir, "ca"), Names: []string{"example.com"}, HTTPAddr: "127.0.0.1:0", HTTPSAddr: "127.0.0.1:0", Certificate: m.Certificate, Challenge: m.Challenge}, log)
	if err != nil {
		return err
	}
	backend, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	e.Apply(trysail.Route{ //nolint:contextcheck // the probes of a target end with the edge
		Service: "bench", Host: tlsHost, Mode: trysail.RouteServe, Targets: []trysail.Target{{
			Pod: "1", Version: 1, Addr: backend, Check: trysail.DefaultHealthCheck(), Serving: true, PresumeHealthy: true,
		}}})
	ctx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	defer func() {
		stop()
		err = errors.Join(err, <-done, e.Close(ctx))
	}()
	for last := tlsHost; ; time.Sleep(100 * time.Millisecond) {
		ok := true
		if names > 1 {
			last = tlsName(names - 2)
		}
		for _, name := range []string{tlsHost, last} {
			cert, err := m.Certificate(&tls.ClientHelloInfo{ServerName: name})
			ok = ok && err == nil && cert != nil
		}
		if ok && allIssued(ctx, st) {
			break
		}
	}
	if err := e.Start(); err != nil { //nolint:contextcheck // it only binds two addresses
		return err
	}
	fmt.Println(e.HTTPSAddr())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func allIssued(ctx context.Context, st *store.Store) bool {
	all := false
	_ = st.View(ctx, func(tx *store.Tx) error {
		list, err := tx.Certificates()
		all = err == nil && !strings.Contains(fmt.Sprint(statuses(list)), "PENDING")
		return err
	})
	return all
}

func statuses(list []trysail.Certificate) map[trysail.CertificateStatus]int {
	n := map[trysail.CertificateStatus]int{}
	for i := range list {
		n[list[i].Status(time.Now())]++
	}
	return n
}

// fillCertificates asks for certificates with ten names each.
func fillCertificates(ctx context.Context, st *store.Store, names int) error {
	return st.Update(ctx, func(tx *store.Tx) error {
		var c trysail.Certificate
		for i := range names {
			name := tlsHost
			if i > 0 {
				name = tlsName(i - 1)
			}
			c.Domains = append(c.Domains, trysail.DomainCertificate{Domain: name, Token: fmt.Sprintf("%032x", i)})
			if len(c.Domains) == 10 || i == names-1 {
				c.ID, c.Name, c.CreatedAt = fmt.Sprint(i), fmt.Sprintf("cert-%d", i), tx.Now()
				if err := tx.InsertCertificate(&c); err != nil {
					return err
				}
				c = trysail.Certificate{}
			}
		}
		return nil
	})
}
