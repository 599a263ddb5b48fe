package image

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/trysail/trysail"
)

func TestResolver_BadNames(t *testing.T) {
	for image, w := range map[string]want{
		"Nginx":                  {"IMG-NAME", true, []string{`"Nginx" is not a valid image name`, `Did you mean "nginx"?`}},
		"https://ghcr.io/a/b":    {"IMG-NAME", true, []string{`Did you mean "ghcr.io/a/b"?`}},
		"nginx :1":               {"IMG-NAME", true, []string{`Did you mean "nginx:1"?`}},
		"":                       {"IMG-NAME", true, []string{"empty"}},
		"a//b":                   {"IMG-NAME", true, []string{"not valid in a repository"}},
		"nginx:":                 {"IMG-NAME", true, []string{"tag"}},
		"nginx@sha256:12":        {"IMG-NAME", true, []string{"hexadecimal"}},
		":svc.web":               {"IMG-NAME", true, []string{":service.label.number"}},
		":svc.web.01":            {"IMG-NAME", true, nil},
		strings.Repeat("a", 900): {"IMG-NAME", true, []string{"900 characters"}},
	} {
		e := resolveError(t, newResolver(t, Config{}), image)
		w.check(t, e)
		if strings.Contains(e.Message, "Did you mean") {
			t.Errorf("the guess is in the message: %s", e.Message)
		}
	}
}

func TestResolver_TagsAreOffered(t *testing.T) {
	reg := &counter{Handler: newRegistry()}
	_, host := serve(t, reg)
	img := build(t, "linux", "amd64", v1.Config{})
	for _, tag := range []string{"1.9", "1.10", "1.27.3", "1.27.3-alpine", "2.0", "main", "sha256-" + strings.Repeat("a", 64) + ".sig"} {
		push(t, host+"/team/app:"+tag, img)
	}
	for image, parts := range map[string][]string{
		"/team/app":          {"tag `latest` does not", "A name without a tag means `latest`", "`2.0`, `1.27.3-alpine`, `1.27.3`, `1.10`, `1.9`.", "such as `" + host + "/team/app:2.0`"},
		"/team/app:1.27.4":   {"Did you mean `" + host + "/team/app:1.27.3`?"},
		"/team/app:mian":     {"Did you mean `" + host + "/team/app:main`?"},
		"/team/app:nightly":  {"Pick a tag that exists"},
		"/team/app:1.27-alp": {"Repository `" + host + "/team/app` exists, tag `1.27-alp` does not."},
	} {
		reg.reset()
		e := resolveError(t, newResolver(t, Config{}), host+image)
		want{"IMG-TAG", true, parts}.check(t, e)
		if strings.Contains(e.Message, "sha256-") || len(reg.asked) != 2 {
			t.Errorf("%s: %s; asked %v", image, e.Message, reg.asked)
		}
	}
	absent := "/team/app@sha256:" + strings.Repeat("0", 64)
	want{"IMG-TAG", true, []string{"no image with digest `sha256:00"}}.check(t, resolveError(t, newResolver(t, Config{}), host+absent))
	want{"IMG-REPO", true, []string{"has no repository `" + host + "/team/ap`"}}.check(t, resolveError(t, newResolver(t, Config{}), host+"/team/ap:1"))
}

// only404 answers MANIFEST_UNKNOWN, and list to the question for tags.
func only404(list http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/tags/list") {
			list(w, r)
			return
		}
		answer(404, "application/json", refusal("MANIFEST_UNKNOWN"))(w, r)
	}
}

func TestResolver_AnswersOfRegistries(t *testing.T) {
	manifest := func(config string) string { return `{"schemaVersion":2,"config":{` + config + `}}` }
	const digest = `"digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000"`
	huge := strings.Repeat("x", 1<<20)
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		want    want
	}{
		{"401 without a challenge", answer(401, "application/json", refusal("UNAUTHORIZED")), want{"IMG-REPO", true, []string{"does not exist or is private", "the same without a login"}}},
		{"401 basic", answer(401, "text/html", "no", "Www-Authenticate", `Basic realm="x"`), want{"IMG-REPO", true, []string{"is private"}}},
		{"401 from a proxy that names no realm", answer(401, "text/html", "no", "Www-Authenticate", "Bearer"), want{"IMG-CORRUPT", false, []string{"token service gives none"}}},
		{"403 of a registry", answer(403, "application/json", refusal("DENIED")), want{"IMG-REPO", true, []string{"is private"}}},
		{"403 of a firewall", answer(403, "text/html", huge), want{"IMG-AUTH", false, []string{"403", "firewall"}}},
		{"404 repository", answer(404, "application/json", refusal("NAME_UNKNOWN")), want{"IMG-REPO", true, []string{"has no repository"}}},
		{"404 of a web server", answer(404, "text/html", huge), want{"IMG-REPO", true, []string{"has no repository"}}},
		{"404 tag, tags refused", only404(answer(403, "application/json", refusal("DENIED"))), want{"IMG-TAG", true, []string{"has no tag `latest`"}}},
		{"404 tag, tags garbage", only404(answer(200, "text/html", "<p>")), want{"IMG-TAG", true, []string{"has no tag"}}},
		{"404 tag, tags endless", only404(answer(200, "application/json", strings.Repeat("[", maxAnswer+1))), want{"IMG-TAG", true, []string{"has no tag"}}},
		{"404 tag, tags forged", only404(answer(200, "application/json", `{"tags":["a b","x\u001b[2J","v1","a/b:c"]}`)), want{"IMG-TAG", true, []string{"include `v1`."}}},
		{"404 tag, no repository", only404(answer(404, "application/json", refusal("NAME_UNKNOWN"))), want{"IMG-REPO", true, nil}},
		{"429", answer(429, "application/json", refusal("TOOMANYREQUESTS")), want{"IMG-RATE", false, []string{"this machine's address is used up."}}},
		{"429 with a time", answer(429, "text/plain", "", "Retry-After", "3600"), want{"IMG-RATE", false, []string{"resets about ", " UTC."}}},
		{"500", answer(500, "text/plain", huge), want{"IMG-NET", false, []string{"500 Internal Server Error"}}},
		{"503", answer(503, "application/json", refusal("UNAVAILABLE")), want{"IMG-NET", false, []string{"503 Service Unavailable"}}},
		{"400", answer(400, "text/plain", "what?"), want{"IMG-CORRUPT", false, []string{"400 Bad Request"}}},
		{"invalid name", answer(400, "application/json", refusal("NAME_INVALID")), want{"IMG-NAME", true, nil}},
		{"web page", answer(200, "text/html; charset=utf-8", "<html>"), want{"IMG-CORRUPT", false, []string{"a page of `text/html`"}}},
		{"other JSON", answer(200, "application/json", `{"ok":true}`), want{"IMG-CORRUPT", false, []string{"something else than a manifest"}}},
		{"schema 1", answer(200, "application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1}`), want{"IMG-CORRUPT", true, []string{"schema 1"}}},
		{"two in one", answer(200, "application/json", `{"schemaVersion":2,"config":{`+digest+`},"manifests":[]}`), want{"IMG-CORRUPT", false, []string{"two images"}}},
		{"Helm chart", answer(200, "application/json", manifest(`"mediaType":"application/vnd.cncf.helm.config.v1+json",`+digest)), want{"IMG-CORRUPT", true, []string{"helm.config"}}},
		{"huge manifest, said", answer(200, "application/json", strings.Repeat(" ", maxAnswer+1)), want{"IMG-CORRUPT", false, []string{"larger than 4 MiB"}}},
		{"huge manifest, unsaid", func(w http.ResponseWriter, _ *http.Request) {
			for range 8 {
				_, _ = w.Write([]byte(huge))
				w.(http.Flusher).Flush()
			}
		}, want{"IMG-CORRUPT", false, []string{"larger than 4 MiB"}}},
		{"huge configuration", answer(200, "application/json", manifest(`"size":5000000,`+digest)), want{"IMG-CORRUPT", false, []string{"larger than 4 MiB"}}},
		{"configuration absent", func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				answer(404, "application/json", refusal("BLOB_UNKNOWN"))(w, r)
				return
			}
			answer(200, "application/json", manifest(`"size":2,`+digest))(w, r)
		}, want{"IMG-CORRUPT", false, []string{"lacks a part"}}},
		{"configuration damaged", func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				answer(200, "application/json", "{}")(w, r)
				return
			}
			answer(200, "application/json", manifest(`"size":2,`+digest))(w, r)
		}, want{"IMG-CORRUPT", false, []string{"damaged"}}},
		{"truncated", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("{"))
		}, want{"IMG-NET", false, []string{"was cut"}}},
		{"redirect without end", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, want{"IMG-CORRUPT", false, []string{"redirects without end"}}},
		{"redirect to plain HTTP", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://cdn.example.com/", http.StatusFound)
		}, want{"IMG-CORRUPT", false, []string{"plain HTTP"}}},
		{"cut", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, want{"IMG-NET", false, []string{"was cut"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, host := serve(t, tt.handler)
			e := resolveError(t, newResolver(t, Config{}), host+"/app")
			tt.want.check(t, e)
			if text := e.Err.Error(); len(text) > 1000 {
				t.Errorf("the cause has %d bytes", len(text))
			}
		})
	}
}

func TestResolver_Hangs(t *testing.T) {
	done := make(chan struct{})
	_, host := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-done:
		case <-r.Context().Done():
		}
	}))
	defer close(done)
	want{"IMG-SLOW", false, []string{"did not answer within"}}.check(t, resolveError(t, newResolver(t, Config{Timeout: 300 * time.Millisecond}), host+"/app"))

	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := newResolver(t, Config{}).Resolve(ctx, host+"/app")
	if e, ok := errors.AsType[*trysail.ImageError](err); !ok || e.Code != "IMG-SLOW" || e.Final || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	// Connections that wait for our greeting are accepted by the kernel, and nobody reads them.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	r := newResolver(t, Config{Timeout: 300 * time.Millisecond})
	redirected(r, &httptest.Server{Listener: silent})
	want{"IMG-NET", false, []string{"`example.com:443`", "TLS"}}.check(t, resolveError(t, r, "example.com/app"))
}

func TestResolver_SlowTagsDoNotHideTheAnswer(t *testing.T) {
	_, host := serve(t, only404(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	want{"IMG-TAG", true, []string{"has no tag `v1`"}}.check(t, resolveError(t, newResolver(t, Config{Timeout: 300 * time.Millisecond}), host+"/app:v1"))
}

func TestResolver_NetworkFaults(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := closed.Addr().String()
	closed.Close()
	want{"IMG-NET", false, []string{"No connection from this machine to `" + refused + "`: connection refused.", "Start the registry"}}.check(t, resolveError(t, newResolver(t, Config{}), refused+"/app"))

	for _, tt := range []struct {
		name string
		dial func(context.Context) error
		want want
	}{
		{"no such host", func(context.Context) error {
			return &net.DNSError{Err: "no such host", Name: "reg.example.com", IsNotFound: true}
		}, want{"IMG-DNS", false, []string{"cannot resolve `reg.example.com`", "no such host", "spelling"}}},
		{"resolver is silent", func(context.Context) error {
			return &net.DNSError{Err: "i/o timeout", Name: "reg.example.com", IsTimeout: true}
		}, want{"IMG-DNS", false, []string{"DNS server does not answer", "resolv.conf"}}},
		{"unreachable", func(ctx context.Context) error {
			_, err := (&net.Dialer{}).DialContext(ctx, "tcp", "255.255.255.255:1")
			return err
		}, want{"IMG-NET", false, []string{"No connection from this machine to `reg.example.com:443`"}}},
		{"dial hangs", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, want{"IMG-NET", false, []string{"no answer within"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newResolver(t, Config{Timeout: 300 * time.Millisecond})
			r.transport.Proxy = nil
			r.transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return nil, tt.dial(ctx) }
			tt.want.check(t, resolveError(t, r, "reg.example.com/app"))
		})
	}
}

func TestResolver_ProxyIsNamedWithoutItsPassword(t *testing.T) {
	srv, host := serve(t, answer(http.StatusForbidden, "text/plain", "no"))
	proxy := &url.URL{Scheme: "http", Host: host, User: url.UserPassword("me", "geheim")}
	r := newResolver(t, Config{})
	r.transport.Proxy = http.ProxyURL(proxy)
	for _, reason := range []string{"Forbidden.", "connection refused."} {
		e := resolveError(t, r, "reg.example.com/app")
		want{"IMG-NET", false, []string{"through the proxy `" + host + "`: " + reason}}.check(t, e)
		if strings.Contains(fmt.Sprint(e, e.Fix, e.Err), "geheim") {
			t.Errorf("the password of the proxy is shown: %v %v", e, e.Err)
		}
		srv.Close() // the second time the proxy is gone
	}
}

func TestResolver_Certificates(t *testing.T) {
	srv := serveTLS(t, newRegistry())
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	resolve := func(host string, at time.Time) *trysail.ImageError {
		r := newResolver(t, Config{})
		redirected(r, srv)
		r.transport.TLSClientConfig.InsecureSkipVerify = false
		r.transport.TLSClientConfig.RootCAs = pool
		r.transport.TLSClientConfig.Time = func() time.Time { return at }
		return resolveError(t, r, host+"/app")
	}
	want{"IMG-REPO", true, nil}.check(t, resolve("example.com", time.Now()))
	want{"IMG-TLS", false, []string{"certificate that is for `example.com`"}}.check(t, resolve("example.net", time.Now()))
	want{"IMG-TLS", false, []string{"expired on 2084", "clock"}}.check(t, resolve("example.com", srv.Certificate().NotAfter.Add(time.Hour)))
	pool = x509.NewCertPool()
	want{"IMG-TLS", false, []string{"does not trust"}}.check(t, resolve("example.com", time.Now()))

	early := x509.CertificateInvalidError{Cert: srv.Certificate(), Reason: x509.Expired}
	e := certificateFault(&trysail.ImageError{}, "`h`", early, srv.Certificate().NotBefore.Add(-time.Hour))
	if !strings.Contains(e.Message, "valid only from") || !strings.Contains(e.Fix, "clock") {
		t.Errorf("clock behind: %+v", e)
	}
}

// guarded is a registry that wants a token, which its own token service gives to those with the right login.
func guarded(t *testing.T, inner http.Handler, anonymous bool) *httptest.Server {
	t.Helper()
	var srv *httptest.Server
	srv = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, login := r.BasicAuth()
		switch {
		case r.URL.Path == "/token" && login && user+password != "megeheim", r.URL.Path == "/token" && !login && !anonymous:
			answer(401, "application/json", refusal("UNAUTHORIZED"))(w, r)
		case r.URL.Path == "/token" && !login:
			answer(200, "application/json", `{"access_token":"guest"}`)(w, r)
		case r.URL.Path == "/token":
			answer(200, "application/json", `{"token":"member"}`)(w, r)
		case r.Header.Get("Authorization") == "Bearer member", r.Header.Get("Authorization") == "Bearer guest" && strings.Contains(r.URL.Path, "/public/"):
			inner.ServeHTTP(w, r)
		default:
			challenge := fmt.Sprintf(`Bearer realm="%s/token",service="x",scope="repository:team/app:pull"`, srv.URL)
			answer(401, "application/json", refusal("UNAUTHORIZED"), "Www-Authenticate", challenge)(w, r)
		}
	}))
	srv.Start()
	t.Cleanup(srv.Close)
	return srv
}

// login is what the operator has stored for every registry.
func login(user, secret string) func(context.Context, string) (trysail.Registry, error) {
	return func(_ context.Context, host string) (trysail.Registry, error) {
		return trysail.Registry{Host: host, Username: user, Secret: secret}, nil
	}
}

func TestResolver_Tokens(t *testing.T) {
	reg := &counter{Handler: newRegistry()}
	_, open := serve(t, reg)
	push(t, open+"/public/app", build(t, "linux", "amd64", v1.Config{}))
	push(t, open+"/team/app", build(t, "linux", "amd64", v1.Config{}))
	me, wrong := login("me", "geheim"), login("me", "falsch")
	for _, tt := range []struct {
		name      string
		anonymous bool
		known     func(context.Context, string) (trysail.Registry, error)
		image     string
		want      want
	}{
		{"public image", true, nil, "/public/app", want{}},
		{"private image, no login", true, nil, "/team/app", want{"IMG-REPO", true, []string{"is private"}}},
		{"no tokens for guests", false, nil, "/team/app", want{"IMG-REPO", true, []string{"is private"}}},
		{"right login", false, me, "/team/app", want{}},
		{"wrong login", true, wrong, "/team/app", want{"IMG-AUTH", true, []string{"refused the login of `me`"}}},
		{"right login, absent tag", true, me, "/team/app:v7", want{"IMG-TAG", true, []string{"Its tags include `latest`"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host := strings.TrimPrefix(guarded(t, reg, tt.anonymous).URL, "http://")
			_, err := newResolver(t, Config{Registries: tt.known}).Resolve(t.Context(), host+tt.image)
			if tt.want.code == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			e, ok := errors.AsType[*trysail.ImageError](err)
			if !ok {
				t.Fatalf("error %v", err)
			}
			tt.want.check(t, e)
			if strings.Contains(fmt.Sprint(e, e.Fix, e.Err), "falsch") {
				t.Errorf("the password is shown: %v", e.Err)
			}
		})
	}
}

func TestResolver_BasicLogin(t *testing.T) {
	reg := newRegistry()
	_, open := serve(t, reg)
	push(t, open+"/app", build(t, "linux", "amd64", v1.Config{}))
	_, host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user+password != "megeheim" {
			answer(401, "text/plain", "", "Www-Authenticate", `Basic realm="x"`)(w, r)
			return
		}
		reg.ServeHTTP(w, r)
	}))
	if _, err := newResolver(t, Config{Registries: login("me", "geheim")}).Resolve(t.Context(), host+"/app"); err != nil {
		t.Error(err)
	}
	wrong := newResolver(t, Config{Registries: login("me", "x")})
	want{"IMG-AUTH", true, []string{"login of `me`"}}.check(t, resolveError(t, wrong, host+"/app"))
}

func TestResolver_LoginStaysWithTheRegistry(t *testing.T) {
	leaked := make(chan string, 10)
	_, other := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { leaked <- r.Header.Get("Authorization") }))
	_, port, _ := strings.Cut(other, ":")
	_, host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); !ok {
			answer(401, "text/plain", "", "Www-Authenticate", `Basic realm="x"`)(w, r)
			return
		}
		http.Redirect(w, r, "http://127.0.0.1:"+port+"/v2/app/manifests/latest", http.StatusFound)
	}))
	resolveError(t, newResolver(t, Config{Registries: login("me", "geheim")}), host+"/app")
	if got := <-leaked; got != "" {
		t.Errorf("another host got %q", got)
	}
}

func TestExchange_TokensAreNotInErrors(t *testing.T) {
	_, host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			answer(200, "application/json", `{"refresh_token":"geheim"}`)(w, r)
			return
		}
		answer(401, "text/plain", "", "Www-Authenticate", `Bearer realm="http://`+r.Host+`/token"`)(w, r)
	}))
	e := resolveError(t, newResolver(t, Config{}), host+"/app")
	want{"IMG-CORRUPT", false, []string{"gives none"}}.check(t, e)
	for err := error(e); err != nil; err = errors.Unwrap(err) {
		if strings.Contains(err.Error(), "geheim") {
			t.Errorf("a token is in %T: %v", err, err)
		}
	}
}

func TestResetTime_IgnoresNonsense(t *testing.T) {
	now := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		key, value string
		want       time.Duration // 0 is none
	}{
		{"Retry-After", "90", 90 * time.Second},
		{"Retry-After", "Thu, 01 Oct 2026 13:00:00 GMT", time.Hour},
		{"X-Retry-After", fmt.Sprint(now.Add(time.Minute).Unix()), time.Minute},
		{"Ratelimit-Reset", "600;w=21600", 10 * time.Minute},
		{"Retry-After", "-5", 0},
		{"Retry-After", "soon", 0},
		{"Retry-After", "999999999", 0},
		{"Retry-After", "99999999999999999999", 0},
	} {
		h := http.Header{}
		h.Set(tt.key, tt.value)
		got := resetTime(h, now)
		if tt.want == 0 && !got.IsZero() || tt.want != 0 && !got.Equal(now.Add(tt.want)) {
			t.Errorf("%s: %s: %v, want +%v", tt.key, tt.value, got, tt.want)
		}
	}
}

func TestQuery_LoginWithoutRightIsAnAbsentRepository(t *testing.T) {
	ref, err := name.ParseReference("ghcr.io/team/app")
	if err != nil {
		t.Fatal(err)
	}
	q := &query{image: "ghcr.io/team/app", ref: ref, user: "me", loggedIn: true, session: &session{authorization: "Bearer x"}}
	denied := &transport.Error{StatusCode: 403, Errors: []transport.Diagnostic{{Code: transport.DeniedErrorCode}}}
	want{"IMG-REPO", true, []string{"`me` may not read it"}}.check(t, q.fault(t.Context(), denied))
}

func TestRedact_CutsQueries(t *testing.T) {
	for text, want := range map[string]string{
		`Get "https://s3.example/blob?X-Amz-Signature=secret&a=b": EOF`: `Get "https://s3.example/blob?…": EOF`,
		`from https://a/b?x to https://c/d?y and more`:                  `from https://a/b?… to https://c/d?… and more`,
		`is this https://a.example/b?`:                                  `is this https://a.example/b?…`,
		`why? because of http://a`:                                      `why? because of http://a`,
		`no URL`:                                                        `no URL`,
	} {
		if got := redact(text); got != want {
			t.Errorf("redact(%q) = %q, want %q", text, got, want)
		}
	}
}
