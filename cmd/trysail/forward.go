package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/trysail/trysail/internal/api"
	"github.com/trysail/trysail/internal/store"
)

// forwarded marks a request that another server has passed on: it is not passed on once more.
const forwarded = "Trysail-Forwarded"

// peerPulls is where a server answers what the cluster's nodes have asked another one for. The nodes' password protects it.
const peerPulls = "/peer/pulls"

// leadersOperation is the one that needs what only the leader has: sessions are where they were made.
const leadersOperation = "CreateExecSession"

// forwarder passes requests on to the leader, with their signatures as they are.
type forwarder struct {
	leader func() (leader store.Server, ours, known bool)
	proxy  *httputil.ReverseProxy
	log    *slog.Logger
}

type leaderKey struct{}

// newForwarder makes a forwarder. rootFile has the roots that vouch for the other servers, whatever their names are.
func newForwarder(leader func() (leader store.Server, ours, known bool), rootFile string, log *slog.Logger) *forwarder {
	f := &forwarder{log: log, leader: leader}
	f.proxy = &httputil.ReverseProxy{
		Transport: peerTransport(rootFile), FlushInterval: -1, ErrorLog: slog.NewLogLogger(f.log.Handler(), slog.LevelDebug),
		Rewrite: func(r *httputil.ProxyRequest) {
			leader, _ := r.In.Context().Value(leaderKey{}).(store.Server)
			r.SetURL(peerURL(leader.Address))
			r.Out.Host = r.In.Host // it is part of the signature
			r.Out.Header.Set(forwarded, "1")
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				f.log.InfoContext(r.Context(), "the leader does not answer", "error", err)
			}
			noLeader(w, r)
		},
	}
	return f
}

// peerTransport is for requests to other servers.
func peerTransport(rootFile string) *http.Transport {
	return &http.Transport{
		MaxIdleConnsPerHost: 16, DisableCompression: true, IdleConnTimeout: time.Minute,
		TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, //nolint:gosec // the local CA is asked below; servers are known by their addresses
			VerifyConnection:   func(c tls.ConnectionState) error { return vouchedFor(rootFile, c.PeerCertificates) },
		},
	}
}

// peerURL is where another server has its API.
func peerURL(address string) *url.URL {
	scheme := "https"
	if isLoopback(address) {
		scheme = "http"
	}
	return &url.URL{Scheme: scheme, Host: address}
}

// vouchedFor checks that the local CA has signed for a server.
func vouchedFor(rootFile string, chain []*x509.Certificate) error {
	text, err := os.ReadFile(rootFile) //nolint:gosec // within the data directory
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	if len(chain) == 0 {
		return errors.New("the other server shows no certificate")
	}
	_, err = chain[0].Verify(x509.VerifyOptions{Roots: roots})
	return err
}

// all passes every request on while another server leads.
func (f *forwarder) all(local http.Handler) http.Handler {
	return f.those(local, func(*http.Request) bool { return true })
}

// under is all, for requests that the leader has below a path of its own.
func (f *forwarder) under(path string, local http.Handler) http.Handler {
	if f == nil {
		return local
	}
	passed := f.all(http.StripPrefix(path, local))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = r.Clone(r.Context())
		r.URL.Path, r.URL.RawPath = path+r.URL.Path, ""
		passed.ServeHTTP(w, r)
	})
}

// those passes on the requests that need the leader, while that is another server. Where it cannot be reached they are
// refused for the moment.
func (f *forwarder) those(local http.Handler, needs func(*http.Request) bool) http.Handler {
	if f == nil {
		return local
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(forwarded) != "" || !needs(r) {
			local.ServeHTTP(w, r)
			return
		}
		leader, ours, known := f.leader()
		switch {
		case ours:
			local.ServeHTTP(w, r)
		case !known || leader.Address == "":
			noLeader(w, r)
		default:
			f.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), leaderKey{}, leader)))
		}
	})
}

// needsLeader reports whether a call of the API needs what only the leader has.
func needsLeader(r *http.Request) bool {
	_, name, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	return name == leadersOperation || strings.HasPrefix(r.URL.Path, api.ExecPath)
}

// noLeader refuses a request in a form that SDKs understand, and try again.
func noLeader(w http.ResponseWriter, r *http.Request) {
	const message = "This needs the server that leads, and at the moment none does or it cannot be reached: another one takes over within 12 seconds. Please try again."
	w.Header().Set("Retry-After", "5")
	if r.Header.Get("X-Amz-Target") == "" {
		http.Error(w, message, http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Errortype", "ServiceException")
	w.WriteHeader(http.StatusServiceUnavailable)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": "ServiceException", "code": "ServiceException", "message": message})
}

// pullPassword is what the cluster's nodes fetch images with, from whichever server. Empty where there is only one.
func (s *server) pullPassword(ctx context.Context) (password string, err error) {
	if !s.cfg.manyEdges() {
		return "", nil
	}
	return s.sharedSecret(ctx, "kube/pull-password")
}

// sharedSecret is a random text that all servers know. Who asks first makes it.
func (s *server) sharedSecret(ctx context.Context, name string) (secret string, err error) {
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		text, err := tx.SharedFile(name)
		if errors.Is(err, store.ErrNotFound) {
			text = []byte(rand.Text())
			err = tx.PutSharedFile(name, text)
		}
		secret = string(text)
		return err
	})
	return secret, err
}
