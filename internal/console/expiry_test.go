package console

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/trysail/trysail"
)

// withCookie is a request of the holder of a session.
func withCookie(value string, stream bool) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:4500/console/", nil)
	r.AddCookie(&http.Cookie{Name: cookieName(r), Value: value})
	if stream {
		r.Header.Set("Accept", "text/event-stream")
	}
	return r
}

// found is the session of a request.
func found(t *testing.T, s *sessions, r *http.Request, now time.Time) *session {
	t.Helper()
	have, err := s.find(r, now)
	if err != nil {
		t.Fatal(err)
	}
	return have
}

// begun is the cookie of a new session.
func begun(t *testing.T, s *sessions, now time.Time) string {
	t.Helper()
	cookie, err := s.begin(t.Context(), "AKIA", now)
	if err != nil {
		t.Fatal(err)
	}
	return cookie
}

func TestSessions_EndWhenIdleAndInAnyCase(t *testing.T) {
	s, start := newSessions(nil), time.Now()
	cookie := begun(t, s, start)
	now := start
	for now.Sub(start)+idleTime < lifeTime {
		now = now.Add(idleTime)
		if found(t, s, withCookie(cookie, false), now) == nil {
			t.Fatalf("the session is gone after %v", now.Sub(start))
		}
	}
	if found(t, s, withCookie(cookie, false), start.Add(lifeTime+time.Second)) != nil {
		t.Error("the session outlived its time")
	}
	if len(s.by) != 0 {
		t.Error("it is kept")
	}
	cookie = begun(t, s, start)
	for at := time.Duration(0); at < idleTime; at += time.Minute { // a page that is left open
		if found(t, s, withCookie(cookie, true), start.Add(at)) == nil {
			t.Fatalf("the stream is refused after %v", at)
		}
	}
	if found(t, s, withCookie(cookie, false), start.Add(idleTime+time.Second)) != nil {
		t.Error("an open page prolonged the session")
	}
}

func TestSessions_AreBounded(t *testing.T) {
	s, start := newSessions(nil), time.Now()
	first := begun(t, s, start)
	for i := range maxSessions {
		begun(t, s, start.Add(time.Duration(i+1)*time.Millisecond))
	}
	if len(s.by) != maxSessions {
		t.Errorf("there are %d sessions", len(s.by))
	}
	if found(t, s, withCookie(first, false), start.Add(time.Minute)) != nil {
		t.Error("the one that was used least recently is still there")
	}
}

func TestLimiter_CountsByAddressAndIsBounded(t *testing.T) {
	l, now := newLimiter(), time.Now()
	request := func(addr string) netip.Prefix { return address(&http.Request{RemoteAddr: addr}) }
	for i := range maxAttempts + 1 {
		if ok := l.allow(request("[2001:db8::1]:1000"), now); ok != (i < maxAttempts) {
			t.Errorf("attempt %d: %v", i+1, ok)
		}
	}
	if l.allow(request("[2001:db8::ffff]:2000"), now) {
		t.Error("another address of the same network may go on")
	}
	if !l.allow(request("192.0.2.1:1"), now) || !l.allow(request("192.0.2.2:1"), now) {
		t.Error("others must wait as well")
	}
	if !l.allow(request("[2001:db8::1]:1000"), now.Add(attemptTime)) {
		t.Error("it is never over")
	}
	for i := range maxAddresses + 10 {
		l.allow(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32), now)
	}
	if len(l.by) > maxAddresses {
		t.Errorf("%d addresses are remembered", len(l.by))
	}
}

func TestCookieName_IsBoundToPortAndTLS(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "https://console.example.com/", nil)
	if c := sessionCookie(r, "x"); c.Name != "__Host-trysail" || !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" {
		t.Errorf("over TLS: %v", c)
	}
	r = httptest.NewRequest(http.MethodGet, "http://127.0.0.1:4500/", nil)
	if c := sessionCookie(r, "x"); c.Name != "trysail-4500" || c.Secure || c.Path != "/console/" {
		t.Errorf("without: %v", c)
	}
}

// A stream says nothing as long as nothing changes, although tokens differ between answers.
func TestChanges_AreNoneWhileNothingChanges(t *testing.T) {
	c, err := New(Config{}, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	cookie := begun(t, c.sessions, time.Now())
	r := withCookie(cookie, true)
	v := &visit{Request: r, session: found(t, c.sessions, r, time.Now()), caller: trysail.Caller{Role: trysail.RoleAdmin}}
	certificate := &trysail.Certificate{Name: "one"}
	next := c.changes(v, func(*visit) (*page, error) {
		copied := *certificate
		return &page{Template: "domains", Live: true, D: domainsView{Certificates: []certificateView{{Certificate: &copied}}}}, nil
	})
	for step, want := range []string{"one", "", "", "two", ""} {
		if want == "two" {
			certificate.Name = want
		}
		message, ok := next()
		if !ok || (message != nil) != (want != "") || !strings.Contains(string(message), want) {
			t.Errorf("step %d: got %q", step, message)
		}
		if want != "" && !strings.Contains(string(message), v.token()) {
			t.Errorf("step %d: no token in %q", step, message)
		}
	}
}
