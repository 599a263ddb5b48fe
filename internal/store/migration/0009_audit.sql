-- The audit trail says from where a call came and what came of it, and has those that did not succeed as well.

ALTER TABLE audit ADD COLUMN role TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN service TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN outcome TEXT NOT NULL DEFAULT 'success';
ALTER TABLE audit ADD COLUMN error_code TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN request_id TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN source_address TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN user_agent TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN details TEXT NOT NULL DEFAULT '{}'; -- JSON: name → text

UPDATE audit SET service = resource
WHERE operation NOT IN ('CreateCertificate', 'DeleteCertificate', 'CreateAccessKey', 'DeleteAccessKey', 'PutRegistry', 'DeleteRegistry', 'CreateContainerServiceRegistryLogin')
  AND NOT (operation IN ('TagResource', 'UntagResource') AND resource IN (SELECT name FROM certificates));

CREATE INDEX audit_by_time ON audit (at);
CREATE INDEX audit_by_service ON audit (service, seq);
CREATE INDEX audit_by_outcome ON audit (outcome, seq);
