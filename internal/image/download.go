package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
)

const (
	// maxCuts is how often in a row a fetch may be cut without a byte in between; of a mirror, once.
	maxCuts = 5
	// cutPause is the wait after the first cut. It doubles with each.
	cutPause = 200 * time.Millisecond
	// maxPatience bounds the wait that a registry may ask for.
	maxPatience = 30 * time.Second
	// stallTime is how long a registry may send nothing.
	stallTime = 30 * time.Second
	// readSize is how much is read, hashed and written at once, in bytes.
	readSize = 256 << 10
)

// errStalled says that a registry stopped sending.
var errStalled = errors.New("nothing came for " + stallTime.String())

// fetch fetches a blob into f.path.
func (r *Resolver) fetch(ctx context.Context, image string, ref name.Digest, blob engine.Descriptor, f *fetch) error {
	release, err := r.blobs.slot(ctx, ref.Context().RegistryStr())
	if err != nil {
		return err
	}
	defer release()
	p, err := openPart(r.blobs.dir, f.path, blob.Size)
	if err != nil {
		return diskFault(image, r.blobs.dir, err)
	}
	defer p.close()
	f.bytes.Store(p.size)
	d := &download{resolver: r, image: image, ref: ref, blob: blob, part: p, fetch: f}
	if err := d.run(ctx); err != nil {
		return err
	}
	if err := p.complete(f.path); err != nil {
		return diskFault(image, r.blobs.dir, err)
	}
	return nil
}

// download is the fetch of one blob: as many tries as it takes, of as many places as there are.
type download struct {
	resolver *Resolver
	image    string
	ref      name.Digest
	blob     engine.Descriptor
	part     *part
	fetch    *fetch

	place   int // index of the place in use: mirrors first
	cuts    int // in a row without a byte
	damaged int // how often the content was not that of the digest
	mirrors mentions
	resumed bool // the part, or its beginning, is from another process
}

// run returns when the part is the blob.
func (d *download) run(ctx context.Context) error {
	d.resumed = d.part.size > 0
	for {
		if d.part.size == d.blob.Size {
			if d.part.digest() == d.blob.Digest {
				return nil
			}
			if fault := d.damage(ctx); fault != nil {
				return fault
			}
		}
		queries, fault := d.resolver.queries(ctx, d.image, d.ref)
		if fault != nil {
			return fault
		}
		q := queries[min(d.place, len(queries)-1)]
		before := d.part.size
		err := q.fetch(ctx, d.blob, d.part, d.fetch)
		if d.part.size > before {
			d.cuts = 0
		}
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if fault := d.cut(ctx, q, err); fault != nil {
			return fault
		}
	}
}

// damage begins anew, elsewhere if there is an elsewhere, when the content is not that of the digest. It does so twice.
func (d *download) damage(ctx context.Context) error {
	if err := d.part.reset(); err != nil {
		return diskFault(d.image, d.resolver.blobs.dir, err)
	}
	d.fetch.bytes.Store(0)
	if d.resumed {
		d.resumed = false // the machine may have lost power in between, and a file its content
		return nil
	}
	d.place++
	if d.damaged++; d.damaged < 2 {
		return nil
	}
	queries, fault := d.resolver.queries(ctx, d.image, d.ref)
	if fault != nil {
		return fault
	}
	q := queries[len(queries)-1]
	return &trysail.ImageError{
		Code: codeCorrupt, Image: d.image, Err: &digestError{digest: d.blob.Digest},
		Message: fmt.Sprintf("A part of %s arrived damaged from %s, %d times.", mark(d.image), q.registry(), d.damaged),
		Fix:     "Look for a proxy on the way that changes content; if there is none, push the image again.",
	}
}

// cut decides what follows from a try that did not end well: nil means another try, of this place or of the next.
func (d *download) cut(ctx context.Context, q *query, err error) error {
	if e, ok := errors.AsType[*diskError](err); ok {
		return diskFault(d.image, d.resolver.blobs.dir, e.err)
	}
	pause := cutPause << d.cuts
	d.cuts++
	most := maxCuts
	if q.mirror {
		most = 1
	}
	if asked := time.Until(resetTime(q.session.header, time.Now())); statusOf(err) >= http.StatusBadRequest && asked > 0 {
		pause = asked
	}
	if isPassing(err) && d.cuts <= most && pause <= maxPatience {
		if !wait(ctx, pause) {
			return ctx.Err()
		}
		return nil
	}
	fault := q.fault(ctx, &partError{part: "blob " + d.blob.Digest, err: err})
	if q.mirror {
		d.mirrors.add(q, fault)
		d.place++
		d.cuts = 0
		return nil
	}
	return d.mirrors.in(fault)
}

// isPassing is true for errors that another try may not meet.
func isPassing(err error) bool {
	switch status := statusOf(err); {
	case status != 0:
		return status == http.StatusTooManyRequests || status == http.StatusRequestTimeout || status == http.StatusRequestedRangeNotSatisfiable || status >= http.StatusInternalServerError
	case isCertificate(err), errors.Is(err, errPlainHTTP), errors.Is(err, errManyTurns):
		return false
	}
	_, isEcr := errors.AsType[*ecrError](err)
	_, isKeychain := errors.AsType[*keychainError](err)
	return !isEcr && !isKeychain
}

// fetch adds to the part what is missing. It returns nil if there may be more to come.
func (q *query) fetch(ctx context.Context, blob engine.Descriptor, p *part, f *fetch) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(stallTime, func() { cancel(errStalled) })
	defer stalled.Stop()
	err := q.receive(ctx, blob, p, func() {
		stalled.Reset(stallTime)
		f.bytes.Store(p.size)
	})
	if errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// receive calls arrived whenever something came.
func (q *query) receive(ctx context.Context, blob engine.Descriptor, p *part, arrived func()) error {
	var resp *http.Response
	err := q.authorized(ctx, func() (err error) {
		resp, err = q.open(ctx, blob, p.size) //nolint:bodyclose // it is closed below
		return err
	})
	if statusOf(err) == http.StatusRequestedRangeNotSatisfiable && p.size > 0 {
		if err := p.reset(); err != nil { // the next try asks for all of it
			return &diskError{err}
		}
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusPartialContent && !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", p.size)):
		return &formatError{what: "another range of bytes than it was asked for"}
	case resp.StatusCode == http.StatusOK && p.size > 0: // it knows no ranges
		if err := p.reset(); err != nil {
			return &diskError{err}
		}
	}
	buf := make([]byte, min(readSize, blob.Size-p.size))
	for p.size < blob.Size {
		n, err := resp.Body.Read(buf[:min(int64(len(buf)), blob.Size-p.size)])
		if werr := p.write(buf[:n]); werr != nil {
			return &diskError{werr}
		}
		if n > 0 {
			arrived()
		}
		if errors.Is(err, io.EOF) && p.size < blob.Size {
			return io.ErrUnexpectedEOF
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

// open asks for a blob from a byte on.
func (q *query) open(ctx context.Context, blob engine.Descriptor, from int64) (*http.Response, error) {
	repo := q.ref.Context()
	q.session.large = true
	// As for any other request, the session decides between https and http.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+repo.RegistryStr()+"/v2/"+repo.RepositoryStr()+"/blobs/"+blob.Digest, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity") // else the library unpacks what shall stay packed
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, blob.Size-1))
	}
	resp, err := (&http.Client{Transport: q.session}).Do(req)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// part is a file that becomes a blob.
type part struct {
	file *os.File
	path string
	hash hash.Hash
	size int64 // bytes that are in file and hash
}

// openPart continues what an earlier process has left of a blob of the size, complete or not. A file that is complete
// is read again too: it was not made to survive a loss of power.
func openPart(dir, path string, size int64) (p *part, err error) {
	if dir == "" {
		return nil, errors.New("no directory for fetched images is set")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Rename(path, path+partSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(path+partSuffix, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // a digest in our directory
	if err != nil {
		return nil, err
	}
	p = &part{file: f, path: path + partSuffix, hash: sha256.New()}
	if p.size, err = io.CopyBuffer(p.hash, io.LimitReader(f, size+1), make([]byte, readSize)); err == nil && p.size > size {
		err = p.reset()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return p, nil
}

func (p *part) write(b []byte) error {
	n, err := p.file.Write(b)
	p.hash.Write(b[:n])
	p.size += int64(n)
	return err
}

// reset forgets all content.
func (p *part) reset() error {
	p.hash.Reset()
	p.size = 0
	if err := p.file.Truncate(0); err != nil {
		return err
	}
	_, err := p.file.Seek(0, io.SeekStart)
	return err
}

func (p *part) digest() string { return "sha256:" + hex.EncodeToString(p.hash.Sum(nil)) }

// complete gives the file its final name.
func (p *part) complete(path string) error {
	if err := p.file.Close(); err != nil {
		return err
	}
	return os.Rename(p.path, path)
}

func (p *part) close() { _ = p.file.Close() }

// diskError says that the disk did not take what arrived.
type diskError struct{ err error }

func (e *diskError) Error() string { return "writing to the disk: " + e.err.Error() }
func (e *diskError) Unwrap() error { return e.err }

// diskFault is about this machine's disk.
func diskFault(image, dir string, err error) *trysail.ImageError {
	f := &trysail.ImageError{
		Code: codeDisk, Image: image, Err: err, Message: fmt.Sprintf("What was fetched of %s cannot be written to the disk.", mark(image)),
		Fix: "Look at the server's log, and at the disk of " + filepath.Clean(dir) + ".",
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		f.Message = fmt.Sprintf("The disk of %s is full, so %s cannot be fetched.", filepath.Clean(dir), mark(image))
		f.Fix = "Free space on it, or remove images that are not needed: trysail images."
	}
	return f
}
