//go:build package

package packages

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/trysail/trysail/test/kit"
)

// webImage is a file of the kind that docker save makes.
func webImage(t *testing.T) string {
	t.Helper()
	img, err := kit.Web(t.Context(), "1")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "web.tar")
	if err := tarball.WriteToFile(file, name.MustParseReference("web:1"), img); err != nil {
		t.Fatal(err)
	}
	return file
}

const deploymentFile = `{
  "containers": {"web": {"image": ":hello.web.1", "ports": {"8080": "HTTP"}}},
  "publicEndpoint": {"containerName": "web", "containerPort": 8080}
}
`

var serviceURL = regexp.MustCompile(`https://[^"\s]+`)

// service is what runs in a machine, seen from outside of it.
type service struct {
	url  string
	addr string // of the machine
	ca   *x509.CertPool
}

// putHello puts what deployHello needs into the machine's root.
func putHello(t *testing.T, m *machine) {
	t.Helper()
	m.put(t, webImage(t), "web.tar")
	if err := os.WriteFile(filepath.Join(m.root, "hello.json"), []byte(deploymentFile), 0o644); err != nil {
		t.Fatal(err)
	}
}

// deployHello makes a service of web.tar and hello.json in the machine's root, and waits for its answer.
func deployHello(t *testing.T, m *machine) *service {
	t.Helper()
	m.client(t, "create", "hello", "--power", "nano", "--scale", "2", "--wait")
	m.client(t, "push", "/web.tar", "--service", "hello", "--label", "web")
	m.client(t, "deploy", "hello", "-f", "/hello.json", "--wait")
	pem, err := os.ReadFile(filepath.Join(m.root, "var/lib/trysail/ca/root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	s := &service{url: serviceURL.FindString(m.client(t, "services", "--output", "json")), addr: m.addr, ca: x509.NewCertPool()}
	if s.url == "" || !s.ca.AppendCertsFromPEM(pem) {
		t.Fatalf("the service has the URL %q; the root certificate:\n%s", s.url, pem)
	}
	s.answers(t)
	return s
}

// client is a client outside of the machine.
func (s *service) client(keepAlive bool) *http.Client {
	dialer := net.Dialer{Timeout: 30 * time.Second}
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: s.ca, MinVersion: tls.VersionTLS12},
		DisableKeepAlives: !keepAlive, MaxIdleConnsPerHost: 16, ForceAttemptHTTP2: false,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, net.JoinHostPort(s.addr, "443"))
		},
	}}
}

// ask sends one request. Anything but a whole 200 is an error.
func (s *service) ask(ctx context.Context, c *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), "version 1") {
		return fmt.Errorf("%s: %q", resp.Status, body)
	}
	return nil
}

// answers waits for an answer: while a server starts, clients wait in the socket's queue or are refused.
func (s *service) answers(t *testing.T) {
	t.Helper()
	c := s.client(false)
	if err := kit.Until(t.Context(), time.Minute, func() error { return s.ask(t.Context(), c) }); err != nil {
		t.Fatalf("asking the service: %v", err)
	}
}

// load asks all the time, over connections that are kept and over new ones, until its end is called, which returns how many
// requests there were and what failed.
func (s *service) load(ctx context.Context) (end func() (total int64, failed []string)) {
	ctx, cancel := context.WithCancel(ctx)
	var total atomic.Int64
	var mu sync.Mutex
	var failed []string
	var group sync.WaitGroup
	for i := range 6 {
		group.Go(func() {
			c := s.client(i%2 == 0)
			defer c.CloseIdleConnections()
			for ctx.Err() == nil {
				began := time.Now()
				if err := s.ask(context.WithoutCancel(ctx), c); err != nil {
					mu.Lock()
					failed = append(failed, fmt.Sprintf("at %s after %s: %v", began.UTC().Format("15:04:05.000"), time.Since(began), err))
					mu.Unlock()
				}
				total.Add(1)
				time.Sleep(5 * time.Millisecond) // the machine is shared
			}
		})
	}
	return func() (int64, []string) {
		cancel()
		group.Wait()
		return total.Load(), failed
	}
}

// pods lists the pods of the service with the processes in them: all of it is another after a restart.
func pods(t *testing.T, m *machine) []string {
	t.Helper()
	var list struct {
		Pods []struct {
			ID string `json:"id"`
		} `json:"pods"`
	}
	if err := json.Unmarshal([]byte(m.client(t, "ps", "hello", "--output", "json")), &list); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, p := range list.Pods {
		ids = append(ids, p.ID)
	}
	slices.Sort(ids)
	return append(ids, webProcesses(t, m)...)
}

// webProcesses lists the programs in the pods, with the time that each was started.
func webProcesses(t *testing.T, m *machine) []string {
	t.Helper()
	procs, err := kit.Processes(func(p kit.Proc) bool { return len(p.Args) > 0 && p.Args[0] == "/web" && m.has(p.PID) })
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, p := range procs {
		list = append(list, p.String())
	}
	return list
}

// has reports whether a process is one of the machine's.
func (m *machine) has(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && strings.Contains(string(b), "/"+m.name)
}
