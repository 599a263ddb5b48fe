//go:build e2e

package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"

	"github.com/trysail/trysail/test/acme"
	"github.com/trysail/trysail/test/kit"
)

// tool runs a program of the system and returns what it printed.
func tool(t *testing.T, env []string, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Stdin = strings.NewReader("")
	err := cmd.Run()
	return out.String(), err
}

// until repeats a command until its output has all the words.
func until(t *testing.T, what string, run func() (string, error), words ...string) {
	t.Helper()
	err := kit.Until(t.Context(), 90*time.Second, func() error {
		out, err := run()
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", what, err, out)
		}
		for _, w := range words {
			if !strings.Contains(out, w) {
				return fmt.Errorf("%s lacks %q:\n%s", what, w, out)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// certified is a server with a certificate authority and a name server of its own.
type certified struct {
	*client
	dns   *acme.NameServer
	ca    *acme.Authority
	roots string // file with the authority's root
	https string // port
}

// newCertified starts it. In its flags, $DIR is the folder with the credentials of the name server.
func newCertified(t *testing.T, o kit.ServerOptions) *certified {
	t.Helper()
	dir := scratch(t)
	plain, err := kit.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	secure, err := kit.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	c := &certified{dns: acme.NewNameServer(t), roots: filepath.Join(dir, "roots.pem")}
	c.ca = acme.NewAuthority(t, acme.Options{HTTPPort: portOf(t, plain), TLSPort: portOf(t, secure), Resolver: c.dns.Addr})
	_, c.https, _ = net.SplitHostPort(secure)
	files := map[string][]byte{
		c.roots:                             pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.ca.Root.Raw}),
		filepath.Join(dir, "directory.pem"): pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.ca.Certificate().Raw}),
		filepath.Join(dir, "dns"):           fmt.Appendf(nil, "server = %s\nkey-name = %s\nkey = %s\n", c.dns.Addr, acme.TSIGName, acme.TSIGSecret),
	}
	for path, text := range files {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range o.Flags {
		o.Flags[i] = strings.ReplaceAll(o.Flags[i], "$DIR", dir)
	}
	o.HTTP, o.HTTPS = plain, secure
	o.Flags = append([]string{
		"--acme-directory", c.ca.Directory, "--acme-ca", filepath.Join(dir, "directory.pem"), "--acme-email", "ops@example.com",
		"--dns-resolver", c.dns.Addr, "--public-address", "127.0.0.1",
	}, o.Flags...)
	c.client = clientOf(t, dedicated(t, o))
	return c
}

func portOf(t *testing.T, addr string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// curl asks a host of the edge, with the authority's root and no other.
func (c *certified) curl(host, path string, more ...string) (string, error) {
	c.t.Helper()
	return c.curlAt(c.https, host, path, more...)
}

// curlAt is the same at another port of this machine.
func (c *certified) curlAt(port, host, path string, more ...string) (string, error) {
	c.t.Helper()
	args := append([]string{"-sS", "--max-time", "20", "--cacert", c.roots, "--resolve", host + ":" + port + ":127.0.0.1"}, more...)
	return tool(c.t, nil, "curl", append(args, "https://"+host+":"+port+path)...)
}

// serial is the number of the certificate that a host has at a port of this machine.
func (c *certified) serial(port, host string) string {
	c.t.Helper()
	d := tls.Dialer{Config: &tls.Config{ServerName: host, InsecureSkipVerify: true}} // curl verifies it
	conn, err := d.DialContext(c.t.Context(), "tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	secure, _ := conn.(*tls.Conn)
	return secure.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// TestCertificate_CustomDomain leads a domain to a service with the AWS CLI and asks it with curl and openssl.
func TestCertificate_CustomDomain(t *testing.T) {
	c := newCertified(t, kit.ServerOptions{})
	aws := func(args ...string) (string, error) {
		return tool(t, c.server.Environ(), "aws", append([]string{"lightsail", "--endpoint-url", c.server.Vars["AWS_ENDPOINT_URL_LIGHTSAIL"]}, args...)...)
	}
	must := func(out string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return out
	}
	c.create("shop", types.ContainerServicePowerNameSmall, 1)
	c.deploy(webDeployment("shop", "web:1", nil))
	c.waitState("shop", types.ContainerServiceStateRunning)
	c.dns.Set(t, "shop.example.com", "A 127.0.0.1")

	out := must(aws("create-certificate", "--certificate-name", "shop-cert", "--domain-name", "shop.example.com", "--subject-alternative-names", "www.example.com"))
	for _, want := range []string{`"status": "PENDING_VALIDATION"`, `"name": "_acme-challenge.shop.example.com."`, `"operationType": "CreateCertificate"`} {
		if !strings.Contains(out, want) {
			t.Errorf("the answer lacks %s:\n%s", want, out)
		}
	}
	if out, err := aws("update-container-service", "--service-name", "shop", "--public-domain-names", `{"shop-cert":["shop.example.com"]}`); err == nil || !strings.Contains(out, `Certificate "shop-cert" is in state PENDING_VALIDATION.`) {
		t.Errorf("attached too early: %v\n%s", err, out)
	}
	// The second name leads nowhere, and the certificate says so.
	until(t, "the reason", func() (string, error) { return c.server.Run(t.Context(), "certs", "show", "shop-cert") },
		"problem        CERT-DNS", "does not resolve; this machine is 127.0.0.1.", "Set the DNS record: www.example.com. A 127.0.0.1")
	c.dns.Set(t, "www.example.com", "CNAME shop.example.com.")
	if out, err := c.server.Run(t.Context(), "domains", "check", "www.example.com"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	until(t, "the certificate", func() (string, error) {
		return aws("get-certificates", "--certificate-name", "shop-cert", "--include-certificate-details", "--query", "certificates[0].certificateDetail.status")
	}, "ISSUED")
	must(aws("update-container-service", "--service-name", "shop", "--public-domain-names", `{"shop-cert":["shop.example.com","www.example.com"]}`))
	for _, host := range []string{"shop.example.com", "www.example.com"} {
		until(t, "curl", func() (string, error) { return c.curl(host, "/", "-v") }, "HTTP/2 200", "version 1")
	}
	out, _ = tool(t, nil, "openssl", "s_client", "-connect", "127.0.0.1:"+c.https, "-servername", "www.example.com", "-CAfile", c.roots, "-verify_return_error", "-verify_hostname", "www.example.com")
	for _, want := range []string{"Verification: OK", "Verified peername: www.example.com", "TLSv1.3"} {
		if !strings.Contains(out, want) {
			t.Errorf("openssl lacks %q:\n%s", want, out)
		}
	}
	if out, err := tool(t, nil, "openssl", "s_client", "-connect", "127.0.0.1:"+c.https, "-servername", "www.example.com", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"); err == nil {
		t.Errorf("TLS 1.1 is spoken:\n%s", out)
	}
	if out, err := aws("delete-certificate", "--certificate-name", "shop-cert"); err == nil || !strings.Contains(out, `Certificate "shop-cert" is used by service "shop".`) {
		t.Errorf("deleted while it is used: %v\n%s", err, out)
	}
	if got := must(aws("get-container-services", "--service-name", "shop", "--query", "containerServices[0].publicDomainNames")); !strings.Contains(got, "www.example.com") {
		t.Errorf("publicDomainNames are %s", got)
	}

	// A restart keeps all of it, also while the authority is away.
	c.ca.Close()
	if err := c.server.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := c.server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := c.curl("shop.example.com", "/"); err != nil || !strings.Contains(out, "version 1") {
		t.Errorf("after a restart: %v\n%s", err, out)
	}
	must(aws("update-container-service", "--service-name", "shop", "--public-domain-names", `{"shop-cert":[]}`))
	c.waitState("shop", types.ContainerServiceStateRunning)
	must(aws("delete-certificate", "--certificate-name", "shop-cert"))
}

// TestCertificate_OneDomainServesAll has a domain with a DNS provider: every service, the API and the registry are behind
// one port with certificates that everybody trusts.
func TestCertificate_OneDomainServesAll(t *testing.T) {
	c := newCertified(t, kit.ServerOptions{Flags: []string{"--domain", acme.Zone, "--dns", "rfc2136", "--dns-credentials", "$DIR/dns"}})
	for _, name := range []string{"one", "two"} {
		c.create(name, types.ContainerServicePowerNameNano, 1)
		c.deploy(webDeployment(name, "web:1", nil))
	}
	for _, name := range []string{"one", "two"} {
		c.waitState(name, types.ContainerServiceStateRunning)
		url := strings.TrimPrefix(c.url(name, ""), "https://")
		host, _, err := net.SplitHostPort(url)
		if err != nil || !strings.HasSuffix(host, ".us-east-1.cs."+acme.Zone) {
			t.Fatalf("the address is %s, %v", url, err)
		}
		until(t, "curl", func() (string, error) { return c.curl(host, "/") }, "version 1")
	}
	// The records of the challenges are gone, and were never those of another name.
	if out, err := tool(t, nil, "dig", "+short", "-p", portString(c.dns.Addr), "@127.0.0.1", "TXT", "_acme-challenge."+acme.Zone); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("dig: %v %q", err, out)
	}

	// A name elsewhere is validated by its CNAME record alone.
	out, err := c.server.Run(t.Context(), "certs", "create", "elsewhere", "elsewhere.example.com")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	record := ""
	for line := range strings.Lines(out) {
		if words := strings.Fields(line); len(words) == 5 && words[0] == "to" && words[1] == "validate" {
			record = strings.TrimSuffix(words[4], ".")
		}
	}
	if !strings.HasSuffix(record, ".validations."+acme.Zone) {
		t.Fatalf("no record in:\n%s", out)
	}
	c.dns.Set(t, "_acme-challenge.elsewhere.example.com", "CNAME "+record+".")
	if out, err := tool(t, nil, "dig", "+short", "-p", portString(c.dns.Addr), "@127.0.0.1", "CNAME", "_acme-challenge.elsewhere.example.com"); err != nil || strings.TrimSpace(out) != record+"." {
		t.Errorf("dig: %v %q", err, out)
	}
	until(t, "the certificate", func() (string, error) {
		_, _ = c.server.Run(t.Context(), "domains", "check", "elsewhere.example.com")
		return c.server.Run(t.Context(), "certs", "show", "elsewhere")
	}, "elsewhere is ISSUED", "by dns-01")

	// The API and the registry, on the edge. Signatures decide, as everywhere.
	until(t, "the API", func() (string, error) {
		return c.curl("api."+acme.Zone, "/", "-X", "POST", "-H", "X-Amz-Target: Lightsail_20161128.GetContainerServices", "-H", "Content-Type: application/x-amz-json-1.1", "-d", "{}")
	},
		"MissingAuthenticationToken")
	until(t, "the registry", func() (string, error) { return c.curl("registry."+acme.Zone, "/v2/", "-i") }, "HTTP/2 401")
	login, err := c.api.CreateContainerServiceRegistryLogin(t.Context(), &lightsail.CreateContainerServiceRegistryLoginInput{})
	if err != nil {
		t.Fatal(err)
	}
	if want := "registry." + acme.Zone + ":" + c.https; *login.RegistryLogin.Registry != want {
		t.Errorf("images are pushed to %s, want %s", *login.RegistryLogin.Registry, want)
	}
	if out, err := c.curl("registry."+acme.Zone, "/v2/", "-i", "-u", *login.RegistryLogin.Username+":"+*login.RegistryLogin.Password); err != nil || !strings.Contains(out, "HTTP/2 200") {
		t.Errorf("logged in: %v\n%s", err, out)
	}
	signed := []string{
		"--aws-sigv4", "aws:amz:us-east-1:lightsail", "-u", c.server.Vars["AWS_ACCESS_KEY_ID"] + ":" + c.server.Vars["AWS_SECRET_ACCESS_KEY"],
		"-X", "POST", "-H", "X-Amz-Target: Lightsail_20161128.GetContainerServices", "-H", "Content-Type: application/x-amz-json-1.1", "-d", `{"serviceName":"one"}`,
	}
	if out, err := c.curl("api."+acme.Zone, "/", signed...); err != nil || !strings.Contains(out, `"containerServiceName":"one"`) {
		t.Errorf("signed: %v\n%s", err, out)
	}
}

func portString(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}
