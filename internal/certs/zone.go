package certs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Zone writes TXT records. Names are in full, without a dot at the end.
type Zone interface {
	// SetTXT adds a record; others of the name stay.
	SetTXT(ctx context.Context, name, value string) error
	// DeleteTXT takes it away again. That it is not there is no error.
	DeleteTXT(ctx context.Context, name, value string) error
}

// recordTTL is how long resolvers may keep a record, in seconds. Few providers allow less.
const recordTTL = 60

// Providers are the names of those that OpenZone knows.
func Providers() []string { return []string{"cloudflare", "hetzner", "rfc2136"} }

// OpenZone makes the writer of a zone from a provider's name and its settings.
func OpenZone(provider, zone string, settings map[string]string) (Zone, error) {
	need := map[string][]string{"cloudflare": {"token"}, "hetzner": {"token"}, "rfc2136": {"server"}}[provider]
	allowed := append(slices.Clone(need), map[string][]string{"rfc2136": {"key-name", "key", "key-algorithm"}, "cloudflare": {"endpoint"}, "hetzner": {"endpoint"}}[provider]...)
	if need == nil {
		return nil, fmt.Errorf("DNS provider %q is unknown; it must be one of: %s", provider, strings.Join(Providers(), ", "))
	}
	for _, name := range need {
		if settings[name] == "" {
			return nil, fmt.Errorf("the settings of DNS provider %s lack %q", provider, name)
		}
	}
	for name := range settings {
		if !slices.Contains(allowed, name) {
			return nil, fmt.Errorf("DNS provider %s has no setting %q; it has: %s", provider, name, strings.Join(allowed, ", "))
		}
	}
	client := &http.Client{Timeout: 30 * time.Second}
	switch provider {
	case "cloudflare":
		return &cloudflare{zone: zone, token: settings["token"], endpoint: or(settings["endpoint"], "https://api.cloudflare.com/client/v4"), client: client}, nil
	case "hetzner":
		return &hetzner{zone: zone, token: settings["token"], endpoint: or(settings["endpoint"], "https://api.hetzner.cloud/v1"), client: client}, nil
	}
	return newUpdater(zone, settings)
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// maxSettings bounds a file of settings.
const maxSettings = 64 << 10

// ReadSettings reads a file of lines "name = value". Empty lines and those that begin with # do not count. A file that
// others may read is refused, because it holds secrets.
func ReadSettings(path string) (map[string]string, error) {
	f, err := OpenSecret(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	settings := map[string]string{}
	for lines := bufio.NewScanner(io.LimitReader(f, maxSettings)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("reading %s: a line is not of the form name = value", path) // it may be a secret, so it is not shown
		}
		settings[strings.TrimSpace(name)] = strings.Trim(strings.TrimSpace(value), `"`)
	}
	return settings, nil
}

// OpenSecret opens a file that holds secrets. One that others may read is refused.
func OpenSecret(path string) (*os.File, error) {
	f, err := os.Open(path) //nolint:gosec // the path is configuration
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		err = fmt.Errorf("others may read %s, and it holds secrets: chmod 600 %s", path, path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// updater writes by dynamic updates (RFC 2136), signed with a shared key (RFC 8945).
type updater struct {
	zone, server            string
	keyName, key, algorithm string
}

func newUpdater(zone string, settings map[string]string) (*updater, error) {
	u := &updater{zone: dns.Fqdn(zone), server: settings["server"], key: settings["key"], algorithm: dns.HmacSHA256}
	if _, _, err := net.SplitHostPort(u.server); err != nil {
		u.server = net.JoinHostPort(strings.Trim(u.server, "[]"), "53")
	}
	if (u.key == "") != (settings["key-name"] == "") {
		return nil, errors.New(`DNS provider rfc2136 needs "key-name" and "key" together`)
	}
	if u.key != "" {
		u.keyName = dns.CanonicalName(settings["key-name"])
	}
	if a := settings["key-algorithm"]; a != "" {
		u.algorithm = dns.Fqdn(strings.ToLower(a))
		if !slices.Contains([]string{dns.HmacSHA1, dns.HmacSHA224, dns.HmacSHA256, dns.HmacSHA384, dns.HmacSHA512}, u.algorithm) {
			return nil, fmt.Errorf("key algorithm %q is unknown; use hmac-sha256 or hmac-sha512", a)
		}
	}
	return u, nil
}

func (u *updater) SetTXT(ctx context.Context, name, value string) error {
	return u.update(ctx, name, func(m *dns.Msg) { m.Insert([]dns.RR{textRecord(name, value)}) })
}

func (u *updater) DeleteTXT(ctx context.Context, name, value string) error {
	return u.update(ctx, name, func(m *dns.Msg) { m.Remove([]dns.RR{textRecord(name, value)}) })
}

func textRecord(name, value string) dns.RR {
	return &dns.TXT{Hdr: dns.RR_Header{Name: dns.Fqdn(name), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: recordTTL}, Txt: []string{value}}
}

func (u *updater) update(ctx context.Context, name string, change func(*dns.Msg)) error {
	m := new(dns.Msg)
	m.SetUpdate(u.zone)
	change(m)
	client := &dns.Client{Net: "tcp", Timeout: 10 * time.Second}
	if u.key != "" {
		m.SetTsig(u.keyName, u.algorithm, 300, time.Now().Unix())
		client.TsigSecret = map[string]string{u.keyName: u.key}
	}
	reply, _, err := client.ExchangeContext(ctx, m, u.server)
	if err != nil {
		return fmt.Errorf("updating %s at %s: %w", name, u.server, err)
	}
	if reply.Rcode != dns.RcodeSuccess {
		return fmt.Errorf("updating %s at %s: it answers %s", name, u.server, dns.RcodeToString[reply.Rcode])
	}
	return nil
}
