// Package registry is an OCI distribution 1.1 server for what is pushed to this installation: one repository, sr, as on
// Lightsail, shared by all services.
//
// A blob is a file named by its digest, and the file is the truth of it: it gets its name after its content is verified
// and on the disk. A manifest is a row of the store, together with what it needs; a manifest is accepted only when all of
// that is here, and nothing that a manifest needs can be deleted before it.
//
// Garbage is collected while clients push. A push relies on blobs that it was told are here; the time of last change of a
// blob's file is when that was said last, and Collect leaves alone what is younger than Config.Grace.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// Repository is the name of the only repository, as on Lightsail.
const Repository = "sr"

// Username is the user name of every login.
const Username = "AWS"

const (
	defaultGrace   = 24 * time.Hour
	defaultReserve = 256 << 20
	// maxReceiving is how many requests may send blobs at the same time. Each has a buffer of receiveBuffer.
	maxReceiving = 32
	// maxUploads is how many uploads may be begun and not ended.
	maxUploads = 1000
)

// Platform is what images must be made for to run on a machine, in Go's words.
type Platform struct{ OS, Architecture string }

func (p Platform) String() string { return p.OS + "/" + p.Architecture }

// Config is what a Registry needs. The zero values of its optional fields mean their defaults.
type Config struct {
	// Dir is where blobs are stored. It is made if it does not exist. Nobody else writes to it.
	Dir string
	// Bucket keeps the blobs instead of Dir, which then has the uploads under way and copies; nil: there is none.
	Bucket *Bucket
	// Store has the manifests, tags, logins and registered images.
	Store *store.Store
	// Platform is what images must be made for. Default: this machine's.
	Platform Platform
	// Log gets errors that are ours, and what was collected. Default: none.
	Log *slog.Logger
	// Grace is how long unregistered manifests, tags, blobs that no manifest needs and idle uploads are kept. Default: 24 h.
	Grace time.Duration
	// ReserveBytes is how much room a push must leave on the disk. Default: 256 MiB.
	ReserveBytes int64
}

// Registry stores and serves images. Its methods may be called at the same time.
type Registry struct {
	cfg     Config
	handler http.Handler
	blobs   blobs
	buffers sync.Pool     // of *[]byte, receiveBuffer long
	slots   chan struct{} // one per request that sends a blob

	// sweep is held shared while a request relies on a blob being here, and alone while Collect or a deletion takes some away.
	sweep sync.RWMutex

	collecting sync.Mutex // one collection at a time

	mu      sync.Mutex // guards uploads
	uploads map[string]*upload
}

// Open makes the directories it needs, and removes what a process that ended in the middle of its work has left there.
// Uploads that were begun can be resumed.
func Open(ctx context.Context, cfg Config) (*Registry, error) {
	if cfg.Platform == (Platform{}) {
		cfg.Platform = Platform{OS: "linux", Architecture: runtime.GOARCH}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Grace == 0 {
		cfg.Grace = defaultGrace
	}
	if cfg.ReserveBytes == 0 {
		cfg.ReserveBytes = defaultReserve
	}
	r := &Registry{cfg: cfg, slots: make(chan struct{}, maxReceiving), uploads: map[string]*upload{}}
	r.buffers.New = func() any { b := make([]byte, receiveBuffer); return &b }
	r.handler = r.routes()
	if err := r.makeDirs(ctx); err != nil {
		return nil, fmt.Errorf("opening the registry: %w", err)
	}
	if err := r.loadUploads(); err != nil {
		return nil, fmt.Errorf("opening the registry: %w", err)
	}
	return r, nil
}

// Handler serves everything under /v2/. It moves the deadlines of its connections itself: what stalls for a minute is
// cut, what flows is not.
func (r *Registry) Handler() http.Handler { return r.handler }

// Digest returns the digest of what a stored image's name stands for now. Error: *trysail.ImageError when there is no
// such image.
func (r *Registry) Digest(ctx context.Context, name trysail.StoredImage) (string, error) {
	var img trysail.RegisteredImage
	err := r.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		img, err = tx.FindImage(name)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return "", &trysail.ImageError{
			Code: trysail.CodeImageLocal, Image: name.Name(), Final: true, Err: err,
			Message: fmt.Sprintf("No image %q is registered.", name.Name()),
			Fix:     "See which there are with: aws lightsail get-container-images --service-name " + name.Service + ". Push it with: trysail push.",
		}
	}
	return img.Digest, err
}

// Manifest returns a manifest or index. Error: fs.ErrNotExist when there is none.
func (r *Registry) Manifest(ctx context.Context, digest string) (mediaType string, content []byte, err error) {
	var m store.Manifest
	err = r.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		m, err = tx.Manifest(digest)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("manifest %s: %w", digest, fs.ErrNotExist)
	}
	return m.MediaType, m.Content, err
}

// Blob returns the file of a blob, which must not be changed, and its size in bytes. Error: fs.ErrNotExist when there is
// none.
func (r *Registry) Blob(ctx context.Context, digest string) (path string, size int64, err error) {
	d, err := parseDigest(digest)
	if err != nil {
		return "", 0, fmt.Errorf("blob %q: %w", digest, fs.ErrNotExist)
	}
	return r.blobs.file(ctx, d)
}

func (r *Registry) uploadsDir() string { return filepath.Join(r.cfg.Dir, "uploads") }

// makeDirs makes the directories that are always there, and the store of the blobs.
func (r *Registry) makeDirs(ctx context.Context) (err error) {
	if err := os.MkdirAll(r.uploadsDir(), 0o700); err != nil {
		return err
	}
	if r.cfg.Bucket != nil {
		r.blobs, err = openBucket(ctx, *r.cfg.Bucket, filepath.Join(r.cfg.Dir, "cache"), r.cfg.Grace)
	} else {
		r.blobs, err = openDisk(r.cfg.Dir)
	}
	return errors.Join(err, syncDir(r.cfg.Dir), syncDir(filepath.Dir(r.cfg.Dir)))
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir) //nolint:gosec // one of our own directories
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
