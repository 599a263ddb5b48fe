-- What was seen of a version as a whole, and how long its failed pods are kept for a look.

ALTER TABLE deployments ADD COLUMN evidence TEXT NOT NULL DEFAULT ''; -- JSON, trysail.DeploymentEvidence
ALTER TABLE deployments ADD COLUMN hold INTEGER NOT NULL DEFAULT 0; -- nanoseconds
ALTER TABLE pods ADD COLUMN hold_until INTEGER NOT NULL DEFAULT 0;
