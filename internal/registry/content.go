package registry

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	godigest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	oci "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trysail/trysail/internal/store"
)

const (
	// maxTags is how many tags one answer lists.
	maxTags = 10_000
	// maxReferrers is about how many bytes of descriptors one answer lists.
	maxReferrers = 1 << 20
)

// getManifest serves a manifest. HEAD is how a push asks whether it must send it, so it makes the manifest young, as that
// of a blob does.
func (r *Registry) getManifest(x *exchange, req *http.Request) error {
	reference := req.PathValue("reference")
	tag, d, err := parseReference(reference)
	if err != nil {
		return err
	}
	var m store.Manifest
	var now time.Time
	err = r.cfg.Store.View(req.Context(), func(tx *store.Tx) (err error) {
		now = tx.Now()
		if tag != "" {
			m, err = tx.TaggedManifest(tag)
		} else {
			m, err = tx.Manifest(d.String())
		}
		return err
	})
	// Half of the time that Collect leaves it alone is enough for a push; so most questions write nothing.
	if err == nil && req.Method == http.MethodHead && now.Sub(m.PushedAt) > r.cfg.Grace/2 {
		err = r.cfg.Store.Update(req.Context(), func(tx *store.Tx) error { return tx.TouchManifest(m.Digest) })
	}
	if err != nil {
		return mustBeThere(err, codeManifestUnknown, "there is no manifest %q here", clip(reference))
	}
	h := x.Header()
	h.Set("Content-Type", m.MediaType)
	h.Set("Content-Length", strconv.Itoa(len(m.Content)))
	h.Set("Docker-Content-Digest", m.Digest)
	h.Set("ETag", `"`+m.Digest+`"`)
	if req.Method != http.MethodHead {
		_, _ = x.Write(m.Content) // a client that is gone misses nothing
	}
	return nil
}

// deleteManifest deletes a tag, or a manifest that nothing needs.
func (r *Registry) deleteManifest(x *exchange, req *http.Request) error {
	reference := req.PathValue("reference")
	tag, d, err := parseReference(reference)
	if err != nil {
		return err
	}
	digest := d.String()
	err = r.cfg.Store.Update(req.Context(), func(tx *store.Tx) (err error) {
		if tag != "" {
			digest, err = tx.DeleteManifestTag(tag)
			return err
		}
		if err := checkUnneeded(tx, digest); err != nil {
			return err
		}
		return tx.DeleteManifest(digest)
	})
	if err != nil {
		return mustBeThere(err, codeManifestUnknown, "there is no manifest %q here", clip(reference))
	}
	r.cfg.Log.InfoContext(req.Context(), "a manifest or its tag was deleted", "digest", digest, "tag", tag)
	x.Header().Set("Docker-Content-Digest", digest)
	x.WriteHeader(http.StatusAccepted)
	return nil
}

// checkUnneeded refuses to delete a manifest that is registered, that a kept version of a service runs, or that an index
// lists. Error: DENIED.
func checkUnneeded(tx *store.Tx, digest string) error {
	images, err := tx.AllImages()
	if err != nil {
		return err
	}
	for _, i := range images {
		if i.Digest == digest {
			return errorf(codeDenied, "manifest %s is registered as %s: delete that image first, with aws lightsail delete-container-image", digest, i.Name())
		}
	}
	uses, err := tx.ImageUses()
	if err != nil {
		return err
	}
	for _, u := range uses {
		if u.Digest == digest {
			return errorf(codeDenied, "manifest %s is needed by the %s", digest, u)
		}
	}
	indexes, err := tx.ManifestsNeeding(digest)
	if err == nil && len(indexes) > 0 {
		err = errorf(codeDenied, "manifest %s is listed in the index %s: delete that first", digest, indexes[0])
	}
	return err
}

// listRepositories lists the only one there is.
func (r *Registry) listRepositories(x *exchange, _ *http.Request) error {
	return answerJSON(x, "application/json", map[string][]string{"repositories": {Repository}})
}

// listTags lists tags in order, page by page: n at most, those after last.
func (r *Registry) listTags(x *exchange, req *http.Request) error {
	query := req.URL.Query()
	limit := maxTags
	if s := query.Get("n"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return errorf(codeUnsupported, "n=%q is not a number of tags", clip(s))
		}
		limit = min(n, maxTags)
	}
	tags := []string{}
	err := r.cfg.Store.View(req.Context(), func(tx *store.Tx) error {
		list, err := tx.ManifestTags(query.Get("last"), limit+1) // one more, to know whether there is a next page
		tags = append(tags, list...)
		return err
	})
	if err != nil {
		return err
	}
	if len(tags) > limit {
		tags = tags[:limit]
		if limit > 0 {
			query.Set("last", tags[limit-1])
			setNext(x, req, query)
		}
	}
	return answerJSON(x, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{Repository, tags})
}

// listReferrers lists the manifests that are about another one, which need not exist, page by page.
func (r *Registry) listReferrers(x *exchange, req *http.Request) error {
	d, err := parseDigest(req.PathValue("digest"))
	if err != nil {
		return err
	}
	query := req.URL.Query()
	artifactType := query.Get("artifactType")
	index := oci.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: oci.MediaTypeImageIndex, Manifests: []oci.Descriptor{}}
	room, more := maxReferrers, false
	err = r.cfg.Store.View(req.Context(), func(tx *store.Tx) error {
		return tx.ManifestReferrers(d.String(), artifactType, query.Get("last"), func(m store.Manifest) bool {
			if more = room <= 0; more {
				return false
			}
			desc := oci.Descriptor{
				MediaType: m.MediaType, Digest: godigest.Digest(m.Digest), Size: m.Size,
				ArtifactType: m.ArtifactType, Annotations: m.Annotations,
			}
			room -= sizeOf(desc)
			index.Manifests = append(index.Manifests, desc)
			return true
		})
	})
	if err != nil {
		return err
	}
	if more {
		query.Set("last", index.Manifests[len(index.Manifests)-1].Digest.String())
		setNext(x, req, query)
	}
	if artifactType != "" {
		x.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return answerJSON(x, oci.MediaTypeImageIndex, index)
}

// sizeOf is about how many bytes a descriptor takes in JSON.
func sizeOf(d oci.Descriptor) int {
	n := 200 + len(d.MediaType) + len(d.ArtifactType)
	for k, v := range d.Annotations {
		n += len(k) + len(v) + 6
	}
	return n
}

// setNext tells where the next page is.
func setNext(x *exchange, req *http.Request, query url.Values) {
	x.Header().Set("Link", "<"+(&url.URL{Path: req.URL.Path, RawQuery: query.Encode()}).String()+`>; rel="next"`)
}

func answerJSON(x *exchange, contentType string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	x.Header().Set("Content-Type", contentType)
	x.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = x.Write(b) // a client that is gone misses nothing
	return nil
}
