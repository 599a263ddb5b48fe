-- Operations: what calls asked for and what became of it, as GetOperation shows it.

CREATE TABLE operations (
  seq           INTEGER PRIMARY KEY,
  id            TEXT NOT NULL UNIQUE,
  resource      TEXT NOT NULL,
  type          TEXT NOT NULL,
  details       TEXT NOT NULL DEFAULT '',
  status        TEXT NOT NULL,
  created_at    INTEGER NOT NULL,
  changed_at    INTEGER NOT NULL,
  error_code    TEXT NOT NULL DEFAULT '',
  error_details TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX operations_by_resource ON operations (resource, seq);
CREATE INDEX operations_started ON operations (resource) WHERE status = 'Started';
