-- Times are Unix nanoseconds; 0 means "not yet". Ids are made by the program. Plain SQL that PostgreSQL would take too.

CREATE TABLE services (
  id             TEXT PRIMARY KEY,
  name           TEXT NOT NULL UNIQUE,
  created_at     INTEGER NOT NULL,
  host_label     TEXT NOT NULL UNIQUE,
  power          TEXT NOT NULL,
  scale          INTEGER NOT NULL,
  state          TEXT NOT NULL,
  detail_code    TEXT NOT NULL DEFAULT '',
  detail_message TEXT NOT NULL DEFAULT '',
  disabled       INTEGER NOT NULL DEFAULT 0,
  ecr_puller     INTEGER NOT NULL DEFAULT 0,
  fallback_power TEXT NOT NULL DEFAULT '',
  fallback_scale INTEGER NOT NULL DEFAULT 0,
  last_version   INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE tags (
  service_id TEXT NOT NULL REFERENCES services (id) ON DELETE CASCADE,
  key        TEXT NOT NULL,
  value      TEXT NOT NULL,
  PRIMARY KEY (service_id, key)
) STRICT;

CREATE TABLE deployments (
  service_id TEXT NOT NULL REFERENCES services (id) ON DELETE CASCADE,
  version    INTEGER NOT NULL,
  state      TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  deadline   INTEGER NOT NULL,
  spec       TEXT NOT NULL, -- JSON: containers and publicEndpoint
  digests    TEXT NOT NULL, -- JSON: image name → digest
  diagnosis  TEXT NOT NULL DEFAULT '', -- JSON, of a FAILED version
  PRIMARY KEY (service_id, version)
) STRICT;

CREATE TABLE pods (
  id         TEXT PRIMARY KEY,
  service_id TEXT NOT NULL REFERENCES services (id) ON DELETE CASCADE,
  version    INTEGER NOT NULL,
  power      TEXT NOT NULL,
  slot       INTEGER NOT NULL,
  attempt    INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  healthy_at INTEGER NOT NULL DEFAULT 0,
  stop_at    INTEGER NOT NULL DEFAULT 0,
  ended_at   INTEGER NOT NULL DEFAULT 0,
  reason     TEXT NOT NULL DEFAULT '',
  failed     INTEGER NOT NULL DEFAULT 0,
  evidence   TEXT NOT NULL DEFAULT '' -- JSON, of a failed pod
) STRICT;
CREATE INDEX pods_by_service ON pods (service_id, version);

CREATE TABLE access_keys (
  id         TEXT PRIMARY KEY,
  name       TEXT NOT NULL,
  secret     BLOB NOT NULL, -- sealed, see seal.go
  created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
  seq       INTEGER PRIMARY KEY,
  at        INTEGER NOT NULL,
  key_id    TEXT NOT NULL,
  caller    TEXT NOT NULL,
  operation TEXT NOT NULL,
  resource  TEXT NOT NULL
) STRICT;
