package image

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// login answers the challenge of the last 401. It leaves the session without authorization when there is nothing to
// answer with.
func (q *query) login(ctx context.Context) error {
	repo := q.ref.Context()
	challenge, err := parseChallenge(ctx, repo.Registry, q.session.challenge)
	if err != nil {
		return err
	}
	challenge.Insecure = q.session.scheme == "http"
	auth := authn.Anonymous
	if q.keychain != nil {
		if auth, err = authn.Resolve(ctx, q.keychain, repo); err != nil {
			return &keychainError{err}
		}
	}
	login, err := authn.Authorization(ctx, auth)
	if err != nil {
		return &keychainError{err}
	}
	q.user, q.loggedIn = login.Username, *login != authn.AuthConfig{}
	switch {
	case login.RegistryToken != "":
		q.session.authorization = "Bearer " + login.RegistryToken
	case strings.EqualFold(challenge.Scheme, "bearer"):
		return q.exchange(ctx, auth, challenge)
	case strings.EqualFold(challenge.Scheme, "basic") && login.Username != "":
		basic := base64.StdEncoding.EncodeToString([]byte(login.Username + ":" + login.Password))
		q.session.authorization = "Basic " + basic
	}
	return nil
}

// exchange gets a token for reading the repository.
func (q *query) exchange(ctx context.Context, auth authn.Authenticator, challenge *transport.Challenge) error {
	repo := q.ref.Context()
	scopes := []string{repo.Scope(transport.PullScope)}
	if s := challenge.Parameters["scope"]; s != "" && s != scopes[0] {
		scopes = append(scopes, s)
	}
	token, err := transport.Exchange(ctx, repo.Registry, auth, q.session, scopes, challenge)
	if err != nil {
		return withoutSecrets(err)
	}
	q.session.authorization = "Bearer " + cmp.Or(token.Token, token.AccessToken)
	return nil
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
