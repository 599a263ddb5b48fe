package push

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// ErrNotThere is returned by Fetch for an image that the registry does not have.
var ErrNotThere = errors.New("the registry does not have the image")

// Fetch makes an image of a registry a source, by its digest, with all its platforms. Its layers are read while they are
// pushed elsewhere, and only those that are missing there. Errors: ErrNotThere.
func Fetch(ctx context.Context, from Target, digest string) (*Source, error) {
	var opts []name.Option
	if from.Insecure {
		opts = append(opts, name.Insecure)
	}
	ref, err := name.NewDigest(from.Repository+"@"+digest, opts...)
	if err != nil {
		return nil, fmt.Errorf("reading the name of the image: %w", err)
	}
	options := []remote.Option{
		remote.WithContext(ctx), remote.WithAuth(&authn.Basic{Username: from.Username, Password: from.Password}), remote.WithJobs(jobs), remote.WithUserAgent("trysail"),
	}
	if from.Transport != nil {
		options = append(options, remote.WithTransport(from.Transport))
	}
	d, err := remote.Get(ref, options...)
	if e, ok := errors.AsType[*transport.Error](err); ok && e.StatusCode == http.StatusNotFound {
		return nil, ErrNotThere
	}
	if err != nil {
		return nil, fmt.Errorf("asking %s for the image: %w", ref.RegistryStr(), err)
	}
	s := &Source{}
	if d.MediaType.IsIndex() {
		s.index, err = d.ImageIndex()
	} else {
		s.image, err = d.Image()
	}
	return s, err
}
