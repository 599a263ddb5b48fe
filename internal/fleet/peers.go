package fleet

import (
	"context"
	"slices"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// peer is a server and when it was heard of.
type peer struct {
	store.Server

	at time.Time // when its beat was seen to change last, by our clock
}

// look reads who is there.
func (f *Fleet) look(ctx context.Context) error {
	var list []store.Server
	err := f.Store.View(ctx, func(tx *store.Tx) (err error) {
		list, err = tx.Servers()
		return err
	})
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	// While the database was away nobody could be heard of, so the time begins anew.
	deaf := now.Sub(f.heard) > f.SilentTime/2
	peers := make(map[string]*peer, len(list))
	for _, s := range list {
		p := &peer{s, now}
		if have := f.peers[s.ID]; have != nil && have.Beat == s.Beat && !deaf {
			p.at = have.at
		}
		peers[s.ID] = p
	}
	f.peers, f.heard = peers, now
	close(f.news)
	f.news = make(chan struct{})
	return nil
}

// counting lists the servers that count, and those that were not heard of for too long.
func (f *Fleet) counting() (live, silent []store.Server) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.peers {
		if time.Since(p.at) <= f.SilentTime || p.ID == f.id {
			live = append(live, p.Server)
		} else {
			silent = append(silent, p.Server)
		}
	}
	return live, silent
}

// Others lists the other servers that are heard of.
func (f *Fleet) Others() []store.Server {
	live, _ := f.counting()
	var others []store.Server
	for _, s := range live {
		if s.ID != f.id {
			others = append(others, s)
		}
	}
	return others
}

// Leader is the other server that leads, if known; ours says that it is this one. There may be none for a while.
func (f *Fleet) Leader() (leader store.Server, ours, known bool) {
	f.mu.Lock()
	ours = f.lead != nil && f.lead.Err() == nil
	f.mu.Unlock()
	live, _ := f.counting()
	for _, s := range live {
		if s.Epoch > leader.Epoch {
			leader, known = s, true
		}
	}
	return leader, ours, known && !ours && leader.ID != f.id
}

// all waits until every server that counts is as ok wants it. It needs Run. Errors: ctx's.
func (f *Fleet) all(ctx context.Context, ok func(store.Server) bool) error {
	// A server that has joined since the last look may have read the routes of before.
	for f.report(ctx, "looking at the other servers", f.look(ctx)) {
		if err := pause(ctx, f.SilentTime/12); err != nil {
			return err
		}
	}
	for {
		f.mu.Lock()
		news := f.news
		f.mu.Unlock()
		live, silent := f.counting()
		for _, s := range silent {
			f.giveUp(ctx, s)
		}
		missing := false
		for _, s := range live {
			missing = missing || !ok(s)
		}
		if !missing && len(live) > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-news:
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// giveUp forgets a server. If it runs after all, it finds that out with its next beat.
func (f *Fleet) giveUp(ctx context.Context, s store.Server) {
	err := f.Store.Update(ctx, func(tx *store.Tx) error { return tx.ForgetServer(s.ID) })
	if f.report(ctx, "forgetting a server", err) {
		return
	}
	f.Log.WarnContext(ctx, "a server is not heard of any more and does not count", "server", s.Name, "address", s.Address)
	f.mu.Lock()
	delete(f.peers, s.ID)
	f.mu.Unlock()
}

func drains(s store.Server, pod trysail.PodID) bool { return slices.Contains(s.Draining, pod) }
