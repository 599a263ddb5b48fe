package console_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail/internal/control"
)

func TestConsole_SignInKeepsTheSecretToItself(t *testing.T) {
	b := newBed(t)
	if a := b.get("/console/services/web?x=1"); a.status != 303 || a.header.Get("Location") != "/console/sign-in?next=%2Fconsole%2Fservices%2Fweb%3Fx%3D1" {
		t.Fatalf("without a session: %d %v", a.status, a.header)
	}
	for name, form := range map[string]url.Values{
		"wrong secret":   {"key": {b.key.ID}, "secret": {b.key.Secret + "x"}},
		"no secret":      {"key": {b.key.ID}, "secret": {""}},
		"unknown key":    {"key": {"AKIANOBODY"}, "secret": {b.key.Secret}},
		"nothing at all": {},
		"unknown, empty": {"key": {"AKIANOBODY"}, "secret": {""}},
	} {
		a := b.do("POST", "/console/sign-in", form, nil)
		if a.status != 403 || a.header.Get("Set-Cookie") != "" || strings.Contains(a.body, b.key.Secret) {
			t.Errorf("%s: %d, cookie %q", name, a.status, a.header.Get("Set-Cookie"))
		}
		b.has(a.body, "do not belong together", `role="alert"`)
	}
	a := b.do("POST", "/console/sign-in", url.Values{"key": {b.key.ID}, "secret": {b.key.Secret}, "next": {"/console/audit"}}, nil)
	cookie := a.header.Get("Set-Cookie")
	for _, part := range []string{"HttpOnly", "SameSite=Strict", "Path=/console/;", "Max-Age=43200"} {
		if !strings.Contains(cookie, part) {
			t.Errorf("the cookie %q lacks %s", cookie, part)
		}
	}
	if !regexp.MustCompile(`^trysail-\d+=[0-9a-f]{64};`).MatchString(cookie) || strings.Contains(cookie, "Secure") {
		t.Errorf("the cookie over plain HTTP is %q", cookie)
	}
	if to := a.header.Get("Location"); to != "/console/audit" {
		t.Errorf("led to %q", to)
	}
	b.has(b.page("/console/"), "Sign out", "No service yet")
	for _, evil := range []string{"https://evil.example/", "//evil.example/console/", "/console/../x", `/console/\evil`, "/"} {
		b.browser = b.newBrowser()
		a := b.do("POST", "/console/sign-in", url.Values{"key": {b.key.ID}, "secret": {b.key.Secret}, "next": {evil}}, nil)
		if a.status == 303 && a.header.Get("Location") != "/console/" {
			t.Errorf("next=%q leads to %q", evil, a.header.Get("Location"))
		}
	}
}

func TestConsole_SignInIsLimited(t *testing.T) {
	b := newBed(t)
	wrong := url.Values{"key": {b.key.ID}, "secret": {"x"}}
	for range 10 {
		if a := b.do("POST", "/console/sign-in", wrong, nil); a.status != 403 {
			t.Fatalf("got %d", a.status)
		}
	}
	a := b.do("POST", "/console/sign-in", url.Values{"key": {b.key.ID}, "secret": {b.key.Secret}}, nil)
	if a.status != 429 || a.header.Get("Retry-After") == "" {
		t.Errorf("the eleventh attempt, with the right secret: %d %v", a.status, a.header)
	}
}

func TestConsole_FormsNeedTokenAndOrigin(t *testing.T) {
	b := newBed(t)
	b.signIn()
	b.create("web")
	token := b.token()
	type change = func(*http.Request)
	for name, c := range map[string]struct {
		form   url.Values
		change change
	}{
		"no token":     {url.Values{}, nil},
		"wrong token":  {url.Values{"csrf": {strings.Repeat("0", 86)}}, nil},
		"part of it":   {url.Values{"csrf": {token[:43]}}, nil},
		"another mask": {url.Values{"csrf": {strings.Repeat("A", 43) + token[43:]}}, nil},
		"other site":   {url.Values{"csrf": {token}}, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }},
		"other origin": {url.Values{"csrf": {token}}, func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }},
	} {
		for _, path := range []string{"/console/sign-out", "/console/services/web/disable", "/console/services/web/delete"} {
			if a := b.do("POST", path, c.form, c.change); a.status != 403 {
				t.Errorf("%s to %s: %d", name, path, a.status)
			}
		}
	}
	b.page("/console/") // still signed in
	if a := b.do("POST", "/console/sign-out", url.Values{"csrf": {token}}, nil); a.status != 303 {
		t.Errorf("signing out: %d", a.status)
	}
	if a := b.get("/console/"); a.status != 303 {
		t.Errorf("after signing out: %d", a.status)
	}
}

// What is the same in many compressed answers can be guessed from their sizes.
func TestConsole_TokensDifferInEveryAnswer(t *testing.T) {
	b := newBed(t)
	b.signIn()
	first, second := b.token(), b.token()
	if first == second {
		t.Error("two pages have the same token")
	}
	stranger := b.browser
	b.browser = b.newBrowser()
	b.signIn()
	if a := b.do("POST", "/console/sign-out", url.Values{"csrf": {first}}, nil); a.status != 403 {
		t.Errorf("with the token of another session: %d", a.status)
	}
	b.browser = stranger
	for _, token := range []string{second, first} { // both are good, in any order
		if a := b.do("POST", "/console/keys/delete", url.Values{"csrf": {token}, "id": {"AKIANONE"}}, nil); a.status != 303 {
			t.Errorf("a form with a token of its session: %d", a.status)
		}
	}
}

func TestConsole_SignInsAreInTheAuditTrail(t *testing.T) {
	b := newBed(t)
	b.do("POST", "/console/sign-in", url.Values{"key": {"AKIANOBODY"}, "secret": {b.key.Secret}}, nil)
	b.signIn()
	b.done("/console/keys/delete", "id", "AKIANONE")
	page, err := b.control.GetAuditTrail(t.Context(), b.admin, control.GetAuditTrailInput{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range page.Events {
		got = append(got, strings.Join([]string{e.Operation, e.Caller.AccessKeyID, string(e.Outcome), e.ErrorCode, e.SourceAddress, e.Client()}, " "))
		if e.RequestID == "" {
			t.Errorf("%+v has no request id", e)
		}
	}
	want := []string{
		"DeleteAccessKey " + b.key.ID + " failure NotFoundException 127.0.0.1 Console", "ConsoleSignIn " + b.key.ID + " success  127.0.0.1 Console",
		"ConsoleSignIn AKIANOBODY unauthenticated AccessDeniedException 127.0.0.1 Console",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestConsole_SessionEndsWithTheKey(t *testing.T) {
	b := newBed(t)
	key, err := b.control.CreateAccessKey(t.Context(), b.admin, control.CreateAccessKeyInput{Name: "second"})
	if err != nil {
		t.Fatal(err)
	}
	b.key = *key
	b.signIn()
	b.page("/console/")
	if err := b.control.DeleteAccessKey(t.Context(), b.admin, key.ID); err != nil {
		t.Fatal(err)
	}
	if a := b.get("/console/"); a.status != 303 {
		t.Errorf("with a deleted key: %d", a.status)
	}
}

func TestConsole_HeadersAndAssets(t *testing.T) {
	b := newBed(t)
	a := b.do("GET", "/console/sign-in", nil, func(r *http.Request) { r.Header.Set("Accept-Encoding", "gzip") })
	csp := a.header.Get("Content-Security-Policy")
	if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "http") {
		t.Errorf("the policy is %q", csp)
	}
	if a.header.Get("Content-Encoding") != "gzip" || a.header.Get("Cache-Control") != "no-store" || a.header.Get("X-Frame-Options") != "DENY" {
		t.Errorf("the headers are %v", a.header)
	}
	page, total := b.page("/console/sign-in"), len(a.body)
	b.lacks(page, "<style", " style=", "<script>", " onclick=", "http://", "https://")
	links := regexp.MustCompile(`/console/assets/[a-z]+-[0-9a-f]{16}\.(css|js|svg)`).FindAllString(page, -1)
	if len(links) < 3 {
		t.Fatalf("the page uses %v", links)
	}
	for _, link := range links {
		a := b.do("GET", link, nil, func(r *http.Request) { r.Header.Set("Accept-Encoding", "gzip") })
		if a.status != 200 || !strings.Contains(a.header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d %v", link, a.status, a.header)
		}
		total += len(a.body)
	}
	t.Logf("the first page with all that it needs: %d bytes", total)
	if total > 60<<10 {
		t.Errorf("the first page needs %d bytes", total)
	}
	if a := b.get("/console/assets/console-0000000000000000.js"); a.status != 404 {
		t.Errorf("an asset that is not there: %d", a.status)
	}
}

func TestConsole_TooLargeFormIsRefused(t *testing.T) {
	b := newBed(t)
	b.signIn()
	a := b.do("POST", "/console/create", url.Values{"name": {strings.Repeat("x", 2<<20)}}, nil)
	if a.status != 400 {
		t.Errorf("got %d", a.status)
	}
	b.has(a.body, "larger than 1048576 bytes")
}
