package edge

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/trysail/trysail"
)

const (
	// probeAgent is what AWS load balancers call themselves; applications let it past host checks and logins.
	probeAgent = "ELB-HealthChecker/2.0"
	// probeBody is how much of an answer's body is kept.
	probeBody = 300
	// probeRest is how much of the body is read beyond that, so that the application does not see the connection break
	// in the middle of an ordinary page; probeBodyWait bounds the time for it, as the outcome is known by then.
	probeRest     = 1 << 20
	probeBodyWait = 250 * time.Millisecond
	// probeHeader bounds the header of an answer.
	probeHeader = 64 << 10
	// probeHead is how many bytes of something that is not HTTP are shown.
	probeHead = 60
)

// dialFunc is net.Dialer.DialContext or a stand-in for it.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// asker makes the health checks of one address. It speaks HTTP on the bare connection, because what a wrong
// application says instead of HTTP is worth knowing and http.Client hides it.
type asker struct {
	addr netip.AddrPort
	tls  bool
	dial dialFunc
}

// notHTTPError is an answer that is something else.
type notHTTPError struct{ head []byte }

func (e *notHTTPError) Error() string {
	return "not HTTP: " + strconv.QuoteToASCII(string(e.head))
}

// question is what is asked for: the health check's own request, or a variation of it.
type question struct {
	path  string
	host  string // the Host header; empty: the address
	proto string // X-Forwarded-Proto; empty: none
}

// probe asks once. It takes at most the check's timeout.
func (a *asker) probe(ctx context.Context, s *probeSettings) trysail.Probe {
	return a.ask(ctx, question{path: s.check.Path}, s.timeout(), s.codes)
}

// ask asks once and takes at most timeout.
func (a *asker) ask(ctx context.Context, q question, timeout time.Duration, success codes) trysail.Probe {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	p := trysail.Probe{At: start}
	if err := a.exchange(ctx, q, start.Add(timeout), &p); err != nil {
		p.Error = probeError(err, int(timeout/time.Second))
	}
	p.OK = p.Error == "" && success.match(p.Status)
	p.Took = time.Since(start)
	return p
}

// exchange sends the request and fills p from the answer.
func (a *asker) exchange(ctx context.Context, q question, deadline time.Time, p *trysail.Probe) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	// When the target is forgotten the prober must not stay for the timeout.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	req := &http.Request{
		Method: http.MethodGet,
		URL:    probeURL(q.path),
		Host:   cmp.Or(q.host, a.addr.String()),
		Header: http.Header{"User-Agent": {probeAgent}},
		Close:  true,
	}
	if q.proto != "" {
		req.Header.Set("X-Forwarded-Proto", q.proto)
	}
	// An application that answers without reading may have closed already: its answer counts, not the failed write.
	writeErr := req.Write(conn)
	res, err := readAnswer(conn, req)
	if err != nil {
		if writeErr != nil && !isNotHTTP(err) {
			return writeErr
		}
		return err
	}
	defer res.Body.Close()
	p.Status = res.StatusCode
	p.Location = res.Header.Get("Location")
	if until := time.Now().Add(probeBodyWait); until.Before(deadline) {
		_ = conn.SetReadDeadline(until) // if it fails, the deadline of before holds
	}
	p.Body = readBody(res.Body)
	return nil
}

func (a *asker) connect(ctx context.Context) (net.Conn, error) {
	conn, err := a.dial(ctx, "tcp", a.addr.String())
	if err != nil || !a.tls {
		return conn, err
	}
	secure := tls.Client(conn, podTLS())
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}

// probeURL never fails: a path that is not one is escaped, so that it cannot break out of the request line.
func probeURL(path string) *url.URL {
	if u, err := url.ParseRequestURI(path); err == nil && u.Host == "" && strings.HasPrefix(path, "/") {
		return u
	}
	return &url.URL{Path: "/" + strings.TrimPrefix(path, "/")}
}

// readAnswer reads the header of the final answer.
func readAnswer(conn net.Conn, req *http.Request) (*http.Response, error) {
	limited := &io.LimitedReader{R: conn, N: probeHeader}
	br := bufio.NewReader(limited)
	head, err := br.Peek(len("HTTP/"))
	if len(head) > 0 && !strings.HasPrefix("HTTP/", string(head)) {
		head, _ = br.Peek(min(br.Buffered(), probeHead))
		return nil, &notHTTPError{head}
	}
	if err != nil {
		return nil, err
	}
	for range 10 { // 100 Continue, 103 Early Hints: a few are legal, more are not worth waiting for
		res, err := http.ReadResponse(br, req)
		if limited.N <= 0 {
			return nil, errors.New("the header of the answer is too long")
		}
		if err != nil {
			return nil, fmt.Errorf("malformed answer: %w", err)
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			limited.N = probeBody + probeRest
			return res, nil
		}
	}
	return nil, errors.New("only 1xx answers")
}

// readBody returns the first bytes of the body as valid UTF-8 and reads on to its end within limits.
func readBody(body io.Reader) string {
	buf := make([]byte, probeBody)
	n, err := io.ReadFull(body, buf)
	if err == nil {
		_, _ = io.CopyN(io.Discard, body, probeRest)
	}
	text := strings.ToValidUTF8(string(buf[:n]), "\uFFFD")
	for len(text) > probeBody { // replacing makes it longer
		text = strings.ToValidUTF8(text[:probeBody], "")
	}
	return text
}

func isNotHTTP(err error) bool {
	_, ok := errors.AsType[*notHTTPError](err)
	return ok
}

// probeError puts into words why there was no answer. The words are part of what a diagnosis reads:
// "connection refused", "connection reset", "timed out after Ns", "no route to host", "network is unreachable",
// "closed without an answer", "broke off in the middle of the answer", "malformed answer: …", "not HTTP: …", "not TLS: …", "TLS handshake: …".
func probeError(err error, timeoutSeconds int) string {
	record, isRecord := errors.AsType[tls.RecordHeaderError](err)
	alert, isAlert := errors.AsType[tls.AlertError](err)
	op, isOp := errors.AsType[*net.OpError](err)
	switch {
	case isOp && op.Op == "dial" && isTimeout(err):
		return fmt.Sprintf("no connection within %ds", timeoutSeconds)
	case isTimeout(err):
		return fmt.Sprintf("timed out after %ds", timeoutSeconds)
	case isRecord:
		return "not TLS: " + strconv.QuoteToASCII(string(record.RecordHeader[:]))
	case isAlert:
		return "TLS handshake: " + alert.Error()
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, syscall.EHOSTUNREACH):
		return "no route to host"
	case errors.Is(err, syscall.ENETUNREACH):
		return "network is unreachable"
	case errors.Is(err, io.EOF):
		return "closed without an answer"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "broke off in the middle of the answer"
	case isOp:
		return op.Err.Error()
	default:
		return err.Error()
	}
}

func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}
