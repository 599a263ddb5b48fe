-- Commands that run once, each in a pod of its own. The row is there before the pod.
CREATE TABLE tasks (
  id         TEXT PRIMARY KEY, -- of the pod
  service_id TEXT NOT NULL REFERENCES services (id) ON DELETE CASCADE,
  version    INTEGER NOT NULL,
  container  TEXT NOT NULL,
  command    TEXT NOT NULL, -- JSON
  power      TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  deadline   INTEGER NOT NULL,
  stop_at    INTEGER NOT NULL DEFAULT 0,
  ended_at   INTEGER NOT NULL DEFAULT 0,
  exit_code  INTEGER NOT NULL DEFAULT 0,
  reason     TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX tasks_service ON tasks (service_id, ended_at);
