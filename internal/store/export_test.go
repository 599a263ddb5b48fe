package store

import "context"

// ExecForTest runs a statement on the writing connection.
func (s *Store) ExecForTest(ctx context.Context, query string) error {
	_, err := s.db.(*sqliteDB).write.ExecContext(ctx, query)
	return err
}
