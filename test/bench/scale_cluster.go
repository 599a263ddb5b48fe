package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/trysail/trysail/test/kit"
)

// controlPlane is a real API server with its etcd, and nothing else of a cluster. It notes each request of trysail.
type controlPlane struct {
	dir    string
	api    string // host:port
	tokens struct{ admin, trysail string }
	procs  []*exec.Cmd
	audit  auditLog
}

// auditPolicy makes the API server note what trysail asks, and nothing else.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: Metadata, users: [trysail]}
  - {level: None}
`

// scaleNamespace is where trysail runs its pods.
const scaleNamespace = "trysail"

// startControlPlane starts what scripts/setup.sh cluster has built, in dir.
func startControlPlane(ctx context.Context, dir string) (c *controlPlane, err error) {
	cache, err := kit.Cache()
	if err != nil {
		return nil, err
	}
	hyperkube, etcd := filepath.Join(cache, "kube", "hyperkube"), filepath.Join(cache, "kube", "etcd")
	for _, file := range []string{hyperkube, etcd} {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("run scripts/setup.sh cluster: %w", err)
		}
	}
	c = &controlPlane{dir: dir, audit: auditLog{file: filepath.Join(dir, "audit.log")}}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if err := c.writeFiles(); err != nil {
		return c, err
	}
	var addrs [3]string // of etcd, of its peers, who do not exist, and of the API server
	for i := range addrs {
		if addrs[i], err = kit.FreeAddr(); err != nil {
			return c, err
		}
	}
	client, peer := "http://"+addrs[0], "http://"+addrs[1]
	c.api = addrs[2]
	_, port, _ := strings.Cut(c.api, ":")
	if err := c.run(etcd, "--name=e", "--data-dir="+c.place("etcd"), "--unsafe-no-fsync", "--log-level=error", "--quota-backend-bytes=8589934592",
		"--listen-client-urls="+client, "--advertise-client-urls="+client, "--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=e="+peer); err != nil {
		return c, err
	}
	if err := c.run(hyperkube, "kube-apiserver", "--etcd-servers="+client, "--bind-address=127.0.0.1", "--secure-port="+port, "--cert-dir="+c.place("pki"),
		"--token-auth-file="+c.place("tokens.csv"), "--authorization-mode=AlwaysAllow", "--disable-admission-plugins=ServiceAccount",
		"--service-cluster-ip-range=10.99.0.0/16", "--service-account-key-file="+c.place("sa.key"), "--service-account-signing-key-file="+c.place("sa.key"),
		"--service-account-issuer=https://kubernetes.default.svc", "--endpoint-reconciler-type=none", "--profiling=false", "--kubelet-preferred-address-types=InternalIP",
		"--audit-policy-file="+c.place("audit.yaml"), "--audit-log-path="+c.audit.file, "--event-ttl=10m"); err != nil {
		return c, err
	}
	client1, err := c.client(c.tokens.admin)
	if err != nil {
		return c, err
	}
	return c, kit.Until(ctx, 2*time.Minute, func() error { return client1.Get().AbsPath("/readyz").Do(ctx).Error() })
}

func (c *controlPlane) place(name string) string { return filepath.Join(c.dir, name) }

// run starts a program that dies with us.
func (c *controlPlane) run(program string, args ...string) error {
	out, err := os.OpenFile(c.place(filepath.Base(program)+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The signal belongs to the thread that forked, so that has to live as long as the program.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting %s: %w", program, err)
	}
	c.procs = append(c.procs, cmd)
	return nil
}

func (c *controlPlane) close() {
	for _, p := range c.procs {
		_ = p.Process.Kill()
	}
}

func (c *controlPlane) writeFiles() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	c.tokens.admin, c.tokens.trysail = rand.Text(), rand.Text()
	tokens := fmt.Sprintf("%s,admin,1,system:masters\n%s,trysail,2\n", c.tokens.admin, c.tokens.trysail)
	return errors.Join(
		os.WriteFile(c.place("sa.key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600),
		os.WriteFile(c.place("tokens.csv"), []byte(tokens), 0o600),
		os.WriteFile(c.place("audit.yaml"), []byte(auditPolicy), 0o600),
	)
}

// kubeconfig writes the file by which trysail finds the API server.
func (c *controlPlane) kubeconfig() (string, error) {
	file := c.place("kubeconfig")
	return file, os.WriteFile(file, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://%s", insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: %s}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, c.api, c.tokens.trysail), 0o600)
}

// auditLog is what the API server has noted of trysail's requests.
type auditLog struct {
	file string
	read int64
}

// request is one of them.
type request struct {
	Stage  string    `json:"stage"`
	Verb   string    `json:"verb"`
	At     time.Time `json:"requestReceivedTimestamp"`
	Object struct {
		Resource    string `json:"resource"`
		Name        string `json:"name"`
		Subresource string `json:"subresource"`
	} `json:"objectRef"`
	Status struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
}

// what names the kind of request.
func (r request) what() string {
	resource := r.Object.Resource
	if r.Object.Subresource != "" {
		resource += "/" + r.Object.Subresource
	}
	if resource == "" {
		resource = "other"
	}
	return r.Verb + " " + resource
}

// next returns the requests since the last call. Of those that last, such as watches, it returns the beginning.
func (a *auditLog) next() (list []request, err error) {
	f, err := os.Open(a.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(a.read, io.SeekStart); err != nil {
		return nil, err
	}
	lines := bufio.NewReaderSize(f, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		a.read += int64(len(line))
		var r request
		if err := json.Unmarshal(bytes.TrimSpace(line), &r); err != nil {
			return nil, fmt.Errorf("reading the audit log: %w", err)
		}
		lasts := r.Verb == "watch" || r.Object.Subresource == "log"
		if lasts == (r.Stage == "ResponseStarted") || r.Stage == "ResponseComplete" && r.Status.Code >= http.StatusBadRequest {
			list = append(list, r)
		}
	}
}
