package certs

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// Run works until ctx ends, and waits for what is under way.
func (m *Manager) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Another server may have led since the last Run: what became of the names is in the store.
	m.mu.Lock()
	clear(m.jobs)
	m.scanned = false
	m.mu.Unlock()
	if err := m.forgetChallenges(ctx); err != nil {
		return err
	}
	sub := m.cfg.Store.Subscribe()
	defer sub.Close()
	if err := m.scan(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	group.Go(func() { m.stapler.run(ctx) })
	slots := make(chan struct{}, maxOrders)
	hourly := time.NewTicker(time.Hour) // certificates are given up when their time is over, without anybody saying so
	defer hourly.Stop()
	for {
		next := m.start(ctx, &group, slots)
		var later <-chan time.Time
		var timer *time.Timer
		if !next.IsZero() {
			timer = time.NewTimer(max(time.Until(next), 0))
			later = timer.C
		}
		select {
		case <-ctx.Done():
			return nil
		case <-sub.Wake():
			// Every change of a service comes here, so what comes in a burst is looked at once.
			if !slices.Contains(sub.Take(), store.CertificatesChanged) {
				m.rest(ctx, 200*time.Millisecond)
				sub.Take()
			}
			m.rescan(ctx)
		case <-hourly.C:
			m.rescan(ctx)
		case <-m.nudge:
		case <-later:
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// rescan is scan; what goes wrong is tried again with the next change, or in an hour.
func (m *Manager) rescan(ctx context.Context) {
	if err := m.scan(ctx); err != nil && ctx.Err() == nil {
		m.log.WarnContext(ctx, "the wanted certificates cannot be read", "error", err)
		m.rest(ctx, time.Second)
	}
}

// rest waits for d or until ctx ends.
func (m *Manager) rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// start begins what is due, as far as there are free slots, and returns when something else is due.
func (m *Manager) start(ctx context.Context, group *sync.WaitGroup, slots chan struct{}) (next time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	var due []*job
	for _, j := range m.jobs {
		if j.running {
			continue
		}
		s, at := plan(&j.state, j.askAt, now)
		if s != stepWait {
			due = append(due, j)
		} else if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	// First those that serve nothing, then those that have waited longest.
	slices.SortFunc(due, func(a, b *job) int {
		if av, bv := a.state.Valid(now), b.state.Valid(now); av != bv {
			if bv {
				return -1
			}
			return 1
		}
		return a.state.NextTry.Compare(b.state.NextTry)
	})
	for _, j := range due {
		select {
		case slots <- struct{}{}:
		default:
			return next // the end of one that is under way comes back here
		}
		j.running = true
		state, step := j.state, stepAsk
		if s, _ := plan(&j.state, j.askAt, now); s == stepIssue {
			step = stepIssue
		}
		group.Go(func() {
			m.work(ctx, j, state, step)
			<-slots
			m.wake()
		})
	}
	return next
}

// work does one step for a name, on a copy of its state, and keeps what came of it.
func (m *Manager) work(ctx context.Context, j *job, state trysail.DomainCertificate, s step) {
	var askAt time.Time
	looked, before := false, state.Leaf
	if s == stepAsk {
		askAt = m.ask(ctx, &state)
	} else {
		looked = m.obtain(ctx, &state)
		askAt = time.Now().Add(jitter(m.cfg.Unit))
		if state.Leaf == nil || m.authorityOf(state.Leaf) == nil {
			askAt = time.Time{}
		}
	}
	if ctx.Err() != nil && state.Leaf == before {
		m.mu.Lock()
		j.running = false
		m.mu.Unlock()
		return // what was cut short says nothing
	}
	if err := m.keep(context.WithoutCancel(ctx), &state); err != nil {
		m.log.WarnContext(ctx, "what became of a certificate cannot be kept", "domain", state.Domain, "error", err)
		state.NextTry = time.Now().Add(m.cfg.Unit)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	j.state, j.running, j.looked = state, false, looked
	if !askAt.IsZero() {
		j.askAt = askAt
	}
	if j.gone && m.jobs[state.Domain] == nil { // it may be wanted again meanwhile
		m.table.remove(state.Domain)
	}
}

// keep writes the state of a name, and notes the certificates that are complete with it.
func (m *Manager) keep(ctx context.Context, state *trysail.DomainCertificate) error {
	state.UpdatedAt = time.Now().UTC()
	return m.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.UpdateDomain(state); err != nil {
			return err
		}
		if !state.Valid(tx.Now()) {
			return nil
		}
		return m.complete(ctx, tx, state.Domain)
	})
}

// complete notes when certificates for a domain have been issued: all their domains have one.
func (m *Manager) complete(ctx context.Context, tx *store.Tx, domain string) error {
	all, err := tx.CertificatesFor(domain)
	if err != nil {
		return err
	}
	return m.markIssued(ctx, tx, all)
}

func (m *Manager) markIssued(ctx context.Context, tx *store.Tx, all []trysail.Certificate) error {
	for i := range all {
		c := &all[i]
		if !ready(c, tx.Now()) {
			continue
		}
		if err := tx.SetCertificateIssued(c.ID, tx.Now()); err != nil {
			return err
		}
		m.log.InfoContext(ctx, "certificate issued", "certificate", c.Name, "domain", c.DomainName())
	}
	return nil
}

// ready reports whether a certificate waits for nothing any more.
func ready(c *trysail.Certificate, now time.Time) bool {
	return c.Status(now) == trysail.CertificatePending && !slices.ContainsFunc(c.Domains, func(d trysail.DomainCertificate) bool { return !d.Valid(now) })
}

// scan reads which names are wanted, begins with those that are new and forgets those that are not wanted any more.
func (m *Manager) scan(ctx context.Context) error {
	wanted, err := m.wanted(ctx)
	if err != nil {
		return err
	}
	m.mu.Lock()
	var added []string
	for name := range wanted {
		if m.jobs[name] == nil {
			added = append(added, name)
		}
	}
	for name, j := range m.jobs {
		if !wanted[name] {
			j.gone = true
			delete(m.jobs, name)
			if !j.running {
				m.table.remove(name)
			}
		}
	}
	m.mu.Unlock()
	if len(added) == 0 {
		return nil
	}
	slices.Sort(added)
	return m.adopt(ctx, added)
}

// adopt begins with names that are wanted from now on. What is known of them, on the disk and in the store, is used again.
func (m *Manager) adopt(ctx context.Context, names []string) error {
	states := make([]trysail.DomainCertificate, len(names))
	err := m.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		for i, name := range names {
			states[i] = trysail.DomainCertificate{Domain: name, Token: newToken()}
			if err := tx.EnsureDomain(&states[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range states {
		d := &states[i]
		if m.restore(d) {
			if err := m.keep(ctx, d); err != nil {
				return err
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range states {
		m.jobs[d.Domain] = m.newJob(d, len(names))
	}
	m.scanned = true
	return nil
}

// newJob begins with a name, of which there are others that are begun with now.
func (m *Manager) newJob(d trysail.DomainCertificate, others int) *job {
	j := &job{state: d}
	switch {
	case d.Leaf == nil && !d.Refused && m.scanned:
		// A person who asks anew does not want to wait for the end of a pause that began long ago.
		j.state.NextTry = time.Time{}
	case d.Leaf == nil:
	case d.Leaf.Authority == "local" && !m.local(d.Domain):
		j.state.RenewAt = time.Time{} // there is an authority now
	case m.authorityOf(d.Leaf) != nil:
		spread := time.Duration(others) * 100 * time.Millisecond
		j.askAt = time.Now().Add(jitter(m.cfg.Unit) + rand.N(spread+1)) //nolint:gosec // spreads load, keeps no secret
	}
	return j
}

// wanted lists the names that shall have a certificate: those of certificates that are not given up, and, where there is an
// authority, the installation's own and the services' default domains.
func (m *Manager) wanted(ctx context.Context) (map[string]bool, error) {
	names := map[string]bool{}
	var services []trysail.Service
	var all []trysail.Certificate
	complete := false // one was asked for whose domains all have one already
	err := m.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		if all, err = tx.Certificates(); err != nil {
			return err
		}
		for i := range all {
			for _, d := range all[i].Domains {
				if all[i].Wanted(tx.Now()) {
					names[d.Domain] = true
				}
			}
			complete = complete || ready(&all[i], tx.Now())
		}
		services, err = tx.Services()
		return err
	})
	if err == nil && complete {
		err = m.cfg.Store.Update(ctx, func(tx *store.Tx) error { return m.markIssued(ctx, tx, all) })
	}
	if err != nil || m.cfg.Domain == "" || m.local(m.cfg.Domain) {
		return names, err
	}
	if m.cfg.Zone != nil {
		names["*."+m.cfg.Domain] = true
		names[m.cfg.Domain] = true
		if m.cfg.HostLabel != "" {
			names["*."+m.cfg.HostLabel+"."+m.cfg.Region+".cs."+m.cfg.Domain] = true
		}
	} else {
		for _, own := range m.cfg.Own {
			names[own] = true
		}
	}
	for i := range services {
		s := &services[i]
		if s.State == trysail.ServiceDeleting {
			continue
		}
		host := s.Host(m.cfg.Region, m.cfg.Domain)
		if m.cfg.Zone != nil {
			host = "*" + host[len(s.Name):]
		}
		names[host] = true
	}
	return names, nil
}
