-- Several servers with one state: what the edge of each does, which servers there are, and the files that all must have.

CREATE TABLE generations ( -- each grows with every change of what it is named after
  name       TEXT PRIMARY KEY,
  generation INTEGER NOT NULL
) STRICT;

CREATE TABLE routes (
  service_id TEXT PRIMARY KEY REFERENCES services (id) ON DELETE CASCADE,
  generation INTEGER NOT NULL,
  route      TEXT NOT NULL -- JSON
) STRICT;

CREATE TABLE servers ( -- those that run, and for a while those that ended without saying so
  id         TEXT PRIMARY KEY, -- of one run of the program
  name       TEXT NOT NULL,
  address    TEXT NOT NULL, -- where the others reach its API; may be empty
  started_at INTEGER NOT NULL,
  epoch      INTEGER NOT NULL, -- of the lead, if it leads; else 0
  beat       INTEGER NOT NULL, -- grows as long as it runs
  applied    INTEGER NOT NULL, -- the generation of routes up to which its edge follows
  draining   TEXT NOT NULL     -- JSON: pods out of rotation that still have requests in flight there
) STRICT;

CREATE TABLE shared_files (
  name       TEXT PRIMARY KEY, -- path within the data directory
  generation INTEGER NOT NULL,
  content    BLOB NOT NULL -- sealed, see seal.go
) STRICT;
