package edge

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"slices"
	"time"
)

// ownBody and ownAnswer are how long a client may take to send the body of a request to the installation itself, and to take
// the answer. Handlers that need more, such as uploads, say so themselves.
const (
	ownBody   = time.Minute
	ownAnswer = 2 * time.Minute
)

// challengeProtocol is what certificate authorities speak to validate a name by TLS (RFC 8737).
const challengeProtocol = "acme-tls/1"

// ServeOwn makes the edge answer under names of the installation itself, such as that of the API. Their requests go to the
// handler as they came, with the client as their RemoteAddr where a trusted proxy speaks for it (its port is 0 then: it is not
// known). Own names go before those of services.
func (e *Edge) ServeOwn(handlers map[string]http.Handler) {
	e.own.Store(&handlers)
	e.router.changes.Add(1)
}

// ownHandler finds the handler for a Host header, nil if it is not one of the installation's own names.
func (e *Edge) ownHandler(host string) http.Handler {
	own := e.own.Load()
	if own == nil || len(*own) == 0 {
		return nil
	}
	name, ok := hostname(host)
	if !ok {
		return nil
	}
	return (*own)[name]
}

// ownFirst hands requests for the installation itself to its handlers, and all others to next.
func (e *Edge) ownFirst(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := e.ownHandler(r.Host)
		if h == nil {
			next.ServeHTTP(w, r)
			return
		}
		rc := http.NewResponseController(w)
		_ = rc.SetReadDeadline(time.Now().Add(ownBody))
		_ = rc.SetWriteDeadline(time.Now().Add(ownAnswer))
		if from := senderOf(r.RemoteAddr, r.Header, e.cfg.TrustedProxies); from.proxied {
			r = r.WithContext(r.Context()) // a copy
			r.RemoteAddr = netip.AddrPortFrom(from.client, 0).String()
		}
		h.ServeHTTP(w, r)
	})
}

// tlsConfig is how the edge speaks TLS: 1.3, and 1.2 with forward secrecy and authenticated encryption only, as in Mozilla's
// "intermediate"; HTTP/2 and HTTP/1.1. Which suite of 1.3, and which group for the key exchange, is Go's choice.
func (e *Edge) tlsConfig() *tls.Config {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		GetCertificate: e.getCertificate,
	}
	if e.cfg.Certificate != nil {
		cfg.NextProtos = []string{"h2", "http/1.1", challengeProtocol}
	}
	return cfg
}

// getCertificate chooses the certificate for a connection: the one that an authority gave for the name, or else one of the
// local CA for a default domain, an own name or a host that has a route. Other names are refused with the alert made for it,
// rather than signed for on a stranger's demand. A client that sends no name (it came by address) gets the certificate of
// the bare domain.
func (e *Edge) getCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if e.cfg.Certificate != nil && hello.ServerName != "" {
		cert, err := e.cfg.Certificate(hello)
		if err == nil && cert != nil {
			return cert, nil
		}
		if err != nil && slices.Contains(hello.SupportedProtos, challengeProtocol) {
			return nil, err
		}
		if err != nil {
			e.log.Warn("a certificate cannot be used", "host", hello.ServerName, "error", err)
		}
	}
	if hello.ServerName == "" {
		return e.ca.certificate(e.cfg.Domain, "127.0.0.1", "::1")
	}
	name, ok := hostname(hello.ServerName)
	if !ok || !e.serves(name) || !e.ca.mayVouch(name) {
		return nil, nil // crypto/tls sends unrecognized_name
	}
	return e.ca.forService(name)
}

// serves reports whether the edge answers HTTPS under the name.
func (e *Edge) serves(name string) bool {
	switch {
	case e.router.lookup(name) != nil, e.ownHandler(name) != nil:
		return true
	case e.ca.permits(name):
		return name == e.cfg.Domain || inDomain(name, "cs."+e.cfg.Domain)
	}
	return false
}
