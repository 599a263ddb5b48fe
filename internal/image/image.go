// Package image asks registries what an image name means for this machine, before anything is pulled, says in one
// sentence why an image cannot be had, and fetches what containers need of it.
//
// An image is stored in this installation's own registry (local.go) or elsewhere. Elsewhere is a registry and the
// mirrors that the operator has set for it (place.go); each of them is asked by a query (query.go), which talks through
// a session (session.go), logs in when told to (login.go, ecr.go), and explains what went wrong (fault.go, network.go).
// Layers are fetched into files (blobs.go, download.go).
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
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

// maxIndexDepth bounds indexes within indexes. Builders make one level; two are seen when indexes are merged.
const maxIndexDepth = 3

// Config is what a Resolver works with. The zero value is ready for use.
type Config struct {
	// Version is that of this program; registries see it as the user agent trysail/<version>.
	Version string
	// Platform is what images must run on. Zero means linux on the architecture of this program.
	Platform v1.Platform
	// Timeout bounds one Resolve or Manifest together with its context. Zero means 30 s.
	Timeout time.Duration
	// Local is this installation's own registry. Nil means that no image is stored here.
	Local Local
	// Registries tells what the operator has said about a registry, by its host as in image names; Docker Hub is
	// docker.io. The zero Registry means nothing. Nil means that nothing is known of any.
	Registries func(ctx context.Context, host string) (trysail.Registry, error)
	// Dir is where Blob puts what it fetches. It is made if need be, mode 0700, and belongs to this Resolver alone.
	// Empty means that only stored images can be had.
	Dir string
	// ECR gets the login for the private ECR registries of a region. Nil means from AWS, with the credentials that
	// its SDK finds on this machine.
	ECR func(ctx context.Context, region string) (ECRLogin, error)
}

// Local is this installation's own registry.
type Local interface {
	// Digest is that of the manifest or index that an image stands for. Error: *trysail.ImageError with IMG-LOCAL.
	Digest(ctx context.Context, image trysail.StoredImage) (string, error)
	// Manifest returns a manifest or index. Error: fs.ErrNotExist when it is not there.
	Manifest(ctx context.Context, digest string) (mediaType string, content []byte, err error)
	// Blob returns the file that holds a blob, which must not be written to, and its size in bytes. Error:
	// fs.ErrNotExist when it is not there.
	Blob(ctx context.Context, digest string) (path string, size int64, err error)
}

// Resolver asks registries about images and fetches them. It implements engine.Images. Its methods are safe for
// concurrent use.
type Resolver struct {
	cfg       Config
	transport *http.Transport
	grants    grants
	blobs     blobs

	mu         sync.Mutex                 // guards transports
	transports map[string]*http.Transport // by the CA that is trusted besides the system's
}

var _ engine.Images = (*Resolver)(nil)

// New makes a Resolver and removes from Config.Dir what an earlier one has left there more than a day ago. End it with
// Close.
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
	if cfg.ECR == nil {
		cfg.ECR = awsLogin
	}
	r := &Resolver{cfg: cfg, transport: newTransport(), transports: map[string]*http.Transport{}}
	r.blobs.init(cfg.Dir)
	return r
}

// Close ends the fetches under way, what has been fetched so far stays in Config.Dir, and the connections that are kept.
func (r *Resolver) Close() {
	r.blobs.close()
	r.transport.CloseIdleConnections()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.transports {
		t.CloseIdleConnections()
	}
}

// Resolve asks the registry of an image what it is for this machine. Digest and Reference are those of the manifest
// for our platform even if the name stands for many. Every error is a *trysail.ImageError.
func (r *Resolver) Resolve(ctx context.Context, image string) (trysail.Image, error) {
	if isStored(image) {
		return r.resolveStored(ctx, image)
	}
	ref, fault := parse(image)
	if fault != nil {
		return trysail.Image{}, fault
	}
	var found trysail.Image
	fault = r.ask(ctx, image, ref, func(ctx context.Context, q *query) (err error) {
		found, err = find(ctx, q, image, r.cfg.Platform)
		return err
	})
	if fault != nil {
		return trysail.Image{}, fault
	}
	found.Reference = fullName(ref.Context()) + "@" + found.Digest // also if a mirror said so
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

// source is where the parts of an image are: a registry elsewhere or our own.
type source interface {
	// manifest gets the manifest or index with a digest; with an empty digest the one that the image's name stands for.
	manifest(ctx context.Context, digest string) (content, error)
	// config gets the configuration that a manifest names.
	config(ctx context.Context, desc v1.Descriptor) ([]byte, error)
}

// content is a manifest or index.
type content struct {
	mediaType string // as the registry says
	digest    string
	bytes     []byte
}

// find does the asking. Its errors are for fault.
func find(ctx context.Context, src source, image string, platform v1.Platform) (trysail.Image, error) {
	c, err := src.manifest(ctx, "")
	if err != nil {
		return trysail.Image{}, err
	}
	declared := false // an index said what the manifest runs on
	for depth := 0; ; depth++ {
		m, err := parseManifest(c)
		if err != nil {
			return trysail.Image{}, err
		}
		if m.Config != nil {
			raw, err := src.config(ctx, *m.Config)
			if err != nil {
				return trysail.Image{}, &partError{part: "configuration " + m.Config.Digest.String(), err: err}
			}
			return describe(image, c.digest, raw, platform, declared)
		}
		if depth == maxIndexDepth {
			return trysail.Image{}, &formatError{what: "indexes within indexes, more than anybody needs"}
		}
		child, err := choose(m.Manifests, platform)
		if err != nil {
			return trysail.Image{}, err
		}
		declared = child.Platform != nil
		if child.Size > maxAnswer {
			return trysail.Image{}, errTooLarge
		}
		if c, err = src.manifest(ctx, child.Digest.String()); err != nil {
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
func parseManifest(c content) (manifest, error) {
	var m manifest
	if err := json.Unmarshal(c.bytes, &m); err != nil {
		return m, &formatError{what: describeAnswer(c.mediaType), err: err}
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
func describe(image, digest string, raw []byte, platform v1.Platform, declared bool) (trysail.Image, error) {
	var c imageConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		return trysail.Image{}, &formatError{what: "a configuration that makes no sense", err: err}
	}
	if !declared && !compatible(c.OS, c.Architecture, platform) {
		return trysail.Image{}, &platformError{offers: []string{cmp.Or(c.OS, "linux") + "/" + cmp.Or(c.Architecture, "unknown")}}
	}
	return trysail.Image{
		Name: image, Digest: digest, Architecture: platform.Architecture, Entrypoint: c.Config.Entrypoint, Command: c.Config.Cmd,
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
