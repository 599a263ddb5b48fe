package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// lease is the right of one process to change the world, until another one has a higher epoch.
type lease struct {
	epoch int64
	lose  context.CancelCauseFunc
}

type leaseKey struct{}

// leaseOf is the lease under which a context works; nil if there is none.
func leaseOf(ctx context.Context) *lease {
	l, _ := ctx.Value(leaseKey{}).(*lease)
	return l
}

// Epoch counts the leaders up to the one that ctx belongs to; 0 outside of a lead, and where there is one server only.
func Epoch(ctx context.Context) int64 {
	if l := leaseOf(ctx); l != nil {
		return l.epoch
	}
	return 0
}

// check makes the transaction fail unless the lease still holds, and keeps others from leading until the transaction ends.
func (l *lease) check(tx *Tx) error {
	var epoch int64
	if err := tx.row("SELECT epoch FROM trysail_lease FOR SHARE").Scan(&epoch); err != nil {
		return fmt.Errorf("reading the lease: %w", err)
	}
	if epoch != l.epoch {
		l.lose(ErrNotLeader)
		return ErrNotLeader
	}
	return nil
}

// Lead waits until this process may change the world: of all that have the database open, one leads. Everything that only
// a leader may do is done under the context leading: it ends when another process leads or may soon do so, and Update
// under it, or under a context made from it, changes nothing once that is so. release ends it and lets others lead.
// standby is called each time that somebody else is found to lead. A Store leads once at a time. Errors: ctx's.
func (s *Store) Lead(ctx context.Context, standby func(holder string)) (leading context.Context, release func(), err error) {
	return s.db.lead(ctx, standby)
}

func (d *postgresDB) lead(ctx context.Context, standby func(string)) (context.Context, func(), error) {
	last := ""
	for {
		asked := time.Now()
		epoch, holder, err := d.acquire(ctx)
		switch {
		case ctx.Err() != nil:
			return nil, nil, ctx.Err()
		case err != nil:
			d.log.DebugContext(ctx, "asking for the lead did not work", "error", err)
		case epoch > 0:
			leading, release := d.hold(ctx, epoch, asked)
			return leading, release, nil
		case holder != last:
			last = holder
			standby(holder)
		}
		if err := pause(ctx, max(d.leaseTime/5, time.Millisecond)); err != nil {
			return nil, nil, err
		}
	}
}

// acquire takes the lead if nobody has it; else epoch is 0, and holder who has it. Times are the server's.
func (d *postgresDB) acquire(ctx context.Context) (epoch int64, holder string, err error) {
	ctx, cancel := context.WithTimeout(ctx, d.leaseTime)
	defer cancel()
	err = d.leases.QueryRowContext(ctx, `UPDATE trysail_lease SET epoch = epoch + 1, holder = $1, expires_at = clock_timestamp() + $2 * INTERVAL '1 millisecond'
		WHERE expires_at < clock_timestamp() OR holder = $1 RETURNING epoch`, d.name, d.leaseTime.Milliseconds()).Scan(&epoch)
	if errors.Is(err, sql.ErrNoRows) {
		err = d.leases.QueryRowContext(ctx, "SELECT holder FROM trysail_lease").Scan(&holder)
	}
	return epoch, holder, err
}

// hold keeps the lead that was asked for at a time, until release.
func (d *postgresDB) hold(ctx context.Context, epoch int64, asked time.Time) (leading context.Context, release func()) {
	leading, lose := context.WithCancelCause(ctx)
	leading = context.WithValue(leading, leaseKey{}, &lease{epoch, lose})
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.renew(leading, epoch, asked, lose)
	}()
	return leading, func() {
		lose(context.Canceled)
		<-done
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.leaseTime/2)
		defer cancel()
		if _, err := d.leases.ExecContext(ctx, "UPDATE trysail_lease SET expires_at = '-infinity' WHERE epoch = $1", epoch); err != nil {
			d.log.InfoContext(ctx, "the lead could not be given up and runs out", "error", err)
		}
	}
}

// renew holds the lead until leading ends. It gives up well before others may lead.
func (d *postgresDB) renew(leading context.Context, epoch int64, renewed time.Time, lose context.CancelCauseFunc) {
	valid := d.leaseTime * 4 / 5
	tick, end := time.NewTicker(d.leaseTime/5), time.NewTimer(time.Until(renewed.Add(valid)))
	defer tick.Stop()
	defer end.Stop()
	err := context.DeadlineExceeded
	for {
		select {
		case <-leading.Done():
			return
		case <-end.C:
			lose(fmt.Errorf("%w: the lead ran out: %w", ErrUnavailable, err))
			return
		case <-tick.C:
		}
		asked, left := time.Now(), time.Until(renewed.Add(valid))
		ctx, cancel := context.WithTimeout(leading, left)
		var res sql.Result
		res, err = d.leases.ExecContext(ctx, "UPDATE trysail_lease SET expires_at = clock_timestamp() + $2 * INTERVAL '1 millisecond' WHERE epoch = $1",
			epoch, d.leaseTime.Milliseconds())
		cancel()
		if err != nil {
			continue
		}
		if n, counted := res.RowsAffected(); counted == nil && n == 0 {
			lose(ErrNotLeader)
			return
		}
		renewed = asked
		end.Reset(time.Until(renewed.Add(valid)))
	}
}
