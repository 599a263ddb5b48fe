package main

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// parse reads a command line and an environment as trysail serve does.
func parse(t *testing.T, env map[string]string, args ...string) (config, error) {
	t.Helper()
	var c config
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	c.flags(f)
	if err := f.Parse(args); err != nil {
		return c, err
	}
	if err := environment(f, func(name string) string { return env[name] }); err != nil {
		return c, err
	}
	if err := c.validate(); err != nil {
		return c, err
	}
	return c, c.database.validate(f.Changed("database"))
}

func TestConfig_Defaults(t *testing.T) {
	got, err := parse(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := config{
		dataDir: "/var/lib/trysail", listen: "127.0.0.1:4500", http: ":80", https: ":443", edgeEngine: "loops", domain: "localhost", region: "us-east-1",
		engine: "containerd", activationTimeout: 5 * time.Minute, drainTimeout: 30 * time.Second, maxServices: 100,
		logRetention: 14 * 24 * time.Hour, logMaxBytes: 10_000_000_000, logLevel: "info", logFormat: "text",
		certs: certConfig{max: 10, maxRequests: 20}, kube: kubeConfig{namespace: "trysail", isolation: true},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(config{}, certConfig{}, databaseConfig{}, kubeConfig{})); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

func TestConfig_EnvironmentGivesWayToFlags(t *testing.T) {
	got, err := parse(t, map[string]string{"TRYSAIL_REGION": "eu-west-1", "TRYSAIL_DRAIN_TIMEOUT": "7s", "TRYSAIL_DOMAIN": "a.example"}, "--domain", "b.example")
	if err != nil {
		t.Fatal(err)
	}
	if got.region != "eu-west-1" || got.drainTimeout != 7*time.Second || got.domain != "b.example" {
		t.Errorf("got region %q, drain timeout %v, domain %q", got.region, got.drainTimeout, got.domain)
	}
	_, err = parse(t, map[string]string{"TRYSAIL_DRAIN_TIMEOUT": "soon"})
	if err == nil || !strings.Contains(err.Error(), `TRYSAIL_DRAIN_TIMEOUT is "soon"`) {
		t.Errorf("got %v", err)
	}
}

func TestConfig_RefusesNonsense(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"--data-dir=", "--data-dir is empty"},
		{"--listen=4500", `--listen "4500" is not an address`},
		{"--listen=127.0.0.1:99999", `--listen "127.0.0.1:99999" has no port`},
		{"--edge-engine=nginx", `--edge-engine "nginx" is none of net/http, http1, loops`},
		{"--https=:https", `--https ":https" has no port`},
		{"--listen=127.0.0.1:", `--listen "127.0.0.1:" has no port`},
		{"--http=http://x:80", `--http "http://x:80" is not an address`},
		{"--https=a_b:443", `--https "a_b:443" begins with neither`},
		{"--domain=Example.com", `--domain "Example.com" is not a DNS name`},
		{"--domain=", `--domain "" is not a DNS name`},
		{"--domain=" + strings.Repeat("abcd.", 40) + "com", "is not a DNS name of at most"},
		{"--region=US", `--region "US" is not the name of a region`},
		{"--engine=kubernetes", "--engine kubernetes needs --kube-listen: an address of this machine that the cluster's nodes reach, such as 10.0.0.5:4501"},
		{"--engine=kubernetes --kube-listen=:4501", `--kube-registry ":4501" is not host:port as the cluster's nodes reach it, such as 10.0.0.5:4501`},
		{"--engine=kubernetes --kube-listen=10.0.0.5:4501 --kube-dns=10.0.0.5", "--kube-dns needs --subnet: the network of the pods' addresses, such as 10.244.0.0/16"},
		{"--engine=kubernetes --kube-listen=10.0.0.5:4501 --kube-edges=10.0.0.5/24", `--kube-edges: "10.0.0.5/24" is an address within a network; write 10.0.0.0/24`},
		{"--kube-isolation=false", "--kubeconfig and --kube-… need --engine kubernetes"},
		{"--kubeconfig=/x", "--kubeconfig and --kube-… need --engine kubernetes"},
		{"--engine=nomad", `--engine "nomad" is unknown; use containerd or kubernetes`},
		{"--engine=docker", `--engine "docker" is unknown`},
		{"--activation-timeout=0s", "--activation-timeout 0s is too short"},
		{"--drain-timeout=-1s", "--drain-timeout -1s is negative"},
		{"--otlp-endpoint=collector:4318", "--otlp-endpoint is not an address"},
		{"--otlp-endpoint=http://user:secret@collector", "--otlp-endpoint is not an address"},
		{"--max-services=0", "--max-services 0 is too small"},
		{"--log-max-bytes=5", "--log-max-bytes 5 is too little"},
		{"--ship-logs=syslog+udp://10.0.0.1,https://me:s3cret@logs.example.com", "--ship-logs, destination 2: it must begin with"},
		{"--log-retention=1s", "--log-retention 1s is too short"},
		{"--subnet=10.0.0.0", `--subnet "10.0.0.0" is not an IPv4 network`},
		{"--subnet=fd00::/16", "is not an IPv4 network"},
		{"--subnet=10.0.0.0/25", "of /8 to /24"},
		{"--trusted-proxies=10.0.0.1/8", `--trusted-proxies: "10.0.0.1/8" is an address within a network; write 10.0.0.0/8`},
		{"--trusted-proxies=10.0.0.0/8,nginx", `--trusted-proxies: "nginx" is neither a network`},
		{"--proxy-protocol=on", `--proxy-protocol: "on" is neither a network`},
		{"--subnet=10.0.0.1/16", "is an address within 10.0.0.0/16"},
		{"--subnet6=10.0.0.0/16", "is neither off nor an IPv6 network of /8 to /96"},
		{"--subnet6=fd00::/112", "is neither off nor an IPv6 network of /8 to /96"},
		{"--subnet6=fe80::/64", "is neither off nor an IPv6 network of /8 to /96"},
		{"--subnet6=fd00::1/64", "is an address within fd00::/64"},
		{"--acme-directory=http://x/dir", `--acme-directory "http://x/dir" is not an https:// address`},
		{"--acme-directory=none,https://x/dir", "none does not go together with others"},
		{"--acme-email=ops", `--acme-email "ops" is not an address`},
		{"--dns=bind", `--dns "bind" is unknown; use one of: cloudflare, hetzner, rfc2136`},
		{"--dns=cloudflare", "--dns cloudflare needs --dns-credentials"},
		{"--dns-resolver=192.0.2.1", `--dns-resolver "192.0.2.1" is not an address`},
		{"--public-address=here", `--public-address "here" is not an IP address`},
		{"--max-certificates=0", "--max-certificates and --max-certificate-requests must be 1 or more"},
		{"--log-level=loud", "--log-level must be debug, info, warn or error"},
		{"--log-format=xml", "--log-format must be text or json"},
	} {
		if _, err := parse(t, nil, strings.Fields(tt.args)...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.args, err, tt.want)
		}
	}
	for _, args := range []string{"--listen=localhost:0", "--listen=[::1]:4500", "--http=0.0.0.0:8080", "--subnet=10.92.0.0/16", "--subnet6=fd12:3456:789a::/64", "--subnet6=off", "--domain=apps.example.com", "--http=[::]:80", "--https=[::1]:443", "--trusted-proxies=10.0.0.0/8,2001:db8::1", "--proxy-protocol=192.0.2.1", "--http3"} {
		if _, err := parse(t, nil, args); err != nil {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestConfig_NoticesUnknownVariables(t *testing.T) {
	var c config
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	c.flags(f)
	got := unknownVariables(f, []string{"PATH=/bin", "TRYSAIL_CA=x", "TRYSAIL_DATA_DIR=y", "TRYSAIL_DOMIAN=z"})
	if diff := cmp.Diff([]string{"TRYSAIL_DOMIAN"}, got); diff != "" {
		t.Errorf("unknown (-want +got):\n%s", diff)
	}
}

func TestConfig_ShowsNoPassword(t *testing.T) {
	const url = "postgres://u:hunter2@db/x"
	if _, err := parse(t, nil, "--database", url); err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "PGPASSFILE") {
		t.Errorf("on the command line: %v", err)
	}
	if got, err := parse(t, map[string]string{"TRYSAIL_DATABASE": url}); err != nil || got.database.url != url {
		t.Errorf("in the environment: %v", err)
	}
	for _, args := range [][]string{{"--database", "mysql://u:hunter2@db/x"}, {"--database-password-file", "hunter2"}, {"--seal-key-file", "hunter2"}} {
		if _, err := parse(t, nil, args...); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestMove_KnowsWhereFromAndWhereTo(t *testing.T) {
	const one, secret = "postgres://u@one/x", "postgres://u:hunter2@two/x"
	for _, tt := range []struct {
		to, database        string
		toShown, sourceShow bool
		want                string
	}{
		{one, "", true, false, ""},
		{secret, "", false, false, ""},
		{secret, "", true, false, "--to holds a password"},
		{one, one, true, true, "--database is for"},
		{"sqlite:/d", one, true, true, ""},
		{"sqlite:/d", secret, true, false, ""},
		{"sqlite:/d", secret, true, true, "--database holds a password"},
		{"sqlite:/d", "", true, false, "needs --database"},
		{"sqlite:", one, true, true, "--to must be"},
		{"/d", one, true, true, "--to must be"},
	} {
		m := move{to: tt.to, source: databaseConfig{url: tt.database}}
		err := m.validate(tt.toShown, tt.sourceShow)
		if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}
