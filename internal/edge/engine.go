package edge

import (
	"errors"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/edge/http1"
)

// The engines that move the bytes of HTTP/1.1. HTTP/2 is net/http's with all of them. EngineLoops is EngineHTTP1 with an event loop
// per core for what is simple.
const (
	EngineNetHTTP = "net/http"
	EngineHTTP1   = "http1"
	EngineLoops   = "loops"
)

// Engines are all of them.
func Engines() []string { return []string{EngineNetHTTP, EngineHTTP1, EngineLoops} }

// edgeFields are those that the edge says itself, whatever the client claims.
var edgeFields = http1.Fields(http1.Forwarded, http1.XForwardedFor, http1.XForwardedHost, http1.XForwardedPort, http1.XForwardedProto, http1.XRequestID)

// newEngine makes our own engine for HTTPS. What it cannot do goes to elsewhere.
func (e *Edge) newEngine(elsewhere func(net.Conn)) *http1.Server {
	tlsConfig := e.tlsConfig()
	for _, p := range []string{"http/1.1", "h2"} {
		if !slices.Contains(tlsConfig.NextProtos, p) {
			tlsConfig.NextProtos = append([]string{p}, tlsConfig.NextProtos...)
		}
	}
	loops := 0
	if e.cfg.Engine == EngineLoops {
		loops = min(runtime.NumCPU(), runtime.GOMAXPROCS(0)) // which a limit of the container may have made less
	}
	return http1.NewServer(http1.Config{
		Loops: loops, Handler: e.serve, Malformed: e.malformed, TLS: tlsConfig, Elsewhere: elsewhere,
		HeaderTimeout: e.cfg.HeaderTimeout, IdleTimeout: e.cfg.IdleTimeout, ResponseTimeout: e.cfg.ResponseTimeout, Grace: e.cfg.grace(),
		MaxHeadBytes: e.cfg.MaxHeaderBytes, MaxPodHeadBytes: maxPodHeader, Log: e.log,
	})
}

// clientConn is what is kept for the next request of a connection.
type clientConn struct {
	remote    string // the other end
	addr      string // the same, without port
	from      sender // if no proxies are trusted
	fields    []byte // scratch
	x         exchange
	interrupt func()
	// What host stands for, when the router had made so many changes.
	host    string
	changes uint64
	service *service
	own     bool
}

// lookup finds the service for a Host header, nil if there is none, or says that the name is one of the installation itself.
// Most connections are for one name, so it is looked up once.
func (c *clientConn) lookup(e *Edge, host []byte) (s *service, own bool) {
	changes := e.router.changes.Load()
	if string(host) != c.host || changes != c.changes || c.host == "" {
		c.host, c.changes = string(host), changes
		c.service, c.own = e.router.lookup(c.host), e.ownHandler(c.host) != nil
	}
	return c.service, c.own
}

// connOf returns what is kept of the connection.
func connOf(hx *http1.Exchange) *clientConn {
	c, ok := hx.Local.(*clientConn)
	if !ok {
		c = &clientConn{remote: hx.RemoteAddr().String(), interrupt: hx.Interrupt}
		c.from = senderOf(c.remote, nil, nil)
		if c.addr = c.remote; c.from.peer.IsValid() {
			c.addr = c.from.peer.String()
		}
		hx.Local = c
	}
	return c
}

// passing counts what passes.
type passing struct{ x *exchange }

// Received counts bytes from the client.
func (p passing) Received(n int) { p.x.received(n) }

// Sent counts bytes to the client.
func (p passing) Sent(n int) { p.x.sent(n) }

// serve is what every request goes through that comes by our own engine; handler is its counterpart.
func (e *Edge) serve(hx *http1.Exchange) {
	r := &hx.Request
	c := connOf(hx)
	s, own := c.lookup(e, r.Host)
	switch {
	case own:
		hx.HandOver() // the API and the registry are written for net/http
		return
	case string(r.Path) == "*":
		_ = hx.Respond(http.StatusOK, nil, nil) // asks about the server as a whole, which is us
		return
	}
	x := &c.x // nobody else knows it by now: the last request is over
	*x = exchange{began: time.Now(), service: s, from: c.from, altSvc: e.in.altSvc, tried: x.tried[:0]}
	if len(e.cfg.TrustedProxies) > 0 {
		x.from = senderOf(c.remote, forwardedHeader(r), e.cfg.TrustedProxies)
	}
	if id, n := r.Field(http1.XRequestID); n == 1 && validID(id) {
		x.id = string(id)
	} else {
		x.id = newID()
	}
	hx.Meter = passing{x}
	mode := trysail.RouteNone
	if x.service != nil {
		x.counters.Store(x.service.counters)
		defer func() { finish(e, x, hx.Status(), func() facts[[]byte] { return factsOfOwn(hx) }) }()
		v := x.service.view.Load()
		mode = v.mode
		if x.guard = v.guard; x.guard != nil {
			if no := x.guard.admit(x.from.client, hx.BodyLength(), x.began); no.status != 0 {
				x.failed, x.retry = no.why, no.retry
				x.respondError(hx, no.status)
				return
			}
			defer x.guard.release(x.from.client)
			hx.MaxBody = x.guard.rules.MaxBody
		}
	}
	switch method := string(r.Method); {
	case method == http.MethodConnect, method == http.MethodTrace:
		x.respondError(hx, http.StatusMethodNotAllowed)
	case mode == trysail.RouteServe:
		e.relay(x, hx)
	case mode == trysail.RouteDisabled:
		x.respondError(hx, http.StatusServiceUnavailable)
	default:
		x.respondError(hx, http.StatusNotFound)
	}
}

// relay sends the request to a target of its service and the answer back; forward is its counterpart.
func (e *Edge) relay(x *exchange, hx *http1.Exchange) {
	x.interrupt = connOf(hx).interrupt
	defer x.leave()
	fields := e.requestFields(x, hx)
	err := x.deliver(
		func(t *target) error { return hx.Ask(t.pool, fields, edgeFields) },
		func(err error) bool {
			return !clientsFault(err) && x.repeatable(string(hx.Request.Method), hx.HasBody(), hx.Touched(), err)
		})
	if err != nil {
		e.failed(x, hx, err)
		return
	}
	fields, without := x.responseFields(hx, fields[:0])
	if err := hx.Relay(fields, without); err != nil {
		x.end = whyEnded(err)
	}
}

// requestFields are the lines that tell the pod where a request comes from; rewrite is the counterpart.
func (e *Edge) requestFields(x *exchange, hx *http1.Exchange) []byte {
	c := connOf(hx)
	b := c.fields[:0]
	if len(e.cfg.TrustedProxies) > 0 {
		out := http.Header{}
		setForwarded(out, &http.Request{RemoteAddr: c.remote, Host: string(hx.Request.Host), Header: forwardedHeader(&hx.Request)}, x.from, true, e.in.port)
		b = appendHeader(b, out)
	} else {
		b = append(b, "X-Forwarded-For: "...)
		for i := range hx.Request.Fields {
			if f := &hx.Request.Fields[i]; f.ID == http1.XForwardedFor && !f.HopByHop() {
				b = append(append(b, f.Value...), ", "...)
			}
		}
		b = append(append(b, c.addr...), "\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: "...)
		b = append(append(b, hx.Request.Host...), "\r\nX-Forwarded-Port: "...)
		b = append(append(b, e.in.port...), "\r\n"...)
	}
	c.fields = append(append(append(b, headerRequestID+": "...), x.id...), "\r\n"...)
	return c.fields
}

// forwardedHeader is what the client says about where a request comes from.
func forwardedHeader(r *http1.Request) http.Header {
	h := http.Header{}
	for i := range r.Fields {
		switch f := &r.Fields[i]; f.ID {
		case http1.XForwardedFor, http1.XForwardedHost, http1.XForwardedPort, http1.XForwardedProto:
			if !f.HopByHop() {
				h.Add(string(f.Name), string(f.Value))
			}
		default: // says nothing of that
		}
	}
	return h
}

// responseFields are the lines that the edge adds to a pod's answer, and which of the pod's they replace; addHeaders is the
// counterpart.
func (x *exchange) responseFields(hx *http1.Exchange, b []byte) ([]byte, http1.FieldSet) {
	without := http1.Fields(http1.XRequestID)
	b = append(append(append(b, headerRequestID+": "...), x.id...), "\r\n"...)
	if x.altSvc != "" {
		without |= http1.Fields(http1.AltSvc)
		b = append(append(append(b, "Alt-Svc: "...), x.altSvc...), "\r\n"...)
	}
	if x.guard != nil && x.guard.hsts != "" {
		if _, n := hx.Response.Field(http1.StrictTransportSecurity); n == 0 {
			b = append(append(append(b, "Strict-Transport-Security: "...), x.guard.hsts...), "\r\n"...)
		}
	}
	return b, without
}

func appendHeader(b []byte, h http.Header) []byte {
	for name, values := range h {
		for _, v := range values {
			b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
		}
	}
	return b
}

// failed answers a request that got no answer from a pod; proxyFailed is its counterpart.
func (e *Edge) failed(x *exchange, hx *http1.Exchange, err error) {
	if errors.Is(err, http1.ErrClientLeft) {
		x.end = whyEnded(err)
		return
	}
	status := http.StatusBadGateway
	switch {
	case errors.Is(err, http1.ErrTooLarge):
		status, err = http.StatusRequestEntityTooLarge, errTooLarge
	case errors.Is(err, errNoTarget):
		status = http.StatusServiceUnavailable
	case errors.Is(err, http1.ErrInterrupted):
		err = errCut
	case errors.Is(err, http1.ErrClientStalled):
		status = http.StatusRequestTimeout
	case errors.Is(err, http1.ErrBadBody):
		status = http.StatusBadRequest
	case isTimeout(err):
		status = http.StatusGatewayTimeout
	}
	x.failed = err
	if t := x.current; t != nil && status >= 500 {
		t.logFailure(x.id, status, err)
	}
	x.respondError(hx, status)
}

// clientsFault reports whether no other pod could do better.
func clientsFault(err error) bool {
	return errors.Is(err, http1.ErrClientLeft) || errors.Is(err, http1.ErrClientStalled) || errors.Is(err, http1.ErrBadBody) ||
		errors.Is(err, http1.ErrTooLarge) || errors.Is(err, http1.ErrInterrupted)
}

// whyEnded says why the client did not get the whole answer.
func whyEnded(err error) string {
	switch {
	case errors.Is(err, http1.ErrClientStalled):
		return "client-stalled"
	case errors.Is(err, http1.ErrClientLeft), errors.Is(err, http1.ErrBadBody):
		return "client-left"
	case errors.Is(err, http1.ErrInterrupted):
		return "stopped"
	default:
		return "pod-failed"
	}
}

// factsOfOwn collects what the log tells of a request.
func factsOfOwn(hx *http1.Exchange) facts[[]byte] {
	r := &hx.Request
	f := facts[[]byte]{method: r.Method, host: r.Host, path: r.EscapedPath(), query: r.Query, protocol: "HTTP/1.1"}
	if r.Minor == 0 {
		f.protocol = "HTTP/1.0"
	}
	f.remote = connOf(hx).remote
	f.agent, _ = r.Field(http1.UserAgent)
	f.referer, _ = r.Field(http1.Referer)
	if state := hx.TLS(); state != nil {
		f.tls = state.Version
	}
	return f
}

// malformed answers what is not a request.
func (e *Edge) malformed(hx *http1.Exchange, status int) {
	x := &exchange{id: newID(), altSvc: e.in.altSvc}
	x.respondError(hx, status)
}

// respondError is writeError for our own engine.
func (x *exchange) respondError(hx *http1.Exchange, status int) {
	h := http.Header{}
	page, contentType := x.errorAnswer(h, status)
	h.Set("Content-Type", contentType)
	x.addHeaders(h)
	_ = hx.Respond(status, appendHeader(nil, h), []byte(page)) // the client may be gone
}

// handoff is a listener for connections that were accepted by somebody else.
type handoff struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

func newHandoff(addr net.Addr) *handoff {
	h := &handoff{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
	h.close = sync.OnceFunc(func() { close(h.closed) })
	return h
}

// give hands a connection over, or closes it if nobody takes any more.
func (h *handoff) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.closed:
		c.Close()
	}
}

// Accept waits for a connection.
func (h *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (h *handoff) Close() error {
	h.close()
	return nil
}

// Addr is where the connections come in.
func (h *handoff) Addr() net.Addr { return h.addr }
