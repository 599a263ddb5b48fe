package registry

import (
	"context"

	"github.com/trysail/trysail/internal/store"
)

// StoredSizes tells how many bytes of blobs each manifest needs, by digest, with what it lists; and how many bytes all
// blobs are together.
func (r *Registry) StoredSizes(ctx context.Context) (byDigest map[string]int64, total int64, err error) {
	sizes := map[string]int64{}
	err = r.blobs.each(ctx, func(list []blobInfo) error {
		for _, b := range list {
			sizes[b.digest.String()] = b.size
			total += b.size
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	var needs []store.ManifestReference
	var manifests []store.Manifest
	err = r.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		if manifests, err = tx.Manifests(); err != nil {
			return err
		}
		needs, err = tx.ManifestReferences()
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	leads := map[string][]string{}
	for _, n := range needs {
		leads[n.Manifest] = append(leads[n.Manifest], n.Digest)
	}
	byDigest = map[string]int64{}
	for _, m := range manifests {
		var sum int64
		for d := range reach([]string{m.Digest}, leads) {
			sum += sizes[d]
		}
		byDigest[m.Digest] = sum
	}
	return byDigest, total, nil
}
