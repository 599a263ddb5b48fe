package certs

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/crypto/ocsp"
)

const (
	// stapleRetry is the pause after a responder did not answer, stapleEvery the longest time that a staple is kept.
	stapleRetry = 5 * time.Minute
	stapleEvery = 12 * time.Hour
	maxStaple   = 64 << 10
)

// stapler gets OCSP answers for the certificates that are in use and name a responder. Many authorities have none any more.
// A handshake never waits for it.
type stapler struct {
	table  *table
	files  files
	log    *slog.Logger
	client *http.Client
	nudge  chan struct{}
	// revoked is told when a certificate turns out to be revoked.
	revoked func(ctx context.Context, name string, leaf *x509.Certificate, at time.Time)
	// retry and every are the constants above, but in tests.
	retry, every time.Duration
}

func newStapler(t *table, f files, log *slog.Logger) *stapler {
	return &stapler{table: t, files: f, log: log, client: &http.Client{Timeout: 10 * time.Second}, nudge: make(chan struct{}, 1), retry: stapleRetry, every: stapleEvery}
}

// wake says that a certificate without a staple is in use.
func (s *stapler) wake() {
	select {
	case s.nudge <- struct{}{}:
	default:
	}
}

// run keeps the staples fresh until ctx ends.
func (s *stapler) run(ctx context.Context) {
	due := map[string]time.Time{} // by name: when to ask (again)
	for {
		for _, name := range s.table.unstapled() {
			if _, known := due[name]; !known {
				due[name] = time.Now()
			}
		}
		var next time.Time
		for name, at := range due {
			if !time.Now().Before(at) {
				at = s.refresh(ctx, name)
				if at.IsZero() {
					delete(due, name)
					continue
				}
				due[name] = at
			}
			if next.IsZero() || at.Before(next) {
				next = at
			}
		}
		var later <-chan time.Time
		var timer *time.Timer
		if !next.IsZero() {
			timer = time.NewTimer(max(time.Until(next), time.Second))
			later = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case <-s.nudge:
		case <-later:
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// refresh gets the answer for a name and returns when to do so again; zero if there is nothing to ask.
func (s *stapler) refresh(ctx context.Context, name string) time.Time {
	if !s.table.has(name) {
		return time.Time{}
	}
	cert, leaf, err := s.files.load(name)
	if err != nil || len(cert.Certificate) < 2 || len(leaf.OCSPServer) == 0 {
		return time.Time{}
	}
	issuer, err := x509.ParseCertificate(cert.Certificate[1])
	if err != nil {
		return time.Time{}
	}
	answer, until, err := s.ask(ctx, leaf, issuer)
	if gone, ok := errors.AsType[*revokedError](err); ok {
		s.revoked(ctx, name, leaf, gone.at)
		return time.Time{}
	}
	if err != nil {
		if ctx.Err() == nil {
			s.log.DebugContext(ctx, "no OCSP answer", "domain", name, "responder", leaf.OCSPServer[0], "error", err)
		}
		return time.Now().Add(s.retry)
	}
	s.table.setStaple(name, leaf, answer)
	return until
}

// revokedError says that a certificate was revoked. Such an answer is not stapled.
type revokedError struct{ at time.Time }

func (e *revokedError) Error() string { return "the certificate is revoked" }

func (s *stapler) ask(ctx context.Context, leaf, issuer *x509.Certificate) (answer []byte, again time.Time, err error) {
	question, err := ocsp.CreateRequest(leaf, issuer, nil)
	if err != nil {
		return nil, again, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, leaf.OCSPServer[0], bytes.NewReader(question))
	if err != nil {
		return nil, again, err
	}
	req.Header.Set("Content-Type", "application/ocsp-request")
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, again, err
	}
	defer resp.Body.Close()
	if answer, err = io.ReadAll(io.LimitReader(resp.Body, maxStaple)); err != nil {
		return nil, again, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, again, fmt.Errorf("the responder answers %s", resp.Status)
	}
	said, err := ocsp.ParseResponseForCert(answer, leaf, issuer)
	if err != nil {
		return nil, again, err
	}
	now := time.Now()
	switch {
	case said.Status == ocsp.Revoked:
		return nil, again, &revokedError{said.RevokedAt}
	case said.Status != ocsp.Good:
		return nil, again, errors.New("the responder does not know the certificate")
	case said.ThisUpdate.After(now.Add(time.Hour)) || !said.NextUpdate.IsZero() && !said.NextUpdate.After(now):
		return nil, again, errors.New("the answer is not of this time")
	}
	again = now.Add(s.every)
	if half := said.ThisUpdate.Add(said.NextUpdate.Sub(said.ThisUpdate) / 2); !said.NextUpdate.IsZero() && half.Before(again) {
		again = half
	}
	if again.Before(now.Add(time.Second)) {
		again = now.Add(time.Second)
	}
	return answer, again, nil
}
