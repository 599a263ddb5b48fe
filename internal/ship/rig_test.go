package ship

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/logs"
)

// rig is logs and the shipping of them.
type rig struct {
	*testing.T
	dir  string // of the logs
	logs *logs.Store

	mu       sync.Mutex
	services []trysail.Service
	written  int
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, dir: t.TempDir(), services: []trysail.Service{{ID: "id-web", Name: "web"}}}
	r.logs = logs.New(r.dir)
	return r
}

func (r *rig) list(context.Context) ([]trysail.Service, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]trysail.Service(nil), r.services...), nil
}

// write appends n numbered lines to a container's log.
func (r *rig) write(service, pod, file string, n int) {
	r.Helper()
	dir := r.logs.PodDir(service, pod)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		r.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	for range n {
		fmt.Fprintf(w, "%s stdout F line %d\n", time.Now().UTC().Format("2006-01-02T15:04:05.000000000Z"), r.written)
		r.written++
	}
	if err := w.Flush(); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) raw(service, pod, file, text string) {
	r.Helper()
	dir := r.logs.PodDir(service, pod)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) config(dir string, destinations ...string) Config {
	r.Helper()
	cfg := Config{
		Dir: dir, Logs: r.logs, Services: r.list, Version: func(_ context.Context, pod string) int { return len(pod) },
		Host: "node", Interval: 5 * time.Millisecond, Log: slog.New(slog.NewTextHandler(r.Output(), nil)),
	}
	for _, text := range destinations {
		d, err := Parse(text)
		if err != nil {
			r.Fatal(err)
		}
		cfg.Destinations = append(cfg.Destinations, d)
	}
	return cfg
}

// start ships until the test ends or stop is called.
func (r *rig) start(cfg Config) (s *Shipper, stop func()) {
	r.Helper()
	s, err := New(cfg)
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	r.Cleanup(stop)
	return s, stop
}

func (r *rig) wait(what string, done func() bool) {
	r.Helper()
	for deadline := time.Now().Add(60 * time.Second); !done(); {
		if time.Now().After(deadline) {
			r.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// inbox is what a receiver got.
type inbox struct {
	mu    sync.Mutex
	lines []string
}

func (i *inbox) add(lines ...string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.lines = append(i.lines, lines...)
}

func (i *inbox) all() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]string(nil), i.lines...)
}

// missing returns how many of the numbered lines are missing, and how many came more than once.
func (i *inbox) missing(n int) (missing, twice int) {
	seen := map[int]int{}
	for _, l := range i.all() {
		if at := strings.LastIndex(l, "line "); at >= 0 {
			if k, err := strconv.Atoi(l[at+len("line "):]); err == nil {
				seen[k]++
			}
		}
	}
	for k := range n {
		switch {
		case seen[k] == 0:
			missing++
		case seen[k] > 1:
			twice++
		}
	}
	return missing, twice
}

// syslogServer receives messages over TCP or TLS.
type syslogServer struct {
	inbox
	net.Listener
	wg sync.WaitGroup
}

func newSyslogServer(t *testing.T, addr string, cfg *tls.Config, serve func(*syslogServer, net.Conn)) *syslogServer {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if cfg != nil {
		l = tls.NewListener(l, cfg)
	}
	s := &syslogServer{Listener: l}
	if serve == nil {
		serve = func(s *syslogServer, c net.Conn) {
			defer c.Close()
			s.receive(c)
		}
	}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() { serve(s, c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.wg.Wait()
	})
	return s
}

// receive reads messages with their lengths until the end.
func (s *syslogServer) receive(c io.Reader) {
	br := bufio.NewReader(c)
	for {
		size, err := br.ReadString(' ')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(strings.TrimSpace(size))
		if err != nil {
			panic("bad length " + size)
		}
		msg := make([]byte, n)
		if _, err := io.ReadFull(br, msg); err != nil {
			return
		}
		s.add(string(msg))
	}
}

// testCA makes a certificate for 127.0.0.1 that signs itself, and its file.
func testCA(t *testing.T) (cfg *tls.Config, file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file = filepath.Join(dir, "ca.pem")
	keyFile := filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{file: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.LoadX509KeyPair(file, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}, file
}
