-- What a key may do, and for which services: names with spaces between them, none for all. Every key could do everything so far.
ALTER TABLE access_keys ADD COLUMN role TEXT NOT NULL DEFAULT 'admin';
ALTER TABLE access_keys ADD COLUMN services TEXT NOT NULL DEFAULT '';
