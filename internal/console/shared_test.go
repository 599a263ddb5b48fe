package console_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/trysail/trysail/internal/console"
)

// sharedBed is two consoles of servers with one store. ask asks one of them, with the cookie that any has set.
type sharedBed struct {
	*bed
	servers []*httptest.Server
	cookie  string
}

func newSharedBed(t *testing.T) *sharedBed {
	s := &sharedBed{bed: newBed(t)}
	for range 2 {
		c, err := console.New(console.Config{Version: "1.2.3", Region: "us-east-1", Domain: "example.com", SharedSessions: true}, s.control, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(c)
		t.Cleanup(server.Close)
		t.Cleanup(c.Close)
		s.servers = append(s.servers, server)
	}
	return s
}

// ask asks server i as clients do whose load balancer has one name for all.
func (s *sharedBed) ask(i int, method, path string, form url.Values) answer {
	s.Helper()
	s.server = s.servers[i]
	s.browser = s.newBrowser()
	s.browser.Jar = nil
	a := s.do(method, path, form, func(r *http.Request) {
		r.Host = "console.example.com"
		if s.cookie != "" {
			r.AddCookie(&http.Cookie{Name: "trysail", Value: s.cookie})
		}
	})
	for _, c := range (&http.Response{Header: a.header}).Cookies() {
		s.cookie = c.Value
	}
	return a
}

func (s *sharedBed) signIn() {
	s.Helper()
	if a := s.ask(0, "POST", "/console/sign-in", url.Values{"key": {s.key.ID}, "secret": {s.key.Secret}}); a.status != http.StatusSeeOther || s.cookie == "" {
		s.Fatalf("signing in: %d", a.status)
	}
}

func (s *sharedBed) csrf(i int) string {
	s.Helper()
	m := tokenField.FindStringSubmatch(s.ask(i, "GET", "/console/", nil).body)
	if m == nil {
		s.Fatalf("server %d: there is no token", i)
	}
	return m[1]
}

func TestConsole_SignedInWithOneServerIsWithAll(t *testing.T) {
	s := newSharedBed(t)
	if a := s.ask(1, "GET", "/console/", nil); a.status != http.StatusSeeOther {
		t.Errorf("before signing in: %d", a.status)
	}
	s.signIn()
	for i := range s.servers {
		if a := s.ask(i, "GET", "/console/", nil); a.status != http.StatusOK {
			t.Errorf("server %d: %d", i, a.status)
		}
	}
	// A form of one, sent to the other, and what came of it said by the first.
	a := s.ask(1, "POST", "/console/keys/delete", url.Values{"csrf": {s.csrf(0)}, "id": {"AKIANONE"}})
	if a.status != http.StatusSeeOther {
		t.Fatalf("a form with the other server's token: %d", a.status)
	}
	if page := s.ask(0, "GET", a.header.Get("Location"), nil); !strings.Contains(page.body, "AKIANONE") {
		t.Error("what came of the form is not said")
	}
	if page := s.ask(1, "GET", "/console/settings", nil); strings.Contains(page.body, "AKIANONE") {
		t.Error("it is said twice")
	}
	if a := s.ask(1, "POST", "/console/keys/delete", url.Values{"csrf": {strings.Repeat("A", 86)}, "id": {"AKIANONE"}}); a.status != http.StatusForbidden {
		t.Errorf("a form without the token: %d", a.status)
	}
}

func TestConsole_SignedOutWithOneServerIsWithAll(t *testing.T) {
	s := newSharedBed(t)
	s.signIn()
	cookie := s.cookie
	ended := make(chan struct{})
	s.server, s.browser = s.servers[1], s.newBrowser() // somebody looks at a page that changes
	s.browser.Jar = nil
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.server.URL+"/console/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "console.example.com"
	req.Header.Set("Accept", "text/event-stream")
	req.AddCookie(&http.Cookie{Name: "trysail", Value: cookie})
	resp, err := s.browser.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("a stream: %v", err)
	}
	defer resp.Body.Close()
	go func() {
		defer close(ended)
		for b := make([]byte, 4096); ; {
			if _, err := resp.Body.Read(b); err != nil {
				return
			}
		}
	}()
	if a := s.ask(0, "POST", "/console/sign-out", url.Values{"csrf": {s.csrf(1)}}); a.status != http.StatusSeeOther {
		t.Fatalf("signing out: %d", a.status)
	}
	for i := range s.servers {
		s.cookie = cookie // whoever has kept it
		if a := s.ask(i, "GET", "/console/", nil); a.status != http.StatusSeeOther {
			t.Errorf("server %d after signing out: %d", i, a.status)
		}
	}
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("the stream of another server goes on")
	}
}

func TestConsole_TheStoreKnowsNoCookie(t *testing.T) {
	s := newSharedBed(t)
	s.signIn()
	if _, ok, err := s.control.FindSession(t.Context(), s.cookie); ok || err != nil {
		t.Errorf("the cookie itself names a session: %v", err)
	}
}
