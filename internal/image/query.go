package image

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/trysail/trysail"
)

// query is one conversation with a registry, or a mirror of it, about one image. It is a source.
type query struct {
	image    string // as the user wrote it
	ref      name.Reference
	mirror   bool
	platform v1.Platform
	began    time.Time
	session  *session

	known   trysail.Registry // what the operator has said about this registry
	ecr     func(ctx context.Context, region string) (ECRLogin, error)
	grants  *grants
	renewed bool // this query has logged in

	user     string // whose login was sent
	loggedIn bool   // a login was sent
}

// manifest implements source.
func (q *query) manifest(ctx context.Context, digest string) (content, error) {
	ref := q.ref
	if digest != "" {
		ref = q.ref.Context().Digest(digest)
	}
	opts, err := q.options(ctx)
	if err != nil {
		return content{}, err
	}
	var desc *remote.Descriptor
	err = q.authorized(ctx, func() (err error) {
		desc, err = remote.Get(ref, opts...)
		return err
	})
	if err != nil {
		return content{}, err
	}
	return content{mediaType: string(desc.MediaType), digest: desc.Digest.String(), bytes: desc.Manifest}, nil
}

// config implements source.
func (q *query) config(ctx context.Context, desc v1.Descriptor) (raw []byte, err error) {
	opts, err := q.options(ctx)
	if err != nil {
		return nil, err
	}
	err = q.authorized(ctx, func() error {
		layer, err := remote.Layer(q.ref.Context().Digest(desc.Digest.String()), opts...)
		if err != nil {
			return err
		}
		body, err := layer.Compressed() // as it is; it is verified while it is read
		if err != nil {
			return err
		}
		defer body.Close()
		raw, err = io.ReadAll(body)
		return err
	})
	return raw, err
}

// authorized asks, and once more after logging in when the registry wants that.
func (q *query) authorized(ctx context.Context, ask func() error) error {
	err := ask()
	if statusOf(err) != http.StatusUnauthorized || q.renewed || q.session.challenge == nil {
		return err
	}
	if err := q.login(ctx); err != nil {
		return &loginError{err}
	}
	if q.session.authorization == "" {
		return err
	}
	return ask()
}

// options makes the library use the session and nothing else: a transport of its own making would ask one time more,
// retry for seconds, and use plain HTTP in private networks.
func (q *query) options(ctx context.Context) ([]remote.Option, error) {
	t, err := transport.FromToken(q.ref.Context().Registry, authn.Anonymous, q.session, &transport.Challenge{}, &transport.Token{})
	return []remote.Option{remote.WithContext(ctx), remote.WithTransport(t)}, err
}
