package certs

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	"github.com/trysail/trysail"
)

// obtain tries to get a certificate for a name and notes in state what came of it. looked says that it was our own look that
// kept it from being asked for.
func (m *Manager) obtain(ctx context.Context, state *trysail.DomainCertificate) (looked bool) {
	if m.local(state.Domain) {
		m.obtainLocally(ctx, state)
		return false
	}
	s := m.looker.look(ctx, state.Domain)
	m.identify(ctx, &s)
	ways := m.ways(state, &s)
	state.Seen = &s.Domain
	if len(ways) == 0 {
		m.notReady(ctx, state, s.unready(m.validation(state)))
		return true
	}
	m.obtainFrom(ctx, state, &s, ways)
	return false
}

// identify notes under which name the first authority that the CAA records allow is known in them, else the first of all.
func (m *Manager) identify(ctx context.Context, s *sight) {
	for _, a := range m.authorities {
		ids := a.identities(ctx)
		if len(ids) == 0 {
			continue
		}
		if s.Issuer == "" || s.allows(ids) {
			s.Issuer = ids[0]
		}
		for _, id := range ids {
			if s.CAA != nil && s.allows([]string{id}) {
				s.Issuer = id
				return
			}
		}
		if s.CAA == nil {
			return
		}
	}
}

// ways are the solvers that can work for a name, as far as can be seen from here; none if nothing can.
func (m *Manager) ways(d *trysail.DomainCertificate, s *sight) map[string]acmez.Solver {
	if s.err != nil || s.Issuer != "" && !s.allows([]string{s.Issuer}) {
		return nil
	}
	ways := map[string]acmez.Solver{}
	if m.inZone(d.Domain) {
		ways[acme.ChallengeTypeDNS01] = m.zoneSolver("_acme-challenge." + plainName(d.Domain))
		return ways
	}
	if target := d.ValidationTarget(m.cfg.ValidationZone); m.cfg.Zone != nil && s.alias != "" && s.alias == target {
		ways[acme.ChallengeTypeDNS01] = m.zoneSolver(target)
	}
	// Addresses that are not ours may still lead here, through a router or a load balancer: what counts is whether a request
	// arrives. If our own address is not known, the authority is the judge.
	arrives := s.hit() || s.answers || len(s.Ours) == 0 && s.other == ""
	if d.Domain == plainName(d.Domain) && len(s.PointsTo) > 0 && arrives {
		ways[acme.ChallengeTypeHTTP01] = httpSolver{m.challenges, m.files}
		ways[acme.ChallengeTypeTLSALPN01] = tlsSolver{m.challenges, m.files}
	}
	return ways
}

func (m *Manager) zoneSolver(target string) *zoneSolver {
	return &zoneSolver{zone: m.cfg.Zone, look: m.looker, target: target, timeout: zoneTimeout}
}

func plainName(name string) string {
	if len(name) > 2 && name[:2] == "*." {
		return name[2:]
	}
	return name
}

// obtainFrom asks the authorities one after the other.
func (m *Manager) obtainFrom(ctx context.Context, state *trysail.DomainCertificate, s *sight, ways map[string]acmez.Solver) {
	key, err := newKey()
	if err != nil {
		m.failed(ctx, state, finding(trysail.CodeCertCA, "", "No key could be made: %v.", err))
		return
	}
	var problem *trysail.Finding
	var until time.Time // when the first of those that want us to wait may be asked
	refused := 0
	for _, a := range m.authorities {
		if at := a.waitsUntil(state.Domain); !at.IsZero() {
			if until.IsZero() || at.Before(until) {
				until = at
			}
			if problem == nil {
				problem = finding(trysail.CodeCertLimit, "Nothing: the next try follows when the authority allows it.", "%s wants us to wait until %s.", hostOfURL(a.dir.URL), at.UTC().Format(time.RFC3339))
			}
			continue
		}
		used := &noting{}
		chain, err := a.issue(ctx, state.Domain, key, used.wrap(ways), m.replaced(state, a))
		if err == nil {
			if err = m.accept(ctx, state, a.dir.URL, used.last, key, chain); err == nil {
				return
			}
			problem = finding(trysail.CodeCertCA, "Free some space on the disk of the data directory.", "The certificate of %s could not be kept: %v.", state.Domain, err)
			break
		}
		if ctx.Err() != nil {
			return
		}
		m.log.WarnContext(ctx, "no certificate", "domain", state.Domain, "directory", a.dir.URL, "renewal", state.Leaf != nil, "error", err)
		f, ask := failed(err, s, hostOfURL(a.dir.URL))
		if f.Code == trysail.CodeCertRefused {
			refused++
		}
		// What is wrong here is told before what is wrong with an authority.
		if problem == nil || problem.Code == trysail.CodeCertLimit || !ask {
			problem = f
		}
		if at := a.waitsUntil(state.Domain); !at.IsZero() && (until.IsZero() || at.Before(until)) {
			until = at
		}
		if !ask {
			until = time.Time{}
			break
		}
		if at := a.waitsUntil(state.Domain); at.IsZero() {
			until = time.Time{} // this one may be asked again sooner
		}
	}
	state.Refused = refused == len(m.authorities) && state.Leaf == nil
	m.failed(ctx, state, problem)
	if problem != nil && problem.Code == trysail.CodeCertLimit && until.After(state.NextTry) {
		state.NextTry = until
	}
}

// replaced is the certificate that a new one of the same authority stands in for, nil if there is none.
func (m *Manager) replaced(state *trysail.DomainCertificate, a *authority) *x509.Certificate {
	if state.Leaf == nil || state.Leaf.Authority != a.dir.URL {
		return nil
	}
	_, leaf, err := m.files.load(state.Domain)
	if err != nil {
		return nil // it is only a favour to the authority
	}
	return leaf
}

func hostOfURL(s string) string {
	if u, err := url.Parse(s); err == nil && u.Host != "" {
		return u.Host
	}
	return s
}

// accept keeps a certificate and serves it from now on.
func (m *Manager) accept(ctx context.Context, state *trysail.DomainCertificate, directory, challenge string, key crypto.Signer, chain []byte) error {
	list, err := parseChain(chain)
	if err != nil {
		return err
	}
	if err := m.files.save(ctx, state.Domain, key, chain); err != nil {
		return err
	}
	m.table.put(state.Domain)
	m.stapler.wake()
	renewal := state.Leaf != nil
	state.Leaf = newLeaf(list[0], directory, challenge)
	state.RenewAt = renewAt(list[0].NotBefore, list[0].NotAfter).UTC()
	state.Problem, state.Tries, state.NextTry, state.Refused = nil, 0, time.Time{}, false
	m.log.InfoContext(ctx, "certificate of a domain is there", "domain", state.Domain, "issuer", state.Leaf.Issuer, "challenge", challenge,
		"not_after", state.Leaf.NotAfter, "renewal", renewal)
	return nil
}

// obtainLocally has the local CA sign.
func (m *Manager) obtainLocally(ctx context.Context, state *trysail.DomainCertificate) {
	err := func() error {
		key, err := newKey()
		if err != nil {
			return err
		}
		csr, err := newRequest(state.Domain, key)
		if err != nil {
			return err
		}
		chain, err := m.cfg.Sign(csr, localLife)
		if err != nil {
			return err
		}
		return m.accept(ctx, state, "local", "local", key, chain)
	}()
	if err != nil {
		m.failed(ctx, state, finding(trysail.CodeCertCA, "See the log of trysail serve.", "The local CA gave no certificate: %v.", err))
	}
}

// notReady notes what our own look found to be in the way. It did not cost an authority anything, so the next look is soon.
func (m *Manager) notReady(ctx context.Context, state *trysail.DomainCertificate, f *trysail.Finding) {
	if f == nil {
		f = finding(trysail.CodeCertDNS, "Let the domain lead to this machine.", "%s cannot be validated.", state.Domain)
	}
	m.note(ctx, state, f)
	state.NextTry = time.Now().Add(lookPause(state.Tries, m.cfg.Unit)).UTC()
}

// failed notes that a try did not work.
func (m *Manager) failed(ctx context.Context, state *trysail.DomainCertificate, f *trysail.Finding) {
	m.note(ctx, state, f)
	state.NextTry = time.Now().Add(pause(state.Tries, m.cfg.Unit)).UTC()
}

func (m *Manager) note(ctx context.Context, state *trysail.DomainCertificate, f *trysail.Finding) {
	if state.Problem == nil || f == nil || state.Problem.Summary != f.Summary {
		m.log.WarnContext(ctx, "a domain has no new certificate", "domain", state.Domain, "code", f.Code, "summary", f.Summary, "fix", f.Fix)
	}
	state.Problem = f
	state.Tries++
}

// authorityOf is the one that a certificate is from, nil if it is not one of ours any more.
func (m *Manager) authorityOf(l *trysail.Leaf) *authority {
	for _, a := range m.authorities {
		if a.dir.URL == l.Authority {
			return a
		}
	}
	return nil
}

// ask asks the authority when a certificate should be replaced, and returns when to ask again. An authority that does not
// know the question leaves everything as it is.
func (m *Manager) ask(ctx context.Context, state *trysail.DomainCertificate) (next time.Time) {
	next = time.Now().Add(jitter(scale(renewalEvery, m.cfg.Unit)))
	a := m.authorityOf(state.Leaf)
	_, leaf, err := m.files.load(state.Domain)
	if err != nil || a == nil {
		return next
	}
	at, again, err := a.renewal(ctx, leaf)
	if errors.Is(err, errNoRenewal) {
		return time.Now().Add(30 * 24 * time.Hour)
	}
	if err != nil {
		m.log.DebugContext(ctx, "the authority does not say when to renew", "domain", state.Domain, "error", err)
		return next
	}
	if m.cfg.Unit == time.Minute {
		next = again
	}
	latest := renewAt(leaf.NotBefore, leaf.NotAfter)
	if at.After(latest) {
		at = latest
	}
	if at.Before(state.RenewAt.Add(-time.Minute)) && !at.After(time.Now()) {
		m.log.InfoContext(ctx, "the authority wants a certificate to be replaced", "domain", state.Domain)
	}
	if at.Before(state.RenewAt) {
		state.RenewAt = at.UTC()
	}
	return next
}

// noting remembers which challenge was tried last.
type noting struct{ last string }

func (n *noting) wrap(ways map[string]acmez.Solver) map[string]acmez.Solver {
	out := make(map[string]acmez.Solver, len(ways))
	for kind, s := range ways {
		if w, ok := s.(acmez.Waiter); ok {
			out[kind] = &notingWaiter{notingSolver{s, n, kind}, w}
			continue
		}
		out[kind] = &notingSolver{s, n, kind}
	}
	return out
}

type notingSolver struct {
	acmez.Solver
	n    *noting
	kind string
}

func (s *notingSolver) Present(ctx context.Context, ch acme.Challenge) error {
	s.n.last = s.kind
	return s.Solver.Present(ctx, ch)
}

type notingWaiter struct {
	notingSolver
	acmez.Waiter
}

// newToken makes 128 random bits as 32 hexadecimal digits.
func newToken() string {
	var b [16]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}

func parseKey(der []byte) (crypto.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T cannot sign", key)
	}
	return signer, nil
}
