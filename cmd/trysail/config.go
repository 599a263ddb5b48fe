package main

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/cli"
	"github.com/trysail/trysail/internal/edge"
	"github.com/trysail/trysail/internal/logs"
	"github.com/trysail/trysail/internal/registry"
	"github.com/trysail/trysail/internal/ship"
)

// config is everything that can be set of a server. Each field is a flag of trysail serve and an environment variable;
// flags says what they do and what they are by default.
type config struct {
	dataDir           string
	listen            string
	registry          string
	registryStorage   string
	http              string
	https             string
	edgeEngine        string
	domain            string
	region            string
	engine            string
	kube              kubeConfig
	activationTimeout time.Duration
	drainTimeout      time.Duration
	maxServices       int
	logMaxBytes       int64
	logRetention      time.Duration
	otlpEndpoint      string
	otlpHeaders       string
	shipLogs          []string
	subnet            string
	subnet6           string
	logLevel          string
	logFormat         string
	certs             certConfig
	http3             bool
	trustedProxies    []string
	proxyProtocol     []string
	database          databaseConfig
	advertise         string
}

// flags declares the flags of trysail serve. The help is the manual: what it does, and what follows from a change.
func (c *config) flags(f *pflag.FlagSet) {
	f.StringVar(&c.dataDir, "data-dir", cli.DefaultDataDir,
		"directory of all state: database, images, logs, local CA; made if missing, with mode 0700")
	c.database.flags(f)
	f.StringVar(&c.listen, "listen", "127.0.0.1:4500",
		"address of the API; plain HTTP on a loopback address, HTTPS with a certificate of the local CA on any other")
	f.StringVar(&c.advertise, "advertise", "",
		"host:port by which other servers with the same --database reach --listen; what only the leader can answer, such as logs, they pass on to it")
	f.StringVar(&c.registry, "registry", "",
		"host[:port] that clients are told to push images to; by default the address of --listen, where the registry is")
	f.StringVar(&c.registryStorage, "registry-storage", "",
		"where layers of pushed images are kept: s3://BUCKET/PREFIX?endpoint=https://HOST:PORT, with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment; by default in --data-dir")
	f.StringVar(&c.http, "http", ":80",
		"address where requests for services are redirected to HTTPS")
	f.StringVar(&c.https, "https", ":443",
		"address where services are served; a port other than 443 becomes part of their URLs")
	f.BoolVar(&c.http3, "http3", false,
		"serve HTTP/3 as well, on the UDP port with the number of --https's; answers then tell browsers of it")
	f.StringSliceVar(&c.trustedProxies, "trusted-proxies", nil,
		"networks of proxies in front, such as 10.0.0.0/8: their X-Forwarded-For, -Proto, -Host and -Port are believed and passed on, those of others are replaced; by default nobody's is believed, and X-Forwarded-For is appended to, as on AWS")
	f.StringSliceVar(&c.proxyProtocol, "proxy-protocol", nil,
		"networks of load balancers that begin each connection to --http and --https with a PROXY protocol header, version 1 or 2; from them it is required, from others it is not taken")
	f.StringVar(&c.edgeEngine, "edge-engine", edge.EngineLoops,
		"what moves the bytes of HTTP/1.1 between clients and pods: loops, Trysail's own, strict and with an event loop per core, http1, the same without the loops, or net/http, which is Go's and needs three times the CPU; HTTP/2 is net/http's with all")
	f.StringVar(&c.domain, "domain", "localhost",
		"base of the services' host names, <service>.<13 characters>.<region>.cs.<domain>; for one of your own, point it and *.<domain> at this machine: the API is then at api.<domain> and the registry at registry.<domain> on the edge, too")
	f.StringVar(&c.region, "region", "us-east-1",
		"AWS region that the API says it is; part of the services' host names")
	f.StringVar(&c.engine, "engine", "containerd",
		"what runs the containers: containerd, on this machine, or kubernetes, on the nodes of a cluster")
	c.kube.flags(f)
	f.DurationVar(&c.activationTimeout, "activation-timeout", 5*time.Minute,
		"how long a deployment may take to become healthy before it counts as FAILED")
	f.DurationVar(&c.drainTimeout, "drain-timeout", 30*time.Second,
		"how long requests in flight may take when a container is replaced, or when the server stops; then they are cut")
	f.IntVar(&c.maxServices, "max-services", 100,
		"how many services there may be at most")
	f.DurationVar(&c.logRetention, "log-retention", logs.Retention,
		"how long lines of container logs are kept")
	f.Int64Var(&c.logMaxBytes, "log-max-bytes", logs.MaxBytes,
		"how much disk all container logs may take, in bytes; beyond that the oldest lines are removed, however young; 0: no limit")
	f.StringVar(&c.otlpEndpoint, "otlp-endpoint", "",
		"address of an OpenTelemetry collector, such as http://127.0.0.1:4318; what /metrics shows is sent to its /v1/metrics once a minute (OTLP over HTTP)")
	f.StringVar(&c.otlpHeaders, "otlp-headers-file", "",
		"file with headers to send to --otlp-endpoint, one per line, such as Api-Key: secret")
	f.StringSliceVar(&c.shipLogs, "ship-logs", nil,
		"where log lines and access logs are sent to as well, separated by commas: syslog+udp://HOST, syslog+tcp://HOST, syslog+tls://HOST, otlp+http://HOST or otlp+https://HOST, with options; see docs/shipping.md")
	f.StringVar(&c.subnet, "subnet", "",
		"IPv4 network of the containers' addresses, /8 to /24; by default one that is free on this machine, 10.92.0.0/16 if possible; it is chosen at the first start")
	f.StringVar(&c.subnet6, "subnet6", "",
		"IPv6 network of the containers' addresses, /8 to /96, or off; by default one for local use (ULA) if the machine has IPv6, chosen at the first start")
	c.certs.flags(f)
	f.StringVar(&c.logLevel, "log-level", "info",
		"least level of what the server itself logs to standard error: debug, info, warn or error")
	f.StringVar(&c.logFormat, "log-format", "text",
		"form of what the server itself logs: text or json")
}

// variable is the environment variable of a flag.
func variable(flag string) string {
	return "TRYSAIL_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// environment sets the flags that the command line leaves out from their variables. Errors: usage.
func environment(f *pflag.FlagSet, getenv func(string) string) error {
	var errs []error
	f.VisitAll(func(flag *pflag.Flag) {
		value := getenv(variable(flag.Name))
		if value == "" || flag.Changed || flag.Name == "help" {
			return
		}
		if err := flag.Value.Set(value); err != nil {
			errs = append(errs, cli.Usagef("%s is %q: %v", variable(flag.Name), value, err))
		}
	})
	return errors.Join(errs...)
}

// minLogBytes has room for the files that some containers are writing.
const minLogBytes = 100_000_000

// maxRegion is longer than any region's name.
const maxRegion = 32

// maxDomain keeps <service>.<13 characters>.<region>.cs.<domain> within the 253 characters of a DNS name.
const maxDomain = 253 - 63 - 1 - 13 - 1 - maxRegion - len(".cs.")

// validate checks the values and makes the data directory's path absolute. Errors: usage; they name the flag.
func (c *config) validate() error {
	if c.dataDir == "" {
		return cli.Usagef("--data-dir is empty")
	}
	dir, err := filepath.Abs(c.dataDir)
	if err != nil {
		return cli.Usagef("--data-dir %q: %v", c.dataDir, err)
	}
	c.dataDir = dir
	for _, a := range [][2]string{{"--listen", c.listen}, {"--http", c.http}, {"--https", c.https}} {
		if err := checkAddress(a[0], a[1]); err != nil {
			return err
		}
	}
	switch {
	case !slices.Contains(edge.Engines(), c.edgeEngine):
		return cli.Usagef("--edge-engine %q is none of %s", c.edgeEngine, strings.Join(edge.Engines(), ", "))
	case c.registry != "" && trysail.ValidateImageName(c.registry+"/sr") != nil:
		return cli.Usagef("--registry %q is not a host name with an optional port, such as registry.example.com or 192.0.2.10:4500", c.registry)
	case !isDNSName(c.domain) || len(c.domain) > maxDomain:
		return cli.Usagef("--domain %q is not a DNS name of at most %d characters in lower case, such as apps.example.com", c.domain, maxDomain)
	case !isDNSLabel(c.region) || len(c.region) > maxRegion:
		return cli.Usagef("--region %q is not the name of a region, such as us-east-1", c.region)
	case c.engine != engineContainerd && c.engine != engineKubernetes:
		return cli.Usagef("--engine %q is unknown; use containerd or kubernetes", c.engine)
	case c.activationTimeout < time.Second:
		return cli.Usagef("--activation-timeout %v is too short; it must be 1s or more", c.activationTimeout)
	case c.drainTimeout < 0:
		return cli.Usagef("--drain-timeout %v is negative; 0s cuts requests in flight at once", c.drainTimeout)
	case c.maxServices < 1:
		return cli.Usagef("--max-services %d is too small; it must be 1 or more", c.maxServices)
	case c.logMaxBytes < 0 || c.logMaxBytes > 0 && c.logMaxBytes < minLogBytes:
		return cli.Usagef("--log-max-bytes %d is too little; it must be %d or more, or 0 for no limit", c.logMaxBytes, minLogBytes)
	case c.logRetention < time.Minute:
		return cli.Usagef("--log-retention %v is too short; it must be 1m or more, such as 96h", c.logRetention)
	case c.logFormat != "text" && c.logFormat != "json":
		return cli.Usagef("--log-format must be text or json, not %q", c.logFormat)
	}
	if err := c.validateKube(); err != nil {
		return err
	}
	if err := checkAdvertise(c.advertise); err != nil {
		return err
	}
	if _, err := c.bucket(os.Getenv); err != nil {
		return err
	}
	if err := checkEndpoint(c.otlpEndpoint); err != nil {
		return err
	}
	if err := c.certs.validate(c.domain); err != nil {
		return err
	}
	if _, err := c.level(); err != nil {
		return err
	}
	if _, err := parseNetworks("--trusted-proxies", c.trustedProxies); err != nil {
		return err
	}
	if _, err := parseNetworks("--proxy-protocol", c.proxyProtocol); err != nil {
		return err
	}
	if _, err := c.destinations(); err != nil {
		return err
	}
	if _, err = c.prefix(); err != nil {
		return err
	}
	_, err = c.prefix6()
	return err
}

func checkAddress(flag, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return cli.Usagef("%s %q is not an address such as 127.0.0.1:4500 or :443", flag, address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return cli.Usagef("%s %q has no port between 0 and 65535", flag, address)
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" && !isDNSName(strings.ToLower(host)) {
		return cli.Usagef("%s %q begins with neither an IP address nor a host name", flag, address)
	}
	return nil
}

// isDNSName reports whether s is labels in lower case with dots between them.
func isDNSName(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if !isDNSLabel(label) {
			return false
		}
	}
	return true
}

func isDNSLabel(s string) bool {
	for i, r := range s {
		inner := i > 0 && i < len(s)-1
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && (r != '-' || !inner) {
			return false
		}
	}
	return s != "" && len(s) <= 63
}

// prefix is the subnet; invalid if none is set. Errors: usage.
func (c *config) prefix() (netip.Prefix, error) {
	if c.subnet == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(c.subnet)
	if err != nil || !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 24 {
		return p, cli.Usagef("--subnet %q is not an IPv4 network of /8 to /24, such as 10.92.0.0/16", c.subnet)
	}
	if p != p.Masked() {
		return p, cli.Usagef("--subnet %q is an address within %v; give the network", c.subnet, p.Masked())
	}
	return p, nil
}

// noIPv6 is the value of --subnet6 that leaves containers without IPv6.
const noIPv6 = "off"

// prefix6 is the subnet of IPv6; invalid if none is set, or none wanted. Errors: usage.
func (c *config) prefix6() (netip.Prefix, error) {
	if c.subnet6 == "" || c.subnet6 == noIPv6 {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(c.subnet6)
	usable := err == nil && p.Addr().Is6() && !p.Addr().Is4In6() && !p.Addr().IsMulticast() && !p.Addr().IsLinkLocalUnicast()
	if !usable || p.Bits() < 8 || p.Bits() > 96 {
		return p, cli.Usagef("--subnet6 %q is neither %s nor an IPv6 network of /8 to /96, such as fd12:3456:789a::/64", c.subnet6, noIPv6)
	}
	if p != p.Masked() {
		return p, cli.Usagef("--subnet6 %q is an address within %v; give the network", c.subnet6, p.Masked())
	}
	return p, nil
}

// destinations are those of --ship-logs. Errors: usage; they do not repeat the value, which may hold a secret.
func (c *config) destinations() ([]ship.Destination, error) {
	list := make([]ship.Destination, len(c.shipLogs))
	for i, text := range c.shipLogs {
		d, err := ship.Parse(text)
		if err != nil {
			return nil, cli.Usagef("--ship-logs, destination %d: %v", i+1, err)
		}
		list[i] = d
	}
	return list, nil
}

// parseNetworks reads the networks that a flag lists. Errors: usage.
func parseNetworks(flag string, list []string) ([]netip.Prefix, error) {
	networks := make([]netip.Prefix, len(list))
	for i, text := range list {
		p, err := trysail.ParseNetwork(text)
		if err != nil {
			return nil, cli.Usagef("%s: %v", flag, err)
		}
		networks[i] = p
	}
	return networks, nil
}

func (c *config) level() (slog.Level, error) {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok := levels[c.logLevel]
	if !ok {
		return 0, cli.Usagef("--log-level must be debug, info, warn or error, not %q", c.logLevel)
	}
	return level, nil
}

// logger makes the server's log.
func (c *config) logger(w io.Writer) (*slog.Logger, error) {
	level, err := c.level()
	if err != nil {
		return nil, err
	}
	options := &slog.HandlerOptions{Level: level}
	if c.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return slog.New(slog.NewTextHandler(w, options)), nil
}

// unknownVariables lists the variables that look like settings of the server and are none: a typo in one would
// otherwise go unnoticed.
func unknownVariables(f *pflag.FlagSet, environ []string) []string {
	known := map[string]bool{"TRYSAIL_CA": true}
	f.VisitAll(func(flag *pflag.Flag) { known[variable(flag.Name)] = true })
	var unknown []string
	for _, kv := range environ {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "TRYSAIL_") && !known[name] {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return unknown
}

// bucket is where layers of pushed images are kept; nil for the disk. Errors: usage.
func (c *config) bucket(getenv func(string) string) (*registry.Bucket, error) {
	if c.registryStorage == "" {
		return nil, nil //nolint:nilnil // the disk needs no settings
	}
	b, err := registry.ParseBucket(c.registryStorage, getenv)
	if err != nil {
		return nil, cli.Usagef("--registry-storage: %v", err)
	}
	return b, nil
}
