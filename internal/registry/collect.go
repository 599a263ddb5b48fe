package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/trysail/trysail/internal/store"
)

// Collect removes what nothing needs and what is older than Config.Grace: tags, manifests, blobs, idle uploads. Clients
// may push, pull and delete meanwhile. It keeps the registered images, the manifests of keep, what those list, need, and
// what was pushed about them (signatures). It returns how many bytes of blobs were removed.
func (r *Registry) Collect(ctx context.Context, keep []string) (freed int64, err error) {
	r.collecting.Lock()
	defer r.collecting.Unlock()
	until := time.Now().Add(-r.cfg.Grace)
	if err := r.collectManifests(ctx, keep, until); err != nil {
		return 0, fmt.Errorf("collecting manifests: %w", err)
	}
	freed, err = r.collectBlobs(ctx, until)
	if err != nil {
		err = fmt.Errorf("collecting blobs: %w", err)
	}
	if uerr := r.collectUploads(until); uerr != nil {
		err = errors.Join(err, fmt.Errorf("collecting uploads: %w", uerr))
	}
	return freed, err
}

// collectManifests removes tags and manifests that are not younger than until.
func (r *Registry) collectManifests(ctx context.Context, keep []string, until time.Time) error {
	removed := 0
	err := r.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.DeleteManifestTags(until); err != nil {
			return err
		}
		unneeded, err := unneededManifests(tx, keep, until)
		if err != nil {
			return err
		}
		for _, d := range unneeded {
			if err := tx.DeleteManifest(d); err != nil {
				return err
			}
		}
		removed = len(unneeded)
		return nil
	})
	if removed > 0 && err == nil {
		r.cfg.Log.InfoContext(ctx, "manifests were collected", "count", removed)
	}
	return err
}

// unneededManifests lists the manifests that cannot be reached from what must be kept.
func unneededManifests(tx *store.Tx, keep []string, until time.Time) ([]string, error) {
	images, err := tx.AllImages()
	if err != nil {
		return nil, err
	}
	manifests, err := tx.Manifests()
	if err != nil {
		return nil, err
	}
	needs, err := tx.ManifestReferences()
	if err != nil {
		return nil, err
	}
	leads := map[string][]string{} // from a manifest to those that are kept because it is
	for _, n := range needs {
		if !n.Blob {
			leads[n.Manifest] = append(leads[n.Manifest], n.Digest)
		}
	}
	var roots []string
	roots = append(roots, keep...)
	for _, i := range images {
		roots = append(roots, i.Digest)
	}
	for _, m := range manifests {
		if m.Subject != "" {
			leads[m.Subject] = append(leads[m.Subject], m.Digest)
		}
		if m.PushedAt.After(until) {
			roots = append(roots, m.Digest)
		}
	}
	kept := reach(roots, leads)
	var unneeded []string
	for _, m := range manifests {
		if !kept[m.Digest] {
			unneeded = append(unneeded, m.Digest)
		}
	}
	return unneeded, nil
}

// reach finds all that the roots lead to, themselves included.
func reach(roots []string, leads map[string][]string) map[string]bool {
	seen := map[string]bool{}
	for todo := slices.Clone(roots); len(todo) > 0; {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if !seen[d] {
			seen[d] = true
			todo = append(todo, leads[d]...)
		}
	}
	return seen
}

// collectBlobs removes the blobs that no manifest needs and that are not younger than until, some at a time.
func (r *Registry) collectBlobs(ctx context.Context, until time.Time) (freed int64, err error) {
	count := 0
	err = r.blobs.each(ctx, func(list []blobInfo) error {
		old := slices.DeleteFunc(list, func(b blobInfo) bool { return b.young.After(until) })
		finish, bytes, err := r.sweepBlobs(ctx, old, until)
		freed += bytes
		count += len(finish)
		for _, f := range finish {
			err = errors.Join(err, f())
		}
		return err
	})
	if count > 0 {
		r.cfg.Log.InfoContext(ctx, "blobs were collected", "count", count, "bytes", freed)
	}
	return freed, errors.Join(err, r.blobs.tidy(ctx, until))
}

// sweepBlobs takes those of the blobs out of sight that are still old and unneeded. It holds up who asks for a blob or
// stores a manifest, so it leaves what takes long to be finished later.
func (r *Registry) sweepBlobs(ctx context.Context, old []blobInfo, until time.Time) (finish []func() error, bytes int64, err error) {
	if len(old) == 0 {
		return nil, 0, nil
	}
	names := make([]string, len(old))
	for i, b := range old {
		names[i] = b.digest.String()
	}
	r.sweep.Lock()
	defer r.sweep.Unlock()
	needed := map[string]bool{}
	err = r.cfg.Store.View(ctx, func(tx *store.Tx) error {
		list, err := tx.NeededBlobs(names)
		for _, d := range list {
			needed[d] = true
		}
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	for _, b := range old {
		if needed[b.digest.String()] {
			continue
		}
		info, err := r.blobs.stat(ctx, b.digest)
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.young.After(until) {
			continue
		}
		if err != nil {
			return finish, bytes, err
		}
		f, err := r.blobs.discard(ctx, b.digest)
		if err != nil {
			return finish, bytes, err
		}
		finish = append(finish, f)
		bytes += info.size
	}
	return finish, bytes, nil
}

// collectUploads gives up the uploads that no request works on and that none has since until.
func (r *Registry) collectUploads(until time.Time) error {
	r.mu.Lock()
	uploads := make([]*upload, 0, len(r.uploads))
	for _, u := range r.uploads {
		uploads = append(uploads, u)
	}
	r.mu.Unlock()
	for _, u := range uploads {
		if err := r.giveUpIfIdle(u, until); err != nil {
			return err
		}
	}
	return nil
}

func (r *Registry) giveUpIfIdle(u *upload, until time.Time) error {
	select {
	case u.turn <- struct{}{}:
		defer func() { <-u.turn }()
	default:
		return nil
	}
	info, err := os.Stat(u.path)
	switch {
	case u.ended:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return r.giveUp(u)
	case err != nil:
		return err
	case info.ModTime().After(until):
		return nil
	}
	return r.giveUp(u)
}
