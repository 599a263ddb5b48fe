package console

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/trysail/trysail"
)

const (
	// idleTime is after how long without a request a session ends, lifeTime after how long in any case.
	idleTime = 2 * time.Hour
	lifeTime = 12 * time.Hour
	// maxSessions bounds how many there are; the one that was used least recently goes.
	maxSessions = 1000
	// maxAttempts is how often somebody may try to sign in from one address in attemptTime.
	maxAttempts = 10
	attemptTime = time.Minute
	// maxAddresses bounds how many addresses are remembered.
	maxAddresses = 10000
)

// session is somebody who is signed in. It knows the access key's id, never its secret.
type session struct {
	hash  [sha256.Size]byte // of the cookie's value: memory does not hold what opens a session
	keyID string
	token [tokenSize]byte // that every form carries, masked
	made  time.Time

	mu    sync.Mutex
	ended bool
	used  time.Time
	flash *flash
}

// flash is what the next page says first.
type flash struct {
	Error bool
	Text  string
}

// tokenSize is how many random bytes a token has.
const tokenSize = 32

// maskedToken masks the token with random bytes, which stand before it: pages are compressed, and from the sizes of many answers
// that all have the same text in them, that text could be guessed.
func (s *session) maskedToken() string {
	var text [2 * tokenSize]byte
	_, _ = rand.Read(text[:tokenSize]) // never fails
	subtle.XORBytes(text[tokenSize:], text[:tokenSize], s.token[:])
	return base64.RawURLEncoding.EncodeToString(text[:])
}

// isToken compares a masked token in constant time.
func (s *session) isToken(text string) bool {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) != 2*tokenSize {
		return false
	}
	subtle.XORBytes(b[tokenSize:], b[tokenSize:], b[:tokenSize])
	return subtle.ConstantTimeCompare(b[tokenSize:], s.token[:]) == 1
}

// alive reports whether the session is not over. Once it is, it stays so.
func (s *session) alive(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.ended && now.Sub(s.used) <= idleTime && now.Sub(s.made) <= lifeTime
}

// use notes that a person was there, and returns when that was the last time.
func (s *session) use(now time.Time) (before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, s.used = s.used, now
	return before
}

// secretText is 256 random bits in hexadecimal.
func secretText() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// cookieName has the port in it, as cookies do not: two servers on one machine must not sign each other's users out. The
// prefix makes browsers refuse a cookie of that name that was not set over TLS by this very host.
func cookieName(r *http.Request) string {
	name := "trysail"
	if _, port, err := net.SplitHostPort(r.Host); err == nil {
		name += "-" + port
	}
	if r.TLS != nil {
		return "__Host-" + name
	}
	return name
}

// sessionCookie is the cookie with a value; an empty one removes it.
func sessionCookie(r *http.Request, value string) *http.Cookie {
	path := Root
	if r.TLS != nil {
		path = "/" // as the prefix of the name demands
	}
	c := &http.Cookie{ //nolint:gosec // it is Secure wherever there is TLS; plain HTTP is on loopback only
		Name: cookieName(r), Value: value, Path: path, HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
		MaxAge: int(lifeTime.Seconds()),
	}
	if value == "" {
		c.MaxAge = -1
	}
	return c
}

// showSignIn asks for an access key.
func (c *Console) showSignIn(w http.ResponseWriter, r *http.Request) {
	next := r.URL.Query().Get("next")
	if v, err := c.visitOf(r); err == nil && v != nil {
		http.Redirect(w, r, nextOr(next), http.StatusSeeOther) //nolint:gosec // nextOr lets only our own paths through
		return
	}
	c.answer(w, &visit{Request: r}, signInPage(next, "", "")) //nolint:contextcheck // the request has it
}

// signInView is the page of signing in.
type signInView struct{ Next, KeyID, Problem string }

func signInPage(next, keyID, problem string) *page {
	p := &page{Template: "signin", Title: "Sign in", D: signInView{next, keyID, problem}}
	if problem != "" {
		p.Status = http.StatusForbidden
	}
	return p
}

func nextOr(next string) string {
	if local(next) {
		return next
	}
	return Root
}

// askToSignIn sends those to the form who are not signed in, and tells streams that there is nothing for them.
func (c *Console) askToSignIn(w http.ResponseWriter, r *http.Request) {
	if isStream(r) {
		w.WriteHeader(http.StatusNoContent) // an EventSource stops then
		return
	}
	to := Root + "sign-in"
	if r.Method == http.MethodGet && r.URL.Path != Root {
		to += "?next=" + url.QueryEscape(r.URL.RequestURI())
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// signIn begins a session if id and secret belong together. The secret is not kept: not in the session, not in a log.
func (c *Console) signIn(w http.ResponseWriter, r *http.Request) {
	v := &visit{Request: r}
	if err := readForm(r); err != nil {
		c.fail(w, r, nil, err)
		return
	}
	id, next := r.PostFormValue("key"), r.PostFormValue("next")
	if len(id) > 128 {
		id = ""
	}
	if !c.attempts.allow(address(r), time.Now()) {
		w.Header().Set("Retry-After", "60")
		p := signInPage(next, id, "Too many attempts from your address. Wait a minute, then try again.")
		p.Status = http.StatusTooManyRequests
		c.answer(w, v, p) //nolint:contextcheck // the request has it
		return
	}
	secret, caller, ok, err := c.control.Identify(r.Context(), id)
	if err != nil {
		c.fail(w, r, nil, err)
		return
	}
	// Hashes, so that the time tells neither a common beginning nor the length; an unknown key takes as long as a wrong secret.
	want, got := sha256.Sum256([]byte(secret)), sha256.Sum256([]byte(r.PostFormValue("secret")))
	if same := subtle.ConstantTimeCompare(want[:], got[:]) == 1; !same || !ok || secret == "" {
		c.log.InfoContext(r.Context(), "console sign-in refused", "remote", r.RemoteAddr)
		c.control.RecordFailure(r.Context(), trysail.Caller{AccessKeyID: id}, trysail.ConsoleSignIn, "", trysail.CodeAccessDenied.Exception(), nil)
		c.answer(w, v, signInPage(next, id, "This access key and secret do not belong together.")) //nolint:contextcheck // the request has it
		return
	}
	if err := c.control.RecordSignIn(r.Context(), caller); err != nil { // a full disk shuts nobody out: they may free some space
		c.log.ErrorContext(r.Context(), "a sign-in is not in the audit trail", "access_key_id", id, "error", err)
	}
	if old, err := c.sessions.find(r, time.Now()); err == nil && old != nil {
		if err := c.sessions.end(r.Context(), old); err != nil {
			c.log.WarnContext(r.Context(), "a session that was signed in again goes on beside the new one", "error", err)
		}
	}
	cookie, err := c.sessions.begin(r.Context(), id, time.Now())
	if err != nil {
		c.fail(w, r, nil, err)
		return
	}
	http.SetCookie(w, sessionCookie(r, cookie))
	c.log.InfoContext(r.Context(), "console sign-in", "access_key_id", id, "remote", r.RemoteAddr)
	http.Redirect(w, r, nextOr(next), http.StatusSeeOther) //nolint:gosec // nextOr lets only our own paths through
}

// signOut ends the session.
func (c *Console) signOut(w http.ResponseWriter, r *http.Request) {
	s, err := c.sessions.find(r, time.Now())
	if err == nil {
		err = readForm(r)
	}
	if err != nil {
		c.fail(w, r, nil, err)
		return
	}
	if s != nil && !s.isToken(r.PostFormValue("csrf")) {
		c.fail(w, r, nil, errOldForm())
		return
	}
	if s != nil {
		if err := c.sessions.end(r.Context(), s); err != nil {
			c.fail(w, r, nil, err) // it would go on at other servers
			return
		}
	}
	http.SetCookie(w, sessionCookie(r, ""))
	http.Redirect(w, r, Root+"sign-in", http.StatusSeeOther)
}

// address is where a request comes from, as far as attempts are counted: IPv6 networks of a customer count as one.
func address(r *http.Request) netip.Prefix {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	ip, bits := a.Addr().Unmap().WithZone(""), 64
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.Prefix(bits) // bits fit
	return p
}

// limiter counts attempts by address.
type limiter struct {
	mu sync.Mutex
	by map[netip.Prefix]attempts
}

type attempts struct {
	since time.Time
	n     int
}

func newLimiter() *limiter { return &limiter{by: map[netip.Prefix]attempts{}} }

// allow counts an attempt and reports whether it may be made.
func (l *limiter) allow(from netip.Prefix, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, known := l.by[from]
	if now.Sub(a.since) >= attemptTime {
		a = attempts{since: now}
	}
	if !known && len(l.by) >= maxAddresses {
		for p, old := range l.by {
			if now.Sub(old.since) >= attemptTime {
				delete(l.by, p)
			}
		}
		if len(l.by) >= maxAddresses {
			return false
		}
	}
	a.n++
	l.by[from] = a
	return a.n <= maxAttempts
}
