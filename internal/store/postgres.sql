-- What PostgreSQL needs beside the tables of the migrations: SQLite keeps the format in the file's header, and leads by the
-- lock of the data directory.

CREATE TABLE IF NOT EXISTS trysail_format (
  one    BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one),
  format BIGINT NOT NULL
);
INSERT INTO trysail_format (format) VALUES (0) ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS trysail_lease (
  one        BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one),
  epoch      BIGINT NOT NULL,        -- how many leaders there have been
  holder     TEXT NOT NULL,          -- for people
  expires_at TIMESTAMPTZ NOT NULL
);
INSERT INTO trysail_lease (epoch, holder, expires_at) VALUES (0, '', '-infinity') ON CONFLICT DO NOTHING;
