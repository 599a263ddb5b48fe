// Package store is the truth: what shall be, in one SQLite file or, for several servers, in PostgreSQL. A transaction that
// committed is on the disk.
//
// Writers use Update, readers View. Both see one consistent state. Update wakes the subscribers with the ids of the
// services that the transaction touched, after the commit, in all processes that have the database open.
//
// The queries stand beside the functions that use them and are the same for both databases; dialect says what is not.
package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trysail/trysail"
)

// maxTries is how often a transaction is tried that others get in the way of. With the pauses between, that is a few
// seconds.
const maxTries = 100

var (
	// ErrNotFound is returned for a service, deployment or key that does not exist.
	ErrNotFound = errors.New("not found")
	// ErrNewerFormat is returned by Open for a file that a newer Trysail wrote.
	ErrNewerFormat = errors.New("the data directory was written by a newer version of trysail")
	// ErrFull is returned by Update when the disk has no room. Nothing was changed.
	ErrFull = errors.New("the disk that holds the data directory is full")
	// ErrUnavailable is returned when the database does not answer. Trying again later may work.
	ErrUnavailable = errors.New("the database is not available")
	// ErrNotLeader is returned by Update under a lease that has gone to another process. Nothing was changed.
	ErrNotLeader = errors.New("another server leads")
)

// Store is the open database.
type Store struct {
	db   dialect
	seal *sealer

	dir, reserve string // see Reserve; empty without a file

	// services is the newest list of services, or nil when a commit has made it stale.
	services atomic.Pointer[listing]
	// generation counts commits, so that a list read before one is not kept after it.
	generation atomic.Uint64

	mu   sync.Mutex // guards subs
	subs []*Subscription
}

// listing is a list of services and the state in which it was read.
type listing struct {
	state    string
	services []trysail.Service
}

// Close waits for the transactions under way and closes the database.
func (s *Store) Close() error { return s.db.close() }

// Update runs fn in a transaction. When it returns nil the changes are durable; otherwise nothing has changed, except that
// after ErrUnavailable it is not always known. fn may run more than once: what it does besides must bear that.
// If ctx comes from Lead, nothing is changed once another process leads. Errors: fn's own, ErrFull, ErrUnavailable,
// ErrNotLeader.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) error {
	for n := 1; ; n++ {
		again, err := s.try(ctx, fn)
		if !again || n == maxTries || ctx.Err() != nil {
			return s.db.plain(ctx, err)
		}
		if err := pause(ctx, time.Millisecond<<min(n, 6)); err != nil {
			return err
		}
	}
}

// try is Update, once. again says that another try may do better.
func (s *Store) try(ctx context.Context, fn func(*Tx) error) (again bool, err error) {
	ctx, cancel := s.db.bound(ctx)
	defer cancel()
	tx, err := s.begin(ctx, true)
	if err != nil {
		return false, err
	}
	defer tx.tx.Rollback()
	if l := leaseOf(ctx); l != nil {
		err = l.check(tx)
	}
	if err == nil {
		err = fn(tx)
	}
	if err == nil {
		err = s.db.announce(tx)
	}
	if err != nil || tx.again {
		return tx.again || s.db.again(err), err
	}
	if err := tx.tx.Commit(); err != nil {
		if !s.db.notCommitted(err) {
			s.changed(tx.touched) // it may have been committed
		}
		return s.db.notCommitted(err) && s.db.again(err), fmt.Errorf("committing: %w", err)
	}
	s.changed(tx.touched)
	return false, nil
}

// changed forgets what a commit has made stale, and tells the subscribers.
func (s *Store) changed(ids map[string]struct{}) {
	if len(ids) > 0 {
		s.generation.Add(1)
		s.services.Store(nil)
		s.publish(ids)
	}
}

// View runs fn on a consistent state that does not change under it. Errors: fn's own, ErrUnavailable.
func (s *Store) View(ctx context.Context, fn func(*Tx) error) error {
	bounded, cancel := s.db.bound(ctx)
	defer cancel()
	tx, err := s.begin(bounded, false)
	if err != nil {
		return s.db.plain(ctx, err)
	}
	defer tx.tx.Rollback()
	return s.db.plain(ctx, fn(tx))
}

func (s *Store) begin(ctx context.Context, write bool) (*Tx, error) {
	tx, err := s.db.begin(ctx, write)
	if err != nil {
		return nil, fmt.Errorf("beginning a transaction: %w", err)
	}
	return &Tx{ctx: ctx, tx: tx, db: s.db, now: time.Now().UTC(), seal: s.seal}, nil
}

// pause waits for up to d: processes that disturbed each other shall not come back at the same time.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(rand.N(d)) //nolint:gosec // spreads load, keeps no secret
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Services lists all services by creation time. The list is shared between callers: they must not change it.
// Errors: ErrUnavailable.
func (s *Store) Services(ctx context.Context) ([]trysail.Service, error) {
	if p := s.services.Load(); p != nil && s.fresh(ctx, p.state) {
		return p.services, nil
	}
	before := s.generation.Load()
	var l listing
	err := s.View(ctx, func(tx *Tx) (err error) {
		if l.state, err = s.db.state(ctx, tx.tx); err != nil {
			return err
		}
		l.services, err = tx.Services()
		return err
	})
	if err != nil {
		return nil, err
	}
	// Keep the list only if nothing was committed since; a commit between these two lines clears it again.
	if s.services.Store(&l); s.generation.Load() != before {
		s.services.Store(nil)
	}
	return l.services, nil
}

// fresh reports whether a query would see that state still.
func (s *Store) fresh(ctx context.Context, state string) bool {
	if state == "" {
		return true // a commit would have forgotten the list
	}
	ctx, cancel := s.db.bound(ctx)
	defer cancel()
	now, err := s.db.state(ctx, nil)
	return err == nil && now == state
}
