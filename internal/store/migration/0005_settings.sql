-- What can be set of a service that Lightsail has no word for.

ALTER TABLE services ADD COLUMN settings TEXT NOT NULL DEFAULT '{}'; -- JSON
