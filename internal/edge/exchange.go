package edge

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"
)

// headerRequestID names a request in the pod's log, in ours and on the error page.
const headerRequestID = "X-Request-Id"

// maxAttempts is how many targets a request tries at most.
const maxAttempts = 4

// errNoTarget is why a request fails when no target is in rotation.
var errNoTarget = errors.New("no target in rotation")

// exchange is one request on its way. While current is set, it is registered there.
type exchange struct {
	id      string
	began   time.Time
	service *service // nil if the host is none's
	from    sender
	guard   *guard // nil if the service has no rules, and on plain HTTP
	// interrupt ends what the request waits for, without blocking. It is set while the request may be registered.
	interrupt func()
	current   *target
	tried     []*target // could not take it
	// next and previous are its neighbours among those that are registered at current, whose lock guards them.
	next, previous *exchange

	// What the log and the counters tell of it in the end.
	last     *target // asked last; nil before
	retries  int
	inPod    time.Duration // from the last attempt's begin to the header of its answer, or to its failure
	answered time.Time     // when that header came; zero if none did
	failed   error         // why the edge answered instead of the pod
	retry    time.Duration // when the client may try again; 0 if that was not said
	end      string        // why it ended too early; empty if it did not
	wasCut   atomic.Bool
	counters atomic.Pointer[counters] // of the version asked last
	in, out  atomic.Int64             // bytes of bodies, and in tunnels
	altSvc   string                   // tells clients of HTTP/3; empty if there is none
	// broken is set once a connection broke under the request. It is not sent a third time then: a request that makes
	// pods crash must not go through all of them.
	broken bool

	// The way through net/http; nil on the other one.
	client *clientWriter
	body   *clientBody // nil if the request has none, too
}

// facts are what the log tells of a request itself.
type facts[T text] struct {
	method, host, path, query, agent, referer T

	protocol, remote string

	tls uint16 // version; 0 without
}

// text is how an engine has what clients send.
type text interface{ string | []byte }

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// enter registers the request at the best target that it has not tried.
func (x *exchange) enter() (*target, error) {
	for {
		v := x.service.view.Load()
		t := v.choose(x.tried)
		if t == nil {
			return nil, errNoTarget
		}
		if t.begin(x) {
			x.current, x.last = t, t
			x.counters.Store(t.counters)
			return t, nil
		}
		if x.service.view.Load() == v { // closed by Drain; otherwise the new view has other targets
			x.tried = append(x.tried, t)
		}
	}
}

// leave is the counterpart of enter.
func (x *exchange) leave() {
	if x.current != nil {
		x.current.end(x)
		x.current = nil
	}
}

// received counts bytes from the client.
func (x *exchange) received(n int) {
	x.in.Add(int64(n))
	if c := x.counters.Load(); c != nil {
		c.bytesIn.Add(int64(n))
	}
}

// sent counts bytes to the client.
func (x *exchange) sent(n int) {
	x.out.Add(int64(n))
	if c := x.counters.Load(); c != nil {
		c.bytesOut.Add(int64(n))
	}
}

// addHeaders adds what the edge itself has to say to the header of an answer.
func (x *exchange) addHeaders(h http.Header) {
	if x.altSvc != "" {
		h["Alt-Svc"] = []string{x.altSvc}
	}
	if x.guard != nil && x.guard.hsts != "" && h["Strict-Transport-Security"] == nil {
		h["Strict-Transport-Security"] = []string{x.guard.hsts}
	}
}

// cut ends the request. The caller holds the lock of the target it is registered at, so it has not ended yet.
func (x *exchange) cut() {
	x.wasCut.Store(true)
	x.interrupt()
}

// deliver has ask send the request to a target, and to another one when that fails in a way that makes a second try
// harmless; again decides. The exchange stays registered at the target that was asked last, be it that it answered.
func (x *exchange) deliver(ask func(*target) error, again func(error) bool) error {
	var failed error
	for attempt := 1; ; attempt++ {
		t, err := x.enter()
		if err != nil {
			if failed != nil {
				err = failed
			}
			return err
		}
		asked := time.Now()
		err = ask(t)
		x.inPod = time.Since(asked)
		if err == nil {
			x.answered = asked.Add(x.inPod)
			return nil
		}
		if _, refused := errors.AsType[*dialError](err); refused {
			t.suspect()
		}
		if attempt == maxAttempts || !again(err) {
			return err // current stays set: the error page's log line names it
		}
		failed = err
		x.leave()
		x.tried = append(x.tried, t)
		x.retries++
	}
}

// balancer is the http.RoundTripper behind the proxy.
type balancer struct{}

// RoundTrip sends the request. Its exchange stays registered at the target that answered.
func (balancer) RoundTrip(req *http.Request) (*http.Response, error) {
	x := exchangeOf(req.Context())
	var res *http.Response
	err := x.deliver(func(t *target) (err error) {
		res, err = t.transport.RoundTrip(outgoing(req, t)) //nolint:bodyclose // whoever gets it does that
		return err
	}, func(err error) bool {
		return req.Context().Err() == nil && x.repeatable(req.Method, x.body != nil, x.body != nil && x.body.touched.Load(), err)
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// outgoing returns the request as it goes to t. It is a copy, since a failed attempt may still look at its own.
func outgoing(req *http.Request, t *target) *http.Request {
	out := req.WithContext(req.Context())
	u := *req.URL
	u.Scheme, u.Host = t.scheme, t.addr
	out.URL = &u
	if out.Body != nil {
		out.Body = io.NopCloser(out.Body) // a failed attempt must not close it; the proxy does in the end
	}
	return out
}

// repeatable reports whether the request can be sent again after err. If no connection came about, the pod has seen
// nothing of it. If the connection broke, the pod may have done something, which only methods that change nothing
// allow to repeat, and a body is gone; the client has not been sent anything. touched says that some of the body is gone.
func (x *exchange) repeatable(method string, body, touched bool, err error) bool {
	if touched {
		return false
	}
	if _, refused := errors.AsType[*dialError](err); refused {
		return true
	}
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
	default:
		return false
	}
	again := !body && !x.broken && isBroken(err)
	x.broken = true
	return again
}

// isBroken reports whether the pod closed the connection instead of answering.
func isBroken(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// requestID returns the client's id of the request if it is usable, and a new one otherwise. It is safe in headers,
// logs and HTML.
func requestID(r *http.Request) string {
	if ids := r.Header[headerRequestID]; len(ids) == 1 && validID(ids[0]) {
		return ids[0]
	}
	return newID()
}

// newID makes an id that no other request has. It is no secret, so the generator need not be the one for keys.
func newID() string {
	var b [16]byte
	binary.NativeEndian.PutUint64(b[:8], rand.Uint64()) //nolint:gosec // see above
	binary.NativeEndian.PutUint64(b[8:], rand.Uint64()) //nolint:gosec // see above
	var text [32]byte
	hex.Encode(text[:], b[:])
	return string(text[:])
}

// validID accepts UUIDs, hexadecimal, base64, ULIDs, W3C and Amazon trace ids.
func validID[T text](id T) bool {
	if len(id) == 0 || len(id) > 128 {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-', c == '_', c == '.', c == ':', c == '=', c == '+', c == '/', c == '@', c == ';':
		default:
			return false
		}
	}
	return true
}
