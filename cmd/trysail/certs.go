package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/certs"
	"github.com/trysail/trysail/internal/cli"
	"github.com/trysail/trysail/internal/control"
	"github.com/trysail/trysail/internal/edge"
	"github.com/trysail/trysail/internal/store"
)

// certConfig are the settings that have to do with certificates and domains.
type certConfig struct {
	directories    []string
	email          string
	eabFile        string
	caFile         string
	dns            string
	dnsCredentials string
	dnsResolvers   []string
	addresses      []string
	max            int
	maxRequests    int
}

// noDirectory is the value of --acme-directory that turns ACME off.
const noDirectory = "none"

func (c *certConfig) flags(f *pflag.FlagSet) {
	f.StringSliceVar(&c.directories, "acme-directory", nil,
		"ACME directory that certificates are asked from; several are tried in order; none turns this off. Default: Let's Encrypt if --domain is a public name or --acme-email is given, else none. Using one means to agree to its terms of service")
	f.StringVar(&c.email, "acme-email", "",
		"address that the certificate authority may write to; none is needed")
	f.StringVar(&c.eabFile, "acme-eab-file", "",
		"file of mode 0600 with the external account bindings, one line for each directory: its URL, the key id and the MAC key in base64url")
	f.StringVar(&c.caFile, "acme-ca", "",
		"file with the roots in PEM form that vouch for the ACME directories; default those of the system")
	f.StringVar(&c.dns, "dns", "",
		"provider of the DNS zone that --domain is in: "+strings.Join(certs.Providers(), ", ")+". With it, wildcard certificates serve all default domains, and other domains can be validated by a CNAME record alone")
	f.StringVar(&c.dnsCredentials, "dns-credentials", "",
		"file of mode 0600 with the provider's settings as lines name = value; cloudflare and hetzner: token; rfc2136: server, key-name, key, key-algorithm")
	f.StringSliceVar(&c.dnsResolvers, "dns-resolver", nil,
		"host:port of the DNS resolvers that are asked about domains; default those of /etc/resolv.conf")
	f.StringSliceVar(&c.addresses, "public-address", nil,
		"IP addresses under which the world reaches this machine; default its own, unless they are all private")
	f.IntVar(&c.max, "max-certificates", 10,
		"how many certificates there may be at a time, pending or issued")
	f.IntVar(&c.maxRequests, "max-certificate-requests", 20,
		"how many certificates may be requested in 365 days")
}

func (c *certConfig) validate(domain string) error {
	for _, d := range c.directories {
		u, err := url.Parse(d)
		if d != noDirectory && (err != nil || u.Scheme != "https" || u.Host == "") {
			return cli.Usagef("--acme-directory %q is not an https:// address", d)
		}
		if d == noDirectory && len(c.directories) > 1 {
			return cli.Usagef("--acme-directory none does not go together with others")
		}
	}
	for _, r := range c.dnsResolvers {
		if err := checkAddress("--dns-resolver", r); err != nil {
			return err
		}
	}
	for _, a := range c.addresses {
		if _, err := netip.ParseAddr(a); err != nil {
			return cli.Usagef("--public-address %q is not an IP address", a)
		}
	}
	switch {
	case strings.ContainsAny(c.email, " \t\r\n<>,") || c.email != "" && !strings.Contains(c.email, "@"):
		return cli.Usagef("--acme-email %q is not an address such as ops@example.com", c.email)
	case c.dns != "" && !slices.Contains(certs.Providers(), c.dns):
		return cli.Usagef("--dns %q is unknown; use one of: %s", c.dns, strings.Join(certs.Providers(), ", "))
	case c.dns != "" && c.dnsCredentials == "":
		return cli.Usagef("--dns %s needs --dns-credentials", c.dns)
	case c.dns != "" && isLocal(domain):
		return cli.Usagef("--dns needs a --domain of your own that lies in the provider's zone")
	case c.max < 1 || c.maxRequests < 1:
		return cli.Usagef("--max-certificates and --max-certificate-requests must be 1 or more")
	}
	return nil
}

// isLocal reports whether a domain is this machine's own business.
func isLocal(domain string) bool {
	return domain == "localhost" || strings.HasSuffix(domain, ".localhost")
}

// authorities are the ACME directories to use.
func (c *certConfig) authorities(domain string) ([]certs.Directory, error) {
	names := c.directories
	switch {
	case len(names) == 0 && (!trysail.IsPrivateDomain(domain) || c.email != ""):
		names = []string{certs.LetsEncrypt}
	case len(names) == 1 && names[0] == noDirectory:
		names = nil
	}
	bindings, err := readBindings(c.eabFile)
	if err != nil {
		return nil, err
	}
	var list []certs.Directory
	for _, name := range names {
		d := bindings[name]
		d.URL = name
		list = append(list, d)
	}
	for name := range bindings {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("--acme-eab-file has a binding for %s, which is not an --acme-directory", name)
		}
	}
	return list, nil
}

// readBindings reads the file of external account bindings. What it holds is secret and not part of any error.
func readBindings(path string) (map[string]certs.Directory, error) {
	if path == "" {
		return nil, nil
	}
	f, err := certs.OpenSecret(path)
	if err != nil {
		return nil, fmt.Errorf("reading --acme-eab-file: %w", err)
	}
	defer f.Close()
	list := map[string]certs.Directory{}
	n := 0
	for lines := bufio.NewScanner(io.LimitReader(f, 1<<16)); lines.Scan(); {
		n++
		words := strings.Fields(lines.Text())
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if len(words) != 3 {
			return nil, fmt.Errorf("reading --acme-eab-file: line %d is not a URL, a key id and a MAC key", n)
		}
		list[words[0]] = certs.Directory{URL: words[0], KeyID: words[1], MACKey: strings.TrimRight(words[2], "=")}
	}
	return list, nil
}

// ownNames are the names of the installation itself, in the order domain, api, registry, console; none on localhost.
func (c *config) ownNames() []string {
	if isLocal(c.domain) {
		return nil
	}
	return []string{c.domain, "api." + c.domain, "registry." + c.domain, "console." + c.domain}
}

// validationZone is where the records that validate domains point to.
func (c *config) validationZone() string { return "validations." + c.domain }

// answeredZone is validationZone if a DNS provider can answer there, else empty.
func (c *config) answeredZone() string {
	if c.certs.dns == "" {
		return ""
	}
	return c.validationZone()
}

// openCerts makes the manager of certificates. The CA is that of the edge, which is made after it.
func (s *server) openCerts(ctx context.Context, ca func() *edge.CA) (err error) {
	c := &s.cfg.certs
	cfg := certs.Config{
		Dir: filepath.Join(s.cfg.dataDir, "certs"), Store: s.store, Log: s.log.With("part", "certs"), Email: c.email, Agent: "trysail/" + version,
		Sign: func(csr *x509.CertificateRequest, life time.Duration) ([]byte, error) {
			chain, err := ca().SignRequest(csr, life)
			return chain, errors.Join(err, s.shareRoots(context.WithoutCancel(ctx)))
		},
		Shared: s.cfg.manyEdges(),
		Domain: s.cfg.domain, ValidationZone: s.cfg.validationZone(), Region: s.cfg.region, Own: s.cfg.ownNames(), Resolvers: c.dnsResolvers,
	}
	if cfg.Directories, err = c.authorities(s.cfg.domain); err != nil {
		return err
	}
	if c.caFile != "" {
		text, err := os.ReadFile(c.caFile)
		if err != nil {
			return fmt.Errorf("reading --acme-ca: %w", err)
		}
		cfg.Roots = x509.NewCertPool()
		if !cfg.Roots.AppendCertsFromPEM(text) {
			return fmt.Errorf("reading --acme-ca: %s holds no certificate", c.caFile)
		}
	}
	if len(c.addresses) > 0 {
		cfg.Addresses = func() []netip.Addr { return parseAddresses(c.addresses) }
	}
	if c.dns != "" {
		settings, err := certs.ReadSettings(c.dnsCredentials)
		if err != nil {
			return fmt.Errorf("reading --dns-credentials: %w", err)
		}
		if cfg.Zone, err = certs.OpenZone(c.dns, s.cfg.domain, settings); err != nil {
			return err
		}
		if cfg.HostLabel, err = s.hostLabel(ctx); err != nil {
			return err
		}
	}
	s.sharedLabel = cfg.HostLabel
	s.certs, err = certs.New(cfg)
	return err
}

func parseAddresses(texts []string) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			list = append(list, a.Unmap())
		}
	}
	return list
}

// publicAddresses are those under which the world reaches this machine, as far as is known.
func (s *server) publicAddresses() []netip.Addr {
	if list := parseAddresses(s.cfg.certs.addresses); len(list) > 0 {
		return list
	}
	return certs.MachineAddresses()
}

// hostLabel is the label that services share where one wildcard certificate serves them all. It is made once.
func (s *server) hostLabel(ctx context.Context) (label string, err error) {
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		label, err = tx.Fact("host_label", control.NewHostLabel())
		return err
	})
	return label, err
}

// serveOwn makes the edge answer for the API, the registry and the console, so that one public port is enough.
func (s *server) serveOwn(api, registry, console http.Handler) {
	if isLocal(s.cfg.domain) {
		return
	}
	both := http.NewServeMux()
	both.Handle("/v2/", registry)
	both.Handle("/", api)
	images := http.NewServeMux()
	images.Handle("/v2/", registry)
	s.edge.ServeOwn(map[string]http.Handler{"api." + s.cfg.domain: both, "registry." + s.cfg.domain: images, "console." + s.cfg.domain: console})
}

// publicRegistry is where clients push images through the edge; empty where they have no way there.
func (s *server) publicRegistry() string {
	if isLocal(s.cfg.domain) {
		return ""
	}
	host := "registry." + s.cfg.domain
	if _, port, err := net.SplitHostPort(s.edge.HTTPSAddr()); err == nil && port != "443" {
		host = net.JoinHostPort(host, port)
	}
	return host
}

// withCertificates makes a TLS configuration show the certificates of the authorities where there are some.
func (s *server) withCertificates(cfg *tls.Config) *tls.Config {
	if s.certs == nil {
		return cfg
	}
	local := cfg.GetCertificate
	cfg.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if slices.Contains(s.cfg.ownNames(), strings.ToLower(hello.ServerName)) {
			if cert, err := s.certs.Certificate(hello); err == nil && cert != nil {
				return cert, nil
			}
		}
		return local(hello)
	}
	return cfg
}
