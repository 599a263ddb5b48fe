package registry

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"time"

	"golang.org/x/sys/unix"

	"github.com/trysail/trysail/internal/store"
)

// getBlob serves a blob, or a part of it. HEAD is how a push asks whether it must send the blob, so it makes the blob
// young: Collect leaves it alone until the push had time to be complete.
func (r *Registry) getBlob(x *exchange, req *http.Request) error {
	d, err := parseDigest(req.PathValue("digest"))
	if err != nil {
		return err
	}
	f, err := r.openBlob(req.Context(), d, req.Method == http.MethodHead)
	if err != nil {
		return err
	}
	defer f.Close()
	h := x.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", d.String())
	h.Set("ETag", `"`+d.String()+`"`)
	http.ServeContent(x, req, "", time.Time{}, f)
	return nil
}

// openBlob opens a blob. Error: BLOB_UNKNOWN.
func (r *Registry) openBlob(ctx context.Context, d digest, young bool) (io.ReadSeekCloser, error) {
	r.sweep.RLock()
	defer r.sweep.RUnlock()
	if young {
		if err := r.touchBlob(ctx, d); err != nil {
			return nil, err
		}
	}
	f, err := r.blobs.open(ctx, d)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, unknownBlob(d)
	}
	return f, err
}

// touchBlob makes a blob young. sweep is held. Error: BLOB_UNKNOWN.
func (r *Registry) touchBlob(ctx context.Context, d digest) error {
	err := r.blobs.touch(ctx, d)
	if errors.Is(err, fs.ErrNotExist) {
		return unknownBlob(d)
	}
	return err
}

func unknownBlob(d digest) error { return errorf(codeBlobUnknown, "blob %s is not here", d) }

// deleteBlob deletes a blob that no manifest needs.
func (r *Registry) deleteBlob(x *exchange, req *http.Request) error {
	d, err := parseDigest(req.PathValue("digest"))
	if err != nil {
		return err
	}
	finish, err := r.discard(req, d)
	if err != nil {
		return err
	}
	if err := finish(); err != nil {
		return err
	}
	x.Header().Set("Docker-Content-Digest", d.String())
	x.WriteHeader(http.StatusAccepted)
	return nil
}

// discard takes a blob that no manifest needs out of sight. Errors: BLOB_UNKNOWN, DENIED.
func (r *Registry) discard(req *http.Request, d digest) (finish func() error, err error) {
	r.sweep.Lock()
	defer r.sweep.Unlock()
	if _, err := r.blobs.stat(req.Context(), d); errors.Is(err, fs.ErrNotExist) {
		return nil, unknownBlob(d)
	}
	var needing []string
	err = r.cfg.Store.View(req.Context(), func(tx *store.Tx) (err error) {
		needing, err = tx.ManifestsNeeding(d.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(needing) > 0 {
		return nil, errorf(codeDenied, "blob %s is needed by manifest %s: delete that first", d, needing[0])
	}
	return r.blobs.discard(req.Context(), d)
}

// available is how many bytes are free on the disk, or 0 when it does not tell.
func (r *Registry) available() int64 {
	var s unix.Statfs_t
	if err := unix.Statfs(r.cfg.Dir, &s); err != nil {
		return 0
	}
	return int64(s.Bavail) * s.Bsize //nolint:gosec // a disk has less than 8 EiB
}

// checkRoom refuses what would leave less than the reserve on the disk. Error: DENIED.
func (r *Registry) checkRoom(bytes int64) error {
	if free := r.available(); free-max(bytes, 0) < r.cfg.ReserveBytes {
		return errFull(free)
	}
	return nil
}
