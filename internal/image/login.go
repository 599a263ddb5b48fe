package image

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/trysail/trysail"
)

// login answers the challenge of the last 401. It leaves the session without authorization when there is nothing to
// answer with.
func (q *query) login(ctx context.Context) error {
	q.renewed, q.session.authorization = true, ""
	repo := q.ref.Context()
	challenge, err := parseChallenge(ctx, repo.Registry, q.session.challenge)
	if err != nil {
		return err
	}
	challenge.Insecure = q.session.scheme == "http"
	user, secret, until, err := q.credentials(ctx)
	if err != nil {
		return err
	}
	q.user, q.loggedIn = user, user != ""
	switch {
	case strings.EqualFold(challenge.Scheme, "bearer"):
		auth := authn.Anonymous
		if user != "" {
			auth = &authn.Basic{Username: user, Password: secret}
		}
		if until, err = q.exchange(ctx, auth, challenge); err != nil {
			return err
		}
	case strings.EqualFold(challenge.Scheme, "basic") && user != "":
		q.session.authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+secret))
	default:
		return nil
	}
	q.grants.put(q.grantKey(), grant{authorization: q.session.authorization, user: q.user, loggedIn: q.loggedIn, until: until})
	return nil
}

// credentials are what the operator has stored for the registry, or for ECR what AWS gives this machine. An empty user
// means none.
func (q *query) credentials(ctx context.Context) (user, secret string, until time.Time, err error) {
	if q.known.Username != "" {
		return q.known.Username, q.known.Secret, time.Now().Add(grantTime), nil
	}
	region, isECR := trysail.ECRRegion(q.ref.Context().RegistryStr())
	if !isECR {
		return "", "", time.Time{}, nil
	}
	login, err := q.ecr(ctx, region)
	if err != nil {
		return "", "", time.Time{}, &ecrError{err}
	}
	return login.Username, login.Password, login.ExpiresAt, nil
}

// exchange gets a token for reading the repository.
func (q *query) exchange(ctx context.Context, auth authn.Authenticator, challenge *transport.Challenge) (until time.Time, err error) {
	repo := q.ref.Context()
	scopes := []string{repo.Scope(transport.PullScope)}
	if s := challenge.Parameters["scope"]; s != "" && s != scopes[0] {
		scopes = append(scopes, s)
	}
	token, err := transport.Exchange(ctx, repo.Registry, auth, q.session, scopes, challenge)
	if err != nil {
		return until, withoutSecrets(err)
	}
	q.session.authorization = "Bearer " + cmp.Or(token.Token, token.AccessToken)
	// A token service that does not say how long means a minute: so the specification.
	return time.Now().Add(min(time.Duration(cmp.Or(token.ExpiresIn, 60))*time.Second, grantTime)), nil
}

var errNoToken = errors.New("the token service did not answer with a token")

// withoutSecrets keeps errors that tell of a status or of the network. The text of others quotes the answer of the
// token service, which may hold a token.
func withoutSecrets(err error) error {
	if statusOf(err) != 0 || isTimeout(err) || isCut(err) || errors.Is(err, context.Canceled) || errors.Is(err, errTooLarge) {
		return err
	}
	if _, ok := errors.AsType[*url.Error](err); ok {
		return err
	}
	return errNoToken
}

// parseChallenge lets the library read WWW-Authenticate. It reads it from its own request only, so that request gets
// the answer which is already there.
func parseChallenge(ctx context.Context, registry name.Registry, h http.Header) (*transport.Challenge, error) {
	return transport.Ping(ctx, registry, roundTripper(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusUnauthorized, Header: h, Body: http.NoBody, Request: req}, nil
	}))
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// grantTime bounds how long a grant is used again; grantMargin is how long before its end it is not any more.
const (
	grantTime   = 5 * time.Minute
	grantMargin = 10 * time.Second
)

// grants are answers to challenges, kept so that the parts of an image do not need a login each. One that a registry
// does not accept any more is replaced by a new login.
type grants struct {
	mu    sync.Mutex // guards byKey
	byKey map[grantKey]grant
}

// grantKey says what a grant is good for. A changed login is another key.
type grantKey struct {
	registry, repository string
	login                [sha256.Size]byte
}

type grant struct {
	authorization string
	user          string
	loggedIn      bool
	until         time.Time
}

func (q *query) grantKey() grantKey {
	repo := q.ref.Context()
	login := sha256.Sum256([]byte(q.known.Username + ":" + q.known.Secret))
	return grantKey{registry: repo.RegistryStr(), repository: repo.RepositoryStr(), login: login}
}

func (g *grants) get(key grantKey) (grant, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	found, ok := g.byKey[key]
	return found, ok && time.Now().Before(found.until)
}

func (g *grants) put(key grantKey, given grant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for k, old := range g.byKey {
		if !now.Before(old.until) {
			delete(g.byKey, k)
		}
	}
	if given.until = given.until.Add(-grantMargin); !now.Before(given.until) {
		return
	}
	if g.byKey == nil {
		g.byKey = map[grantKey]grant{}
	}
	g.byKey[key] = given
}
