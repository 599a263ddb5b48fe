package corpus

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"
)

// faults are registries that do not work, by name. Those that need content hand on what the good one has.
type faults struct {
	hosts   map[string]string // name → host:port
	servers []*httptest.Server
	hung    chan struct{} // closed at the end: what hangs may go
}

func startFaults(ctx context.Context, good string) (*faults, error) {
	f := &faults{hosts: map[string]string{}, hung: make(chan struct{})}
	say := func(status int, header, code, message string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if name, value, ok := strings.Cut(header, ": "); ok {
				w.Header().Set(name, value)
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
		}
	}
	const basic = `WWW-Authenticate: Basic realm="registry"`
	plain := map[string]http.Handler{
		"private":   say(http.StatusUnauthorized, basic, "UNAUTHORIZED", "authentication required"),
		"login":     say(http.StatusUnauthorized, basic, "UNAUTHORIZED", "incorrect username or password"),
		"forbidden": say(http.StatusForbidden, "", "DENIED", "requested access to the resource is denied"),
		"limit":     say(http.StatusTooManyRequests, "Retry-After: 3600", "TOOMANYREQUESTS", "You have reached your pull rate limit."),
		"broken":    say(http.StatusInternalServerError, "", "UNKNOWN", "the storage does not answer"),
		"hang": http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-f.hung:
			case <-r.Context().Done():
			}
		}),
		"garbage":   f.blobs(good, garble),
		"truncated": noRanges(f.blobs(good, truncate)),
		"slow":      f.blobs(good, f.drip),
		"teapot":    http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>Welcome to our Wi-Fi</html>") }),
	}
	for name, handler := range plain {
		s := httptest.NewServer(handler)
		f.servers = append(f.servers, s)
		f.hosts[name] = s.Listener.Addr().String()
	}
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	s.StartTLS()
	f.servers = append(f.servers, s)
	f.hosts["tls"] = s.Listener.Addr().String()

	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("finding a free port: %w", err)
	}
	f.hosts["closed"] = ln.Addr().String()
	f.hosts["unknown"] = "registry.trysail.invalid" // .invalid never resolves
	return f, ln.Close()
}

func (f *faults) close() {
	close(f.hung)
	for _, s := range f.servers {
		s.CloseClientConnections()
		s.Close()
	}
}

// blobs hands requests on to the good registry and changes the blobs that are no JSON: the layers.
func (f *faults) blobs(good string, change func(io.ReadCloser, int64) io.ReadCloser) http.Handler {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: good})
	proxy.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method != http.MethodGet || !strings.Contains(r.Request.URL.Path, "/blobs/") || r.StatusCode != http.StatusOK {
			return nil
		}
		head := make([]byte, 1)
		if _, err := io.ReadFull(r.Body, head); err != nil {
			return err
		}
		body := struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(head), r.Body), r.Body}
		r.Body = body
		if head[0] != '{' {
			r.Body = change(body, r.ContentLength)
		}
		return nil
	}
	return proxy
}

// noRanges makes everybody who wants to go on where it broke off begin again.
func noRanges(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Range")
		next.ServeHTTP(w, r)
	})
}

type readCloser struct {
	read func([]byte) (int, error)
	io.Closer
}

func (r readCloser) Read(p []byte) (int, error) { return r.read(p) }

// garble keeps the length.
func garble(body io.ReadCloser, _ int64) io.ReadCloser {
	return readCloser{func(p []byte) (int, error) {
		n, err := body.Read(p)
		for i := range n {
			p[i] ^= 0x55
		}
		return n, err
	}, body}
}

// truncate breaks off in the middle.
func truncate(body io.ReadCloser, length int64) io.ReadCloser {
	left := length / 2
	return readCloser{func(p []byte) (int, error) {
		if left <= 0 {
			return 0, errors.New("cut")
		}
		n, err := body.Read(p[:min(int64(len(p)), left)])
		left -= int64(n)
		return n, err
	}, body}
}

// drip sends a few bytes now and then.
func (f *faults) drip(body io.ReadCloser, _ int64) io.ReadCloser {
	return readCloser{func(p []byte) (int, error) {
		select {
		case <-time.After(200 * time.Millisecond):
		case <-f.hung:
			return 0, errors.New("the end")
		}
		return body.Read(p[:min(len(p), 512)])
	}, body}
}
