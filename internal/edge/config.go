package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Config is what an Edge is made from. A zero field means its default.
type Config struct {
	// Dir is the folder of the local CA. It is made if it is missing. Required.
	Dir string
	// Domain is the base of the default domains <service>.<label>.<region>.cs.<domain>. Default "localhost".
	Domain string
	// Names are further DNS names, beside Domain and localhost, that the local CA may sign for: those under which the
	// API is reached. They are written into the root when it is made; later additions need a new root.
	Names []string
	// Certificate returns the certificate that an authority gave for the name of a handshake, nil if there is none. Nil: the
	// local CA signs for everything.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Challenge answers what certificate authorities ask over plain HTTP, and reports whether a request was that.
	Challenge func(http.ResponseWriter, *http.Request) bool
	// HTTPAddr is where plain HTTP is redirected to HTTPS. Default ":80".
	HTTPAddr string
	// HTTPSAddr is where the services are served. Default ":443".
	HTTPSAddr string
	// Listen makes the listeners of both: flag is what the address came from, --http or --https. Nil: new ones are made.
	Listen func(ctx context.Context, flag, address string) (net.Listener, error)

	// AccessLog takes the line of a request that ended at a time, of a service whose route asks for it: JSON without a
	// newline. It must not wait, and not keep the line. Nil means that there are no access logs.
	AccessLog func(serviceID string, at time.Time, line []byte)

	// TrustedProxies are the networks of proxies whose X-Forwarded-For, -Proto, -Host and -Port are believed and passed on.
	// Those of others are replaced. If there are none, a client's X-Forwarded-For is kept and appended to, and never believed.
	TrustedProxies []netip.Prefix
	// ProxyProtocol are the networks of load balancers that begin each connection with a PROXY protocol header, version 1 or
	// 2. From them it is required, others cannot use it.
	ProxyProtocol []netip.Prefix
	// HTTP3 serves HTTP/3 as well, on the UDP port with the number of HTTPSAddr's.
	HTTP3 bool
	// Engine moves the bytes of HTTP/1.1: one of Engines. Default EngineLoops.
	Engine string

	// HeaderTimeout bounds the TLS handshake and, on its own, the header of a request. Default 10 s.
	HeaderTimeout time.Duration
	// IdleTimeout is how long a client may keep a connection open without a request, take for the next bytes of a
	// request body, or leave the bytes of an answer unread. It does not bound a request as a whole, nor an answer or a
	// WebSocket that is quiet because the pod is. Default 60 s, as AWS load balancers have it.
	IdleTimeout time.Duration
	// ResponseTimeout is how long a pod may take from the end of a request to the header of its answer; then the
	// client gets 504. Default 60 s.
	ResponseTimeout time.Duration
	// DialTimeout bounds connecting to a pod, before another one is tried. Default 3 s.
	DialTimeout time.Duration

	// MaxHeaderBytes bounds the header of a request. Default 64 KiB.
	MaxHeaderBytes int
	// MaxConnections is how many clients may be connected at once, per listener; more are disconnected at once.
	// An idle HTTPS connection costs about 40 KB. Default 10,000.
	MaxConnections int
	// MaxConnectionsPerClient is how many of them one client address (IPv6: one /64) may have, so that one client
	// alone cannot shut out the others. Loopback is exempt. Default a quarter of MaxConnections.
	MaxConnectionsPerClient int
	// MaxStreams is how many requests a client may have under way on one HTTP/2 connection. Default 250.
	MaxStreams int
}

// withDefaults returns c with every zero field set.
func (c Config) withDefaults() Config {
	setDefault(&c.Domain, "localhost")
	setDefault(&c.HTTPAddr, ":80")
	setDefault(&c.HTTPSAddr, ":443")
	setDefault(&c.Engine, EngineLoops)
	setDefault(&c.HeaderTimeout, 10*time.Second)
	setDefault(&c.IdleTimeout, time.Minute)
	setDefault(&c.ResponseTimeout, time.Minute)
	setDefault(&c.DialTimeout, 3*time.Second)
	setDefault(&c.MaxHeaderBytes, 64<<10)
	setDefault(&c.MaxConnections, 10_000)
	setDefault(&c.MaxConnectionsPerClient, max(1, c.MaxConnections/4))
	setDefault(&c.MaxStreams, 250)
	return c
}

// grace is how long a client may take to send the rest of a body that nobody wants, after it was answered.
func (c *Config) grace() time.Duration { return min(5*time.Second, c.IdleTimeout) }

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Validate reports the first field that New would not accept.
func (c Config) Validate() error {
	c = c.withDefaults()
	if c.Dir == "" {
		return errors.New("edge: no folder for the local CA")
	}
	if name, ok := hostname(c.Domain); !ok || name != c.Domain {
		return fmt.Errorf("domain %q is not a DNS name in lower case", c.Domain)
	}
	for _, name := range c.Names {
		if n, ok := hostname(name); !ok || n != name {
			return fmt.Errorf("name %q is not a DNS name in lower case", name)
		}
	}
	if _, _, err := net.SplitHostPort(c.HTTPAddr); err != nil {
		return fmt.Errorf("--http %q is not an address such as :80: %w", c.HTTPAddr, err)
	}
	if _, _, err := net.SplitHostPort(c.HTTPSAddr); err != nil {
		return fmt.Errorf("--https %q is not an address such as :443: %w", c.HTTPSAddr, err)
	}
	if !slices.Contains(Engines(), c.Engine) {
		return fmt.Errorf("--edge-engine %q is none of %s", c.Engine, strings.Join(Engines(), ", "))
	}
	if min(c.HeaderTimeout, c.IdleTimeout, c.ResponseTimeout, c.DialTimeout) < 0 {
		return errors.New("edge: a timeout is negative")
	}
	if min(c.MaxHeaderBytes, c.MaxConnections, c.MaxConnectionsPerClient, c.MaxStreams) < 0 {
		return errors.New("edge: a limit is negative")
	}
	return nil
}
