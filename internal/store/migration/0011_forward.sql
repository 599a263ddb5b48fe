-- Services that have moved to another installation: their requests are sent on to it.
ALTER TABLE services ADD COLUMN forward TEXT NOT NULL DEFAULT ''; -- JSON, trysail.Forward
