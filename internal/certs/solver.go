package certs

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"
)

// challengePath is where authorities ask over plain HTTP (RFC 8555 §8.3).
const challengePath = "/.well-known/acme-challenge/"

// challenges are the answers that the edge gives to authorities at this moment.
type challenges struct {
	own string // the token of our own look at a name

	mu   sync.RWMutex                 // guards what follows
	http map[string]map[string]string // name → token → answer
	tls  map[string]*tls.Certificate  // name → certificate of the challenge
}

func newChallenges(own string) *challenges {
	return &challenges{own: own, http: map[string]map[string]string{}, tls: map[string]*tls.Certificate{}}
}

// answer returns what to answer to a request on plain HTTP. ok is false for what is no challenge of ours.
func (c *challenges) answer(host, path string) (text string, ok bool) {
	token, ok := strings.CutPrefix(path, challengePath)
	if !ok {
		return "", false
	}
	if token == c.own {
		return token, true
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	text, ok = c.http[host][token]
	return text, ok
}

// certificate returns the certificate for a TLS-ALPN-01 challenge, nil if there is none.
func (c *challenges) certificate(host string) *tls.Certificate {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.tls[host]
}

// setHTTP sets what to answer about a name to a token; nothing takes it away.
func (c *challenges) setHTTP(name, token, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	tokens := c.http[name]
	switch {
	case text != "" && tokens == nil:
		c.http[name] = map[string]string{token: text}
	case text != "":
		tokens[token] = text
	default:
		if delete(tokens, token); len(tokens) == 0 {
			delete(c.http, name)
		}
	}
}

// setTLS sets the certificate of a name's challenge; nil takes it away.
func (c *challenges) setTLS(name string, cert *tls.Certificate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cert == nil {
		delete(c.tls, name)
	} else {
		c.tls[name] = cert
	}
}

// httpSolver solves HTTP-01.
type httpSolver struct {
	*challenges

	files files
}

func (s httpSolver) Present(ctx context.Context, ch acme.Challenge) error {
	s.setHTTP(ch.Identifier.Value, ch.Token, ch.KeyAuthorization)
	return s.files.share(ctx, sharedHTTP+ch.Identifier.Value+"/"+ch.Token, []byte(ch.KeyAuthorization))
}

func (s httpSolver) CleanUp(ctx context.Context, ch acme.Challenge) error {
	s.setHTTP(ch.Identifier.Value, ch.Token, "")
	return s.files.unshare(context.WithoutCancel(ctx), sharedHTTP+ch.Identifier.Value+"/"+ch.Token)
}

// tlsSolver solves TLS-ALPN-01 (RFC 8737).
type tlsSolver struct {
	*challenges

	files files
}

func (s tlsSolver) Present(ctx context.Context, ch acme.Challenge) error {
	cert, err := acmez.TLSALPN01ChallengeCert(ch)
	if err != nil {
		return err
	}
	s.setTLS(ch.Identifier.Value, cert)
	return s.files.share(ctx, sharedTLS+ch.Identifier.Value, []byte(ch.KeyAuthorization))
}

func (s tlsSolver) CleanUp(ctx context.Context, ch acme.Challenge) error {
	s.setTLS(ch.Identifier.Value, nil)
	return s.files.unshare(context.WithoutCancel(ctx), sharedTLS+ch.Identifier.Value)
}

// zoneSolver solves DNS-01 with a record at target: the challenge's own name, or what that is an alias for.
type zoneSolver struct {
	zone    Zone
	look    *looker
	target  string
	timeout time.Duration // for the record to be seen
}

// zoneError is a record that could not be written or seen.
type zoneError struct{ error }

func (e zoneError) Unwrap() error { return e.error }

func (s *zoneSolver) Present(ctx context.Context, ch acme.Challenge) error {
	if err := s.zone.SetTXT(ctx, s.target, ch.DNS01KeyAuthorization()); err != nil {
		return zoneError{fmt.Errorf("setting the TXT record of %s: %w", s.target, err)}
	}
	return nil
}

// Wait waits until all servers of the zone have the record. Authorities ask those, and remember what they were told.
func (s *zoneSolver) Wait(ctx context.Context, ch acme.Challenge) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	want := ch.DNS01KeyAuthorization()
	pause := 200 * time.Millisecond
	for {
		missing, err := s.missing(ctx, want)
		if missing == "" && err == nil {
			return nil
		}
		t := time.NewTimer(pause)
		pause = min(2*pause, 5*time.Second)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			if err == nil {
				err = fmt.Errorf("%s does not have it", missing)
			}
			return zoneError{fmt.Errorf("waiting for the TXT record of %s: %w", s.target, err)}
		}
	}
}

// missing returns a server of the zone that does not have the record yet, "" if all have it.
func (s *zoneSolver) missing(ctx context.Context, want string) (string, error) {
	servers, err := s.look.zoneServers(ctx, s.target)
	if err != nil {
		return "", err
	}
	for _, server := range servers {
		have, err := texts(ctx, server, s.target)
		if err != nil || !slices.Contains(have, want) {
			return server, err
		}
	}
	return "", nil
}

func (s *zoneSolver) CleanUp(ctx context.Context, ch acme.Challenge) error {
	// The attempt may have ended because its time was over; the record has to go all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	return s.zone.DeleteTXT(ctx, s.target, ch.DNS01KeyAuthorization())
}

// zoneServers lists the addresses of the servers that have the zone of a name. Where the resolvers are configured those are
// asked instead: what they know is then what counts.
func (l *looker) zoneServers(ctx context.Context, name string) ([]string, error) {
	if len(l.servers) > 0 {
		return l.servers, nil
	}
	for at := name; strings.Contains(at, "."); _, at, _ = strings.Cut(at, ".") {
		answer, err := l.ask(ctx, at, dns.TypeNS)
		if err != nil && err != errNoName { //nolint:errorlint // ask returns it as it is
			return nil, err
		}
		var list []string
		for _, rr := range answer {
			ns, ok := rr.(*dns.NS)
			if !ok {
				continue
			}
			addrs, err := l.addresses(ctx, strings.TrimSuffix(ns.Ns, "."))
			if err != nil {
				return nil, err
			}
			for _, a := range addrs {
				if a.Is4() || len(addrs) == 1 { // one address for each is enough, and IPv6 may not be routed here
					list = append(list, a.String())
					break
				}
			}
		}
		if len(list) > 0 {
			for i := range list {
				list[i] = joinPort(list[i], "53")
			}
			return list, nil
		}
	}
	return nil, fmt.Errorf("no name server is known for %s", name)
}

// Challenge answers what an authority asks on plain HTTP to validate a name. It reports whether the request was that.
func (m *Manager) Challenge(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	text, ok := m.challenges.answer(hostOf(r.Host), r.URL.Path)
	if !ok {
		return false
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write([]byte(text)) //nolint:gosec // an answer of ours, as plain text; who has gone does not read it
	return true
}
