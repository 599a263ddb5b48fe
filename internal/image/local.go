package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

// stored is an image in our own registry. It is a source.
type stored struct {
	local Local
	image string // :service.label.N, or the name by digest under which engines know it
}

// isStored is true for the names of stored images: those in deployments, and those that engines know.
func isStored(image string) bool {
	return strings.HasPrefix(image, ":") || strings.HasPrefix(image, trysail.StoredRepository+"@")
}

// resolveStored is Resolve for an image in our own registry.
func (r *Resolver) resolveStored(ctx context.Context, image string) (trysail.Image, error) {
	src, fault := r.stored(image)
	if fault != nil {
		return trysail.Image{}, fault
	}
	found, err := find(ctx, src, image, r.cfg.Platform)
	if err != nil {
		return trysail.Image{}, src.fault(err, r.cfg.Platform)
	}
	found.Reference = trysail.StoredRepository + "@" + found.Digest
	return found, nil
}

func (r *Resolver) stored(image string) (stored, *trysail.ImageError) {
	src := stored{local: r.cfg.Local, image: image}
	if _, ok := trysail.ParseStoredImage(image); !ok && strings.HasPrefix(image, ":") {
		return src, &trysail.ImageError{
			Code: codeName, Image: image, Final: true, Message: mark(image) + " is not the name of a stored image.",
			Fix: "Write it as :service.label.number or :service.label.latest, as get-container-images shows it.", Err: errors.New("malformed name"),
		}
	}
	if r.cfg.Local == nil {
		return src, src.absent(errors.New("there is no registry here"))
	}
	return src, nil
}

// manifest implements source.
func (s stored) manifest(ctx context.Context, digest string) (content, error) {
	if digest == "" {
		var err error
		if digest, err = s.digest(ctx); err != nil {
			return content{}, err
		}
	}
	mediaType, b, err := s.local.Manifest(ctx, digest)
	if err != nil {
		return content{}, err
	}
	if err := verify(b, digest); err != nil {
		return content{}, err
	}
	return content{mediaType: mediaType, digest: digest, bytes: b}, nil
}

// digest is what the image's name stands for at this moment.
func (s stored) digest(ctx context.Context) (string, error) {
	if _, digest, ok := strings.Cut(s.image, "@"); ok {
		return digest, trysail.ValidateDigest(digest)
	}
	name, _ := trysail.ParseStoredImage(s.image)
	return s.local.Digest(ctx, name)
}

// config implements source.
func (s stored) config(ctx context.Context, desc v1.Descriptor) ([]byte, error) {
	path, size, err := s.local.Blob(ctx, desc.Digest.String())
	if err != nil {
		return nil, err
	}
	if size > maxAnswer {
		return nil, errTooLarge
	}
	f, err := os.Open(path) //nolint:gosec // the path comes from our own registry
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxAnswer))
	if err != nil {
		return nil, err
	}
	return b, verify(b, desc.Digest.String())
}

// blob is Blob for an image in our own registry: the registry's file itself.
func (s stored) blob(ctx context.Context, blob engine.Descriptor) (engine.File, error) {
	path, size, err := s.local.Blob(ctx, blob.Digest)
	if err != nil {
		return engine.File{}, &partError{part: "blob " + blob.Digest, err: err}
	}
	if size != blob.Size {
		return engine.File{}, &digestError{digest: blob.Digest}
	}
	return engine.File{Path: path, Release: func() {}}, nil
}

// fault says what an error of our own registry means.
func (s stored) fault(err error, platform v1.Platform) error {
	q := &query{image: s.image, platform: platform}
	corrupt := func(what string, final bool) *trysail.ImageError {
		return &trysail.ImageError{Code: codeCorrupt, Final: final, Message: what, Fix: "Push the image again: trysail push."}
	}
	var f *trysail.ImageError
	platformErr, isPlatform := errors.AsType[*platformError](err)
	formatErr, isFormat := errors.AsType[*formatError](err)
	imageErr, isImage := errors.AsType[*trysail.ImageError](err)
	_, isDigest := errors.AsType[*digestError](err)
	switch {
	case isImage:
		copied := *imageErr
		f = &copied
	case isPlatform:
		f = q.archFault(platformErr)
	case isFormat:
		f = corrupt("What was pushed as "+mark(s.image)+" is "+formatErr.what+".", true)
	case errors.Is(err, errTooLarge):
		f = corrupt("What was pushed as "+mark(s.image)+" has a description that is larger than 4 MiB.", true)
	case isDigest:
		f = corrupt("A part of the stored image "+mark(s.image)+" is damaged on this machine's disk.", false)
	case errors.Is(err, fs.ErrNotExist):
		return s.absent(err)
	default:
		f = &trysail.ImageError{Code: trysail.CodeImageLocal, Message: "The stored image " + mark(s.image) + " cannot be read.", Fix: "Look at the server's log, and at the disk."}
	}
	f.Image = s.image
	if f.Err == nil {
		f.Err = shortError{err}
	}
	return f
}

func (s stored) absent(err error) *trysail.ImageError {
	return &trysail.ImageError{
		Code: trysail.CodeImageLocal, Image: s.image, Final: true, Err: err,
		Message: fmt.Sprintf("No image %s is stored here, or a part of it is gone.", mark(s.image)),
		Fix:     "Push it: trysail push, or aws lightsail push-container-image.",
	}
}

// digestError says that content is not what its digest promises.
type digestError struct{ digest string }

func (e *digestError) Error() string { return "the content is not that of " + e.digest }

// verify compares content with its digest. Error: *digestError.
func verify(b []byte, digest string) error {
	sum := sha256.Sum256(b)
	if digest != "sha256:"+hex.EncodeToString(sum[:]) {
		return &digestError{digest: digest}
	}
	return nil
}
