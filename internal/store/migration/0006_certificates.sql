-- Certificates and the domains of services. Keys and X.509 certificates are files, not rows.

CREATE TABLE certificates (
  id         TEXT PRIMARY KEY,
  name       TEXT NOT NULL UNIQUE,
  created_at INTEGER NOT NULL,
  issued_at  INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE certificate_domains (
  certificate_id TEXT NOT NULL REFERENCES certificates (id) ON DELETE CASCADE,
  position       INTEGER NOT NULL, -- 0 is the main domain
  domain         TEXT NOT NULL,
  PRIMARY KEY (certificate_id, position)
) STRICT;
CREATE INDEX certificate_domains_by_domain ON certificate_domains (domain);

CREATE TABLE certificate_tags (
  certificate_id TEXT NOT NULL REFERENCES certificates (id) ON DELETE CASCADE,
  key            TEXT NOT NULL,
  value          TEXT NOT NULL,
  PRIMARY KEY (certificate_id, key)
) STRICT;

CREATE TABLE domains ( -- what is known of the X.509 certificate of each domain; rows stay, so that records stay valid
  domain TEXT PRIMARY KEY,
  token  TEXT NOT NULL,
  state  TEXT NOT NULL DEFAULT '{}' -- JSON
) STRICT;

CREATE TABLE public_domains ( -- the primary key keeps a domain on one service
  domain      TEXT PRIMARY KEY,
  service_id  TEXT NOT NULL REFERENCES services (id) ON DELETE CASCADE,
  certificate TEXT NOT NULL -- its name, or _
) STRICT;
CREATE INDEX public_domains_by_service ON public_domains (service_id);
CREATE INDEX public_domains_by_certificate ON public_domains (certificate);

-- The label in the URL of a service. Services may share one, so that one wildcard certificate serves them all; host_label was
-- unique, and is what older services have.
ALTER TABLE services ADD COLUMN shared_label TEXT NOT NULL DEFAULT '';

CREATE TABLE installation ( -- facts that are made once
  key   TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT;

ALTER TABLE operations ADD COLUMN resource_type TEXT NOT NULL DEFAULT 'ContainerService';
