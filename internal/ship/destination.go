package ship

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Destination is where lines are sent.
type Destination struct {
	scheme string // syslog+udp, syslog+tcp, syslog+tls, otlp+http or otlp+https
	addr   string // host:port
	path   string // of OTLP

	ca, cert, key string // files
	headers       string // file
	facility      int
	max           int  // bytes of a syslog message
	plain         bool // no compression
}

// The limits of a syslog message in bytes, unless told otherwise. Receivers must take 2,048 over UDP; over TCP most take
// 8 KB.
const (
	maxDatagram = 2048
	maxMessage  = 8192
	minMessage  = 1024
)

// String is the destination without its options. It has nothing secret in it.
func (d Destination) String() string { return d.scheme + "://" + d.addr + d.path }

var facilities = []string{
	"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp", "audit", "alert",
	"clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
}

// options are the parameters that a scheme has.
func options(scheme string) []string {
	switch scheme {
	case "syslog+udp", "syslog+tcp":
		return []string{"facility", "max"}
	case "syslog+tls":
		return []string{"facility", "max", "ca", "cert", "key"}
	case "otlp+http":
		return []string{"headers", "compression"}
	default:
		return []string{"headers", "compression", "ca", "cert", "key"}
	}
}

// Parse reads a destination such as
//
//	syslog+tls://logs.example.com:6514?ca=/etc/ssl/logs.pem
//	syslog+tcp://10.0.0.5:514?facility=local3
//	syslog+udp://10.0.0.5
//	otlp+https://otlp.example.com:4318?headers=/etc/trysail/otlp-headers
//
// and checks the files that it names. Errors: one sentence for the user.
func Parse(text string) (Destination, error) {
	u, err := url.Parse(text)
	if err != nil {
		return Destination{}, errors.New("it is not a URL") // the error would repeat what may be a secret
	}
	d := Destination{scheme: u.Scheme, max: maxMessage, facility: 16}
	port := ""
	switch u.Scheme {
	case "syslog+udp":
		port, d.max = "514", maxDatagram
	case "syslog+tcp":
		port = "514"
	case "syslog+tls":
		port = "6514"
	case "otlp+http", "otlp+https":
		port, d.path = "4318", strings.TrimRight(u.EscapedPath(), "/")
		if !strings.HasSuffix(d.path, "/v1/logs") {
			d.path += "/v1/logs"
		}
	default:
		return Destination{}, errors.New("it must begin with syslog+udp://, syslog+tcp://, syslog+tls://, otlp+http:// or otlp+https://")
	}
	switch {
	case u.User != nil:
		return Destination{}, errors.New("it has a user or a password in it, which every user of this machine could see; put the header into a file and name that with ?headers=FILE")
	case u.Hostname() == "":
		return Destination{}, errors.New("it names no host")
	case d.path == "" && u.Path != "" && u.Path != "/":
		return Destination{}, fmt.Errorf("%s has no use for the path %s", u.Scheme, u.Path)
	}
	if p := u.Port(); p != "" {
		port = p
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return Destination{}, fmt.Errorf("its port %q is not one from 1 to 65535", port)
	}
	d.addr = net.JoinHostPort(u.Hostname(), port)
	return d, d.set(u.RawQuery)
}

// set takes the options.
func (d *Destination) set(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("its options cannot be read")
	}
	for name, v := range values {
		known := false
		for _, o := range options(d.scheme) {
			known = known || o == name
		}
		if !known || len(v) != 1 {
			return fmt.Errorf("%s does not have the option %q; it has %s, each once", d.scheme, name, strings.Join(options(d.scheme), ", "))
		}
	}
	d.ca, d.cert, d.key, d.headers = values.Get("ca"), values.Get("cert"), values.Get("key"), values.Get("headers")
	if name := values.Get("facility"); name != "" {
		if d.facility = indexOf(facilities, name); d.facility < 0 {
			return fmt.Errorf("%q is not a syslog facility, such as local0 or daemon", name)
		}
	}
	if text := values.Get("max"); text != "" {
		if d.max, err = strconv.Atoi(text); err != nil || d.max < minMessage || d.max > 1<<20 || d.scheme == "syslog+udp" && d.max > 65_000 {
			return fmt.Errorf("max=%s is not a size from %d to 1048576 bytes (65000 over UDP)", text, minMessage)
		}
	}
	switch values.Get("compression") {
	case "", "gzip":
	case "none":
		d.plain = true
	default:
		return errors.New("compression must be gzip or none")
	}
	if (d.cert == "") != (d.key == "") {
		return errors.New("cert and key go together")
	}
	if _, err := d.tls(); err != nil {
		return err
	}
	_, err = d.readHeaders()
	return err
}

func indexOf(list []string, s string) int {
	for i, e := range list {
		if e == s {
			return i
		}
	}
	return -1
}

// tls is how to speak TLS to the destination.
func (d *Destination) tls() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if d.ca != "" {
		pem, err := os.ReadFile(d.ca)
		if err != nil {
			return nil, fmt.Errorf("reading the CA: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", d.ca)
		}
	}
	if d.cert != "" {
		pair, err := tls.LoadX509KeyPair(d.cert, d.key)
		if err != nil {
			return nil, fmt.Errorf("reading the client certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// maxHeaders bounds the file of headers, in bytes.
const maxHeaders = 64 << 10

// readHeaders reads the file of headers, which has one "Name: value" per line. Its errors do not repeat what is in it.
func (d *Destination) readHeaders() (http.Header, error) {
	h := http.Header{}
	if d.headers == "" {
		return h, nil
	}
	info, err := os.Stat(d.headers)
	if err != nil {
		return nil, fmt.Errorf("reading the headers: %w", err)
	}
	switch {
	case info.Size() > maxHeaders:
		return nil, fmt.Errorf("%s is larger than %d bytes", d.headers, maxHeaders)
	case info.Mode().Perm()&0o007 != 0:
		return nil, fmt.Errorf("everybody may read or change %s; forbid it with: chmod 600 %s", d.headers, d.headers)
	}
	text, err := os.ReadFile(d.headers)
	if err != nil {
		return nil, fmt.Errorf("reading the headers: %w", err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return nil, fmt.Errorf("line %d of %s is not a header in the form Name: value", n, d.headers)
		}
		h.Add(name, value)
	}
	return h, nil
}
