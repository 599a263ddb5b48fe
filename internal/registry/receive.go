package registry

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// receiveBuffer is how much is read from a connection at once.
	receiveBuffer = 256 << 10
	// flushBytes is how much is received before the disk is told to begin writing it. So little is left to be written when
	// the upload is complete and must be durable.
	flushBytes = 8 << 20
)

// receivePart takes the body of a request that may say by Content-Range where in the blob it belongs. Parts come in
// order. Errors: BLOB_UPLOAD_INVALID with status 416, SIZE_INVALID.
func (r *Registry) receivePart(w http.ResponseWriter, req *http.Request, u *upload) error {
	begin := u.size.Load()
	length := int64(-1)
	if s := req.Header.Get("Content-Range"); s != "" {
		first, last, ok := parseContentRange(s)
		if !ok {
			return errorf(codeUploadInvalid, "Content-Range %q is not first-last, such as 0-1023", clip(s))
		}
		length = last - first + 1
		if first != begin {
			answerUpload(w, u)
			return errorf(codeUploadInvalid, "the part begins at byte %d, but %d bytes were received so far", first, begin)
		}
		if req.ContentLength >= 0 && req.ContentLength != length {
			return errorf(codeSizeInvalid, "Content-Range %s has %d bytes, but Content-Length is %d", s, length, req.ContentLength)
		}
	}
	if err := r.checkRoom(req.ContentLength); err != nil {
		return err
	}
	err := r.receive(req, u)
	if err != nil && !errors.Is(err, errClientGone) {
		return errors.Join(err, r.giveUp(u)) // file and hash may differ now
	}
	if err == nil && length >= 0 && u.size.Load()-begin != length {
		return errors.Join(errorf(codeSizeInvalid, "Content-Range had %d bytes, the body had %d", length, u.size.Load()-begin), r.giveUp(u))
	}
	return err
}

// parseContentRange parses first-last, the form of the OCI specification.
func parseContentRange(s string) (first, last int64, ok bool) {
	s, _, _ = strings.Cut(strings.TrimPrefix(s, "bytes "), "/") // as RFC 9110 has it: bytes first-last/size
	a, b, _ := strings.Cut(s, "-")
	first, err1 := strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(b, 10, 64)
	return first, last, err1 == nil && err2 == nil && first >= 0 && last >= first && last < 1<<62
}

// receive appends the body of a request to the upload. After errClientGone what arrived is kept, and the upload can go
// on; after any other error it cannot.
func (r *Registry) receive(req *http.Request, u *upload) error {
	if req.ContentLength == 0 {
		return nil
	}
	release, err := r.slot(req)
	if err != nil {
		return err
	}
	defer release()
	buf := r.buffers.Get().(*[]byte) //nolint:errcheck,forcetypeassert // the pool holds nothing else
	defer r.buffers.Put(buf)
	f, err := os.OpenFile(u.path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("opening an upload: %w", err)
	}
	defer f.Close()
	if u.hash == nil {
		u.hash, err = hashFile(f, canonical, *buf)
		if err != nil {
			return err
		}
	}
	return r.fill(u, f, req.Body, *buf)
}

// fill copies body to the end of the upload's file.
func (r *Registry) fill(u *upload, f *os.File, body io.Reader, buf []byte) error {
	flushed := u.size.Load()
	for {
		n, readErr := body.Read(buf)
		if n > 0 {
			if _, err := f.Write(buf[:n]); err != nil {
				return fmt.Errorf("writing an upload: %w", err)
			}
			u.hash.Write(buf[:n])
			size := u.size.Add(int64(n))
			if size-flushed >= flushBytes {
				// An advice: what it does not do, the sync at the end does.
				_ = unix.SyncFileRange(int(f.Fd()), flushed, size-flushed, unix.SYNC_FILE_RANGE_WRITE)
				flushed = size
				if err := r.checkRoom(0); err != nil {
					return err
				}
			}
		}
		switch {
		case errors.Is(readErr, io.EOF):
			return nil
		case readErr != nil:
			return fmt.Errorf("%w: %w", errClientGone, readErr)
		}
	}
}

// slot waits until there are fewer than maxReceiving other requests that send a blob. Error: TOOMANYREQUESTS after a minute.
func (r *Registry) slot(req *http.Request) (release func(), err error) {
	patience := time.NewTimer(stall)
	defer patience.Stop()
	select {
	case r.slots <- struct{}{}:
		return func() { <-r.slots }, nil
	case <-req.Context().Done():
		return nil, errClientGone
	case <-patience.C:
		return nil, errorf(codeTooMany, "%d other uploads are under way", maxReceiving)
	}
}

// hashFile hashes a file from its beginning.
func hashFile(f *os.File, algorithm string, buf []byte) (hash.Hash, error) {
	h := newHash(algorithm)
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, buf); err != nil {
		return nil, fmt.Errorf("reading an upload: %w", err)
	}
	return h, nil
}

// complete makes a blob of an upload: when the client is told so, the content is what the digest promises, and durable.
// Error: DIGEST_INVALID, after which the upload is gone.
func (r *Registry) complete(ctx context.Context, w http.ResponseWriter, u *upload, d digest) error {
	if err := r.commit(ctx, u, d); err != nil {
		if errors.Is(err, errStorage) {
			return err // what was received is here, and completing it may be tried again
		}
		return errors.Join(err, r.giveUp(u))
	}
	answerBlob(w, d)
	return nil
}

func (r *Registry) commit(ctx context.Context, u *upload, d digest) error {
	f, err := os.Open(u.path)
	if err != nil {
		return fmt.Errorf("opening an upload: %w", err)
	}
	defer f.Close()
	h := u.hash
	if h == nil || d.algorithm != canonical {
		buf := r.buffers.Get().(*[]byte) //nolint:errcheck,forcetypeassert // the pool holds nothing else
		h, err = hashFile(f, d.algorithm, *buf)
		r.buffers.Put(buf)
		if err != nil {
			return err
		}
	}
	if got := sumOf(d.algorithm, h); got != d {
		return errorf(codeDigestInvalid, "the %d bytes received have the digest %s, not %s", u.size.Load(), got, d)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing a blob to the disk: %w", err)
	}
	r.sweep.RLock()
	defer r.sweep.RUnlock()
	if err := r.blobs.put(ctx, d, u.path); err != nil {
		return fmt.Errorf("naming a blob: %w", err)
	}
	r.forget(u)
	return nil
}

// renameDurably renames a file into a directory that may not exist yet.
func renameDurably(from, to string) error {
	dir := filepath.Dir(to)
	err := os.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		err = os.Rename(from, to)
	}
	if err != nil {
		return err
	}
	return errors.Join(syncDir(dir), syncDir(filepath.Dir(dir))) // quick when the second has not changed
}
