package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/trysail/trysail/internal/edge/http1"
)

// keepAlive makes the kernel find out within two minutes that the other side of a quiet connection is gone.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}
}

// listeners are the two ways in.
type listeners struct {
	serving sync.WaitGroup
	port    string // of https, set by Start before anything is served
	altSvc  string // where HTTP/3 is, likewise; empty if it is nowhere

	// state guards what follows.
	state   sync.Mutex
	servers []*http.Server
	coming  []*arrivals // who comes in by net/http
	closing bool
	own     *http1.Server // nil if net/http serves all
	quic    *http3Server  // nil if there is no HTTP/3
	addrs   [2]string     // http, https
	failed  error         // why one of them ended by itself
}

// Start listens on both addresses and serves until Close. It fails, with nothing left open, when one of them cannot
// be had.
func (e *Edge) Start() error {
	plain, err := e.listen(e.cfg.HTTPAddr, "--http")
	if err != nil {
		return err
	}
	secure, err := e.listen(e.cfg.HTTPSAddr, "--https")
	if err != nil {
		plain.Close()
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || len(e.in.servers) > 0 {
		plain.Close()
		secure.Close()
		return errors.New("edge: started twice or after it was closed")
	}
	_, e.in.port, _ = net.SplitHostPort(secure.Addr().String())

	redirect := e.newServer(e.recorded(e.redirect))
	redirect.ReadTimeout, redirect.WriteTimeout = e.cfg.HeaderTimeout, e.cfg.HeaderTimeout // nothing here is long
	serve := e.newServer(e.handler())
	serve.TLSConfig = e.tlsConfig()
	var quic *http3Server
	if e.cfg.HTTP3 {
		if quic, err = e.listenHTTP3(secure, serve.Handler); err != nil {
			return errors.Join(err, plain.Close(), secure.Close())
		}
		e.in.altSvc = fmt.Sprintf(`h3=":%s"; ma=%d`, e.in.port, altSvcAge)
		e.in.serving.Go(func() { e.in.ended("--http3", quic.serve()) })
	}
	serveSecure := func() error { return serve.ServeTLS(secure, "", "") }
	var own *http1.Server
	if e.cfg.Engine != EngineNetHTTP {
		rest := newHandoff(secure.Addr())
		own = e.newEngine(rest.give)
		serve.TLSConfig.NextProtos = []string{"h2"} // which net/http shall be ready for
		serveSecure = func() error { return serve.Serve(rest) }
		e.in.serving.Go(func() { e.in.ended("--https", own.Serve(secure)) })
	}
	e.in.state.Lock()
	e.in.own = own
	e.in.quic = quic
	e.in.servers = []*http.Server{redirect, serve}
	e.in.addrs = [2]string{plain.Addr().String(), secure.Addr().String()}
	e.in.state.Unlock()
	e.in.serve("--http", watchArrivals(redirect, plain), func() error { return redirect.Serve(plain) })
	if own == nil {
		e.in.serve("--https", watchArrivals(serve, secure), serveSecure)
	} else {
		e.in.serving.Go(func() { e.in.ended("--https", serveSecure()) })
	}
	e.log.Info("edge is serving", "http", plain.Addr(), "https", secure.Addr(), "http3", e.cfg.HTTP3, "domain", e.cfg.Domain)
	return nil
}

// serve serves until the listener is closed.
func (l *listeners) serve(flag string, a *arrivals, serve func() error) {
	l.state.Lock()
	l.coming = append(l.coming, a)
	l.state.Unlock()
	l.serving.Go(func() {
		err := serve()
		close(a.ended)
		l.ended(flag, err)
	})
}

// HTTPAddr is the address bound for plain HTTP, empty before Start.
func (e *Edge) HTTPAddr() string { return e.in.addr(0) }

// HTTPSAddr is the address bound for HTTPS, empty before Start.
func (e *Edge) HTTPSAddr() string { return e.in.addr(1) }

func (l *listeners) addr(i int) string {
	l.state.Lock()
	defer l.state.Unlock()
	return l.addrs[i]
}

// Check reports why the edge does not serve, or nil if it does.
func (e *Edge) Check() error {
	e.in.state.Lock()
	started, failed := len(e.in.servers) > 0, e.in.failed
	e.in.state.Unlock()
	e.mu.Lock()
	closed := e.closed
	e.mu.Unlock()
	switch {
	case closed:
		return errors.New("edge: closed")
	case !started:
		return errors.New("edge: not started")
	case failed != nil:
		return failed
	}
	_, err := e.ca.certificate(e.cfg.Domain)
	return err
}

// ended notes the end of a server. Only an end that nobody asked for is a failure.
func (l *listeners) ended(flag string, err error) {
	l.state.Lock()
	defer l.state.Unlock()
	if errors.Is(err, http.ErrServerClosed) || l.closing && errors.Is(err, net.ErrClosed) {
		return
	}
	l.failed = errors.Join(l.failed, fmt.Errorf("serving %s: %w", flag, err))
}

// shutdown stops accepting and waits for requests in flight; when ctx ends it closes their connections and returns
// ctx's error.
func (l *listeners) shutdown(ctx context.Context) error {
	l.state.Lock()
	servers, quic, own, coming := l.servers, l.quic, l.own, l.coming
	l.closing = true
	l.state.Unlock()
	errs := make([]error, len(servers)+2)
	var group sync.WaitGroup
	if quic != nil {
		group.Go(func() { errs[len(servers)] = quic.shutdown(ctx) })
	}
	if own != nil {
		group.Go(func() { errs[len(servers)+1] = own.Shutdown(ctx) })
	}
	var settling sync.WaitGroup
	for _, a := range coming {
		settling.Go(func() { a.settle(ctx) })
	}
	settling.Wait()
	for i, srv := range servers {
		group.Go(func() {
			if errs[i] = srv.Shutdown(ctx); errs[i] != nil {
				_ = srv.Close() // the reason is in errs
			}
		})
	}
	group.Wait()
	l.serving.Wait()
	return errors.Join(errs...)
}

func (e *Edge) listen(addr, flag string) (net.Listener, error) {
	listen := e.cfg.Listen
	if listen == nil {
		cfg := net.ListenConfig{KeepAliveConfig: keepAlive()}
		listen = func(ctx context.Context, _, addr string) (net.Listener, error) { return cfg.Listen(ctx, "tcp", addr) }
	}
	l, err := listen(context.Background(), flag, addr)
	switch {
	case err == nil:
		l = &limitListener{l, e.newLimit()}
		if len(e.cfg.ProxyProtocol) > 0 {
			l = &proxiedListener{l, e.cfg.ProxyProtocol, e.cfg.HeaderTimeout}
		}
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listening on %s: the port is in use by another program; stop it, or choose another address with %s: %w", addr, flag, err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("listening on %s: ports below 1024 need root or CAP_NET_BIND_SERVICE; or choose another address with %s: %w", addr, flag, err)
	default:
		return nil, fmt.Errorf("listening on %s (%s): %w", addr, flag, err)
	}
}

func (e *Edge) newServer(h http.Handler) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true) // by ALPN, so never on plain HTTP
	return &http.Server{
		Handler:           h,
		Protocols:         &protocols,
		ReadHeaderTimeout: e.cfg.HeaderTimeout,
		IdleTimeout:       e.cfg.IdleTimeout,
		MaxHeaderBytes:    e.cfg.MaxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: e.cfg.MaxStreams,
			MaxReadFrameSize:     16 << 10, // as RFC 9113 begins: each connection keeps a buffer for the largest that came
			SendPingTimeout:      e.cfg.IdleTimeout,
			WriteByteTimeout:     e.cfg.IdleTimeout,
		},
		// What clients do wrong in a handshake is their business, and there is a lot of it.
		ErrorLog: slog.NewLogLogger(e.log.Handler(), slog.LevelDebug),
	}
}

// redirect sends plain HTTP to HTTPS: same host, path and query. 301 is what Lightsail answers; for methods other than
// GET and HEAD it is 308, as clients turn a POST that got 301 into a GET and lose its body. Names that HTTPS would not
// answer under get the 404 page, so the edge never vouches for a Host that somebody made up. What certificate authorities ask
// to validate a name is answered here as well.
func (e *Edge) redirect(x *exchange, r *http.Request) {
	if e.cfg.Challenge != nil && e.cfg.Challenge(x.client, r) {
		return
	}
	name, ok := hostname(r.Host)
	if !ok || !e.serves(name) || r.Method == http.MethodConnect {
		x.writeError(r, http.StatusNotFound)
		return
	}
	uri := r.URL.RequestURI()
	if uri[0] != '/' { // OPTIONS *
		uri = "/"
	}
	if e.in.port != "443" {
		name += ":" + e.in.port
	}
	status := http.StatusPermanentRedirect
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		status = http.StatusMovedPermanently
	}
	x.client.Header().Set("Location", "https://"+name+uri)
	writePage(x.client, r, status, fmt.Sprintf(pageFormat, title(status), ""), "text/html")
}
