-- Images: what was pushed (manifests; blobs are files), what was registered on services, who may push, and what is known
-- of registries elsewhere.

ALTER TABLE services ADD COLUMN last_image INTEGER NOT NULL DEFAULT 0; -- the counter of image numbers, never reused

CREATE TABLE images (
  service_id TEXT NOT NULL REFERENCES services (id) ON DELETE CASCADE,
  number     INTEGER NOT NULL,
  label      TEXT NOT NULL,
  digest     TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (service_id, number)
) STRICT;
CREATE INDEX images_by_digest ON images (digest);

CREATE TABLE registry_logins (
  hash       BLOB PRIMARY KEY, -- SHA-256 of the password, which is 256 random bits
  key_id     TEXT NOT NULL,    -- the access key that asked for it
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT;

CREATE TABLE manifests (
  digest        TEXT PRIMARY KEY,
  media_type    TEXT NOT NULL,
  artifact_type TEXT NOT NULL DEFAULT '',
  subject       TEXT NOT NULL DEFAULT '', -- digest of the manifest that this one is about
  annotations   TEXT NOT NULL DEFAULT '{}', -- JSON, for the referrers list
  content       BLOB NOT NULL,
  pushed_at     INTEGER NOT NULL -- last time
) STRICT;
CREATE INDEX manifests_by_subject ON manifests (subject) WHERE subject <> '';

CREATE TABLE manifest_references ( -- what a manifest needs: blobs of an image, manifests of an index
  manifest TEXT NOT NULL REFERENCES manifests (digest) ON DELETE CASCADE,
  digest   TEXT NOT NULL,
  blob     INTEGER NOT NULL, -- 1: a blob, 0: a manifest
  PRIMARY KEY (manifest, digest)
) STRICT;
CREATE INDEX manifest_references_by_digest ON manifest_references (digest);

CREATE TABLE manifest_tags (
  tag       TEXT PRIMARY KEY,
  digest    TEXT NOT NULL REFERENCES manifests (digest) ON DELETE CASCADE,
  pushed_at INTEGER NOT NULL
) STRICT;

CREATE TABLE registries (
  host       TEXT PRIMARY KEY,
  username   TEXT NOT NULL DEFAULT '',
  secret     BLOB NOT NULL, -- sealed, see seal.go
  mirrors    TEXT NOT NULL DEFAULT '[]', -- JSON
  ca         TEXT NOT NULL DEFAULT '',
  plain_http INTEGER NOT NULL DEFAULT 0,
  updated_at INTEGER NOT NULL
) STRICT;
