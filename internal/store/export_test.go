package store

import "context"

// ExecForTest runs a statement on the writing connection.
func (s *Store) ExecForTest(ctx context.Context, query string) error {
	db := s.db
	if lite, ok := db.(*sqliteDB); ok {
		_, err := lite.write.ExecContext(ctx, query)
		return err
	}
	_, err := db.(*postgresDB).write.ExecContext(ctx, query)
	return err
}

// NeedingVersion is cfg for a server that must be as new as this server_version_num.
func NeedingVersion(cfg Postgres, version int) Postgres {
	cfg.minVersion = version
	return cfg
}
