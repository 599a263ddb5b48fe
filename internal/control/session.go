package control

import (
	"context"
	"errors"
	"time"

	"github.com/trysail/trysail/internal/store"
)

// Session is somebody who is signed in to the console of several servers. Hash is that of what opens it.
type Session struct {
	Hash   string
	KeyID  string
	Token  string
	MadeAt time.Time
	UsedAt time.Time
	Flash  string
}

// BeginSession makes a session known to all servers. Those that were made or used before these times are forgotten, and of
// the others all but the most that were used last.
func (c *Control) BeginSession(ctx context.Context, s Session, madeAfter, usedAfter time.Time, most int) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error { return tx.InsertSession(store.Session(s), madeAfter, usedAfter, most) })
}

// FindSession returns the session with a hash, wherever it was begun; ok is false if there is none.
func (c *Control) FindSession(ctx context.Context, hash string) (s Session, ok bool, err error) {
	err = c.Store.View(ctx, func(tx *store.Tx) error {
		found, err := tx.Session(hash)
		s = Session(found)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return s, false, nil
	}
	return s, err == nil, err
}

// UseSession notes when somebody was there, and what the next page says first.
func (c *Control) UseSession(ctx context.Context, hash string, used time.Time, flash string) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error { return tx.UseSession(hash, used, flash) })
}

// EndSession ends a session at all servers.
func (c *Control) EndSession(ctx context.Context, hash string) error {
	return c.Store.Update(ctx, func(tx *store.Tx) error { return tx.DeleteSession(hash) })
}
