package registry

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
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
	f, err := r.openBlob(d, req.Method == http.MethodHead)
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

// openBlob opens the file of a blob. Error: BLOB_UNKNOWN.
func (r *Registry) openBlob(d digest, young bool) (*os.File, error) {
	r.sweep.RLock()
	defer r.sweep.RUnlock()
	if young {
		if err := r.touchBlob(d); err != nil {
			return nil, err
		}
	}
	f, err := os.Open(r.blobPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, unknownBlob(d)
	}
	return f, err
}

// touchBlob makes a blob young. sweep is held. Error: BLOB_UNKNOWN.
func (r *Registry) touchBlob(d digest) error {
	now := time.Now()
	err := os.Chtimes(r.blobPath(d), now, now)
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
	trash, err := r.discard(req, d)
	if err != nil {
		return err
	}
	if err := emptyTrash(trash); err != nil {
		return err
	}
	x.Header().Set("Docker-Content-Digest", d.String())
	x.WriteHeader(http.StatusAccepted)
	return nil
}

// discard takes a blob that no manifest needs out of sight, and returns what it is called now. Errors: BLOB_UNKNOWN,
// DENIED.
func (r *Registry) discard(req *http.Request, d digest) (trash string, err error) {
	r.sweep.Lock()
	defer r.sweep.Unlock()
	if _, err := os.Stat(r.blobPath(d)); errors.Is(err, fs.ErrNotExist) {
		return "", unknownBlob(d)
	}
	var needing []string
	err = r.cfg.Store.View(req.Context(), func(tx *store.Tx) (err error) {
		needing, err = tx.ManifestsNeeding(d.String())
		return err
	})
	if err != nil {
		return "", err
	}
	if len(needing) > 0 {
		return "", errorf(codeDenied, "blob %s is needed by manifest %s: delete that first", d, needing[0])
	}
	return r.toTrash(d)
}

// toTrash renames the file of a blob, which is quicker than to delete it. sweep is held alone.
func (r *Registry) toTrash(d digest) (string, error) {
	trash := filepath.Join(r.trashDir(), d.algorithm+"-"+d.hex)
	return trash, os.Rename(r.blobPath(d), trash)
}

// emptyTrash removes what toTrash has renamed.
func emptyTrash(path string) error {
	err := os.Remove(path) //nolint:gosec // toTrash made it
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
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
