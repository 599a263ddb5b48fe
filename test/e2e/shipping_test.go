//go:build e2e

package e2e

import (
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/trysail/trysail/test/kit"
)

// TestShipping sends the lines of a container and of the access log to rsyslog over TCP and TLS and to an OpenTelemetry
// receiver, while Trysail is killed and the receivers are away, and looks for every line.
func TestShipping(t *testing.T) {
	cert, key := certificate(t)
	plain := rsyslog(t, kit.RsyslogOptions{Dir: t.TempDir()})
	secure := rsyslog(t, kit.RsyslogOptions{Dir: t.TempDir(), Cert: cert, Key: key})
	otlp := newReceiver(t)
	headers := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(headers, []byte("Authorization: Bearer s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	to := "syslog+tcp://" + plain.Addr + ",syslog+tls://" + secure.Addr + "?ca=" + cert + ",otlp+" + otlp.URL + "?headers=" + headers
	s := dedicated(t, kit.ServerOptions{Flags: []string{"--ship-logs", to}})
	c := clientOf(t, s)
	c.create("ship", types.ContainerServicePowerNameNano, 1)
	if out, err := s.Run(t.Context(), "settings", "ship", "--access-log", "on"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.deploy(webDeployment("ship", "web:1", nil))
	url := *c.waitState("ship", types.ContainerServiceStateRunning).Url

	var wanted []string // each is in a line of the container or of the access log
	ask := func() {
		t.Helper()
		h, err := s.HTTPClient(true)
		if err != nil {
			t.Fatal(err)
		}
		defer h.CloseIdleConnections()
		for range 100 {
			word := fmt.Sprintf("word-%d.", len(wanted))
			resp, _ := do(t, h, newRequest(t, "GET", url+"log?line="+word, nil))
			wanted = append(wanted, word, resp.Header.Get("X-Request-Id"))
		}
		// Lines of the edge are in a file a moment later; those of containers are before anybody can be killed.
		err = kit.Until(t.Context(), 20*time.Second, func() error {
			if list := accessLog(t, s, "ship", "--tail", "1"); len(list) == 0 || list[0].RequestID != wanted[len(wanted)-1] {
				return errors.New("the last request is not in the access log")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	ask()
	killServer(t, s)
	ask()
	if err := plain.Stop(); err != nil {
		t.Fatal(err)
	}
	otlp.setDown(true)
	ask()
	killServer(t, s)
	ask()
	plain = rsyslog(t, kit.RsyslogOptions{Dir: plain.Dir(), Addr: plain.Addr})
	otlp.setDown(false)
	ask()

	for name, lines := range map[string]func() ([]string, error){"rsyslog": plain.Lines, "rsyslog with TLS": secure.Lines, "OTLP": otlp.lines} {
		twice := 0
		err := kit.Until(t.Context(), 60*time.Second, func() error {
			list, err := lines()
			if err != nil {
				return err
			}
			text := strings.Join(list, "\n")
			twice = 0
			for _, w := range wanted {
				switch n := strings.Count(text, w); {
				case n == 0:
					return fmt.Errorf("%s is missing; there are %d lines", w, len(list))
				case n > 1:
					twice++
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, s.LogTail(20))
		}
		t.Logf("%s: %d lines, %d twice", name, len(wanted), twice)
	}
	list, err := plain.Lines()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		f := strings.SplitN(l, "\t", 6)
		if len(f) != 6 || f[1] != "ship" || !strings.HasPrefix(f[4], `[trysail@32473 kind="`) || (f[3] != "web" && f[3] != "access") {
			t.Fatalf("rsyslog did not understand %q", l)
		}
		if strings.Contains(l, "word-0.") && (!strings.HasPrefix(f[2], "ship-v1-0-") || f[5] != "word-0." ||
			!strings.Contains(f[4], `kind="container" service="ship" version="1"`) || !strings.Contains(f[4], `stream="stdout"`)) {
			t.Errorf("fields %q", f)
		}
	}
	if auth := otlp.authorization(); auth != "Bearer s3cret" {
		t.Errorf("Authorization %q", auth)
	}
	if text := s.LogTail(100_000); strings.Contains(text, "s3cret") || !strings.Contains(text, "logs are shipped again") {
		t.Errorf("the server's log:\n%s", text)
	}
	c.delete("ship")
}

func rsyslog(t *testing.T, o kit.RsyslogOptions) *kit.Rsyslog {
	t.Helper()
	r, err := kit.StartRsyslog(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Stop() }) // it may have been stopped
	return r
}

// certificate makes one for 127.0.0.1 that signs itself.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: privateDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// receiver is an OpenTelemetry receiver that reads with the official types.
type receiver struct {
	*httptest.Server
	t *testing.T

	mu   sync.Mutex
	down bool
	text []string
	auth string
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{t: t}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) setDown(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
}

func (r *receiver) lines() ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.text...), nil
}

func (r *receiver) authorization() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.auth
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.auth = req.Header.Get("Authorization"); r.down {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	var data logspb.LogsData // it has the form of a request
	z, err := gzip.NewReader(req.Body)
	if err == nil {
		var text []byte
		if text, err = io.ReadAll(z); err == nil {
			err = protojson.Unmarshal(text, &data)
		}
	}
	if err == nil && req.URL.Path != "/v1/logs" {
		err = errors.New("path " + req.URL.Path)
	}
	if err != nil {
		r.t.Error(err)
		w.WriteHeader(http.StatusTeapot)
		return
	}
	for _, res := range data.ResourceLogs {
		for _, rec := range res.ScopeLogs[0].LogRecords {
			r.text = append(r.text, rec.Body.GetStringValue())
		}
	}
}
