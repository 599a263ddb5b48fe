package store

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Manifest is an image manifest, an index or an artifact that was pushed to the registry.
type Manifest struct {
	Digest       string
	MediaType    string
	ArtifactType string            // as lists of referrers show it
	Subject      string            // digest of the manifest that this one is about; it need not exist
	Annotations  map[string]string // as lists of referrers show them
	Content      []byte
	Size         int64 // bytes of Content, also where Content is not read
	PushedAt     time.Time
}

// ManifestReference is something that a manifest needs.
type ManifestReference struct {
	Manifest string // digest of the manifest that needs it
	Digest   string
	Blob     bool // else a manifest
}

// PutManifest stores a manifest with what it needs, and lets the tag name it unless the tag is empty. One that is there
// already is pushed again: as if it were new.
func (t *Tx) PutManifest(m Manifest, needs []ManifestReference, tag string) error {
	annotations, err := json.Marshal(m.Annotations)
	if err != nil {
		return err
	}
	err = t.exec(`INSERT INTO manifests (digest, media_type, artifact_type, subject, annotations, content, pushed_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (digest) DO UPDATE SET media_type = excluded.media_type, pushed_at = excluded.pushed_at`,
		m.Digest, m.MediaType, m.ArtifactType, m.Subject, string(annotations), m.Content, unix(t.now))
	if err != nil {
		return fmt.Errorf("storing a manifest: %w", err)
	}
	for _, n := range needs {
		err := t.exec("INSERT INTO manifest_references (manifest, digest, blob) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", m.Digest, n.Digest, n.Blob)
		if err != nil {
			return fmt.Errorf("storing what a manifest needs: %w", err)
		}
	}
	if tag == "" {
		return nil
	}
	return t.exec(`INSERT INTO manifest_tags (tag, digest, pushed_at) VALUES ($1, $2, $3)
ON CONFLICT (tag) DO UPDATE SET digest = excluded.digest, pushed_at = excluded.pushed_at`, tag, m.Digest, unix(t.now))
}

// Manifest returns a manifest. Errors: ErrNotFound.
func (t *Tx) Manifest(digest string) (Manifest, error) {
	return t.oneManifest("SELECT digest, media_type, content, pushed_at FROM manifests WHERE digest = $1", digest)
}

// TaggedManifest returns the manifest that a tag names. Errors: ErrNotFound.
func (t *Tx) TaggedManifest(tag string) (Manifest, error) {
	return t.oneManifest("SELECT m.digest, m.media_type, m.content, m.pushed_at FROM manifest_tags t JOIN manifests m ON m.digest = t.digest WHERE t.tag = $1", tag)
}

func (t *Tx) oneManifest(query string, arg any) (Manifest, error) {
	var m Manifest
	var pushed int64
	err := t.row(query, arg).Scan(&m.Digest, &m.MediaType, &m.Content, &pushed)
	if errors.Is(err, sql.ErrNoRows) {
		return m, ErrNotFound
	}
	m.Size, m.PushedAt = int64(len(m.Content)), fromUnix(pushed)
	return m, err
}

// HasManifest reports whether a manifest is there.
func (t *Tx) HasManifest(digest string) (bool, error) {
	var n int
	err := t.row("SELECT COUNT(*) FROM manifests WHERE digest = $1", digest).Scan(&n)
	return n > 0, err
}

// TouchManifest makes a manifest as young as if it were pushed now. Errors: ErrNotFound.
func (t *Tx) TouchManifest(digest string) error {
	return t.execOne("UPDATE manifests SET pushed_at = $1 WHERE digest = $2", unix(t.now), digest)
}

// DeleteManifest deletes a manifest and the tags that name it. Errors: ErrNotFound.
func (t *Tx) DeleteManifest(digest string) error {
	return t.execOne("DELETE FROM manifests WHERE digest = $1", digest)
}

// DeleteManifestTag deletes a tag, and returns the digest of the manifest that it named. Errors: ErrNotFound.
func (t *Tx) DeleteManifestTag(tag string) (digest string, err error) {
	err = t.row("DELETE FROM manifest_tags WHERE tag = $1 RETURNING digest", tag).Scan(&digest)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	return digest, err
}

// DeleteManifestTags deletes the tags that were pushed at a time or before.
func (t *Tx) DeleteManifestTags(until time.Time) error {
	return t.exec("DELETE FROM manifest_tags WHERE pushed_at <= $1", unix(until))
}

// ManifestTags lists at most limit tags that sort after the given one.
func (t *Tx) ManifestTags(after string, limit int) ([]string, error) {
	return t.strings("SELECT tag FROM manifest_tags WHERE tag > $1 ORDER BY tag LIMIT $2", after, limit)
}

// ManifestReferrers calls fn, without their content, for the manifests about a subject that sort after a digest, in order
// of their digests, until fn returns false. An empty artifactType takes all.
func (t *Tx) ManifestReferrers(subject, artifactType, after string, fn func(Manifest) bool) error {
	stop := errors.New("no more")
	err := t.query(func(r *sql.Rows) error {
		var m Manifest
		var annotations string
		if err := r.Scan(&m.Digest, &m.MediaType, &m.ArtifactType, &annotations, &m.Size); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(annotations), &m.Annotations); err != nil {
			return fmt.Errorf("reading the annotations of %s: %w", m.Digest, err)
		}
		if !fn(m) {
			return stop
		}
		return nil
	}, `SELECT digest, media_type, artifact_type, annotations, LENGTH(content) FROM manifests
WHERE subject = $1 AND ($2 = '' OR artifact_type = $2) AND digest > $3 ORDER BY digest`, subject, artifactType, after)
	if errors.Is(err, stop) {
		return nil
	}
	return err
}

// Manifests lists all manifests with digest, subject and time only.
func (t *Tx) Manifests() ([]Manifest, error) {
	var list []Manifest
	err := t.query(func(r *sql.Rows) error {
		var m Manifest
		var pushed int64
		err := r.Scan(&m.Digest, &m.Subject, &pushed)
		m.PushedAt = fromUnix(pushed)
		list = append(list, m)
		return err
	}, "SELECT digest, subject, pushed_at FROM manifests")
	return list, err
}

// ManifestReferences lists what all manifests need.
func (t *Tx) ManifestReferences() ([]ManifestReference, error) {
	var list []ManifestReference
	err := t.query(func(r *sql.Rows) error {
		var n ManifestReference
		err := r.Scan(&n.Manifest, &n.Digest, &n.Blob)
		list = append(list, n)
		return err
	}, "SELECT manifest, digest, blob FROM manifest_references")
	return list, err
}

// ManifestsNeeding lists the manifests that need a blob or a manifest.
func (t *Tx) ManifestsNeeding(digest string) ([]string, error) {
	return t.strings("SELECT manifest FROM manifest_references WHERE digest = $1 ORDER BY manifest", digest)
}

// NeededBlobs returns those of the blobs that manifests need. It takes at most a few thousand.
func (t *Tx) NeededBlobs(digests []string) ([]string, error) {
	if len(digests) == 0 {
		return nil, nil
	}
	args, marks := make([]any, len(digests)), make([]string, len(digests))
	for i, d := range digests {
		args[i], marks[i] = d, "$"+strconv.Itoa(i+1)
	}
	return t.strings("SELECT DISTINCT digest FROM manifest_references WHERE blob = 1 AND digest IN ("+strings.Join(marks, ", ")+")", args...)
}

func (t *Tx) strings(query string, args ...any) ([]string, error) {
	var list []string
	err := t.query(func(r *sql.Rows) error {
		var s string
		err := r.Scan(&s)
		list = append(list, s)
		return err
	}, query, args...)
	return list, err
}
