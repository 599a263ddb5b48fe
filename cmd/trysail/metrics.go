package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/trysail/trysail/internal/api"
	"github.com/trysail/trysail/internal/cli"
	"github.com/trysail/trysail/internal/metrics"
)

// tokenFile holds what Prometheus needs to read /metrics. Whoever replaces it changes the token at once.
const tokenFile = "metrics.token"

// openMetrics begins to collect what services use and how they answer. It comes before the reconciler, so that nothing is
// missed.
func (s *server) openMetrics(ctx context.Context) (err error) {
	dir := func(name string) string { return filepath.Join(s.cfg.dataDir, name) }
	parts := map[string]string{
		"state": dir("trysail.db*"), "logs": dir("logs"), "registry": dir("registry"), "images": dir("images"), "metrics": dir("metrics"),
	}
	if s.copies != nil {
		parts["copies"] = s.copiesDir()
	}
	s.metrics, err = metrics.New(ctx, metrics.Config{
		Dir: dir("metrics"), Store: s.store, Usage: s.engine.Usage, Traffic: s.edge.Traffic, Extra: s.certificates,
		Build: version, Log: s.log.With("part", "metrics"), Self: s.identity, Copies: s.copiesDir(), Leads: s.leads,
		Parts: parts,
	})
	if err != nil {
		return err
	}
	if s.copies != nil {
		s.copies.Add("metrics", s.metrics.Store)
	}
	s.work(ctx, "collecting metrics", s.metrics.Run)
	return s.openPush(ctx)
}

// openPush sends the metrics to a collector of OpenTelemetry, if one is configured.
func (s *server) openPush(ctx context.Context) error {
	if s.cfg.otlpEndpoint == "" {
		return nil
	}
	header, err := readHeaders(s.cfg.otlpHeaders)
	if err != nil {
		return err
	}
	p := &metrics.Pusher{
		URL: strings.TrimRight(s.cfg.otlpEndpoint, "/") + "/v1/metrics", Header: header, Families: s.metrics.Families, Started: s.metrics.Started(),
		Build: version, Host: hostname(), Log: s.log.With("part", "otlp"),
	}
	s.work(ctx, "sending metrics", p.Run)
	return nil
}

// readHeaders reads lines of the form "Name: value"; no file is no headers. The values are secrets: no error has them.
func readHeaders(file string) (http.Header, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file) //nolint:gosec // the path is configuration
	if err != nil {
		return nil, fmt.Errorf("reading the headers of --otlp-headers-file: %w", err)
	}
	text = append(bytes.TrimSpace(text), "\r\n\r\n"...)
	header, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(text))).ReadMIMEHeader()
	if err != nil {
		return nil, cli.WithHint(fmt.Errorf("%s, named by --otlp-headers-file, is not made of lines such as Api-Key: secret", file), "Write one header per line.")
	}
	return http.Header(header), nil
}

// checkEndpoint checks the value of --otlp-endpoint. Errors: usage.
func checkEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	if endpoint != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "") {
		return cli.Usagef("--otlp-endpoint is not an address such as http://127.0.0.1:4318; headers go into --otlp-headers-file")
	}
	return nil
}

// scrape is GET /metrics.
func (s *server) scrape() (*api.Scrape, error) {
	file := filepath.Join(s.cfg.dataDir, tokenFile)
	if err := makeToken(file); err != nil {
		return nil, fmt.Errorf("making the scrape token: %w", err)
	}
	return &api.Scrape{
		Token: func() (string, error) { return readToken(file) }, Control: s.control, ContentType: metrics.PrometheusType, Log: s.log.With("part", "api"),
		Write: func(ctx context.Context, w io.Writer) error {
			return metrics.WritePrometheus(w, s.metrics.Families(ctx))
		},
	}, nil
}

// makeToken writes a random token, unless there is one.
func makeToken(file string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // within the data directory
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(rand.Text() + "\n")
	return errors.Join(err, f.Sync(), f.Close())
}

// maxToken bounds what is read as a token; ours have 26 characters.
const maxToken = 4096

func readToken(file string) (string, error) {
	f, err := os.Open(file) //nolint:gosec // within the data directory
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxToken))
	return strings.TrimSpace(string(text)), err
}

// certificates says until when the local CA is valid.
func (s *server) certificates(context.Context) []metrics.Family {
	text, err := os.ReadFile(s.edge.CA().RootFile())
	if err != nil {
		return nil
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return []metrics.Family{metrics.One("trysail_certificate_expiry_timestamp_seconds", "When a certificate of Trysail's own ends.", metrics.Gauge,
		float64(root.NotAfter.Unix()), metrics.Label{Name: "certificate", Value: "local CA"})}
}
