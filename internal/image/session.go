package image

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// The bounds of a conversation with a registry.
const (
	dialTimeout    = 5 * time.Second
	tlsTimeout     = 5 * time.Second
	answerTimeout  = 30 * time.Second // from the request to the header of the answer; caches fetch what is asked of them first
	idleTimeout    = 15 * time.Second // for which a connection is kept for the next Resolve
	retryPause     = 50 * time.Millisecond
	maxAnswer      = 4 << 20  // bytes of a manifest, configuration or tag list; containerd takes 8 MiB
	maxErrorAnswer = 32 << 10 // bytes read of an answer that is an error
	maxHeader      = 64 << 10 // bytes
	// maxRequests bounds one Resolve, redirects included. Docker Hub needs 6.
	maxRequests = 20
)

var (
	errTooLarge  = errors.New("the answer is larger than 4 MiB")
	errManyTurns = errors.New("it redirects without end")
	errPlainHTTP = errors.New("it redirects to plain HTTP, where anybody on the way could change the image")
)

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:    tlsTimeout,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		ResponseHeaderTimeout:  answerTimeout,
		IdleConnTimeout:        idleTimeout,
		MaxIdleConnsPerHost:    maxFetches,
		MaxResponseHeaderBytes: maxHeader,
		ForceAttemptHTTP2:      true,
	}
}

// stage is how far a request came; it tells a registry that hangs from one that cannot be reached.
type stage int32

const (
	stageStart stage = iota
	stageDNS
	stageDial
	stageTLS
	stageConnected
)

// session is the conversation of one query with a registry and what it redirects to. It keeps to the bounds above, to
// HTTPS unless the registry is on this machine, and to one retry. Its requests come one after the other.
type session struct {
	transport *http.Transport
	registry  string // host[:port]
	local     bool   // the registry is on this machine
	plain     bool   // the operator allows plain HTTP
	large     bool   // the answers are blobs: who reads them bounds them
	userAgent string

	scheme        string      // empty until it is known what a registry on this machine speaks
	authorization string      // sent to the registry only
	requests      int         // so far
	retried       bool        // the one retry is used up
	challenge     http.Header // of the last 401
	header        http.Header // of the last answer
	host          string      // host[:port] of the last request: redirects lead elsewhere
	proxy         string      // host of the proxy of the last request
	stage         atomic.Int32
}

func newSession(t *http.Transport, registry, version string) *session {
	s := &session{transport: t, registry: registry, local: isLoopback(registry), userAgent: "trysail/" + cmp.Or(version, "devel")}
	if !s.local {
		s.scheme = "https"
	}
	return s
}

// isLoopback is true for localhost and the addresses that never leave this machine.
func isLoopback(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.IsLoopback()
}

// RoundTrip makes session the transport of the registry library.
func (s *session) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := s.send(req)
	if isCut(err) && !s.retried && req.Body == nil && wait(req.Context(), retryPause) {
		s.retried = true
		resp, err = s.send(req)
	}
	if err != nil {
		return nil, err
	}
	s.header = resp.Header
	if resp.StatusCode == http.StatusUnauthorized && req.URL.Host == s.registry {
		s.challenge = resp.Header
	}
	if s.large && resp.StatusCode < http.StatusBadRequest {
		return resp, nil
	}
	if err := limitBody(resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// send chooses between http and https.
func (s *session) send(req *http.Request) (*http.Response, error) {
	if req.URL.Host != s.registry {
		if req.URL.Scheme != "https" && !s.plain && !isLoopback(req.URL.Host) {
			return nil, closing(req, errPlainHTTP)
		}
		return s.once(req, req.URL.Scheme)
	}
	if s.scheme != "" {
		return s.once(req, s.scheme)
	}
	// Nearly all registries on the same machine speak plain HTTP. One that speaks TLS answers 400 or cuts us off.
	s.scheme = "http"
	resp, err := s.once(req, "http")
	switch {
	case err != nil && (stage(s.stage.Load()) < stageConnected || req.Context().Err() != nil || req.Body != nil):
		return nil, err
	case err == nil && resp.StatusCode != http.StatusBadRequest:
		return resp, nil
	}
	secure, secureErr := s.once(req, "https")
	if secureErr == nil || isCertificate(secureErr) {
		if resp != nil {
			resp.Body.Close()
		}
		s.scheme = "https"
		return secure, secureErr
	}
	return resp, err
}

// once sends a request one time.
func (s *session) once(req *http.Request, scheme string) (*http.Response, error) {
	if s.requests++; s.requests > maxRequests {
		return nil, closing(req, errManyTurns)
	}
	s.stage.Store(int32(stageStart))
	req = req.Clone(httptrace.WithClientTrace(req.Context(), s.trace()))
	req.URL.Scheme = scheme
	req.Header.Set("User-Agent", s.userAgent)
	// The token service may be the same host: its requests carry a login of their own.
	if s.authorization != "" && req.URL.Host == s.registry && req.Header.Get("Authorization") == "" {
		req.Header.Set("Authorization", s.authorization)
	}
	s.host, s.proxy = req.URL.Host, ""
	if s.transport.Proxy != nil {
		if u, err := s.transport.Proxy(req); err == nil && u != nil {
			s.proxy = u.Host // without its user and password
		}
	}
	return s.transport.RoundTrip(req)
}

// trace notes how far a request comes. It is called by other goroutines, too.
func (s *session) trace() *httptrace.ClientTrace {
	at := func(to stage) { s.stage.Store(int32(to)) }
	return &httptrace.ClientTrace{
		DNSStart:          func(httptrace.DNSStartInfo) { at(stageDNS) },
		ConnectStart:      func(string, string) { at(stageDial) },
		TLSHandshakeStart: func() { at(stageTLS) },
		GotConn:           func(httptrace.GotConnInfo) { at(stageConnected) },
	}
}

// closing closes the body of a request that is not sent, as a RoundTripper must.
func closing(req *http.Request, err error) error {
	if req.Body != nil {
		req.Body.Close()
	}
	return err
}

// isCut is true if the connection was cut before an answer.
func isCut(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// wait returns false if ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// limitBody refuses an answer that is too large: before reading it if it says so, else while reading it. What exceeds
// the limit of an error answer is left out, because it is the status that counts.
func limitBody(resp *http.Response) error {
	if resp.StatusCode >= http.StatusBadRequest {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxErrorAnswer), resp.Body}
		return nil
	}
	if resp.ContentLength > maxAnswer {
		return errTooLarge
	}
	resp.Body = &limitedBody{ReadCloser: resp.Body, left: maxAnswer}
	return nil
}

// limitedBody fails when more than left bytes come.
type limitedBody struct {
	io.ReadCloser
	left int64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}
