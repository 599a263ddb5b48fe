-- Who is signed in to the console, where several servers serve it.

CREATE TABLE sessions (
  hash    TEXT PRIMARY KEY, -- SHA-256 of the cookie, in hexadecimal
  key_id  TEXT NOT NULL,
  token   BLOB NOT NULL, -- sealed: what forms carry
  made_at INTEGER NOT NULL,
  used_at INTEGER NOT NULL,
  flash   BLOB NOT NULL -- sealed: what the next page says first; empty: nothing
) STRICT;
