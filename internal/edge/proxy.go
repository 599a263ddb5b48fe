package edge

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
)

// copyBuffer is how much of a body is moved at once.
const copyBuffer = 32 << 10

// newProxy makes the reverse proxy that forward uses.
func newProxy(e *Edge) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:    balancer{},
		Rewrite:      e.rewrite,
		ErrorHandler: e.proxyFailed,
		ModifyResponse: func(res *http.Response) error {
			// What a pod says about it is not what is in the log.
			res.Header[headerRequestID] = []string{exchangeOf(res.Request.Context()).id}
			return nil
		},
		FlushInterval: -1, // what the pod sends is on its way at once
		BufferPool:    &bufferPool{},
		ErrorLog:      slog.NewLogLogger(e.log.Handler(), slog.LevelDebug),
	}
}

// forward sends the request to a target of its service and the answer back.
func (e *Edge) forward(x *exchange, r *http.Request) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	x.interrupt = func() {
		cancel(errCut)
		x.client.interrupt()
	}
	defer x.leave()
	r = r.WithContext(context.WithValue(ctx, exchangeKey{}, x))
	if r.ProtoMajor == 3 && r.ContentLength < 0 && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		// HTTP/3 does not say beforehand that there is no body, and these have none that means anything.
		r.ContentLength, r.Body = 0, http.NoBody
	}
	if r.ContentLength != 0 && r.Body != nil && r.Body != http.NoBody {
		x.body = newClientBody(x, r.Body, &e.cfg)
		r.Body = x.body
		if r.ProtoMajor == 1 {
			// A pod may answer before it has read everything. Without this the server would first wait for the rest.
			_ = x.client.rc.EnableFullDuplex()
			x.client.body = x.body
			x.body.unsure = len(r.TransferEncoding) > 0
			defer x.body.abandon()
		}
	}
	if strings.Contains(strings.ToLower(r.Header.Get("Upgrade")), "h2c") {
		// Ignoring an upgrade is always allowed. This one would open a tunnel for requests nobody looks at.
		r.Header.Del("Upgrade")
	}
	e.proxy.ServeHTTP(x.client, r)
}

// rewrite makes the pod's request from the client's. ReverseProxy has taken out the headers that are for one hop only
// and what the client claims in Forwarded and X-Forwarded-*.
func (e *Edge) rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	// ReverseProxy drops parameters that net/url cannot parse. Which parameters are good is for the pod to say.
	out.URL.RawQuery = in.URL.RawQuery
	out.Host = in.Host
	out.Trailer = in.Trailer // the same map: it is filled when the body ends

	x := exchangeOf(in.Context())
	setForwarded(out.Header, in, x.from, len(e.cfg.TrustedProxies) > 0, e.in.port)
	out.Header[headerRequestID] = []string{x.id}
}

// proxyFailed answers a request that got no answer from a pod.
func (e *Edge) proxyFailed(w http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r.Context())
	cut := errors.Is(context.Cause(r.Context()), errCut)
	stalled := x.body != nil && x.body.stalled.Load()
	tooLarge := x.body != nil && x.body.tooLarge.Load()
	if cw, ok := w.(*clientWriter); r.Context().Err() != nil && !cut && !stalled || ok && (cw.answered.Load() || cw.tunnel.Load() != nil) {
		// The client left, or it has a part of an answer already and must not take it for the whole.
		panic(http.ErrAbortHandler)
	}
	status := http.StatusBadGateway
	switch {
	case tooLarge:
		status, err = http.StatusRequestEntityTooLarge, errTooLarge
	case errors.Is(err, errNoTarget):
		status = http.StatusServiceUnavailable
	case cut:
		err = errCut
	case stalled:
		status = http.StatusRequestTimeout
	case x.body != nil && x.body.failed.Load():
		status = http.StatusBadRequest
	case isTimeout(err):
		status = http.StatusGatewayTimeout
	}
	x.failed = err
	if t := x.current; t != nil && status >= 500 {
		t.logFailure(x.id, status, err)
	}
	x.writeError(r, status)
}

// bufferPool keeps the buffers of bodies that ended for the next ones.
type bufferPool struct{ pool sync.Pool }

// Get returns a buffer.
func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[copyBuffer]byte); ok {
		return b[:]
	}
	return make([]byte, copyBuffer)
}

// Put takes it back.
func (p *bufferPool) Put(b []byte) {
	if len(b) == copyBuffer {
		p.pool.Put((*[copyBuffer]byte)(b))
	}
}
