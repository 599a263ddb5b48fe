package store_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/trysail/trysail/internal/store"
)

// lead waits until a store leads.
func lead(t *testing.T, s *store.Store) (leading context.Context, release func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	leading, release, err := s.Lead(ctx, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return leading, release
}

func TestStore_AloneLeadsAtOnce(t *testing.T) { both(t, testStoreAloneLeadsAtOnce) }

func testStoreAloneLeadsAtOnce(t *testing.T, open opener) {
	s := open(t, t.TempDir())
	for range 3 {
		leading, release := lead(t, s)
		if err := s.Update(leading, insert("web")); err != nil {
			t.Error(err)
		}
		if err := s.Update(leading, remove("web")); err != nil {
			t.Error(err)
		}
		release()
		if leading.Err() == nil {
			t.Error("it leads without the lead")
		}
	}
}

// election is two servers with one database, the first behind a network that can fail.
func election(t *testing.T, leaseTime time.Duration) (a, b *store.Store, network *proxy, databaseURL string) {
	t.Helper()
	databaseURL, dir := databases.make(t), t.TempDir()
	network, through := behind(t, databaseURL)
	a = openPostgres(t, store.Postgres{URL: through + "?idle_in_transaction_session_timeout=500", Dir: dir, LeaseTime: leaseTime})
	b = openPostgres(t, store.Postgres{URL: databaseURL, Dir: dir, LeaseTime: leaseTime})
	return a, b, network, databaseURL
}

func TestPostgres_OneLeadsTheOtherStandsBy(t *testing.T) {
	a, b, _, _ := election(t, time.Minute)
	leading, release := lead(t, a)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var holder string
	_, _, err := b.Lead(ctx, func(name string) {
		holder = name
		cancel()
	})
	if !errors.Is(err, context.Canceled) || !strings.Contains(holder, "process") {
		t.Errorf("beside a leader: %v, who is %q", err, holder)
	}
	release()
	follower, _ := lead(t, b) // long before the lease would end
	if err := b.Update(follower, insert("web")); err != nil {
		t.Error(err)
	}
	if err := a.Update(context.WithoutCancel(leading), insert("old")); !errors.Is(err, store.ErrNotLeader) {
		t.Errorf("the former leader: %v", err)
	}
	if err := a.Update(t.Context(), insert("api")); err != nil {
		t.Errorf("what needs no lead: %v", err)
	}
}

func TestPostgres_ALeaderWithoutNetworkEnds(t *testing.T) {
	a, b, network, _ := election(t, 2*time.Second)
	leading, _ := lead(t, a)
	network.disconnect()
	<-leading.Done()
	if cause := context.Cause(leading); !errors.Is(cause, store.ErrUnavailable) {
		t.Errorf("it ended because of %v", cause)
	}
	lead(t, b)
	network.connect()
	until(t, "the former leader does not come back", func() bool { return !errors.Is(a.Update(t.Context(), insert("web")), store.ErrUnavailable) })
	if err := a.Update(context.WithoutCancel(leading), remove("web")); !errors.Is(err, store.ErrNotLeader) {
		t.Errorf("the former leader: %v", err)
	}
}

// TestPostgres_APausedLeaderChangesNothing stops a leader in the midst of a transaction and goes on when another leads.
func TestPostgres_APausedLeaderChangesNothing(t *testing.T) {
	a, b, network, _ := election(t, 2*time.Second)
	leading, _ := lead(t, a)
	tries := 0
	err := a.Update(context.WithoutCancel(leading), func(tx *store.Tx) error {
		if tries++; tries == 1 {
			thaw := network.freeze()
			lead(t, b)
			thaw()
		}
		return tx.InsertService(newService("late"))
	})
	if !errors.Is(err, store.ErrNotLeader) {
		t.Errorf("it went on: %v", err)
	}
	<-leading.Done()
	if list, err := b.Services(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("it changed %v, %v", list, err)
	}
}

func TestPostgres_CutConnectionsDoNotEndALead(t *testing.T) {
	a, _, _, databaseURL := election(t, 30*time.Second)
	leading, _ := lead(t, a)
	for i := range 5 {
		databases.sql(t, databaseURL, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
		if err := a.Update(leading, insert(strings.Repeat("s", i+1))); err != nil {
			t.Error(err)
		}
	}
	if leading.Err() != nil {
		t.Errorf("the lead ended: %v", context.Cause(leading))
	}
}

// TestPostgres_ALeadIsRenewed waits for longer than a lease lasts.
func TestPostgres_ALeadIsRenewed(t *testing.T) {
	a, b, _, databaseURL := election(t, 5*time.Second)
	leading, _ := lead(t, a)
	first := databases.sql(t, databaseURL, "SELECT expires_at FROM trysail_lease")
	until(t, "the first lease has not ended", func() bool {
		return databases.sql(t, databaseURL, "SELECT clock_timestamp() > '"+first+"'") == "t"
	})
	if leading.Err() != nil {
		t.Skipf("this machine is too busy to renew a lease of 5 s: %v", context.Cause(leading))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, _, err := b.Lead(ctx, func(string) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("a second leader: %v", err)
	}
}
