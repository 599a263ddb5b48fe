// Package image asks registries what an image name means for this machine, before anything is pulled, and says in one
// sentence why an image cannot be had.
//
// A public image on an open registry costs two requests: the manifest and the configuration; an index adds one for the
// manifest of our platform, and a registry that wants a token adds two. Everything that a registry sends is bounded
// before it is read.
package image

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/trysail/trysail"
)

// maxIndexDepth bounds indexes within indexes. Builders make one level; two are seen when indexes are merged.
const maxIndexDepth = 3

// Config is what a Resolver works with. The zero value is ready for use.
type Config struct {
	// Version is that of this program; registries see it as the user agent trysail/<version>.
	Version string
	// Platform is what images must run on. Zero means linux on the architecture of this program.
	Platform v1.Platform
	// Keychain holds the logins. Nil means that every registry is asked without one. A login is sent only to a
	// registry that asks for it.
	Keychain authn.Keychain
	// Timeout bounds one Resolve together with its context. Zero means 30 s.
	Timeout time.Duration
}

// Resolver asks registries about images. Its methods are safe for concurrent use.
type Resolver struct {
	cfg       Config
	transport *http.Transport
}

// New makes a Resolver. Close ends its idle connections.
func New(cfg Config) *Resolver {
	if cfg.Platform.OS == "" {
		cfg.Platform.OS = "linux"
	}
	if cfg.Platform.Architecture == "" {
		cfg.Platform.Architecture = runtime.GOARCH
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	return &Resolver{cfg: cfg, transport: newTransport()}
}

// Close ends the connections that are kept for the next Resolve. The Resolver stays usable.
func (r *Resolver) Close() { r.transport.CloseIdleConnections() }

// Resolve asks the registry of an image what it is for this machine. Digest and Reference are those of the manifest
// for our platform even if the name stands for many. Every error is a *trysail.ImageError.
func (r *Resolver) Resolve(ctx context.Context, image string) (trysail.Image, error) {
	ref, fault := parse(image)
	if fault != nil {
		return trysail.Image{}, fault
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	q := &query{
		image: image, ref: ref, platform: r.cfg.Platform, keychain: r.cfg.Keychain, began: time.Now(),
		session: newSession(r.transport, ref.Context().RegistryStr(), r.cfg.Version),
	}
	found, err := q.find(ctx)
	if err != nil {
		return trysail.Image{}, q.fault(ctx, err)
	}
	return found, nil
}

// parse reads a name by the grammar of Docker, with Docker Hub and the tag latest as defaults.
func parse(image string) (name.Reference, *trysail.ImageError) {
	if err := trysail.ValidateImageName(image); err != nil {
		message, guess, guessed := strings.Cut(err.Error(), " Did you mean ")
		fix := "Write it as [registry/]repository[:tag], such as nginx:1.27 or ghcr.io/owner/app:v2."
		if guessed {
			fix = "Did you mean " + guess
		}
		return nil, &trysail.ImageError{Code: codeName, Image: image, Message: message, Fix: fix, Final: true, Err: err}
	}
	ref, err := name.ParseReference(image)
	if err != nil {
		return nil, &trysail.ImageError{
			Code: codeName, Image: image, Message: mark(image) + " is not a valid image name.",
			Fix: "Write it as [registry/]repository[:tag], such as nginx:1.27 or ghcr.io/owner/app:v2.", Final: true, Err: err,
		}
	}
	return ref, nil
}

// query is one Resolve in progress.
type query struct {
	image    string // as the user wrote it
	ref      name.Reference
	platform v1.Platform
	keychain authn.Keychain
	began    time.Time
	session  *session
	user     string // whose login was sent
	loggedIn bool   // a login was sent
}

// find does the asking. Its errors are for fault.
func (q *query) find(ctx context.Context) (trysail.Image, error) {
	desc, err := q.get(ctx, q.ref)
	if err != nil {
		return trysail.Image{}, err
	}
	declared := false // an index said what the manifest runs on
	for depth := 0; ; depth++ {
		m, err := parseManifest(desc)
		if err != nil {
			return trysail.Image{}, err
		}
		if m.Config != nil {
			return q.describe(desc, m, declared)
		}
		if depth == maxIndexDepth {
			return trysail.Image{}, &formatError{what: "indexes within indexes, more than anybody needs"}
		}
		child, err := choose(m.Manifests, q.platform)
		if err != nil {
			return trysail.Image{}, err
		}
		declared = child.Platform != nil
		if child.Size > maxAnswer {
			return trysail.Image{}, errTooLarge
		}
		if desc, err = q.get(ctx, q.ref.Context().Digest(child.Digest.String())); err != nil {
			return trysail.Image{}, &partError{part: "manifest " + child.Digest.String(), err: err}
		}
	}
}

// manifest is what an index or a manifest has that concerns us.
type manifest struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     types.MediaType `json:"mediaType"`
	Config        *v1.Descriptor  `json:"config"`
	Manifests     []v1.Descriptor `json:"manifests"`
}

// parseManifest goes by the content: some registries send the wrong media type with it.
func parseManifest(desc *remote.Descriptor) (manifest, error) {
	var m manifest
	if err := json.Unmarshal(desc.Manifest, &m); err != nil {
		return m, &formatError{what: describeAnswer(string(desc.MediaType)), err: err}
	}
	switch {
	case m.Config != nil && m.Manifests != nil:
		return m, &formatError{what: "a manifest that is an index too, and could mean two images"}
	case m.Config == nil && m.Manifests == nil && m.SchemaVersion == 1:
		return m, &formatError{what: "a manifest in the format of 2013 (schema 1), which nothing runs any more", final: true}
	case m.Config == nil && m.Manifests == nil:
		return m, &formatError{what: "something else than a manifest"}
	case m.Config != nil && !isImageConfig(m.Config.MediaType):
		return m, &formatError{what: "an artifact of type " + mark(string(m.Config.MediaType)) + ", which is not a container image", final: true}
	case m.Config != nil && m.Config.Size > maxAnswer:
		return m, errTooLarge
	}
	return m, nil
}

// isImageConfig accepts what image builders write: early ones left the type out or did not know it.
func isImageConfig(t types.MediaType) bool {
	return t.IsConfig() || t == "" || t == "application/octet-stream" || t == "application/json"
}

// imageConfig is the part of an image's configuration that concerns us. Anything else in it is not our business, not
// even whether it is well-formed.
type imageConfig struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Config       struct {
		Entrypoint   []string
		Cmd          []string
		ExposedPorts map[string]json.RawMessage
		User         string
		WorkingDir   string
	} `json:"config"`
}

// describe reads the image's configuration. declared is true if an index said that the manifest is for our platform:
// that is more reliable than the configuration, in which tools that convert images leave the wrong architecture.
func (q *query) describe(desc *remote.Descriptor, m manifest, declared bool) (trysail.Image, error) {
	// Descriptor.Image goes by the media type.
	if desc.MediaType = m.MediaType; !desc.MediaType.IsImage() {
		desc.MediaType = types.OCIManifestSchema1
	}
	img, err := desc.Image()
	if err != nil {
		return trysail.Image{}, &formatError{what: "a manifest that makes no sense", err: err}
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		return trysail.Image{}, &partError{part: "configuration " + m.Config.Digest.String(), err: err}
	}
	var c imageConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		return trysail.Image{}, &formatError{what: "a configuration that makes no sense", err: err}
	}
	if !declared && !compatible(c.OS, c.Architecture, q.platform) {
		return trysail.Image{}, &platformError{offers: []string{cmp.Or(c.OS, "linux") + "/" + cmp.Or(c.Architecture, "unknown")}}
	}
	digest := desc.Digest.String()
	return trysail.Image{
		Name: q.image, Digest: digest, Reference: fullName(q.ref.Context()) + "@" + digest,
		Architecture: q.platform.Architecture, Entrypoint: c.Config.Entrypoint, Command: c.Config.Cmd,
		ExposedPorts: ports(c.Config.ExposedPorts), User: c.Config.User, WorkingDir: c.Config.WorkingDir,
	}, nil
}

// ports lists exposed ports in the form 80/tcp, sorted by text.
func ports(exposed map[string]json.RawMessage) []string {
	var list []string
	for p := range exposed {
		if !strings.Contains(p, "/") {
			p += "/tcp"
		}
		list = append(list, p)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// get asks for a manifest. It logs in when the registry wants that.
func (q *query) get(ctx context.Context, ref name.Reference) (*remote.Descriptor, error) {
	opts, err := q.options(ctx)
	if err != nil {
		return nil, err
	}
	desc, err := remote.Get(ref, opts...)
	if statusOf(err) != http.StatusUnauthorized || q.session.authorization != "" {
		return desc, err
	}
	if err := q.login(ctx); err != nil {
		return nil, &loginError{err}
	}
	if q.session.authorization == "" {
		return nil, err
	}
	return remote.Get(ref, opts...)
}

// options makes the library use the session and nothing else: a transport of its own making would ask one time more,
// retry for seconds, and use plain HTTP in private networks.
func (q *query) options(ctx context.Context) ([]remote.Option, error) {
	t, err := transport.FromToken(q.ref.Context().Registry, authn.Anonymous, q.session, &transport.Challenge{}, &transport.Token{})
	return []remote.Option{remote.WithContext(ctx), remote.WithTransport(t)}, err
}
