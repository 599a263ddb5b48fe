package cri

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trysail/trysail/internal/engine"
)

// maxLinks is how often a file is linked again that containerd's garbage collection removed before it was registered.
const maxLinks = 5

// getBlob puts a blob into containerd's content store without a copy of it.
func (i *importer) getBlob(ctx context.Context, desc ocispec.Descriptor, progress func(bytes int64)) error {
	path := filepath.Join(i.e.cfg.contentDir(), desc.Digest.Encoded())
	if isBlob(path, desc) {
		// Somebody was killed, or another image with the same layer is just being prepared.
		if ok, err := i.e.register(ctx, desc); ok || err != nil {
			if progress != nil {
				progress(desc.Size)
			}
			return err
		}
	}
	file, err := i.supply.Blob(ctx, i.image, engine.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest.String(), Size: desc.Size}, progress)
	if err != nil {
		return err
	}
	defer file.Release()
	for range maxLinks {
		if err := i.e.link(file.Path, path); errors.Is(err, fs.ErrNotExist) {
			return &corruptError{what: "a part of it has disappeared: " + desc.Digest.String()}
		} else if err != nil {
			break // another file system, or one without links
		}
		if ok, err := i.e.register(ctx, desc); ok || err != nil {
			return err
		}
	}
	f, err := os.Open(file.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	return content.WriteBlob(ctx, i.e.containerd.ContentStore(), "copy-"+desc.Digest.String(), f, desc)
}

// isBlob reports whether the file is the blob. It reads it: a file that was linked just before the machine lost power
// may be there without its content.
func isBlob(path string, desc ocispec.Descriptor) bool {
	f, err := os.Open(path) //nolint:gosec // a digest in our directory
	if err != nil {
		return false
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() != desc.Size {
		return false
	}
	h := sha256.New()
	_, err = io.CopyBuffer(h, f, make([]byte, 256<<10))
	return err == nil && digest.NewDigest(digest.SHA256, h) == desc.Digest
}

// link gives a file a second name, in place of what has that name.
func (e *Engine) link(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	// Not beside its goal: containerd takes everything there for a blob.
	between := filepath.Join(e.cfg.linkDir(), rand.Text())
	if err := os.Link(from, between); err != nil {
		return err
	}
	// Between two names of one file rename does nothing, not even remove the old name.
	defer os.Remove(between)
	return os.Rename(between, to)
}

// register tells containerd of a blob whose file is in its content store: it does not read what it finds there. ok is
// false if the file is not there any more.
func (e *Engine) register(ctx context.Context, desc ocispec.Descriptor) (ok bool, err error) {
	store, ref := e.containerd.ContentStore(), "link-"+rand.Text()
	w, err := store.Writer(ctx, content.WithRef(ref), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		return true, nil // and held by the lease from now on
	}
	if err != nil {
		return false, fmt.Errorf("opening a writer: %w", err)
	}
	defer w.Close()
	st, err := w.Status()
	if err != nil {
		return false, err
	}
	if st.Offset != desc.Size {
		_ = w.Close()
		_ = store.Abort(ctx, ref) // containerd may just be closing it; what is left goes with the lease
		return false, nil
	}
	if err := w.Commit(ctx, desc.Size, desc.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return false, fmt.Errorf("registering a blob: %w", err)
	}
	return true, nil
}

// putContent writes a small blob.
func (e *Engine) putContent(ctx context.Context, desc ocispec.Descriptor, b []byte, labels map[string]string) error {
	store := e.containerd.ContentStore()
	if err := content.WriteBlob(ctx, store, "put-"+rand.Text(), bytes.NewReader(b), desc, content.WithLabels(labels)); err != nil {
		return fmt.Errorf("writing %s: %w", desc.Digest, err)
	}
	// What was there already may lack the labels.
	_, err := store.Update(ctx, content.Info{Digest: desc.Digest, Labels: labels}, "labels")
	return err
}
