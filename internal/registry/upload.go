package registry

import (
	"crypto/rand"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// upload is a blob on its way: a file that grows. It outlives the requests that bring its parts, and the process.
type upload struct {
	id   string
	path string
	size atomic.Int64 // bytes received

	// turn holds a value while a request works on the upload; the fields below are that request's.
	turn  chan struct{}
	hash  hash.Hash // canonical, of what was received; nil when nobody knows: after a restart
	ended bool      // it has become a blob, or was given up

	stop func() // makes the request whose turn it is read no more; nil when there is none. Registry.mu guards it.
}

// loadUploads finds the uploads that an earlier process has begun.
func (r *Registry) loadUploads() error {
	entries, err := os.ReadDir(r.uploadsDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		u := r.newUpload(e.Name())
		if time.Since(info.ModTime()) > r.cfg.Grace {
			if err := os.Remove(u.path); err != nil {
				return err
			}
			continue
		}
		u.size.Store(info.Size())
		r.uploads[u.id] = u
	}
	return nil
}

func (r *Registry) newUpload(id string) *upload {
	return &upload{id: id, path: filepath.Join(r.uploadsDir(), id), turn: make(chan struct{}, 1)}
}

// beginUpload makes an upload whose turn is the caller's. Errors: DENIED (full disk), TOOMANYREQUESTS.
func (r *Registry) beginUpload(x *exchange, bytes int64) (*upload, error) {
	if err := r.checkRoom(bytes); err != nil {
		return nil, err
	}
	u := r.newUpload(strings.ToLower(rand.Text()))
	u.turn <- struct{}{}
	u.hash = newHash(canonical)
	u.stop = x.stop
	r.mu.Lock()
	full := len(r.uploads) >= maxUploads
	if !full {
		r.uploads[u.id] = u
	}
	r.mu.Unlock()
	if full {
		return nil, errorf(codeTooMany, "%d uploads have begun and are not complete; try again when some are", maxUploads)
	}
	f, err := os.OpenFile(u.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, errors.Join(err, r.giveUp(u))
	}
	return u, f.Close()
}

// takeUpload gives the upload of a request its turn. A request that still has it is told to end: its client has come
// back over another connection. Error: BLOB_UPLOAD_UNKNOWN.
func (r *Registry) takeUpload(x *exchange, req *http.Request) (*upload, error) {
	id := req.PathValue("id")
	r.mu.Lock()
	u := r.uploads[id]
	if u != nil && u.stop != nil {
		u.stop()
	}
	r.mu.Unlock()
	unknown := errorf(codeUploadUnknown, "there is no upload %q: it is complete, was given up, or was idle for too long", clip(id))
	if u == nil {
		return nil, unknown
	}
	select {
	case u.turn <- struct{}{}:
	case <-req.Context().Done():
		return nil, errClientGone
	}
	if u.ended {
		<-u.turn
		return nil, unknown
	}
	r.mu.Lock()
	u.stop = x.stop
	r.mu.Unlock()
	return u, nil
}

// leave ends the turn of a request, and notes when that was.
func (r *Registry) leave(u *upload) {
	r.mu.Lock()
	u.stop = nil
	r.mu.Unlock()
	if !u.ended {
		now := time.Now()
		_ = os.Chtimes(u.path, now, now) // it only delays when an idle upload is given up
	}
	<-u.turn
}

// forget makes an upload unknown. The caller has its turn.
func (r *Registry) forget(u *upload) {
	u.ended = true
	r.mu.Lock()
	delete(r.uploads, u.id)
	r.mu.Unlock()
}

// giveUp ends an upload without a blob. The caller has its turn.
func (r *Registry) giveUp(u *upload) error {
	r.forget(u)
	if err := os.Remove(u.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("giving up an upload: %w", err)
	}
	return nil
}

// postUpload begins an upload; or takes a whole blob; or finds that the blob is here already.
func (r *Registry) postUpload(x *exchange, req *http.Request) error {
	query := req.URL.Query()
	if mount := query.Get("mount"); mount != "" {
		d, err := parseDigest(mount)
		if err != nil {
			return err
		}
		r.sweep.RLock()
		err = r.touchBlob(req.Context(), d)
		r.sweep.RUnlock()
		if err == nil {
			answerBlob(x, d)
			return nil
		}
		if e, ok := errors.AsType[*clientError](err); !ok || e.code != codeBlobUnknown {
			return err
		}
	}
	var whole digest
	if s := query.Get("digest"); s != "" {
		var err error
		if whole, err = parseDigest(s); err != nil {
			return err
		}
	}
	u, err := r.beginUpload(x, req.ContentLength)
	if err != nil {
		return err
	}
	defer r.leave(u)
	if whole == (digest{}) {
		answerUpload(x, u)
		x.WriteHeader(http.StatusAccepted)
		return nil
	}
	if err := r.receive(req, u); err != nil {
		return errors.Join(err, r.giveUp(u)) // nobody knows its id to go on with it
	}
	return r.complete(req.Context(), x, u, whole)
}

// getUpload says how far an upload is.
func (r *Registry) getUpload(x *exchange, req *http.Request) error {
	r.mu.Lock()
	u := r.uploads[req.PathValue("id")]
	r.mu.Unlock()
	if u == nil {
		return errorf(codeUploadUnknown, "there is no upload %q", clip(req.PathValue("id")))
	}
	answerUpload(x, u)
	x.WriteHeader(http.StatusNoContent)
	return nil
}

// patchUpload takes a part of a blob.
func (r *Registry) patchUpload(x *exchange, req *http.Request) error {
	u, err := r.takeUpload(x, req)
	if err != nil {
		return err
	}
	defer r.leave(u)
	if err := r.receivePart(x, req, u); err != nil {
		return err
	}
	answerUpload(x, u)
	x.WriteHeader(http.StatusAccepted)
	return nil
}

// putUpload takes the last part of a blob, which may be empty or all of it, and completes the upload.
func (r *Registry) putUpload(x *exchange, req *http.Request) error {
	d, err := parseDigest(req.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	u, err := r.takeUpload(x, req)
	if err != nil {
		return err
	}
	defer r.leave(u)
	if err := r.receivePart(x, req, u); err != nil {
		return err
	}
	return r.complete(req.Context(), x, u, d)
}

// deleteUpload gives an upload up.
func (r *Registry) deleteUpload(x *exchange, req *http.Request) error {
	u, err := r.takeUpload(x, req)
	if err != nil {
		return err
	}
	defer r.leave(u)
	if err := r.giveUp(u); err != nil {
		return err
	}
	x.WriteHeader(http.StatusNoContent)
	return nil
}

// answerUpload says where to send the next part, and how much is here.
func answerUpload(w http.ResponseWriter, u *upload) {
	h := w.Header()
	h.Set("Location", base+"/blobs/uploads/"+u.id)
	h.Set("Docker-Upload-Uuid", u.id)
	h.Set("Range", "0-"+strconv.FormatInt(max(u.size.Load()-1, 0), 10))
}

// answerBlob says that a blob is here, durably.
func answerBlob(w http.ResponseWriter, d digest) {
	h := w.Header()
	for _, name := range []string{"Docker-Upload-Uuid", "Range"} {
		h.Del(name)
	}
	h.Set("Location", base+"/blobs/"+d.String())
	h.Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}
