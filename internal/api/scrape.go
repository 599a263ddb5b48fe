package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/trysail/trysail/internal/sigv4"
)

// Scrape serves metrics to Prometheus and its like: GET /metrics, with the scrape token as bearer token or password, or
// signed by any access key as every other call is.
type Scrape struct {
	// Token returns the scrape token; empty or an error: there is none, and only signed requests are answered.
	Token func() (string, error)
	// Identify returns the secret of an access key, as Control does.
	Control Control
	// Write writes everything in the format of ContentType.
	Write       func(context.Context, io.Writer) error
	ContentType string
	Log         *slog.Logger
}

// ServeHTTP answers one scrape.
func (s *Scrape) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET is answered here", http.StatusMethodNotAllowed)
		return
	}
	if err := s.authorize(r); err != nil {
		s.Log.InfoContext(r.Context(), "scrape refused", "remote", r.RemoteAddr, "error", err)
		w.Header().Set("WWW-Authenticate", `Bearer realm="trysail metrics"`)
		http.Error(w, "the scrape token or a signature is needed", http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", s.ContentType)
	w.Header().Set("Cache-Control", "no-store")
	if r.Method == http.MethodHead {
		return
	}
	if err := s.Write(r.Context(), w); err != nil {
		s.Log.DebugContext(r.Context(), "scrape ended early", "error", err)
	}
}

// authorize returns why a request is refused. The reason has no part of what the client sent.
func (s *Scrape) authorize(r *http.Request) error {
	given := ""
	if _, password, ok := r.BasicAuth(); ok {
		given = password
	} else if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		given = strings.TrimSpace(token)
	} else {
		return s.verify(r)
	}
	want, err := s.Token()
	if err != nil {
		return fmt.Errorf("reading the scrape token: %w", err)
	}
	// Sums have one length, so the comparison tells nothing of the token's either.
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(want))
	if want == "" || subtle.ConstantTimeCompare(a[:], b[:]) != 1 {
		return errWrongToken
	}
	return nil
}

const errWrongToken = tokenError("the scrape token is wrong")

type tokenError string

func (e tokenError) Error() string { return string(e) }

// verify checks the signature of a request without a body.
func (s *Scrape) verify(r *http.Request) error {
	sig, err := sigv4.Parse(r)
	if err != nil {
		return err
	}
	if err := sig.Check(signingName, time.Now()); err != nil {
		return err
	}
	secret, _, ok, err := s.Control.Identify(r.Context(), sig.AccessKeyID)
	if err != nil {
		return fmt.Errorf("looking up the access key: %w", err)
	}
	if !ok {
		return unknownKey()
	}
	return sig.Verify(r, sha256.Sum256(nil), secret)
}
