package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"

	oci "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trysail/trysail/internal/store"
)

// putManifest takes a manifest, and lets a tag name it.
func (r *Registry) putManifest(x *exchange, req *http.Request) error {
	tag, want, err := parseReference(req.PathValue("reference"))
	if err != nil {
		return err
	}
	content, err := readBody(req, maxManifest)
	if err != nil {
		return err
	}
	mediaType := req.Header.Get("Content-Type")
	if strings.HasPrefix(mediaType, dockerSchema1) {
		return r.cfg.Platform.schema1Error(content)
	}
	d := digestOf(canonical, content)
	if tag == "" {
		if d = digestOf(want.algorithm, content); d != want {
			return errorf(codeDigestInvalid, "the manifest has the digest %s, not %s", d, want)
		}
	}
	m, err := parseManifest(mediaType, content)
	if err != nil {
		return err
	}
	if err := r.checkRoom(int64(len(content))); err != nil {
		return err
	}
	if err := r.storeManifest(req.Context(), m, d, content, tag); err != nil {
		return err
	}
	r.cfg.Log.InfoContext(req.Context(), "a manifest was pushed", "digest", d.String(), "tag", tag, "media_type", m.mediaType)
	h := x.Header()
	h.Set("Location", base+"/manifests/"+d.String())
	h.Set("Docker-Content-Digest", d.String())
	if m.subject != "" {
		h.Set("OCI-Subject", m.subject)
	}
	x.WriteHeader(http.StatusCreated)
	return nil
}

// parseReference tells tags from digests. Errors: DIGEST_INVALID, MANIFEST_UNKNOWN for what can be neither.
func parseReference(s string) (tag string, d digest, err error) {
	if strings.Contains(s, ":") {
		d, err = parseDigest(s)
		return "", d, err
	}
	if !isTag(s) {
		return "", digest{}, &clientError{code: codeManifestUnknown, status: http.StatusBadRequest, message: fmt.Sprintf("%q is not the name of a tag", clip(s))}
	}
	return s, digest{}, nil
}

// storeManifest stores a manifest if all that it needs is here, which then stays.
// Errors: MANIFEST_BLOB_UNKNOWN, MANIFEST_INVALID, UNSUPPORTED.
func (r *Registry) storeManifest(ctx context.Context, m *manifest, d digest, content []byte, tag string) error {
	r.sweep.RLock()
	defer r.sweep.RUnlock()
	needs, err := r.findBlobs(ctx, m)
	if err != nil {
		return err
	}
	if err := r.checkPlatform(ctx, m, tag != ""); err != nil {
		return err
	}
	return r.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		children, err := r.findChildren(ctx, tx, m)
		if err != nil {
			return err
		}
		return tx.PutManifest(store.Manifest{
			Digest: d.String(), MediaType: m.mediaType, ArtifactType: m.artifactType, Subject: m.subject,
			Annotations: m.annotations, Content: content,
		}, append(needs, children...), tag)
	})
}

// findBlobs looks for the blobs that a manifest needs.
func (r *Registry) findBlobs(ctx context.Context, m *manifest) ([]store.ManifestReference, error) {
	var needs []store.ManifestReference
	for _, b := range m.blobs {
		if err := r.findBlob(ctx, b); err != nil {
			return nil, err
		}
		needs = append(needs, store.ManifestReference{Digest: b.Digest.String(), Blob: true})
	}
	for _, b := range m.optional {
		if r.findBlob(ctx, b) == nil {
			needs = append(needs, store.ManifestReference{Digest: b.Digest.String(), Blob: true})
		}
	}
	return needs, nil
}

func (r *Registry) findBlob(ctx context.Context, desc oci.Descriptor) error {
	d, err := parseDigest(desc.Digest.String())
	if err != nil {
		return err
	}
	info, err := r.blobs.stat(ctx, d)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errorf(codeManifestBlobUnknown, "the manifest needs blob %s, which is not here", d)
	case err != nil:
		return err
	case info.size != desc.Size:
		return errorf(codeManifestInvalid, "the manifest says that blob %s has %d bytes, but it has %d", d, desc.Size, info.size)
	}
	return nil
}

// findChildren looks for what an index lists. Some builders list blobs in an index that is a cache.
func (r *Registry) findChildren(ctx context.Context, tx *store.Tx, m *manifest) ([]store.ManifestReference, error) {
	var needs []store.ManifestReference
	for _, c := range m.children {
		found, err := tx.HasManifest(c.Digest.String())
		if err != nil {
			return nil, err
		}
		need := store.ManifestReference{Digest: c.Digest.String()}
		if !found {
			if isManifest(c.MediaType) {
				return nil, errorf(codeManifestBlobUnknown, "the index lists manifest %s, which is not here", c.Digest)
			}
			if err := r.findBlob(ctx, c); err != nil {
				return nil, err
			}
			need.Blob = true
		}
		needs = append(needs, need)
	}
	return needs, nil
}

// checkPlatform refuses an index without an image for this machine, and an image for another machine if it has a tag:
// one without is pushed before the index that lists it, which may be for many machines. Errors: UNSUPPORTED,
// MANIFEST_INVALID.
func (r *Registry) checkPlatform(ctx context.Context, m *manifest, tagged bool) error {
	if m.config == nil {
		return r.cfg.Platform.check(m.platforms())
	}
	if !tagged || !isImageConfig(m.config.MediaType) || m.artifactType != m.config.MediaType {
		return nil // part of an index, or an artifact
	}
	b, err := r.readSmallBlob(ctx, *m.config)
	if err != nil {
		return err
	}
	var config oci.Platform
	if err := json.Unmarshal(b, &config); err != nil {
		return errorf(codeManifestInvalid, "the config %s of the image is not valid JSON: %v", m.config.Digest, err)
	}
	if config.OS == "" || config.Architecture == "" {
		return nil // it does not say; container runtimes try
	}
	return r.cfg.Platform.check([]Platform{{config.OS, config.Architecture}})
}

// readSmallBlob reads a blob that is part of an image's description.
func (r *Registry) readSmallBlob(ctx context.Context, desc oci.Descriptor) ([]byte, error) {
	if desc.Size > maxManifest {
		return nil, errorf(codeManifestInvalid, "the config %s has %d bytes, the most is %d", desc.Digest, desc.Size, maxManifest)
	}
	d, err := parseDigest(desc.Digest.String())
	if err != nil {
		return nil, err
	}
	f, err := r.blobs.open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxManifest))
}
