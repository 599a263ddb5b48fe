package certs

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"golang.org/x/time/rate"
)

const (
	// orderTimeout bounds one order, with everything that the authority does for it.
	orderTimeout = 5 * time.Minute
	// The pace of orders: Let's Encrypt takes 300 of an account in three hours.
	orderEvery = 36 * time.Second
	orderBurst = 100
	// limitPause is how long an authority is left alone that wants us to wait and does not say how long.
	limitPause = time.Hour
	maxPause   = 24 * time.Hour
)

// Directory is an ACME directory and how to open an account there.
type Directory struct {
	URL string
	// KeyID and MACKey bind our account to one that somebody has with the authority (RFC 8555 §7.3.4); empty where that
	// is not asked for. MACKey is in base64url.
	KeyID, MACKey string
}

// authority is one directory, with our account there.
type authority struct {
	dir   Directory
	email string
	files files
	log   *slog.Logger

	client  *acme.Client
	limiter *rate.Limiter

	opening sync.Mutex // held while the account is opened

	mu     sync.Mutex // guards what follows
	open   *acme.Account
	paused time.Time            // not before then
	waits  map[string]time.Time // by name: not before then
}

func newAuthority(dir Directory, email string, roots *x509.CertPool, f files, agent string, log *slog.Logger) *authority {
	a := &authority{dir: dir, email: email, files: f, log: log.With("directory", dir.URL), limiter: rate.NewLimiter(rate.Every(orderEvery), orderBurst), waits: map[string]time.Time{}}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 30 * time.Second, IdleConnTimeout: 30 * time.Second,
		MaxIdleConnsPerHost: 4, ForceAttemptHTTP2: true,
	}
	a.client = &acme.Client{
		Directory: dir.URL, UserAgent: agent, PollTimeout: orderTimeout,
		HTTPClient: &http.Client{Transport: &patient{transport, a}, Timeout: time.Minute},
	}
	return a
}

// patient notes when an authority says how long to wait; the ACME library does not hand that on with an error.
type patient struct {
	http.RoundTripper
	a *authority
}

// waitKey is the key of a context's *time.Duration: what patient has noted during an order.
type waitKey struct{}

func (p *patient) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := p.RoundTripper.RoundTrip(r)
	if err != nil {
		return resp, err
	}
	wait := retryAfter(resp.Header.Get("Retry-After"), time.Now())
	switch resp.StatusCode {
	case http.StatusServiceUnavailable:
		p.a.pause(wait)
	case http.StatusTooManyRequests:
		if noted, ok := r.Context().Value(waitKey{}).(*time.Duration); ok {
			*noted = wait
		}
	}
	return resp, nil
}

// limited notes that the authority wants to wait with a name, or with everything: limits of orders and accounts are for all.
func (a *authority) limited(name string, problem acme.Problem, wait time.Duration) {
	if wait == 0 {
		wait = limitPause
	}
	if detail := strings.ToLower(problem.Detail); strings.Contains(detail, "new orders") || strings.Contains(detail, "registrations") || strings.Contains(detail, "accounts") {
		a.pause(wait)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.waits, func(_ string, until time.Time) bool { return time.Now().After(until) })
	a.waits[name] = time.Now().Add(wait)
}

// retryAfter reads the header of that name: seconds or a date. It is at most a day.
func retryAfter(value string, now time.Time) time.Duration {
	if n, err := strconv.Atoi(value); err == nil && n > 0 {
		return min(time.Duration(n)*time.Second, maxPause)
	}
	if at, err := http.ParseTime(value); err == nil && at.After(now) {
		return min(at.Sub(now), maxPause)
	}
	return 0
}

// pause leaves the authority alone for d.
func (a *authority) pause(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if until := time.Now().Add(d); until.After(a.paused) {
		a.paused = until
	}
}

// waitsUntil is when the authority may be asked for a name again; zero if now.
func (a *authority) waitsUntil(name string) (until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if until = a.paused; a.waits[name].After(until) {
		until = a.waits[name]
	}
	if time.Now().Before(until) {
		return until
	}
	return time.Time{}
}

// identities are the names by which CAA records call the authority; none if it cannot be asked or does not say.
func (a *authority) identities(ctx context.Context) []string {
	dir, err := a.client.GetDirectory(ctx)
	if err != nil || dir.Meta == nil {
		return nil
	}
	return dir.Meta.CAAIdentities
}

// issue gets a certificate for a name. replaces is the one that it is to stand in for, or nil.
// Errors: those of the ACME library, zoneError, and errLiar.
func (a *authority) issue(ctx context.Context, name string, key crypto.Signer, solvers map[string]acmez.Solver, replaces *x509.Certificate) (chain []byte, err error) {
	if err := a.limiter.Wait(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	var wait time.Duration
	ctx = context.WithValue(ctx, waitKey{}, &wait)
	defer func() {
		if problem, ok := errors.AsType[acme.Problem](err); ok && (problem.Type == acme.ProblemTypeRateLimited || problem.Status == http.StatusTooManyRequests) {
			a.limited(name, problem, wait)
		}
	}()
	csr, err := newRequest(name, key)
	if err != nil {
		return nil, err
	}
	for try := range 2 {
		account, err := a.account(ctx)
		if err != nil {
			return nil, err
		}
		params, err := acmez.OrderParametersFromCSR(account, csr)
		if err != nil {
			return nil, err
		}
		if try == 0 {
			params.Replaces = replaces
		}
		client := &acmez.Client{Client: a.client, ChallengeSolvers: solvers}
		chains, err := client.ObtainCertificate(ctx, params)
		if err == nil {
			return check(chains, name, key.Public())
		}
		problem, ok := errors.AsType[acme.Problem](err)
		switch {
		case ok && try == 0 && problem.Type == acme.ProblemTypeAccountDoesNotExist:
			a.log.WarnContext(ctx, "the authority does not know our account any more, a new one is opened")
			if err := a.forget(ctx); err != nil {
				return nil, err
			}
		case ok && try == 0 && replaces != nil && problem.Type == acme.ProblemTypeMalformed:
			// It knows nothing of the certificate that is to be replaced; it is asked again without.
		default:
			return nil, err
		}
	}
	return nil, errors.New("the authority refuses our account")
}

// errLiar says that an authority did not send what was asked for.
var errLiar = errors.New("the authority sent a wrong certificate")

// check takes the shortest chain that an authority sent, if it is what was asked for.
func check(chains []acme.Certificate, name string, key crypto.PublicKey) ([]byte, error) {
	if len(chains) == 0 {
		return nil, fmt.Errorf("%w: none at all", errLiar)
	}
	text := slices.MinFunc(chains, func(a, b acme.Certificate) int { return len(a.ChainPEM) - len(b.ChainPEM) }).ChainPEM
	list, err := parseChain(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errLiar, err)
	}
	leaf := list[0]
	pub, ok := key.(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !ok || !pub.Equal(leaf.PublicKey):
		return nil, fmt.Errorf("%w: it is for another key", errLiar)
	case !slices.Contains(leaf.DNSNames, name):
		return nil, fmt.Errorf("%w: it is for %v", errLiar, leaf.DNSNames)
	case !time.Now().Before(leaf.NotAfter):
		return nil, fmt.Errorf("%w: it has expired", errLiar)
	}
	for i, c := range list[1:] {
		if err := list[i].CheckSignatureFrom(c); err != nil {
			return nil, fmt.Errorf("%w: the chain is broken: %w", errLiar, err)
		}
	}
	return text, nil
}

// errNoRenewal says that an authority does not answer the question when to renew.
var errNoRenewal = errors.New("the authority has no renewal information")

// renewal asks when a certificate should be replaced (RFC 9773). next is when to ask again. The ACME library has this as
// well, but does not take the window of one second that stands for "at once".
func (a *authority) renewal(ctx context.Context, leaf *x509.Certificate) (at, next time.Time, err error) {
	dir, err := a.client.GetDirectory(ctx)
	if err != nil {
		return at, next, err
	}
	if dir.RenewalInfo == "" {
		return at, next, errNoRenewal
	}
	id, err := acme.ARIUniqueIdentifier(leaf)
	if err != nil {
		return at, next, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, dir.RenewalInfo+"/"+id, http.NoBody)
	if err != nil {
		return at, next, err
	}
	resp, err := a.client.HTTPClient.Do(req)
	if err != nil {
		return at, next, err
	}
	defer resp.Body.Close()
	var said struct {
		Window struct{ Start, End time.Time } `json:"suggestedWindow"`
	}
	if resp.StatusCode != http.StatusOK {
		return at, next, fmt.Errorf("the authority answers %s", resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&said); err != nil {
		return at, next, fmt.Errorf("reading the renewal information: %w", err)
	}
	length := said.Window.End.Sub(said.Window.Start)
	if said.Window.Start.IsZero() || length <= 0 {
		return at, next, errors.New("the window of the renewal information is none")
	}
	wait := renewalEvery
	if d := retryAfter(resp.Header.Get("Retry-After"), time.Now()); d > 0 {
		wait = max(d, time.Minute)
	}
	// A random moment of the window, so that not all the world comes at once.
	return said.Window.Start.Add(rand.N(length)), time.Now().Add(wait), nil //nolint:gosec // spreads load, keeps no secret
}
