package image

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/trysail/trysail"
)

// ask lets do talk to the mirrors of an image's registry and then to the registry itself, until one of them has an
// answer. What is wrong with a mirror is only mentioned in the registry's fault.
func (r *Resolver) ask(ctx context.Context, image string, ref name.Reference, do func(context.Context, *query) error) *trysail.ImageError {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	queries, fault := r.queries(ctx, image, ref)
	if fault != nil {
		return fault
	}
	var mirrors mentions
	for _, q := range queries {
		err := q.bounded(ctx, do)
		if err == nil {
			return nil
		}
		fault = q.fault(ctx, err)
		if !q.mirror {
			break
		}
		mirrors.add(q, fault)
	}
	return mirrors.in(fault)
}

// bounded gives a mirror no more than half of the time that is left: it may hang, and the registry must still be heard.
func (q *query) bounded(ctx context.Context, do func(context.Context, *query) error) error {
	if deadline, ok := ctx.Deadline(); ok && q.mirror {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	return do(ctx, q)
}

// mentions are the mirrors that were asked in vain.
type mentions []string

func (m *mentions) add(q *query, fault *trysail.ImageError) {
	*m = append(*m, fmt.Sprintf(" Its mirror %s was asked first: %s", mark(q.ref.Context().RegistryStr()), fault.Message))
}

func (m mentions) in(fault *trysail.ImageError) *trysail.ImageError {
	fault.Message += strings.Join(m, "")
	return fault
}

// queries prepares to ask all who may have an image: the mirrors of its registry in their order, and the registry.
func (r *Resolver) queries(ctx context.Context, image string, ref name.Reference) ([]*query, *trysail.ImageError) {
	origin := r.newQuery(image, ref)
	host := ref.Context().RegistryStr()
	if err := r.know(ctx, origin, host); err != nil {
		return nil, origin.fault(ctx, err)
	}
	if origin.known.PlainHTTP {
		origin.session.scheme, origin.session.plain = "http", true
	}
	var list []*query
	for _, mirror := range origin.known.Mirrors {
		u, at, err := mirrored(ref, mirror)
		if err != nil {
			continue // it was checked when it was set
		}
		q := r.newQuery(image, at)
		q.mirror = true
		if err := r.know(ctx, q, u.Host); err != nil {
			continue
		}
		q.session.scheme, q.session.plain = u.Scheme, u.Scheme == "http"
		list = append(list, q)
	}
	return append(list, origin), nil
}

func (r *Resolver) newQuery(image string, ref name.Reference) *query {
	return &query{
		image: image, ref: ref, platform: r.cfg.Platform, began: time.Now(), ecr: r.cfg.ECR, grants: &r.grants,
		session: newSession(r.transport, ref.Context().RegistryStr(), r.cfg.Version),
	}
}

// know finds out what the operator has said about a host, and what follows from it.
func (r *Resolver) know(ctx context.Context, q *query, host string) (err error) {
	if r.cfg.Registries != nil {
		for _, name := range spellings(host) {
			if q.known, err = r.cfg.Registries(ctx, name); err != nil {
				return &keychainError{err}
			}
			if q.known.Host != "" {
				break
			}
		}
	}
	if q.known.CA != "" {
		q.session.transport = r.trusting(q.known.CA)
	}
	if g, ok := q.grants.get(q.grantKey()); ok {
		q.session.authorization, q.user, q.loggedIn = g.authorization, g.user, g.loggedIn
	}
	return nil
}

// spellings are the names under which the operator may know a registry.
func spellings(host string) []string {
	if host == name.DefaultRegistry {
		return []string{"docker.io", name.DefaultRegistry}
	}
	return []string{host}
}

// mirrored is where a mirror has an image. The path of its URL, if any, comes before the repository's name, as in
// caches that serve many registries.
func mirrored(ref name.Reference, mirror string) (*url.URL, name.Reference, error) {
	u, err := url.Parse(mirror)
	if err != nil {
		return nil, nil, err
	}
	registry, err := name.NewRegistry(u.Host)
	if err != nil {
		return nil, nil, err
	}
	path := strings.TrimPrefix(strings.Trim(u.Path, "/")+"/", "v2/")
	repo := registry.Repo(strings.TrimPrefix(path+ref.Context().RepositoryStr(), "/"))
	if d, ok := ref.(name.Digest); ok {
		return u, repo.Digest(d.DigestStr()), nil
	}
	return u, repo.Tag(ref.Identifier()), nil
}

// trusting is a transport that believes the certificates in ca (PEM) too. It does so for what the registry redirects
// to as well: a private registry often keeps its blobs on another private host.
func (r *Resolver) trusting(ca string) *http.Transport {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.transports[ca]; t != nil {
		return t
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	pool.AppendCertsFromPEM([]byte(ca))
	t := r.transport.Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	r.transports[ca] = t
	return t
}
